//! Clients of TLS: which certificate they are shown, what is agreed on, who they are to backends, and on
//! which connection a request belongs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use steerage_lab::client::{Curl, curl};
use steerage_tests::certified::{Authority, PORT, listener, resolve, s_client, stand};
use steerage_tests::stand::Stand;

/// Runs curl against the listener of TLS.
fn ask(stand: &Stand, authority: &Authority, host: &str, path: &str, more: &[&str]) -> Curl {
    let url = format!("https://{host}:{PORT}{path}");
    let mut arguments = resolve(authority, host);
    arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
    arguments.push(url);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    curl(&stand.topology.client, &arguments).unwrap()
}

/// An authority with certificates of these files for these names.
fn authority(certificates: &[(&str, &[&str])]) -> Authority {
    let authority = Authority::new().unwrap();
    for (file, names) in certificates {
        authority.sign(file, names).unwrap();
    }
    authority
}

#[test]
fn every_name_is_shown_its_certificate_and_the_first_is_for_all_others() {
    let authority = authority(&[
        ("first", &["first.test"]),
        ("wild", &["*.wild.test"]),
        ("exact", &["a.wild.test", "other.test"]),
    ]);
    let entries = ["first", "wild", "exact"].map(|file| authority.entry(file));
    let stand = stand(listener(&entries, "")).unwrap();
    for (name, subject) in [
        ("first.test", "first"),
        ("b.wild.test", "wild"),
        ("B.WILD.test", "wild"),
        ("a.wild.test", "exact"),
        ("other.test", "exact"),
        ("wild.test", "first"),
        ("c.b.wild.test", "first"),
        ("nobody.test", "first"),
    ] {
        let shown = s_client(&stand, &["-servername", name]).unwrap();
        assert!(shown.contains(&format!("subject=CN = {subject}\n")), "{name}: {shown}");
    }
    let shown = s_client(&stand, &["-noservername"]).unwrap();
    assert!(shown.contains("subject=CN = first\n"), "{shown}");
    for host in ["first.test", "b.wild.test", "a.wild.test"] {
        let reply = ask(&stand, &authority, host, "/", &[]);
        assert_eq!((reply.exit, reply.status), (0, 200), "{host}: {reply:?}");
    }
    // The name is not the certificate's: a client that verifies goes away.
    assert_eq!(ask(&stand, &authority, "nobody.test", "/", &[]).exit, 60);
}

#[test]
fn both_versions_of_both_protocols_are_spoken_and_told_to_the_backend() {
    let authority = authority(&[("site", &["site.test"])]);
    let stand = stand(listener(&[authority.entry("site")], "")).unwrap();
    for (version, protocol, expected) in [
        ("--tls-max=1.2", "--http1.1", "1.1"),
        ("--tls-max=1.2", "--http2", "2"),
        ("--tlsv1.3", "--http1.1", "1.1"),
        ("--tlsv1.3", "--http2", "2"),
        ("--tlsv1.3", "--no-alpn", "1.1"),
        ("--tlsv1.3", "--http2-prior-knowledge", "2"),
    ] {
        let version: Vec<&str> = version.split('=').collect();
        let more = [&version[..], &[protocol, "-w", "\n%{http_version}\n%{http_code}"]].concat();
        let reply = ask(&stand, &authority, "site.test", "/head", &more);
        assert_eq!((reply.exit, reply.status), (0, 200), "{more:?}: {reply:?}");
        let text = reply.text.to_lowercase();
        assert!(text.contains("\nx-forwarded-proto: https\n"), "{text}");
        assert!(text.ends_with(&format!("\n{expected}")), "{more:?}: {text}");
    }
    let old = s_client(&stand, &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]).unwrap();
    assert!(old.contains("Cipher is (NONE)") && old.contains("alert number"), "{old}");
}
