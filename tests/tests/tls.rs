//! Clients of TLS: which certificate they are shown, what is agreed on, who they are to backends, and on
//! which connection a request belongs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{Read as _, Write as _};
use std::process::Command;
use std::time::Duration;

use steerage_lab::{command, wait};
use steerage_tests::certified::{
    Authority, ask, handshakes, listener, listener_at, make_private, s_client, stand, tls,
};
use steerage_tests::stand::{Choices, QUICK, Stand, l7};

const PATIENCE: Duration = Duration::from_secs(20);

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
        let reply = ask(&stand, &authority, host, "/", &[]).unwrap();
        assert_eq!((reply.exit, reply.status), (0, 200), "{host}: {reply:?}");
    }
    // The name is not the certificate's: a client that verifies goes away.
    assert_eq!(ask(&stand, &authority, "nobody.test", "/", &[]).unwrap().exit, 60);
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
        let reply = ask(&stand, &authority, "site.test", "/head", &more).unwrap();
        assert_eq!((reply.exit, reply.status), (0, 200), "{more:?}: {reply:?}");
        let text = reply.text.to_lowercase();
        assert!(text.contains("\nx-forwarded-proto: https\n"), "{text}");
        assert!(text.ends_with(&format!("\n{expected}")), "{more:?}: {text}");
    }
    let old = s_client(&stand, &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]).unwrap();
    assert!(old.contains("Cipher is (NONE)") && old.contains("alert number"), "{old}");
}

#[test]
fn a_clients_certificate_is_told_to_the_backend_and_nobody_can_pretend_to_have_one() {
    let authority = authority(&[("site", &["site.test"]), ("alice", &["alice.test"])]);
    let stranger = self::authority(&[("mallory", &["mallory.test"])]);
    let auth = |mode: &str| {
        format!(
            "client_auth = {{ mode = \"{mode}\", ca = \"{}\", subject_header = \"X-Client-Subject\", \
             fingerprint_header = \"X-Client-Sha256\" }}",
            authority.ca()
        )
    };
    let must = (tls().ip(), 8444).into();
    let more = listener(&[authority.entry("site")], &auth("optional"))
        + &listener_at("must", must, &[authority.entry("site")], &auth("required"));
    let stand = stand(more).unwrap();
    let with = |authority: &Authority, file: &str| {
        [
            "--cert".to_owned(),
            authority.path(&format!("{file}.pem")),
            "--key".to_owned(),
            authority.path(&format!("{file}.key")),
        ]
    };
    let forged = [
        "-H",
        "X-Client-Subject: CN=root",
        "-H",
        "x_client_sha256: 00",
        "-H",
        "Connection: x-client-subject",
    ];
    let (alice, mallory) = (with(&authority, "alice"), with(&stranger, "mallory"));
    let fingerprint = command::output(
        Command::new("openssl")
            .args(["x509", "-noout", "-fingerprint", "-sha256", "-in"])
            .arg(authority.file("alice.pem")),
    );
    let fingerprint = fingerprint.unwrap().to_lowercase().replace(':', "");
    let (_, fingerprint) = fingerprint.trim().split_once('=').unwrap();
    for (version, expected) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let ask = |more: &[&str]| {
            let all = [&[version, "-w", "\n%{http_version}\n%{http_code}"], more].concat();
            ask(&stand, &authority, "site.test", "/head", &all).unwrap()
        };
        // HTTP/2 has no Connection header.
        let forged = if version == "--http2" { &forged[..4] } else { &forged[..] };
        let reply = ask(forged);
        assert_eq!((reply.exit, reply.status), (0, 200), "{reply:?}");
        assert!(reply.text.ends_with(&format!("\n{expected}")), "{reply:?}");
        let head = reply.text.to_lowercase();
        assert!(!head.contains("client-s") && !head.contains("client_s"), "{head}");
        let alice: Vec<&str> = alice.iter().map(String::as_str).collect();
        let reply = ask(&[&alice, forged].concat());
        let head = reply.text.to_lowercase();
        assert_eq!(reply.status, 200, "{reply:?}");
        assert!(head.contains("\nx-client-subject: cn=alice\n"), "{head}");
        assert!(head.contains(&format!("\nx-client-sha256: {fingerprint}\n")), "{head}");
        assert!(!head.contains("cn=root") && !head.contains("_sha256"), "{head}");
        let mallory: Vec<&str> = mallory.iter().map(String::as_str).collect();
        let reply = ask(&mallory);
        assert_eq!(reply.status, 0, "who shows a certificate shows a good one: {reply:?}");
    }
    assert!(handshakes(&stand, "sent_unknown_ca").unwrap() >= 2);
    // Where a certificate is a must, none is not enough.
    let place = format!("site.test:8444:{}", must.ip());
    let ca = authority.ca();
    let known = ["--resolve", &place, "--cacert", &ca, "https://site.test:8444/head"];
    let must = |more: &[&str]| {
        steerage_lab::client::curl(&stand.topology.client, &[&known[..], more].concat()).unwrap()
    };
    assert_eq!(must(&[]).status, 0);
    assert_eq!(handshakes(&stand, "sent_certificate_required").unwrap(), 1);
    let alice: Vec<&str> = alice.iter().map(String::as_str).collect();
    let reply = must(&alice);
    assert!(reply.text.contains("CN=alice"), "{reply:?}");
    // Nor can it be said where no certificate is asked for.
    let plain = stand.curl("/head", &forged).unwrap().text.to_lowercase();
    assert!(plain.starts_with("get /head") && !plain.contains("client-s"), "{plain}");
    assert!(!plain.contains("client_s"), "{plain}");
}

#[test]
fn a_request_for_a_host_of_another_certificate_is_sent_away_and_coalesced_ones_are_not() {
    let names: [(&str, &[&str]); 3] = [
        ("site", &["site.test", "also.site.test"]),
        ("other", &["other.test"]),
        ("wild", &["*.wild.test"]),
    ];
    let authority = authority(&names);
    let entries = names.map(|(file, _)| authority.entry(file));
    let lenient = (tls().ip(), 8444).into();
    let more = listener(&entries, "")
        + &listener_at("lenient", lenient, &entries, "tls = { sni_mismatch = \"allow\" }");
    let stand = stand(more).unwrap();
    for (host, status) in [
        ("site.test", 200),
        ("SITE.test:8443", 200),
        ("also.site.test", 200),
        ("nobody.test", 200),
        ("other.test", 421),
        ("a.wild.test:8443", 421),
    ] {
        for version in ["--http1.1", "--http2"] {
            let header = format!("Host: {host}");
            let more = [version, "-i", "-H", &header];
            let reply = ask(&stand, &authority, "site.test", "/", &more).unwrap();
            assert_eq!((reply.exit, reply.status), (0, status), "{version} {host}: {reply:?}");
            assert_eq!(reply.text.contains("misdirected"), status == 421, "{reply:?}");
        }
    }
    let (place, ca) = (format!("site.test:8444:{}", lenient.ip()), authority.ca());
    let url = "https://site.test:8444/";
    let known = ["--resolve", &place, "--cacert", &ca, "-H", "Host: other.test", url];
    let reply = steerage_lab::client::curl(&stand.topology.client, &known).unwrap();
    assert_eq!(reply.status, 200, "{reply:?}");
}

#[test]
fn what_an_authority_says_of_a_certificate_goes_with_it() {
    let authority = authority(&[("site", &["site.test"]), ("bare", &["bare.test"])]);
    let index = authority.file("index.txt");
    std::fs::write(&index, "").unwrap();
    let mut answer = Command::new("openssl");
    answer.args(["ocsp", "-ndays", "7", "-rsigner"]).arg(authority.file("ca.pem"));
    for (option, name) in [
        ("-rkey", "ca.key"),
        ("-CA", "ca.pem"),
        ("-issuer", "ca.pem"),
        ("-cert", "site.pem"),
        ("-index", "index.txt"),
        ("-respout", "site.ocsp"),
    ] {
        answer.arg(option).arg(authority.file(name));
    }
    command::output(&mut answer).unwrap();
    let stapled = authority
        .entry("site")
        .replace(" }", &format!(", ocsp = \"{}\" }}", authority.path("site.ocsp")));
    let stand = stand(listener(&[stapled, authority.entry("bare")], "")).unwrap();
    for (name, expected) in
        [("site.test", "OCSP Response Status: successful"), ("bare.test", "no response sent")]
    {
        for version in ["-tls1_2", "-tls1_3"] {
            let shown = s_client(&stand, &["-status", version, "-servername", name]).unwrap();
            assert!(shown.contains(expected), "{name} {version}: {shown}");
        }
    }
}

#[test]
fn workers_serve_keys_that_they_may_not_read_and_nobody_is_shown_them() {
    let authority = authority(&[("site", &["site.test"])]);
    make_private(&authority.file("site.key")).unwrap();
    make_private(&authority.file("site.pem")).unwrap();
    let stand = stand(listener(&[authority.entry("site")], "")).unwrap();
    assert_eq!(ask(&stand, &authority, "site.test", "/", &[]).unwrap().status, 200);
    let secret = std::fs::read_to_string(authority.file("site.key")).unwrap();
    let line = secret.lines().nth(1).unwrap();
    for shown in [
        stand.daemon.ask(&["config", "show"]).unwrap(),
        stand.daemon.ask(&["config", "text"]).unwrap(),
        stand.daemon.status().unwrap().to_string(),
        stand.daemon.log(),
    ] {
        assert!(!shown.contains("PRIVATE") && !shown.contains(line), "{shown}");
    }
    let key = authority.file("site.key");
    let directory = key.parent().unwrap();
    for worker in stand.daemon.workers().unwrap() {
        let open = std::fs::read_dir(format!("/proc/{worker}/fd")).unwrap();
        let open = open.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
        let keys: Vec<_> = open.filter(|path| path.starts_with(directory)).collect();
        assert!(keys.is_empty(), "{keys:?}");
    }
}

#[test]
fn who_does_not_shake_hands_is_cut_off_and_counted_by_what_it_did() {
    let authority = authority(&[("site", &["site.test"])]);
    let keys = "tls = { handshake_timeout = \"300ms\" }";
    let rated = (tls().ip(), 8444).into();
    let slow = "tls = { min_version = \"1.3\", handshake_rate = { rate = 1, burst = 4 } }\n\
        offenders = { strikes = 0 }";
    let more = listener(&[authority.entry("site")], keys)
        + &listener_at("rated", rated, &[authority.entry("site")], slow);
    let stand = stand(more).unwrap();
    let count = |end: &str| handshakes(&stand, end).unwrap();
    let mut silent = stand.connect(tls()).unwrap().into_stream();
    assert_eq!(silent.read(&mut [0; 1]).unwrap(), 0);
    assert_eq!(count("timeout"), 1);
    let mut lost = stand.connect(tls()).unwrap().into_stream();
    lost.get_mut().write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut alert = Vec::new();
    lost.read_to_end(&mut alert).unwrap();
    assert_eq!(alert.first(), Some(&21), "an alert: {alert:?}");
    assert_eq!(count("not_tls"), 1);
    drop(stand.connect(tls()).unwrap());
    wait::for_condition("the one who left", PATIENCE, || count("closed") == 1).unwrap();
    // A client that does not trust the authority says so.
    let untrusting = ["--http1.1", "--cacert", "/dev/null"];
    let _ = ask(&stand, &authority, "site.test", "/", &untrusting).unwrap();
    let shown = s_client(&stand, &["-tls1_2", "-verify_return_error"]).unwrap();
    assert!(shown.contains("verify error"), "{shown}");
    wait::for_condition("its alert", PATIENCE, || count("received_unknown_ca") >= 1).unwrap();
    // An address may begin so many, each worker its share; what is older than the listener takes is not.
    let place = format!("site.test:8444:{}", rated.ip());
    let ca = authority.ca();
    let url = "https://site.test:8444/";
    let known = ["--resolve", &place, "--cacert", &ca, url];
    let curl = |more: &[&str]| {
        steerage_lab::client::curl(&stand.topology.client, &[&known[..], more].concat()).unwrap()
    };
    assert_eq!(curl(&["--tls-max", "1.2"]).status, 0);
    assert_eq!(count("sent_protocol_version"), 1);
    let served = (0..20).filter(|_| curl(&[]).status == 200).count();
    assert!((1..=12).contains(&served), "{served}");
    assert!(count("rate_limited") >= 8);
    assert_eq!(stand.curl("/", &[]).unwrap().status, 200, "{}", l7());
}

#[test]
fn cookies_and_redirects_are_those_of_https() {
    let authority = authority(&[("site", &["site.test"])]);
    let redirect = "\n[[listener.route]]\npath = \"/old\"\n\
        redirect = { to = \"${scheme}://${authority}/new\" }\n";
    let more = listener(&[authority.entry("site")], "forwarding = { forwarded = true }") + redirect;
    let service = format!("sticky = {{ cookie = \"SRV\" }}\n{QUICK}").leak();
    let stand = Stand::start(&Choices { more, service, ..Choices::default() }).unwrap();
    let secure = ask(&stand, &authority, "site.test", "/", &["-i"]).unwrap().text.to_lowercase();
    let cookie = |head: &str| {
        head.lines().find(|line| line.starts_with("set-cookie: srv=")).unwrap().to_owned()
    };
    assert!(cookie(&secure).contains("; secure"), "{secure}");
    let plain = stand.curl("/", &["-i"]).unwrap().text.to_lowercase();
    assert!(!cookie(&plain).contains("; secure"), "{plain}");
    let moved = ask(&stand, &authority, "site.test", "/old", &["-i"]).unwrap();
    let head = moved.text.to_lowercase();
    assert_eq!(moved.status, 307, "{head}");
    assert!(head.contains("location: https://site.test:8443/new"), "{head}");
    let head = ask(&stand, &authority, "site.test", "/head", &[]).unwrap().text.to_lowercase();
    assert!(head.contains("proto=https") && head.contains("x-forwarded-proto: https"), "{head}");
}

#[test]
fn h2load_over_tls_loses_no_stream() {
    let authority = authority(&[("site", &["site.test"])]);
    let stand = stand(listener(&[authority.entry("site")], "")).unwrap();
    let before = stand.backend(1).requests() + stand.backend(2).requests();
    let mut h2load = stand.topology.client.command("h2load");
    h2load.args(["-n", "4000", "-c", "8", "-m", "32"]).arg(format!("https://{}/", tls()));
    let output = command::finish(&mut h2load).unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("4000 succeeded, 0 failed, 0 errored, 0 timeout"), "{text}");
    assert!(text.contains("Application protocol: h2"), "{text}");
    let after = stand.backend(1).requests() + stand.backend(2).requests();
    assert_eq!(after - before, 4000);
}
