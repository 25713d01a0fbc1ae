//! Cluster configurations as they stand in log entries, snapshot metadata and INSTALL_SNAPSHOT.
//!
//! | size | field |
//! | --- | --- |
//! | 1 | format, 1 |
//! | 8 | number of servers, right behind the format byte |
//! | 8 | of each server: id, not 0 |
//! | n + 1 | address and NUL, not padded |
//! | 1 | role: 0 stand-by, 1 voter, 2 spare |
//! | 0 to 7 | zeros up to a multiple of 8; C leaves anything here, and more bytes may follow |

use std::collections::HashSet;

use bytes::{BufMut, Bytes, BytesMut};

use crate::word::{WORD_LEN, address, until_nul};
use crate::{DecodeError, NodeId};

const FORMAT: u8 = 1;
const HEADER_LEN: usize = 9;
/// Id, NUL and role.
const SERVER_LEN: usize = 10;

/// What a server takes part in. The raft encoding and the client protocol number roles differently; see the codecs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Counts in quorums, votes, may lead.
    Voter,
    /// Receives the log, has no vote.
    StandBy,
    /// Known to the cluster, receives nothing.
    Spare,
}

impl Role {
    /// The number in the raft encoding.
    #[must_use]
    pub const fn raft_code(self) -> u8 {
        match self {
            Self::StandBy => 0,
            Self::Voter => 1,
            Self::Spare => 2,
        }
    }

    /// The role with this number in the raft encoding.
    #[must_use]
    pub const fn from_raft_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::StandBy),
            1 => Some(Self::Voter),
            2 => Some(Self::Spare),
            _ => None,
        }
    }

    /// The number in the client protocol and in the C interface.
    #[must_use]
    pub const fn client_code(self) -> u64 {
        match self {
            Self::Voter => 0,
            Self::StandBy => 1,
            Self::Spare => 2,
        }
    }

    /// The role with this number in the client protocol.
    #[must_use]
    pub const fn from_client_code(code: u64) -> Option<Self> {
        match code {
            0 => Some(Self::Voter),
            1 => Some(Self::StandBy),
            2 => Some(Self::Spare),
            _ => None,
        }
    }
}

/// One member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Server {
    /// Identity, never 0.
    pub id: NodeId,
    /// Where to reach it, as given by whoever added it; compared and dialled literally.
    pub address: String,
    /// Its part in consensus.
    pub role: Role,
}

/// All members, in order of addition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Configuration {
    /// Members; ids and addresses are unique.
    pub servers: Vec<Server>,
}

impl Configuration {
    /// The member with this id.
    #[must_use]
    pub fn server(&self, id: NodeId) -> Option<&Server> {
        self.servers.iter().find(|server| server.id == id)
    }

    /// Members with a vote.
    pub fn voters(&self) -> impl Iterator<Item = &Server> {
        self.servers.iter().filter(|server| server.role == Role::Voter)
    }

    /// Whether `id` has a vote.
    #[must_use]
    pub fn is_voter(&self, id: NodeId) -> bool {
        self.server(id).is_some_and(|server| server.role == Role::Voter)
    }

    /// Length of the encoding, a multiple of 8.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let servers: usize =
            self.servers.iter().map(|server| until_nul(server.address.as_bytes()).len() + SERVER_LEN).sum();
        (HEADER_LEN + servers).next_multiple_of(WORD_LEN)
    }

    /// The encoding. Addresses end at their first NUL, as in C.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut buffer = BytesMut::with_capacity(self.encoded_len());
        self.encode_into(&mut buffer);
        buffer.freeze()
    }

    /// Appends the encoding.
    pub fn encode_into(&self, buffer: &mut BytesMut) {
        let start = buffer.len();
        buffer.put_u8(FORMAT);
        buffer.put_u64_le(self.servers.len() as u64);
        for server in &self.servers {
            buffer.put_u64_le(server.id.0);
            buffer.put_slice(until_nul(server.address.as_bytes()));
            buffer.put_u8(0);
            buffer.put_u8(server.role.raft_code());
        }
        let len = buffer.len() - start;
        buffer.put_bytes(0, len.next_multiple_of(WORD_LEN) - len);
    }

    /// Reads an encoding; bytes after the last server are ignored. A configuration without servers is valid.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        const CUT: DecodeError = DecodeError::Truncated("configuration");
        let (&format, rest) = bytes.split_first().ok_or(CUT)?;
        let (count, mut rest) = rest.split_first_chunk::<WORD_LEN>().ok_or(CUT)?;
        if format != FORMAT {
            return Err(DecodeError::Invalid { what: "configuration format", value: u64::from(format) });
        }
        let mut servers = Vec::new();
        for _ in 0..u64::from_le_bytes(*count) {
            let (id, after_id) = rest.split_first_chunk::<WORD_LEN>().ok_or(CUT)?;
            let id = u64::from_le_bytes(*id);
            if id == 0 {
                return Err(DecodeError::Invalid { what: "server id", value: id });
            }
            let text = std::ffi::CStr::from_bytes_until_nul(after_id)
                .map_err(|_| DecodeError::UnterminatedText("server address"))?;
            let (&role, after_role) = after_id[text.count_bytes() + 1..].split_first().ok_or(CUT)?;
            let role = Role::from_raft_code(role)
                .ok_or_else(|| DecodeError::Invalid { what: "server role", value: u64::from(role) })?;
            servers.push(Server { id: NodeId(id), address: address(text.to_bytes())?, role });
            rest = after_role;
        }
        check_unique(&servers)?;
        Ok(Self { servers })
    }
}

/// Sets, not pairwise comparison: a header of 4 MiB has room for hundreds of thousands of servers.
fn check_unique(servers: &[Server]) -> Result<(), DecodeError> {
    let mut ids = HashSet::new();
    let mut addresses = HashSet::new();
    for server in servers {
        if !ids.insert(server.id) {
            return Err(DecodeError::Duplicate("server id"));
        }
        if !addresses.insert(&server.address) {
            return Err(DecodeError::Duplicate("server address"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(id: u64, address: &str, role: Role) -> Server {
        Server { id: NodeId(id), address: address.to_owned(), role }
    }

    fn encoded(servers: Vec<Server>) -> Bytes {
        Configuration { servers }.encode()
    }

    #[test]
    fn empty_configuration_is_valid() {
        let bytes = encoded(vec![]);
        assert_eq!(bytes.len(), 16);
        assert_eq!(Configuration::decode(&bytes), Ok(Configuration::default()));
    }

    #[test]
    fn trailing_bytes_and_padding_are_ignored() {
        let servers = vec![server(1, "a", Role::Voter)];
        let mut bytes = encoded(servers.clone()).to_vec();
        let end = bytes.len() - 4;
        bytes[end..].fill(0xee);
        bytes.extend_from_slice(b"more");
        assert_eq!(Configuration::decode(&bytes), Ok(Configuration { servers }));
    }

    #[test]
    fn ids_and_addresses_are_unique_and_ids_not_zero() {
        let voter = |id, address| server(id, address, Role::Voter);
        let ids = encoded(vec![voter(1, "a"), voter(1, "b")]);
        assert_eq!(Configuration::decode(&ids), Err(DecodeError::Duplicate("server id")));
        let addresses = encoded(vec![voter(1, "a"), voter(2, "a")]);
        assert_eq!(Configuration::decode(&addresses), Err(DecodeError::Duplicate("server address")));
        assert!(Configuration::decode(&encoded(vec![voter(0, "a")])).is_err());
    }

    #[test]
    fn formats_roles_and_cuts_are_checked() {
        let good = encoded(vec![server(1, "a", Role::Spare), server(2, "b", Role::StandBy)]);
        let needed = 9 + 2 * 11;
        for len in 0..needed {
            assert!(Configuration::decode(&good[..len]).is_err(), "{len}");
        }
        assert!(Configuration::decode(&good[..needed]).is_ok());
        let mut bad = good.to_vec();
        bad[0] = 2;
        assert!(Configuration::decode(&bad).is_err());
        let mut bad = good.to_vec();
        bad[needed - 1] = 3;
        assert!(Configuration::decode(&bad).is_err());
        let mut bad = good.to_vec();
        bad[17] = 0xff;
        assert_eq!(Configuration::decode(&bad), Err(DecodeError::AddressNotUtf8));
    }

    #[test]
    fn huge_count_needs_the_bytes() {
        let mut bytes = vec![1];
        bytes.extend_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(Configuration::decode(&bytes), Err(DecodeError::Truncated("configuration")));
    }
}
