//! What a client is made of, and what is missed when it is not there.

use std::path::PathBuf;

use rcgen::{CertificateParams, KeyPair};

use super::*;
use crate::config::{self as configuration, model::Model};

/// Files of one test, gone with it.
struct Files(PathBuf);

impl Files {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("steerage-tls-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.join(name), text).unwrap();
    }

    /// Writes a certificate and its key.
    fn client(&self, name: &str) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([name.to_owned()]).unwrap();
        self.write(&format!("{name}.pem"), &certificate.self_signed(&key).unwrap().pem());
        self.write(&format!("{name}.key"), &key.serialize_pem());
    }

    /// A configuration whose service has this `upstream_tls`.
    fn model(&self, tls: &str) -> Result<Model, String> {
        let text = format!(
            "[[listener]]\nname = 'web'\nprotocol = 'http'\nbind = ['127.0.0.1:1']\n\
             [[listener.route]]\nservice = 'a'\n\
             [[service]]\nname = 'a'\nupstream_tls = {{ {tls} }}\n\
             [[service.backend]]\naddress = '127.0.0.1:9'\n"
        );
        let parsed = configuration::parse(&self.0.join("test.toml"), &text);
        parsed.map_err(|error| error.to_string())
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn tls(model: &Model) -> &UpstreamTls {
    model.services[0].upstream_tls.as_ref().unwrap()
}

#[test]
fn each_mistake_in_the_files_is_told_with_its_file_and_reason() {
    let files = Files::new("mistakes");
    files.client("one");
    files.client("other");
    files.write("empty.pem", "nothing\n");
    for (keys, file, reason) in [
        ("ca = 'empty.pem'", "empty.pem", "has no certificate"),
        ("ca = 'none.pem'", "none.pem", "cannot be read"),
        ("ca = 'one.key'", "one.key", "has no certificate"),
        ("cert = 'one.pem', key = 'other.key'", "other.key", "is not the key of"),
        ("cert = 'one.pem', key = 'one.pem'", "one.pem", "has no private key"),
        ("cert = 'empty.pem', key = 'one.key'", "empty.pem", "has no certificate"),
        ("cert = 'one.pem'", "cert", "needs its key"),
        ("key = 'one.key'", "key", "needs its certificate"),
        ("sni = 'not a name'", "not a name", "is no name that a certificate can be for"),
        ("verify = false, ca = 'one.pem'", "ca", "nothing is verified by it"),
        ("min_version = '1.1'", "min_version", "1.1"),
    ] {
        let said = files.model(keys).unwrap_err();
        assert!(said.contains(":9:"), "{keys}: the line: {said}");
        assert!(said.contains(file) && said.contains(reason), "{keys}: {said}");
    }
}

#[test]
fn a_key_is_in_the_ring_and_in_nothing_that_is_shown() {
    let files = Files::new("secret");
    files.client("one");
    let model = files.model("verify = false, cert = 'one.pem', key = 'one.key'").unwrap();
    let ring = Keyring::fill(&model, &Keyring::default()).unwrap();
    assert!(config(tls(&model), &ring, &[HTTP1]).unwrap().client_auth_cert_resolver.has_certs());
    assert!(
        config(tls(&model), &Keyring::default(), &[]).is_err(),
        "without it there is no client"
    );
    let key = rustls::pki_types::pem::PemObject::from_pem_file(files.0.join("one.key"));
    let key: rustls::pki_types::PrivateKeyDer<'_> = key.unwrap();
    let shown = serde_json::to_string(key.secret_der()).unwrap();
    let shown = shown.trim_matches(['[', ']']);
    assert!(serde_json::to_string(&ring).unwrap().contains(shown), "workers get it");
    assert!(!serde_json::to_string(&model).unwrap().contains(shown), "`config show` does not");
    assert!(!format!("{ring:?} {model:?}").contains(&shown.replace(',', ", ")));
}

/// A renewed certificate counts when the configuration is read again, and until then the old one works:
/// an answer of DNS must not fail for it.
#[test]
fn a_key_that_is_known_is_not_read_again() {
    let files = Files::new("renewed");
    files.client("one");
    let keys = "verify = false, cert = 'one.pem', key = 'one.key'";
    let before = files.model(keys).unwrap();
    let first = Keyring::fill(&before, &Keyring::default()).unwrap();
    files.client("one");
    assert_eq!(Keyring::fill(&before, &first).unwrap(), first);
    let error = Keyring::fill(&before, &Keyring::default()).unwrap_err().to_string();
    assert!(error.starts_with("service \"a\": no client for TLS can be made"), "{error}");
    let after = files.model(keys).unwrap();
    assert_ne!(before, after, "the model tells certificates apart, so a reload is one");
    assert_ne!(Keyring::fill(&after, &first).unwrap(), first);
    std::fs::remove_file(files.0.join("one.key")).unwrap();
    let error = Keyring::fill(&after, &first).unwrap_err().to_string();
    assert!(error.contains("one.key: cannot be read"), "{error}");
}

#[test]
fn the_systems_authorities_are_there_if_somebody_trusts_them() {
    let files = Files::new("system");
    files.client("one");
    let has_system = |tls: &str| {
        let model = files.model(tls).unwrap();
        let ring = Keyring::fill(&model, &Keyring::default()).unwrap();
        serde_json::to_value(&ring).unwrap()["system"].is_array()
    };
    assert!(has_system("min_version = '1.3'"));
    assert!(!has_system("ca = 'one.pem'"));
    assert!(!has_system("verify = false"));
}

#[test]
fn the_probe_speaks_tls_as_the_service_does_unless_it_says_otherwise() {
    let files = Files::new("probe");
    files.client("one");
    let text = |probe: &str| {
        format!(
            "[[listener]]\nname = 'web'\nprotocol = 'http'\nbind = ['127.0.0.1:1']\n\
             [[listener.route]]\nservice = 'a'\n[[service]]\nname = 'a'\nprobe = {{ {probe} }}\n\
             upstream_tls = {{ ca = 'one.pem', cert = 'one.pem', key = 'one.key', sni = 'api.test' }}\n\
             [[service.backend]]\naddress = '127.0.0.1:9'\n"
        )
    };
    let probe = |probe: &str| {
        let model = configuration::parse(&files.0.join("test.toml"), &text(probe)).unwrap();
        let service = &model.services[0];
        let tls = service.probe.as_ref().unwrap().check.kind.tls().cloned();
        (tls, service.upstream_tls.clone())
    };
    for kind in ["https", "grpcs"] {
        let (probe, service) = probe(&format!("kind = '{kind}', host = 'other.test'"));
        assert_eq!(probe, service);
    }
    let (own, _) = probe("kind = 'https', host = 'other.test', tls = { verify = false }");
    let own = own.unwrap();
    assert_eq!((own.trust, own.name.as_deref()), (Trust::Anybody, Some("other.test")));
    assert_eq!(own.client, None);
    assert_eq!(probe("kind = 'http'").0, None);
}

#[test]
fn connecting_may_take_longer_with_tls() {
    let files = Files::new("timeout");
    let connect = |tls: &str| {
        let model = files.model(tls).unwrap();
        model.listeners[0].routes[0].timeouts.connect.as_secs()
    };
    assert_eq!(connect("verify = false"), 5);
}
