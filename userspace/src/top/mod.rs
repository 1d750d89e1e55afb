//! `steerage top`: what moves, in a terminal.
//!
//! [`view`] is what is shown and what keys do to it, without a terminal; [`draw`] puts it on one. The daemon
//! sends what there is once a second: the same that the page gets.

mod draw;
mod grid;
mod view;

use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event as Input, KeyEventKind};
use steerage::admin::client::{self, Event, Stream};
use steerage::admin::order::Terms;
use steerage::stats::table;
use tokio::sync::mpsc;

use crate::{ask, is_coloured};
use view::{Order, View, Wish};

/// Asks for every backend.
const TARGET: &str = "/v1/events?all";

/// Between two attempts to reach the daemon again, as at an upgrade.
const AGAIN: Duration = Duration::from_secs(1);

/// How often the keyboard's thread sees whether it is still wanted.
const LOOK: Duration = Duration::from_millis(100);

/// Shows it until `q`; one snapshot alone where there is no terminal.
pub fn run(socket: &Path) -> anyhow::Result<()> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        print!("{}", table::render(&ask(client::status(socket))?));
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // Whoever is not there is told of without another screen.
        let stream = Stream::open(socket, TARGET).await?;
        let mut terminal = ratatui::try_init()?;
        let shown = show(&mut terminal, socket, stream).await;
        ratatui::restore();
        shown
    })
}

async fn show(terminal: &mut DefaultTerminal, socket: &Path, stream: Stream) -> anyhow::Result<()> {
    let mut view = View::new(is_coloured());
    let mut stream = Some(stream);
    let mut inputs = inputs();
    loop {
        terminal.draw(|frame| draw::draw(frame, &mut view))?;
        tokio::select! {
            next = next(&mut stream, socket) => match next {
                Some(event) => view.hear(&event)?,
                None => view.lose(),
            },
            Some(input) = inputs.recv() => {
                let Input::Key(key) = input? else { continue };
                if key.kind != KeyEventKind::Press {
                    continue;
                }
                match view.press(key) {
                    Wish::Nothing => {}
                    Wish::End => return Ok(()),
                    Wish::Order(order) => {
                        let said = give(socket, &order).await;
                        view.say(said);
                    }
                }
            }
        }
    }
}

/// The next event; `None` when the daemon has gone. It is looked for again then.
async fn next(stream: &mut Option<Stream>, socket: &Path) -> Option<Event> {
    if let Some(open) = stream {
        if let Ok(Some(event)) = open.event().await {
            return Some(event);
        }
        *stream = None;
        return None;
    }
    tokio::time::sleep(AGAIN).await;
    *stream = Stream::open(socket, TARGET).await.ok();
    None
}

async fn give(socket: &Path, Order { service, address, action }: &Order) -> String {
    match client::order(socket, service, *address, *action, Terms::default()).await {
        Ok(()) => format!("{service}/{address}: {}", action.name()),
        Err(error) => error.to_string(),
    }
}

/// What is typed, and other sizes of the terminal.
fn inputs() -> mpsc::Receiver<io::Result<Input>> {
    let (sender, receiver) = mpsc::channel(64);
    std::thread::spawn(move || {
        while !sender.is_closed() {
            let input = match event::poll(LOOK) {
                Ok(false) => continue,
                Ok(true) => event::read(),
                Err(error) => Err(error),
            };
            if sender.blocking_send(input).is_err() {
                return;
            }
        }
    });
    receiver
}
