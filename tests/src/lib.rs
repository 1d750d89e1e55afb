//! What whole-system tests share beyond the laboratory (`steerage_lab`): an installation ([`stand`]),
//! backends that misbehave ([`scripted`]), the race with them ([`race`]), backends by the thousand
//! ([`probed`]), a DNS server ([`dns`]), and the harness that runs the XDP program on packets ([`xdp`]).

pub mod dns;
pub mod probed;
pub mod race;
pub mod scripted;
pub mod stand;
pub mod xdp;
