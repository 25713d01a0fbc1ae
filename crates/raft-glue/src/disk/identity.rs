//! The file that says which cluster a directory belongs to, and moving aside a log that belongs to another one.
//!
//! `cluster-identity`, a name that C ignores:
//!
//! ```text
//! dqlite cluster identity 1
//! cluster 000102030405060708090a0b0c0d0e0f
//! entry 17 3 0badcafe
//! check 89abcdef
//! ```
//!
//! `entry` binds the identity to a committed entry: index, term and checksum of type and payload. A file fits its directory if
//! the log has this entry, or if the newest snapshot ends exactly with its index and term, in which case nobody can check the
//! payload any more. What does not fit is ignored, as is what cannot be read: C may have written another log meanwhile, or
//! somebody may have emptied the directory and left this file. So whatever removes entries of ours binds the identity
//! anew first: to the entry that a snapshot ends with. C does not, so when C has taken a snapshot beyond the entry the
//! file is ignored and the node learns the identity again, which costs nothing. `check` is the checksum of the lines before.

use wire_protocol::ClusterId;

use super::checksum::checksum;
use super::error::DiskError;
use super::file_system::Disk;
use super::files;
use super::names::{ASIDE, ClosedName, IDENTITY, MANIFEST, MARKER, MOVING, OpenName, SnapshotName};
use super::survey::aside_number;
use crate::{Entry, LogIndex, SnapshotMetadata, Term};

const TITLE: &str = "dqlite cluster identity 1";
/// Far above what the file needs.
const MAX_LEN: u64 = 1024;

/// An identity and the entry it is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bound {
    pub(crate) cluster: ClusterId,
    pub(crate) index: LogIndex,
    pub(crate) term: Term,
    /// Of the entry; 0 if only a snapshot was left of it.
    pub(crate) checksum: u32,
}

impl Bound {
    pub(crate) fn to_entry(cluster: ClusterId, index: LogIndex, entry: &Entry) -> Self {
        Self { cluster, index, term: entry.term, checksum: entry_checksum(entry) }
    }

    pub(crate) fn to_snapshot(cluster: ClusterId, snapshot: &SnapshotMetadata) -> Self {
        Self { cluster, index: snapshot.index, term: snapshot.term, checksum: 0 }
    }

    /// Whether this belongs to a log whose first entry has the index `first`.
    fn fits(&self, snapshot: Option<&SnapshotMetadata>, first: u64, entries: &[Entry]) -> bool {
        let ends_snapshot =
            snapshot.is_some_and(|snapshot| (snapshot.index, snapshot.term) == (self.index, self.term));
        let within = self.index.0.checked_sub(first).and_then(|within| usize::try_from(within).ok());
        match within.and_then(|within| entries.get(within)) {
            Some(entry) => {
                let same = entry.term == self.term && entry_checksum(entry) == self.checksum;
                same || (ends_snapshot && self.checksum == 0) || planted::bug!(IdentityFitsAnyLog)
            }
            None => ends_snapshot || planted::bug!(IdentityFitsAnyLog),
        }
    }

    fn encode(&self) -> Vec<u8> {
        let Self { cluster, index, term, checksum: entry } = self;
        let lines = format!("{TITLE}\ncluster {:032x}\nentry {index} {term} {entry:08x}\n", cluster.get());
        let check = checksum(0, lines.as_bytes());
        format!("{lines}check {check:08x}\n").into_bytes()
    }

    fn decode(content: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(content).ok()?;
        let mut lines = text.lines();
        if lines.next()? != TITLE {
            return None;
        }
        let cluster = u128::from_str_radix(lines.next()?.strip_prefix("cluster ")?, 16).ok()?;
        let mut entry = lines.next()?.strip_prefix("entry ")?.split(' ');
        let bound = Self {
            cluster: ClusterId::new(cluster)?,
            index: LogIndex(entry.next()?.parse().ok()?),
            term: Term(entry.next()?.parse().ok()?),
            checksum: u32::from_str_radix(entry.next()?, 16).ok()?,
        };
        // There is one way to write it, and the checksum is part of that.
        (bound.encode() == content).then_some(bound)
    }
}

/// Of type and payload; the term is compared on its own.
fn entry_checksum(entry: &Entry) -> u32 {
    checksum(checksum(0, &[entry.kind.code()]), &entry.data)
}

/// The identity that fits this log. Never an error: without a file that can be used there is none.
pub(crate) fn load<D: Disk>(
    disk: &D,
    snapshot: Option<&SnapshotMetadata>,
    first: u64,
    entries: &[Entry],
) -> Option<Bound> {
    let content = match read(disk) {
        Ok(content) => content?,
        Err(error) => {
            tracing::warn!(%error, "the identity of the cluster cannot be read and is ignored");
            return None;
        }
    };
    let Some(bound) = Bound::decode(&content) else {
        tracing::warn!("the file {IDENTITY} is not what a node writes and is ignored");
        return None;
    };
    if !bound.fits(snapshot, first, entries) {
        tracing::warn!(index = %bound.index, "the file {IDENTITY} belongs to another log and is ignored");
        return None;
    }
    Some(bound)
}

fn read<D: Disk>(disk: &D) -> Result<Option<Vec<u8>>, DiskError> {
    let listed = disk.list().map_err(DiskError::io("scan data directory", "open directory"))?;
    if !listed.iter().any(|entry| entry.name == IDENTITY && entry.size <= MAX_LEN) {
        return Ok(None);
    }
    files::read(disk, IDENTITY, IDENTITY).map(|content| Some(content.to_vec()))
}

/// Makes the file durable, in place of an older one.
pub(crate) fn write<D: Disk>(disk: &D, bound: &Bound) -> Result<(), DiskError> {
    let what = format!("write {IDENTITY}");
    files::write_whole(disk, IDENTITY, &bound.encode(), &what).inspect_err(|_| {
        let _ = disk.unlink(&files::temporary(IDENTITY));
    })
}

/// Moves log, snapshots and what belongs to them aside, for good: the files get names that nothing reads. Term and vote stay.
///
/// A crash in the middle would leave the front of a log, which may look like another one; so a note is written first,
/// and [`finish_moving`] at the next start does the rest.
pub(crate) fn move_log_aside<D: Disk>(disk: &D) -> Result<(), DiskError> {
    files::write_whole(disk, MOVING, b"", "note that the log is moved aside")?;
    finish_moving(disk)
}

/// Does what a crash interrupted; the caller holds the lock.
pub(crate) fn finish_moving<D: Disk>(disk: &D) -> Result<(), DiskError> {
    let what = "move the log aside";
    let mut names: Vec<String> = disk
        .list()
        .map_err(DiskError::io(what, "open directory"))?
        .into_iter()
        .map(|entry| entry.name)
        .collect();
    if !names.iter().any(|name| name == MOVING) {
        return Ok(());
    }
    let mut number = names.iter().filter_map(|name| aside_number(name)).max().unwrap_or(0).saturating_add(1);
    names.sort();
    for name in names.iter().filter(|name| belongs_to_log(name)) {
        tracing::warn!(
            "moving {name} aside: it belongs to another cluster than the one that this node joins"
        );
        disk.rename(name, &format!("{ASIDE}{number}-{name}")).map_err(DiskError::io(what, "rename"))?;
        number = number.saturating_add(1);
    }
    files::sync_directory(disk, what)?;
    files::remove_if_exists(disk, MOVING, what)?;
    files::sync_directory(disk, what)
}

fn belongs_to_log(name: &str) -> bool {
    [IDENTITY, MANIFEST, MARKER].contains(&name)
        || ClosedName::parse(name).is_some()
        || OpenName::parse(name).is_some()
        || SnapshotName::parse(name.strip_suffix(".meta").unwrap_or(name)).is_some()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Configuration, EntryKind};

    fn entry(term: u64, byte: u8) -> Entry {
        Entry { term: Term(term), kind: EntryKind::Command, data: vec![byte; 16].into() }
    }

    fn cluster() -> ClusterId {
        ClusterId::new(0x0102).unwrap()
    }

    #[test]
    fn the_file_says_what_it_was_told_and_any_other_byte_makes_it_void() {
        let bound = Bound { cluster: cluster(), index: LogIndex(17), term: Term(3), checksum: 0xbad_cafe };
        let encoded = bound.encode();
        assert!(encoded.starts_with(
            b"dqlite cluster identity 1\ncluster 00000000000000000000000000000102\nentry 17 3 0badcafe\ncheck "
        ));
        assert_eq!(Bound::decode(&encoded), Some(bound));
        for at in 0..encoded.len() {
            let mut other = encoded.clone();
            other[at] ^= 1;
            assert_eq!(Bound::decode(&other), None, "byte {at}");
            assert_eq!(Bound::decode(&encoded[..at]), None, "{at} bytes");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(content in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(Bound::decode(&content), None);
        }
    }

    #[test]
    fn an_identity_fits_the_entry_it_is_bound_to_and_no_other() {
        let log = [entry(1, 1), entry(2, 2), entry(2, 3)];
        let bound = Bound::to_entry(cluster(), LogIndex(6), &log[1]);
        assert!(bound.fits(None, 5, &log));
        assert!(!bound.fits(None, 5, &[entry(1, 1), entry(2, 9), entry(2, 3)]), "equal term, other content");
        assert!(!bound.fits(None, 5, &[entry(1, 1), entry(3, 2)]), "other term");
        assert!(!bound.fits(None, 5, &log[..1]), "behind the log");
        assert!(!bound.fits(None, 7, &log), "in front of the log");
        let snapshot = |index, term| SnapshotMetadata {
            index: LogIndex(index),
            term: Term(term),
            configuration: Configuration::default(),
            configuration_index: LogIndex(1),
        };
        assert!(bound.fits(Some(&snapshot(6, 2)), 7, &[]));
        assert!(!bound.fits(Some(&snapshot(6, 1)), 7, &[]));
        assert!(!bound.fits(Some(&snapshot(7, 2)), 8, &[]), "nobody knows what the entry was");
        assert!(Bound::to_snapshot(cluster(), &snapshot(6, 2)).fits(Some(&snapshot(6, 2)), 7, &log));
    }
}
