//! `Forwarded` (RFC 7239), for those who ask for it.
//!
//! A stranger's is removed even where none is added: a backend that prefers it to `X-Forwarded-*` would
//! believe the client about its own address. What a trusted proxy says is kept.

use http::header::{FORWARDED, HOST, HeaderMap, HeaderValue};

use super::append;
use crate::l7::forward::Sender;

pub(super) fn pass(headers: &mut HeaderMap, sender: &Sender, is_added: bool) {
    if !sender.is_trusted {
        headers.remove(FORWARDED);
    }
    if is_added && let Some(element) = element(headers.get(HOST), sender) {
        append(headers, FORWARDED, element);
    }
}

/// What this hop knows.
fn element(host: Option<&HeaderValue>, sender: &Sender) -> Option<HeaderValue> {
    let address = sender.address.to_str().ok()?;
    // An IPv6 address needs its brackets, and they need quotes.
    let mut text = match address.contains(':') {
        true => format!("for=\"[{address}]\""),
        false => format!("for={address}"),
    };
    if let Some(host) = host.and_then(|host| host.to_str().ok()).filter(|host| !host.is_empty()) {
        text += ";host=";
        text += &token_or_quoted(host);
    }
    text += ";proto=";
    text += sender.scheme.to_str().ok()?;
    text.parse().ok()
}

fn token_or_quoted(text: &str) -> String {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if text.chars().all(is_token) {
        return text.to_owned();
    }
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{lines, sender, values};
    use super::*;

    fn passed(address: &str, is_trusted: bool, is_added: bool, sent: &[&str]) -> Vec<String> {
        let sent: Vec<_> = sent.iter().map(|value| ("forwarded", *value)).collect();
        let mut headers = lines(&sent);
        headers.insert(HOST, HeaderValue::from_static("a.org:80"));
        pass(&mut headers, &sender(address, is_trusted), is_added);
        values(&headers, "forwarded").into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn what_a_stranger_says_is_replaced() {
        let own = "for=192.0.2.1;host=\"a.org:80\";proto=http";
        assert_eq!(passed("192.0.2.1", false, true, &["for=10.0.0.1"]), [own]);
        assert_eq!(passed("192.0.2.1", false, false, &["for=10.0.0.1"]), [""; 0]);
    }

    #[test]
    fn what_a_trusted_proxy_says_is_kept_and_added_to() {
        let sent = ["for=10.0.0.1, for=10.0.0.2", "for=10.0.0.3"];
        assert_eq!(passed("192.0.2.1", true, false, &sent), sent);
        let all = "for=10.0.0.1, for=10.0.0.2, for=10.0.0.3, \
                   for=\"[2001:db8::1]\";host=\"a.org:80\";proto=http";
        assert_eq!(passed("2001:db8::1", true, true, &sent), [all]);
    }

    #[test]
    fn what_is_no_token_is_quoted() {
        assert_eq!(token_or_quoted("a.org"), "a.org");
        assert_eq!(token_or_quoted("a\"b\\"), "\"a\\\"b\\\\\"");
        let mut headers = HeaderMap::new();
        pass(&mut headers, &sender("192.0.2.1", false), true);
        assert_eq!(values(&headers, "forwarded"), ["for=192.0.2.1;proto=http"], "without a host");
    }
}
