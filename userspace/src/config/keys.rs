//! Which keys there are: the schema itself is asked, by a deserializer that follows one way through it
//! and gives no values.

use std::cell::RefCell;

use serde::Deserialize as _;
use serde::de::value::{BorrowedStrDeserializer, Error as Stop};
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, Expected, MapAccess, SeqAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::schema::File;

/// What is at the end of a way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A key whose value is a text.
    Text,
    /// A key with another value.
    Value,
    /// A list.
    List,
    /// A table, with the keys that it may have.
    Table(&'static [&'static str]),
    /// Nothing; of its place so many parts are known, and these keys are there.
    Nothing(usize, &'static [&'static str]),
}

/// What the schema says of a key's value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// In the words of its errors: `a boolean`, `u16`, `a time with its unit in quotes, ...`.
    pub expects: String,
    /// The words that it may be, where these are all.
    pub choices: &'static [&'static str],
}

/// What the schema has at `way`. Elements of lists have no part in it.
pub fn find(way: &[&str]) -> Found {
    describe(way).0
}

/// The same, and what is said of the value there.
pub fn describe(way: &[&str]) -> (Found, About) {
    let (outcome, about) = (RefCell::new(Found::Nothing(0, &[])), RefCell::default());
    // It ends with an error always, for want of values.
    let _ = File::deserialize(Probe { way, depth: 0, outcome: &outcome, about: &about });
    (outcome.into_inner(), about.into_inner())
}

#[derive(Clone, Copy)]
struct Probe<'a> {
    way: &'a [&'a str],
    /// Parts of the way behind it.
    depth: usize,
    outcome: &'a RefCell<Found>,
    about: &'a RefCell<About>,
}

impl Probe<'_> {
    fn end<T>(self, found: Found) -> Result<T, Stop> {
        let is_there = self.depth == self.way.len();
        self.outcome.replace(if is_there { found } else { Found::Nothing(self.depth, &[]) });
        Err(Stop::custom("the way ends"))
    }

    /// Says what is wanted here, as an error would.
    fn expects<'de>(self, visitor: &impl Visitor<'de>) {
        let expected: &dyn Expected = visitor;
        self.about.borrow_mut().expects = expected.to_string();
    }

    fn is_at_end(self) -> bool {
        self.depth == self.way.len()
    }
}

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = Stop;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Stop> {
        // `toml::Spanned` asks for its private fields: the value is the last.
        if name.starts_with("$__serde_spanned")
            && let Some(value) = fields.last()
        {
            return visitor.visit_map(One { key: Some(value), value: self });
        }
        let Some(part) = self.way.get(self.depth) else { return self.end(Found::Table(fields)) };
        let Some(key) = fields.iter().find(|field| *field == part) else {
            self.outcome.replace(Found::Nothing(self.depth, fields));
            return Err(Stop::custom("no such key"));
        };
        let next = Self { depth: self.depth + 1, ..self };
        visitor.visit_map(One { key: Some(key), value: next })
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Stop> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        if !self.is_at_end() {
            return visitor.visit_seq(Element(self));
        }
        // Its elements say what they are; that it is a list is said last.
        let _ = visitor.visit_seq(Element(self));
        self.end(Found::List)
    }

    fn deserialize_map<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Stop> {
        // Its keys are any; what is in them is for the parser to judge.
        let found = if self.is_at_end() { Found::Value } else { Found::Text };
        Self { depth: self.way.len(), ..self }.end(found)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        self.expects(&visitor);
        self.end(Found::Text)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        self.expects(&visitor);
        self.end(Found::Text)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        choices: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Stop> {
        self.about.borrow_mut().choices = choices;
        self.end(Found::Text)
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        self.expects(&visitor);
        self.end(Found::Value)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct
        tuple tuple_struct identifier ignored_any
    }
}

/// A table with one key.
struct One<'a> {
    key: Option<&'static str>,
    value: Probe<'a>,
}

impl<'de> MapAccess<'de> for One<'_> {
    type Error = Stop;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Stop> {
        let key = self.key.take().map(BorrowedStrDeserializer::new);
        key.map(|key| seed.deserialize(key)).transpose()
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Stop> {
        seed.deserialize(self.value)
    }
}

/// A list with one element.
struct Element<'a>(Probe<'a>);

impl<'de> SeqAccess<'de> for Element<'_> {
    type Error = Stop;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Stop> {
        seed.deserialize(self.0).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(way: &str) -> Found {
        find(&way.split('.').collect::<Vec<_>>())
    }

    #[test]
    fn every_kind_of_key_is_found_as_what_it_is() {
        for (way, expected) in [
            ("global.drain", Found::Text),
            ("global.hash_seed", Found::Text),
            ("global.metrics", Found::Text),
            ("global.log.level", Found::Text),
            ("global.workers", Found::Value),
            ("global.watch", Found::Value),
            ("global.error_pages.404", Found::Text),
            ("global.trusted_proxies", Found::List),
            ("guard.syn_rate.rate", Found::Value),
            ("listener", Found::List),
            ("listener.timeouts.idle", Found::Text),
            ("listener.guard.packet_rate.burst", Found::Value),
            ("service.panic_percent", Found::Value),
            ("service.probe.kind", Found::Text),
            ("service.balance", Found::Text),
            ("service.ejection.ratio", Found::Value),
            ("vip.interface", Found::Value),
        ] {
            assert_eq!(at(way), expected, "{way}");
        }
        assert!(matches!(at("global.log"), Found::Table(keys) if keys.contains(&"level")));
    }

    #[test]
    fn of_what_is_not_there_the_place_is_known() {
        assert!(matches!(at("globe.drain"), Found::Nothing(0, keys) if keys.contains(&"global")));
        let known = at("global.log.depth");
        assert!(matches!(known, Found::Nothing(2, keys) if keys.contains(&"format")), "{known:?}");
        assert_eq!(at("global.drain.long"), Found::Nothing(2, &[]));
        assert_eq!(at("global.workers.many"), Found::Nothing(2, &[]));
    }
}
