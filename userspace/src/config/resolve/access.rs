//! The access log.

use toml::Spanned;

use super::Resolver;
use crate::config::model::{AccessLog, Destination, Format};
use crate::config::schema;

impl Resolver<'_> {
    pub(super) fn access_log(&mut self, log: Spanned<schema::AccessLog>) -> AccessLog {
        let whole = log.span();
        let schema::AccessLog { path, format, sample } = log.into_inner();
        // Written as a path alone it has no place of its own.
        let at = |span: std::ops::Range<usize>| if span == (0..0) { whole.clone() } else { span };
        let path_span = at(path.span());
        let path = Destination::from(path.into_inner());
        let socket = match &path {
            Destination::File(path) => Some(("FILE", path)),
            Destination::Syslog(path) => Some(("syslog:SOCKET", path)),
            Destination::Journal(path) => Some(("journald:SOCKET", path)),
            Destination::Off | Destination::Output => None,
        };
        if let Some((what, named)) = socket
            && !named.is_absolute()
        {
            self.problem(
                path_span,
                format!(
                    "access_log: {path} is no destination: the path of {what} is absolute, as \
                     \"/var/log/steerage/access.log\"; others are \"-\", \"syslog\", \"journald\", \
                     \"off\""
                ),
            );
        }
        let parsed = Format::parse(format.get_ref()).unwrap_or_else(|error| {
            self.problem(at(format.span()), format!("access_log: format: {error}"));
            Format::Json
        });
        if !(0.0..=1.0).contains(sample.get_ref()) || *sample.get_ref() == 0.0 {
            self.problem(
                at(sample.span()),
                "access_log: sample: must be above 0 and at most 1; \"off\" is for no line",
            );
        }
        AccessLog { path, format: parsed, sample: sample.into_inner() }
    }
}
