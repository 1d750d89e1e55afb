//! Which backend a request belongs to: by a hash of it, or by a cookie.

use std::net::IpAddr;

use http::header::{COOKIE, HOST, HeaderName, HeaderValue};
use http::request::Parts;
use steerage_common::hash::sip13_bytes;

use crate::config::model::HashKey;
use crate::service::Service;

/// What of a service's requests names their backends.
#[derive(Debug)]
pub(crate) struct Affinity {
    hash_key: Option<HashedPart>,
    key: [u64; 2],
    cookie: Option<String>,
}

#[derive(Debug)]
enum HashedPart {
    Source,
    Header(HeaderName),
    Cookie(String),
    Path,
    Host,
}

impl Affinity {
    /// `hash_key` is what is hashed under `key`, `None` for nothing; `cookie` the name of a sticky one.
    pub(super) fn new(hash_key: Option<&HashKey>, key: [u64; 2], cookie: Option<String>) -> Self {
        let hash_key = hash_key.map(|key| match key {
            HashKey::Source => HashedPart::Source,
            // Checked with the configuration.
            HashKey::Header(name) => name.parse().map_or(HashedPart::Source, HashedPart::Header),
            HashKey::Cookie(name) => HashedPart::Cookie(name.clone()),
            HashKey::Path => HashedPart::Path,
            HashKey::Host => HashedPart::Host,
        });
        Self { hash_key, key, cookie }
    }

    /// The hash of a connection of which the client alone is known; 0 if none is wanted.
    pub(crate) fn hash_of(&self, client: IpAddr) -> u64 {
        match (&self.hash_key, client) {
            (None, _) => 0,
            (Some(_), IpAddr::V4(ip)) => sip13_bytes(self.key, &ip.octets()),
            (Some(_), IpAddr::V6(ip)) => sip13_bytes(self.key, &ip.octets()),
        }
    }

    /// The request's hash; 0 if none is wanted. What the request lacks is hashed as empty.
    pub(super) fn hash(&self, head: &Parts, client: IpAddr) -> u64 {
        let header =
            |name: &HeaderName| head.headers.get(name).map_or(&[][..], HeaderValue::as_bytes);
        match &self.hash_key {
            None => 0,
            Some(HashedPart::Source) => self.hash_of(client),
            Some(HashedPart::Header(name)) => sip13_bytes(self.key, header(name)),
            Some(HashedPart::Cookie(name)) => {
                sip13_bytes(self.key, cookie(head, name).unwrap_or_default())
            }
            Some(HashedPart::Path) => sip13_bytes(self.key, head.uri.path().as_bytes()),
            Some(HashedPart::Host) => sip13_bytes(self.key, header(&HOST)),
        }
    }

    /// The backend that the client's cookie names.
    pub(super) fn sticky(&self, head: &Parts, service: &Service) -> Option<usize> {
        service.of_token(cookie(head, self.cookie.as_ref()?)?)
    }

    /// The cookie that ties the client to `backend`, unless it came with that one.
    pub(super) fn set_cookie(
        &self,
        service: &Service,
        backend: usize,
        came_with: Option<usize>,
        is_secure: bool,
    ) -> Option<HeaderValue> {
        let name = self.cookie.as_ref().filter(|_| came_with != Some(backend))?;
        let token = service.token(backend);
        let secure = if is_secure { "; Secure" } else { "" };
        let cookie = format!("{name}={token}; Path=/; HttpOnly; SameSite=Lax{secure}");
        HeaderValue::try_from(cookie).ok()
    }
}

/// The value of a cookie (RFC 6265, 5.4), of the first of that name.
fn cookie<'a>(head: &'a Parts, name: &str) -> Option<&'a [u8]> {
    head.headers.get_all(COOKIE).iter().find_map(|line| {
        line.as_bytes().split(|byte| *byte == b';').find_map(|pair| {
            let value = pair.trim_ascii_start().strip_prefix(name.as_bytes())?;
            Some(value.strip_prefix(b"=")?.trim_ascii_end())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(cookies: &[&'static str]) -> Parts {
        let mut request = http::Request::get("/a/b?c").header("host", "h").body(()).unwrap();
        for cookie in cookies {
            request.headers_mut().append(COOKIE, HeaderValue::from_static(cookie));
        }
        request.into_parts().0
    }

    #[test]
    fn a_cookie_is_found_by_its_whole_name() {
        let head = head(&["xSRV=1; SRVx=2; SRV=", "a=b;SRV=three "]);
        assert_eq!(cookie(&head, "SRV"), Some(&b""[..]));
        assert_eq!(cookie(&head, "a"), Some(&b"b"[..]));
        assert_eq!(cookie(&head, "b"), None);
    }

    #[test]
    fn what_is_hashed_decides_and_nothing_else() {
        let client = |last| IpAddr::from([192, 0, 2, last]);
        let of = |key: HashKey, head: &Parts, client| {
            Affinity::new(Some(&key), [1, 2], None).hash(head, client)
        };
        let (one, other) = (head(&["id=1"]), head(&["id=2"]));
        for key in [HashKey::Path, HashKey::Host, HashKey::Header("host".into())] {
            assert_eq!(of(key.clone(), &one, client(1)), of(key, &other, client(2)));
        }
        let cookie = || HashKey::Cookie("id".into());
        assert_ne!(of(cookie(), &one, client(1)), of(cookie(), &other, client(1)));
        assert_ne!(of(HashKey::Source, &one, client(1)), of(HashKey::Source, &one, client(2)));
    }
}
