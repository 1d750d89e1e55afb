//! The page on the metrics address: one file that loads nothing, and the events that fill it ([`super::show`]).
//!
//! Whoever reaches the address may look, as at the metrics. Orders are refused there, as if there were no
//! such thing, unless `global.page_token` names a file: then those about a backend (drain, undrain,
//! maintenance, weight) are taken as on the admin socket, from whoever shows what that file holds. It is
//! shown in a header that no form and no other site's page can send, and a request that another site's page
//! did send is refused for that.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use http::header::{
    ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, HeaderName, HeaderValue,
    ORIGIN, REFERRER_POLICY, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use super::answer::{Reply, admin, reply, streamed};
use super::order::Daemon;
use super::routes::{self, Found, Route};
use super::server::Subject;
use super::show::Opened;
use crate::config::token;
use crate::l7::base64;
use crate::stats::metrics::{self, Format};

/// How many may watch: less than clients are served, so that there is room for whoever wants metrics.
pub const WATCHERS_MAX: usize = 16;

/// The page.
const PAGE: &str = include_str!("page.html");

/// What the page may do: run its own script and style, and listen to where it came from.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let hash = |tag: &str| base64(&Sha256::digest(element(tag)));
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash("script"),
        hash("style"),
    );
    HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
});

/// What is in the page's one element of this name.
fn element(tag: &str) -> &'static str {
    let within = PAGE.split_once(&format!("<{tag}>")).map_or("", |(_, rest)| rest);
    within.split_once(&format!("</{tag}>")).map_or("", |(within, _)| within)
}

/// Answers a request on the metrics address.
pub async fn answer(
    request: Request<Incoming>,
    peer: SocketAddr,
    Subject { daemon, show }: Subject,
    places: Arc<Semaphore>,
) -> Reply {
    let path = request.uri().path();
    match (request.method(), path) {
        (&Method::GET, "/metrics") => {
            let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok());
            scrape(Format::of(accept), daemon).await
        }
        (&Method::GET, "/") => page(),
        (&Method::GET, "/events") => {
            let Ok(place) = places.try_acquire_owned() else {
                return text(StatusCode::SERVICE_UNAVAILABLE, "too many watch already\n");
            };
            let opened = Opened::named(request.uri().query().unwrap_or_default());
            let mut reply = streamed("text/event-stream", show.watch(opened, place));
            reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            reply.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
            reply
        }
        (_, "/metrics" | "/" | "/events") => text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n"),
        _ => match daemon.page_token() {
            Some(token) if is_order(&request) => match permit(&request, &token) {
                Ok(()) => {
                    info!(%peer, order = path, "an order with the page's token");
                    admin(request, Subject { daemon, show }).await
                }
                Err(refusal) => refusal.reply(),
            },
            _ => text(StatusCode::NOT_FOUND, "there are: GET / (a page), GET /metrics\n"),
        },
    }
}

/// Answers a scraper. Aside of the event loop, which has others to answer: with thousands of backends it
/// takes a while.
async fn scrape(format: Format, daemon: Arc<dyn Daemon>) -> Reply {
    match spawn_blocking(move || metrics::render(&daemon.status(), format)).await {
        Ok(page) => reply(StatusCode::OK, format.content_type(), page),
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the snapshot failed\n"),
    }
}

fn page() -> Reply {
    let mut page = reply(StatusCode::OK, "text/html; charset=utf-8", PAGE);
    let fixed: [(HeaderName, &str); 4] = [
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        // Another binary may have another page.
        (CACHE_CONTROL, "no-cache"),
    ];
    let headers = page.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, POLICY.clone());
    headers.extend(fixed.map(|(name, value)| (name, HeaderValue::from_static(value))));
    page
}

/// Whether it is one that may be given here. The rest of the admin socket's routes are its alone.
fn is_order(request: &Request<Incoming>) -> bool {
    use Route::{Drain, Maintenance, Undrain, Weight};
    let found = routes::find(request.method(), request.uri().path());
    matches!(found, Found::Route(Drain | Maintenance | Undrain | Weight, _))
}

/// Why an order is not taken.
#[derive(Debug)]
enum Refusal {
    /// The page of another site sent it.
    Foreign,
    /// It shows no token, or another.
    Stranger,
    /// There is no token to compare with.
    Unreadable,
}

impl Refusal {
    fn reply(self) -> Reply {
        match self {
            Self::Foreign => text(StatusCode::FORBIDDEN, "not from another site's page\n"),
            Self::Stranger => {
                let mut reply = text(StatusCode::UNAUTHORIZED, "this is not the token\n");
                reply.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
                reply
            }
            Self::Unreadable => text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the token's file can't be read: see the daemon's log\n",
            ),
        }
    }
}

/// Whether an order shows the token. Its file is read each time: whoever writes another one into it need not
/// tell.
fn permit<B>(request: &Request<B>, file: &std::path::Path) -> Result<(), Refusal> {
    let field = |name| request.headers().get(name).map(HeaderValue::as_bytes);
    if let Some(origin) = field(ORIGIN) {
        let site = [&b"http://"[..], b"https://"].iter().find_map(|s| origin.strip_prefix(*s));
        if site.is_none() || site != field(HOST) {
            return Err(Refusal::Foreign);
        }
    }
    let shown = field(AUTHORIZATION).and_then(|field| field.strip_prefix(b"Bearer "));
    let shown = shown.ok_or(Refusal::Stranger)?;
    let token = token::read(file).map_err(|error| {
        warn!(file = %file.display(), %error, "no order is taken on the metrics address");
        Refusal::Unreadable
    })?;
    verify_slices_are_equal(shown, token.as_bytes()).map_err(|_| Refusal::Stranger)
}

fn text(status: StatusCode, body: &'static str) -> Reply {
    reply(status, "text/plain", body)
}

#[cfg(test)]
mod tests;
