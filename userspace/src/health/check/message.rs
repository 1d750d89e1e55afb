//! The two messages of `grpc.health.v1.Health/Check`, in Protocol Buffers and gRPC's framing.
//!
//! ```proto
//! message HealthCheckRequest { string service = 1; }
//! message HealthCheckResponse { ServingStatus status = 1; }
//! ```
//!
//! A message on the wire is a byte that says whether it is compressed, its length in four bytes, and
//! its fields; each field is a key (number and wire type) and a value. Unknown fields are skipped,
//! and of a field that is there twice the last counts, as the encoding asks of every reader
//! (<https://protobuf.dev/programming-guides/encoding/>).

/// Length of the framing before a message.
const PREFIX: usize = 5;

/// What a server says of a service: `HealthCheckResponse.ServingStatus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Serving(u64);

impl Serving {
    /// It serves.
    pub const SERVING: Self = Self(1);
}

impl std::fmt::Display for Serving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            0 => f.write_str("UNKNOWN"),
            1 => f.write_str("SERVING"),
            2 => f.write_str("NOT_SERVING"),
            3 => f.write_str("SERVICE_UNKNOWN"),
            other => write!(f, "serving status {other}"),
        }
    }
}

/// The request about `service`, framed.
pub fn request(service: &str) -> Vec<u8> {
    let mut message = Vec::with_capacity(service.len() + 4);
    // The default is not sent.
    if !service.is_empty() {
        message.push(1 << 3 | 2);
        put_varint(&mut message, service.len() as u64);
        message.extend_from_slice(service.as_bytes());
    }
    let mut framed = Vec::with_capacity(PREFIX + message.len());
    framed.push(0);
    framed.extend_from_slice(&(message.len() as u32).to_be_bytes());
    framed.extend_from_slice(&message);
    framed
}

/// Reads the one framed response that `body` must be; `None` if it is anything else.
pub fn response(body: &[u8]) -> Option<Serving> {
    let (prefix, mut fields) = body.split_at_checked(PREFIX)?;
    let (compressed, length) = prefix.split_first()?;
    let length = u32::from_be_bytes(length.try_into().ok()?);
    // Compression was not offered.
    if *compressed != 0 || fields.len() != usize::try_from(length).ok()? {
        return None;
    }
    let mut status = 0;
    while !fields.is_empty() {
        let key = take_varint(&mut fields)?;
        match (key >> 3, key & 7) {
            (0, _) => return None,
            (1, 0) => status = take_varint(&mut fields)?,
            (1, _) => return None,
            (_, 0) => drop(take_varint(&mut fields)?),
            (_, 1) => fields = fields.get(8..)?,
            (_, 2) => {
                let length = usize::try_from(take_varint(&mut fields)?).ok()?;
                fields = fields.get(length..)?;
            }
            (_, 5) => fields = fields.get(4..)?,
            _ => return None,
        }
    }
    Some(Serving(status))
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Seven bits in each byte, the lowest first; ten bytes at most.
fn take_varint(from: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = from.split_first()?;
        *from = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn requests_are_as_protoc_makes_them() {
        assert_eq!(request(""), [0, 0, 0, 0, 0]);
        assert_eq!(request("api"), *b"\x00\x00\x00\x00\x05\x0a\x03api");
        let long = "x".repeat(300);
        assert_eq!(request(&long)[..8], *b"\x00\x00\x00\x01\x2f\x0a\xac\x02");
    }

    #[test]
    fn responses_are_read_by_their_fields() {
        let status = |body: &[u8]| response(body).map(|serving| serving.to_string());
        assert_eq!(status(b"\0\0\0\0\x02\x08\x01").as_deref(), Some("SERVING"));
        assert_eq!(status(b"\0\0\0\0\x02\x08\x02").as_deref(), Some("NOT_SERVING"));
        assert_eq!(status(b"\0\0\0\0\x02\x08\x03").as_deref(), Some("SERVICE_UNKNOWN"));
        assert_eq!(status(b"\0\0\0\0\x02\x08\x09").as_deref(), Some("serving status 9"));
        assert_eq!(status(b"\0\0\0\0\0").as_deref(), Some("UNKNOWN"), "the default is not sent");
        let among_others = b"\0\0\0\0\x14\x10\x96\x01\x1a\x02hi\x08\x02\x25abcd\x08\x01\x12\0";
        assert_eq!(response(&[&among_others[..4], &[20], &among_others[5..]].concat()), None);
        let exact = [&[0, 0, 0, 0, among_others.len() as u8 - 5], &among_others[5..]].concat();
        assert_eq!(response(&exact), Some(Serving::SERVING), "unknown fields, and the last counts");
    }

    #[test]
    fn what_is_no_response_is_none() {
        for bad in [
            &b""[..],
            b"\0\0\0\0",
            b"\x01\0\0\0\x02\x08\x01",
            b"\0\0\0\0\x03\x08\x01",
            b"\0\0\0\0\x01\x08\x01",
            b"\0\0\0\0\x02\x08\x80",
            b"\0\0\0\0\x02\x0a\x00",
            b"\0\0\0\0\x02\x12\x05",
            b"\0\0\0\0\x02\x13\x01",
            b"\0\0\0\0\x0b\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        ] {
            assert_eq!(response(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm(fields in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut body = vec![0, 0, 0, 0, fields.len() as u8];
            body.extend_from_slice(&fields);
            let _ = response(&body);
            let _ = response(&fields);
        }

        #[test]
        fn a_number_comes_back(value: u64) {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            let mut rest = &out[..];
            prop_assert_eq!(take_varint(&mut rest), Some(value));
            prop_assert!(rest.is_empty());
        }
    }
}
