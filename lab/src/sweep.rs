//! Removing what a killed run left behind.
//!
//! Names of namespaces and directories carry the pid of their maker (`PREFIX-PID-…`). Where no
//! process of that id lives, nobody else will remove them.

use std::fs;
use std::path::Path;

use crate::netns::Netns;
use crate::process::alive;

/// The daemon's pin directory by default: one directory an instance.
pub const PINS: &str = "/sys/fs/bpf/steerage";

/// Removes namespaces, pins and scratch directories of dead makers whose names begin with `prefix`.
/// Gives how many things were removed.
#[must_use]
pub fn leftovers(prefix: &str) -> usize {
    let mut removed = 0;
    for name in orphans("/run/netns", prefix) {
        drop(Netns::adopt(name));
        removed += 1;
    }
    for directory in [PINS, "/run", "/tmp"] {
        for name in orphans(directory, prefix) {
            if fs::remove_dir_all(Path::new(directory).join(name)).is_ok() {
                removed += 1;
            }
        }
    }
    removed
}

fn orphans(directory: &str, prefix: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| maker(name, prefix).is_some_and(|pid| !alive(pid))).collect()
}

/// The pid in `PREFIX-PID` or `PREFIX-PID-…`.
fn maker(name: &str, prefix: &str) -> Option<u32> {
    name.strip_prefix(prefix)?.strip_prefix('-')?.split('-').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_our_kind_have_a_maker() {
        assert_eq!(maker("steerage-demo-12-client", "steerage-demo"), Some(12));
        assert_eq!(maker("steerage-demo-12", "steerage-demo"), Some(12));
        assert_eq!(maker("steerage-demonstration-12", "steerage-demo"), None);
        assert_eq!(maker("steerage", "steerage-demo"), None);
    }
}
