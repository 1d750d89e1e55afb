//! What whole-system tests share beyond the laboratory (`steerage_lab`): an installation ([`stand`]),
//! backends that misbehave ([`scripted`]; [`moody`], at the test's word), the race with them ([`race`]),
//! what becomes of requests under their moods ([`scenarios`]), an open-loop client ([`load`]), the same beside a SYN flood ([`flooded`]), backends by
//! the thousand ([`probed`]), a DNS server ([`dns`]), the tables of a running daemon
//! ([`pinned`]), and the harness that runs the XDP program on packets
//! ([`xdp`]).

pub mod certified;
pub mod dns;
pub mod flooded;
pub mod load;
pub mod moody;
pub mod namer;
pub mod peer;
pub mod pinned;
pub mod probed;
pub mod python;
pub mod race;
pub mod scenarios;
pub mod scripted;
pub mod stand;
pub mod upgrades;
pub mod xdp;
pub mod year;
