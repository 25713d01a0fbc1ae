//! A look at a data directory that changes nothing and takes no lock, so that a running node is not disturbed.
//!
//! What a running node does meanwhile is made up for: all files are opened before any is read, so that names may change
//! afterwards, and what looks like damage counts only when it is found twice, since a write may have been under way.

mod files;
mod problems;

use std::io;

use wire_protocol::ClusterId;

use super::error::DiskError;
use super::examine::{Examined, examine};
use super::file_system::Disk;
use super::identity;
use super::metadata;
use super::payload::PayloadDatabase;
use super::read_only::ReadOnly;
use super::store::DEFAULT_SEGMENT_SIZE;
use crate::{Configuration, HardState, Loaded, LogIndex, SnapshotMetadata, Term};

pub use problems::{Problem, Severity};

/// Between two changes of names there is time enough to open some files.
const MAX_LOOKS: u32 = 100;

/// Everything about a directory.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// `metadata1` and `metadata2`, as far as they exist.
    pub metadata: Vec<MetadataFile>,
    /// Closed and open segments, in the order of the log as far as they say.
    pub segments: Vec<Segment>,
    /// Oldest first.
    pub snapshots: Vec<Snapshot>,
    /// All other files, by name.
    pub others: Vec<OtherFile>,
    /// What a start of a node would load before it repairs anything; a damaged log ends before the damage.
    pub loaded: Loaded,
    /// Index of the last entry, or of the snapshot if no entry follows it; 0 if there is neither.
    pub last_index: LogIndex,
    /// Its term.
    pub last_term: Term,
    /// The newest configuration found anywhere and the index of its entry, which is inexact in a damaged log.
    pub configuration: Option<(LogIndex, Configuration)>,
    /// What is wrong, the worst first.
    pub problems: Vec<Problem>,
}

/// One of the two files that hold term and vote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataFile {
    /// Its name.
    pub name: String,
    /// What it says, or why it says nothing.
    pub content: Result<MetadataRecord, String>,
}

/// Term and vote, and how often they were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetadataRecord {
    /// Counts writes; the higher one is in force.
    pub version: u64,
    /// What it says.
    pub hard_state: HardState,
}

/// A segment of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Name of the file.
    pub name: String,
    /// Size of the file in bytes, preallocated zeros included.
    pub size: u64,
    /// Bytes up to the end of the last batch whose checksums are right.
    pub used: u64,
    /// Index of its first entry. An open segment that is not part of the log does not tell.
    pub first: Option<LogIndex>,
    /// Index of the last entry that its name promises; `None` for an open segment.
    pub promised: Option<LogIndex>,
    /// Entries whose checksums are right, before the first defect.
    pub entries: u64,
    /// Those of them that are commands.
    pub commands: u64,
    /// Those of them that are configurations.
    pub configurations: u64,
    /// Batches they lie in.
    pub batches: u64,
    /// Terms of the first and the last of the entries.
    pub terms: Option<(Term, Term)>,
    /// How it ends.
    pub end: SegmentEnd,
    /// What a start would do with it.
    pub standing: Standing,
}

/// How a segment ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SegmentEnd {
    /// As it should.
    Sound,
    /// It holds nothing: it was prepared ahead.
    Unused,
    /// The last write is there in part: it is under way, or was interrupted before anybody was told of its success.
    Unfinished {
        /// Where that write starts, bytes.
        offset: u64,
    },
    /// It does not decode.
    Damaged {
        /// Where, bytes.
        offset: u64,
        /// How, in the words of C dqlite.
        message: String,
    },
}

/// What a start would do with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Use it.
    Used,
    /// Remove it: it holds nothing, or nothing that is not elsewhere.
    Superfluous,
    /// Move it aside, or refuse to start because of it.
    Damaged,
}

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Name of the payload file; the other one ends in `.meta`.
    pub name: String,
    /// Last entry it covers.
    pub index: LogIndex,
    /// Its term.
    pub term: Term,
    /// When it was made, milliseconds, by a clock that may have any origin.
    pub timestamp_ms: u64,
    /// Size of the payload file in bytes.
    pub size: u64,
    /// Whether the payload is compressed.
    pub compressed: bool,
    /// What is in it, or why it cannot be used.
    pub content: Result<SnapshotContent, String>,
    /// Whether a start would load it: the newest one that is whole.
    pub is_chosen: bool,
}

/// Content of a snapshot that is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotContent {
    /// Position and configuration.
    pub metadata: SnapshotMetadata,
    /// Its databases in order.
    pub databases: Vec<PayloadDatabase>,
}

/// A file that belongs neither to the log nor to a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherFile {
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// What it is.
    pub kind: OtherKind,
}

/// What a file is that belongs neither to the log nor to a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtherKind {
    /// What the lock is taken on.
    Lock,
    /// Being written, or left by a crash; a start removes it.
    Temporary,
    /// Moved aside by a repair; nothing reads it.
    Aside,
    /// Copied by a recovery before it was replaced; nothing reads it.
    Backup,
    /// Says that the node may not vote before it has caught up.
    Marker,
    /// Says which cluster the directory belongs to.
    Identity,
    /// Says that the log is being moved aside, which the next start finishes.
    Moving,
    /// Says what the directory held when it was written, unless C has used the directory since.
    Manifest,
    /// Not ours.
    Foreign,
}

/// Reads the whole directory and verifies all of it. Entries come into memory, snapshots only pass by. What was read is
/// handed out, too, for a closer look at the same files.
///
/// `pause` is called before everything is read again; it should take some milliseconds.
///
/// # Errors
///
/// When a file cannot be opened or read, or the directory never rests.
pub fn inspect<D: Disk>(disk: &D, pause: &mut dyn FnMut()) -> Result<(Inspection, ReadOnly<D>), DiskError> {
    let mut known: Option<Vec<Problem>> = None;
    for _ in 0..MAX_LOOKS {
        let held = ReadOnly::try_hold(disk).map_err(DiskError::io("open all files", "open"))?;
        if let Some(held) = held {
            let found = look(&held)?;
            if found.problems.is_empty() || known.as_ref() == Some(&found.problems) {
                return Ok((found, held));
            }
            known = Some(found.problems);
        }
        pause();
    }
    Err(DiskError::Directory(
        "the directory changes faster than it can be read; try again, or copy it and inspect the copy"
            .to_owned(),
    ))
}

fn look<D: Disk>(disk: &D) -> Result<Inspection, DiskError> {
    let examined = examine(disk, DEFAULT_SEGMENT_SIZE)?;
    let sizes = files::Sizes::of(disk)?;
    let segments = files::segments(disk, &examined, &sizes)?;
    let snapshots = files::snapshots(disk, &examined, &sizes)?;
    let problems = problems::find(&examined, &segments, &snapshots);
    let snapshot_term = examined.snapshot.as_ref().map(|snapshot| snapshot.term);
    let cluster = identity::load(disk, examined.snapshot.as_ref(), examined.first_index, &examined.entries)
        .map(|bound| bound.cluster);
    Ok(Inspection {
        metadata: files::metadata(disk)?,
        segments,
        snapshots,
        others: files::others(&sizes),
        last_index: LogIndex(examined.next_index() - 1),
        last_term: examined.entries.last().map(|entry| entry.term).or(snapshot_term).unwrap_or_default(),
        configuration: examined.configuration.clone().map(|(index, found)| (LogIndex(index), found)),
        problems,
        loaded: loaded(examined, cluster),
    })
}

fn loaded(examined: Examined, cluster: Option<ClusterId>) -> Loaded {
    let record = examined.metadata.newest.unwrap_or_default();
    Loaded {
        hard_state: record.hard_state,
        first_index: LogIndex(examined.first_index),
        no_vote_until: examined.survey.marker.map(|marker| LogIndex(marker.until)),
        damaged_in: examined.survey.marker.and_then(|marker| marker.damaged_in),
        snapshot: examined.snapshot,
        entries: examined.entries,
        cluster,
    }
}

impl From<metadata::Record> for MetadataRecord {
    fn from(record: metadata::Record) -> Self {
        Self { version: record.version, hard_state: record.hard_state }
    }
}

/// Whether a file was there a moment ago and is not any more.
fn is_gone(error: &DiskError) -> bool {
    matches!(error, DiskError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
}
