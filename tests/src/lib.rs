//! What whole-system tests share beyond the laboratory (`steerage_lab`), and the harness that runs
//! the XDP program on packets ([`xdp`]).

pub mod stand;
pub mod xdp;
