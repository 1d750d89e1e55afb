//! A lenient reading of HTTP/1, by httparse: what the parser behind the guard may see at most.

/// Where a body ends, by the headers that a lenient parser goes by.
fn body(bytes: &[u8], headers: &[httparse::Header<'_>]) -> Option<usize> {
    let value = |name: &str| {
        let header = headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        Some(String::from_utf8_lossy(header.value).trim().to_owned())
    };
    if value("transfer-encoding").is_some() {
        return chunks(bytes);
    }
    let length = value("content-length").map_or(Some(0), |text| text.parse().ok())?;
    (length <= bytes.len()).then_some(length)
}

/// Where a chunked body ends; `None` if it is not whole.
pub fn chunks(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let size = httparse::parse_chunk_size(bytes.get(at..)?);
        let Ok(httparse::Status::Complete((used, size))) = size else { return None };
        at += used;
        if size == 0 {
            let mut trailers = [httparse::EMPTY_HEADER; 256];
            let parsed = httparse::parse_headers(bytes.get(at..)?, &mut trailers);
            let Ok(httparse::Status::Complete((used, _))) = parsed else { return None };
            return Some(at + used);
        }
        at = at.checked_add(usize::try_from(size).ok()?)?.checked_add(2)?;
    }
}

/// How many whole request heads there are, and where the last whole message ends.
#[allow(dead_code, reason = "not every target asks")]
pub fn requests(bytes: &[u8]) -> u64 {
    let (mut heads, mut at) = (0, 0);
    loop {
        let mut headers = [httparse::EMPTY_HEADER; 256];
        let mut request = httparse::Request::new(&mut headers);
        let Ok(httparse::Status::Complete(length)) = request.parse(&bytes[at..]) else {
            return heads;
        };
        heads += 1;
        at += length;
        // hyper must be able to make a URI of what passed.
        let target = request.path.unwrap_or_default();
        if target.starts_with('/') {
            target.parse::<http::uri::PathAndQuery>().expect("a path that passed is one");
        }
        match body(&bytes[at..], request.headers) {
            Some(used) => at += used,
            None => return heads,
        }
    }
}
