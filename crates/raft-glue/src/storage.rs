//! The log as raft-rs reads it: an index of every entry that is kept, the newest entries themselves, the snapshot.
//!
//! Invariants: `slots` has one element for each index from `first_index` on, without gaps; `cache` holds the entries
//! of its newest part; the term of the index before the first is always known. Entries leave the cache only when they
//! are applied and durable, and are then read back from disk when a slow peer needs them.

use std::cell::RefCell;
use std::collections::VecDeque;

use raft::eraftpb::{self, ConfState};
use raft::storage::Storage;
use raft::{GetEntriesContext, RaftState, StorageError};
use wire_protocol::{Entry, LogIndex, Term};

use crate::config::ReplicaError;
use crate::entry::{from_raft, size_bytes, to_raft};
use crate::membership::to_conf_state;
use crate::{Configuration, EntryKind, HardState, Loaded, NodeId, SnapshotMetadata};

/// An append with more than this is not worth its memory when there is a snapshot; C nodes refuse 500 MiB.
const MAX_APPEND_BYTES: u64 = 256 << 20;
/// Just below what fits in one APPEND_ENTRIES to a C node.
const MAX_APPEND_ENTRIES: usize = 200_000;

/// What is known of an entry that may not be in memory.
#[derive(Clone, Copy, Debug)]
struct Slot {
    term: u64,
    size_bytes: u32,
}

/// Entries raft-rs wants to send that are only on disk.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) first: LogIndex,
    pub(crate) count: usize,
    pub(crate) context: GetEntriesContext,
}

/// The log in memory.
#[derive(Debug)]
pub(crate) struct Log {
    id: NodeId,
    hard_state: HardState,
    start_commit: u64,
    start_configuration: Configuration,
    /// Index and term just before the first slot.
    base: (u64, u64),
    slots: VecDeque<Slot>,
    /// The newest entries, up to the last.
    cache: VecDeque<Entry>,
    cache_bytes: u64,
    /// Entries read back from disk, directly before the cache; only while they are being sent.
    fetched: VecDeque<Entry>,
    snapshot: Option<SnapshotMetadata>,
    wanted: RefCell<Vec<Wanted>>,
}

impl Log {
    /// The log of a node that starts.
    pub(crate) fn new(id: NodeId, loaded: Loaded) -> Result<Self, ReplicaError> {
        let Loaded { hard_state, snapshot, mut first_index, entries, .. } = loaded;
        let mut entries = VecDeque::from(entries);
        let snapshot_index = snapshot.as_ref().map_or(LogIndex(0), |snapshot| snapshot.index);
        let last = (first_index.0 + entries.len() as u64).saturating_sub(1);
        if entries.is_empty() || last < snapshot_index.0 {
            entries.clear();
            first_index = LogIndex(snapshot_index.0 + 1);
        }
        if first_index.0 > snapshot_index.0 + 1 || first_index.0 == 0 {
            return Err(ReplicaError::Gap { first_index, snapshot_index });
        }
        let base = match &snapshot {
            Some(snapshot) if first_index.0 == snapshot.index.0 + 1 => (snapshot.index.0, snapshot.term.0),
            _ if first_index.0 == 1 => (0, 0),
            // The term before the first entry is unknown, so the first entry itself takes that place.
            _ => {
                let hidden = entries.pop_front().expect("entries below the snapshot exist");
                (first_index.0, hidden.term.0)
            }
        };
        if snapshot.is_none() && entries.front().is_some_and(|entry| entry.kind != EntryKind::Configuration) {
            return Err(ReplicaError::NoConfiguration);
        }
        let snapshot_term = snapshot.as_ref().map_or(Term(0), |snapshot| snapshot.term);
        let highest = entries.iter().map(|entry| entry.term).max().unwrap_or_default().max(snapshot_term);
        if highest > hard_state.term {
            return Err(ReplicaError::TermBeyondHardState { entry: highest, stored: hard_state.term });
        }
        let start_commit = snapshot_index.0.max(u64::from(!entries.is_empty()));
        let mut log = Self {
            id,
            hard_state,
            start_commit,
            start_configuration: snapshot
                .as_ref()
                .map(|snapshot| snapshot.configuration.clone())
                .unwrap_or_default(),
            base,
            slots: VecDeque::with_capacity(entries.len()),
            cache: VecDeque::with_capacity(entries.len()),
            cache_bytes: 0,
            fetched: VecDeque::new(),
            snapshot,
            wanted: RefCell::default(),
        };
        for entry in entries {
            log.push(entry);
        }
        Ok(log)
    }

    /// The configuration raft-rs starts with.
    pub(crate) fn set_start_configuration(&mut self, configuration: Configuration) {
        self.start_configuration = configuration;
    }

    /// Everything up to here counts as committed when the node starts.
    pub(crate) fn start_commit(&self) -> LogIndex {
        LogIndex(self.start_commit)
    }

    /// Newest durable snapshot.
    pub(crate) fn snapshot_metadata(&self) -> Option<&SnapshotMetadata> {
        self.snapshot.as_ref()
    }

    /// Entries in memory with their indexes.
    pub(crate) fn cached(&self) -> impl Iterator<Item = (LogIndex, &Entry)> {
        (self.cache_first()..).map(LogIndex).zip(&self.cache)
    }

    fn first(&self) -> u64 {
        self.base.0 + 1
    }

    fn last(&self) -> u64 {
        self.base.0 + self.slots.len() as u64
    }

    fn cache_first(&self) -> u64 {
        self.last() + 1 - self.cache.len() as u64
    }

    fn slot(&self, index: u64) -> Option<&Slot> {
        self.slots.get(usize::try_from(index.checked_sub(self.first())?).ok()?)
    }

    /// Bytes of data of the entries from `first` to `last` that are kept.
    pub(crate) fn data_bytes(&self, first: u64, last: u64) -> u64 {
        (first..=last).filter_map(|index| self.slot(index)).map(|slot| u64::from(slot.size_bytes)).sum()
    }

    fn push(&mut self, entry: Entry) {
        let size = u32::try_from(entry.data.len()).unwrap_or(u32::MAX);
        self.slots.push_back(Slot { term: entry.term.0, size_bytes: size });
        self.cache_bytes += size_bytes(&entry);
        self.cache.push_back(entry);
    }

    /// Takes what a Ready brings; entries that reach below the end replace the tail.
    pub(crate) fn append(&mut self, entries: &[eraftpb::Entry]) {
        let Some(first) = entries.first() else { return };
        assert!(first.index > self.base.0 && first.index <= self.last() + 1, "the log has no gaps");
        while self.last() >= first.index {
            self.slots.pop_back();
            if let Some(entry) = self.cache.pop_back() {
                self.cache_bytes -= size_bytes(&entry);
            }
        }
        for entry in entries {
            self.push(from_raft(entry));
        }
    }

    /// A snapshot of the leader replaces everything.
    pub(crate) fn install(&mut self, metadata: SnapshotMetadata) {
        self.base = (metadata.index.0, metadata.term.0);
        self.slots.clear();
        self.cache.clear();
        self.cache_bytes = 0;
        self.snapshot = Some(metadata);
    }

    /// An own snapshot is durable: forgets the entries more than `trailing` behind it.
    pub(crate) fn compact(&mut self, metadata: SnapshotMetadata, trailing: u64) {
        let until = metadata.index.0.saturating_sub(trailing);
        self.snapshot = Some(metadata);
        while self.first() <= until {
            if self.cache_first() == self.first()
                && let Some(entry) = self.cache.pop_front()
            {
                self.cache_bytes -= size_bytes(&entry);
            }
            let Some(slot) = self.slots.pop_front() else { break };
            self.base = (self.base.0 + 1, slot.term);
        }
    }

    /// Drops the oldest entries up to `until` from memory while it holds more than `limit_bytes`.
    pub(crate) fn evict(&mut self, until: u64, limit_bytes: u64) {
        while self.cache_bytes > limit_bytes && self.cache_first() <= until {
            let Some(entry) = self.cache.pop_front() else { break };
            self.cache_bytes -= size_bytes(&entry);
        }
    }

    /// What raft-rs could not send since the last call.
    pub(crate) fn take_wanted(&self) -> Vec<Wanted> {
        self.wanted.take()
    }

    /// Makes entries from disk readable until [`Self::drop_fetched`]. They must end where the cache starts.
    pub(crate) fn set_fetched(&mut self, first: LogIndex, entries: Vec<Entry>) -> bool {
        let fits = first.0 + entries.len() as u64 == self.cache_first()
            && entries
                .iter()
                .zip(first.0..)
                .all(|(entry, index)| self.slot(index).is_none_or(|slot| slot.term == entry.term.0));
        if fits {
            self.fetched = entries.into();
        }
        fits
    }

    pub(crate) fn drop_fetched(&mut self) {
        self.fetched = VecDeque::new();
    }

    /// Whether a snapshot is the better way to bring a peer from `low` to the end.
    fn too_much_to_send(&self, low: u64) -> bool {
        let offset = usize::try_from(low - self.first()).unwrap_or(usize::MAX);
        let slots = self.slots.iter().skip(offset);
        let worth = self.snapshot.as_ref().is_some_and(|snapshot| snapshot.index.0 >= low);
        worth
            && (self.slots.len().saturating_sub(offset) > MAX_APPEND_ENTRIES
                || slots.map(|slot| u64::from(slot.size_bytes)).sum::<u64>() > MAX_APPEND_BYTES)
    }
}

impl Storage for Log {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let hard_state = eraftpb::HardState {
            term: self.hard_state.term.0,
            vote: self.hard_state.vote.map_or(0, |id| id.0),
            commit: self.start_commit,
            ..Default::default()
        };
        let (voters, learners) = to_conf_state(&self.start_configuration, self.id, None);
        let conf_state = ConfState {
            voters: voters.into_iter().collect(),
            learners: learners.into_iter().collect(),
            ..Default::default()
        };
        Ok(RaftState { hard_state, conf_state })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<eraftpb::Entry>> {
        if low < self.first() {
            return Err(StorageError::Compacted.into());
        }
        assert!(high <= self.last() + 1, "raft-rs asks for entries it has given");
        let in_memory = self.cache_first() - self.fetched.len() as u64;
        if low < self.cache_first() && context.can_async() && self.too_much_to_send(low) {
            return Err(StorageError::Compacted.into());
        }
        if low < in_memory {
            if context.can_async() {
                let count = usize::try_from(self.cache_first() - low).unwrap_or(usize::MAX);
                self.wanted.borrow_mut().push(Wanted { first: LogIndex(low), count, context });
            }
            return Err(StorageError::LogTemporarilyUnavailable.into());
        }
        let skip = usize::try_from(low - in_memory).unwrap_or(usize::MAX);
        let count = usize::try_from(high - low).unwrap_or(usize::MAX);
        let chosen = self.fetched.iter().chain(&self.cache).skip(skip).take(count);
        let mut entries: Vec<_> =
            (low..).zip(chosen).map(|(index, entry)| to_raft(LogIndex(index), entry)).collect();
        raft::util::limit_size(&mut entries, max_size.into());
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.base.0 {
            return Ok(self.base.1);
        }
        match self.slot(index) {
            Some(slot) => Ok(slot.term),
            None if index < self.base.0 => Err(StorageError::Compacted.into()),
            None => Err(StorageError::Unavailable.into()),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.first())
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, _request_index: u64, _to: u64) -> raft::Result<eraftpb::Snapshot> {
        let Some(metadata) = &self.snapshot else {
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        };
        let mut snapshot = eraftpb::Snapshot::default();
        let converted = snapshot.mut_metadata();
        converted.index = metadata.index.0;
        converted.term = metadata.term.0;
        Ok(snapshot)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{Role, Server};

    fn configuration() -> Configuration {
        Configuration { servers: vec![Server { id: NodeId(1), address: "a".to_owned(), role: Role::Voter }] }
    }

    fn command(term: u64) -> Entry {
        Entry { term: Term(term), kind: EntryKind::Command, data: Bytes::from(vec![7; 64]) }
    }

    fn metadata(index: u64, term: u64) -> SnapshotMetadata {
        SnapshotMetadata {
            index: LogIndex(index),
            term: Term(term),
            configuration: configuration(),
            configuration_index: LogIndex(1),
        }
    }

    fn loaded(snapshot: Option<SnapshotMetadata>, first: u64, terms: &[u64]) -> Loaded {
        Loaded {
            hard_state: HardState { term: Term(9), vote: None },
            snapshot,
            first_index: LogIndex(first),
            entries: terms.iter().map(|term| command(*term)).collect(),
            ..Loaded::default()
        }
    }

    #[test]
    fn the_term_before_the_first_entry_is_always_known() {
        let log = Log::new(NodeId(1), loaded(Some(metadata(10, 3)), 11, &[3, 4])).unwrap();
        assert_eq!((log.first(), log.last(), log.term(10).unwrap()), (11, 12, 3));
        let log = Log::new(NodeId(1), loaded(Some(metadata(10, 3)), 8, &[2, 2, 3, 4])).unwrap();
        assert_eq!((log.first(), log.last(), log.term(8).unwrap(), log.term(11).unwrap()), (9, 11, 2, 4));
        let log = Log::new(NodeId(1), loaded(Some(metadata(10, 3)), 5, &[2, 2])).unwrap();
        assert_eq!((log.first(), log.last(), log.term(10).unwrap()), (11, 10, 3));
    }

    #[test]
    fn gaps_and_logs_that_start_without_a_configuration_are_refused() {
        assert!(matches!(
            Log::new(NodeId(1), loaded(Some(metadata(10, 3)), 12, &[3])),
            Err(ReplicaError::Gap { .. })
        ));
        assert!(matches!(Log::new(NodeId(1), loaded(None, 1, &[3])), Err(ReplicaError::NoConfiguration)));
        assert!(matches!(
            Log::new(NodeId(1), loaded(Some(metadata(10, 3)), 11, &[10])),
            Err(ReplicaError::TermBeyondHardState { .. })
        ));
    }

    #[test]
    fn evicted_entries_are_asked_for_and_read_back() {
        let mut log = Log::new(NodeId(1), loaded(Some(metadata(10, 3)), 11, &[3; 20])).unwrap();
        log.evict(20, 0);
        assert_eq!(log.cache_first(), 21);
        let context = || GetEntriesContext::empty(true);
        assert!(log.entries(21, 31, None, context()).is_ok_and(|entries| entries.len() == 10));
        assert!(log.entries(15, 31, None, context()).is_err());
        let wanted = log.take_wanted();
        assert_eq!((wanted.len(), wanted[0].first, wanted[0].count), (1, LogIndex(15), 6));
        assert!(!log.set_fetched(LogIndex(15), vec![command(3); 5]), "they must reach the cache");
        assert!(log.set_fetched(LogIndex(15), vec![command(3); 6]));
        let entries = log.entries(15, 31, None, context()).unwrap();
        assert_eq!((entries.len(), entries[0].index, entries[15].index), (16, 15, 30));
        log.drop_fetched();
        assert!(log.entries(20, 31, None, context()).is_err());
    }

    #[test]
    fn truncation_and_compaction_keep_index_and_cache_together() {
        let mut log = Log::new(NodeId(1), loaded(Some(metadata(10, 3)), 11, &[3; 20])).unwrap();
        log.append(&[to_raft(LogIndex(25), &command(5)), to_raft(LogIndex(26), &command(5))]);
        assert_eq!((log.last(), log.term(24).unwrap(), log.term(25).unwrap()), (26, 3, 5));
        log.evict(15, 0);
        log.compact(metadata(22, 3), 8);
        assert_eq!((log.first(), log.term(14).unwrap(), log.cache_first()), (15, 3, 16));
        log.compact(metadata(24, 3), 2);
        assert_eq!((log.first(), log.cache_first(), log.cached().count()), (23, 23, 4));
        log.compact(metadata(26, 5), 0);
        assert_eq!((log.first(), log.last(), log.cache_bytes, log.term(26).unwrap()), (27, 26, 0, 5));
    }
}
