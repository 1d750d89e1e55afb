//! The frame as the kernel hands it over: the only pointer arithmetic on packets.
//!
//! Headers are packed structs, so that a reference to one asks for no alignment; what the compiler
//! makes of their fields are plain loads, which the kernel allows wherever the hardware does.

use core::mem::{size_of, transmute, transmute_copy};

use aya_ebpf::programs::XdpContext;
use zerocopy::FromBytes;

/// An Ethernet header.
#[repr(C, packed)]
pub struct Ethernet {
    pub destination: Mac,
    pub source: Mac,
    pub kind_be: u16,
}

impl Ethernet {
    /// Sends it back where it came from.
    #[inline(always)]
    pub fn turn(&mut self) {
        (self.source, self.destination) = (self.destination, self.source);
    }
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

/// An IPv6 header.
#[repr(C, packed)]
pub struct Ipv6 {
    pub version_and_class: u8,
    pub class_and_label: u8,
    pub label: u16,
    pub payload_length_be: u16,
    pub next: u8,
    pub hops: u8,
    pub source: Address,
    pub destination: Address,
}

impl Ipv6 {
    /// Version, traffic class and flow label.
    #[inline(always)]
    pub fn set_first(&mut self, first: u32) {
        let [version_and_class, class_and_label, label @ ..] = first.to_be_bytes();
        self.version_and_class = version_and_class;
        self.class_and_label = class_and_label;
        self.label = u16::from_ne_bytes(label);
    }
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

/// What every message of ICMP and ICMPv6 begins with.
#[repr(C, packed)]
pub struct Icmp {
    pub kind: u8,
    pub code: u8,
    pub checksum: Checksum,
    /// Of "too big", the size that fits: all of it in ICMPv6, its last two bytes in ICMP.
    pub rest: [u16; 2],
}

/// The fragment header of IPv6.
#[repr(C, packed)]
pub struct Fragment {
    pub next: u8,
    pub reserved: u8,
    /// The offset in units of eight bytes, two reserved bits, "more fragments".
    pub offset_be: u16,
    pub identification: u32,
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
unsafe impl Header for Ipv6 {}
// SAFETY: as above.
unsafe impl Header for Ports {}
// SAFETY: as above.
unsafe impl Header for Tcp {}
// SAFETY: as above.
unsafe impl Header for Udp {}
// SAFETY: as above.
unsafe impl Header for Icmp {}
// SAFETY: as above.
unsafe impl Header for Fragment {}

/// Bytes of any meaning.
#[repr(transparent)]
struct Piece<const N: usize>([u8; N]);

// SAFETY: bytes.
unsafe impl<const N: usize> Header for Piece<N> {}

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
        let raw = context.ctx;
        // SAFETY: the run's own context. Volatile, or the compiler may hand the two to a function that
        // gets the context, as plain numbers, which the kernel takes for pointers no more.
        let (start, end) = unsafe {
            ((&raw const (*raw).data).read_volatile(), (&raw const (*raw).data_end).read_volatile())
        };
        Self::between(start, end)
    }

    /// The frame from one pointer to another, as contexts hold them.
    #[inline(always)]
    pub fn between(start: u32, end: u32) -> Self {
        Self { start: start as usize, end: end as usize }
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

impl Frame {
    /// Copies its beginning; bytes of `to` beyond its end stay as they are.
    #[inline(always)]
    pub fn copy_to<const N: usize>(&self, to: &mut [u8; N]) {
        // No frame is shorter; and the kernel does not follow a comparison of its very start.
        if !self.copy_piece::<8, N>(0, to) {
            return;
        }
        let mut at = 8;
        while at + 8 <= N && self.copy_piece::<8, N>(at, to) {
            at += 8;
        }
        if at + 4 <= N && self.copy_piece::<4, N>(at, to) {
            at += 4;
        }
        if at + 2 <= N && self.copy_piece::<2, N>(at, to) {
            at += 2;
        }
        if at < N {
            self.copy_piece::<1, N>(at, to);
        }
    }

    /// Copies `P` bytes at an offset of both; false if the frame has no so many.
    #[inline(always)]
    fn copy_piece<const P: usize, const N: usize>(&self, at: usize, to: &mut [u8; N]) -> bool {
        // SAFETY: nothing else refers to the frame meanwhile.
        let Some(piece) = (unsafe { self.header::<Piece<P>>(at) }) else { return false };
        match to.get_mut(at..at + P) {
            Some(to) => to.copy_from_slice(&piece.0),
            None => return false,
        }
        true
    }

    /// The network header, for the one step that changes it.
    #[inline(always)]
    pub fn network<'a, T: Header>(&self) -> Option<&'a mut T> {
        // SAFETY: steps that change headers hold no other reference to this one.
        unsafe { self.header(size_of::<Ethernet>()) }
    }
}

/// A value that lies on an 8-byte boundary of the stack, where the kernel checks alignment while the
/// compiler moves whole words.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub struct Aligned<T>(pub T);

/// An address as two words of memory; IPv4 addresses fill the first four bytes.
///
/// By words: what the compiler makes of an array of bytes is a loop over bytes, which is slow to run
/// and slower to verify.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C, packed)]
pub struct Address(pub u64, pub u64);

impl Address {
    /// An IPv4 address, as it lies in the packet.
    #[inline(always)]
    pub fn v4(address: u32) -> Self {
        Self(u64::from(u32::from_le_bytes(address.to_ne_bytes())).to_le(), 0)
    }

    /// The address that 16 bytes of the tables hold.
    #[inline(always)]
    pub fn of(field: &[u8; 16]) -> Self {
        // SAFETY: 16 readable bytes; the type asks for no alignment.
        unsafe { (&raw const *field).cast::<Self>().read() }
    }

    /// The 16 bytes for the tables.
    #[inline(always)]
    pub fn bytes(self) -> [u8; 16] {
        // SAFETY: two words are 16 bytes.
        unsafe { transmute(self) }
    }

    /// The IPv4 address, as it lies in packets.
    #[inline(always)]
    pub fn to_v4(self) -> u32 {
        u32::from_ne_bytes((u64::from_le(self.0) as u32).to_le_bytes())
    }

    /// The address as the kernel's IPv6 structs have it.
    #[inline(always)]
    pub fn quarters(self) -> [u32; 4] {
        // SAFETY: two words are four halves.
        unsafe { transmute(self) }
    }

    /// The inverse of [`Address::quarters`].
    #[inline(always)]
    pub fn of_quarters(quarters: [u32; 4]) -> Self {
        // SAFETY: as above.
        unsafe { transmute(quarters) }
    }

    /// One word of both, which an attacker may steer.
    #[inline(always)]
    pub fn folded(self) -> u64 {
        self.0 ^ self.1.rotate_left(29)
    }
}

/// A key of up to 24 bytes: an address, then fields that fill a word.
///
/// By whole words: the kernel hashes and compares keys by words, and a load that spans several fresh
/// stores has to wait for all of them.
#[inline(always)]
pub fn key_of<K: FromBytes>(address: Address, first: u32, second: u16, third: u16) -> Aligned<K> {
    const { assert!(size_of::<K>() <= 24) };
    let (first, second, third) = (u64::from(first), u64::from(second), u64::from(third));
    let tail = if cfg!(target_endian = "little") {
        first | second << 32 | third << 48
    } else {
        first << 32 | second << 16 | third
    };
    // SAFETY: the source is no smaller, and `FromBytes` takes any bits.
    Aligned(unsafe { transmute_copy(&[address.0, address.1, tail]) })
}

/// Two halves of a word, in the order that they have in memory.
#[inline(always)]
pub fn halves(first: u16, second: u16) -> u32 {
    let (first, second) = (u32::from(first), u32::from(second));
    if cfg!(target_endian = "little") { first | second << 16 } else { first << 16 | second }
}

/// A link address, in halfwords as it lies in memory.
///
/// Link addresses stand at odd halfwords of the structs that hold them; on the stack the kernel allows
/// no wider access there, and the accesses are volatile so that the compiler makes no wider ones.
#[derive(Clone, Copy)]
#[repr(C, packed)]
pub struct Mac([u16; 3]);

impl Mac {
    /// Whether it is that of several hosts, or of all.
    #[inline(always)]
    pub fn is_group(self) -> bool {
        let [first, _] = self.0[0].to_ne_bytes();
        first & 1 != 0
    }

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
