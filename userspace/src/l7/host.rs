//! The host that a request names (RFC 9110, 7.2; RFC 3986, 3.2).

use http::uri::Authority;

/// Whether this is a host, with or without a port. Nothing else may stand there: no user, no path, no
/// list.
pub(super) fn is_valid(host: &[u8]) -> bool {
    let (name, port) = match host {
        [b'[', ..] => {
            let Some(end) = host.iter().position(|byte| *byte == b']') else { return false };
            let literal = std::str::from_utf8(&host[1..end]);
            if literal.ok().and_then(|text| text.parse::<std::net::Ipv6Addr>().ok()).is_none() {
                return false;
            }
            (&host[..=end], &host[end + 1..])
        }
        _ => host.split_at(host.iter().position(|byte| *byte == b':').unwrap_or(host.len())),
    };
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'*+;=".contains(byte);
    let is_named = !name.is_empty() && (name[0] == b'[' || name.iter().all(is_name));
    is_named && is_port(port)
}

/// A valid host without its port.
pub(super) fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        // An IPv6 address ends with its bracket.
        Some((name, port)) if !port.ends_with(']') => name,
        _ => host,
    }
}

/// Whether this is nothing, or a colon and a port.
fn is_port(port: &[u8]) -> bool {
    match port {
        [] | [b':'] => true,
        [b':', digits @ ..] => {
            let text = std::str::from_utf8(digits).unwrap_or_default();
            digits.iter().all(u8::is_ascii_digit) && text.parse::<u16>().is_ok()
        }
        _ => false,
    }
}

/// Whether a `Host` header names the same host as the target's authority; the scheme's own port may
/// stand or not.
pub(super) fn is_same(host: &[u8], authority: &Authority, scheme: &str) -> bool {
    let port = if scheme == "https" { ":443" } else { ":80" };
    let without = |host: &'_ [u8]| -> Vec<u8> {
        let host = host.strip_suffix(port.as_bytes()).unwrap_or(host);
        host.strip_suffix(b":").unwrap_or(host).to_ascii_lowercase()
    };
    without(host) == without(authority.as_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_addresses_and_ports() {
        for good in
            ["a", "A.b-c_d.org", "a:80", "a:", "192.0.2.1:8080", "[::1]", "[2001:db8::1]:80"]
        {
            assert!(is_valid(good.as_bytes()), "{good}");
        }
        for bad in [
            "", ":80", "a b", "a,b", "a/b", "u@a", "a:b", "a:80:80", "a:65536", "a:-1", "a:+1",
            "a#b", "a?b", "a\\b", "[::1", "[]", "[a]", "[::1]x", "::1", "\u{e4}", "a\tb", "<a>",
        ] {
            assert!(!is_valid(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn the_own_port_of_a_scheme_makes_no_difference() {
        let same = |host: &str, authority: &'static str, scheme| {
            is_same(host.as_bytes(), &Authority::from_static(authority), scheme)
        };
        assert!(same("a.org", "A.org:80", "http"));
        assert!(same("a.org:443", "a.org", "https"));
        assert!(!same("a.org:443", "a.org", "http"));
        assert!(!same("a.org", "b.org", "http"));
        assert!(!same("a.org:8080", "a.org", "http"));
    }
}
