//! What stands on the terminal after what the daemon tells and keys that are pressed.

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde_json::json;
use steerage::admin::client::Event;
use steerage::admin::order::Action;

use super::super::view::{Order, Wish};
use super::*;

fn told(name: &str, data: &serde_json::Value) -> Event {
    Event { name: name.into(), data: data.to_string() }
}

fn work(rate: f64) -> serde_json::Value {
    json!({ "rate": rate, "errors": 0.25, "active": 3, "p50": 0.002, "p99": 0.031 })
}

/// Two services; the backends of the first one have these states and rates.
fn view(states: &[(&str, f64)]) -> View {
    let service = |name: &str, rate| {
        json!({ "name": name, "balance": "random", "available": 1, "panicking": false, "size": states.len(),
            "work": work(rate), "packets": null })
    };
    let total = json!({ "count": 0, "seconds": 0.0, "p50_us": null, "p99_us": null });
    let listener = json!({
        "name": "web", "addresses": ["192.0.2.1:80"], "connections": 0, "accepted": 0, "responses": [],
        "request_body_bytes": 0, "response_body_bytes": 0, "errors": [], "ends": [], "stream_ends": [],
        "handshakes": [], "total": total, "routes": [],
    });
    let board = json!({
        "version": "1", "instance": "edge", "pid": 7, "uptime_seconds": 90_061, "generation": 4,
        "plane": "ebpf", "work": work(12_345.0), "services": [service("api", 9.5), service("shop", 70.0)],
        "leaving": [], "listeners": [listener], "vips": [],
        "reasons": [], "certificates": [], "log_lines_lost": 0,
        "workers": [{ "line": 0, "pid": 8, "state": "live", "connections": 5, "active": 1, "accepted": 6,
            "accept_rate": 0.5, "pending": 0, "error_rate": null, "heartbeat_age_ms": 40 }],
    });
    let rows: Vec<_> = (1..)
        .zip(states)
        .map(|(at, (state, rate))| {
            json!([
                format!("10.0.0.{at}:80"),
                state,
                "probe: \u{1b}[2J no",
                61,
                true,
                1,
                5,
                0,
                2,
                rate,
                0.0,
                null,
                null,
                1,
                2,
                3,
                0,
                10,
                30,
                null,
                0
            ])
        })
        .collect();
    let mut view = View::new(true);
    view.hear(&told("board", &board)).unwrap();
    view.hear(&told("backends", &json!({ "service": "api", "rows": rows }))).unwrap();
    view
}

fn press(view: &mut View, keys: &[KeyCode]) -> Wish {
    let mut wish = Wish::Nothing;
    for key in keys {
        wish = view.press(KeyEvent::new(*key, KeyModifiers::NONE));
    }
    wish
}

fn screen(view: &mut View) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(150, 16)).unwrap();
    terminal.draw(|frame| draw(frame, view)).unwrap();
    let buffer = terminal.backend().buffer();
    let cells: Vec<&str> = buffer.content().iter().map(|cell| cell.symbol()).collect();
    cells.chunks(150).map(|line| line.concat().trim_end().to_owned()).collect()
}

#[test]
fn every_table_shows_what_there_is() {
    let mut view = view(&[("up", 2.0), ("down", 0.0)]);
    let lines = screen(&mut view);
    assert!(
        lines[0].starts_with("steerage edge  12.3k req/s  25.00% errors  p99 31.0 ms"),
        "{}",
        lines[0]
    );
    assert!(lines[0].contains("up 1day 1h"), "{}", lines[0]);
    assert!(lines[2].starts_with("SERVICE  AVAILABLE  REQ/S  ERRORS"), "{}", lines[2]);
    assert!(
        lines[3].contains("1 of 2") && lines[3].contains("9.50") && lines[3].contains("31 ms"),
        "{}",
        lines[3]
    );
    press(&mut view, &[KeyCode::Tab]);
    let lines = screen(&mut view);
    assert!(lines[4].contains("10.0.0.2:80") && lines[4].contains("down"), "{}", lines[4]);
    assert!(lines[4].contains("1m 1s") && lines[4].contains("75%"), "{}", lines[4]);
    assert!(lines.iter().all(|line| !line.contains('\u{1b}')), "a reason moves no cursor");
    for (key, expected) in
        [('4', "web"), ('5', "live"), ('3', "VIP"), ('6', "EXPIRES"), ('1', "shop")]
    {
        press(&mut view, &[KeyCode::Char(key)]);
        let lines = screen(&mut view);
        assert!(lines[2..].iter().any(|line| line.contains(expected)), "{key}: {lines:#?}");
    }
    view.lose();
    assert!(screen(&mut view)[0].contains("the daemon is gone"));
}

#[test]
fn lines_are_sorted_and_chosen_by_what_one_types() {
    let mut view = view(&[("up", 2.0), ("up", 30.0), ("down", 0.0)]);
    press(&mut view, &[KeyCode::Char('2')]);
    let address = |view: &View, at: usize| view.lines()[at].cells[1].text.clone();
    assert_eq!(address(&view, 0), "10.0.0.1:80");
    // To the fifth column.
    press(&mut view, &[KeyCode::Char('s'); 5]);
    assert_eq!(
        (address(&view, 0), address(&view, 2)),
        ("10.0.0.2:80".into(), "10.0.0.3:80".into())
    );
    assert!(screen(&mut view)[2].contains("REQ/S↓"));
    press(&mut view, &[KeyCode::Char('r')]);
    assert_eq!(address(&view, 0), "10.0.0.3:80");
    press(&mut view, &[KeyCode::Char('/'), KeyCode::Char('D'), KeyCode::Char('o'), KeyCode::Enter]);
    assert_eq!(view.lines().len(), 1);
    assert!(screen(&mut view)[15].starts_with("only \"Do\""));
    press(&mut view, &[KeyCode::Esc]);
    assert_eq!(view.lines().len(), 3);
    press(&mut view, &[KeyCode::Char('1'), KeyCode::Down, KeyCode::Enter]);
    assert_eq!((view.tab, &*view.filter), (Tab::Backends, "shop"));
}

#[test]
fn an_order_is_given_when_it_is_confirmed() {
    let mut view = view(&[("up", 2.0), ("up", 1.0)]);
    let wish = press(&mut view, &[KeyCode::Char('d')]);
    assert_eq!((wish, &view.mode), (Wish::Nothing, &Mode::Browse), "a service is no backend");
    press(&mut view, &[KeyCode::Char('2'), KeyCode::Down, KeyCode::Char('d')]);
    assert_eq!(screen(&mut view)[15], "drain api/10.0.0.2:80? y or n");
    assert_eq!(press(&mut view, &[KeyCode::Char('n')]), Wish::Nothing);
    let wish = press(&mut view, &[KeyCode::Char('u'), KeyCode::Char('y')]);
    let address = "10.0.0.2:80".parse().unwrap();
    assert_eq!(
        wish,
        Wish::Order(Order { service: "api".into(), address, action: Action::Undrain })
    );
    assert_eq!(press(&mut view, &[KeyCode::Char('q')]), Wish::End);
}
