//! What the supervisor does for TLS: certificates from their files, the keys of tickets, and telling
//! operators in time.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tracing::{error, info, warn};

use super::Error;
use super::view::View;
use crate::clock;
use crate::config::Model;
use crate::config::model::{CertificateFiles, Trust};
use crate::config::plan::Change;
use crate::region::Region;
use crate::stats::table::date;
use crate::tls::pair::Facts;
use crate::tls::shelf::{Occasion, Stock};
use crate::tls::ticket;
use crate::tls::upstream::spoken;

/// Days before a certificate's end at which operators are warned, the last first.
const WARNED_AT: [i64; 3] = [1, 7, 30];

const DAY_SECONDS: i64 = 24 * 3600;

/// Between two looks at certificates' ends and the age of the key of tickets.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// Reads the certificates of a configuration.
///
/// # Errors
/// If one can't serve, and there is no former one in its place.
pub fn read(model: &Model, occasion: Occasion<'_>) -> Result<Stock, Error> {
    Stock::read(model, occasion, now()).map_err(Error::Certificates)
}

/// What is different in a stock that follows another one, of certificates that are in both.
pub fn changes(former: &Stock, next: &Stock) -> Vec<Change> {
    let title = |facts: &Facts| format!("number {}, until {}", facts.serial, date(facts.not_after));
    let mut changes = Vec::new();
    for (files, facts) in &next.facts {
        let Some(before) = former.facts.get(files) else { continue };
        let what = format!("certificate {}", files.cert.display());
        if former.shelf.get(files) != next.shelf.get(files) {
            let (from, to) = (Some(title(before)), Some(title(facts)));
            changes.push(Change { what: what.clone(), from, to, needs_restart: false });
        }
        if let Some(fault) = next.faults.get(files) {
            let what = format!("{what}: not taken, the one in force stays");
            let to = Some(fault.to_string());
            changes.push(Change { what, from: None, to, needs_restart: false });
        }
    }
    changes
}

/// The files that a configuration names for TLS.
pub fn named(model: &Model) -> Vec<&Path> {
    let mut named = Vec::new();
    for tls in model.listeners.iter().filter_map(|listener| listener.tls.as_ref()) {
        for files in &tls.certificates {
            named.extend([&*files.cert, &*files.key]);
            named.extend(files.ocsp.as_deref());
        }
        named.extend(tls.client_auth.as_ref().map(|auth| &*auth.authorities.file));
    }
    for (_, tls) in spoken(model) {
        if let Trust::Authorities(authorities) = &tls.trust {
            named.push(&authorities.file);
        }
        named.extend(tls.client.iter().flat_map(|client| [&*client.cert, &*client.key]));
    }
    named.sort_unstable();
    named.dedup();
    named
}

/// Logs what is newly wrong in a stock that follows another one.
pub fn tell(former: &Stock, next: &Stock) {
    for (files, fault) in &next.faults {
        if former.faults.get(files) != Some(fault) {
            let cert = files.cert.display();
            error!(%cert, %fault, "certificate not taken: the one in force stays");
        }
    }
}

/// Gives tickets another key if the one that seals has served its time, or there is none.
pub fn rotate_if_due(region: &Region, rotation: Duration) {
    if region.tickets().due_in(rotation, clock::since_epoch()).is_zero() {
        rotate(region);
    }
}

/// Gives tickets another key.
pub fn rotate(region: &Region) {
    match ticket::fresh_key() {
        Ok(key) => {
            region.tickets().rotate(key);
            info!("tickets of TLS sessions are sealed with another key");
        }
        Err(_) => error!("no randomness for a key of tickets: the former one stays"),
    }
}

/// Rotates the keys of tickets and warns of certificates that end soon, for as long as the daemon runs.
pub async fn keep(view: Arc<View>) {
    let mut warned = Warned::default();
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    loop {
        looks.tick().await;
        rotate_if_due(&view.region, view.in_force().model.global.ticket_rotation);
        for (files, left) in warned.due(&view.stock(), now()) {
            let (cert, days) = (files.cert.display(), left / DAY_SECONDS);
            if left < 0 {
                error!(%cert, "certificate has expired");
            } else {
                warn!(%cert, days, "certificate expires soon");
            }
        }
    }
}

/// Which warnings operators have had.
#[derive(Debug, Default)]
struct Warned(BTreeMap<CertificateFiles, (i64, usize)>);

impl Warned {
    /// The certificates to warn of at a time, and how many seconds each has left.
    fn due(&mut self, stock: &Stock, now: i64) -> Vec<(CertificateFiles, i64)> {
        let mut due = Vec::new();
        for (files, facts) in &stock.facts {
            let left = facts.not_after - now;
            // How many of the marks are ahead; at the very end there is one more to pass.
            let ahead = WARNED_AT.iter().filter(|days| left > **days * DAY_SECONDS).count();
            let stage = WARNED_AT.len() - ahead + usize::from(left < 0);
            let had = self.0.get(files).filter(|(end, _)| *end == facts.not_after);
            if stage > had.map_or(0, |(_, stage)| *stage) {
                due.push((files.clone(), left));
            }
            self.0.insert(files.clone(), (facts.not_after, stage));
        }
        self.0.retain(|files, _| stock.facts.contains_key(files));
        due
    }
}

/// The time in seconds since 1970.
pub fn now() -> i64 {
    clock::since_epoch().as_secs().cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::names::Names;

    #[test]
    fn operators_are_warned_once_at_each_mark_and_again_of_another_certificate() {
        let files = CertificateFiles { cert: "a.pem".into(), key: "a.key".into(), ocsp: None };
        let mut stock = Stock::default();
        let mut facts = Facts {
            names: Names::default(),
            subject: String::new(),
            issuer: String::new(),
            serial: String::new(),
            fingerprint: String::new(),
            not_before: 0,
            not_after: 100 * DAY_SECONDS,
        };
        stock.facts.insert(files.clone(), facts.clone());
        let mut warned = Warned::default();
        let mut days = |stock: &Stock, hours: i64| -> Vec<i64> {
            let due = warned.due(stock, hours * 3600);
            due.into_iter().map(|(_, left)| left.div_euclid(DAY_SECONDS)).collect()
        };
        for (hours, expected) in [
            (60 * 24, &[][..]),
            (70 * 24, &[30]),
            (71 * 24, &[]),
            (93 * 24, &[7]),
            (98 * 24, &[]),
            (99 * 24 + 1, &[0]),
            (100 * 24, &[]),
            (100 * 24 + 1, &[-1]),
            (101 * 24, &[]),
        ] {
            assert_eq!(days(&stock, hours), expected, "at {hours} h");
        }
        facts.not_after = 110 * DAY_SECONDS;
        stock.facts.insert(files, facts);
        assert_eq!(days(&stock, 101 * 24), [9], "another one, which is soon over too");
        assert_eq!(days(&stock, 104 * 24), [6]);
    }
}
