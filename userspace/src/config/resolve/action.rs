//! What a route does: rewriting, redirects, header rules.

use http::{HeaderName, HeaderValue, Uri};
use toml::Spanned;

use super::Resolver;
use crate::config::model::{
    Action, Answer, HeaderRules, HostHeader, Path, Piece, Redirect, Rewrite, Template,
};
use crate::config::{pattern, schema, template};

/// Headers that say how a message is framed and how a connection goes on.
const OF_THE_CONNECTION: [&str; 10] = [
    "connection",
    "content-length",
    "expect",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

impl Resolver<'_> {
    pub(super) fn rewrite(
        &mut self,
        rewrite: Spanned<schema::Rewrite>,
        path: &Path,
    ) -> Option<Rewrite> {
        let span = rewrite.span();
        match rewrite.into_inner() {
            schema::Rewrite { prefix: Some(prefix), regex: None, to: None } => {
                self.check_path(&prefix);
                let matched = match path {
                    Path::Any => 0,
                    Path::Prefix(matched) | Path::Exact(matched) => matched.len(),
                    Path::Regex(_) => {
                        let message =
                            "rewrite: a path_regex has no prefix; write { to = \"/...\" }";
                        self.problem(prefix.span(), message);
                        return None;
                    }
                };
                let with = prefix.get_ref().trim_end_matches('/').to_owned();
                Some(Rewrite::Prefix { matched, with })
            }
            schema::Rewrite { prefix: None, regex, to: Some(to) } => {
                let regex = match (regex, path) {
                    (Some(regex), _) => {
                        self.check_regex("rewrite", &regex, regex.get_ref());
                        Some(regex.into_inner())
                    }
                    (None, Path::Regex(regex)) => Some(regex.clone()),
                    (None, _) => None,
                };
                let template = self.template("rewrite", &to, regex.as_deref(), false)?;
                if !to.get_ref().starts_with('/') || sample(&template).parse::<Uri>().is_err() {
                    let message = "rewrite: must be a path that begins with '/'";
                    self.problem(to.span(), message);
                }
                Some(Rewrite::Whole { regex, to: template })
            }
            _ => {
                let message =
                    "rewrite: has either prefix, or to with or without a regex for the path";
                self.problem(span, message);
                None
            }
        }
    }

    /// A route's end: exactly one of a service, a redirect and an answer.
    pub(super) fn action(
        &mut self,
        route: std::ops::Range<usize>,
        service: Option<Option<usize>>,
        (redirect, answer): (Option<Spanned<schema::Redirect>>, Option<Spanned<schema::Answer>>),
        path: &Path,
    ) -> Option<Action> {
        match (service, redirect, answer) {
            (Some(service), None, None) => Some(Action::Forward(service?)),
            (None, Some(redirect), None) => self.redirect(redirect.into_inner(), path),
            (None, None, Some(answer)) => self.answer(answer.into_inner()),
            (None, None, None) => {
                self.problem(route, "a route needs a service, a redirect or an answer");
                None
            }
            (_, Some(redirect), None) => {
                let message = "redirect: a route has either a service or a redirect";
                self.problem(redirect.span(), message);
                None
            }
            (_, _, Some(answer)) => {
                let message = "answer: a route has either a service, a redirect or an answer";
                self.problem(answer.span(), message);
                None
            }
        }
    }

    fn answer(&mut self, answer: schema::Answer) -> Option<Action> {
        /// What fits into a worker's memory many times over; more is a file server's work.
        const BODY_BYTES_MAX: usize = 64 * 1024;
        let status = *answer.status.get_ref();
        // The others are none that end a request.
        if !(200..=599).contains(&status) {
            self.problem(answer.status.span(), "status: must be from 200 to 599");
        }
        if let Some(body) = &answer.body {
            if matches!(status, 204 | 205 | 304) && !body.get_ref().is_empty() {
                let message = format!("body: an answer {status} has none; remove it");
                self.problem(body.span(), message);
            }
            if body.get_ref().len() > BODY_BYTES_MAX {
                let message = "body: has more than 64 KiB; have a backend serve it";
                self.problem(body.span(), message);
            }
        }
        let plain = || "text/plain; charset=utf-8".to_owned();
        if let Some(content_type) = &answer.content_type
            && HeaderValue::from_str(content_type.get_ref()).is_err()
        {
            self.problem(content_type.span(), "type: can be no header's value");
        }
        Some(Action::Answer(Answer {
            status,
            content_type: answer.content_type.map_or_else(plain, Spanned::into_inner),
            body: answer.body.map(Spanned::into_inner).unwrap_or_default(),
        }))
    }

    fn redirect(&mut self, redirect: schema::Redirect, path: &Path) -> Option<Action> {
        let status = *redirect.status.get_ref();
        if ![301, 302, 307, 308].contains(&status) {
            let message = "status: must be 301, 302, 307 or 308; 301 and 308 are remembered by \
                           browsers, 307 and 308 keep the method";
            self.problem(redirect.status.span(), message);
        }
        let regex = match path {
            Path::Regex(regex) => Some(regex.as_str()),
            _ => None,
        };
        let to = self.template("redirect", &redirect.to, regex, true)?;
        let location = sample(&to);
        let text = redirect.to.get_ref();
        let is_located = ["/", "http://", "https://", "${scheme}://"]
            .iter()
            .any(|beginning| text.starts_with(beginning))
            && !text.starts_with("//");
        if !is_located || location.parse::<Uri>().is_err() {
            let message = "redirect: must be a path such as \"/new${uri}\", or a URL such as \"https://${host}${uri}\"";
            self.problem(redirect.to.span(), message);
        }
        Some(Action::Redirect(Redirect { status, to }))
    }

    fn template(
        &mut self,
        key: &str,
        text: &Spanned<String>,
        regex: Option<&str>,
        has_parts: bool,
    ) -> Option<Template> {
        // What is wrong with the expression was said already.
        let groups = regex.map(pattern::whole).transpose().ok()?;
        template::parse(text.get_ref(), groups.as_ref(), has_parts)
            .map_err(|why| self.problem(text.span(), format!("{key}: {why}")))
            .ok()
    }

    pub(super) fn host_header(&mut self, host: Spanned<String>) -> HostHeader {
        match host.get_ref().as_str() {
            "preserve" => HostHeader::Preserve,
            "backend" => HostHeader::Backend,
            text => {
                let name = text.strip_prefix("name:").unwrap_or_default();
                let authority = name.parse::<http::uri::Authority>();
                if !authority.is_ok_and(|authority| !authority.as_str().contains('@')) {
                    let message = format!(
                        "host_header: must be \"preserve\", \"backend\", or a host as \
                         \"name:www.example.com\", not {text:?}"
                    );
                    self.problem(host.span(), message);
                }
                HostHeader::Name(name.to_owned())
            }
        }
    }

    pub(super) fn header_rules(&mut self, key: &str, rules: schema::HeaderRules) -> HeaderRules {
        let mut of = |pairs: std::collections::BTreeMap<Spanned<String>, Spanned<String>>| {
            let mut resolved: Vec<(String, String)> = Vec::with_capacity(pairs.len());
            for (name, value) in pairs {
                let Some(known) = self.changeable(key, &name) else { continue };
                if resolved.iter().any(|(other, _)| *other == known) {
                    let message = format!("{key}: {:?} is there twice", name.get_ref());
                    self.problem(name.span(), message);
                }
                let text = value.get_ref();
                if HeaderValue::from_str(text).is_err() || text.trim() != text {
                    let message = format!("{key}: {text:?} can be no header's value");
                    self.problem(value.span(), message);
                }
                resolved.push((known, value.into_inner()));
            }
            resolved
        };
        let (set, add) = (of(rules.set), of(rules.add));
        let remove = rules.remove.iter().filter_map(|name| self.changeable(key, name)).collect();
        HeaderRules { remove, set, add }
    }

    /// The name of a header that rules may change, in lower case.
    fn changeable(&mut self, key: &str, name: &Spanned<String>) -> Option<String> {
        self.settable(key, name, "the route's host_header")
    }

    /// The name of a header that a request may be given, in lower case. `Host` is what `of_host` says.
    pub(super) fn settable(
        &mut self,
        key: &str,
        name: &Spanned<String>,
        of_host: &str,
    ) -> Option<String> {
        let text = name.get_ref();
        let Ok(known) = HeaderName::from_bytes(text.as_bytes()) else {
            self.problem(name.span(), format!("{key}: {text:?} is no header's name"));
            return None;
        };
        let known = known.as_str();
        if OF_THE_CONNECTION.contains(&known) {
            let message = format!("{key}: {text:?} is of the connection and cannot be changed");
            self.problem(name.span(), message);
            return None;
        }
        if known == "host" {
            let message = format!("{key}: {text:?} is changed by {of_host}");
            self.problem(name.span(), message);
            return None;
        }
        Some(known.to_owned())
    }
}

/// What a template gives for some request, to see whether that can be right.
fn sample(template: &Template) -> String {
    let piece = |piece: &Piece| match piece {
        Piece::Text(text) => text.clone(),
        Piece::Scheme => "http".into(),
        Piece::Host => "a".into(),
        Piece::Authority => "a:1".into(),
        Piece::Path | Piece::Uri => "/a".into(),
        Piece::Group(_) | Piece::Query => "a".into(),
    };
    template.0.iter().map(piece).collect()
}
