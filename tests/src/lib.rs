//! What whole-system tests share beyond the laboratory (`steerage_lab`).

pub mod stand;
