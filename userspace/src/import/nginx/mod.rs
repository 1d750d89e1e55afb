//! `nginx.conf`.
//!
//! A `server` is chosen by its name, as a route's host is; its locations become rules in nginx's own
//! order (exact, `^~`, expressions, prefixes from the longest), those of a default server without a
//! host. Servers that share an address share a listener, and what nginx takes from the default server
//! alone is the listener's.

mod listen;
mod location;
mod pass;
mod scope;
mod server;
mod stream;
mod token;
mod unknown;
mod upstream;

use std::path::Path;

use scope::Scope;
use token::Directive;
use unknown::remark_others;

use super::Error;
use super::draft::{Draft, Table};
use super::remark::{Remark, Weight};

/// Imports the file and those that it includes.
pub fn import(path: &Path) -> Result<Draft, Error> {
    let directory = path.parent().unwrap_or(Path::new(""));
    Ok(draft(&token::read(path)?, directory))
}

fn draft(directives: &[Directive], directory: &Path) -> Draft {
    let mut draft = Draft::default();
    set_global(&mut draft.global, directives);
    for directive in directives {
        match directive.name() {
            "http" => server::import_http(directive, directory, &mut draft),
            "stream" => stream::import(directive, directory, &mut draft),
            _ => {}
        }
    }
    draft
}

/// What becomes of a text.
#[cfg(test)]
pub(super) fn of_text(text: &str) -> Result<Draft, Error> {
    token::parse("nginx.conf", text).map(|directives| draft(&directives, Path::new("/etc")))
}

const TRANSLATED: [&str; 5] = ["http", "stream", "user", "worker_processes", "error_log"];

fn set_global(global: &mut Table, directives: &[Directive]) {
    let scope = Scope::new(directives);
    if let Some(count) = scope.value("worker_processes").and_then(|text| text.parse::<i64>().ok()) {
        global.set(&["workers"], count);
    }
    if let Some(user) = scope.value("user") {
        if user == "root" {
            let directive = scope.get("user").into_iter();
            for directive in directive {
                let why = "workers need no rights; they run as steerage, or nobody";
                let remark = Remark::new(&directive.place, &["user root"], Weight::Unneeded, why);
                global.remark(remark);
            }
        } else {
            global.set(&["user"], user);
        }
    }
    if let Some(level) = scope.get("error_log").and_then(|directive| directive.words.get(2)) {
        let level = match level.as_str() {
            "debug" => "debug",
            "info" | "notice" => "info",
            "warn" => "warn",
            _ => "error",
        };
        global.set(&["log", "level"], level);
    }
    remark_others(directives, &TRANSLATED, global);
}
