//! What becomes of a request before it goes anywhere: whose it is, where it goes, and what of it does.
//!
//! Nothing is sent yet: all that is refused here no backend has seen.

use http::header::{EXPECT, HOST, HeaderMap, HeaderValue};
use http::request::Parts as Head;
use http::uri::PathAndQuery;
use http::{Request, Response, Uri, Version};
use hyper::body::{Body as _, Incoming};
use regex::bytes::Regex;
use steerage_common::error::ErrorClass;

use super::body::Body;
use super::connection::Client;
use super::headers::Echo;
use super::redirect::Redirect;
use super::rewrite::Parts;
use super::route::{Destination, End, Plan, Query, Table};
use super::upgrade::Wish;
use super::upload::{Outgoing, Upload};
use super::{Front, Proxy, forward, host, reply, version};
use crate::config::model::UpstreamProtocol;
use crate::tls::{Session, Terminator, identity};

/// What Steerage answers itself.
pub(super) enum Own {
    Error(ErrorClass),
    /// What a route says, by its index.
    Routed(Box<Response<Body>>, usize),
}

impl From<ErrorClass> for Own {
    fn from(class: ErrorClass) -> Self {
        Self::Error(class)
    }
}

/// A request that has its place to go.
pub(super) struct Prepared {
    pub(super) destination: Destination,
    pub(super) request: Outgoing,
    pub(super) wish: Option<Wish>,
}

/// Decides where a request goes and makes it the one that the backend gets.
pub(super) fn prepare(
    proxy: &Proxy,
    front: &Front,
    client: &Client,
    request: Request<Incoming>,
) -> Result<(Prepared, Echo), Own> {
    let (mut head, body) = request.into_parts();
    let version = head.version;
    let wish = Wish::of(&mut head, &proxy.random)?;
    let is_connect = wish.as_ref().is_some_and(Wish::is_connect);
    settle_host(&mut head, is_connect)?;
    let tls = front.tls.as_ref().zip(client.session());
    if let Some((tls, session)) = tls
        && tls.is_misdirected(session, host::without_port(host_of(&head)?))
    {
        return Err(ErrorClass::Misdirected.into());
    }
    let (plan, rewritten) = plan(&front.routes, &head, is_connect)?;
    let destination = match &plan.end {
        End::Service(destination) => destination.clone(),
        End::Redirect(redirect, groups) => {
            let target = rewritten.as_ref().or(head.uri.path_and_query());
            let location = location(redirect, groups.as_ref(), &head, target, client)?;
            let response = reply::redirect(redirect.status, location);
            return Err(Own::Routed(response.into(), plan.route));
        }
        End::Answer(answer) => {
            return Err(Own::Routed(answer.response().into(), plan.route));
        }
    };
    if plan.max_body.is_some_and(|max| body.size_hint().lower() > max) {
        return Err(ErrorClass::BodyTooLarge.into());
    }
    if let Some(target) = rewritten {
        head.uri = Uri::from(target);
    }
    forward::request(&mut head.headers, client.sender());
    let echo = front.marks.request(&mut head.headers, client.sender(), version)?;
    identify(&mut head.headers, proxy, client, tls);
    // HTTP/1.0 may have none, HTTP/1.1 must (RFC 9112, 3.2): an empty one says "no authority".
    head.headers.entry(HOST).or_insert(HeaderValue::from_static(""));
    plan.change_request(&mut head.headers);
    // Of HTTP/1 the connection watches the pace.
    let least = (version == Version::HTTP_2).then(|| client.least());
    let upload = Upload::new(body, plan.max_body, least);
    // Where it is up to the backend, tunnels go over HTTP/1.1, which all speak.
    let is_over_http2 = proxy.targets[destination.service].protocol == UpstreamProtocol::Http2;
    let wish = match wish {
        Some(wish) if is_over_http2 => wish.over_http2(&mut head, upload.is_some())?,
        wish => wish.inspect(|wish| wish.ask(&mut head.headers)),
    };
    head.version = Version::HTTP_11;
    if upload.is_none() || version == Version::HTTP_10 {
        // HTTP/1.0 does not know it (RFC 9110, 10.1.1), and without a body there is nothing to wait for.
        head.headers.remove(EXPECT);
    }
    let request = Request::from_parts(head, upload);
    Ok((Prepared { destination, request, wish }, echo))
}

/// Makes `Host` the one host that a request names, however it does, and the target a path.
fn settle_host(head: &mut Head, is_connect: bool) -> Result<(), ErrorClass> {
    let mut hosts = head.headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(_), None) => {}
        (None, _) if head.version == Version::HTTP_10 => {}
        (None, _) if head.version == Version::HTTP_2 && head.uri.authority().is_some() => {}
        _ => return Err(ErrorClass::BadHost),
    }
    if head.version == Version::HTTP_2 {
        version::from_http2(&head.uri, &mut head.headers)?;
    }
    let named = head.headers.get(HOST);
    let Some(authority) = head.uri.authority() else {
        let is_valid = named.is_none_or(|host| host::is_valid(host.as_bytes()));
        return if is_valid { Ok(()) } else { Err(ErrorClass::BadHost) };
    };
    // That of `CONNECT`, or of the absolute form: it is the host (RFC 9112, 3.2.2), and `Host` must
    // agree.
    let scheme = head.uri.scheme_str().unwrap_or_default();
    let is_same = |host: &HeaderValue| host::is_same(host.as_bytes(), authority, scheme);
    if !named.is_none_or(is_same) || !host::is_valid(authority.as_str().as_bytes()) {
        return Err(ErrorClass::BadHost);
    }
    let host = HeaderValue::from_str(authority.as_str()).map_err(|_| ErrorClass::BadHost)?;
    head.headers.insert(HOST, host);
    if !is_connect {
        let path = head.uri.path_and_query().cloned();
        head.uri = Uri::from(path.unwrap_or(PathAndQuery::from_static("/")));
    }
    Ok(())
}

/// Has the headers that tell of a client's certificate say what was verified, and nothing else.
fn identify(
    headers: &mut HeaderMap,
    proxy: &Proxy,
    client: &Client,
    tls: Option<(&Terminator, &Session)>,
) {
    if proxy.identity_headers.is_empty() {
        return;
    }
    // A trusted proxy has verified its own clients, where it is not asked for a certificate itself.
    let asks = tls.is_some_and(|(tls, _)| tls.headers().names().next().is_some());
    if asks || !client.sender().is_trusted {
        identity::remove(headers, &proxy.identity_headers);
    }
    if let Some((tls, session)) = tls
        && let Some(identity) = &session.identity
    {
        tls.headers().write(headers, identity);
    }
}

/// What a request's headers say of its host.
fn host_of(head: &Head) -> Result<&str, ErrorClass> {
    let host = head.headers.get(HOST).map_or(Ok(""), HeaderValue::to_str);
    host.map_err(|_| ErrorClass::BadHost)
}

/// The rules for a request, and the target that they give it if that is another.
fn plan<'a>(
    routes: &'a Table,
    head: &Head,
    is_connect: bool,
) -> Result<(&'a Plan, Option<PathAndQuery>), ErrorClass> {
    let path = if is_connect { "/" } else { head.uri.path() };
    if !path.starts_with('/') && path != "*" {
        return Err(ErrorClass::BadTarget);
    }
    let query = Query { host: host_of(head)?, path, method: &head.method, headers: &head.headers };
    let plan = routes.find(&query);
    if is_connect && !plan.is_some_and(Plan::allows_connect) {
        return Err(ErrorClass::ConnectRefused);
    }
    let plan = plan.ok_or(ErrorClass::NoRoute)?;
    let rewritten = match (&plan.rewrite, head.uri.path_and_query()) {
        (Some(rewrite), Some(target)) => rewrite.apply(target)?,
        _ => None,
    };
    Ok((plan, rewritten))
}

/// Where a redirect sends the client; `target` is what the request asks for, as the route rewrites it.
fn location(
    redirect: &Redirect,
    groups: Option<&Regex>,
    head: &Head,
    target: Option<&PathAndQuery>,
    client: &Client,
) -> Result<HeaderValue, ErrorClass> {
    redirect.location(&Parts {
        scheme: forward::scheme(&head.headers, client.sender()),
        authority: host_of(head)?,
        path: target.map_or("/", PathAndQuery::path),
        query: target.and_then(PathAndQuery::query),
        groups: groups.and_then(|groups| groups.captures(head.uri.path().as_bytes())),
    })
}
