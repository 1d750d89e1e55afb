//! What is shown, and what keys do to it.

use std::net::SocketAddr;

use anyhow::Context as _;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::widgets::TableState;
use steerage::admin::client::Event;
use steerage::admin::order::Action;
use steerage::admin::show::Part;
use steerage::stats::board::Board;
use steerage::stats::row::Row;

use super::grid::{Line, Tab, lines};

/// Lines that a page key passes.
const PAGE_LINES: u16 = 20;

/// What is shown.
pub struct View {
    pub board: Option<Board>,
    /// Of each service, in the order of the board's.
    backends: Vec<(String, Vec<Row<'static>>)>,
    pub tab: Tab,
    /// The column that lines are sorted by, and whether the greatest comes first, by tab.
    sorted: [Option<(usize, bool)>; Tab::ALL.len()],
    pub selected: TableState,
    pub filter: String,
    pub mode: Mode,
    /// What became of the last order.
    pub said: String,
    /// Whether the daemon tells anything.
    pub is_connected: bool,
    pub is_coloured: bool,
}

/// What keys are for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    Browse,
    /// They are the filter's letters.
    Filter,
    /// They say yes or no.
    Confirm(Order),
    Help,
}

/// An order about a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    pub service: String,
    pub address: SocketAddr,
    pub action: Action,
}

/// What a key asks of whoever runs this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    Nothing,
    End,
    Order(Order),
}

impl View {
    pub fn new(is_coloured: bool) -> Self {
        Self {
            board: None,
            backends: Vec::new(),
            tab: Tab::Services,
            sorted: Default::default(),
            selected: TableState::default().with_selected(0),
            filter: String::new(),
            mode: Mode::Browse,
            said: String::new(),
            is_connected: true,
            is_coloured,
        }
    }

    /// Takes what the daemon tells.
    pub fn hear(&mut self, event: &Event) -> anyhow::Result<()> {
        let not_understood = "the daemon is not understood; are daemon and command of one version?";
        self.is_connected = true;
        match &*event.name {
            "board" => {
                let board: Board = serde_json::from_str(&event.data).context(not_understood)?;
                self.backends.retain(|(name, _)| board.services.iter().any(|s| s.name == *name));
                self.board = Some(board);
            }
            "backends" => {
                let part: Part<'static> =
                    serde_json::from_str(&event.data).context(not_understood)?;
                match self.backends.iter_mut().find(|(name, _)| *name == part.service) {
                    Some((_, rows)) => *rows = part.rows,
                    None => self.backends.push((part.service.into_owned(), part.rows)),
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The daemon has gone.
    pub fn lose(&mut self) {
        self.is_connected = false;
    }

    /// Says what became of an order.
    pub fn say(&mut self, said: String) {
        self.said = said;
    }

    /// The lines that are shown, in their order.
    pub fn lines(&self) -> Vec<Line> {
        let Some(board) = &self.board else { return Vec::new() };
        let mut lines = lines(self.tab, board, &self.backends);
        let wanted = self.filter.to_lowercase();
        lines.retain(|line| line.has(&wanted));
        if let Some((column, is_down)) = self.sorted() {
            lines.sort_by(|one, other| {
                let order = one.compare(other, column);
                if is_down { order.reverse() } else { order }
            });
        }
        lines
    }

    /// What this tab is sorted by.
    pub fn sorted(&self) -> Option<(usize, bool)> {
        self.sorted[self.tab as usize]
    }

    /// Does what a key is for.
    pub fn press(&mut self, key: KeyEvent) -> Wish {
        if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
            return Wish::End;
        }
        match self.mode.clone() {
            Mode::Browse => return self.browse(key.code),
            Mode::Filter => match key.code {
                KeyCode::Char(c) => self.filter.push(c),
                KeyCode::Backspace => drop(self.filter.pop()),
                KeyCode::Enter => self.mode = Mode::Browse,
                KeyCode::Esc => {
                    self.filter.clear();
                    self.mode = Mode::Browse;
                }
                _ => {}
            },
            Mode::Confirm(order) => {
                self.mode = Mode::Browse;
                if key.code == KeyCode::Char('y') {
                    return Wish::Order(order);
                }
                self.said = "nothing was done".into();
            }
            Mode::Help => self.mode = Mode::Browse,
        }
        Wish::Nothing
    }

    fn browse(&mut self, key: KeyCode) -> Wish {
        match key {
            KeyCode::Char('q') => return Wish::End,
            KeyCode::Char('?' | 'h') => self.mode = Mode::Help,
            KeyCode::Char('/') => self.mode = Mode::Filter,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char(digit @ '1'..='6') => self.turn_to(digit as usize - '1' as usize),
            KeyCode::Tab | KeyCode::Right => self.turn_to(self.tab as usize + 1),
            KeyCode::BackTab | KeyCode::Left => {
                self.turn_to(self.tab as usize + Tab::ALL.len() - 1);
            }
            KeyCode::Char('s') => self.sort_by_next(),
            KeyCode::Char('r') => {
                let sorted = &mut self.sorted[self.tab as usize];
                *sorted = sorted.map(|(column, is_down)| (column, !is_down));
            }
            KeyCode::Down | KeyCode::Char('j') => self.selected.select_next(),
            KeyCode::Up | KeyCode::Char('k') => self.selected.select_previous(),
            KeyCode::PageDown => self.selected.scroll_down_by(PAGE_LINES),
            KeyCode::PageUp => self.selected.scroll_up_by(PAGE_LINES),
            KeyCode::Home => self.selected.select_first(),
            KeyCode::End => self.selected.select_last(),
            KeyCode::Enter if self.tab == Tab::Services => {
                if let Some(service) = self.chosen().and_then(|line| line.service) {
                    self.turn_to(Tab::Backends as usize);
                    self.filter = service;
                }
            }
            KeyCode::Char('d') => self.ask(Action::Drain),
            KeyCode::Char('u') => self.ask(Action::Undrain),
            KeyCode::Char('m') => self.ask(Action::Maintenance),
            _ => {}
        }
        Wish::Nothing
    }

    fn turn_to(&mut self, tab: usize) {
        self.tab = Tab::ALL[tab % Tab::ALL.len()];
        self.selected = TableState::default().with_selected(0);
    }

    /// By each column in turn, and by none: figures the greatest first.
    fn sort_by_next(&mut self) {
        let columns = self.tab.columns();
        let sorted = &mut self.sorted[self.tab as usize];
        let next = sorted.map_or(0, |(column, _)| column + 1);
        *sorted = columns.get(next).map(|name| (next, !name.starts_with(' ')));
    }

    fn chosen(&self) -> Option<Line> {
        let lines = self.lines();
        let last = lines.len().checked_sub(1)?;
        lines.into_iter().nth(self.selected.selected()?.min(last))
    }

    /// Asks whether to give an order about the chosen backend.
    fn ask(&mut self, action: Action) {
        let chosen = self.chosen().and_then(|line| Some((line.service?, line.backend?)));
        match chosen {
            Some((service, address)) => {
                self.mode = Mode::Confirm(Order { service, address, action });
            }
            None => self.said = "orders are about backends: choose one with 2".into(),
        }
    }
}
