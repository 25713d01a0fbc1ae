//! A data directory in which files were changed, removed, or made up: it opens or it does not, and never panics.

use arbitrary::{Arbitrary, Unstructured};
use bytes::Bytes;
use raft_glue::disk::{
    Disk, LogOptions, LogStore, MemoryDisk, bootstrap, describe_last_entry, recover, write_snapshot,
};
use raft_glue::{
    Configuration, Entry, EntryKind, HardState, LogIndex, NodeId, Persist, Role, Server, SnapshotMetadata,
    Term,
};
use std::iter;
use std::sync::OnceLock;

/// Names that mean something in a data directory, plainly and at their limits.
const NAMES: &[&str] = &[
    "metadata1",
    "metadata2",
    "open-1",
    "open-2",
    "open-18446744073709551615",
    "0000000000000001-0000000000000003",
    "0000000000000001-0000000000000020",
    "0000000000000004-0000000000000009",
    "0000000000000021-0000000000000030",
    "9999999999999999-9999999999999999",
    "18446744073709551615-18446744073709551615",
    "snapshot-1-5-7",
    "snapshot-1-5-7.meta",
    "snapshot-18446744073709551615-4611686018427387904-18446744073709551615",
    "snapshot-18446744073709551615-4611686018427387904-18446744073709551615.meta",
    "catch-up-needed",
];

fn options() -> LogOptions {
    LogOptions { trailing: 4, segment_size: 16 * 1024, ..LogOptions::default() }
}

fn configuration() -> Configuration {
    let server = |id| Server { id: NodeId(id), address: format!("a:{id}"), role: Role::Voter };
    Configuration { servers: (1..=3).map(server).collect() }
}

fn entry(index: u64) -> Entry {
    if index == 1 {
        return Entry { term: Term(1), kind: EntryKind::Configuration, data: configuration().encode() };
    }
    let fill = index.to_le_bytes()[0];
    let len = usize::try_from(index % 7 * 200).unwrap_or(0);
    Entry { term: Term(1), kind: EntryKind::Command, data: vec![fill; 8 + len].into() }
}

fn step(first: u64, last: u64) -> Persist {
    Persist {
        first_index: LogIndex(first),
        entries: (first..=last).map(entry).collect(),
        ..Persist::default()
    }
}

fn snapshot(disk: &MemoryDisk, store: &mut LogStore<MemoryDisk>, index: u64) {
    let metadata = SnapshotMetadata {
        index: LogIndex(index),
        term: Term(1),
        configuration: configuration(),
        configuration_index: LogIndex(1),
    };
    let mut payload = Vec::new();
    payload.extend(1u64.to_le_bytes());
    payload.extend(1u64.to_le_bytes());
    payload.extend(b"db\0\0\0\0\0\0");
    payload.extend(8192u64.to_le_bytes());
    payload.extend(0u64.to_le_bytes());
    payload.resize(40 + 8192, 7);
    let len = payload.len() as u64;
    write_snapshot(disk, &metadata, true, index, &mut iter::once(Bytes::from(payload)), len)
        .expect("a disk in memory");
    store.snapshot_taken(&metadata).expect("a disk in memory");
}

/// A directory with everything in it: two snapshots, closed segments before and behind them, an open one.
fn rich() -> &'static MemoryDisk {
    static RICH: OnceLock<MemoryDisk> = OnceLock::new();
    RICH.get_or_init(|| {
        let disk = MemoryDisk::new(0);
        let (mut store, _) = LogStore::open(disk.clone(), options()).expect("a fresh directory");
        let state = Some(HardState { term: Term(9), vote: Some(NodeId(2)) });
        store.persist(&[Persist { hard_state: state, ..step(1, 20) }]).expect("a disk in memory");
        snapshot(&disk, &mut store, 10);
        snapshot(&disk, &mut store, 20);
        store.persist(&[step(21, 30)]).expect("a disk in memory");
        store.close().expect("a disk in memory");
        let (mut store, _) = LogStore::open(disk.clone(), options()).expect("what was written");
        store.persist(&[step(31, 40)]).expect("a disk in memory");
        drop(store);
        disk.crash()
    })
}

#[derive(Debug, Arbitrary)]
enum Change<'a> {
    /// Bytes of an existing file are replaced.
    Overwrite { file: u8, at: u16, bytes: &'a [u8] },
    /// A file ends earlier.
    Cut { file: u8, at: u16 },
    /// A file of any content, and perhaps the format word that makes it interesting.
    Make { name: u8, with_format: bool, bytes: &'a [u8] },
    /// A file is gone.
    Remove { file: u8 },
    /// A file has the content of another.
    Copy { from: u8, to: u8 },
}

fn apply(disk: &MemoryDisk, change: &Change<'_>) {
    let names = disk.names();
    let pick = |file: u8| names.get(usize::from(file) % names.len().max(1));
    match change {
        Change::Overwrite { file, at, bytes } => {
            let Some(name) = pick(*file) else { return };
            let mut content = disk.content(name).unwrap_or_default();
            let at = usize::from(*at).min(content.len());
            let len = bytes.len().min(content.len() - at);
            content[at..at + len].copy_from_slice(&bytes[..len]);
            disk.put(name, &content);
        }
        Change::Cut { file, at } => {
            let Some(name) = pick(*file) else { return };
            let mut content = disk.content(name).unwrap_or_default();
            content.truncate(usize::from(*at));
            disk.put(name, &content);
        }
        Change::Make { name, with_format, bytes } => {
            let mut content = bytes.to_vec();
            if *with_format {
                content.splice(..8.min(content.len()), 1u64.to_le_bytes());
            }
            disk.put(NAMES[usize::from(*name) % NAMES.len()], &content);
        }
        Change::Remove { file } => {
            if let Some(name) = pick(*file) {
                drop(disk.unlink(name));
            }
        }
        Change::Copy { from, to } => {
            if let (Some(from), Some(to)) = (pick(*from), pick(*to)) {
                disk.put(to, &disk.content(from).unwrap_or_default());
            }
        }
    }
}

/// See [`super::ALL`].
pub(super) fn run(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let empty = input.ratio(1, 4).unwrap_or(false);
    let disk = if empty { MemoryDisk::new(0) } else { rich().crash_with(3) };
    for _ in 0..8 {
        match Change::arbitrary(&mut input) {
            Ok(change) if !input.is_empty() => apply(&disk, &change),
            _ => break,
        }
    }
    disk.sync_directory().expect("a disk in memory");
    drop(describe_last_entry(&disk));
    drop(bootstrap(&disk.crash_with(1), &configuration()));
    drop(recover(&disk.crash_with(1), &configuration()));
    for auto_recovery in [false, true] {
        reopen(&disk.crash_with(2), LogOptions { auto_recovery, ..options() });
    }
}

/// What opens can be written to, and opens again with what was written.
fn reopen(disk: &MemoryDisk, options: LogOptions) {
    let Ok((mut store, loaded)) = LogStore::open(disk.clone(), options.clone()) else { return };
    let next = loaded.first_index.0 + loaded.entries.len() as u64;
    if next == 1 {
        return;
    }
    let entries: Vec<Entry> = (next..next + 3)
        .map(|index| Entry { term: loaded.hard_state.term.max(Term(1)), ..entry(index + 1) })
        .collect();
    let step = Persist { first_index: LogIndex(next), entries: entries.clone(), ..Persist::default() };
    store.persist(&[step]).expect("a log that was loaded takes more");
    store.close().expect("a log that was loaded can be closed");
    let options = LogOptions { auto_recovery: false, ..options };
    let (_, again) = LogStore::open(disk.clone(), options).expect("a log that was repaired is in order");
    assert_eq!(again.first_index.0 + again.entries.len() as u64, next + 3, "the log has another end");
    assert!(again.entries.ends_with(&entries), "the log holds something else than what was written");
}
