//! What an HTTP/2 client sends besides requests and bodies: how many frames of the kinds that cost work and
//! bring none.
//!
//! h2 bounds what a client can make it hold, and answers a frame before it reads the next, so such a flood
//! takes no memory; but it takes time from all others of the worker. This is a pure state machine over the
//! client's bytes that looks at the nine bytes before each frame and skips the rest. What the counts may
//! be holds for a window of time; more ends the connection.

use steerage_common::cause::Cause;

/// The client's half of the preface.
const PREFACE_BYTES: u32 = 24;

/// The length of a window, in milliseconds.
const WINDOW_MS: u64 = 10_000;

/// SETTINGS in a window: a client sends one, and another when it changes its mind.
const SETTINGS_MAX: u32 = 100;

/// PINGs in a window, to which comes one for each [`BYTES_PER_PING`] that the client is sent: some measure
/// the path by a ping for each piece of a response.
const PINGS_MAX: u64 = 1000;

/// More than a ping's own answer has.
const BYTES_PER_PING: u64 = 64;

/// DATA with less is next to nothing.
const SMALL_BYTES: u32 = 16;

/// Frames that ask for nothing, in a window.
const OTHERS_MAX: u32 = 10_000;

/// The frames of one connection.
#[derive(Debug)]
pub(super) struct Frames {
    head: [u8; 9],
    /// Bytes of the head that have come.
    have: u8,
    /// Bytes to skip before the next head.
    skip: u32,
    window: Window,
}

#[derive(Debug, Default)]
struct Window {
    began_ms: u64,
    /// Bytes that the client had been sent when it began.
    sent: u64,
    settings: u32,
    pings: u32,
    others: u32,
    /// Those that h2 has a limit for.
    resets: u32,
    continuations: u32,
    empty: u32,
}

impl Frames {
    /// Before the preface.
    pub(super) fn new(now_ms: u64) -> Self {
        let window = Window { began_ms: now_ms, ..Window::default() };
        Self { head: [0; 9], have: 0, skip: PREFACE_BYTES, window }
    }

    /// Notes what the client sent.
    pub(super) fn note(&mut self, mut bytes: &[u8]) {
        loop {
            let skipped = (self.skip as usize).min(bytes.len());
            self.skip -= skipped as u32;
            bytes = &bytes[skipped..];
            let taken = (self.head.len() - usize::from(self.have)).min(bytes.len());
            let have = usize::from(self.have);
            self.head[have..have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken as u8;
            bytes = &bytes[taken..];
            if usize::from(self.have) < self.head.len() {
                return;
            }
            self.have = 0;
            let [high, mid, low, kind, flags, ..] = self.head;
            self.skip = u32::from_be_bytes([0, high, mid, low]);
            self.window.count(kind, flags, self.skip);
        }
    }

    /// Whether that is too much; `sent` is how many bytes the client was sent in all.
    pub(super) fn flood(&mut self, now_ms: u64, sent: u64) -> Option<Cause> {
        let window = &mut self.window;
        if now_ms.saturating_sub(window.began_ms) >= WINDOW_MS {
            *window = Window { began_ms: now_ms, sent, ..Window::default() };
        }
        let pings_max = PINGS_MAX + sent.saturating_sub(window.sent) / BYTES_PER_PING;
        if window.settings > SETTINGS_MAX {
            Some(Cause::SettingsFlood)
        } else if u64::from(window.pings) > pings_max {
            Some(Cause::PingFlood)
        } else if window.others > OTHERS_MAX {
            Some(Cause::FrameFlood)
        } else {
            None
        }
    }

    /// What there was most of, of what h2 has a limit for: this is which limit it was.
    pub(super) fn worst(&self) -> Option<Cause> {
        let Window { resets, continuations, empty, .. } = self.window;
        let floods = [
            (continuations, Cause::ContinuationFlood),
            (empty, Cause::DataFlood),
            (resets, Cause::ResetFlood),
        ];
        let worst = floods.into_iter().max_by_key(|(count, _)| *count);
        worst.filter(|(count, _)| *count > 0).map(|(_, flood)| flood)
    }
}

impl Window {
    fn count(&mut self, kind: u8, flags: u8, length: u32) {
        const ACK: u8 = 1;
        match (kind, flags & ACK) {
            (0, _) => self.empty += u32::from(length < SMALL_BYTES),
            (3, _) => self.resets += 1,
            (9, _) => self.continuations += 1,
            // HEADERS, GOAWAY, WINDOW_UPDATE
            (1 | 7 | 8, _) => {}
            (4, 0) => self.settings += 1,
            (6, 0) => self.pings += 1,
            _ => self.others += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = (payload as u32).to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 0];
        frame.resize(frame.len() + payload, 6);
        frame
    }

    fn after(frames: &[Vec<u8>], piece: usize, sent: u64) -> Option<Cause> {
        let mut counted = Frames::new(0);
        let bytes = [vec![6; 24], frames.concat()].concat();
        bytes.chunks(piece).for_each(|piece| counted.note(piece));
        counted.flood(WINDOW_MS - 1, sent)
    }

    #[test]
    fn however_the_bytes_are_cut_frames_are_counted_and_payloads_skipped() {
        let data = frame(0, 0, 300);
        let settings = |count| vec![[data.clone(), frame(4, 0, 12)].concat(); count];
        for piece in [1, 2, 7, 9, 10, 33, 100_000] {
            assert_eq!(after(&settings(100), piece, 0), None, "{piece}");
            assert_eq!(after(&settings(101), piece, 0), Some(Cause::SettingsFlood), "{piece}");
        }
        assert_eq!(after(&vec![frame(4, 1, 0); 10_000], 4096, 0), None, "answers to ours");
    }

    #[test]
    fn of_what_h2_limits_the_most_is_named() {
        let worst = |frames: &[Vec<u8>]| {
            let mut counted = Frames::new(0);
            counted.note(&[vec![6; 24], frames.concat()].concat());
            counted.worst()
        };
        let (reset, continuation, data) = (frame(3, 0, 4), frame(9, 0, 9), frame(0, 0, 0));
        assert_eq!(worst(&[frame(1, 4, 9), frame(0, 0, 999)]), None);
        assert_eq!(worst(&[reset.clone(), data.clone(), data.clone()]), Some(Cause::DataFlood));
        assert_eq!(worst(&[reset.clone(), reset, data]), Some(Cause::ResetFlood));
        assert_eq!(worst(&[continuation]), Some(Cause::ContinuationFlood));
    }

    #[test]
    fn pings_are_allowed_as_far_as_something_is_sent() {
        let pings = |count| vec![frame(6, 0, 8); count];
        assert_eq!(after(&pings(1000), 4096, 0), None);
        assert_eq!(after(&pings(1001), 4096, 0), Some(Cause::PingFlood));
        assert_eq!(after(&pings(5000), 4096, 5000 * 64), None);
        // Their own answers are not enough to pay for them.
        assert_eq!(after(&pings(5000), 4096, 5000 * 17), Some(Cause::PingFlood));
    }

    #[test]
    fn work_is_no_flood_and_a_window_ends() {
        for kind in [0, 1, 3, 7, 8, 9] {
            assert_eq!(after(&vec![frame(kind, 0, 4); 20_000], 4096, 0), None, "{kind}");
        }
        assert_eq!(after(&vec![frame(2, 0, 5); 10_001], 4096, 0), Some(Cause::FrameFlood));
        let mut counted = Frames::new(0);
        counted.note(&[6; 24]);
        for now in [0, WINDOW_MS, 2 * WINDOW_MS] {
            assert_eq!(counted.flood(now, 0), None);
            vec![frame(4, 0, 0); 100].iter().for_each(|frame| counted.note(frame));
            assert_eq!(counted.flood(now, 0), None);
        }
    }
}
