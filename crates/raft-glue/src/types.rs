//! Values that pass between the replica and the disk.

use bytes::Bytes;
use wire_protocol::{Configuration, Entry, LogIndex, NodeId, Term};

/// What must be durable before a vote or a term is used in any message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// Current term.
    pub term: Term,
    /// Who got our vote in it.
    pub vote: Option<NodeId>,
}

/// Everything about a snapshot but its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotMetadata {
    /// Last entry covered.
    pub index: LogIndex,
    /// Its term.
    pub term: Term,
    /// Last committed configuration at that index.
    pub configuration: Configuration,
    /// Index of the entry that carried the configuration.
    pub configuration_index: LogIndex,
}

/// A snapshot received from a leader, to be written before anything after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstalledSnapshot {
    /// Position and configuration.
    pub metadata: SnapshotMetadata,
    /// State machine payload, uncompressed.
    pub data: Bytes,
}

/// One step of persistence. Steps are written in order; several may share one write and one sync.
///
/// Order inside a step: hard state, snapshot (replaces the whole log), truncation, entries.
#[derive(Clone, Debug, Default)]
pub struct Persist {
    /// Ready number to report back; a report of `n` covers all smaller numbers.
    pub number: u64,
    /// New term and vote, if they changed.
    pub hard_state: Option<HardState>,
    /// A received snapshot, if any; afterwards the log continues at its index + 1.
    pub snapshot: Option<InstalledSnapshot>,
    /// Index of the first of `entries`. If the log on disk reaches this index, its tail from here on is cut first.
    pub first_index: LogIndex,
    /// New entries, may be empty.
    pub entries: Vec<Entry>,
}

/// What was found in a data directory.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// Term and vote; all zero in a pristine directory.
    pub hard_state: HardState,
    /// Newest snapshot, if any.
    pub snapshot: Option<SnapshotMetadata>,
    /// Index of the first of `entries` (snapshot index + 1, or 1, if there are none). May lie below the snapshot.
    pub first_index: LogIndex,
    /// All entries of the log.
    pub entries: Vec<Entry>,
    /// Damaged data was moved aside: neither vote nor lead before this index is known to be committed. It is the
    /// highest index this node may ever have acknowledged.
    pub no_vote_until: Option<LogIndex>,
}

/// An entry handed to the state machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Its position.
    pub index: LogIndex,
    /// The entry.
    pub entry: Entry,
}
