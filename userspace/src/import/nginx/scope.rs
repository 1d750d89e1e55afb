//! What holds at a place of the file: the innermost block that says something decides.

use super::token::Directive;

/// Blocks, the outermost first.
#[derive(Clone)]
pub struct Scope<'a>(Vec<&'a [Directive]>);

impl<'a> Scope<'a> {
    pub fn new(block: &'a [Directive]) -> Self {
        Self(vec![block])
    }

    /// The scope within one more block.
    pub fn within(&self, directive: &'a Directive) -> Self {
        let mut blocks = self.0.clone();
        blocks.push(directive.block.as_deref().unwrap_or_default());
        Self(blocks)
    }

    /// The blocks of a name in the innermost one, each with its scope.
    pub fn inner(&self, name: &str) -> Vec<(&'a Directive, Self)> {
        let inner = self.own().iter().filter(|directive| directive.name() == name);
        inner.map(|directive| (directive, self.within(directive))).collect()
    }

    /// The directives of the innermost block.
    pub fn own(&self) -> &'a [Directive] {
        self.0.last().copied().unwrap_or_default()
    }

    /// All directives of a name in the innermost block that has any.
    pub fn all(&self, name: &str) -> Vec<&'a Directive> {
        let of = |block: &&'a [Directive]| -> Vec<&'a Directive> {
            block.iter().filter(|directive| directive.name() == name).collect()
        };
        self.0.iter().rev().map(of).find(|all| !all.is_empty()).unwrap_or_default()
    }

    /// The directive of a name that holds here.
    pub fn get(&self, name: &str) -> Option<&'a Directive> {
        self.all(name).into_iter().next_back()
    }

    /// Its first argument.
    pub fn value(&self, name: &str) -> Option<&'a str> {
        self.get(name).and_then(|directive| directive.words.get(1)).map(String::as_str)
    }

    /// Whether it is `on`.
    pub fn is_on(&self, name: &str) -> bool {
        self.value(name) == Some("on")
    }
}

/// A time as nginx writes it (`30`, `1m30s`, `500ms`), in milliseconds.
pub fn time_ms(text: &str) -> Option<u64> {
    let mut rest = text.trim();
    let mut total = 0_u64;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest.get(..digits)?.parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, left) = rest.split_at(letters);
        rest = left.trim_start();
        let scale = match unit {
            "ms" => 1,
            "" | "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "w" => 604_800_000,
            _ => return None,
        };
        total = total.checked_add(number.checked_mul(scale)?)?;
    }
    (total > 0).then_some(total)
}

/// A size as nginx writes it (`1024`, `8k`, `1m`, `2g`), as here; 0 is any.
pub fn size(text: &str) -> Option<String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let unit = match unit {
        "" => "B",
        "k" | "K" => "KiB",
        "m" | "M" => "MiB",
        "g" | "G" => "GiB",
        _ => return None,
    };
    Some(if number == 0 { "off".into() } else { format!("{number}{unit}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes() {
        for (text, expected) in [
            ("30", Some(30_000)),
            ("1m30s", Some(90_000)),
            ("500ms", Some(500)),
            ("1h 5m", Some(3_900_000)),
            ("0", None),
            ("x", None),
            ("1y", None),
            ("", None),
        ] {
            assert_eq!(time_ms(text), expected, "{text}");
        }
        for (text, expected) in
            [("8k", Some("8KiB")), ("0", Some("off")), ("10m", Some("10MiB")), ("1x", None)]
        {
            assert_eq!(size(text).as_deref(), expected, "{text}");
        }
    }
}
