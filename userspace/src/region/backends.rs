//! One half of the double-buffered backend table.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;

use steerage_common::abi::{Backend, BackendTable};
use steerage_common::slot::Slot;

use super::segment::Shareable;

/// [`BackendTable`], written only while no generation in force uses it.
#[derive(Debug)]
#[repr(transparent)]
pub struct Table(UnsafeCell<BackendTable>);

impl Table {
    /// Copies one entry out. The caller checks that the generation did not change meanwhile.
    pub fn read(&self, slot: Slot) -> Backend {
        let table = self.0.get();
        // SAFETY: the pointer is valid for the table's life, and the entry is plain data in which any
        // bits are valid; a volatile read, because another process may write at the same time. What
        // was read then is thrown away by the generation check.
        unsafe { (&raw const (*table).entries[slot.index()]).read_volatile() }
    }

    /// Replaces the whole half.
    pub fn write(&self, generation: u64, entries: &[(Slot, Backend)]) {
        let table = self.0.get();
        // SAFETY: the supervisor is the only writer, and this half is not in force; late readers of
        // an older generation throw away what they read.
        unsafe {
            (&raw mut (*table).generation).write_volatile(generation);
            (&raw mut (*table).count).write_volatile(entries.len() as u32);
            let all = &raw mut (*table).entries;
            std::ptr::write_bytes(all, 0, 1);
            for (slot, backend) in entries {
                (&raw mut (*all)[slot.index()]).write_volatile(*backend);
            }
        }
    }
}

// SAFETY: as for other processes, so for other threads: volatile accesses, checked by generation.
unsafe impl Sync for Table {}

// SAFETY: plain data, read and written through raw pointers only.
unsafe impl Shareable for Table {}

const _: () = assert!(size_of::<Table>() == size_of::<BackendTable>());
