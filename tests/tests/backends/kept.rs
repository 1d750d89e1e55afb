//! What happens to kept connections between and under requests.

use steerage_lab::client::{Connection, Response};
use steerage_tests::scripted::{Step, Talk, play};

use crate::stand::{Figures, Script, Stand, some};

const HELLO: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

fn script(serve: impl Fn(&mut Talk, u64) -> std::io::Result<()> + Send + Sync + 'static) -> Script {
    Script { serve: Box::new(serve), route: "" }
}

fn ask(connection: &mut Connection, method: &str, number: usize, id: &str) -> Response {
    let request = format!(
        "{method} /{number} HTTP/1.1\r\nHost: a\r\nX-Id: {id}\r\nContent-Length: 5\r\n\r\nhello"
    );
    connection.send(request.as_bytes()).unwrap();
    connection.response().unwrap()
}

/// Serves, but ends its first connection under the second request, which it has executed.
fn dying_on_the_second(talk: &mut Talk, number: u64, resets: bool) -> std::io::Result<()> {
    for count in 0.. {
        let Some(request) = talk.read()? else { return Ok(()) };
        talk.execute(&request);
        if (number, count) == (0, 1) {
            return if resets { talk.end_by_reset() } else { Ok(()) };
        }
        talk.send(HELLO)?;
    }
    Ok(())
}

#[test]
fn a_request_that_was_executed_before_its_connection_was_lost_runs_again_only_if_idempotent() {
    let cases = [("POST", true), ("POST", false), ("GET", true), ("GET", false)];
    let scripts = cases
        .map(|(_, resets)| script(move |talk, number| dying_on_the_second(talk, number, resets)));
    let stand = Stand::start(scripts.into());
    for (number, (method, resets)) in cases.into_iter().enumerate() {
        let label = format!("{method}, resets: {resets}");
        let mut client = stand.connect();
        assert_eq!(ask(&mut client, "POST", number, "first").status, 200, "{label}");
        let response = ask(&mut client, method, number, "second");
        let class = response.head.header("x-steerage-error");
        let (executed, l7) = (stand.backends[number].executed(), stand.l7(number));
        if method == "POST" {
            assert_eq!((response.status, class), (502, Some("stale_unproven")), "{label}");
            assert!(response.text().contains("stale_unproven"), "{label}: {}", response.text());
            assert_eq!(some(&l7.refusals), ["unproven 1"], "{label}");
            assert_eq!(executed["second"], 1, "{label}");
        } else {
            assert_eq!((response.status, class), (200, None), "{label}");
            assert_eq!(some(&l7.replays), ["idempotent 1"], "{label}");
            assert_eq!(executed["second"], 2, "{label}");
        }
        assert_eq!(executed["first"], 1, "{label}");
        assert!(some(&l7.failures).is_empty(), "a kept connection's loss is no failure: {label}");
        // The client's connection goes on.
        assert_eq!(ask(&mut client, "POST", number, "third").status, 200, "{label}");
    }
}

#[test]
fn a_kept_connection_leaves_the_pool_when_it_is_closed_or_sends_what_nobody_asked_for() {
    use Step::{AwaitEnd, Close, Execute, Gate, Reset, Send};
    const ANSWER: Step = Send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
    const MORE: Step = Send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil");
    let cases = [
        ("a response to nothing", vec![Execute, ANSWER, Gate, MORE, AwaitEnd], "poison 1"),
        ("a byte", vec![Execute, ANSWER, Gate, Send("x"), AwaitEnd], "poison 1"),
        ("a byte and the end", vec![Execute, ANSWER, Gate, Send("x"), Close], "poison 1"),
        ("the end", vec![Execute, ANSWER, Gate, Close], "eof 1"),
        ("a reset", vec![Execute, ANSWER, Gate, Reset], "reset 1"),
    ];
    let scripts = cases.iter().map(|(_, steps, _)| {
        let steps = steps.clone();
        script(move |talk, number| match number {
            0 => play(&steps, talk),
            _ => play(&[Execute, ANSWER], talk),
        })
    });
    let stand = Stand::start(scripts.collect());
    let mut client = stand.connect();
    let idle = Figures { connections: 1, idle: 1, ..Figures::default() };
    for (number, (name, _, reason)) in cases.iter().enumerate() {
        assert_eq!(ask(&mut client, "POST", number, "first").text(), "hello", "{name}");
        stand.settles(number, &idle).expect(name);
        stand.backends[number].open_gate();
        let gone = Figures { closed: vec![(*reason).to_owned()], ..Figures::default() };
        stand.settles(number, &gone).expect(name);
        assert_eq!(ask(&mut client, "POST", number, "second").text(), "hello", "{name}");
        assert_eq!(stand.backends[number].connections(), 2, "{name}");
        assert!(some(&stand.l7(number).replays).is_empty(), "{name}");
    }
}
