//! Values that pass between the replica and the disk.

use bytes::Bytes;
use wire_protocol::{ClusterId, Configuration, Entry, LogIndex, NodeId, Term};

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
    /// The durable term when that damage was found, if it can be trusted. A committed entry of a higher term that is in
    /// this log ends the wait as well; see [`has_caught_up`].
    pub damaged_in: Option<Term>,
    /// The cluster that the directory belongs to, if it says so and fits.
    pub cluster: Option<ClusterId>,
}

/// Whether a node that may have lost entries holds again all that it ever acknowledged and that counted, when it knows
/// that the entry at `committed`, which has this term and is in its log, is committed. `until` and `damaged_in` are
/// [`Loaded::no_vote_until`] and [`Loaded::damaged_in`].
///
/// That the index is reached is the plain way. The term is the other one, for which the bound on the index may be far too
/// high. Let T be the term that was durable here when the damage was found, and e a committed entry of a term t > T.
///
/// - This node has acknowledged nothing in a term above T before the damage was found: a term is durable before anything
///   is said in it.
/// - It did not vote in t: before the damage it had not reached that term, and since then its vote is withheld. So the
///   leader of t was elected by a majority without this node.
/// - Let x be an entry that was committed with the help of what is lost here. A majority acknowledged it in a term of at
///   most T, and that majority and the one that elected the leader of t have a member in common, which is another node. It
///   acknowledged x before it voted in t, so the leader of t has x, before all entries of its own term.
/// - e was made by that leader, behind x. Who holds e holds everything before it as the leader has it: x is here again.
///
/// It makes no difference that the two majorities may belong to configurations that are one change apart, since those
/// have a member in common, too. Terms that this node learns of while it waits do not matter: T is kept with the note of
/// the damage. If the durable term itself cannot be trusted, because the log holds entries of a higher one, there is no T
/// and only the index counts. Further damage while the node waits takes the term of that moment, and the higher index.
#[must_use]
pub fn has_caught_up(until: LogIndex, damaged_in: Option<Term>, committed: LogIndex, term: Term) -> bool {
    let by_term = damaged_in.is_some_and(|damaged_in| {
        term > damaged_in || (planted::bug!(SameTermCountsAsLater) && term == damaged_in)
    });
    committed >= until || by_term
}

/// An entry handed to the state machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Its position.
    pub index: LogIndex,
    /// The entry.
    pub entry: Entry,
}
