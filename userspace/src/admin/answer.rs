//! Answers to requests on the admin socket.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Body, Frame, Incoming};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::Receiver;

use super::order::{
    Action, Assignment, Back, ConfigChange, Daemon, Refusal, Reloaded, Terms, Upgrade, Weight,
};
use super::routes::{self, Found, ROUTES, Route};
use super::server::Subject;
use super::show::Opened;
use crate::config::edit::{Edit, NewBackend};

/// An order's body; the largest is a whole configuration.
const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The description of this interface.
pub const OPENAPI: &str = include_str!("openapi.json");

/// What is sent back.
pub type Reply = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// Answers a request.
pub async fn admin(request: Request<Incoming>, subject: Subject) -> Reply {
    let found = routes::find(request.method(), request.uri().path());
    let (route, parameters) = match found {
        Found::Route(route, parameters) => (route, parameters),
        Found::Method(methods) => {
            let mut reply = text(StatusCode::METHOD_NOT_ALLOWED, all_routes());
            let methods = HeaderValue::from_str(&methods.join(", "));
            reply.headers_mut().extend(methods.ok().map(|methods| (ALLOW, methods)));
            return reply;
        }
        Found::Nothing => return text(StatusCode::NOT_FOUND, all_routes()),
    };
    match carried_out(route, parameters, request, subject).await {
        Ok(reply) => reply,
        Err(Wrong::Request(why)) => text(StatusCode::BAD_REQUEST, why),
        Err(Wrong::Refused(refusal)) => {
            let status = match refusal {
                Refusal::Unknown { .. } => StatusCode::NOT_FOUND,
                Refusal::Config(_) | Refusal::Upgrade(_) => StatusCode::UNPROCESSABLE_ENTITY,
                Refusal::NoLines => StatusCode::CONFLICT,
                Refusal::Flows(_) => StatusCode::INTERNAL_SERVER_ERROR,
            };
            text(status, format!("{refusal}\n"))
        }
    }
}

/// Why there is no answer.
enum Wrong {
    Request(String),
    Refused(Refusal),
}

impl From<Refusal> for Wrong {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

async fn carried_out(
    route: Route,
    parameters: Vec<String>,
    request: Request<Incoming>,
    Subject { daemon, show }: Subject,
) -> Result<Reply, Wrong> {
    let query = request.uri().query();
    let persist = if route == Route::Events { false } else { persists(query)? };
    let mut parameters = parameters.into_iter();
    let mut service = || parameters.next().unwrap_or_default();
    Ok(match route {
        Route::Events => {
            let opened = Opened::named(query.unwrap_or_default());
            streamed("text/event-stream", show.watch(opened, ()))
        }
        Route::OpenApi => reply(StatusCode::OK, "application/json", OPENAPI),
        Route::Status => json(&daemon.status()),
        Route::AccessLog => {
            let lines = daemon.follow_lines().ok_or(Refusal::NoLines)?;
            streamed("text/plain", lines)
        }
        Route::Workers => json(&daemon.status().workers),
        Route::Config => json(&daemon.config()),
        Route::ConfigText => reply(StatusCode::OK, "application/toml", daemon.text().await?),
        Route::Diff => json(&daemon.diff().await?),
        Route::Revisions => json(&daemon.revisions().await?),
        Route::Reload => json(&daemon.reload().await?),
        Route::Apply => {
            let text = String::from_utf8(body(request).await?.to_vec())
                .map_err(|_| Wrong::Request("a configuration is UTF-8\n".into()))?;
            changed(&daemon, ConfigChange::Apply(text), persist).await?
        }
        Route::Rollback => {
            let back: Back = order(request).await?;
            changed(&daemon, ConfigChange::Rollback(back.revision), persist).await?
        }
        Route::Set => {
            let Assignment { key, value } = order(request).await?;
            changed(&daemon, ConfigChange::Edit(Edit::Set { key, value }), persist).await?
        }
        Route::RotateTickets => {
            daemon.rotate_tickets().await?;
            text(StatusCode::NO_CONTENT, "")
        }
        Route::Upgrade => {
            let upgrade: Upgrade = order(request).await?;
            json(&daemon.upgrade(upgrade.binary).await?)
        }
        Route::AddBackend => {
            let (service, backend) = (service(), order::<NewBackend>(request).await?);
            let edit = Edit::AddBackend { service, backend };
            changed(&daemon, ConfigChange::Edit(edit), persist).await?
        }
        Route::RemoveBackend => {
            let (service, backend) = (service(), address(parameters.next())?);
            let edit = Edit::RemoveBackend { service, backend };
            changed(&daemon, ConfigChange::Edit(edit), persist).await?
        }
        Route::Weight => {
            let (service, backend) = (service(), address(parameters.next())?);
            let Weight { weight } = order(request).await?;
            let edit = Edit::SetWeight { service, backend, weight };
            changed(&daemon, ConfigChange::Edit(edit), persist).await?
        }
        Route::Remaining => {
            let (service, backend) = (service(), address(parameters.next())?);
            // It walks the flow table.
            let walk = tokio::task::spawn_blocking(move || daemon.remaining(&service, backend));
            let walked = walk.await.map_err(|error| Refusal::Flows(error.to_string()));
            json(&walked??)
        }
        Route::Drain | Route::Maintenance | Route::Undrain => {
            let (service, backend) = (service(), address(parameters.next())?);
            let (action, terms) = match route {
                Route::Drain => (Action::Drain, order(request).await?),
                Route::Maintenance => (Action::Maintenance, Terms::default()),
                _ => (Action::Undrain, Terms::default()),
            };
            daemon.order(&service, backend, action, terms)?;
            text(StatusCode::NO_CONTENT, "")
        }
    })
}

async fn changed(
    daemon: &Arc<dyn Daemon>,
    change: ConfigChange,
    persist: bool,
) -> Result<Reply, Wrong> {
    let reloaded: Reloaded = daemon.change(change, persist).await?;
    Ok(json(&reloaded))
}

/// Whether a change is to be made in the file too.
fn persists(query: Option<&str>) -> Result<bool, Wrong> {
    match query {
        None | Some("" | "persist=false") => Ok(false),
        Some("persist=true") => Ok(true),
        Some(other) => Err(Wrong::Request(format!("?{other}: only persist=true is understood\n"))),
    }
}

fn address(parameter: Option<String>) -> Result<SocketAddr, Wrong> {
    let written = parameter.unwrap_or_default();
    let wrong = |_| Wrong::Request(format!("{written:?} is no ADDRESS:PORT of a backend\n"));
    written.parse().map_err(wrong)
}

/// An order's body: JSON; nothing stands for an empty object.
async fn order<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, Wrong> {
    let body = body(request).await?;
    let text = if body.is_empty() { b"{}" } else { &body[..] };
    serde_json::from_slice(text)
        .map_err(|error| Wrong::Request(format!("the body is no valid order: {error}\n")))
}

async fn body(request: Request<Incoming>) -> Result<Bytes, Wrong> {
    let body = Limited::new(request.into_body(), BODY_BYTES_MAX).collect().await;
    let cannot = |error| Wrong::Request(format!("the body cannot be read: {error}\n"));
    Ok(body.map_err(cannot)?.to_bytes())
}

/// What there is, for whoever asked for something else.
fn all_routes() -> String {
    let lines = ROUTES
        .iter()
        .map(|known| format!("  {} {}: {}\n", known.method, known.path, known.summary));
    format!("there are:\n{}", lines.collect::<String>())
}

fn json(value: &impl serde::Serialize) -> Reply {
    match serde_json::to_vec(value) {
        Ok(json) => reply(StatusCode::OK, "application/json", json),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Reply {
    reply(status, "text/plain", body)
}

/// A reply whose body comes piece by piece.
pub fn streamed(kind: &'static str, pieces: Receiver<Bytes>) -> Reply {
    let mut reply = Response::new(Pieces(pieces).boxed_unsync());
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    reply
}

/// A body that ends when nobody sends pieces of it any more.
struct Pieces(Receiver<Bytes>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

/// A reply of a kind.
pub fn reply(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(body.into()).boxed_unsync());
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    reply
}

#[cfg(test)]
pub mod tests;
