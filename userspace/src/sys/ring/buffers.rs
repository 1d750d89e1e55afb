//! Buffers that the kernel receives into, picking a free one when bytes are there.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;
use memmap2::{MmapMut, MmapOptions};

/// Size of a buffer: a request's head, or a small response.
pub const BUFFER_BYTES: usize = 4096;

/// How many there are, a power of two. They are held from a completion until the task has read them,
/// mostly within one turn; without a free one, connections read by themselves.
const COUNT: u16 = 128;

/// The name of these buffers within the ring.
pub(super) const GROUP: u16 = 0;

/// A filled buffer. To be given back to the ring.
#[derive(Debug)]
pub struct Buffer {
    pub(super) id: u16,
    pub(super) length: usize,
}

impl Buffer {
    /// How many bytes came.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "there are none without bytes")]
    pub fn len(&self) -> usize {
        self.length
    }
}

/// The buffers, and the list of free ones that the kernel takes them from.
pub(super) struct Buffers {
    /// The list, then the buffers.
    memory: NonNull<u8>,
    tail: u16,
    _mapping: MmapMut,
}

/// Bytes of the list; the buffers begin after it, on a page of their own.
const LIST_BYTES: usize = (COUNT as usize * size_of::<BufRingEntry>()).next_multiple_of(4096);

impl Buffers {
    pub(super) fn new(submitter: &Submitter<'_>) -> io::Result<Self> {
        let bytes = LIST_BYTES + usize::from(COUNT) * BUFFER_BYTES;
        let mut mapping = MmapOptions::new().len(bytes).map_anon()?;
        let memory = NonNull::new(mapping.as_mut_ptr()).ok_or(io::ErrorKind::OutOfMemory)?;
        let list = memory.as_ptr() as u64;
        // SAFETY: the list begins on a page, has room for `COUNT` entries, and is unmapped after the
        // ring's end (order of the fields of `Ring`).
        unsafe { submitter.register_buf_ring_with_flags(list, COUNT, GROUP, 0)? };
        let mut buffers = Self { memory, tail: 0, _mapping: mapping };
        (0..COUNT).for_each(|id| buffers.give(id));
        Ok(buffers)
    }

    fn start(&self, id: u16) -> *mut u8 {
        let offset = LIST_BYTES + usize::from(id % COUNT) * BUFFER_BYTES;
        // SAFETY: within the mapping, which has room for `COUNT` buffers after the list.
        unsafe { self.memory.as_ptr().add(offset) }
    }

    pub(super) fn bytes(&self, buffer: &Buffer) -> &[u8] {
        let length = buffer.length.min(BUFFER_BYTES);
        // SAFETY: within the mapping. The kernel has filled the buffer and writes to it no more until
        // it is given back, which takes the `Buffer`.
        unsafe { std::slice::from_raw_parts(self.start(buffer.id), length) }
    }

    /// Makes a buffer free.
    pub(super) fn give(&mut self, id: u16) {
        let list = self.memory.as_ptr().cast::<BufRingEntry>();
        let start = self.start(id) as u64;
        // SAFETY: the entry is within the list, and behind its end for the kernel until the new end
        // is stored; the kernel reads the end and never writes it.
        unsafe {
            let entry = &mut *list.add(usize::from(self.tail % COUNT));
            entry.set_addr(start);
            entry.set_len(BUFFER_BYTES as u32);
            entry.set_bid(id);
            self.tail = self.tail.wrapping_add(1);
            let end = BufRingEntry::tail(list).cast::<AtomicU16>();
            (*end).store(self.tail, Ordering::Release);
        }
    }
}
