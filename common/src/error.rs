//! Why Steerage answered a request itself: every 4xx and 5xx that it makes has one class.
//!
//! The one table of what a class means: its name in metrics, logs and `X-Steerage-Error`, its status,
//! and what the reply says. A class is an index into [`crate::abi::WorkerLine::errors`], so new ones
//! go to the end.

/// Room for classes in the shared region.
pub const CLASSES_MAX: usize = 40;

macro_rules! classes {
    ($($(#[$doc:meta])+ $class:ident = $index:literal, $status:literal, $name:literal, $text:literal;)+) => {
        /// Why a request was answered by Steerage itself.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(usize)]
        pub enum ErrorClass {
            $($(#[$doc])+ $class = $index,)+
        }

        impl ErrorClass {
            /// All classes, in index order.
            pub const ALL: &[Self] = &[$(Self::$class),+];

            /// The class's name in metrics, logs and the reply.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$class => $name,)+
                }
            }

            /// The reply's status code.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self {
                    $(Self::$class => $status,)+
                }
            }

            /// What the reply says, one sentence for the person who reads it.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self {
                    $(Self::$class => $text,)+
                }
            }
        }
    };
}

classes! {
    /// The request line or a header breaks HTTP's grammar.
    MalformedHead = 0, 400, "malformed_head", "the request is not valid HTTP";
    /// Two statements about the body's length that disagree, or one that must not be made.
    BadFraming = 1, 400, "bad_framing", "the length of the request body is ambiguous";
    /// `Host` is missing, repeated, malformed, or not that of the absolute form.
    BadHost = 2, 400, "bad_host", "exactly one valid Host header is required";
    /// The request target is none that a proxy can forward.
    BadTarget = 3, 400, "bad_target", "the request target has no path";
    /// A version of HTTP that is not spoken here.
    BadVersion = 4, 505, "bad_version", "this version of HTTP is not supported";
    /// The headers did not come in time.
    HeaderTimeout = 5, 408, "header_timeout", "the request headers did not arrive in time";
    /// The body came too slowly, or not at all.
    BodyTimeout = 6, 408, "body_timeout", "the request body did not arrive in time";
    /// The body is longer than the route takes.
    BodyTooLarge = 7, 413, "body_too_large", "the request body is too large";
    /// The request target is longer than the listener takes.
    UriTooLong = 8, 414, "uri_too_long", "the request target is too long";
    /// Request line and headers together are longer than the listener takes.
    HeadTooLarge = 9, 431, "head_too_large", "the request headers are too large";
    /// There are more headers than the listener takes.
    TooManyHeaders = 10, 431, "too_many_headers", "the request has too many headers";
    /// The client's address has as many connections as it may.
    TooManyConnections = 11, 429, "too_many_connections", "too many connections from your address";
    /// No route matches.
    NoRoute = 12, 404, "no_route", "no route matches this host and path";
    /// `CONNECT`, and the route does not allow it.
    ConnectRefused = 13, 405, "connect_refused", "CONNECT is not allowed here";
    /// The request has passed through here before.
    Loop = 14, 508, "loop", "the request runs in a loop";
    /// The backend refused the connection or could not be reached.
    Connect = 15, 502, "connect", "no connection to the backend";
    /// The connection to the backend was not made in time.
    ConnectTimeout = 16, 504, "connect_timeout", "the backend did not accept the connection in time";
    /// The backend reset or closed the connection before its response was whole.
    Reset = 17, 502, "reset", "the backend closed the connection without a response";
    /// The response did not begin in time.
    FirstByteTimeout = 18, 504, "first_byte_timeout", "the backend did not answer in time";
    /// The backend's response is not HTTP, or its framing is wrong.
    Protocol = 19, 502, "protocol", "the backend's response is not valid HTTP";
    /// A kept connection died with the request on it, and whether the backend received the request is
    /// not known.
    StaleUnproven = 20, 502, "stale_unproven", "the backend closed the connection; the request may have been received";
    /// No backend takes new work.
    NoBackend = 21, 503, "no_backend", "no backend takes requests";
    /// This host has no ports, descriptors or memory left for a connection.
    Exhausted = 22, 503, "exhausted", "no connection to a backend can be opened";
    /// The backend refused the stream (h2 `REFUSED_STREAM` or GOAWAY) and no try is left.
    StreamRefused = 23, 502, "stream_refused", "the backend refused the request";
    /// Every backend had as many requests as it may, for too long.
    QueueTimeout = 24, 503, "queue_timeout", "every backend is busy";
    /// The request is for a tunnel (a WebSocket, say), and the backend has none over HTTP/2.
    NoTunnel = 25, 502, "no_tunnel", "the backend takes no tunnels";
    /// The backend took nothing of the request's body for too long.
    StallTimeout = 26, 504, "stall_timeout", "the backend stopped taking the request";
    /// The host is one that another certificate is for than the connection's.
    Misdirected = 27, 421, "misdirected", "this connection is for another host";
    /// The TLS handshake with the backend failed, for another reason than those below.
    TlsHandshake = 28, 502, "tls_handshake", "no secure connection to the backend";
    /// The time of the backend's certificate is over, or has not come.
    TlsCertificateTime = 29, 502, "tls_certificate_expired", "the backend's certificate is not valid now";
    /// The backend's certificate is for another name.
    TlsCertificateName = 30, 502, "tls_certificate_name", "the backend's certificate is for another name";
    /// Nobody who is trusted signed the backend's certificate.
    TlsCertificateIssuer = 31, 502, "tls_certificate_issuer", "the backend's certificate is of an unknown issuer";
    /// The backend refused the connection by an alert.
    TlsAlert = 32, 502, "tls_alert", "the backend refused the secure connection";
    /// The backend's answer was none of TLS.
    NoTls = 33, 502, "no_tls", "the backend speaks no TLS";
    /// The backend did not agree to HTTP/2, which it has to.
    NoHttp2 = 34, 502, "no_http2", "the backend speaks no HTTP/2";
}

const _: () = assert!(ErrorClass::ALL.len() <= CLASSES_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_stand_at_their_index_and_have_names_of_their_own() {
        for (index, class) in ErrorClass::ALL.iter().enumerate() {
            assert_eq!(*class as usize, index);
            assert!((400..600).contains(&class.status()));
            let same = ErrorClass::ALL.iter().filter(|other| other.name() == class.name());
            assert_eq!(same.count(), 1, "{}", class.name());
        }
    }
}
