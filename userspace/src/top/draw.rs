//! What is shown, on a terminal.

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line as Text, Span};
use ratatui::widgets::{Block, Cell, Clear, Paragraph, Row, Table, Tabs};
use steerage::stats::board::Board;

use super::grid::{Line, Tab, Tint, short, span};
use super::view::{Mode, View};

/// Between two columns.
const GAP: u16 = 2;

const HELP: &str = "\
 Tab, 1 to 6    another table
 up, down       choose a line; PgUp, PgDn, Home, End
 Enter          a service's backends
 s, r           sort by the next column; the other way round
 /              only lines with these letters; Esc: all
 d, u, m        drain, undrain, take out (maintenance) the chosen backend
 q              end";

pub fn draw(frame: &mut Frame<'_>, view: &mut View) {
    let [head, tabs, body, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Min(1),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(headline(view)), head);
    let names = Tab::ALL.iter().enumerate().map(|(at, tab)| format!("{} {}", at + 1, tab.name()));
    let chosen = Style::new().add_modifier(Modifier::REVERSED);
    let tabs_line = Tabs::new(names).select(view.tab as usize).highlight_style(chosen).divider(" ");
    frame.render_widget(tabs_line, tabs);
    table(frame, view, body);
    frame.render_widget(Paragraph::new(footline(view)), foot);
    if view.mode == Mode::Help {
        help(frame);
    }
}

fn headline(view: &View) -> Text<'static> {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let Some(board) = &view.board else { return Text::from("waiting for the daemon") };
    let mut parts =
        vec![Span::styled(format!("steerage {}", board.instance), bold), Span::raw(facts(board))];
    if !view.is_connected {
        let style = tinted(Tint::Bad, view.is_coloured).add_modifier(Modifier::REVERSED);
        parts.push(Span::styled(" the daemon is gone: trying again ", style));
    }
    Text::from(parts)
}

fn facts(board: &Board) -> String {
    let work = &board.work;
    let rate = work.rate.map_or("-".into(), short);
    let errors = work.errors.map_or("-".into(), |share| format!("{:.2}%", share * 100.0));
    let p99 = work.p99.map_or("-".into(), |p99| format!("{:.1} ms", p99 * 1000.0));
    format!(
        "  {rate} req/s  {errors} errors  p99 {p99}  {} active  generation {}  up {}  {}  ",
        work.active,
        board.generation,
        span(board.uptime_seconds),
        board.plane,
    )
}

fn footline(view: &View) -> Text<'static> {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    match &view.mode {
        Mode::Filter => Text::from(format!("/{}_", view.filter)),
        Mode::Confirm(order) => {
            let (service, address) = (&order.service, order.address);
            let question = format!("{} {service}/{address}? y or n", order.action.name());
            Text::from(Span::styled(question, bold))
        }
        _ => {
            let filter = match view.filter.is_empty() {
                true => String::new(),
                false => format!("only {:?} (Esc: all)  ", view.filter),
            };
            Text::from(format!("{filter}? help  q end  {}", view.said))
        }
    }
}

fn table(frame: &mut Frame<'_>, view: &mut View, area: Rect) {
    let lines = view.lines();
    let last = lines.len().saturating_sub(1);
    view.selected.select(Some(view.selected.selected().unwrap_or(0).min(last)));
    let columns = view.tab.columns();
    let sorted = view.sorted();
    let heads: Vec<String> = (0..)
        .zip(columns)
        .map(|(at, name)| {
            let mark = match sorted {
                Some((column, is_down)) if column == at => {
                    if is_down {
                        "↓"
                    } else {
                        "↑"
                    }
                }
                _ => "",
            };
            format!("{}{mark}", name.trim_start())
        })
        .collect();
    let is_text = |at: usize| columns[at].starts_with(' ');
    let aligned = |text: String, at: usize| {
        let side = if is_text(at) { Alignment::Left } else { Alignment::Right };
        Text::from(text).alignment(side)
    };
    let rows = lines.iter().map(|line| {
        let cells = line.cells.iter().enumerate();
        Row::new(cells.map(|(at, cell)| {
            Cell::from(aligned(cell.text.clone(), at)).style(tinted(cell.tint, view.is_coloured))
        }))
    });
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let head =
        Row::new(heads.iter().enumerate().map(|(at, name)| Cell::from(aligned(name.clone(), at))));
    let table = Table::new(rows, widths(&heads, &lines))
        .header(head.style(bold))
        .column_spacing(GAP)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    frame.render_stateful_widget(table, area, &mut view.selected);
}

/// As wide as their widest cells: what does not fit is cut off at the right.
fn widths(heads: &[String], lines: &[Line]) -> Vec<Constraint> {
    let width = |at: usize| {
        let cells = lines
            .iter()
            .map(|line| line.cells.get(at).map_or(0, |cell| Span::raw(&*cell.text).width()));
        cells.max().unwrap_or(0).max(heads[at].chars().count())
    };
    let cut = |width: usize| Constraint::Length(u16::try_from(width).unwrap_or(u16::MAX));
    (0..heads.len()).map(|at| cut(width(at))).collect()
}

fn tinted(tint: Tint, is_coloured: bool) -> Style {
    if !is_coloured {
        return Style::new();
    }
    match tint {
        Tint::None => Style::new(),
        Tint::Good => Style::new().fg(Color::Green),
        Tint::Warn => Style::new().fg(Color::Yellow),
        Tint::Bad => Style::new().fg(Color::Red),
    }
}

fn help(frame: &mut Frame<'_>) {
    let all = frame.area();
    let (width, height) = (72.min(all.width), 9.min(all.height));
    let area = Rect { x: (all.width - width) / 2, y: (all.height - height) / 2, width, height };
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(HELP).block(Block::bordered().title(" Keys ")), area);
}

#[cfg(test)]
mod tests;
