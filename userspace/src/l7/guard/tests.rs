//! One message at a time, and properties: how bytes are cut makes no difference, and what passes
//! means the same to the parser behind.

use proptest::prelude::*;
use steerage_common::error::ErrorClass;

use super::*;

/// The verdict on bytes that come in pieces of these lengths (in turn): what passed, and the refusal.
fn request_in_pieces(bytes: &[u8], pieces: &[usize]) -> (Vec<u8>, u64, Option<ErrorClass>) {
    let mut guard = RequestGuard::new(Limits::DEFAULT);
    let mut passed = Vec::new();
    let mut rest = bytes;
    let mut lengths = pieces.iter().copied().cycle();
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(lengths.next().unwrap().clamp(1, rest.len()));
        rest = after;
        match guard.inspect(piece) {
            Verdict::Pass => passed.extend_from_slice(piece),
            Verdict::Hold(at) => {
                passed.extend_from_slice(&piece[..at]);
                guard.stayed();
                rest = &bytes[passed.len()..];
            }
            Verdict::Refuse(at, class) => {
                passed.extend_from_slice(&piece[..at]);
                return (passed, guard.heads(), Some(class));
            }
        }
    }
    (passed, guard.heads(), None)
}

fn request(bytes: &[u8]) -> Option<ErrorClass> {
    request_in_pieces(bytes, &[bytes.len()]).2
}

/// How a response ends, and how many bytes of it passed.
#[derive(Debug, PartialEq)]
enum End {
    Open,
    Whole,
    Malformed,
    Poisoned,
}

fn response_in_pieces(asked: Asked, bytes: &[u8], pieces: &[usize]) -> (usize, End) {
    let mut guard = ResponseGuard::new(Limits::DEFAULT);
    guard.ask(asked);
    let mut passed = 0;
    let mut rest = bytes;
    let mut lengths = pieces.iter().copied().cycle();
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(lengths.next().unwrap().clamp(1, rest.len()));
        rest = after;
        match guard.inspect(piece) {
            Opinion::Pass => passed += piece.len(),
            Opinion::Malformed => return (passed, End::Malformed),
            Opinion::Excess(at) => return (passed + at, End::Poisoned),
        }
    }
    // Nothing more may come exactly if the response is whole.
    match guard.inspect(b"\n") {
        Opinion::Excess(0) => (passed, End::Whole),
        _ => (passed, End::Open),
    }
}

fn response(asked: Asked, text: &str) -> End {
    response_in_pieces(asked, text.as_bytes(), &[text.len()]).1
}

#[test]
fn proper_requests_pass() {
    for text in [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\n\r\nGET / HTTP/1.0\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://a.test/x?y HTTP/1.1\r\nHost: a.test\r\n\r\n",
        "CONNECT a.test:443 HTTP/1.1\r\nHost: a.test\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: \t 3 \t\r\n\r\nabcGET / HTTP/1.1\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        "POST / HTTP/1.1\r\ntransfer-encoding:CHUNKED\r\n\r\n\
         5;a=\"b c\"\r\nhello\r\n00\r\nX-Sum: 1\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        "M-SEARCH /a{b}|^\\?{x}=%00 HTTP/1.1\r\nEmpty:\r\nA: \u{e4}\t b \r\n\r\n",
    ] {
        assert_eq!(request(text.as_bytes()), None, "{text}");
    }
}

#[test]
fn limits_are_exact() {
    let head = |uri: usize, filler: usize| {
        format!("GET /{} HTTP/1.1\r\nA: {}\r\n\r\n", "u".repeat(uri - 1), "f".repeat(filler))
    };
    assert_eq!(request(head(8192, 0).as_bytes()), None);
    assert_eq!(request(head(8193, 0).as_bytes()), Some(ErrorClass::UriTooLong));
    let filler = 32 * 1024 - head(1, 0).len();
    assert_eq!(request(head(1, filler).as_bytes()), None);
    assert_eq!(request(head(1, filler + 1).as_bytes()), Some(ErrorClass::HeadTooLarge));
    let fields = |count| format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(count));
    assert_eq!(request(fields(128).as_bytes()), None);
    assert_eq!(request(fields(129).as_bytes()), Some(ErrorClass::TooManyHeaders));
    let empty = |count| "\r\n".repeat(count) + "GET / HTTP/1.1\r\n\r\n";
    assert_eq!(request(empty(2).as_bytes()), None);
    assert_eq!(request(empty(3).as_bytes()), Some(ErrorClass::MalformedHead));
}

#[test]
fn what_may_be_another_protocol_waits_for_the_backends_word() {
    for head in [
        "GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 2\r\nUpgrade: x\r\n\r\nab",
        "POST / HTTP/1.1\r\nUpgrade: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "CONNECT a:1 HTTP/1.1\r\n\r\n",
    ] {
        let mut guard = RequestGuard::new(Limits::DEFAULT);
        let bytes = [head.as_bytes(), b"\x00binary"].concat();
        assert_eq!(guard.inspect(&bytes), Verdict::Hold(head.len()), "{head}");
        assert_eq!((guard.heads(), guard.place()), (1, Place::Beyond));
        let mut stayed = guard;
        stayed.stayed();
        assert_eq!(stayed.inspect(b"\x00binary"), Verdict::Refuse(0, ErrorClass::MalformedHead));
        guard.switched();
        assert_eq!(guard.inspect(b"\x00binary"), Verdict::Pass);
    }
}

#[test]
fn the_place_tells_an_idle_connection_from_one_with_half_a_head() {
    let mut guard = RequestGuard::new(Limits::DEFAULT);
    assert_eq!(guard.place(), Place::Between);
    for (bytes, place) in [
        ("G", Place::Head),
        ("ET / HTTP/1.1\r\nContent-Length: 2\r\n\r", Place::Head),
        ("\n", Place::Body),
        ("x", Place::Body),
        ("x", Place::Between),
    ] {
        assert_eq!(guard.inspect(bytes.as_bytes()), Verdict::Pass);
        assert_eq!(guard.place(), place, "{bytes:?}");
    }
}

#[test]
fn a_response_ends_where_its_framing_and_its_request_say() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n";
    let chunked = "HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n";
    let to_end = "HTTP/1.0 200 OK\r\n\r\nany\0thing";
    for (asked, text, end) in [
        (Asked::Plain, head.to_owned() + "ab", End::Whole),
        (Asked::Plain, head.to_owned() + "a", End::Open),
        (Asked::Plain, head.to_owned() + "abc", End::Poisoned),
        (Asked::Head, head.to_owned(), End::Whole),
        (Asked::Head, head.to_owned() + "ab", End::Poisoned),
        (Asked::Plain, chunked.to_owned() + "2\r\nab\r\n0\r\na: b\r\n\r\n", End::Whole),
        (Asked::Plain, chunked.to_owned() + "2\r\nab\r\n0\r\n\r\nx", End::Poisoned),
        (Asked::Plain, chunked.to_owned() + "2\r\nabc\r\n", End::Malformed),
        (Asked::Head, chunked.to_owned(), End::Whole),
        (Asked::Plain, to_end.to_owned(), End::Open),
        (Asked::Plain, "HTTP/1.1 204 No Content\r\n\r\n".into(), End::Whole),
        (Asked::Plain, "HTTP/1.1 304 Same\r\nContent-Length: 9\r\n\r\n".into(), End::Whole),
        (Asked::Plain, format!("HTTP/1.1 100 Continue\r\n\r\n{head}ab"), End::Whole),
        (Asked::Plain, "HTTP/1.1 103 Hints\r\n\r\n".repeat(33), End::Malformed),
        (Asked::Upgrade, "HTTP/1.1 101 Switch\r\n\r\n\0\u{1}".into(), End::Open),
        (Asked::Upgrade, head.to_owned() + "abc", End::Poisoned),
        (Asked::Plain, "HTTP/1.1 101 Switch\r\n\r\n".into(), End::Malformed),
        (Asked::Connect, "HTTP/1.1 200 OK\r\n\r\n\0\u{1}".into(), End::Open),
        (Asked::Connect, "HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n\0".into(), End::Poisoned),
    ] {
        assert_eq!(response(asked, &text), end, "{asked:?} {text}");
    }
}

#[test]
fn responses_that_are_no_http_are_refused() {
    for text in [
        "SSH-2.0-OpenSSH\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1  200 OK\r\n\r\n",
        "HTTP/1.1\t200 OK\r\n\r\n",
        "HTTP/1.1 099 OK\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\n\n",
        "HTTP/1.1 200 O\0K\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\r\n fold\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n",
    ] {
        assert_eq!(response(Asked::Plain, text), End::Malformed, "{text}");
    }
}

#[test]
fn what_comes_unasked_is_poison() {
    let mut guard = ResponseGuard::new(Limits::DEFAULT);
    assert_eq!(guard.inspect(b"HTTP/1.1 408 Timeout\r\n\r\n"), Opinion::Excess(0));
    guard.ask(Asked::Plain);
    assert!(guard.is_poisoned(), "it stays so");
}

#[test]
fn a_response_is_measured_if_its_head_is_whole_and_says_how_long_it_is() {
    let measured = |bytes: &[u8]| {
        let mut guard = ResponseGuard::new(Limits::DEFAULT);
        guard.ask(Asked::Plain);
        guard.inspect_and_measure(bytes)
    };
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\t\r\nX: y\r\n\r\n";
    let whole = Measured { head_bytes: head.len(), body_bytes: 5, length_end: 35 };
    assert_eq!(head[..whole.length_end].last(), Some(&b'\t'));
    assert_eq!(measured(head), (Opinion::Pass, Some(whole)));
    let more = [head.as_slice(), b"hello"].concat();
    assert_eq!(measured(&more), (Opinion::Pass, Some(whole)));
    let excess = [head.as_slice(), b"hello!"].concat();
    assert_eq!(measured(&excess), (Opinion::Excess(more.len()), Some(whole)));
    assert_eq!(measured(&head[..head.len() - 1]), (Opinion::Pass, None), "not whole");
    for other in [
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\nto the end",
        "HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    ] {
        assert_eq!(measured(other.as_bytes()), (Opinion::Pass, None), "{other}");
    }
    let mut guard = ResponseGuard::new(Limits::DEFAULT);
    guard.ask(Asked::Plain);
    assert_eq!(guard.inspect(&head[..9]), Opinion::Pass);
    assert_eq!(guard.inspect_and_measure(&head[9..]), (Opinion::Pass, None), "began before");
}

/// A request with mistakes that are more interesting than random bytes.
fn requests() -> impl Strategy<Value = Vec<u8>> {
    let line = prop::sample::select(vec![
        "GET / HTTP/1.1\r\n",
        "GET /a?b=c HTTP/1.1\r\n",
        "POST /x HTTP/1.1\r\n",
        "POST http://a/ HTTP/1.0\r\n",
        "HEAD * HTTP/1.1\r\n",
        "CONNECT a:1 HTTP/1.1\r\n",
    ]);
    let field = prop::sample::select(vec![
        "Host: a\r\n",
        "Content-Length: 5\r\n",
        "content-length:\t5 \r\n",
        "Content-Length: 05, 5\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: Chunked \r\n",
        "Transfer-Encoding: x, chunked\r\n",
        "Upgrade: x\r\n",
        "X: y\r\n",
        "X-Long-Name-Of-A-Header: \u{e4}\t z\r\n",
        " fold\r\n",
        "X : y\r\n",
    ]);
    let body = prop::sample::select(vec![
        "",
        "hello",
        "5\r\nhello\r\n0\r\n\r\n",
        "2;e\r\nhe\r\n03\r\nllo\r\n0\r\nX: y\r\n\r\n",
        "0\r\nContent-Length: 1\r\n\r\n",
        "1 \r\nx\r\n0\r\n\r\n",
    ]);
    let one = (line, prop::collection::vec(field, 0..3), body)
        .prop_map(|(line, fields, body)| format!("{line}{}\r\n{body}", fields.concat()));
    let edit = (
        any::<prop::sample::Index>(),
        prop::sample::select(b"\r\n\0\t :;0aF\x7f\xff".to_vec()),
        0..3u8,
    );
    (prop::collection::vec(one, 1..4), prop::collection::vec(edit, 0..3)).prop_map(
        |(messages, edits)| {
            let mut bytes = messages.concat().into_bytes();
            for (at, byte, how) in edits {
                let at = at.index(bytes.len());
                match how {
                    0 => bytes[at] = byte,
                    1 => bytes.insert(at, byte),
                    _ => _ = bytes.remove(at),
                }
            }
            bytes
        },
    )
}

/// How many whole heads a lenient parser finds, following the framing that it sees.
fn lenient_heads(mut bytes: &[u8]) -> u64 {
    let mut heads = 0;
    loop {
        let mut headers = [httparse::EMPTY_HEADER; 160];
        let mut parsed = httparse::Request::new(&mut headers);
        let Ok(httparse::Status::Complete(length)) = parsed.parse(bytes) else { return heads };
        heads += 1;
        bytes = &bytes[length..];
        let value = |name: &str| {
            let header = parsed.headers.iter().find(|h| h.name.eq_ignore_ascii_case(name))?;
            Some(std::str::from_utf8(header.value).unwrap().trim())
        };
        let used = if value("transfer-encoding").is_some() {
            lenient_chunks(bytes)
        } else {
            value("content-length").map_or(Some(0), |text| text.parse().ok())
        };
        match used.and_then(|used| bytes.get(used..)) {
            Some(rest) => bytes = rest,
            None => return heads,
        }
    }
}

fn lenient_chunks(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let Ok(httparse::Status::Complete((used, size))) = httparse::parse_chunk_size(&bytes[at..])
        else {
            return None;
        };
        at += used;
        if size == 0 {
            let mut trailers = [httparse::EMPTY_HEADER; 160];
            return match httparse::parse_headers(&bytes[at..], &mut trailers) {
                Ok(httparse::Status::Complete((used, _))) => Some(at + used),
                _ => None,
            };
        }
        at += usize::try_from(size).ok()? + 2;
        if at > bytes.len() {
            return None;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn requests_are_judged_alike_however_they_are_cut(
        bytes in requests(),
        pieces in prop::collection::vec(1..40usize, 1..8),
    ) {
        let whole = request_in_pieces(&bytes, &[bytes.len()]);
        let cut = request_in_pieces(&bytes, &pieces);
        prop_assert_eq!((whole.1, whole.2), (cut.1, cut.2));
        // In pieces, the harmless beginning of what is refused may have passed before.
        prop_assert!(cut.0.starts_with(&whole.0));
    }

    #[test]
    fn what_passes_is_as_many_requests_to_the_parser_behind(
        bytes in requests(),
        pieces in prop::collection::vec(1..40usize, 1..8),
    ) {
        let (passed, heads, _) = request_in_pieces(&bytes, &pieces);
        prop_assert_eq!(lenient_heads(&passed), heads);
    }

    #[test]
    fn responses_are_judged_alike_however_they_are_cut(
        mut bytes in requests(),
        pieces in prop::collection::vec(1..40usize, 1..8),
        asked in prop::sample::select(vec![Asked::Plain, Asked::Head, Asked::Connect, Asked::Upgrade]),
        status in prop::sample::select(vec!["200 OK", "204 Empty", "304", "100 Go on", "101 Switch"]),
    ) {
        if let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            bytes.splice(..=end, format!("HTTP/1.1 {status}\r\n").into_bytes());
        }
        let whole = response_in_pieces(asked, &bytes, &[bytes.len()]);
        let cut = response_in_pieces(asked, &bytes, &pieces);
        prop_assert_eq!(&whole.1, &cut.1);
        if whole.1 != End::Malformed {
            prop_assert_eq!(whole.0, cut.0);
        }
    }
}
