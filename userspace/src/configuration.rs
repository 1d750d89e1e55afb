//! `steerage reload` and `steerage config`.

use std::io::Read as _;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Context as _;
use steerage::admin::client;
use steerage::admin::order::{ConfigChange, Reloaded};
use steerage::cli;
use steerage::cli::{ConfigOrder, Daemon};
use steerage::config::edit::Edit;
use steerage::config::plan::Change;

use crate::{admin_socket, ask};

pub fn run(what: ConfigOrder) -> anyhow::Result<()> {
    match what {
        ConfigOrder::Show { daemon } => {
            let config = ask(client::config(&admin_socket(&daemon)?))?;
            println!("{}", serde_json::to_string_pretty(&config)?);
        }
        ConfigOrder::Schema => {
            println!("{}", serde_json::to_string_pretty(&steerage::config::schema_json::schema())?);
        }
        ConfigOrder::Text { daemon } => {
            print!("{}", ask(client::config_text(&admin_socket(&daemon)?))?);
        }
        ConfigOrder::Diff { json, daemon } => {
            let changes = ask(client::diff(&admin_socket(&daemon)?))?;
            if json {
                println!("{}", serde_json::to_string_pretty(&changes)?);
            } else {
                print!("{}", listed(&changes));
            }
        }
        ConfigOrder::Apply { file, options } => {
            change(&ConfigChange::Apply(text_of(&file)?), &options)?;
        }
        ConfigOrder::Set { key, value, options } => {
            change(&ConfigChange::Edit(Edit::Set { key, value }), &options)?;
        }
        ConfigOrder::Rollback { revision, options } => {
            change(&ConfigChange::Rollback(revision), &options)?;
        }
        ConfigOrder::Revisions { json, daemon } => {
            let revisions = ask(client::revisions(&admin_socket(&daemon)?))?;
            if json {
                println!("{}", serde_json::to_string_pretty(&revisions)?);
                return Ok(());
            }
            for revision in revisions {
                let at = UNIX_EPOCH + Duration::from_secs(revision.at_seconds);
                let at = humantime::format_rfc3339_seconds(at);
                println!("{:>6}  {at}  {}", revision.number, revision.why);
            }
        }
    }
    Ok(())
}

pub fn reload(json: bool, daemon: &Daemon) -> anyhow::Result<()> {
    tell(&ask(client::reload(&admin_socket(daemon)?))?, json)
}

/// Has the daemon make a change, and says what it did.
pub fn change(change: &ConfigChange, options: &cli::Change) -> anyhow::Result<()> {
    let socket = admin_socket(&options.daemon)?;
    tell(&ask(client::change(&socket, change, options.persist))?, options.json)
}

fn tell(reloaded: &Reloaded, json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(reloaded)?);
        return Ok(());
    }
    print!("{}", listed(&reloaded.changes));
    println!("generation {} in force after {:.1} ms", reloaded.generation, reloaded.took_ms);
    Ok(())
}

fn text_of(file: &Path) -> anyhow::Result<String> {
    if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("standard input")?;
        return Ok(text);
    }
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

/// One change a line.
fn listed(changes: &[Change]) -> String {
    if changes.is_empty() {
        return "no difference\n".to_owned();
    }
    changes.iter().map(|change| format!("{change}\n")).collect()
}
