//! Writing, reading, truncating, snapshots, retention.

use raft_glue::disk::{
    Disk, DiskError, Fault, File, LoadError, LogOptions, LogStore, MemoryDisk, OsDisk, Space,
    give_up_older_snapshots, read_snapshot,
};
use raft_glue::{Entry, HardState, LogIndex, NodeId, Persist, Term};

use crate::fixture::*;

fn size<D: Disk>(disk: &D, name: &str) -> Option<u64> {
    disk.open_read(name).and_then(|file| file.size()).ok()
}

#[test]
fn a_pristine_directory_stays_empty_until_something_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let disk = OsDisk::new(directory.path()).unwrap();
    let (store, loaded) = LogStore::open(disk.clone(), LogOptions::default()).unwrap();
    assert_eq!((loaded.hard_state, loaded.first_index), (HardState::default(), LogIndex(1)));
    assert!(loaded.entries.is_empty() && loaded.snapshot.is_none() && loaded.no_vote_until.is_none());
    let second = LogStore::open(disk.clone(), LogOptions::default());
    assert!(matches!(second.unwrap_err(), LoadError::Disk(DiskError::Locked)));
    store.close().unwrap();
    assert_eq!(names_of_c(&disk), ["dqlite-lock"]);
}

#[test]
fn what_was_persisted_is_loaded_after_a_kill_and_after_a_stop() {
    let directory = tempfile::tempdir().unwrap();
    let disk = OsDisk::new(directory.path()).unwrap();
    let (mut store, _) = LogStore::open(disk.clone(), LogOptions::default()).unwrap();
    store.persist(&[with_state(step(1, 3, 1), 1, None), step(4, 4, 1)]).unwrap();
    assert_eq!(size(&disk, "open-1"), Some(8 << 20));
    store.persist(&[with_state(step(5, 40, 1), 2, Some(3))]).unwrap();
    drop(store);
    let (mut store, loaded) = LogStore::open(disk.clone(), LogOptions::default()).unwrap();
    check_log(&loaded, 1, 40, 1);
    assert_eq!(loaded.hard_state, HardState { term: Term(2), vote: Some(NodeId(3)) });
    store.persist(&[step(41, 41, 1)]).unwrap();
    store.close().unwrap();
    assert_eq!(
        names_of_c(&disk),
        [
            "0000000000000001-0000000000000040",
            "0000000000000041-0000000000000041",
            "dqlite-lock",
            "metadata1",
            "metadata2"
        ]
    );
    let (_, loaded) = LogStore::open(disk, LogOptions::default()).unwrap();
    check_log(&loaded, 1, 41, 1);
}

#[test]
fn all_steps_share_one_write_and_one_sync() {
    let disk = MemoryDisk::new(1);
    let mut store = fresh(&disk);
    store.persist(&[step(1, 1, 1)]).unwrap();
    let before = (disk.writes(), disk.syncs());
    store.persist(&[step(2, 2, 1), step(3, 5, 1), step(6, 6, 1)]).unwrap();
    assert_eq!((disk.writes(), disk.syncs()), (before.0 + 1, before.1 + 1));
    let before = disk.operations();
    store.persist(&[Persist::default()]).unwrap();
    assert_eq!(disk.operations(), before);
}

#[test]
fn term_and_vote_are_durable_before_entries() {
    let disk = MemoryDisk::new(1);
    let mut store = fresh(&disk);
    store.persist(&[with_state(step(1, 1, 1), 10, None)]).unwrap();
    // The write and the sync of the record.
    disk.inject(Fault::PowerOff(2));
    let steps = [with_state(step(2, 2, 2), 12, Some(1)), with_state(step(3, 3, 3), 13, Some(2))];
    store.persist(&steps).unwrap_err();
    for seed in 0..20 {
        let (_, loaded) = open(&disk.crash_with(seed));
        assert_eq!(loaded.hard_state, HardState { term: Term(13), vote: Some(NodeId(2)) });
        assert_eq!(loaded.entries.len(), 1);
    }
}

#[test]
fn full_segments_are_closed_and_the_next_one_is_prepared() {
    let disk = MemoryDisk::new(1);
    let mut store = fresh(&disk);
    for index in 1..=60 {
        store.persist(&[step(index, index, 1)]).unwrap();
    }
    let open_names = |disk| names(disk).into_iter().filter(|name| name.starts_with("open")).count();
    let closed = names(&disk).into_iter().filter(|name| name.starts_with('0')).count();
    assert!(closed >= 2, "{:?}", names(&disk));
    assert!((1..=2).contains(&open_names(&disk)));
    for name in names(&disk).iter().filter(|name| name.starts_with('0')) {
        assert!(size(&disk, name).unwrap() <= 16 * KIB);
    }
    let crashed = disk.crash();
    let (_, loaded) = open(&crashed);
    check_log(&loaded, 1, 60, 1);
    assert_eq!(open_names(&crashed), 0);
}

#[test]
fn one_call_may_fill_several_segments_and_an_entry_may_be_larger_than_one() {
    let disk = MemoryDisk::new(1);
    let mut store = fresh(&disk);
    let mut big = step(101, 102, 1);
    big.entries[0].data = vec![9; 40_000].into();
    store.persist(&[step(1, 100, 1), big.clone(), step(103, 104, 1)]).unwrap();
    let read = store.read_entries(LogIndex(100), 10, u64::MAX).unwrap();
    let mut expected = entries(100, 104, 1);
    expected[1] = big.entries[0].clone();
    assert_eq!(read, expected);
    let (_, loaded) = open(&disk.crash());
    assert_eq!((loaded.entries.len(), &loaded.entries[100]), (104, &big.entries[0]));
}

#[test]
fn later_steps_replace_the_tail_of_earlier_ones() {
    let disk = MemoryDisk::new(1);
    let mut store = fresh(&disk);
    store.persist(&[step(1, 10, 1)]).unwrap();
    store.persist(&[step(11, 12, 1), step(13, 20, 1), step(15, 16, 2), step(17, 17, 2)]).unwrap();
    let expected = [entries(1, 14, 1), entries(15, 17, 2)].concat();
    assert_eq!(open(&disk.crash()).1.entries, expected);
    store.persist(&[step(18, 19, 2), step(5, 6, 3), step(7, 8, 3)]).unwrap();
    let expected = [entries(1, 4, 1), entries(5, 8, 3)].concat();
    assert_eq!(open(&disk.crash()).1.entries, expected);
    assert_eq!(store.read_entries(LogIndex(3), 100, u64::MAX).unwrap(), expected[2..]);
    assert!(names(&disk).contains(&"0000000000000001-0000000000000004".to_owned()));
    assert!(matches!(store.persist(&[step(10, 10, 3)]).unwrap_err(), DiskError::Invalid(_)));
    assert!(matches!(store.persist(&[step(9, 9, 3), step(11, 11, 3)]).unwrap_err(), DiskError::Invalid(_)));
    store.persist(&[step(9, 9, 3)]).unwrap();
    store.persist(&[step(1, 2, 4)]).unwrap();
    store.close().unwrap();
    check_log(&open(&disk).1, 1, 2, 4);
}

#[test]
fn truncation_at_the_start_of_a_segment_removes_it() {
    let disk = MemoryDisk::new(1);
    let mut store = fresh(&disk);
    store.persist(&[step(1, 5, 1)]).unwrap();
    store.close().unwrap();
    let (mut store, _) = open(&disk);
    store.persist(&[step(6, 9, 1)]).unwrap();
    store.persist(&[step(6, 6, 2)]).unwrap();
    assert_eq!(names(&disk)[0], "0000000000000001-0000000000000005");
    assert!(!names(&disk).contains(&"0000000000000006-0000000000000009".to_owned()));
    assert_eq!(open(&disk.crash()).1.entries, [entries(1, 5, 1), entries(6, 6, 2)].concat());
}

#[test]
fn what_cannot_be_stored_is_refused_and_nothing_latches() {
    let disk = MemoryDisk::new(1);
    let mut store = fresh(&disk);
    let odd = |change: fn(&mut Entry)| {
        let mut odd = step(1, 1, 1);
        change(&mut odd.entries[0]);
        odd
    };
    for refused in [
        odd(|entry| entry.data = vec![1; 7].into()),
        odd(|entry| entry.term = Term(0)),
        step(0, 0, 1),
        step(2, 2, 1),
    ] {
        assert!(matches!(store.persist(&[refused]).unwrap_err(), DiskError::Invalid(_)));
    }
    store.persist(&[step(1, 1, 1)]).unwrap();
    assert!(matches!(store.snapshot_taken(&metadata(1, 1)).unwrap_err(), DiskError::NotFound(_)));
    store.persist(&[step(2, 2, 1)]).unwrap();
}

#[test]
fn entries_are_read_back_within_the_limits() {
    let disk = MemoryDisk::new(1);
    let mut store = fresh(&disk);
    for index in 1..=50 {
        store.persist(&[step(index, index, 1)]).unwrap();
    }
    let mut read = |first, count, bytes| store.read_entries(LogIndex(first), count, bytes).unwrap();
    assert_eq!(read(1, 1000, u64::MAX), entries(1, 50, 1));
    assert_eq!(read(50, 1000, u64::MAX), entries(50, 50, 1));
    assert_eq!(read(7, 10, u64::MAX), entries(7, 16, 1));
    assert_eq!(read(6, 10, 0), entries(6, 6, 1));
    let two = (entry(6, 1).data.len() + entry(7, 1).data.len()) as u64;
    assert_eq!(read(6, 10, two), entries(6, 7, 1));
    assert_eq!(read(6, 10, two - 1), entries(6, 6, 1));
    assert!(matches!(store.read_entries(LogIndex(51), 1, 1).unwrap_err(), DiskError::NotFound(_)));
    assert!(matches!(store.read_entries(LogIndex(0), 1, 1).unwrap_err(), DiskError::NotFound(_)));
}

#[test]
fn a_snapshot_ends_the_segment_and_trims_what_lies_behind_the_trailing_entries() {
    let disk = MemoryDisk::new(1);
    let mut store = fresh(&disk);
    for index in 1..=40 {
        store.persist(&[step(index, index, 1)]).unwrap();
        if index % 10 == 0 {
            write(&disk, index, 1).unwrap();
            store.snapshot_taken(&metadata(index, 1)).unwrap();
        }
    }
    assert_eq!(
        names_of_c(&disk).into_iter().filter(|name| !name.starts_with("open")).collect::<Vec<_>>(),
        [
            "0000000000000031-0000000000000040",
            "dqlite-lock",
            "metadata1",
            "snapshot-1-30-30",
            "snapshot-1-30-30.meta",
            "snapshot-1-40-40",
            "snapshot-1-40-40.meta"
        ]
    );
    assert_eq!(store.first_index(), LogIndex(31));
    assert_eq!(read_snapshot(&disk, &metadata(40, 1)).unwrap(), payload());
    store.persist(&[step(41, 42, 1)]).unwrap();
    let (_, loaded) = open(&disk.crash());
    assert_eq!(loaded.snapshot, Some(metadata(40, 1)));
    check_log(&loaded, 31, 42, 1);
    assert!(matches!(store.persist(&[step(40, 40, 2)]).unwrap_err(), DiskError::Invalid(_)));
}

#[test]
fn a_snapshot_that_was_not_published_leaves_nothing() {
    let disk = MemoryDisk::new(1);
    let mut store = fresh(&disk);
    store.persist(&[step(1, 9, 1)]).unwrap();
    write(&disk, 9, 1).unwrap();
    let crashed = disk.crash();
    let (_, loaded) = open(&crashed);
    assert_eq!(loaded.snapshot, None);
    assert!(names(&crashed).iter().all(|name| !name.contains("snapshot")));
}

#[test]
fn a_snapshot_ahead_of_the_log_is_refused_and_one_behind_a_newer_is_dropped() {
    let disk = MemoryDisk::new(1);
    let mut store = fresh(&disk);
    store.persist(&[step(1, 9, 1)]).unwrap();
    write(&disk, 10, 1).unwrap();
    assert!(matches!(store.snapshot_taken(&metadata(10, 1)).unwrap_err(), DiskError::Invalid(_)));
    store.persist(&[step(10, 10, 1)]).unwrap();
    store.snapshot_taken(&metadata(10, 1)).unwrap();
    write(&disk, 8, 1).unwrap();
    store.persist(&[installed(50, 2)]).unwrap();
    store.snapshot_taken(&metadata(8, 1)).unwrap();
    assert!(names(&disk).iter().all(|name| !name.contains("-8-")));
    assert_eq!(open(&disk.crash()).1.snapshot, Some(metadata(50, 2)));
}

#[test]
fn a_whole_preamble_of_zeros_stays_behind_the_last_batch() {
    let disk = MemoryDisk::new(1);
    let mut store = fresh(&disk);
    store.persist(&[step(1, 1, 1)]).unwrap();
    let used = 8 + 32 + entry(1, 1).data.len();
    for len in [16 * 1024 - used - 32, 16 * 1024 - used - 40, 16 * 1024 - 40, 40_000 - 24] {
        let mut filling = step(2, 2, 1);
        filling.entries[0].data = vec![1; len].into();
        store.persist(&[filling.clone()]).unwrap();
        for name in names(&disk).into_iter().filter(|name| name.starts_with("open")) {
            let content = disk.content(&name).unwrap();
            assert_eq!(content[content.len() - 16..], [0; 16], "{len} {name}");
        }
        assert_eq!(open(&disk.crash()).1.entries[1], filling.entries[0]);
    }
}

#[test]
fn a_received_snapshot_replaces_the_log() {
    let disk = MemoryDisk::new(1);
    let mut store = fresh(&disk);
    store.persist(&[step(1, 30, 1)]).unwrap();
    let behind = with_state(step(101, 103, 5), 16, Some(2));
    store.persist(&[step(31, 31, 1), installed(100, 5), behind]).unwrap();
    assert_eq!(store.first_index(), LogIndex(101));
    for seed in 0..20 {
        let (_, loaded) = open(&disk.crash_with(seed));
        assert_eq!(loaded.snapshot, Some(metadata(100, 5)));
        assert_eq!(loaded.hard_state.term, Term(16));
        check_log(&loaded, 101, 103, 5);
    }
    // A second one, into an empty log, and the same once more.
    store.persist(&[installed(200, 6)]).unwrap();
    let before = disk.operations();
    store.persist(&[installed(200, 6)]).unwrap();
    assert_eq!(disk.operations(), before);
    store.close().unwrap();
    let (_, loaded) = open(&disk);
    assert_eq!((loaded.first_index, loaded.entries.len()), (LogIndex(201), 0));
    assert_eq!(read_snapshot(&disk, &metadata(200, 6)).unwrap(), payload());
}

#[test]
fn a_failed_write_or_sync_latches() {
    for fault in [Fault::Write(1), Fault::Sync(1)] {
        let disk = MemoryDisk::new(1);
        let mut store = fresh(&disk);
        store.persist(&[step(1, 5, 1)]).unwrap();
        disk.inject(fault);
        assert!(matches!(store.persist(&[step(6, 6, 1)]).unwrap_err(), DiskError::Io { .. }));
        assert!(matches!(store.persist(&[step(6, 6, 1)]).unwrap_err(), DiskError::Latched(_)));
        assert!(matches!(store.snapshot_taken(&metadata(5, 1)).unwrap_err(), DiskError::Latched(_)));
        assert_eq!(store.read_entries(LogIndex(1), 10, u64::MAX).unwrap(), entries(1, 5, 1));
        assert!(matches!(store.close().unwrap_err(), DiskError::Latched(_)));
        let (_, loaded) = open(&disk.crash());
        assert!((5..=6).contains(&loaded.entries.len()));
    }
}

#[test]
fn a_full_disk_refuses_before_it_changes_anything_and_goes_on_when_there_is_space() {
    let disk = MemoryDisk::new(1);
    let mut store = fresh(&disk);
    store.persist(&[step(1, 5, 1)]).unwrap();
    disk.set_capacity(Some(disk.used()));
    let mut last = 5;
    let mut refused = 0;
    let full = loop {
        let next = step(last + 1, last + 1, 1);
        match store.persist(std::slice::from_ref(&next)) {
            Ok(()) => last += 1,
            Err(error) => break (error, next),
        }
    };
    assert!(full.0.is_no_space(), "{}", full.0);
    assert!(last > 10);
    for _ in 0..3 {
        let all = [full.1.clone(), step(last + 2, last + 60, 1)];
        assert!(store.persist(&all).unwrap_err().is_no_space());
        refused += 1;
        check_log(&open(&disk.crash_with(refused)).1, 1, last, 1);
    }
    disk.set_capacity(None);
    store.persist(&[full.1, step(last + 2, last + 60, 1)]).unwrap();
    check_log(&open(&disk.crash()).1, 1, last + 60, 1);
}

#[test]
fn lack_of_space_is_seen_while_two_segments_are_left() {
    let disk = MemoryDisk::new(1);
    let mut store = fresh(&disk);
    store.persist(&[step(1, 1, 1)]).unwrap();
    assert_eq!(store.tend(), Space::Ample);
    let open_segments = || names(&disk).into_iter().filter(|name| name.starts_with("open-")).count();
    assert_eq!(open_segments(), 3);
    disk.set_capacity(Some(disk.used()));
    let mut last = 1;
    while store.tend() == Space::Ample {
        store.persist(&[step(last + 1, last + 1, 1)]).unwrap();
        last += 1;
    }
    // More than a whole segment still fits, byte for byte.
    let mut rest = step(last + 1, last + 1, 1);
    rest.entries[0].data = vec![1; 16 * 1024 - 80].into();
    store.persist(std::slice::from_ref(&rest)).unwrap();
    assert_eq!(store.tend(), Space::Low);
    assert_eq!(open(&disk.crash()).1.entries.last(), rest.entries.last());

    disk.set_capacity(None);
    assert_eq!(store.tend(), Space::Ample);
    assert_eq!(open_segments(), 3);
    let operations = disk.operations();
    assert_eq!(store.tend(), Space::Ample);
    assert_eq!(disk.operations(), operations, "there is nothing to do");
}

#[test]
fn what_must_be_written_fits_where_no_whole_segment_does() {
    let disk = MemoryDisk::new(1);
    let mut store = fresh(&disk);
    disk.set_capacity(Some(disk.used() + 5000));
    assert_eq!(store.tend(), Space::Low);
    store.persist(&[step(1, 3, 1)]).unwrap();
    check_log(&open(&disk.crash()).1, 1, 3, 1);
    // The small segment grows as long as it can, and goes on as any other when there is space again.
    disk.set_capacity(Some(disk.used() + 4096));
    store.persist(&[step(4, 12, 1)]).unwrap();
    let more = step(13, 30, 1);
    assert!(store.persist(std::slice::from_ref(&more)).unwrap_err().is_no_space());
    check_log(&open(&disk.crash()).1, 1, 12, 1);
    disk.set_capacity(None);
    store.persist(&[more]).unwrap();
    for seed in 0..20 {
        check_log(&open(&disk.crash_with(seed)).1, 1, 30, 1);
    }
}

#[test]
fn a_snapshot_without_space_takes_the_place_of_the_oldest() {
    let disk = MemoryDisk::new(1);
    let mut store = fresh(&disk);
    store.persist(&[step(1, 40, 1)]).unwrap();
    for index in [10, 20] {
        write(&disk, index, 1).unwrap();
        store.snapshot_taken(&metadata(index, 1)).unwrap();
    }
    disk.set_capacity(Some(disk.used() + 100));
    assert!(write(&disk, 30, 1).unwrap_err().is_no_space());
    assert!(!names_of_c(&disk).iter().any(|name| name.starts_with("tmp-")));
    assert!(give_up_older_snapshots(&disk).unwrap());
    assert!(!give_up_older_snapshots(&disk).unwrap(), "the newest stays");
    assert_eq!(open(&disk.crash()).1.snapshot, Some(metadata(20, 1)));
    write(&disk, 30, 1).unwrap();
    store.snapshot_taken(&metadata(30, 1)).unwrap();
    assert_eq!(open(&disk.crash()).1.snapshot, Some(metadata(30, 1)));

    // The same for a received one.
    disk.set_capacity(Some(disk.used() + 100));
    store.persist(&[installed(500, 2)]).unwrap();
    assert_eq!(open(&disk.crash()).1.snapshot, Some(metadata(500, 2)));
}

#[test]
fn a_received_snapshot_that_finds_no_space_changes_nothing() {
    let disk = MemoryDisk::new(1);
    let mut store = fresh(&disk);
    store.persist(&[step(1, 5, 1)]).unwrap();
    store.close().unwrap();
    let (mut store, _) = open(&disk);
    let steps = [installed(500, 2), step(501, 501, 2)];
    for more in [0, 50, 100] {
        disk.set_capacity(Some(disk.used() + more));
        assert!(store.persist(&steps).unwrap_err().is_no_space());
        check_log(&open(&disk.crash()).1, 1, 5, 1);
    }
    // Enough for the snapshot, not for a segment.
    disk.set_capacity(Some(disk.used() + 1000));
    assert!(store.persist(&steps).unwrap_err().is_no_space());
    check_log(&open(&disk.crash()).1, 501, 500, 1);
    disk.set_capacity(None);
    store.persist(&steps).unwrap();
    check_log(&open(&disk.crash()).1, 501, 501, 2);
}
