//! What QUIC connection ids say of backends, as written.

use serde::Deserialize;
use serde::de::{self, Deserializer};

use crate::config::model::ServerId;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quic {
    pub server_id_bytes: Vec<u8>,
}

/// One server id, or several.
pub struct ServerIds(pub Vec<ServerId>);

impl<'de> Deserialize<'de> for ServerIds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = ServerIds;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("hexadecimal digits in quotes, such as \"c0ffee01\", or a list of such")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<ServerIds, E> {
                let id = text.parse().map_err(|error| E::custom(format!("{text:?}: {error}")))?;
                Ok(ServerIds(vec![id]))
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<ServerIds, A::Error> {
                let mut ids = Vec::new();
                while let Some(id) = seq.next_element()? {
                    ids.push(id);
                }
                Ok(ServerIds(ids))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}
