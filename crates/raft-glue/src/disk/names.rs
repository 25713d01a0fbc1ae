//! File names, both directions.
//!
//! | Name | What |
//! |---|---|
//! | `metadata1`, `metadata2` | term and vote, alternating |
//! | `open-N` | segment being written, or preallocated |
//! | `FFFFFFFFFFFFFFFF-LLLLLLLLLLLLLLLL` | closed segment, first and last index |
//! | `snapshot-T-I-MS`, `snapshot-T-I-MS.meta` | snapshot payload and its metadata: term, index, time stamp |
//! | `tmp-...` | file being written; the final name follows the prefix |
//! | `corrupt-NS-<name>` | file moved aside by a repair, never read again |
//! | `backup-N-<name>` | copy of a file that a recovery replaced; never read again |
//! | `cluster-identity` | which cluster the directory belongs to; C ignores the name |
//! | `moving-aside` | the log is being moved aside, which a start finishes |
//! | `catch-up-needed` | damaged data was moved aside and the node has not caught up since |
//! | `tmp-log-manifest` | what the directory held, see `manifest.rs`; C deletes it |
//! | `dqlite-lock` | target of the lock |

use std::fmt;

/// Lock file.
pub(crate) const LOCK: &str = "dqlite-lock";
/// Marker left by a repair that lost acknowledged data; C ignores the name.
pub(crate) const MARKER: &str = "catch-up-needed";
/// The identity of the cluster; C ignores the name.
pub(crate) const IDENTITY: &str = "cluster-identity";
/// Note that log and snapshots are being moved aside; C ignores the name.
pub(crate) const MOVING: &str = "moving-aside";
/// What the directory held; C deletes it, as every file that begins so, when a node is created.
pub(crate) const MANIFEST: &str = "tmp-log-manifest";
/// Prefix of files not yet complete.
pub(crate) const TEMPORARY: &str = "tmp-";
/// Prefix of files that a repair moved aside; a number follows, and after a dash the old name.
pub(crate) const ASIDE: &str = "corrupt-";
/// Prefix of copies made by a recovery; a number follows, and after a dash the old name.
pub(crate) const BACKUP: &str = "backup-";
/// C skips longer names, or aborts.
pub(crate) const MAX_NAME_LEN: usize = 127;
/// Far above what any log reaches, far below where sums overflow.
pub(crate) const MAX_INDEX: u64 = 1 << 62;
/// The same for terms. A node in this one does not stand for election any more.
pub(crate) const MAX_TERM: u64 = 1 << 63;
/// Files of the two metadata slots.
pub(crate) const METADATA: [&str; 2] = ["metadata1", "metadata2"];

/// A closed segment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ClosedName {
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// As found: C accepts unpadded numbers too.
    pub(crate) name: String,
}

impl ClosedName {
    pub(crate) fn new(first: u64, last: u64) -> Self {
        Self { first, last, name: format!("{first:016}-{last:016}") }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        let (first, last) = name.split_once('-')?;
        let parsed = Self { first: digits(first, 16)?, last: digits(last, 16)?, name: name.to_owned() };
        // A range that no log can have is a foreign file.
        (parsed.first > 0 && parsed.last >= parsed.first).then_some(parsed)
    }
}

/// An open segment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct OpenName {
    pub(crate) counter: u64,
    pub(crate) name: String,
}

impl OpenName {
    pub(crate) fn new(counter: u64) -> Self {
        Self { counter, name: format!("open-{counter}") }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        let counter = digits(name.strip_prefix("open-")?, 20)?;
        Some(Self { counter, name: name.to_owned() })
    }
}

/// A snapshot; order is age, the term first as in C.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SnapshotName {
    pub(crate) term: u64,
    pub(crate) index: u64,
    pub(crate) timestamp_ms: u64,
}

impl SnapshotName {
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let mut parts = name.strip_prefix("snapshot-")?.split('-');
        let parsed = Self {
            term: digits(parts.next()?, 20)?,
            index: digits(parts.next()?, 20)?,
            timestamp_ms: digits(parts.next()?, 20)?,
        };
        // Only the plain form leads back to the same file, and no log is that long.
        let is_possible = parsed.index <= MAX_INDEX && parsed.term <= MAX_TERM;
        (parsed.to_string() == name && is_possible).then_some(parsed)
    }

    pub(crate) fn meta(&self) -> String {
        format!("{self}.meta")
    }
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "snapshot-{}-{}-{}", self.term, self.index, self.timestamp_ms)
    }
}

fn digits(text: &str, at_most: usize) -> Option<u64> {
    if text.is_empty() || text.len() > at_most || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closed_names() {
        assert_eq!(ClosedName::new(1, 22).name, "0000000000000001-0000000000000022");
        let unpadded = ClosedName::parse("1-1").unwrap();
        assert_eq!((unpadded.first, unpadded.last), (1, 1));
        for bad in ["1", "1-", "-1", "1-2-3", "00000000000000001-2", "1-2.old", " 1-2", "a-b", "2-1", "0-1"] {
            assert_eq!(ClosedName::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn open_and_snapshot_names() {
        assert_eq!(OpenName::parse("open-10").unwrap().counter, 10);
        assert_eq!(OpenName::parse("open-"), None);
        assert_eq!(OpenName::parse("open-1x"), None);
        let name = SnapshotName::parse("snapshot-1-64-2507632").unwrap();
        assert_eq!((name.term, name.index, name.timestamp_ms), (1, 64, 2_507_632));
        assert_eq!(name.meta(), "snapshot-1-64-2507632.meta");
        assert_eq!(SnapshotName::parse("snapshot-1-64"), None);
        assert_eq!(SnapshotName::parse("snapshot-1-18446744073709551615-1"), None);
        assert_eq!(SnapshotName::parse("snapshot-1-64-7.meta"), None);
        assert_eq!(SnapshotName::parse("snapshot-1-64-99999999999999999999"), None);
    }
}
