//! What can be asked on the admin socket: one table, which the server looks requests up in and the OpenAPI
//! description is compared with.

use http::Method;
use percent_encoding::percent_decode_str;

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// The description of this interface.
    OpenApi,
    /// A snapshot of everything.
    Status,
    /// What moves of it.
    Events,
    /// Lines about requests.
    AccessLog,
    /// The workers of it.
    Workers,
    /// The configuration in force, every default filled in.
    Config,
    /// Its text.
    ConfigText,
    /// What the file says else.
    Diff,
    /// Former configurations.
    Revisions,
    /// Another text.
    Apply,
    /// The file anew.
    Reload,
    /// A former text.
    Rollback,
    /// Any key.
    Set,
    /// Another key for tickets.
    RotateTickets,
    /// Another binary.
    Upgrade,
    /// A new backend.
    AddBackend,
    /// The end of one.
    RemoveBackend,
    /// Its share of the work.
    Weight,
    /// What it has in hand.
    Remaining,
    /// No new work for it.
    Drain,
    /// Out at once.
    Maintenance,
    /// Work again.
    Undrain,
}

/// A route as it is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The method.
    pub method: &'static str,
    /// The path. Parts in braces are parameters.
    pub path: &'static str,
    /// Where it leads.
    pub route: Route,
    /// What it gives or does, in a few words.
    pub summary: &'static str,
}

const fn entry(
    method: &'static str,
    path: &'static str,
    route: Route,
    summary: &'static str,
) -> Entry {
    Entry { method, path, route, summary }
}

/// All of them.
pub const ROUTES: [Entry; 22] = [
    entry("GET", "/v1/openapi.json", Route::OpenApi, "this description"),
    entry("GET", "/v1/status", Route::Status, "a snapshot of everything"),
    entry(
        "GET",
        "/v1/events",
        Route::Events,
        "what moves, once a second until the client goes, as server-sent events: `board` without backends, \
         `backends` of each service that ?open=SERVICE or ?all asks for",
    ),
    entry(
        "GET",
        "/v1/access-log",
        Route::AccessLog,
        "lines of the access log from now on, until the client goes; one that begins with the character 30 says \
         how many were left out because the client was slow",
    ),
    entry("GET", "/v1/workers", Route::Workers, "the workers"),
    entry(
        "GET",
        "/v1/config",
        Route::Config,
        "the configuration in force, every default filled in",
    ),
    entry(
        "PUT",
        "/v1/config",
        Route::Apply,
        "puts another text in force, until the file is read the next time",
    ),
    entry("PATCH", "/v1/config", Route::Set, "gives one key another value"),
    entry("GET", "/v1/config/text", Route::ConfigText, "the text of the configuration in force"),
    entry("GET", "/v1/config/diff", Route::Diff, "what the file says else than what is in force"),
    entry(
        "GET",
        "/v1/config/revisions",
        Route::Revisions,
        "the configurations that can be taken back; the last is in force",
    ),
    entry("POST", "/v1/config/reload", Route::Reload, "takes the file anew"),
    entry("POST", "/v1/config/rollback", Route::Rollback, "takes a configuration back"),
    entry(
        "POST",
        "/v1/tls/rotate-tickets",
        Route::RotateTickets,
        "seals tickets of TLS sessions with another key; the third time nothing older opens any more",
    ),
    entry("POST", "/v1/upgrade", Route::Upgrade, "starts another binary in this daemon's place"),
    entry(
        "POST",
        "/v1/services/{service}/backends",
        Route::AddBackend,
        "gives a service another backend",
    ),
    entry(
        "DELETE",
        "/v1/services/{service}/backends/{address}",
        Route::RemoveBackend,
        "takes a backend out of the configuration; it finishes what it has",
    ),
    entry(
        "PUT",
        "/v1/services/{service}/backends/{address}/weight",
        Route::Weight,
        "gives a backend another share of the work",
    ),
    entry(
        "GET",
        "/v1/services/{service}/backends/{address}/remaining",
        Route::Remaining,
        "what a backend still has in hand",
    ),
    entry(
        "POST",
        "/v1/services/{service}/backends/{address}/drain",
        Route::Drain,
        "gives a backend no new work",
    ),
    entry(
        "POST",
        "/v1/services/{service}/backends/{address}/maintenance",
        Route::Maintenance,
        "takes a backend out at once",
    ),
    entry(
        "POST",
        "/v1/services/{service}/backends/{address}/undrain",
        Route::Undrain,
        "lets a backend take work again",
    ),
];

/// What a request's method and path lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A route, with the values of its parameters in their order.
    Route(Route, Vec<String>),
    /// The path is known, with other methods.
    Method(Vec<&'static str>),
    /// Nothing.
    Nothing,
}

/// Looks a request up.
#[must_use]
pub fn find(method: &Method, path: &str) -> Found {
    let mut methods = Vec::new();
    for known in ROUTES {
        let Some(parameters) = matched(known.path, path) else { continue };
        if method == known.method {
            return Found::Route(known.route, parameters);
        }
        methods.push(known.method);
    }
    if methods.is_empty() { Found::Nothing } else { Found::Method(methods) }
}

/// The parameters' values, if the path is one of the template.
fn matched(template: &str, path: &str) -> Option<Vec<String>> {
    let mut values = Vec::new();
    let mut parts = path.split('/');
    for wanted in template.split('/') {
        let part = parts.next()?;
        if wanted.starts_with('{') {
            values.push(percent_decode_str(part).decode_utf8().ok()?.into_owned());
        } else if wanted != part {
            return None;
        }
    }
    parts.next().is_none().then_some(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_find_their_routes_and_parameters() {
        let find = |method: &str, path: &str| find(&method.parse().unwrap(), path);
        assert_eq!(find("GET", "/v1/status"), Found::Route(Route::Status, Vec::new()));
        assert_eq!(
            find("PUT", "/v1/services/a%2Fb%20c/backends/[2001:db8::1]:80/weight"),
            Found::Route(Route::Weight, vec!["a/b c".into(), "[2001:db8::1]:80".into()])
        );
        assert_eq!(find("DELETE", "/v1/config"), Found::Method(vec!["GET", "PUT", "PATCH"]));
        for path in ["/", "/v1/status/", "/v1/services/a/backends/b/none", "/v1/services//x"] {
            assert_eq!(find("GET", path), Found::Nothing, "{path}");
        }
        assert_eq!(find("POST", "/v1/services/%ff/backends"), Found::Nothing, "no UTF-8");
    }
}
