//! A `location`: which paths are its own, and what is done with them.

use std::rc::Rc;

use super::pass;
use super::scope::Scope;
use super::token::Directive;
use super::unknown::remark_others;
use super::upstream::{Services, Target};
use crate::import::draft::{Draft, Table};
use crate::import::expression;
use crate::import::remark::{Place, Remark, Weight};
use crate::import::route::{Action, End, Rewrite, literal};
use crate::import::rules::Path;

/// What `location` says of paths.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// `=`.
    Exact(String),
    /// A prefix; whether expressions are not looked at then (`^~`).
    Prefix(String, bool),
    /// `~` and `~*`: for whole paths.
    Regex(String),
}

/// The kind of a location.
///
/// # Errors
/// Why it can be none.
pub fn kind(directive: &Directive) -> Result<Kind, String> {
    match directive.arguments()[..] {
        ["=", path] => Ok(Kind::Exact(path.to_owned())),
        ["^~", path] => Ok(Kind::Prefix(path.to_owned(), true)),
        ["~", regex] => expression::whole(regex, false).map(Kind::Regex),
        ["~*", regex] => expression::whole(regex, true).map(Kind::Regex),
        [path] if path.starts_with('@') => {
            Err("locations with a name are not to be reached".into())
        }
        [path] => match path.strip_prefix('=') {
            Some(path) => Ok(Kind::Exact(path.to_owned())),
            None => Ok(Kind::Prefix(path.to_owned(), false)),
        },
        _ => Err("it has no path".into()),
    }
}

impl Kind {
    /// As a route has it.
    pub fn path(&self) -> Path {
        match self {
            Self::Exact(path) => Path::Exact(path.clone()),
            Self::Regex(regex) => Path::Regex(regex.clone()),
            Self::Prefix(prefix, _) => match prefix.trim_end_matches('/') {
                "" => Path::Any,
                prefix => Path::Prefix(prefix.to_owned()),
            },
        }
    }
}

/// What is done at a place of the file, and with which prefix of the path.
pub fn action(
    scope: &Scope<'_>,
    kind: &Kind,
    place: &Place,
    (services, draft): (&Services<'_>, &mut Draft),
) -> Rc<Action> {
    let mut table = Table::default();
    remark_others(scope.own(), &pass::TRANSLATED, &mut table);
    let own = |name: &str| scope.own().iter().find(|directive| directive.name() == name);
    let mut rewrite = None;
    for directive in scope.own().iter().filter(|directive| directive.name() == "rewrite") {
        match rewritten(directive) {
            Ok(Rewritten::Redirect(end, rewrite, _)) => {
                let why = "the whole location is redirected, whether its path matches or not";
                let remark = Remark::new(&directive.place, &directive.all(), Weight::Differs, why);
                table.remark(remark);
                return done(end, rewrite, table, scope);
            }
            Ok(Rewritten::Path(path)) if rewrite.is_none() => rewrite = Some(path),
            Ok(Rewritten::Path(_)) => {
                let why = "a route has one rewrite; make a location for the other";
                let remark = Remark::new(&directive.place, &directive.all(), Weight::LeftOut, why);
                table.remark(remark);
            }
            Err(why) => {
                let remark = Remark::new(&directive.place, &directive.all(), Weight::LeftOut, why);
                table.remark(remark);
            }
        }
    }
    if let Some(directive) = own("return") {
        let end = returned(directive, &mut table);
        return done(end, None, table, scope);
    }
    if let Some(directive) = guard(scope) {
        let why = "who is let in can't be told by address or password here: NOBODY is, until this route \
                   is given its service";
        table.remark(Remark::new(&directive.place, &directive.all(), Weight::LeftOut, why));
        let body = format!("{} was not imported\n", directive.place);
        return done(End::Answer { status: 403, body, content_type: None }, None, table, scope);
    }
    let Some(directive) = own("proxy_pass").or_else(|| own("grpc_pass")) else {
        let why = "what is here can't be had; requests are answered 501, so that no other location \
                   takes them";
        table.remark(Remark::new(place, &["this location"], Weight::LeftOut, why));
        let body = format!("{place} was not imported\n");
        return done(End::Answer { status: 501, body, content_type: None }, None, table, scope);
    };
    let url = directive.words.get(1).map_or("", String::as_str);
    let Some((target, uri)) = target(url) else {
        let why =
            "variables can't name backends; requests are answered 501 until this is a service";
        table.remark(Remark::new(&directive.place, &directive.all(), Weight::LeftOut, why));
        let body = format!("{place} was not imported\n");
        return done(End::Answer { status: 501, body, content_type: None }, None, table, scope);
    };
    let service = services.service(draft, &target, scope);
    if rewrite.is_none() && !uri.is_empty() {
        rewrite = replaced(kind, uri, directive, &mut table);
    }
    pass::set_keys(&mut table, scope, target.authority);
    done(End::Service(service), rewrite, table, scope)
}

/// What lets only some in.
fn guard<'a>(scope: &Scope<'a>) -> Option<&'a Directive> {
    let asks = ["auth_basic", "auth_request", "auth_jwt"];
    let asking = asks.iter().filter_map(|name| scope.get(name));
    let denying = scope.all("deny").into_iter();
    asking
        .filter(|directive| directive.words.get(1).is_some_and(|word| word != "off"))
        .chain(denying.filter(|directive| directive.words.get(1).is_some_and(|word| word == "all")))
        .next()
}

fn done(end: End, rewrite: Option<Rewrite>, mut table: Table, scope: &Scope<'_>) -> Rc<Action> {
    pass::set_response_headers(&mut table, scope);
    Rc::new(Action { end, rewrite, table })
}

/// Where a URL leads, and the path in it.
fn target(url: &str) -> Option<(Target<'_>, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let at = rest.find('/').unwrap_or(rest.len());
    let (authority, uri) = rest.split_at(at);
    // As if there were no path: what the client asked for is passed on.
    let (authority, uri) = match authority.strip_suffix("$request_uri") {
        Some(authority) => (authority, ""),
        None => (authority, uri),
    };
    if authority.contains('$') || authority.starts_with("unix:") || uri.contains('$') {
        return None;
    }
    let is_tls = matches!(scheme, "https" | "grpcs");
    let default = if is_tls { ":443" } else { ":80" };
    let authority = authority.strip_suffix(default).unwrap_or(authority);
    let target = Target { authority, is_tls, is_grpc: scheme.starts_with("grpc") };
    Some((target, uri))
}

/// What `proxy_pass` with a path makes of the location's own.
fn replaced(kind: &Kind, uri: &str, directive: &Directive, table: &mut Table) -> Option<Rewrite> {
    match kind {
        Kind::Exact(path) => {
            let regex = expression::escape(path);
            Some(Rewrite::Whole { regex, to: literal(uri) })
        }
        Kind::Regex(_) => {
            let why = "nginx takes no path here either";
            let remark = Remark::new(&directive.place, &directive.all(), Weight::LeftOut, why);
            table.remark(remark);
            None
        }
        Kind::Prefix(prefix, _) if prefix == uri => None,
        Kind::Prefix(prefix, _) if prefix.ends_with('/') == uri.ends_with('/') => {
            Some(Rewrite::Prefix {
                from: prefix.trim_end_matches('/').to_owned(),
                to: uri.to_owned(),
            })
        }
        // Not by whole segments: "/a/" and "/b" make "/bc" of "/a/c".
        Kind::Prefix(prefix, _) => Some(Rewrite::Whole {
            regex: format!("{}(.*)", expression::escape(prefix)),
            to: format!("{}$1", literal(uri)),
        }),
    }
}

/// What a `rewrite` does.
pub enum Rewritten {
    /// With what becomes of the path before, and the expression for whole paths.
    Redirect(End, Option<Rewrite>, String),
    Path(Rewrite),
}

/// A `rewrite`'s counterpart.
///
/// # Errors
/// Why it has none.
pub fn rewritten(directive: &Directive) -> Result<Rewritten, String> {
    let (searched, to, flag) = match directive.arguments()[..] {
        [searched, to] => (searched, to, "last"),
        [searched, to, flag] => (searched, to, flag),
        _ => return Err("it has an expression and a path".into()),
    };
    let regex = expression::whole(searched, false)?;
    let is_url = to.contains("://");
    match flag {
        "permanent" | "redirect" => {
            let status = if flag == "permanent" { 301 } else { 302 };
            redirected(regex, to, status)
        }
        _ if is_url => redirected(regex, to, 302),
        // The locations are searched again then, but for the one that passes it on itself.
        "break" | "last" => {
            let to = to.strip_suffix('?').unwrap_or(to);
            let to = template(to)?;
            if to.contains("${") {
                return Err("a path is made of the expression's groups alone".into());
            }
            Ok(Rewritten::Path(Rewrite::Whole { regex, to }))
        }
        _ => Err(format!("{flag} is no flag")),
    }
}

/// A redirect of the paths that match; it keeps the query, unless the target ends by `?`.
fn redirected(regex: String, to: &str, status: u16) -> Result<Rewritten, String> {
    let at = to.find("://").map_or(0, |scheme| scheme + 3);
    let at = at + to[at..].find('/').unwrap_or(to.len() - at);
    let (origin, path) = to.split_at(at);
    if path.is_empty() || path.contains('?') || path.contains("${") {
        let to = template(to.strip_suffix('?').unwrap_or(to))?;
        return Ok(Rewritten::Redirect(End::Redirect { to, status }, None, regex));
    }
    let rewrite = Rewrite::Whole { regex: regex.clone(), to: template(path)? };
    let origin = if origin.is_empty() { "$scheme://$http_host" } else { origin };
    let end = End::Redirect { to: format!("{}${{uri}}", template(origin)?), status };
    Ok(Rewritten::Redirect(end, Some(rewrite), regex))
}

/// The end that `return` makes.
pub fn returned(directive: &Directive, table: &mut Table) -> End {
    let arguments = directive.arguments();
    let remark = |weight, why: String| Remark::new(&directive.place, &directive.all(), weight, why);
    let (status, text) = match arguments[..] {
        [text] if text.parse::<u16>().is_err() => (302, text),
        [status] => (status.parse().unwrap_or(500), ""),
        [status, text, ..] => (status.parse().unwrap_or(500), text),
        [] => (500, ""),
    };
    let answer = |status, body: &str| End::Answer { status, body: body.into(), content_type: None };
    match status {
        301 | 302 | 303 | 307 | 308 => match template(text) {
            Ok(to) => {
                if status == 303 {
                    table.remark(remark(Weight::Differs, "as 302: there is no 303 here".into()));
                }
                End::Redirect { to, status: if status == 303 { 302 } else { status } }
            }
            Err(why) => {
                table.remark(remark(Weight::LeftOut, format!("{why}; answered 501")));
                answer(501, &format!("{} was not imported\n", directive.place))
            }
        },
        444 => {
            let why = "connections are not cut without an answer: it is 403";
            table.remark(remark(Weight::Differs, why.into()));
            answer(403, "")
        }
        200..=599 if text.contains('$') => {
            let why = "an answer's text has no variables in it";
            table.remark(remark(Weight::Differs, why.into()));
            answer(status, text)
        }
        200..=599 if text.is_empty() && status != 200 && status != 204 => {
            answer(status, &format!("{status}\n"))
        }
        200..=599 => answer(status, text),
        _ => answer(500, text),
    }
}

/// Text with nginx's variables as a template.
///
/// # Errors
/// If one has no counterpart.
pub fn template(text: &str) -> Result<String, String> {
    let text = text.replace("$uri$is_args$args", "$request_uri");
    let mut rest = text.as_str();
    let mut template = String::new();
    while let Some(at) = rest.find('$') {
        template.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let (name, left) = match rest.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            Some(parts) => parts,
            None => {
                let is_group = rest.starts_with(|c: char| c.is_ascii_digit());
                let is_part = |c: char| match is_group {
                    true => c.is_ascii_digit(),
                    false => c.is_ascii_alphanumeric() || c == '_',
                };
                rest.split_at(rest.find(|c| !is_part(c)).unwrap_or(rest.len()))
            }
        };
        rest = left;
        let part = match name {
            "host" | "hostname" => "host",
            "http_host" => "authority",
            "request_uri" => "uri",
            "uri" | "document_uri" => "path",
            "args" | "query_string" => "query",
            "scheme" => "scheme",
            group if group.parse::<usize>().is_ok() => group,
            _ => return Err(format!("${name} has no counterpart")),
        };
        template.push_str(&format!("${{{part}}}"));
    }
    template.push_str(rest);
    // So it reads better.
    Ok((0..10).fold(template, |text, n| text.replace(&format!("${{{n}}}"), &format!("${n}"))))
}
