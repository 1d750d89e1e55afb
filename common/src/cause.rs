//! Why a connection ended: one list for clients' and backends' connections, and for what they carry.
//!
//! The cause is set where it is known, and the first one stays: whatever follows (a reset for bytes that
//! nobody reads, say) is its consequence. Causes are of three kinds: what the other end did, what a limit
//! or an order made Steerage do, and what TLS or HTTP found wrong.

/// Room for causes in the shared region.
pub const CAUSES_MAX: usize = 48;

macro_rules! causes {
    ($($(#[$doc:meta])+ $cause:ident = $index:literal, $name:literal;)+) => {
        /// Why a connection, stream or tunnel ended: index into [`crate::abi::WorkerLine::ends`] and
        /// [`crate::abi::Cell::ends`], so new ones go to the end.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(usize)]
        pub enum Cause {
            $($(#[$doc])+ $cause = $index,)+
        }

        impl Cause {
            /// All causes, in index order.
            pub const ALL: &[Self] = &[$(Self::$cause),+];

            /// The cause's name in metrics and logs.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$cause => $name,)+
                }
            }
        }
    };
}

causes! {
    /// An HTTP/2 client reset too many streams before they were answered, or had too many reset.
    ResetFlood = 0, "reset_flood";
    /// An HTTP/2 header block in too many CONTINUATION frames.
    ContinuationFlood = 1, "continuation_flood";
    /// Too many HTTP/2 DATA frames with next to nothing in them.
    DataFlood = 2, "data_flood";
    /// Too many HTTP/2 SETTINGS frames.
    SettingsFlood = 3, "settings_flood";
    /// Too many HTTP/2 PING frames.
    PingFlood = 4, "ping_flood";
    /// Too many HTTP/2 frames that ask for nothing (PRIORITY, and types that are not known).
    FrameFlood = 5, "frame_flood";
    /// Another breach of HTTP/2's rules.
    Http2Protocol = 6, "h2_protocol";
    /// The client took nothing of its response for too long.
    ResponseStall = 7, "response_stall";
    /// A request's body came too slowly.
    BodyTimeout = 8, "body_timeout";
    /// Nothing moved in a tunnel for too long.
    TunnelIdle = 9, "tunnel_idle";
    /// One way of a tunnel had ended, and the other did not follow.
    TunnelHalfClosed = 10, "tunnel_half_closed";
    /// The backend was taken out of service, or its drain's deadline came.
    BackendOut = 11, "backend_out";
    /// The worker ended: after what was open, or at its drain's deadline.
    Drained = 12, "drained";
    /// Steerage ended it where the protocol has its end: after the last response.
    Done = 13, "done";
    /// The other end closed.
    Eof = 14, "eof";
    /// The other end closed as TLS has it.
    CloseNotify = 15, "close_notify";
    /// The other end closed without the word that TLS has for it: something may have been cut off.
    EofWithoutCloseNotify = 16, "eof_without_close_notify";
    /// The other end reset the connection, or the network lost it.
    Reset = 17, "reset";
    /// The other end closed while it still had bytes to get, or an answer; those that there were have
    /// been sent.
    HungUp = 18, "hung_up";
    /// The other end sent a TLS alert that ends the connection.
    TlsAlert = 19, "tls_alert";
    /// The other end broke TLS's rules.
    TlsProtocol = 20, "tls_protocol";
    /// The TLS handshake failed.
    Handshake = 21, "handshake_failed";
    /// The TLS handshake took too long.
    HandshakeTimeout = 22, "handshake_timeout";
    /// There was no request for too long.
    Idle = 23, "idle";
    /// A request's head came too slowly.
    HeaderTimeout = 24, "header_timeout";
    /// What came was no HTTP, or broke a limit of it.
    HttpProtocol = 25, "http_protocol";
    /// The address had as many connections as it may.
    TooMany = 26, "too_many_connections";
    /// It was idle, and others waited for its place.
    MadeRoom = 27, "made_room";
    /// It grew too old.
    Age = 28, "age";
    /// It carried its number of requests.
    Requests = 29, "requests";
    /// The pool was full.
    PoolFull = 30, "pool_full";
    /// The backend sent bytes that nobody had asked for.
    Poison = 31, "poison";
    /// The backend had announced the end of the connection (h2 GOAWAY, `Connection: close`).
    Announced = 32, "announced";
    /// A newer connection was found closed by the backend, so the older ones are not trusted.
    Stale = 33, "stale";
    /// The exchange on it ended before its end: the client went away, or the backend was too slow.
    Abandoned = 34, "abandoned";
    /// The backend's response did not begin in time.
    FirstByteTimeout = 35, "first_byte_timeout";
    /// The backend stopped in its response, or took nothing of the request.
    BackendStall = 36, "backend_stall";
    /// A proxy that must say who its client is sent no PROXY header, or a malformed one.
    ProxyHeader = 37, "proxy_header";
    /// What a TLS client sent first is no ClientHello, or a malformed one.
    ClientHello = 38, "client_hello";
    /// A PROXY header or a ClientHello did not come whole in time.
    PreambleTimeout = 39, "preamble_timeout";
    /// No route takes the name, or the protocols, that a TLS client asks for.
    NoRoute = 40, "no_route";
    /// No backend took a connection that was to be passed on; the error's class says why.
    NotTaken = 41, "not_taken";
    /// The backend broke off within its response or a tunnel, or what came was no response.
    BackendBroke = 42, "backend_broke";
}

impl Cause {
    /// Whether no client does that by mistake.
    #[must_use]
    pub const fn is_flood(self) -> bool {
        matches!(
            self,
            Self::ResetFlood
                | Self::ContinuationFlood
                | Self::DataFlood
                | Self::SettingsFlood
                | Self::PingFlood
                | Self::FrameFlood
        )
    }
}

const _: () = assert!(Cause::ALL.len() <= CAUSES_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_stand_at_their_index_and_have_names_of_their_own() {
        for (index, cause) in Cause::ALL.iter().enumerate() {
            assert_eq!(*cause as usize, index);
            let same = Cause::ALL.iter().filter(|other| other.name() == cause.name());
            assert_eq!(same.count(), 1, "{}", cause.name());
        }
    }
}
