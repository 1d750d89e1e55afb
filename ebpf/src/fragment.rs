//! Packets that come in pieces. The first piece has the ports and goes the way of any packet; where
//! it went is remembered by source, destination, protocol and identification, and the others follow
//! it there. Whoever sent the first one is asked for it again by its own transport if the others came
//! before it: they are dropped, as nothing is kept here.

use aya_ebpf::{
    bindings::{
        BPF_ANY,
        xdp_action::{XDP_DROP, XDP_PASS},
        xdp_md,
    },
    programs::XdpContext,
};
use steerage_common::{
    abi::{
        FAMILY_IPV4, FAMILY_IPV6, FragmentKey, Fragmented, MODE_NAT, PROTOCOL_TCP, Reason, Vip,
        serves,
    },
    steer::NOBODY,
};

use crate::{
    balance::Snapshot,
    flow::{Placed, now_ns},
    maps::{FRAGMENTS, PIECE},
    nat,
    packet::{Address, Ethernet, Fragment, Frame, Ipv4, Ipv6, Ports},
    parse::{
        ETHERNET_BYTES, FRAGMENT_UNIT, KIND_IPV4_BE, MORE_V4_BE, MORE_V6_BE, OFFSET_V4_BE,
        OFFSET_V6_BE, Packet,
    },
    rest,
    rewrite::{self, Endpoints},
    route,
    verdict::{count, is_reply, note},
    vip,
};

/// As long as Linux waits for the rest of a packet (`net.ipv4.ipfrag_time`); after that an
/// identification may be another packet's.
const LIFETIME_NS: u64 = 30_000_000_000;
/// The most bytes that the pieces of a packet make.
const BYTES_MAX: usize = u16::MAX as usize;

/// Where keys and values are made: in a map and not on the stack, for the stack's sake.
#[repr(C)]
pub struct Scratch {
    key: FragmentKey,
    whole: Fragmented,
}

impl Scratch {
    #[inline(always)]
    fn get() -> Option<&'static mut Self> {
        // SAFETY: this CPU's own; programs on one CPU do not interrupt each other here.
        PIECE.get_ptr_mut(0).map(|scratch| unsafe { &mut *scratch })
    }
}

/// Of a packet that is the host's.
const FOREIGN: Fragmented = Fragmented {
    at_ns: 0,
    hash: 0,
    source: [0; 16],
    destination: [0; 16],
    epoch: 0,
    slot: NOBODY,
    vip: 0,
    mode: 0,
    flags: 0,
    is_reply: 0,
    reserved: [0; 5],
};

/// Remembers where a client's packet goes, of which this is the first piece, before it is changed.
#[inline(always)]
pub fn remember(context: &XdpContext, vip: &Vip, placed: &Placed) {
    let (mode, flags) = (u64::from(vip.mode), u64::from(vip.flags));
    let vip = u64::from(vip.index) | mode << 16 | flags << 24;
    // SAFETY: the run's own context.
    unsafe { fragment_remember(context.ctx, placed.hash, placed.slot.into(), vip) };
}

/// Remembers that a packet, of which this is the first piece, is the host's, if its address has vips.
#[inline(always)]
pub fn remember_foreign(context: &XdpContext) {
    // SAFETY: the run's own context.
    unsafe { fragment_remember(context.ctx, 0, NOBODY.into(), 0) };
}

/// Remembers where a backend's packet goes, of which this is the first piece, before it is changed.
#[inline(always)]
pub fn remember_reply(context: &XdpContext) {
    // SAFETY: the run's own context.
    unsafe { fragment_remember_reply(context.ctx) };
}

/// # Safety
/// The context is the run's own.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn fragment_remember(
    context: *mut xdp_md,
    hash: u64,
    slot: u64,
    vip: u64,
) -> u32 {
    let frame = Frame::of(&XdpContext::new(context));
    let (Some(packet), Some(now)) = (Packet::of(frame), Snapshot::take()) else { return 0 };
    let (slot, mode) = (slot as u16, (vip >> 16) as u8);
    if slot == NOBODY {
        if vip::any_at(packet.destination, packet.family, serves(packet.protocol)) {
            insert(&packet, FOREIGN);
        }
        return 0;
    }
    let backend = now.backend(slot);
    let whole = Fragmented {
        hash,
        source: backend.source,
        destination: backend.address,
        epoch: backend.epoch,
        slot,
        vip: vip as u16,
        mode,
        flags: (vip >> 24) as u8,
        ..FOREIGN
    };
    insert(&packet, whole);
    0
}

/// # Safety
/// The context is the run's own.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn fragment_remember_reply(context: *mut xdp_md) -> u32 {
    let frame = Frame::of(&XdpContext::new(context));
    let (Some(packet), Some(now)) = (Packet::of(frame), Snapshot::take()) else { return 0 };
    let Some(entry) = nat::of_reply(&packet) else { return 0 };
    if is_reply(&packet, entry, &now) {
        let whole = Fragmented {
            source: entry.vip_address,
            destination: entry.client,
            epoch: now.backend(entry.slot).epoch,
            slot: entry.slot,
            vip: entry.vip,
            mode: MODE_NAT,
            is_reply: 1,
            ..FOREIGN
        };
        insert(&packet, whole);
    }
    0
}

#[inline(always)]
fn insert(packet: &Packet<'_>, whole: Fragmented) {
    let identification = if packet.family == FAMILY_IPV4 {
        let Some(ip) = packet.frame.network::<Ipv4>() else { return };
        ip.identification.into()
    } else {
        // SAFETY: nothing else refers to it.
        let header = unsafe { packet.frame.header::<Fragment>(ETHERNET_BYTES + size_of::<Ipv6>()) };
        let Some(fragment) = header else { return };
        fragment.identification
    };
    let Some(scratch) = Scratch::get() else { return };
    scratch.key = key_of(packet, identification);
    scratch.whole = Fragmented { at_ns: now_ns(), ..whole };
    // A full table loses the oldest; if this one is not taken its other pieces are dropped, counted.
    let _ = FRAGMENTS.insert(&scratch.key, &scratch.whole, BPF_ANY.into());
}

#[inline(always)]
fn key_of(packet: &Packet<'_>, identification: u32) -> FragmentKey {
    let Packet { protocol, family, .. } = *packet;
    let (source, destination) = (packet.source.bytes(), packet.destination.bytes());
    FragmentKey { source, destination, identification, protocol, family, reserved: 0 }
}

/// A piece that is not the first.
struct Piece<'a> {
    packet: Packet<'a>,
    identification: u32,
    /// Bytes of the packet before it.
    offset: usize,
    is_last: bool,
}

impl<'a> Piece<'a> {
    #[inline(always)]
    fn of(frame: Frame, ports: &'a mut Ports) -> Option<Self> {
        // SAFETY: headers of different bytes; nothing else refers to them.
        let ethernet: &mut Ethernet = unsafe { frame.header(0)? };
        if ethernet.kind_be == KIND_IPV4_BE {
            let ip = frame.network::<Ipv4>()?;
            let packet = Packet {
                ethernet,
                ports,
                source: Address::v4(ip.source),
                destination: Address::v4(ip.destination),
                family: FAMILY_IPV4,
                protocol: ip.protocol,
                ttl: ip.ttl,
                class: ip.service,
                ip_bytes: u16::from_be(ip.total_length_be).into(),
                frame,
                header_bytes: usize::from(ip.version_and_length & 0xf) * 4,
                is_fragment: false,
            };
            return Some(Self {
                packet,
                identification: ip.identification.into(),
                offset: usize::from(u16::from_be(ip.fragment_be & OFFSET_V4_BE)) * FRAGMENT_UNIT,
                is_last: ip.fragment_be & MORE_V4_BE == 0,
            });
        }
        let ip = frame.network::<Ipv6>()?;
        let at = ETHERNET_BYTES + size_of::<Ipv6>();
        // SAFETY: as above.
        let fragment: &mut Fragment = unsafe { frame.header(at)? };
        let packet = Packet {
            ethernet,
            ports,
            source: ip.source,
            destination: ip.destination,
            family: FAMILY_IPV6,
            protocol: fragment.next,
            ttl: ip.hops,
            class: ip.version_and_class << 4 | ip.class_and_label >> 4,
            ip_bytes: size_of::<Ipv6>() + usize::from(u16::from_be(ip.payload_length_be)),
            frame,
            header_bytes: size_of::<Ipv6>() + size_of::<Fragment>(),
            is_fragment: false,
        };
        Some(Self {
            packet,
            identification: fragment.identification,
            offset: u16::from_be(fragment.offset_be & OFFSET_V6_BE).into(),
            is_last: fragment.offset_be & MORE_V6_BE == 0,
        })
    }

    /// Whether no host would take it.
    #[inline(always)]
    fn is_malformed(&self) -> bool {
        let Packet { ip_bytes, header_bytes, protocol, frame, .. } = &self.packet;
        let is_whole = ETHERNET_BYTES + *ip_bytes <= frame.len() && ip_bytes > header_bytes;
        let payload = ip_bytes.wrapping_sub(*header_bytes);
        !is_whole
            || *header_bytes < size_of::<Ipv4>()
            || self.offset + payload > BYTES_MAX
            || !self.is_last && !payload.is_multiple_of(FRAGMENT_UNIT)
            // It could lie over the flags that the first piece was looked at for (RFC 1858).
            || *protocol == PROTOCOL_TCP && self.offset == FRAGMENT_UNIT
    }
}

/// The verdict on a piece that is not the first.
///
/// # Safety
/// The context is the run's own.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn fragment_receive(context: *mut xdp_md) -> u32 {
    let context = XdpContext::new(context);
    let mut none = Ports { source_be: 0, destination_be: 0 };
    let Some(piece) = Piece::of(Frame::of(&context), &mut none) else { return XDP_PASS };
    follow(&context, piece).unwrap_or_else(|reason| {
        note(reason);
        XDP_DROP
    })
}

#[inline(always)]
fn follow(context: &XdpContext, piece: Piece<'_>) -> Result<u32, Reason> {
    let Packet { destination, family, protocol, .. } = piece.packet;
    let Some(scratch) = Scratch::get() else { return Ok(XDP_PASS) };
    scratch.key = key_of(&piece.packet, piece.identification);
    // SAFETY: an entry that is evicted while this reference lives may show where another packet goes,
    // for this one piece; its receiver will not put it together.
    let whole = unsafe { FRAGMENTS.get(&scratch.key) };
    let is_fresh = |whole: &&Fragmented| now_ns().wrapping_sub(whole.at_ns) < LIFETIME_NS;
    let Some(whole) = whole.filter(is_fresh) else {
        let is_ours = vip::any_at(destination, family, serves(protocol));
        return if is_ours { Err(Reason::OrphanFragment) } else { Ok(XDP_PASS) };
    };
    let Some(now) = Snapshot::take().filter(|_| whole.slot != NOBODY) else { return Ok(XDP_PASS) };
    if piece.is_malformed() {
        return Err(Reason::Malformed);
    }
    if now.backend(whole.slot).epoch != whole.epoch {
        return Err(Reason::OrphanFragment);
    }
    // Nobody is told: errors are about first pieces alone (RFC 1122, section 3.2.2).
    if piece.packet.ttl <= 1 {
        return Err(Reason::TtlExpired);
    }
    let mut packet = piece.packet;
    let bytes = packet.bytes() as u64;
    let (vip, slot, is_reply) = (whole.vip, whole.slot, whole.is_reply != 0);
    let action = if whole.mode == MODE_NAT {
        translate(context, &mut packet, whole)?
    } else {
        let placed = Placed { slot, hash: whole.hash };
        rest::carry(context, &mut packet, whole.mode, whole.flags, &placed, &now)?
    };
    count(vip, slot, |traffic| {
        if is_reply {
            traffic.out_packets += 1;
            traffic.out_bytes += bytes;
        } else {
            traffic.in_packets += 1;
            traffic.in_bytes += bytes;
        }
    });
    note(Reason::Fragment);
    Ok(action)
}

/// Mode `nat`, either way: new addresses; the ports and the checksum are in the first piece.
#[inline(always)]
fn translate(
    context: &XdpContext,
    packet: &mut Packet<'_>,
    whole: &Fragmented,
) -> Result<u32, Reason> {
    let to = Endpoints {
        source: Address::of(&whole.source),
        destination: Address::of(&whole.destination),
        source_port_be: 0,
        destination_port_be: 0,
    };
    let hop = route::next_hop(context, &to.way(packet.family), packet.ip_bytes)?;
    let _ = rewrite::readdress(packet.frame, packet.family, &to);
    packet.ethernet.source = hop.own_mac;
    packet.ethernet.destination = hop.peer_mac;
    Ok(route::send(context, &hop))
}
