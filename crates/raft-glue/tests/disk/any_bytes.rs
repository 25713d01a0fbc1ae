//! Whatever the files hold: no panic, no loss in silence.

use proptest::collection::vec;
use proptest::prelude::*;
use raft_glue::LogIndex;
use raft_glue::disk::{Disk, LogOptions, LogStore, MemoryDisk, bootstrap, describe_last_entry, recover};

use crate::fixture::*;

const NAMES: [&str; 20] = [
    "metadata1",
    "metadata2",
    "open-1",
    "open-01",
    "open-2",
    "open-18446744073709551615",
    "0000000000000001-0000000000000003",
    "0000000000000001-0000000000000009",
    "0000000000000004-0000000000000009",
    "0000000000000005-0000000000000007",
    "9999999999999999-9999999999999999",
    "1-2",
    "snapshot-1-5-7",
    "snapshot-1-5-7.meta",
    "snapshot-2-8-9",
    "snapshot-2-8-9.meta",
    "snapshot-18446744073709551615-4611686018427387904-18446744073709551615",
    "snapshot-18446744073709551615-4611686018427387904-18446744073709551615.meta",
    "catch-up-needed",
    "tmp-snapshot-1-5-7",
];

/// Opens the directory every way there is, and writes if it opens.
fn exercise(disk: &MemoryDisk) {
    let _ = describe_last_entry(disk);
    let _ = bootstrap(&disk.crash_with(1), &configuration(1));
    let _ = recover(&disk.crash_with(1), &configuration(1));
    for auto_recovery in [false, true] {
        let disk = disk.crash_with(2);
        let Ok((mut store, loaded)) = LogStore::open(disk.clone(), LogOptions { auto_recovery, ..options() })
        else {
            continue;
        };
        let next = loaded.first_index.0 + loaded.entries.len() as u64;
        let term = loaded.hard_state.term.0.clamp(1, 1 << 40);
        store.persist(&[step(next, next + 2, term)]).unwrap();
        if !loaded.entries.is_empty() {
            assert_eq!(
                store.read_entries(loaded.first_index, usize::MAX, u64::MAX).unwrap()[0],
                loaded.entries[0]
            );
        }
        store.close().unwrap();
        // Once repaired, it is in order; only what the first entry is was not checked.
        if next > 1 {
            let (_, again) = LogStore::open(disk, LogOptions { auto_recovery: false, ..options() }).unwrap();
            assert_eq!(again.entries.len(), loaded.entries.len() + 3);
        }
    }
}

/// A directory with everything: two snapshots, closed segments before and behind, an open one.
fn rich() -> MemoryDisk {
    let disk = MemoryDisk::new(0);
    let mut store = fresh(&disk);
    store.persist(&[step(1, 20, 1)]).unwrap();
    for index in [10, 20] {
        write(&disk, index, 1).unwrap();
        store.snapshot_taken(&metadata(index, 1)).unwrap();
    }
    store.persist(&[with_state(step(21, 25, 1), 10, Some(2))]).unwrap();
    store.persist(&[step(26, 30, 1)]).unwrap();
    store.close().unwrap();
    let (mut store, _) = open(&disk);
    store.persist(&[step(31, 35, 1)]).unwrap();
    store.persist(&[step(36, 40, 1)]).unwrap();
    drop(store);
    disk.crash()
}

/// A change of a file.
#[derive(Clone, Debug)]
enum Change {
    Flip(usize, u8),
    Cut(usize),
    Zero(usize, usize),
    Insert(usize, Vec<u8>),
    Remove,
}

fn any_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (any::<usize>(), 1..=u8::MAX).prop_map(|(at, mask)| Change::Flip(at, mask)),
        1 => any::<usize>().prop_map(Change::Cut),
        1 => (any::<usize>(), 1..2000usize).prop_map(|(at, len)| Change::Zero(at, len)),
        1 => (any::<usize>(), vec(any::<u8>(), 1..100)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        1 => Just(Change::Remove),
    ]
}

fn apply(disk: &MemoryDisk, name: &str, change: &Change) {
    let mut content = disk.content(name).unwrap();
    // Most of an open segment is not used yet.
    let used = content.iter().rposition(|byte| *byte != 0).map_or(content.len(), |last| last + 1).max(1);
    match change {
        Change::Flip(at, mask) => {
            if let Some(byte) = content.get_mut(at % used) {
                *byte ^= mask;
            }
        }
        Change::Cut(at) => content.truncate(at % used),
        Change::Zero(at, len) => {
            let start = (at % used).min(content.len());
            let end = (start + len).min(content.len());
            content[start..end].fill(0);
        }
        Change::Insert(at, bytes) => {
            let at = (at % used).min(content.len());
            content.splice(at..at, bytes.iter().copied());
        }
        Change::Remove => return disk.unlink(name).unwrap(),
    }
    disk.put(name, &content);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn random_files_never_panic(files in vec((0..NAMES.len(), vec(any::<u8>(), 0..300), any::<bool>()), 0..6)) {
        let disk = MemoryDisk::new(0);
        for (name, mut content, with_format) in files {
            if with_format && content.len() >= 8 {
                content[..8].copy_from_slice(&1u64.to_le_bytes());
            }
            disk.put(NAMES[name], &content);
        }
        exercise(&disk);
    }

    #[test]
    fn changed_directories_never_panic(changes in vec((any::<usize>(), any_change()), 1..4)) {
        let disk = rich();
        for (file, change) in changes {
            let names = disk.names();
            apply(&disk, &names[file % names.len()], &change);
        }
        disk.sync_directory().unwrap();
        exercise(&disk);
    }

    /// Damage inside a segment or a snapshot is noticed, whatever and wherever it is.
    #[test]
    fn a_flipped_byte_never_costs_an_entry_in_silence(file in any::<usize>(), at in any::<usize>(), mask in 1..=u8::MAX) {
        let disk = rich();
        let names: Vec<String> =
            disk.names().into_iter().filter(|name| name.contains('-') && name != "dqlite-lock").collect();
        apply(&disk, &names[file % names.len()], &Change::Flip(at, mask));
        if let Ok((_, loaded)) = LogStore::open(disk, options()) {
            let snapshot = loaded.snapshot.as_ref().map_or(0, |snapshot| snapshot.index.0);
            let next = loaded.first_index.0 + loaded.entries.len() as u64;
            let whole = next == 41 && loaded.first_index.0 <= snapshot + 1;
            prop_assert!(whole || loaded.no_vote_until.is_some_and(|until| until >= LogIndex(40)));
            prop_assert_eq!(&loaded.entries, &entries(loaded.first_index.0, next - 1, 1));
        }
    }
}

#[test]
fn names_that_are_too_long_or_too_high_are_foreign() {
    let disk = rich();
    let long = format!("open-{}", "1".repeat(200));
    for name in
        [long.as_str(), "snapshot-1-9223372036854775808-1", "5-4", "0-1", "open-99999999999999999999999"]
    {
        disk.put(name, b"x");
    }
    let (_, loaded) = open(&disk);
    assert_eq!(loaded.first_index.0 + loaded.entries.len() as u64, 41);
    assert!(disk.content(&long).is_some());
}
