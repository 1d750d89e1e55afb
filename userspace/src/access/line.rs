//! A line: facts, as JSON or as a format string has them.
//!
//! Whatever clients and backends sent is escaped, so that a line is one line and a field one field: in
//! JSON as JSON has it, in text as nginx does (`\xHH` for quotes, backslashes, control characters and all
//! that is not ASCII).

use std::borrow::Cow;
use std::time::Duration;

use super::moment::Clock;
use crate::config::model::{Field, Format, LogPiece};

/// What is known of a request, or of a connection that carried none.
#[derive(Debug, Default)]
pub struct Facts<'a> {
    /// When it began, since the epoch.
    pub time: Duration,
    /// Where it came in.
    pub listener: &'a str,
    /// The client's address.
    pub client: &'a str,
    /// Its port.
    pub client_port: u16,
    /// The method.
    pub method: Option<&'a str>,
    /// The host that the request names.
    pub host: Option<&'a [u8]>,
    /// What it asks for.
    pub target: Option<Cow<'a, str>>,
    /// The version of HTTP, or another protocol.
    pub protocol: Option<&'static str>,
    /// The status that the client got.
    pub status: Option<u16>,
    /// Bytes from the client.
    pub request_bytes: u64,
    /// Bytes to the client.
    pub response_bytes: u64,
    /// Time in line.
    pub queue_us: Option<u64>,
    /// Time for a connection.
    pub connect_us: Option<u64>,
    /// Time until the backend's answer began.
    pub first_byte_us: Option<u64>,
    /// Time of it all.
    pub total_us: u64,
    /// The service.
    pub service: Option<&'a str>,
    /// The backend that was asked last.
    pub backend: Option<&'a str>,
    /// How often backends were asked.
    pub attempts: u32,
    /// The last rule of replay.
    pub replay: Option<&'static str>,
    /// Whether the backend's connection was not fresh.
    pub reused: Option<bool>,
    /// Why Steerage answered itself.
    pub error: Option<&'static str>,
    /// How it ended.
    pub cause: &'static str,
    /// What TLS agreed on.
    pub tls: Option<&'a Tls>,
    /// The name that TLS was asked for, where nothing was agreed on here.
    pub sni: Option<&'a str>,
    /// The request's id.
    pub request_id: Option<&'a [u8]>,
    /// Its trace.
    pub trace_id: Option<&'a [u8]>,
    /// Who asked.
    pub user_agent: Option<&'a [u8]>,
    /// Where from.
    pub referer: Option<&'a [u8]>,
}

/// What TLS agreed on with a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// `TLSv1.3`.
    pub version: &'static str,
    /// The cipher suite.
    pub cipher: &'static str,
    /// The name that was asked for.
    pub sni: Option<String>,
    /// The protocol that was agreed on.
    pub alpn: Option<Vec<u8>>,
    /// Whether the session was resumed.
    pub resumed: bool,
}

/// A field's value.
enum Value<'a> {
    None,
    /// Of ours: nothing in it is to be escaped.
    Word(&'a str),
    /// Of others.
    Text(&'a [u8]),
    Number(u64),
    /// Microseconds, shown as milliseconds.
    Micros(u64),
    Flag(bool),
    Moment,
    LocalMoment,
    Request,
}

fn text(bytes: Option<&[u8]>) -> Value<'_> {
    bytes.map_or(Value::None, Value::Text)
}

impl Facts<'_> {
    fn value(&self, field: Field) -> Value<'_> {
        let micros = |time: Option<u64>| time.map_or(Value::None, Value::Micros);
        let flag = |flag: Option<bool>| flag.map_or(Value::None, Value::Flag);
        let word = |word: Option<&'static str>| word.map_or(Value::None, Value::Word);
        match field {
            Field::Time => Value::Moment,
            Field::TimeLocal => Value::LocalMoment,
            Field::Listener => Value::Text(self.listener.as_bytes()),
            Field::Client => Value::Word(self.client),
            Field::ClientPort => Value::Number(self.client_port.into()),
            Field::Method => text(self.method.map(str::as_bytes)),
            Field::Host => text(self.host),
            Field::Target => text(self.target.as_deref().map(str::as_bytes)),
            Field::Protocol => word(self.protocol),
            Field::Request => Value::Request,
            Field::Status => self.status.map_or(Value::None, |status| Value::Number(status.into())),
            Field::RequestBytes => Value::Number(self.request_bytes),
            Field::ResponseBytes => Value::Number(self.response_bytes),
            Field::Queue => micros(self.queue_us),
            Field::Connect => micros(self.connect_us),
            Field::FirstByte => micros(self.first_byte_us),
            Field::Total => Value::Micros(self.total_us),
            Field::Service => text(self.service.map(str::as_bytes)),
            Field::Backend => self.backend.map_or(Value::None, Value::Word),
            Field::Attempts => Value::Number(self.attempts.into()),
            Field::Replay => word(self.replay),
            Field::Reused => flag(self.reused),
            Field::Error => word(self.error),
            Field::Cause => Value::Word(self.cause),
            Field::TlsVersion => word(self.tls.map(|tls| tls.version)),
            Field::TlsCipher => word(self.tls.map(|tls| tls.cipher)),
            Field::TlsSni => {
                let agreed = self.tls.and_then(|tls| tls.sni.as_deref());
                text(agreed.or(self.sni).map(str::as_bytes))
            }
            Field::TlsAlpn => text(self.tls.and_then(|tls| tls.alpn.as_deref())),
            Field::TlsResumed => flag(self.tls.map(|tls| tls.resumed)),
            Field::RequestId => text(self.request_id),
            Field::TraceId => text(self.trace_id),
            Field::UserAgent => text(self.user_agent),
            Field::Referer => text(self.referer),
        }
    }
}

/// Appends a line, without its end. Of what others sent, no more than `limit` bytes a field.
pub(super) fn write(
    facts: &Facts<'_>,
    format: &Format,
    limit: usize,
    clock: &mut Clock,
    line: &mut Vec<u8>,
) {
    match format {
        Format::Json => json(facts, limit, clock, line),
        Format::Text { pieces, .. } => {
            for piece in pieces {
                match piece {
                    LogPiece::Text(text) => line.extend_from_slice(text.as_bytes()),
                    LogPiece::Field(field) => plain(facts, *field, limit, clock, line),
                }
            }
        }
    }
}

fn json(facts: &Facts<'_>, limit: usize, clock: &mut Clock, line: &mut Vec<u8>) {
    // The first key's comma becomes a brace.
    let start = line.len();
    for field in Field::ALL.iter().filter(|field| !field.is_derived()) {
        let value = facts.value(*field);
        if matches!(value, Value::None) {
            continue;
        }
        line.extend_from_slice(field.key().as_bytes());
        match value {
            Value::Text(bytes) => json_string(cut(bytes, limit), line),
            Value::Number(_) | Value::Micros(_) | Value::Flag(_) => {
                simple(&value, facts, clock, line);
            }
            value => {
                line.push(b'"');
                simple(&value, facts, clock, line);
                line.push(b'"');
            }
        }
    }
    // There always is a time.
    line[start] = b'{';
    line.push(b'}');
}

fn json_string(bytes: &[u8], line: &mut Vec<u8>) {
    // Nearly all there is; looked at whole, which is quicker than to the first of them.
    let is_special = |byte: u8| !(0x20..0x7f).contains(&byte) | (byte == b'"') | (byte == b'\\');
    if !bytes.iter().fold(false, |any, byte| any | is_special(*byte)) {
        line.push(b'"');
        line.extend_from_slice(bytes);
        line.push(b'"');
        return;
    }
    // Into memory nothing fails.
    let _ = serde_json::to_writer(line, &String::from_utf8_lossy(bytes));
}

fn plain(facts: &Facts<'_>, field: Field, limit: usize, clock: &mut Clock, line: &mut Vec<u8>) {
    match facts.value(field) {
        Value::None => line.push(b'-'),
        Value::Text(bytes) => escape(cut(bytes, limit), line),
        Value::Request => {
            for (field, end) in [(Field::Method, " "), (Field::Target, " "), (Field::Protocol, "")]
            {
                plain(facts, field, limit, clock, line);
                line.extend_from_slice(end.as_bytes());
            }
        }
        value => simple(&value, facts, clock, line),
    }
}

/// What is the same in every format.
fn simple(value: &Value<'_>, facts: &Facts<'_>, clock: &mut Clock, line: &mut Vec<u8>) {
    match value {
        Value::Word(word) => line.extend_from_slice(word.as_bytes()),
        Value::Number(number) => digits(*number, line),
        Value::Micros(micros) => {
            digits(micros / 1000, line);
            let digit = |unit: u64| b'0' + (micros / unit % 10) as u8;
            line.extend_from_slice(&[b'.', digit(100), digit(10), digit(1)]);
        }
        Value::Flag(flag) => line.extend_from_slice(if *flag { b"true" } else { b"false" }),
        Value::Moment => clock.rfc3339(facts.time, line),
        Value::LocalMoment => clock.apache(facts.time, line),
        Value::None | Value::Text(_) | Value::Request => {}
    }
}

fn digits(number: u64, line: &mut Vec<u8>) {
    let _ = serde_json::to_writer(line, &number);
}

/// nginx's way (`log_format`, "escape=default").
fn escape(bytes: &[u8], line: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in bytes {
        match byte {
            b'"' | b'\\' | 0..0x20 | 0x7f.. => {
                let (high, low) = (HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]);
                line.extend_from_slice(&[b'\\', b'x', high, low]);
            }
            byte => line.push(*byte),
        }
    }
}

fn cut(bytes: &[u8], limit: usize) -> &[u8] {
    &bytes[..bytes.len().min(limit)]
}

#[cfg(test)]
mod tests {
    use serde_json::Value as Json;

    use super::*;

    fn facts<'a>() -> Facts<'a> {
        Facts {
            time: Duration::from_millis(1_795_304_147_007),
            listener: "web",
            client: "192.0.2.1",
            client_port: 4711,
            method: Some("GET"),
            host: Some(b"a.test"),
            target: Some("/x?y=1".into()),
            protocol: Some("HTTP/1.1"),
            status: Some(200),
            response_bytes: 128,
            first_byte_us: Some(1_042),
            total_us: 12_345_678,
            service: Some("app"),
            backend: Some("10.0.0.1:80"),
            attempts: 1,
            reused: Some(true),
            cause: "done",
            user_agent: Some(b"curl/8"),
            ..Facts::default()
        }
    }

    fn line(facts: &Facts<'_>, format: &str, limit: usize) -> String {
        let (mut clock, mut line) = (Clock::default(), Vec::new());
        write(facts, &Format::parse(format).unwrap(), limit, &mut clock, &mut line);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn json_has_what_is_known_under_the_fields_names() {
        let text = line(&facts(), "json", 4096);
        assert_eq!(
            text,
            "{\"time\":\"2026-11-21T23:35:47.007Z\",\"listener\":\"web\",\"client\":\"192.0.2.1\",\
             \"client_port\":4711,\"method\":\"GET\",\"host\":\"a.test\",\"target\":\"/x?y=1\",\
             \"protocol\":\"HTTP/1.1\",\"status\":200,\"request_bytes\":0,\"response_bytes\":128,\
             \"first_byte_ms\":1.042,\"total_ms\":12345.678,\"service\":\"app\",\
             \"backend\":\"10.0.0.1:80\",\"attempts\":1,\"reused\":true,\"cause\":\"done\",\
             \"user_agent\":\"curl/8\"}"
        );
        let json: Json = serde_json::from_str(&text).unwrap();
        assert_eq!(json["total_ms"], 12_345.678);
    }

    #[test]
    fn every_field_that_is_not_made_of_others_is_in_json() {
        let tls = Tls {
            version: "TLSv1.3",
            cipher: "TLS13_AES_128_GCM_SHA256",
            sni: Some("a.test".into()),
            alpn: Some(b"h2".to_vec()),
            resumed: true,
        };
        let facts = Facts {
            queue_us: Some(1),
            connect_us: Some(2),
            replay: Some("refused"),
            error: Some("connect"),
            tls: Some(&tls),
            request_id: Some(b"id"),
            trace_id: Some(b"trace"),
            referer: Some(b"from"),
            ..facts()
        };
        let json: Json = serde_json::from_str(&line(&facts, "json", 4096)).unwrap();
        let names = json.as_object().unwrap();
        for field in Field::ALL {
            assert_eq!(names.contains_key(field.name()), !field.is_derived(), "{}", field.name());
            let text = line(&facts, &format!("${}", field.name()), 4096);
            assert!(text != "-" && !text.is_empty(), "{}", field.name());
        }
        assert_eq!(json["tls_alpn"], "h2");
    }

    #[test]
    fn text_is_as_the_format_has_it() {
        assert_eq!(
            line(&facts(), "combined", 4096),
            "192.0.2.1 - - [21/Nov/2026:23:35:47 +0000] \"GET /x?y=1 HTTP/1.1\" 200 128 \"-\" \
             \"curl/8\""
        );
        assert_eq!(line(&facts(), "${total_ms}ms $$ $queue_ms $time", 4096), {
            "12345.678ms $ - 2026-11-21T23:35:47.007Z"
        });
    }

    #[test]
    fn what_others_sent_stays_in_its_field() {
        let hostile = b"a\"b\\c\nd\x1b[1m\xff\xc3\xa4";
        let facts = Facts { user_agent: Some(hostile), ..facts() };
        assert_eq!(line(&facts, "$user_agent", 4096), r"a\x22b\x5Cc\x0Ad\x1B[1m\xFF\xC3\xA4");
        let text = line(&facts, "json", 4096);
        assert!(!text.contains(['\n', '\x1b']));
        let json: Json = serde_json::from_str(&text).unwrap();
        assert_eq!(json["user_agent"], "a\"b\\c\nd\x1b[1m\u{fffd}ä");
    }

    #[test]
    fn a_field_ends_at_its_limit() {
        let agent = [b'x'; 100];
        let facts = Facts { user_agent: Some(&agent), ..facts() };
        assert_eq!(line(&facts, "$user_agent", 10).len(), 10);
        let json: Json = serde_json::from_str(&line(&facts, "json", 10)).unwrap();
        assert_eq!(json["user_agent"].as_str().unwrap().len(), 10);
    }
}
