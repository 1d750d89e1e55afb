//! Why Steerage cut off what a client had open, where no reply of its own says it.
//!
//! What a client can still be told is an [`crate::error::ErrorClass`]; this is the rest: connections
//! that break HTTP/2's rules or flood, streams and connections whose client does not do its part after
//! the response has begun, and tunnels.

/// Room for causes in the shared region.
pub const CUTS_MAX: usize = 16;

macro_rules! cuts {
    ($($(#[$doc:meta])+ $cut:ident = $index:literal, $name:literal;)+) => {
        /// Why a client's connection, stream or tunnel was cut off: index into
        /// [`crate::abi::WorkerLine::cuts`], so new ones go to the end.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(usize)]
        pub enum Cut {
            $($(#[$doc])+ $cut = $index,)+
        }

        impl Cut {
            /// All causes, in index order.
            pub const ALL: &[Self] = &[$(Self::$cut),+];

            /// The cause's name in metrics and logs.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$cut => $name,)+
                }
            }
        }
    };
}

cuts! {
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
    /// The rest of a request's body came too slowly, after the response had begun.
    BodyTimeout = 8, "body_timeout";
    /// Nothing moved in a tunnel for too long.
    TunnelIdle = 9, "tunnel_idle";
    /// One way of a tunnel had ended, and the other did not follow.
    TunnelHalfClosed = 10, "tunnel_half_closed";
    /// A tunnel's backend was taken out of service, or its drain's deadline came.
    BackendOut = 11, "backend_out";
    /// The worker ended, and its drain's deadline came.
    Drained = 12, "drained";
}

impl Cut {
    /// Whether no client does that by mistake.
    #[must_use]
    pub const fn is_flood(self) -> bool {
        match self {
            Self::ResetFlood
            | Self::ContinuationFlood
            | Self::DataFlood
            | Self::SettingsFlood
            | Self::PingFlood
            | Self::FrameFlood => true,
            Self::Http2Protocol
            | Self::ResponseStall
            | Self::BodyTimeout
            | Self::TunnelIdle
            | Self::TunnelHalfClosed
            | Self::BackendOut
            | Self::Drained => false,
        }
    }
}

const _: () = assert!(Cut::ALL.len() <= CUTS_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_stand_at_their_index_and_have_names_of_their_own() {
        for (index, cut) in Cut::ALL.iter().enumerate() {
            assert_eq!(*cut as usize, index);
            let same = Cut::ALL.iter().filter(|other| other.name() == cut.name());
            assert_eq!(same.count(), 1, "{}", cut.name());
        }
    }
}
