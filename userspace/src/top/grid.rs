//! Tables of what there is, one for each tab: cells with what they are sorted by.

use std::cmp::Ordering;
use std::net::SocketAddr;
use std::time::Duration;

use steerage::stats::board::{Board, Work};
use steerage::stats::row::Row;

/// The tables that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tab {
    Services,
    Backends,
    Vips,
    Listeners,
    Workers,
    Certificates,
}

impl Tab {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 6] = [
        Self::Services,
        Self::Backends,
        Self::Vips,
        Self::Listeners,
        Self::Workers,
        Self::Certificates,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Services => "Services",
            Self::Backends => "Backends",
            Self::Vips => "Vips",
            Self::Listeners => "Listeners",
            Self::Workers => "Workers",
            Self::Certificates => "Certificates",
        }
    }

    /// Its columns. Those whose names begin with a space are of text, and to the left.
    pub const fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Services => &[
                " SERVICE",
                " AVAILABLE",
                "REQ/S",
                "ERRORS",
                "P50",
                "P99",
                "ACTIVE",
                "PACKETS/S",
                " BALANCE",
            ],
            Self::Backends => &[
                " SERVICE",
                " BACKEND",
                " STATE",
                "FOR",
                "REQ/S",
                "ERRORS",
                "P50",
                "P99",
                "ACTIVE",
                "IDLE",
                "OPEN",
                "REUSE",
                "EJECTED",
                "WEIGHT",
                "PACKETS/S",
                " WHY",
            ],
            Self::Vips => &[
                " VIP",
                " ADDRESS",
                " SERVICE",
                "PACKETS/S",
                "BITS/S",
                "FLOWS/S",
                "PACKETS IN",
                "PACKETS OUT",
                "MISSES",
                " LINKS",
            ],
            Self::Listeners => &[" LISTENER", " ADDRESSES"],
            Self::Workers => &[
                "WORKER",
                " STATE",
                "PID",
                "CONNECTIONS",
                "ACTIVE",
                "ACCEPTS/S",
                "ACCEPTED",
                "PENDING",
                "ERRORS/S",
                "HEARD",
            ],
            Self::Certificates => &[" NAMES", " EXPIRES", "DAYS", " LISTENERS", " FILE", " FAULT"],
        }
    }
}

/// How a cell stands out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tint {
    #[default]
    None,
    Good,
    Warn,
    Bad,
}

/// A cell.
#[derive(Clone, Debug)]
pub struct Cell {
    pub text: String,
    /// What it is sorted by; texts by themselves.
    number: Option<f64>,
    pub tint: Tint,
}

/// A line of a table.
#[derive(Clone, Debug)]
pub struct Line {
    pub cells: Vec<Cell>,
    /// The service that it is about.
    pub service: Option<String>,
    /// The backend that it is about.
    pub backend: Option<SocketAddr>,
}

impl Line {
    fn new(cells: Vec<Cell>) -> Self {
        Self { cells, service: None, backend: None }
    }

    /// Whether a cell has this in it, in letters of any case.
    pub fn has(&self, lower_case: &str) -> bool {
        self.cells.iter().any(|cell| cell.text.to_lowercase().contains(lower_case))
    }

    /// How it stands to another one, by a column.
    pub fn compare(&self, other: &Self, column: usize) -> Ordering {
        match (self.cells.get(column), other.cells.get(column)) {
            (Some(Cell { number: Some(one), .. }), Some(Cell { number: Some(two), .. })) => {
                one.total_cmp(two)
            }
            (Some(one), Some(two)) => one.text.cmp(&two.text),
            _ => Ordering::Equal,
        }
    }
}

/// The lines of a tab, in the daemon's order. `backends` are those of each service.
pub fn lines(tab: Tab, board: &Board, backends: &[(String, Vec<Row<'static>>)]) -> Vec<Line> {
    match tab {
        Tab::Services => services(board),
        Tab::Backends => backends
            .iter()
            .flat_map(|(service, rows)| rows.iter().map(|row| backend(service, row)))
            .collect(),
        Tab::Vips => vips(board),
        Tab::Listeners => listeners(board),
        Tab::Workers => workers(board),
        Tab::Certificates => certificates(board),
    }
}

fn services(board: &Board) -> Vec<Line> {
    let line = |service: &steerage::stats::board::Service| {
        let mut available = text(&format!("{} of {}", service.available, service.size));
        available.number = Some(service.available as f64 - service.size as f64);
        available.tint = match service.available {
            all if all == service.size && all > 0 => Tint::Good,
            0 => Tint::Bad,
            _ => Tint::Warn,
        };
        if service.panicking {
            available.text.push_str(", panic");
        }
        let mut cells = vec![text(&service.name), available];
        cells.extend(of_work(&service.work));
        cells.extend([rate(service.packets), text(&service.balance)]);
        Line { service: Some(service.name.clone()), ..Line::new(cells) }
    };
    board.services.iter().map(line).collect()
}

fn backend(service: &str, row: &Row<'_>) -> Line {
    let tint = match &*row.state {
        "up" => Tint::Good,
        "down" | "ejected" => Tint::Bad,
        _ => Tint::Warn,
    };
    let mut cells = vec![
        text(service),
        text(&row.address.to_string()),
        Cell { tint, ..text(&row.state) },
        Cell { number: Some(row.seconds as f64), ..text(&span(row.seconds)) },
    ];
    let work =
        Work { rate: row.rate, errors: row.errors, active: row.active, p50: row.p50, p99: row.p99 };
    cells.extend(of_work(&work));
    cells.extend([
        count(row.idle),
        count(row.connections),
        share(row.reuse()),
        count(row.ejections),
        count(row.weight.into()),
        rate(row.packets),
        text(&row.why),
    ]);
    Line { cells, service: Some(service.to_owned()), backend: Some(row.address) }
}

fn of_work(work: &Work) -> [Cell; 5] {
    let tint = match work.errors {
        None | Some(0.0) => Tint::None,
        Some(share) if share < 0.05 => Tint::Warn,
        Some(_) => Tint::Bad,
    };
    let errors = Cell { tint, ..share(work.errors) };
    [rate(work.rate), errors, time(work.p50), time(work.p99), count(work.active)]
}

fn vips(board: &Board) -> Vec<Line> {
    let line = |vip: &steerage::stats::board::Vip| {
        let now = &vip.now;
        Line::new(vec![
            text(&now.name),
            text(&format!("{} {}", now.protocol, now.address)),
            text(&now.service),
            rate(vip.packets),
            rate(vip.bits),
            rate(vip.flow_rate),
            count(now.l4.in_packets),
            count(now.l4.out_packets),
            count(now.l4.misses),
            text(&now.interfaces.join(" ")),
        ])
    };
    board.vips.iter().map(line).collect()
}

fn listeners(board: &Board) -> Vec<Line> {
    let line = |listener: &steerage::stats::status::Listener| {
        let addresses: Vec<_> = listener.addresses.iter().map(ToString::to_string).collect();
        Line::new(vec![text(&listener.name), text(&addresses.join(" "))])
    };
    board.listeners.iter().map(line).collect()
}

fn workers(board: &Board) -> Vec<Line> {
    let line = |worker: &steerage::stats::board::Worker| {
        let tint = if worker.state == "live" { Tint::Good } else { Tint::Warn };
        let heard = format!("{} ms", worker.heartbeat_age_ms);
        Line::new(vec![
            count(worker.line as u64),
            Cell { tint, ..text(&worker.state) },
            count_plain(worker.pid.into()),
            count(worker.connections.into()),
            count(worker.active),
            rate(worker.accept_rate),
            count(worker.accepted),
            count(worker.pending.into()),
            rate(worker.error_rate),
            Cell { number: Some(worker.heartbeat_age_ms as f64), ..text(&heard) },
        ])
    };
    board.workers.iter().map(line).collect()
}

fn certificates(board: &Board) -> Vec<Line> {
    let line = |certificate: &steerage::stats::status::Certificate| {
        let days = certificate.days_left();
        let tint = match days {
            ..7 => Tint::Bad,
            7..30 => Tint::Warn,
            _ => Tint::Good,
        };
        let fault = certificate.fault.clone().unwrap_or_default();
        Line::new(vec![
            text(&certificate.names.join(" ")),
            text(&steerage::stats::table::date(certificate.not_after)),
            Cell { number: Some(days as f64), tint, ..text(&days.to_string()) },
            text(&certificate.listeners.join(" ")),
            text(&certificate.cert),
            Cell { tint: Tint::Bad, ..text(&fault) },
        ])
    };
    board.certificates.iter().map(line).collect()
}

/// Names come from configurations, reasons from what others sent: a terminal gets no control characters.
fn text(text: &str) -> Cell {
    let text = text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    Cell { text, number: None, tint: Tint::None }
}

fn count(count: u64) -> Cell {
    Cell { number: Some(count as f64), ..text(&short(count as f64)) }
}

fn count_plain(count: u64) -> Cell {
    Cell { number: Some(count as f64), ..text(&count.to_string()) }
}

fn rate(rate: Option<f64>) -> Cell {
    Cell { number: Some(rate.unwrap_or(-1.0)), ..text(&rate.map_or("-".into(), short)) }
}

fn share(share: Option<f64>) -> Cell {
    let shown = match share {
        None => "-".into(),
        Some(0.0) => "0%".into(),
        Some(share) if share < 0.1 => format!("{:.2}%", share * 100.0),
        Some(share) => format!("{:.0}%", share * 100.0),
    };
    Cell { number: Some(share.unwrap_or(-1.0)), ..text(&shown) }
}

fn time(seconds: Option<f64>) -> Cell {
    let shown = match seconds {
        None => "-".into(),
        Some(long) if long >= 1.0 => format!("{} s", digits(long)),
        Some(short) => format!("{} ms", digits(short * 1000.0)),
    };
    Cell { number: Some(seconds.unwrap_or(-1.0)), ..text(&shown) }
}

/// A figure as people read it.
pub fn short(value: f64) -> String {
    match value {
        1e9.. => format!("{}G", digits(value / 1e9)),
        1e6.. => format!("{}M", digits(value / 1e6)),
        1e4.. => format!("{}k", digits(value / 1e3)),
        _ => digits(value),
    }
}

fn digits(value: f64) -> String {
    match value {
        _ if value.fract() == 0.0 || value >= 100.0 => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// A time, to its two greatest units.
pub fn span(seconds: u64) -> String {
    let text = humantime::format_duration(Duration::from_secs(seconds)).to_string();
    let parts: Vec<&str> = text.split(' ').take(2).collect();
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short_and_control_characters_are_none() {
        for (value, expected) in [
            (0.0, "0"),
            (0.25, "0.25"),
            (12.34, "12.3"),
            (9_999.0, "9999"),
            (12_340.0, "12.3k"),
            (5e6, "5M"),
            (1.5e9, "1.50G"),
        ] {
            assert_eq!(short(value), expected);
        }
        assert_eq!(span(90_061), "1day 1h");
        assert_eq!(text("a\x1b[2Jb").text, "a\u{fffd}[2Jb");
        assert_eq!(
            (time(Some(0.0125)).text, time(Some(2.0)).text),
            ("12.5 ms".into(), "2 s".into())
        );
    }
}
