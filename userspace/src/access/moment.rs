//! A time as logs write it. Of the same second, all but the milliseconds is written once.

use std::time::{Duration, SystemTime};

/// "2026-11-21T23:35:47", and what Apache makes of it.
#[derive(Debug, Default)]
pub(super) struct Clock {
    /// Since the epoch; 0 for none yet.
    second: u64,
    rfc3339: String,
    apache: String,
}

impl Clock {
    /// RFC 3339, UTC, milliseconds; `since_epoch` is the time.
    pub(super) fn rfc3339(&mut self, since_epoch: Duration, line: &mut Vec<u8>) {
        self.turn(since_epoch.as_secs());
        let millis = since_epoch.subsec_millis();
        let digit = |unit: u32| b'0' + (millis / unit % 10) as u8;
        line.extend_from_slice(self.rfc3339.as_bytes());
        line.extend_from_slice(&[b'.', digit(100), digit(10), digit(1), b'Z']);
    }

    /// As the common log format has it.
    pub(super) fn apache(&mut self, since_epoch: Duration, line: &mut Vec<u8>) {
        self.turn(since_epoch.as_secs());
        line.extend_from_slice(self.apache.as_bytes());
    }

    fn turn(&mut self, second: u64) {
        if self.second == second && !self.rfc3339.is_empty() {
            return;
        }
        self.second = second;
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        self.rfc3339 = humantime::format_rfc3339_seconds(time).to_string();
        self.rfc3339.truncate("2026-11-21T23:35:47".len());
        self.apache = apache(&self.rfc3339);
    }
}

/// "21/Nov/2026:23:35:47 +0000".
fn apache(rfc3339: &str) -> String {
    let parts = (rfc3339.get(..4), rfc3339.get(5..7), rfc3339.get(8..10), rfc3339.get(11..));
    let (Some(year), Some(month), Some(day), Some(time)) = parts else { return String::new() };
    let month = month.parse::<usize>().unwrap_or(1);
    format!("{day}/{}/{year}:{time} +0000", MONTHS[(month - 1) % MONTHS.len()])
}

/// The months' names.
pub const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_is_written_once_and_the_next_one_anew() {
        let mut clock = Clock::default();
        let mut text = |millis, is_apache| {
            let mut line = Vec::new();
            let time = Duration::from_millis(millis);
            match is_apache {
                true => clock.apache(time, &mut line),
                false => clock.rfc3339(time, &mut line),
            }
            String::from_utf8(line).unwrap()
        };
        assert_eq!(text(1_795_304_147_007, false), "2026-11-21T23:35:47.007Z");
        assert_eq!(text(1_795_304_147_999, false), "2026-11-21T23:35:47.999Z");
        assert_eq!(text(1_795_304_147_999, true), "21/Nov/2026:23:35:47 +0000");
        assert_eq!(text(1_795_304_148_000, false), "2026-11-21T23:35:48.000Z");
        assert_eq!(text(0, true), "01/Jan/1970:00:00:00 +0000");
    }
}
