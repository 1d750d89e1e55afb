//! What QUIC connection ids say of backends: what the supervisor publishes of it to the packet programs.

use std::collections::{HashMap, HashSet};

use aya::maps::{HashMap as BpfHashMap, MapData};
use steerage_common::abi::{ServerId, ServerIdKey};
use zerocopy::FromBytes as _;

use super::{Error, Kernel, bytes_of};

pub(super) type ServerIdMap =
    BpfHashMap<MapData, [u8; size_of::<ServerIdKey>()], [u8; size_of::<ServerId>()]>;

impl Kernel {
    /// Puts server ids in force. Others stay while their vip is there and their slot's tenancy is held.
    ///
    /// # Errors
    /// If there is no room, or the kernel refuses.
    pub fn set_server_ids(
        &mut self,
        wanted: &[(ServerIdKey, ServerId)],
        is_held: impl Fn(&ServerId) -> bool,
    ) -> Result<(), Error> {
        let failed = || Error::map("SERVER_IDS");
        let vips: HashSet<u32> = self.vips()?.iter().map(|(_, vip)| vip.generation).collect();
        let known: HashMap<ServerIdKey, ServerId> = self
            .server_ids
            .iter()
            .flatten()
            .filter_map(|(key, id)| {
                Some((
                    ServerIdKey::read_from_bytes(&key).ok()?,
                    ServerId::read_from_bytes(&id).ok()?,
                ))
            })
            .collect();
        let keys: HashSet<&ServerIdKey> = wanted.iter().map(|(key, _)| key).collect();
        for (key, id) in known.iter().filter(|(key, _)| !keys.contains(key)) {
            if !vips.contains(&key.vip_generation) || !is_held(id) {
                self.server_ids.remove(&bytes_of(key)).map_err(failed())?;
            }
        }
        for (key, id) in wanted.iter().filter(|(key, id)| known.get(key) != Some(id)) {
            self.server_ids.insert(bytes_of(key), bytes_of(id), 0).map_err(failed())?;
        }
        Ok(())
    }
}
