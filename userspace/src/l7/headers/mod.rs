//! What a listener leaves on the requests that it passes on, and what operators change: functions of
//! header maps, one noun each.
//!
//! They come after the hop-by-hop headers have been removed ([`super::forward`]); the operator's rules
//! come last.

mod forwarded;
mod request_id;
mod rules;
mod trace;
mod via;

use http::header::{HeaderMap, HeaderValue};
use http::{HeaderName, Version};
use steerage_common::error::ErrorClass;

pub(super) use rules::Rules;
pub(super) use via::Host;

use super::forward::Sender;
use crate::config::model::{Listener, RequestId};
use crate::service::Random;
use request_id::X_REQUEST_ID;
use via::Via;

/// What a listener leaves on the requests that it passes on.
#[derive(Debug)]
pub(crate) struct Marks {
    via: Option<Via>,
    forwarded: bool,
    request_id: RequestId,
    request_id_response: bool,
    trace_sampled_percent: Option<u8>,
    /// Of its own: who sees its numbers can tell the next.
    random: Random,
}

impl Marks {
    pub(crate) fn new(listener: &Listener, instance: &str, host: &Host) -> Self {
        let forwarding = &listener.forwarding;
        Self {
            via: Via::new(&forwarding.via, || host.pseudonym(instance, &listener.name)),
            forwarded: forwarding.forwarded,
            request_id: forwarding.request_id,
            request_id_response: forwarding.request_id_response,
            trace_sampled_percent: forwarding.trace_sampled_percent,
            random: Random::new(Random::fresh_seed()),
        }
    }

    /// Marks a request that came as `version`. Gives what the response is to be marked with.
    ///
    /// # Errors
    /// [`ErrorClass::Loop`] if the request bears this listener's mark already.
    pub(crate) fn request(
        &self,
        headers: &mut HeaderMap,
        sender: &Sender,
        version: Version,
    ) -> Result<Echo, ErrorClass> {
        if let Some(via) = &self.via {
            via.pass(headers, version)?;
        }
        forwarded::pass(headers, sender, self.forwarded);
        let is_kept = match self.request_id {
            RequestId::Trusted => sender.is_trusted,
            RequestId::Any => true,
            RequestId::Make => false,
            RequestId::Off => return Ok(self.traced(headers, None)),
        };
        let id = request_id::pass(headers, is_kept, &self.random);
        Ok(self.traced(headers, id.filter(|_| self.request_id_response)))
    }

    fn traced(&self, headers: &mut HeaderMap, id: Option<HeaderValue>) -> Echo {
        if let Some(percent) = self.trace_sampled_percent {
            trace::begin(headers, percent, &self.random);
        }
        Echo(id)
    }
}

/// What a response says of its request.
#[derive(Debug, Default)]
pub(crate) struct Echo(Option<HeaderValue>);

impl Echo {
    pub(crate) fn apply(self, headers: &mut HeaderMap) {
        if let Some(id) = self.0 {
            headers.insert(X_REQUEST_ID, id);
        }
    }
}

/// Makes several values one line, in order, with another at its end.
pub(super) fn append(headers: &mut HeaderMap, name: HeaderName, last: HeaderValue) {
    let mut all = Vec::new();
    for value in headers.get_all(&name) {
        all.extend_from_slice(value.as_bytes());
        all.extend_from_slice(b", ");
    }
    let line = if all.is_empty() {
        last
    } else {
        all.extend_from_slice(last.as_bytes());
        // Valid values joined are valid.
        HeaderValue::from_maybe_shared(bytes::Bytes::from(all)).unwrap_or(last)
    };
    headers.insert(name, line);
}

/// The digits of a number, in lower case.
fn hex<const N: usize>(value: u64) -> [u8; N] {
    std::array::from_fn(|at| {
        let digit = (value >> (4 * (N - 1 - at))) & 0xf;
        b"0123456789abcdef"[digit as usize]
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A header map of these lines.
    pub(in crate::l7) fn lines(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    /// All values of a header.
    pub(in crate::l7) fn values<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
        headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
    }

    pub(in crate::l7) fn sender(address: &str, is_trusted: bool) -> Sender {
        Sender {
            address: address.parse().unwrap(),
            is_trusted,
            scheme: HeaderValue::from_static("http"),
        }
    }

    fn marks(keys: &str) -> Marks {
        let text = format!(
            "[[listener]]\nname='a'\nprotocol='http'\nbind=['127.0.0.1:1']\n\
             forwarding = {{ {keys} }}\n[[listener.route]]\nservice='s'\n[[service]]\nname='s'\n"
        );
        let model = crate::config::parse(std::path::Path::new("test.toml"), &text).unwrap();
        Marks::new(&model.listeners[0], "default", &Host::here())
    }

    fn marked(keys: &str, is_trusted: bool, sent: &[(&'static str, &str)]) -> (HeaderMap, Echo) {
        let mut headers = lines(sent);
        let sender = sender("192.0.2.1", is_trusted);
        let echo = marks(keys).request(&mut headers, &sender, Version::HTTP_11).unwrap();
        (headers, echo)
    }

    #[test]
    fn via_and_a_request_id_are_there_unless_they_are_off() {
        let (headers, echo) = marked("", false, &[("host", "a"), ("x-request-id", "theirs")]);
        assert_eq!(headers.len(), 3);
        assert!(values(&headers, "via")[0].starts_with("1.1 steerage-"));
        assert_eq!(values(&headers, "x-request-id")[0].len(), 36);
        assert!(echo.0.is_none());
        let off = "via = 'off', request_id = 'off'";
        let (headers, _) = marked(off, false, &[("x-request-id", "theirs"), ("via", "1.0 x")]);
        assert_eq!(headers, lines(&[("x-request-id", "theirs"), ("via", "1.0 x")]));
    }

    #[test]
    fn whose_request_id_is_kept_is_a_choice() {
        let sent = [("x-request-id", "theirs")];
        for (choice, is_trusted, is_kept) in [
            ("trusted", true, true),
            ("trusted", false, false),
            ("any", false, true),
            ("make", true, false),
        ] {
            let keys = format!("request_id = '{choice}', request_id_response = true");
            let (headers, echo) = marked(&keys, is_trusted, &sent);
            let ids = values(&headers, "x-request-id");
            assert_eq!(ids == ["theirs"], is_kept, "{keys}");
            let mut response = HeaderMap::new();
            echo.apply(&mut response);
            assert_eq!(values(&response, "x-request-id"), ids);
        }
    }

    #[test]
    fn a_trace_is_begun_only_if_that_is_asked_for() {
        let (headers, _) = marked("", false, &[]);
        assert!(!headers.contains_key("traceparent"));
        let (headers, _) = marked("traceparent = 'begin', request_id = 'off'", false, &[]);
        assert!(headers.contains_key("traceparent") && !headers.contains_key("x-request-id"));
    }

    #[test]
    fn values_are_joined_in_order() {
        let mut headers = lines(&[("x-a", "1, 2"), ("x-b", "0"), ("x-a", "3")]);
        append(&mut headers, HeaderName::from_static("x-a"), HeaderValue::from_static("4"));
        assert_eq!(values(&headers, "x-a"), ["1, 2, 3, 4"]);
        append(&mut headers, HeaderName::from_static("x-c"), HeaderValue::from_static("5"));
        assert_eq!(values(&headers, "x-c"), ["5"]);
    }

    #[test]
    fn hex_has_all_digits() {
        assert_eq!(&hex::<16>(0x0123_4567_89ab_cdef), b"0123456789abcdef");
        assert_eq!(&hex::<4>(0x0f), b"000f");
    }
}
