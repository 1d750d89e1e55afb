//! What changes in the routes of listeners that pass connections on.

use super::{Change, added, fields, matched_nth, removed, value};
use crate::config::model::{Host, Listener, Model, StreamEnd, StreamRoute};

pub(super) fn routes(
    of: &str,
    (before, old): (&Model, &Listener),
    (after, new): (&Model, &Listener),
    changes: &mut Vec<Change>,
) {
    // Where a route stands in the file and in the list of services says nothing of what it does.
    let shown = |model: &Model, route: &StreamRoute| {
        let mut shown = value(&StreamRoute { line: 0, ..route.clone() });
        if let Some(object) = shown.as_object_mut() {
            object.insert("end".into(), end(model, route).into());
        }
        shown
    };
    let of_listener = |listener: &Listener| {
        listener.streams.as_ref().map(|streams| streams.routes.clone()).unwrap_or_default()
    };
    let (old, new) = (of_listener(old), of_listener(new));
    for pair in matched_nth(&old, &new, matcher) {
        let what = |route| format!("{of}: route {}", matcher(route));
        match pair {
            (Some(was), Some(is)) => {
                changes.extend(fields(&what(was), &shown(before, was), &shown(after, is)));
            }
            (None, Some(is)) => changes.push(added(what(is), end(after, is))),
            (Some(was), None) => changes.push(removed(what(was), end(before, was))),
            (None, None) => {}
        }
    }
}

/// What a route matches, in one line.
fn matcher(route: &StreamRoute) -> String {
    let name = match &route.sni {
        None => "*".to_owned(),
        Some(Host::Exact(name)) => name.clone(),
        Some(Host::Suffix(suffix)) => format!("*{suffix}"),
    };
    match route.alpn.as_slice() {
        [] => name,
        alpn => format!("{name} [{}]", alpn.join(", ")),
    }
}

fn end(model: &Model, route: &StreamRoute) -> String {
    match &route.end {
        StreamEnd::Service(service) => {
            let service = model.services.get(*service);
            format!("to service {}", service.map_or("", |service| &service.name))
        }
        StreamEnd::Listener(name) => format!("to listener {name}"),
    }
}
