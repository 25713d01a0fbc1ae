//! What a node says about itself: the dialler of a raft stream in words behind the address in CONNECT, and a node that is
//! asked by another in words behind the answer to DESCRIBE, in whose request they stand, too.
//!
//! C dqlite (1.11.1 and 1.18.6) reads what it knows of a message and ignores all words behind it, so a C node sees
//! nothing of this, and neither a stream that it dialled nor its answer has any of it.
//!
//! | word | content |
//! | --- | --- |
//! | 0 | [`MAGIC`] in the upper 48 bits, version in the lower 16 |
//! | 1 | feature bits, see [`Features`] |
//! | 2 | election timeout of the node in milliseconds, 0 if it does not say |
//! | 3, 4 | identity of its cluster, 128 bits, lower half first, 0 if it knows none |
//!
//! Words are 64 bits, little endian, as everywhere. Whatever follows the address without the magic number is somebody
//! else's and is no announcement. A later version may append words and give a meaning to further bits; it never changes
//! what stands above. So a reader takes the words it knows, whatever the version, ignores the others, and takes a word that
//! is not there for 0.
//!
//! An announcement is true of one stream and ends with it: the node that dials next with the same id may be another
//! program. The newest stream of a node counts; what an older one said is forgotten, also when the newer one ends first.

use std::num::NonZeroU128;

use bytes::{BufMut, BytesMut};

use crate::word::Reader;

/// Upper 48 bits of the first word, chosen once at random: no text, length or small number looks like it.
const MAGIC: u64 = 0xb7e1_9c54_d3a6;
const VERSION_BITS: u32 = 16;
/// The version that this code writes.
const VERSION: u16 = 1;

/// What a node understands beyond C's protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Features(pub u64);

impl Features {
    /// The node returns the echo number of an APPEND_ENTRIES in the feature word of its result, and respects read leases:
    /// after a start it gives no vote for as long as a lease that it may have granted before can last.
    pub const READ_LEASE: Self = Self(1);

    /// Whether all of these are among ours.
    #[must_use]
    pub const fn contains(self, features: Self) -> bool {
        self.0 & features.0 == features.0
    }
}

/// Identity of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(NonZeroU128);

impl ClusterId {
    /// The identity with this number; 0 is none.
    #[must_use]
    pub const fn new(number: u128) -> Option<Self> {
        match NonZeroU128::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u128 {
        self.0.get()
    }
}

/// What a node says of itself on a raft stream that it opens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerAnnouncement {
    /// What it understands.
    pub features: Features,
    /// Shortest time it waits for a leader before it stands for election, milliseconds.
    pub election_timeout_ms: Option<u64>,
    /// The cluster it belongs to.
    pub cluster: Option<ClusterId>,
}

impl PeerAnnouncement {
    /// Appends the words.
    pub(crate) fn encode(&self, buffer: &mut BytesMut) {
        buffer.put_u64_le(MAGIC << VERSION_BITS | u64::from(VERSION));
        buffer.put_u64_le(self.features.0);
        buffer.put_u64_le(self.election_timeout_ms.unwrap_or(0));
        buffer.put_u128_le(self.cluster.map_or(0, ClusterId::get));
    }

    /// Reads what follows the address. Nothing that can stand there is an error.
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        let mut word = || reader.u64("announcement").unwrap_or(0);
        if word() >> VERSION_BITS != MAGIC {
            return None;
        }
        let features = Features(word());
        let election_timeout_ms = Some(word()).filter(|timeout_ms| *timeout_ms > 0);
        let (low, high) = (word(), word());
        let cluster = ClusterId::new(u128::from(high) << 64 | u128::from(low));
        Some(Self { features, election_timeout_ms, cluster })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const FULL: PeerAnnouncement = PeerAnnouncement {
        features: Features(0x8000_0000_0000_0001),
        election_timeout_ms: Some(3000),
        cluster: ClusterId::new(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10),
    };

    fn encoded(announcement: &PeerAnnouncement) -> Bytes {
        let mut buffer = BytesMut::new();
        announcement.encode(&mut buffer);
        buffer.freeze()
    }

    fn decoded(bytes: &Bytes) -> Option<PeerAnnouncement> {
        PeerAnnouncement::decode(&mut Reader::new(bytes))
    }

    #[test]
    fn missing_words_are_zero_and_later_ones_are_ignored() {
        let bytes = encoded(&FULL);
        let expected = [
            None,
            Some(PeerAnnouncement::default()),
            Some(PeerAnnouncement { features: FULL.features, ..PeerAnnouncement::default() }),
            Some(PeerAnnouncement { cluster: None, ..FULL }),
            Some(PeerAnnouncement { cluster: ClusterId::new(0x090a_0b0c_0d0e_0f10), ..FULL }),
            Some(FULL),
        ];
        for (words, expected) in expected.into_iter().enumerate() {
            assert_eq!(decoded(&bytes.slice(..words * 8)), expected, "{words} words");
        }
        assert_eq!(decoded(&[&bytes[..], &[7; 32]].concat().into()), Some(FULL));
    }

    #[test]
    fn words_of_a_later_version_are_read_and_those_of_others_are_not() {
        let mut bytes = encoded(&FULL).to_vec();
        bytes[0] = 9;
        bytes[1] = 0xff;
        assert_eq!(decoded(&bytes.clone().into()), Some(FULL));
        for bit in 16..64 {
            let mut other = bytes.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decoded(&other.into()), None, "bit {bit}");
        }
    }
}
