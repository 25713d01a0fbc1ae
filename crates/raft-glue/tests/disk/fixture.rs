//! Entries, steps and snapshots that the tests write.

use bytes::Bytes;
use raft_glue::disk::{Disk, LogOptions, LogStore, MemoryDisk, write_snapshot};
use raft_glue::{
    Configuration, Entry, EntryKind, HardState, InstalledSnapshot, Loaded, LogIndex, NodeId, Persist, Role,
    Server, SnapshotMetadata, Term,
};

pub(crate) const KIB: u64 = 1024;

/// Small segments and few trailing entries.
pub(crate) fn options() -> LogOptions {
    LogOptions { trailing: 4, segment_size: 16 * KIB, ..LogOptions::default() }
}

pub(crate) fn configuration(voters: u64) -> Configuration {
    let server = |id| Server { id: NodeId(id), address: format!("a:{id}"), role: Role::Voter };
    Configuration { servers: (1..=voters).map(server).collect() }
}

/// The entry at an index: the first is the configuration of three voters.
pub(crate) fn entry(index: u64, term: u64) -> Entry {
    let term = Term(term);
    if index == 1 {
        return Entry { term, kind: EntryKind::Configuration, data: configuration(3).encode() };
    }
    let fill = u8::try_from(index % 251 + 1).unwrap();
    let len = usize::try_from(index % 7 * 200).unwrap();
    Entry { term, kind: EntryKind::Command, data: vec![fill; 8 + len].into() }
}

pub(crate) fn entries(first: u64, last: u64, term: u64) -> Vec<Entry> {
    (first..=last).map(|index| entry(index, term)).collect()
}

pub(crate) fn step(first: u64, last: u64, term: u64) -> Persist {
    Persist { first_index: LogIndex(first), entries: entries(first, last, term), ..Persist::default() }
}

pub(crate) fn with_state(mut step: Persist, term: u64, vote: Option<u64>) -> Persist {
    step.hard_state = Some(HardState { term: Term(term), vote: vote.map(NodeId) });
    step
}

pub(crate) fn metadata(index: u64, term: u64) -> SnapshotMetadata {
    SnapshotMetadata {
        index: LogIndex(index),
        term: Term(term),
        configuration: configuration(3),
        configuration_index: LogIndex(1),
    }
}

/// One database of two pages.
pub(crate) fn payload() -> Bytes {
    let mut payload = Vec::new();
    payload.extend(1u64.to_le_bytes());
    payload.extend(1u64.to_le_bytes());
    payload.extend(b"db\0\0\0\0\0\0");
    payload.extend(8192u64.to_le_bytes());
    payload.extend(0u64.to_le_bytes());
    payload.resize(40 + 8192, 7);
    payload.into()
}

pub(crate) fn installed(index: u64, term: u64) -> Persist {
    let snapshot = InstalledSnapshot { metadata: metadata(index, term), data: payload() };
    Persist { snapshot: Some(snapshot), ..Persist::default() }
}

/// Writes a snapshot under its temporary names.
pub(crate) fn write<D: Disk>(disk: &D, index: u64, term: u64) -> Result<(), raft_glue::disk::DiskError> {
    let payload = payload();
    let len = payload.len() as u64;
    write_snapshot(disk, &metadata(index, term), true, index, &mut std::iter::once(payload), len)
}

pub(crate) fn open<D: Disk>(disk: &D) -> (LogStore<D>, Loaded) {
    LogStore::open(disk.clone(), options()).unwrap()
}

/// A new store in term 9.
pub(crate) fn fresh<D: Disk>(disk: &D) -> LogStore<D> {
    let (mut store, _) = open(disk);
    store.persist(&[with_state(Persist::default(), 9, None)]).unwrap();
    store
}

pub(crate) fn names<D: Disk>(disk: &D) -> Vec<String> {
    let mut names: Vec<String> = disk.list().unwrap().into_iter().map(|entry| entry.name).collect();
    names.sort();
    names
}

/// The log holds exactly the entries of one term that belong at these indexes.
pub(crate) fn check_log(loaded: &Loaded, first: u64, last: u64, term: u64) {
    assert_eq!(loaded.first_index.0, first);
    assert_eq!(loaded.entries, entries(first, last, term));
}

/// The file that says what the directory held.
pub(crate) const MANIFEST: &str = "tmp-log-manifest";

/// All names but that one.
pub(crate) fn names_of_c<D: Disk>(disk: &D) -> Vec<String> {
    names(disk).into_iter().filter(|name| name != MANIFEST).collect()
}

/// Makes the directory one that C has used last: it deletes this file whenever a node is created.
pub(crate) fn used_by_c(disk: &MemoryDisk) {
    if disk.content(MANIFEST).is_some() {
        disk.unlink(MANIFEST).unwrap();
        disk.sync_directory().unwrap();
    }
}
