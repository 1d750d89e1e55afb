//! `steerage reload` and `steerage config`.

use steerage::admin::client;
use steerage::cli::{ConfigOrder, Daemon};
use steerage::config::plan::Change;

use crate::{admin_socket, ask};

pub fn run(what: ConfigOrder) -> anyhow::Result<()> {
    match what {
        ConfigOrder::Show { daemon } => {
            let config = ask(client::config(&admin_socket(&daemon)?))?;
            println!("{}", serde_json::to_string_pretty(&config)?);
        }
        ConfigOrder::Diff { daemon } => {
            let changes = ask(client::diff(&admin_socket(&daemon)?))?;
            print!("{}", listed(&changes));
        }
    }
    Ok(())
}

pub fn reload(json: bool, daemon: &Daemon) -> anyhow::Result<()> {
    let reloaded = ask(client::reload(&admin_socket(daemon)?))?;
    if json {
        println!("{}", serde_json::to_string_pretty(&reloaded)?);
        return Ok(());
    }
    print!("{}", listed(&reloaded.changes));
    println!("generation {} in force after {:.1} ms", reloaded.generation, reloaded.took_ms);
    Ok(())
}

/// One change a line.
fn listed(changes: &[Change]) -> String {
    if changes.is_empty() {
        return "no difference\n".to_owned();
    }
    changes.iter().map(|change| format!("{change}\n")).collect()
}
