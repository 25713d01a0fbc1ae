//! The log as raft-rs reads it: an index of every entry that is kept, the newest entries themselves, the snapshot.
//!
//! Invariants: `slots` has one element for each index from `first_index` on, without gaps; `cache` holds the entries
//! of its newest part; the term of the index before the first is always known. Entries leave the cache only when they
//! are applied and durable. What a peer needs of them is read back from disk outside raft-rs (`catch_up`), which hears
//! that they are compacted.

use std::collections::VecDeque;

use raft::eraftpb::{self, ConfState};
use raft::storage::Storage;
use raft::{GetEntriesContext, RaftState, StorageError};
use wire_protocol::{Entry, LogIndex, Term};

use crate::catch_up::CatchUpLimits;
use crate::config::ReplicaError;
use crate::entry::{from_raft, size_bytes, to_raft};
use crate::membership::to_conf_state;
use crate::{Configuration, EntryKind, HardState, Loaded, NodeId, SnapshotMetadata};

/// What is known of an entry that may not be in memory.
#[derive(Clone, Copy, Debug)]
struct Slot {
    term: u64,
    /// Bytes of data of all entries up to this one since the replica was created: sums of ranges are differences.
    bytes_until: u64,
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
    /// `bytes_until` of that place.
    base_bytes: u64,
    slots: VecDeque<Slot>,
    /// The newest entries, up to the last.
    cache: VecDeque<Entry>,
    cache_bytes: u64,
    snapshot: Option<SnapshotMetadata>,
    limits: CatchUpLimits,
}

impl Log {
    /// The log of a node that starts.
    pub(crate) fn new(id: NodeId, loaded: Loaded, limits: CatchUpLimits) -> Result<Self, ReplicaError> {
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
            base_bytes: 0,
            slots: VecDeque::with_capacity(entries.len()),
            cache: VecDeque::with_capacity(entries.len()),
            cache_bytes: 0,
            snapshot,
            limits,
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

    /// Index of the oldest entry that is kept, here or on disk.
    pub(crate) fn first(&self) -> u64 {
        self.base.0 + 1
    }

    /// Index of the newest entry.
    pub(crate) fn last(&self) -> u64 {
        self.base.0 + self.slots.len() as u64
    }

    /// Index of the oldest entry in memory.
    pub(crate) fn cache_first(&self) -> u64 {
        self.last() + 1 - self.cache.len() as u64
    }

    fn slot(&self, index: u64) -> Option<&Slot> {
        self.slots.get(usize::try_from(index.checked_sub(self.first())?).ok()?)
    }

    /// Bytes of data of the entries from `first` to `last` that are kept.
    pub(crate) fn data_bytes(&self, first: u64, last: u64) -> u64 {
        let until = |index: u64| {
            let index = index.min(self.last());
            self.slot(index).map_or(self.base_bytes, |slot| slot.bytes_until)
        };
        if first > last { 0 } else { until(last) - until(first.saturating_sub(1)) }
    }

    /// Bytes that the entries from `first` to `last` take in an append.
    pub(crate) fn message_bytes(&self, first: u64, last: u64) -> u64 {
        let last = last.min(self.last());
        let count = (last + 1).saturating_sub(first.max(self.first()));
        self.data_bytes(first, last) + count * ENTRY_HEADER_LEN
    }

    /// Whether these entries are too many for one append. A single one never is.
    pub(crate) fn exceeds_piece(&self, first: u64, last: u64) -> bool {
        last > first
            && (last - first >= self.limits.piece_entries as u64
                || self.message_bytes(first, last) > self.limits.piece_bytes)
    }

    /// What the next append to a peer that needs `first` carries, if it is in memory: as much as fits in a piece, at
    /// most `max_count`.
    pub(crate) fn piece(&self, first: u64, max_count: usize) -> Option<Vec<Entry>> {
        let skip = usize::try_from(first.checked_sub(self.cache_first())?).ok()?;
        let mut bytes = 0;
        let fits = |entry: &&Entry| {
            let alone = bytes == 0;
            bytes += entry.data.len() as u64 + ENTRY_HEADER_LEN;
            alone || bytes <= self.limits.piece_bytes
        };
        Some(
            self.cache
                .range(skip.min(self.cache.len())..)
                .take(max_count)
                .take_while(fits)
                .cloned()
                .collect(),
        )
    }

    /// Whether these are the entries of the log from `first` on.
    pub(crate) fn holds(&self, first: u64, entries: &[Entry]) -> bool {
        !entries.is_empty()
            && (first..)
                .zip(entries)
                .all(|(index, entry)| self.slot(index).is_some_and(|slot| slot.term == entry.term.0))
    }

    fn push(&mut self, entry: Entry) {
        let before = self.slots.back().map_or(self.base_bytes, |slot| slot.bytes_until);
        self.slots.push_back(Slot { term: entry.term.0, bytes_until: before + entry.data.len() as u64 });
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
            self.base_bytes = slot.bytes_until;
        }
    }

    /// Drops the oldest entries up to `until` from memory while it holds more than `limit_bytes`.
    pub(crate) fn evict(&mut self, until: u64, limit_bytes: u64) {
        while self.cache_bytes > limit_bytes && self.cache_first() <= until {
            let Some(entry) = self.cache.pop_front() else { break };
            self.cache_bytes -= size_bytes(&entry);
        }
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
        // Only appends can wait. One that is too long, or not in memory, is not for raft-rs to make: it asks for a
        // snapshot then, and `catch_up` decides.
        if context.can_async() && (low < self.cache_first() || self.exceeds_piece(low, high - 1)) {
            return Err(StorageError::Compacted.into());
        }
        if low < self.cache_first() {
            return Err(StorageError::LogTemporarilyUnavailable.into());
        }
        let skip = usize::try_from(low - self.cache_first()).unwrap_or(usize::MAX);
        let count = usize::try_from(high - low).unwrap_or(usize::MAX);
        let chosen = self.cache.range(skip..).take(count);
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

    /// Always there, for raft-rs: what a peer is given in its place is decided by `catch_up`.
    fn snapshot(&self, _request_index: u64, _to: u64) -> raft::Result<eraftpb::Snapshot> {
        let mut snapshot = eraftpb::Snapshot::default();
        let converted = snapshot.mut_metadata();
        converted.index = self.snapshot.as_ref().map_or(1, |metadata| metadata.index.0);
        converted.term = self.snapshot.as_ref().map_or(1, |metadata| metadata.term.0);
        Ok(snapshot)
    }
}

/// Bytes that stand before the data of an entry in an append.
const ENTRY_HEADER_LEN: u64 = 16;

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
        let log = Log::new(NodeId(1), loaded(Some(metadata(10, 3)), 11, &[3, 4]), CatchUpLimits::default())
            .unwrap();
        assert_eq!((log.first(), log.last(), log.term(10).unwrap()), (11, 12, 3));
        let log =
            Log::new(NodeId(1), loaded(Some(metadata(10, 3)), 8, &[2, 2, 3, 4]), CatchUpLimits::default())
                .unwrap();
        assert_eq!((log.first(), log.last(), log.term(8).unwrap(), log.term(11).unwrap()), (9, 11, 2, 4));
        let log =
            Log::new(NodeId(1), loaded(Some(metadata(10, 3)), 5, &[2, 2]), CatchUpLimits::default()).unwrap();
        assert_eq!((log.first(), log.last(), log.term(10).unwrap()), (11, 10, 3));
    }

    #[test]
    fn gaps_and_logs_that_start_without_a_configuration_are_refused() {
        assert!(matches!(
            Log::new(NodeId(1), loaded(Some(metadata(10, 3)), 12, &[3]), CatchUpLimits::default()),
            Err(ReplicaError::Gap { .. })
        ));
        assert!(matches!(
            Log::new(NodeId(1), loaded(None, 1, &[3]), CatchUpLimits::default()),
            Err(ReplicaError::NoConfiguration)
        ));
        assert!(matches!(
            Log::new(NodeId(1), loaded(Some(metadata(10, 3)), 11, &[10]), CatchUpLimits::default()),
            Err(ReplicaError::TermBeyondHardState { .. })
        ));
    }

    #[test]
    fn what_is_not_in_memory_or_too_long_for_a_piece_is_not_for_raft() {
        let limits = CatchUpLimits { piece_bytes: 400, ..CatchUpLimits::default() };
        let mut log = Log::new(NodeId(1), loaded(Some(metadata(10, 3)), 11, &[3; 20]), limits).unwrap();
        log.evict(20, 0);
        assert_eq!(log.cache_first(), 21);
        let context = |can_async| GetEntriesContext::empty(can_async);
        let compacted = |result: raft::Result<Vec<eraftpb::Entry>>| {
            matches!(result, Err(raft::Error::Store(StorageError::Compacted)))
        };
        // 64 bytes of data and 16 of header each.
        assert!(log.entries(26, 31, None, context(true)).is_ok_and(|entries| entries.len() == 5));
        assert!(compacted(log.entries(25, 31, None, context(true))));
        assert!(log.entries(25, 31, None, context(false)).is_ok_and(|entries| entries.len() == 6));
        assert!(compacted(log.entries(20, 21, None, context(true))));
        assert_eq!(log.piece(21, 100).map(|entries| entries.len()), Some(5));
        assert_eq!(log.piece(21, 2).map(|entries| entries.len()), Some(2));
        assert_eq!(log.piece(29, 100).map(|entries| entries.len()), Some(2));
        assert_eq!(log.piece(20, 100), None);
        assert!(log.holds(12, &[command(3), command(3)]));
        assert!(!log.holds(12, &[command(3), command(4)]) && !log.holds(30, &[command(3), command(3)]));
    }

    #[test]
    fn sums_of_sizes_survive_truncation_and_compaction() {
        let mut log =
            Log::new(NodeId(1), loaded(Some(metadata(10, 3)), 11, &[3; 20]), CatchUpLimits::default())
                .unwrap();
        assert_eq!((log.data_bytes(11, 30), log.data_bytes(12, 12), log.data_bytes(30, 29)), (1280, 64, 0));
        log.append(&[to_raft(LogIndex(21), &command(5))]);
        assert_eq!((log.data_bytes(1, 30), log.message_bytes(20, 40)), (11 * 64, 2 * 80));
        log.compact(metadata(18, 3), 2);
        assert_eq!((log.data_bytes(1, 30), log.data_bytes(18, 19)), (5 * 64, 2 * 64));
        log.install(metadata(40, 5));
        assert_eq!(log.data_bytes(1, 100), 0);
        log.append(&[to_raft(LogIndex(41), &command(6))]);
        assert_eq!(log.data_bytes(1, 100), 64);
    }

    #[test]
    fn truncation_and_compaction_keep_index_and_cache_together() {
        let mut log =
            Log::new(NodeId(1), loaded(Some(metadata(10, 3)), 11, &[3; 20]), CatchUpLimits::default())
                .unwrap();
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
