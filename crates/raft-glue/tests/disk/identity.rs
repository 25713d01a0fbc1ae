//! The identity of the cluster in its file, and logs that are moved aside.

use raft_glue::disk::{Disk, Fault, File, LogStore, MemoryDisk, bootstrap, recover};
use raft_glue::{ClusterId, Entry, EntryKind, LogIndex, Term};

use crate::fixture::*;

const FILE: &str = "cluster-identity";

fn cluster() -> ClusterId {
    ClusterId::new(0x1234_5678_9abc_def0).unwrap()
}

/// A store with entries 1 to 10 of term 1, bound to the sixth.
fn bound(disk: &MemoryDisk) -> LogStore<MemoryDisk> {
    let mut store = fresh(disk);
    store.persist(&[step(1, 10, 1)]).unwrap();
    assert!(store.bind_identity(cluster(), LogIndex(6)).unwrap());
    store
}

fn identity(disk: &MemoryDisk) -> Option<ClusterId> {
    open(disk).1.cluster
}

#[test]
fn an_identity_is_durable_when_it_is_bound_and_needs_an_entry() {
    let disk = MemoryDisk::new(1);
    let mut store = fresh(&disk);
    assert!(!store.bind_identity(cluster(), LogIndex(1)).unwrap(), "there is no entry");
    store.persist(&[step(1, 10, 1)]).unwrap();
    assert!(!store.bind_identity(cluster(), LogIndex(11)).unwrap());
    assert!(store.bind_identity(cluster(), LogIndex(10)).unwrap());
    for seed in 0..20 {
        assert_eq!(identity(&disk.crash_with(seed)), Some(cluster()));
    }
}

#[test]
fn a_crash_while_it_is_written_leaves_the_old_one_or_none() {
    for operation in 0..12 {
        let disk = MemoryDisk::new(1);
        let mut store = fresh(&disk);
        store.persist(&[step(1, 10, 1)]).unwrap();
        disk.inject(Fault::PowerOff(operation));
        let written = store.bind_identity(cluster(), LogIndex(6));
        for seed in 0..8 {
            let (_, loaded) = open(&disk.crash_with(seed));
            check_log(&loaded, 1, 10, 1);
            let found = loaded.cluster;
            assert!(found == Some(cluster()) || (found.is_none() && written.is_err()), "{operation}");
        }
    }
}

#[test]
fn an_identity_stays_with_the_log_through_snapshots_and_their_retention() {
    let disk = MemoryDisk::new(1);
    let mut store = bound(&disk);
    store.persist(&[step(11, 40, 1)]).unwrap();
    write(&disk, 30, 1).unwrap();
    store.snapshot_taken(&metadata(30, 1)).unwrap();
    drop(store);
    let (mut store, loaded) = open(&disk);
    assert!(loaded.first_index > LogIndex(6), "the entry that it was bound to is gone");
    assert_eq!(loaded.cluster, Some(cluster()));
    store.persist(&[installed(90, 1)]).unwrap();
    drop(store);
    let (mut store, loaded) = open(&disk);
    assert_eq!((loaded.first_index, loaded.cluster), (LogIndex(91), Some(cluster())));
    store.persist(&[step(91, 95, 1)]).unwrap();
    drop(store);
    assert_eq!(identity(&disk), Some(cluster()));
}

/// C compacts the log and knows nothing of the file; or somebody empties the directory and overlooks it.
#[test]
fn an_identity_whose_entry_is_gone_or_another_is_ignored() {
    let disk = MemoryDisk::new(1);
    drop(bound(&disk));
    let content = disk.content(FILE).unwrap();
    let with_file = |disk: &MemoryDisk| {
        let file = disk.create(FILE).unwrap();
        file.write_at(&content, 0).unwrap();
        identity(disk)
    };
    let empty = MemoryDisk::new(2);
    assert_eq!(with_file(&empty), None);
    let other_term = MemoryDisk::new(3);
    fresh(&other_term).persist(&[step(1, 10, 2)]).unwrap();
    assert_eq!(with_file(&other_term), None);
    let other_content = MemoryDisk::new(4);
    let mut step = step(1, 10, 1);
    step.entries[5] = Entry { data: vec![9; 16].into(), ..step.entries[5].clone() };
    fresh(&other_content).persist(&[step]).unwrap();
    assert_eq!(with_file(&other_content), None, "equal indexes and terms, other content");
    let compacted = MemoryDisk::new(5);
    fresh(&compacted).persist(&[installed(30, 1)]).unwrap();
    assert_eq!(with_file(&compacted), None);
    let same = MemoryDisk::new(6);
    fresh(&same).persist(&[crate::fixture::step(1, 12, 1)]).unwrap();
    assert_eq!(with_file(&same), Some(cluster()), "a copy");
}

#[test]
fn recover_on_every_survivor_keeps_the_identity() {
    for last in [10, 14] {
        let disk = MemoryDisk::new(1);
        let mut store = bound(&disk);
        if last > 10 {
            store.persist(&[step(11, last, 1)]).unwrap();
        }
        drop(store);
        recover(&disk, &configuration(2)).unwrap();
        let (_, loaded) = open(&disk);
        assert_eq!(loaded.cluster, Some(cluster()));
        assert_eq!(loaded.entries.last().unwrap().kind, EntryKind::Configuration);
    }
}

#[test]
fn a_log_that_is_moved_aside_is_there_whole_or_not_at_all_and_deleted_never() {
    let prepare = |disk: &MemoryDisk| {
        let mut store = bound(disk);
        write(disk, 8, 1).unwrap();
        store.snapshot_taken(&metadata(8, 1)).unwrap();
        store.persist(&[step(11, 20, 1)]).unwrap();
        store
    };
    let mut was_whole = false;
    let mut was_gone = false;
    for operation in 0..60 {
        let disk = MemoryDisk::new(1);
        let mut store = prepare(&disk);
        disk.inject(Fault::PowerOff(operation));
        let moved = store.move_aside();
        drop(store);
        for seed in 0..4 {
            let after = disk.crash_with(seed);
            let (_, loaded) = open(&after);
            assert_eq!(loaded.hard_state.term, Term(9), "term and vote stay");
            if loaded.entries.is_empty() {
                assert!(loaded.snapshot.is_none() && loaded.cluster.is_none());
                let aside = names(&after);
                let aside =
                    |part: &str| aside.iter().any(|name| name.starts_with("corrupt-") && name.contains(part));
                assert!(aside("0000000000000001-") && aside("snapshot-1-8-") && aside(FILE));
                was_gone = true;
            } else {
                assert!(moved.is_err(), "operation {operation}");
                assert_eq!(loaded.entries.last(), Some(&entry(20, 1)));
                assert_eq!(loaded.cluster, Some(cluster()));
                was_whole = true;
            }
        }
    }
    assert!(was_whole && was_gone);
}

#[test]
fn a_directory_whose_log_was_moved_aside_begins_no_cluster() {
    let disk = MemoryDisk::new(1);
    bootstrap(&disk, &configuration(1)).unwrap();
    let (mut store, loaded) = open(&disk);
    assert_eq!(loaded.entries.len(), 1);
    assert!(store.move_aside().unwrap());
    store.persist(&[step(1, 3, 1)]).unwrap();
    drop(store);
    check_log(&open(&disk).1, 1, 3, 1);
    let (mut store, _) = open(&disk);
    assert!(store.move_aside().unwrap());
    drop(store);
    bootstrap(&disk, &configuration(1)).unwrap();
    assert!(open(&disk).1.entries.is_empty());
}
