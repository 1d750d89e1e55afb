//! From the guards of a configuration to those of the packet programs.

use ipnet::IpNet;
use steerage_common::abi::{
    self, GUARD_LISTS_V4, GUARD_LISTS_V6, GUARD_OFFENDERS, LISTED_ALLOW, LISTED_DENY, LISTED_EXEMPT,
};
use steerage_common::guard::WINDOW_NS;
use steerage_common::hash::sip13_bytes;

use super::Error;
use crate::config::Model;
use crate::config::model::{Guard, Listener, Rate, table_address};
use crate::kernel::{Guarding, Kernel};

/// The most SYNs that a CPU counts for itself.
const BATCH_MAX: u32 = 64;

/// Indices of guards in the programs' tables; 0 for none.
#[derive(Debug)]
pub struct Indices {
    /// Parallel to the model's vips.
    pub vips: Vec<u16>,
    /// Parallel to the model's listeners.
    pub listeners: Vec<u16>,
}

impl Indices {
    /// All of them.
    pub fn all(&self) -> Vec<u16> {
        self.vips.iter().chain(&self.listeners).copied().collect()
    }
}

/// What the clients of a listener may do; `None` if nobody looks.
pub fn of_listener<'m>(model: &'m Model, listener: &'m Listener) -> Option<&'m Guard> {
    let guard = listener.guard.as_ref().unwrap_or(&model.guard);
    (listener.interface.is_some() && !guard.is_off()).then_some(guard)
}

/// Puts the guards of the model beside those in force.
pub fn set(model: &Model, kernel: &mut Kernel) -> Result<Indices, Error> {
    let cpus = aya::util::nr_cpus().map_or(1, |cpus| cpus as u32);
    let mut wanted: Vec<Guarding> = Vec::new();
    let mut shared = None;
    // Those without a guard of their own share what sources may do.
    let mut place = |own: Option<&Guard>, scope: String| {
        let guard = own.unwrap_or(&model.guard);
        if guard.is_off() {
            return None;
        }
        if own.is_none() && shared.is_some() {
            return shared;
        }
        let scope = if own.is_some() { scope } else { "all".to_owned() };
        wanted.push(guarding(guard, &scope, cpus));
        let at = Some(wanted.len() - 1);
        if own.is_none() {
            shared = at;
        }
        at
    };
    let vips: Vec<_> = model
        .vips
        .iter()
        .map(|vip| place(vip.guard.as_ref(), format!("vip {}", vip.name)))
        .collect();
    let listeners: Vec<_> = model
        .listeners
        .iter()
        .map(|listener| {
            let own = listener.guard.as_ref();
            of_listener(model, listener)?;
            place(own, format!("listener {}", listener.name))
        })
        .collect();
    let indices = kernel.set_guards(&wanted)?;
    let index = |place: Option<usize>| place.map_or(0, |place| indices[place]);
    Ok(Indices {
        vips: vips.into_iter().map(index).collect(),
        listeners: listeners.into_iter().map(index).collect(),
    })
}

/// A guard as the programs have it; `scope` says whose buckets and proofs it has.
fn guarding(guard: &Guard, scope: &str, cpus: u32) -> Guarding {
    let flag = |is_set, flag| if is_set { flag } else { 0 };
    let lists =
        [(&guard.deny, LISTED_DENY), (&guard.allow, LISTED_ALLOW), (&guard.exempt, LISTED_EXEMPT)];
    let mut prefixes: Vec<(IpNet, u32)> = lists
        .into_iter()
        .flat_map(|(nets, listed)| nets.iter().map(move |net| (*net, listed)))
        .collect();
    prefixes.sort_unstable();
    let has = |is_v4: bool| prefixes.iter().any(|(net, _)| net.addr().is_ipv4() == is_v4);
    let flood = guard.syn_flood;
    let begins = flood.map_or(0, |flood| per_window(flood.above));
    let nanoseconds = |time: std::time::Duration| time.as_nanos() as u64;
    let flags = flag(has(true), GUARD_LISTS_V4)
        | flag(has(false), GUARD_LISTS_V6)
        | flag(guard.offenders, GUARD_OFFENDERS);
    let guard = abi::Guard {
        packets: guard.packet_rate.map(rate).unwrap_or_default(),
        syns: guard.syn_rate.map(rate).unwrap_or_default(),
        mask_v4: mask(guard.prefix.v4, true),
        mask_v6: mask(guard.prefix.v6, false),
        proof_ns: flood.map_or(0, |flood| nanoseconds(flood.proof)),
        hold_ns: flood.map_or(0, |flood| nanoseconds(flood.hold)),
        flood_begins: begins,
        flood_goes_on: (begins / 2).max(1),
        // What CPUs keep to themselves is an eighth of the threshold at most.
        batch: (begins / (8 * cpus)).clamp(1, BATCH_MAX),
        flags,
        scope: sip13_bytes([0, 0], scope.as_bytes()) as u32,
        reserved: [0; 3],
    };
    Guarding { guard, prefixes }
}

fn rate(rate: Rate) -> abi::Rate {
    abi::Rate::per_second(rate.rate, rate.burst)
}

fn per_window(per_second: u32) -> u32 {
    (u64::from(per_second) * WINDOW_NS / 1_000_000_000) as u32
}

/// The first `bits` of an address as the tables hold it.
fn mask(bits: u8, is_v4: bool) -> [u8; 16] {
    let net = if is_v4 {
        ipnet::Ipv4Net::new([0, 0, 0, 0].into(), bits).map(|net| net.netmask().into())
    } else {
        ipnet::Ipv6Net::new([0; 16].into(), bits).map(|net| net.netmask().into())
    };
    net.map_or([0; 16], |mask| table_address(mask).0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::{Prefix, SynFlood};

    #[test]
    fn what_is_written_by_the_second_is_what_the_programs_count_by_the_window() {
        let guard = Guard {
            deny: vec!["10.0.0.0/8".parse().unwrap()],
            exempt: vec!["10.1.0.0/16".parse().unwrap()],
            prefix: Prefix { v4: 24, v6: 56 },
            syn_rate: Some(Rate { rate: 100, burst: 250 }),
            syn_flood: Some(SynFlood {
                above: 10_000,
                hold: std::time::Duration::from_secs(5),
                proof: std::time::Duration::from_secs(60),
            }),
            ..Guard::default()
        };
        let Guarding { guard, prefixes } = guarding(&guard, "all", 2);
        assert_eq!(guard.syns, abi::Rate { interval_ns: 10_000_000, burst_ns: 2_500_000_000 });
        assert_eq!(guard.packets, abi::Rate::default());
        assert_eq!(guard.mask_v4[..5], [255, 255, 255, 0, 0]);
        assert_eq!(guard.mask_v6[..8], [255, 255, 255, 255, 255, 255, 255, 0]);
        assert_eq!((guard.flood_begins, guard.flood_goes_on, guard.batch), (1342, 671, 64));
        assert_eq!(guard.flags, GUARD_LISTS_V4);
        assert_eq!(prefixes.len(), 2);
    }
}
