//! Vectors: a frame, and everything that the program is to make of it.

use steerage_common::abi::Reason;

use super::packet::{TCP, UDP};
use super::{Action, Plane, Verdict};

const ETHERNET: usize = 14;

/// One frame and what is expected.
#[derive(Clone, Debug)]
pub struct Vector {
    /// What it is, for people.
    pub name: String,
    /// The link that it comes in on.
    pub ifindex: u32,
    /// What comes in.
    pub frame: Vec<u8>,
    /// What becomes of it.
    pub action: Action,
    /// What leaves, or goes up; of a dropped frame nothing is asked.
    pub output: Vec<u8>,
    /// The reasons counted, each once; no others.
    pub reasons: Vec<Reason>,
    /// Packets counted from clients and from backends.
    pub counted: [u64; 2],
}

impl Vector {
    /// A frame that the host gets as it came, and of which nothing is counted.
    #[must_use]
    pub fn untouched(name: impl Into<String>, ifindex: u32, frame: Vec<u8>) -> Self {
        let (output, action) = (frame.clone(), Action::Pass);
        let (name, reasons, counted) = (name.into(), Vec::new(), [0, 0]);
        Self { name, ifindex, frame, action, output, reasons, counted }
    }

    /// A frame that is dropped for this reason.
    #[must_use]
    pub fn dropped(name: impl Into<String>, ifindex: u32, frame: Vec<u8>, reason: Reason) -> Self {
        let reasons = vec![reason];
        Self { action: Action::Drop, reasons, ..Self::untouched(name, ifindex, frame) }
    }

    /// A frame for which another one leaves.
    #[must_use]
    pub fn sent(
        name: impl Into<String>,
        ifindex: u32,
        frame: Vec<u8>,
        action: Action,
        output: Vec<u8>,
    ) -> Self {
        Self { action, output, ..Self::untouched(name, ifindex, frame) }
    }

    /// The same, and these reasons are counted.
    #[must_use]
    pub fn because(mut self, reasons: &[Reason]) -> Self {
        self.reasons = reasons.to_vec();
        self
    }

    /// The same, and so many packets are counted from clients and from backends.
    #[must_use]
    pub fn counted(mut self, from_clients: u64, from_backends: u64) -> Self {
        self.counted = [from_clients, from_backends];
        self
    }

    /// Runs the program on it.
    ///
    /// # Panics
    /// If anything differs from what is expected.
    #[track_caller]
    pub fn check(&self, plane: &Plane) {
        let (reasons, counted) = (plane.reasons(), packets(plane));
        let Verdict { action, frame } =
            plane.receive(self.ifindex, &self.frame).expect("a test run");
        let name = &self.name;
        assert_eq!(action, self.action, "{name}");
        if action != Action::Drop {
            assert_eq!(hex(&frame), hex(&self.output), "{name}");
        }
        let now = plane.reasons();
        let seen = Reason::ALL.into_iter().filter(|reason| {
            let at = *reason as usize;
            now[at] != reasons[at]
        });
        let mut expected = self.reasons.clone();
        expected.sort_by_key(|reason| *reason as u32);
        assert_eq!(seen.collect::<Vec<_>>(), expected, "{name}");
        let total = now.iter().sum::<u64>() - reasons.iter().sum::<u64>();
        assert_eq!(total, expected.len() as u64, "{name}: each reason once");
        let now = packets(plane);
        assert_eq!([now[0] - counted[0], now[1] - counted[1]], self.counted, "{name}: packets");
    }

    /// Runs the program on its beginning, of every length: nothing is sent, and nothing changed.
    ///
    /// Gives the number of lengths.
    ///
    /// # Panics
    /// If a frame that is not whole leaves, or is changed.
    #[track_caller]
    pub fn check_cut(&self, plane: &Plane) -> usize {
        let counted = packets(plane);
        // A run has an Ethernet header at least; bytes behind a packet are none of it.
        let end = match self.action {
            Action::Pass | Action::Drop => self.frame.len(),
            Action::Transmit | Action::Redirect => ETHERNET + ip_bytes(&self.frame),
        };
        let cuts: Vec<&[u8]> = (ETHERNET..end).map(|length| &self.frame[..length]).collect();
        let verdicts = plane.receive_each(self.ifindex, &cuts).expect("test runs");
        for (cut, verdict) in cuts.iter().zip(verdicts) {
            let length = cut.len();
            let is_kept = matches!(verdict.action, Action::Pass | Action::Drop);
            assert!(is_kept, "{} cut to {length}: {:?}", self.name, verdict.action);
            assert_eq!(hex(&verdict.frame), hex(cut), "{} cut to {length}", self.name);
        }
        assert_eq!(packets(plane), counted, "{} cut: packets", self.name);
        end - ETHERNET
    }
}

/// Bytes that the IP header claims for the packet.
fn ip_bytes(frame: &[u8]) -> usize {
    let half = |at: usize| usize::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
    if frame[12..14] == [8, 0] { half(16) } else { 40 + half(18) }
}

fn packets(plane: &Plane) -> [u64; 2] {
    let [tcp, udp] = [TCP, UDP].map(|protocol| plane.vip_traffic(protocol));
    [tcp.in_packets + udp.in_packets, tcp.out_packets + udp.out_packets]
}

/// Bytes as people read them.
fn hex(bytes: &[u8]) -> String {
    let rows = bytes.chunks(16).map(|row| {
        let bytes: Vec<String> = row.iter().map(|byte| format!("{byte:02x}")).collect();
        bytes.join(" ")
    });
    rows.collect::<Vec<_>>().join("\n")
}
