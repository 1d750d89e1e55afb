//! The frame as the kernel hands it over: the only pointer arithmetic on packets.
//!
//! Headers are packed structs, so that a reference to one asks for no alignment; what the compiler
//! makes of their fields are plain loads, which the kernel allows wherever the hardware does.

use core::mem::{size_of, transmute_copy};

use aya_ebpf::programs::XdpContext;
use zerocopy::FromBytes;

/// An Ethernet header.
#[repr(C, packed)]
pub struct Ethernet {
    pub destination: Mac,
    pub source: Mac,
    pub kind_be: u16,
}

/// An IPv4 header without its options.
#[repr(C, packed)]
pub struct Ipv4 {
    pub version_and_length: u8,
    pub service: u8,
    pub total_length_be: u16,
    pub identification: u16,
    pub fragment_be: u16,
    pub ttl: u8,
    pub protocol: u8,
    pub checksum: u16,
    pub source: u32,
    pub destination: u32,
}

/// What TCP and UDP begin with.
#[repr(C, packed)]
pub struct Ports {
    pub source_be: u16,
    pub destination_be: u16,
}

/// A TCP header after its ports, without its options.
#[repr(C, packed)]
pub struct Tcp {
    pub sequence: u32,
    pub acknowledgement: u32,
    pub length: u8,
    pub flags: u8,
    pub window: u16,
    pub checksum: Checksum,
    pub urgent: u16,
}

/// A UDP header after its ports.
#[repr(C, packed)]
pub struct Udp {
    pub length_be: u16,
    pub checksum: Checksum,
}

/// A checksum field, as it lies in the packet.
#[derive(Clone, Copy)]
#[repr(C, packed)]
pub struct Checksum(pub u16);

/// Marks headers: plain bytes, in which any bit pattern means something.
///
/// # Safety
/// The type has an alignment of one and no invalid bit patterns.
pub unsafe trait Header {}

// SAFETY: packed structs of integers and byte arrays.
unsafe impl Header for Ethernet {}
// SAFETY: as above.
unsafe impl Header for Ipv4 {}
// SAFETY: as above.
unsafe impl Header for Ports {}
// SAFETY: as above.
unsafe impl Header for Tcp {}
// SAFETY: as above.
unsafe impl Header for Udp {}

/// A frame of one program run.
#[derive(Clone, Copy)]
pub struct Frame {
    start: usize,
    end: usize,
}

impl Frame {
    /// The frame that the program was called for.
    #[inline(always)]
    pub fn of(context: &XdpContext) -> Self {
        Self { start: context.data(), end: context.data_end() }
    }

    /// Its bytes, without the frame check.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// The header at `offset`, if all of it lies within the frame.
    ///
    /// # Safety
    /// No other reference to any of its bytes is used while this one lives.
    #[inline(always)]
    pub unsafe fn header<'a, T: Header>(&self, offset: usize) -> Option<&'a mut T> {
        let at = self.start + offset;
        if at + size_of::<T>() > self.end {
            return None;
        }
        // SAFETY: in bounds, as just checked; `Header` asks for no alignment and allows all bits; the
        // caller keeps it unshared. The frame outlives the program's run.
        Some(unsafe { &mut *(at as *mut T) })
    }
}

/// A value that lies on an 8-byte boundary of the stack, where the kernel checks alignment while the
/// compiler moves whole words.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub struct Aligned<T>(pub T);

/// The 16 bytes of an address.
///
/// By words: what the compiler makes of an array of bytes is a loop over bytes, which is slow to run
/// and slower to verify.
#[inline(always)]
pub fn copied(address: &[u8; 16]) -> [u8; 16] {
    wide(address).to_ne_bytes()
}

/// Whether two addresses are the same.
#[inline(always)]
pub fn is_same(a: &[u8; 16], b: &[u8; 16]) -> bool {
    wide(a) == wide(b)
}

#[inline(always)]
fn wide(address: &[u8; 16]) -> u128 {
    // SAFETY: 16 readable bytes, of any alignment.
    unsafe { (&raw const *address).cast::<u128>().read_unaligned() }
}

/// An IPv4 address, as it lies in the packet, in the 16 bytes of the tables.
#[inline(always)]
pub fn widened(address: u32) -> [u8; 16] {
    // By way of one wide number, so that the zeros are stored on a word's boundary.
    u128::from(u32::from_le_bytes(address.to_ne_bytes())).to_le_bytes()
}

/// A key of up to 24 bytes: an IPv4 address widened, then fields that fill a word.
///
/// By whole words: the kernel hashes and compares keys by words, and a load that spans several fresh
/// stores has to wait for all of them.
#[inline(always)]
pub fn key_of<K: FromBytes>(address: u32, first: u32, second: u16, third: u16) -> Aligned<K> {
    const { assert!(size_of::<K>() <= 24) };
    let (first, second, third) = (u64::from(first), u64::from(second), u64::from(third));
    let tail = if cfg!(target_endian = "little") {
        first | second << 32 | third << 48
    } else {
        first << 32 | second << 16 | third
    };
    let address = u64::from(u32::from_le_bytes(address.to_ne_bytes())).to_le();
    // SAFETY: the source is no smaller, and `FromBytes` takes any bits.
    Aligned(unsafe { transmute_copy(&[address, 0, tail]) })
}

/// Two halves of a word, in the order that they have in memory.
#[inline(always)]
pub fn halves(first: u16, second: u16) -> u32 {
    let (first, second) = (u32::from(first), u32::from(second));
    if cfg!(target_endian = "little") { first | second << 16 } else { first << 16 | second }
}

/// The IPv4 address that 16 bytes of the tables hold, as it lies in packets.
#[inline(always)]
pub fn narrowed(field: &[u8; 16]) -> u32 {
    // SAFETY: 4 readable bytes, of any alignment.
    unsafe { (&raw const *field).cast::<u32>().read_unaligned() }
}

/// A link address, in halfwords as it lies in memory.
///
/// Link addresses stand at odd halfwords of the structs that hold them; on the stack the kernel allows
/// no wider access there, and the accesses are volatile so that the compiler makes no wider ones.
#[derive(Clone, Copy)]
#[repr(C, packed)]
pub struct Mac([u16; 3]);

impl Mac {
    /// Reads a field of a struct, which must lie at an even address.
    #[inline(always)]
    pub fn of(field: &[u8; 6]) -> Self {
        let words = (&raw const *field).cast::<u16>();
        // SAFETY: six readable bytes; the structs that have such fields are aligned to two bytes at
        // least, and the fields lie at even offsets.
        Self(unsafe {
            [words.read_volatile(), words.add(1).read_volatile(), words.add(2).read_volatile()]
        })
    }

    /// Writes a field of a struct, as [`Mac::of`] reads it.
    #[inline(always)]
    pub fn store(self, field: &mut [u8; 6]) {
        let words = (&raw mut *field).cast::<u16>();
        let [a, b, c] = self.0;
        // SAFETY: as in `of`, and writable.
        unsafe {
            words.write_volatile(a);
            words.add(1).write_volatile(b);
            words.add(2).write_volatile(c);
        }
    }
}
