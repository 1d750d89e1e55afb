//! Certificates for tests, in files, and a listener that shows them.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};
use steerage_lab::client::{Curl, curl};
use steerage_lab::command;
use steerage_lab::scratch::Scratch;
use steerage_lab::topology::BALANCER;

use crate::stand::{Choices, PREFIX, Stand};

/// Port of the listener of TLS.
pub const PORT: u16 = 8443;

/// Where the listener of TLS answers.
#[must_use]
pub fn tls() -> SocketAddr {
    SocketAddr::from((BALANCER, PORT))
}

/// An authority, and a directory of what it has signed.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    scratch: Scratch,
}

impl Authority {
    /// A new one, whose certificate is in `ca.pem`.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn new() -> Result<Self> {
        let scratch = Scratch::new(PREFIX)?;
        let mut params = CertificateParams::default();
        // No two authorities have one name.
        let name = scratch.path().display().to_string();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        scratch.write("ca.pem", &issuer.pem())?;
        scratch.write("ca.key", &issuer.key().serialize_pem())?;
        Ok(Self { issuer, scratch })
    }

    /// A file of its directory.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.scratch.join(name)
    }

    /// The same as text.
    #[must_use]
    pub fn path(&self, name: &str) -> String {
        self.file(name).display().to_string()
    }

    /// Its own certificate's file.
    #[must_use]
    pub fn ca(&self) -> String {
        self.path("ca.pem")
    }

    /// Signs a certificate for `names` that is valid for a long time: `FILE.pem` and `FILE.key`, replaced
    /// in one step each.
    ///
    /// # Errors
    /// If a file can't be written.
    pub fn sign(&self, file: &str, names: &[&str]) -> Result<()> {
        self.sign_for(file, names, (2020, 4000))
    }

    /// The same, valid from one year to another.
    ///
    /// # Errors
    /// If a file can't be written.
    pub fn sign_for(&self, file: &str, names: &[&str], years: (i32, i32)) -> Result<()> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, file);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        (params.not_before, params.not_after) =
            (date_time_ymd(years.0, 1, 1), date_time_ymd(years.1, 1, 1));
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        self.replace(&format!("{file}.key"), &key.serialize_pem())?;
        self.replace(&format!("{file}.pem"), &certificate.pem())
    }

    /// Puts text in the place of a file in one step.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn replace(&self, name: &str, text: &str) -> Result<()> {
        let other = self.scratch.write(&format!(".{name}.new"), text)?;
        fs::rename(&other, self.file(name)).with_context(|| format!("cannot replace {name}"))
    }

    /// A certificate's entry in a configuration.
    #[must_use]
    pub fn entry(&self, file: &str) -> String {
        let (cert, key) = (format!("{file}.pem"), format!("{file}.key"));
        format!("{{ cert = \"{}\", key = \"{}\" }}", self.path(&cert), self.path(&key))
    }
}

/// A listener of TLS named `secure` that shows these entries, with more keys, in front of the service `app`.
#[must_use]
pub fn listener(entries: &[String], keys: &str) -> String {
    listener_at("secure", tls(), entries, keys)
}

/// The same of another name, elsewhere.
#[must_use]
pub fn listener_at(name: &str, bind: SocketAddr, entries: &[String], keys: &str) -> String {
    format!(
        "\n[[listener]]\nname = \"{name}\"\nbind = [\"{bind}\"]\nprotocol = \"https\"\n\
         certificates = [{}]\n{keys}\n[[listener.route]]\nservice = \"app\"\n",
        entries.join(", ")
    )
}

/// An installation with `more` in its configuration.
///
/// # Errors
/// If the daemon does not serve, with its log.
pub fn stand(more: String) -> Result<Stand> {
    Stand::start(&Choices { more, ..Choices::default() })
}

/// Runs curl against the listener of TLS, which it finds by the name `host`.
///
/// # Errors
/// If it can't be run.
pub fn ask(
    stand: &Stand,
    authority: &Authority,
    host: &str,
    path: &str,
    more: &[&str],
) -> Result<Curl> {
    let url = format!("https://{host}:{PORT}{path}");
    let (place, ca) = (format!("{host}:{PORT}:{}", tls().ip()), authority.ca());
    let known = ["--resolve", &place, "--cacert", &ca];
    curl(&stand.topology.client, &[&known[..], more, &[&url]].concat())
}

/// How often handshakes of all workers ended so.
///
/// # Errors
/// If the daemon does not answer.
pub fn handshakes(stand: &Stand, end: &str) -> Result<u64> {
    let status = stand.daemon.status()?;
    let workers = status["workers"].as_array().context("workers in the status")?;
    let ends = workers.iter().filter_map(|worker| worker["handshakes"].as_array());
    Ok(ends.flatten().filter(|of| of["name"] == end).filter_map(|of| of["count"].as_u64()).sum())
}

/// What `openssl s_client` shows of a connection from the client's host.
///
/// # Errors
/// If it can't be run.
pub fn s_client(stand: &Stand, arguments: &[&str]) -> Result<String> {
    let mut command = stand.topology.client.command("openssl");
    command.args(["s_client", "-connect", &tls().to_string()]).args(arguments);
    let output = command::finish(&mut command)?;
    Ok(format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    ))
}

/// Lets a file's owner alone read it.
///
/// # Errors
/// If there is no such file.
pub fn make_private(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).context("cannot change the mode")
}
