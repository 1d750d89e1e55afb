//! What an operator changes in headers: removed first, then set, then added.

use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::config::model::HeaderRules;

/// Changes that need no parsing any more.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    remove: Vec<HeaderName>,
    set: Vec<(HeaderName, HeaderValue)>,
    add: Vec<(HeaderName, HeaderValue)>,
}

impl Rules {
    pub(crate) fn new(rules: &HeaderRules) -> Self {
        let pairs = |pairs: &[(String, String)]| {
            let pair =
                |(name, value): &(String, String)| Some((name.parse().ok()?, value.parse().ok()?));
            pairs.iter().filter_map(pair).collect()
        };
        Self {
            remove: rules.remove.iter().filter_map(|name| name.parse().ok()).collect(),
            set: pairs(&rules.set),
            add: pairs(&rules.add),
        }
    }

    pub(crate) fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removed_then_set_then_added() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let rules = Rules::new(&HeaderRules {
            remove: vec!["x-debug".into(), "x-all".into()],
            set: vec![pair("x-env", "prod"), pair("x-all", "1")],
            add: vec![pair("x-all", "2"), pair("cookie", "c=3")],
        });
        let lines = [("x-debug", "a"), ("x-debug", "b"), ("x-env", "x"), ("x-env", "y")];
        let lines = lines.into_iter().chain([("x-all", "0"), ("cookie", "a=1"), ("cookie", "b=2")]);
        let mut headers: HeaderMap = lines
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        rules.apply(&mut headers);
        let all = |name| headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect();
        let (env, all_of, cookie): (Vec<_>, Vec<_>, Vec<_>) =
            (all("x-env"), all("x-all"), all("cookie"));
        assert!(!headers.contains_key("x-debug"));
        assert_eq!(
            (env, all_of, cookie),
            (vec!["prod"], vec!["1", "2"], vec!["a=1", "b=2", "c=3"])
        );
    }
}
