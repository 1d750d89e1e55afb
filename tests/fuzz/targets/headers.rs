//! Header rewriting: whatever a client or a backend sends, no hop-by-hop header passes, what a stranger
//! says of others is replaced, and neither `Host` nor the framing can be removed.
//!
//! The first byte says whether the sender is trusted; the rest are header lines.

#![no_main]

use http::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use steerage::l7::forward::{self, Sender};

const HOP_BY_HOP: [&str; 5] =
    ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"];

fuzz_target!(|input: &[u8]| {
    let Some((first, text)) = input.split_first() else { return };
    let mut headers = HeaderMap::new();
    for line in text.split(|byte| *byte == b'\n').take(100) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(&line[colon + 1..]);
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    let address = HeaderValue::from_static("192.0.2.1");
    let is_trusted = first % 2 == 1;
    let scheme = HeaderValue::from_static("http");
    let sender = Sender { address: address.clone(), is_trusted, scheme };

    let mut request = headers.clone();
    forward::request(&mut request, &sender);
    for name in HOP_BY_HOP {
        assert!(!request.contains_key(name), "{name}");
    }
    for name in [HOST, CONTENT_LENGTH] {
        assert_eq!(request.get(&name), headers.get(&name));
    }
    assert!(request.get("te").is_none_or(|te| te == "trailers"));
    let forwarded = request.get("x-forwarded-for").expect("who asks is always said");
    if is_trusted {
        assert!(forwarded.as_bytes().ends_with(address.as_bytes()));
    } else {
        assert_eq!(forwarded, address);
        assert_eq!(request["x-forwarded-proto"], "http");
        assert_eq!(request.get("x-forwarded-host"), headers.get(HOST));
    }
    assert_eq!(request.get_all("x-forwarded-for").iter().count(), 1);

    let mut response = headers;
    forward::response(&mut response);
    for name in HOP_BY_HOP {
        assert!(!response.contains_key(name), "{name}");
    }
});
