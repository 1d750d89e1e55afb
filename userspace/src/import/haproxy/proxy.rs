//! A `frontend`, `backend` or `listen`, with the `defaults` that it has.

use super::token::{Line, Section};

/// A section that traffic passes.
pub struct Proxy<'a> {
    pub name: &'a str,
    pub section: &'a Section,
    pub defaults: Option<&'a Section>,
}

/// All of them, each with the `defaults` before it, or that it names.
pub fn all(sections: &[Section]) -> Vec<Proxy<'_>> {
    let mut last = None;
    let mut proxies = Vec::new();
    for section in sections {
        let words = section.head.all();
        match words.as_slice() {
            ["defaults", ..] => last = Some(section),
            ["frontend" | "backend" | "listen", name, rest @ ..] => {
                let named = match rest {
                    ["from", from, ..] => sections.iter().find(|other| {
                        other.head.words[0] == "defaults"
                            && other.head.words.get(1).is_some_and(|name| name == from)
                    }),
                    _ => last,
                };
                proxies.push(Proxy { name, section, defaults: named });
            }
            _ => {}
        }
    }
    proxies
}

impl<'a> Proxy<'a> {
    pub fn kind(&self) -> &'a str {
        &self.section.head.words[0]
    }

    /// Its own lines.
    pub fn lines(&self) -> impl Iterator<Item = &'a Line> + use<'a> {
        self.section.lines.iter()
    }

    /// The last line that begins so: its own, or else of its defaults; not one that a later `no` undoes.
    pub fn get(&self, beginning: &[&str]) -> Option<&'a Line> {
        let begins = |line: &&Line| {
            let words = line.all();
            words.starts_with(beginning)
                || (words.first() == Some(&"no") && words[1..].starts_with(beginning))
        };
        let own = self.section.lines.iter().rev().find(begins);
        let found = own.or_else(|| self.defaults?.lines.iter().rev().find(begins))?;
        (found.words[0] != "no").then_some(found)
    }

    /// The word after that beginning.
    pub fn value(&self, beginning: &[&str]) -> Option<&'a str> {
        self.get(beginning).and_then(|line| line.words.get(beginning.len())).map(String::as_str)
    }

    /// `timeout NAME`, in milliseconds.
    pub fn timeout(&self, name: &str) -> Option<u64> {
        self.value(&["timeout", name]).and_then(time_ms)
    }

    pub fn is_tcp(&self) -> bool {
        self.value(&["mode"]) != Some("http")
    }
}

/// A time as HAProxy writes it (`30`, `30s`, `5m`, `100us`), in milliseconds; `None` for none.
pub fn time_ms(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let ms = match unit {
        "us" => number / 1_000,
        "" | "ms" => number,
        "s" => number.checked_mul(1_000)?,
        "m" => number.checked_mul(60_000)?,
        "h" => number.checked_mul(3_600_000)?,
        "d" => number.checked_mul(86_400_000)?,
        _ => return None,
    };
    (ms > 0).then_some(ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_milliseconds_without_a_unit() {
        for (text, ms) in [
            ("30", Some(30)),
            ("30s", Some(30_000)),
            ("2m", Some(120_000)),
            ("0", None),
            ("x", None),
        ] {
            assert_eq!(time_ms(text), ms, "{text}");
        }
    }
}
