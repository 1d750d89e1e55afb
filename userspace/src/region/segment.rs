//! One mapped table: `len` values of `T`, shared with other processes and the kernel.
#![allow(unsafe_code)]

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd};

use memmap2::{MmapOptions, MmapRaw};

/// A table of `T`, which must be made of atomics (or handle sharing itself): the memory changes
/// under our eyes.
#[derive(Debug)]
pub struct Segment<T> {
    map: MmapRaw,
    len: usize,
    values: PhantomData<T>,
}

impl<T: Shareable> Segment<T> {
    /// Maps `len` values.
    pub fn map(fd: &impl AsFd, len: usize) -> io::Result<Self> {
        Self::map_at(fd, 0, len)
    }

    /// Maps `len` values that begin so many bytes, of whole pages, into the table.
    pub fn map_at(fd: &impl AsFd, offset: usize, len: usize) -> io::Result<Self> {
        const { assert!(size_of::<T>().is_multiple_of(8), "arrays stride in units of 8 bytes") };
        let bytes = page_rounded(len * size_of::<T>());
        let map =
            MmapOptions::new().offset(offset as u64).len(bytes).map_raw(fd.as_fd().as_raw_fd())?;
        Ok(Self { map, len, values: PhantomData })
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The value at `index`.
    #[inline]
    pub fn get(&self, index: usize) -> &T {
        assert!(index < self.len, "index {index} of a shared table of {}", self.len);
        // SAFETY: the mapping is `len` values long and lives as long as `self`; it begins on a page,
        // and T's alignment divides its size and is at most a cache line; all bit patterns are valid
        // and concurrent changes are allowed for, by the contract of Shareable.
        unsafe { &*self.map.as_ptr().cast::<T>().add(index) }
    }
}

/// Plain memory in which every bit pattern is valid and every access through a shared reference is
/// atomic or otherwise sound while other processes write.
///
/// # Safety
/// The type must be so.
pub unsafe trait Shareable {}

// SAFETY: atomics are made for this; all bit patterns are valid.
unsafe impl Shareable for std::sync::atomic::AtomicU64 {}

/// The length of a mapping that holds `bytes`.
pub fn page_rounded(bytes: usize) -> usize {
    // BPF arrays map whole pages; Linux pages are at least this large and the kernel rounds up.
    bytes.next_multiple_of(4096)
}
