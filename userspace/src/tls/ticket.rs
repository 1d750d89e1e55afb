//! Tickets: what a client is given to resume its session with, sealed so that every worker can open it.
//!
//! A ticket is what RFC 5077, 4 recommends, with an AEAD in the place of cipher and MAC: the name of the key
//! (16 bytes), a nonce (12, random), and the session sealed by AES-256-GCM, its tag at the end. What is
//! sealed belongs to one listener and its rules for client certificates: they are the additional data, so
//! that a session which began without a certificate opens no door behind which one is asked for, and one
//! that was verified by an authority ends with the trust in it.
//!
//! The keys are in the region ([`Tickets`]) and change under our eyes: each ticket asks for their version,
//! and prepares them anew when it is another one.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::rand;
use rustls::server::ProducesTickets;
use sha2::{Digest as _, Sha256};
use steerage_common::abi::TicketKey;
use zeroize::Zeroize as _;

use crate::clock;
use crate::config::model::ListenerTls;
use crate::region::Tickets;

/// The length of a key's name.
const NAME_LEN: usize = 16;

/// The longest ticket that is opened: it may hold a client's chain of certificates.
const TICKET_BYTES_MAX: usize = 32 * 1024;

/// The longest life of a ticket (RFC 8446, 4.6.1).
const LIFETIME_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// The keys, ready for use; one for all listeners of a worker.
#[derive(Debug)]
pub struct KeyRing {
    tickets: Arc<Tickets>,
    /// Only this thread asks; the lock is for rustls, which knows no threads of one's own.
    prepared: Mutex<Prepared>,
}

/// A key and what its tickets begin with.
type NamedKey = ([u8; NAME_LEN], LessSafeKey);

#[derive(Debug, Default)]
struct Prepared {
    version: u64,
    /// The newest first.
    keys: Vec<NamedKey>,
}

impl KeyRing {
    /// The keys in the region.
    #[must_use]
    pub fn new(tickets: Arc<Tickets>) -> Self {
        Self { tickets, prepared: Mutex::default() }
    }

    fn with<T>(&self, work: impl FnOnce(&[NamedKey]) -> Option<T>) -> Option<T> {
        let mut prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        if prepared.version != self.tickets.version() {
            let (version, read) = self.tickets.read();
            prepared.keys = read.keys.iter().filter_map(prepare).collect();
            prepared.version = version;
        }
        work(&prepared.keys)
    }
}

fn prepare(key: &TicketKey) -> Option<NamedKey> {
    let mut secret: [u8; 32] = zerocopy::transmute!(key.secret);
    let unbound = UnboundKey::new(&AES_256_GCM, &secret);
    secret.zeroize();
    Some((zerocopy::transmute!(key.name), LessSafeKey::new(unbound.ok()?)))
}

/// Seals and opens the tickets of one listener.
pub struct Ticketer {
    ring: Arc<KeyRing>,
    /// Whose tickets they are.
    scope: [u8; 32],
    lifetime: u32,
}

impl fmt::Debug for Ticketer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticketer").field("lifetime", &self.lifetime).finish_non_exhaustive()
    }
}

impl Ticketer {
    /// For the listener of this name. A key seals for the time of `rotation`.
    #[must_use]
    pub fn new(ring: Arc<KeyRing>, name: &str, tls: &ListenerTls, rotation: Duration) -> Self {
        // What was sealed last opens until its key is the third former one.
        let lifetime = (2 * rotation).min(LIFETIME_MAX);
        Self { ring, scope: scope(name, tls), lifetime: lifetime.as_secs() as u32 }
    }
}

/// What tells listeners' sessions apart.
fn scope(name: &str, tls: &ListenerTls) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    part(b"steerage ticket 1");
    part(name.as_bytes());
    if let Some(auth) = &tls.client_auth {
        part(&[auth.mode as u8]);
        for authority in &auth.authorities.certificates {
            part(authority);
        }
    }
    hash.finalize().into()
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        self.lifetime
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).ok()?;
        self.ring.with(|keys| {
            let (name, key) = keys.first()?;
            let mut ticket =
                Vec::with_capacity(NAME_LEN + NONCE_LEN + plain.len() + AES_256_GCM.tag_len());
            ticket.extend_from_slice(name);
            ticket.extend_from_slice(&nonce);
            ticket.extend_from_slice(plain);
            let (_, sealed) = ticket.split_at_mut(NAME_LEN + NONCE_LEN);
            let nonce = Nonce::assume_unique_for_key(nonce);
            let tag = key.seal_in_place_separate_tag(nonce, Aad::from(&self.scope), sealed).ok()?;
            ticket.extend_from_slice(tag.as_ref());
            Some(ticket)
        })
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        if ticket.len() > TICKET_BYTES_MAX {
            return None;
        }
        let (name, rest) = ticket.split_first_chunk::<NAME_LEN>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        self.ring.with(|keys| {
            // Which key it is is no secret: the name is in the clear.
            let (_, key) = keys.iter().find(|(known, _)| known == name)?;
            let mut plain = sealed.to_vec();
            let nonce = Nonce::assume_unique_for_key(*nonce);
            let length = key.open_in_place(nonce, Aad::from(&self.scope), &mut plain).ok()?.len();
            plain.truncate(length);
            Some(plain)
        })
    }
}

/// A new key, which seals from now on. Supervisor only.
///
/// # Errors
/// If there is no randomness.
pub fn fresh_key() -> Result<TicketKey, aws_lc_rs::error::Unspecified> {
    let (mut name, mut secret) = ([0; NAME_LEN], [0; 32]);
    rand::fill(&mut name)?;
    rand::fill(&mut secret)?;
    let key = TicketKey {
        name: zerocopy::transmute!(name),
        secret: zerocopy::transmute!(secret),
        since: clock::since_epoch().as_secs(),
        reserved: 0,
    };
    secret.zeroize();
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::{Authorities, ClientAuth, ClientAuthMode, SniMismatch, TlsVersion};
    use crate::region::Region;

    const HOUR: Duration = Duration::from_secs(3600);

    fn tls(authority: Option<(ClientAuthMode, &[u8])>) -> ListenerTls {
        ListenerTls {
            certificates: Vec::new(),
            client_auth: authority.map(|(mode, der)| ClientAuth {
                mode,
                authorities: Authorities {
                    file: "ca.pem".into(),
                    certificates: vec![der.to_vec()],
                },
                subject_header: None,
                fingerprint_header: None,
            }),
            min_version: TlsVersion::default(),
            handshake_timeout: HOUR,
            handshake_rate: None,
            sni_mismatch: SniMismatch::default(),
        }
    }

    fn ticketer(region: &Region, name: &str, tls: &ListenerTls) -> Ticketer {
        Ticketer::new(Arc::new(KeyRing::new(region.tickets().clone())), name, tls, HOUR)
    }

    #[test]
    fn what_one_worker_seals_another_opens_until_its_key_is_gone() {
        let region = Region::in_memory(1).unwrap();
        let (one, other) = (ticketer(&region, "a", &tls(None)), ticketer(&region, "a", &tls(None)));
        assert_eq!(one.encrypt(b"session"), None, "there is no key yet");
        region.tickets().rotate(fresh_key().unwrap());
        let ticket = one.encrypt(b"session").unwrap();
        assert_ne!(ticket, one.encrypt(b"session").unwrap(), "no nonce twice");
        for _ in 0..2 {
            assert_eq!(other.decrypt(&ticket).as_deref(), Some(&b"session"[..]));
            region.tickets().rotate(fresh_key().unwrap());
        }
        assert_eq!(other.decrypt(&ticket).as_deref(), Some(&b"session"[..]), "two former keys");
        region.tickets().rotate(fresh_key().unwrap());
        assert_eq!(other.decrypt(&ticket), None);
        assert_eq!(one.lifetime(), 7200);
    }

    #[test]
    fn a_ticket_that_was_touched_or_is_none_opens_nothing() {
        let region = Region::in_memory(1).unwrap();
        region.tickets().rotate(fresh_key().unwrap());
        let ticketer = ticketer(&region, "a", &tls(None));
        let ticket = ticketer.encrypt(b"session").unwrap();
        for at in 0..ticket.len() {
            let mut touched = ticket.clone();
            touched[at] ^= 1;
            assert_eq!(ticketer.decrypt(&touched), None, "byte {at}");
            assert_eq!(ticketer.decrypt(&ticket[..at]), None, "cut at {at}");
        }
        assert_eq!(ticketer.decrypt(&vec![0; TICKET_BYTES_MAX + 1]), None);
    }

    #[test]
    fn a_ticket_opens_no_listener_with_other_rules_for_clients() {
        let region = Region::in_memory(1).unwrap();
        region.tickets().rotate(fresh_key().unwrap());
        let optional = ClientAuthMode::Optional;
        let rules = [
            ("a", tls(None)),
            ("b", tls(None)),
            ("a", tls(Some((optional, b"one")))),
            ("a", tls(Some((ClientAuthMode::Required, b"one")))),
            ("a", tls(Some((optional, b"two")))),
        ];
        for (from, (name, rule)) in rules.iter().enumerate() {
            let ticket = ticketer(&region, name, rule).encrypt(b"session").unwrap();
            for (to, (name, rule)) in rules.iter().enumerate() {
                let opened = ticketer(&region, name, rule).decrypt(&ticket);
                assert_eq!(opened.is_some(), from == to, "{from} to {to}");
            }
        }
    }
}
