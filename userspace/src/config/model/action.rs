//! What is done with the requests of a route.

use serde::{Deserialize, Serialize};

/// Where a route's requests end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// At a service: its index in [`super::Model::services`].
    Forward(usize),
    /// In a redirect.
    Redirect(Redirect),
    /// In an answer that is the same for all.
    Answer(Answer),
}

/// An answer that no backend gives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// 200 to 599.
    pub status: u16,
    /// A valid header value.
    pub content_type: String,
    /// Empty for none.
    pub body: String,
}

/// A redirect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redirect {
    /// 301, 302, 307 or 308.
    pub status: u16,
    /// The location; its groups are those of the route's path. If it begins with a slash it is at the
    /// request's own scheme and authority.
    pub to: Template,
}

/// How a request's path becomes the backend's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rewrite {
    /// The first bytes are replaced.
    Prefix {
        /// How many.
        matched: usize,
        /// By what: a path without a slash at its end, or nothing.
        with: String,
    },
    /// The whole path is replaced; the query stays.
    Whole {
        /// A valid regular expression that must match the whole path; otherwise the path stays.
        /// `None` for any path.
        regex: Option<String>,
        /// By what.
        to: Template,
    },
}

/// Text with places for parts of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Template(
    /// In order.
    pub Vec<Piece>,
);

/// A piece of a template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Piece {
    /// Itself.
    Text(String),
    /// What a group of the expression matched.
    Group(usize),
    /// `http` or `https`, as the client sees it.
    Scheme,
    /// The host without its port.
    Host,
    /// The host with its port, as the client sent it.
    Authority,
    /// The path, rewritten.
    Path,
    /// The query, without its question mark.
    Query,
    /// The path, rewritten, and the query with its question mark.
    Uri,
}

/// The `Host` that a backend gets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostHeader {
    /// The client's.
    #[default]
    Preserve,
    /// The backend's address.
    Backend,
    /// This one.
    Name(String),
}

/// What changes in headers: removed first, then set, then added.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderRules {
    /// Names, in lower case.
    pub remove: Vec<String>,
    /// Names in lower case, and the one value that each has then.
    pub set: Vec<(String, String)>,
    /// Names in lower case, and a further value of each.
    pub add: Vec<(String, String)>,
}
