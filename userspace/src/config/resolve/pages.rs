//! Error pages: read at load, so that what a worker answers does not depend on the file system.

use std::collections::BTreeMap;

use steerage_common::error::ErrorClass;
use toml::Spanned;

use super::Resolver;
use crate::config::model::ErrorPage;

/// Each worker holds every page in memory.
const PAGE_BYTES_MAX: u64 = 64 * 1024;

/// What a page's file name may end with, and what the page then is.
const CONTENT_TYPES: [(&str, &str); 5] = [
    ("html", "text/html; charset=utf-8"),
    ("htm", "text/html; charset=utf-8"),
    ("json", "application/json"),
    ("txt", "text/plain; charset=utf-8"),
    ("xml", "application/xml"),
];

impl Resolver<'_> {
    /// The pages that `written` names, and those of `inherited` for other statuses.
    pub(super) fn error_pages(
        &mut self,
        written: BTreeMap<Spanned<String>, Spanned<String>>,
        inherited: &[ErrorPage],
    ) -> Vec<ErrorPage> {
        let mut pages: Vec<ErrorPage> = Vec::new();
        for (status, file) in written {
            let known = ErrorClass::ALL.iter().map(|class| class.status());
            let Some(code) = known.clone().find(|known| known.to_string() == *status.get_ref())
            else {
                let mut known: Vec<u16> = known.collect();
                known.sort_unstable();
                known.dedup();
                let message = format!(
                    "error_pages: {:?} is no status that Steerage answers with; those are {known:?}",
                    status.get_ref()
                );
                self.problem(status.span(), message);
                continue;
            };
            match self.page(file.get_ref()) {
                Ok((content_type, body)) => {
                    pages.push(ErrorPage { status: code, content_type, body });
                }
                Err(message) => self.problem(file.span(), format!("error_pages: {message}")),
            }
        }
        let missing: Vec<ErrorPage> = inherited
            .iter()
            .filter(|page| pages.iter().all(|own| own.status != page.status))
            .cloned()
            .collect();
        pages.extend(missing);
        pages
    }

    fn page(&self, file: &str) -> Result<(String, String), String> {
        let path = self.directory.join(file);
        let extension = path.extension().and_then(|extension| extension.to_str());
        let content_type = CONTENT_TYPES.iter().find(|(known, _)| Some(*known) == extension);
        let Some((_, content_type)) = content_type else {
            return Err(format!("{file:?} must end with .html, .htm, .json, .txt or .xml"));
        };
        let unreadable = |error| format!("{} cannot be read: {error}", path.display());
        let bytes = std::fs::metadata(&path).map_err(unreadable)?.len();
        if bytes > PAGE_BYTES_MAX {
            let shown = path.display();
            return Err(format!("{shown} has {bytes} bytes; at most {PAGE_BYTES_MAX} are served"));
        }
        let body = std::fs::read_to_string(&path).map_err(unreadable)?;
        Ok(((*content_type).to_owned(), body))
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Model, Overrides, Source};

    /// A directory of the test's own, with these files.
    fn load_with(files: &[(&str, &str)], pages: &str) -> Result<Model, String> {
        let name = std::thread::current().name().unwrap_or("pages").replace("::", "-");
        let directory = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        for (name, content) in files {
            std::fs::write(directory.join(name), content).unwrap();
        }
        let text = format!(
            "[global]\nerror_pages = {{ 503 = 'a.html', '404' = 'a.html' }}\nerror_header = false\n\
             [[listener]]\nname = 'a'\nprotocol = 'http'\nbind = ['127.0.0.1:1']\n\
             error_pages = {pages}\n[[listener.route]]\nservice = 's'\n\
             [[listener]]\nname = 'b'\nprotocol = 'http'\nbind = ['127.0.0.1:2']\n\
             error_header = true\n[[listener.route]]\nservice = 's'\n\
             [[service]]\nname = 's'\n"
        );
        let file = directory.join("steerage.toml");
        std::fs::write(&file, text).unwrap();
        let shown = format!("{}/", directory.display());
        let source = Source { path: file, overrides: Overrides::default() };
        let loaded = source.load().map_err(|error| error.to_string().replace(&shown, ""));
        std::fs::remove_dir_all(&directory).unwrap();
        loaded
    }

    #[test]
    fn a_listener_has_its_own_pages_and_the_global_ones() {
        let files = [("a.html", "<p>all"), ("b.json", "{}")];
        let model = load_with(&files, "{ 503 = 'b.json' }").unwrap();
        let [own, other] = &*model.listeners else { panic!() };
        let of = |listener: &crate::config::model::Listener, status| {
            let page = listener.error_pages.iter().find(|page| page.status == status);
            page.map(|page| (page.content_type.clone(), page.body.clone())).unwrap()
        };
        assert_eq!(of(own, 503), ("application/json".into(), "{}".into()));
        assert_eq!(of(own, 404), ("text/html; charset=utf-8".into(), "<p>all".into()));
        assert_eq!(of(other, 503), ("text/html; charset=utf-8".into(), "<p>all".into()));
        assert_eq!((own.error_header, other.error_header), (false, true));
    }

    #[test]
    fn what_cannot_be_a_page_is_said_with_its_place() {
        let large = "x".repeat(70_000);
        let files = [("a.html", ""), ("large.txt", large.as_str())];
        for (pages, said) in [
            ("{ 418 = 'a.html' }", "8:17: error_pages: \"418\" is no status that Steerage answers"),
            ("{ 502 = 'a.exe' }", "8:23: error_pages: \"a.exe\" must end with .html, .htm, .json"),
            ("{ 502 = 'no.html' }", "8:23: error_pages: no.html cannot be read: No such file"),
            (
                "{ 502 = 'large.txt' }",
                "8:23: error_pages: large.txt has 70000 bytes; at most 65536",
            ),
        ] {
            let message = load_with(&files, pages).unwrap_err();
            assert!(message.starts_with(&format!("steerage.toml:{said}")), "{message}");
        }
    }
}
