//! Bootstrap, recover and describe on directories in good order.

use raft_glue::disk::{
    Disk, DiskError, LoadError, LogOptions, LogStore, MemoryDisk, bootstrap, describe_last_entry, recover,
};
use raft_glue::{Configuration, EntryKind, HardState, LogIndex, NodeId, Role, Server, Term};

use crate::fixture::*;

#[test]
fn bootstrap_writes_the_bytes_that_c_writes() {
    let disk = MemoryDisk::new(0);
    let server = Server { id: NodeId(1), address: "127.0.0.1:9001".to_owned(), role: Role::Voter };
    bootstrap(&disk, &Configuration { servers: vec![server] }).unwrap();
    assert_eq!(names(&disk), ["0000000000000001-0000000000000001", "dqlite-lock", "metadata1"]);
    let words = |words: [u64; 4]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    assert_eq!(disk.content("metadata1").unwrap(), words([1, 1, 1, 0]));
    let segment = disk.content("0000000000000001-0000000000000001").unwrap();
    assert_eq!(segment.len(), 80);
    let head = [
        1, 0, 0, 0, 0, 0, 0, 0, 0x2d, 0x99, 0xf9, 0x86, 0xa3, 0x26, 0x92, 0x99, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0,
        0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0x28, 0, 0, 0, 1, 1,
    ];
    assert_eq!(segment[..42], head);
    assert_eq!(&segment[57..71], b"127.0.0.1:9001");
}

#[test]
fn bootstrap_happens_once_and_only_in_an_empty_directory() {
    let disk = MemoryDisk::new(0);
    bootstrap(&disk, &configuration(1)).unwrap();
    let operations = disk.operations();
    bootstrap(&disk, &configuration(2)).unwrap();
    assert_eq!(disk.operations(), operations);
    let (store, loaded) = open(&disk);
    assert_eq!(loaded.hard_state, HardState { term: Term(1), vote: None });
    assert_eq!(Configuration::decode(&loaded.entries[0].data).unwrap(), configuration(1));
    assert!(matches!(bootstrap(&disk, &configuration(1)).unwrap_err(), DiskError::Locked));
    drop(store);

    // A follower that heard of a term but got no entry yet is no new cluster.
    let disk = MemoryDisk::new(0);
    drop(fresh(&disk));
    bootstrap(&disk, &configuration(1)).unwrap();
    assert!(open(&disk).1.entries.is_empty());
}

#[test]
fn recover_appends_the_configuration() {
    let disk = MemoryDisk::new(0);
    let mut store = fresh(&disk);
    store.persist(&[step(1, 4, 3)]).unwrap();
    assert!(matches!(recover(&disk, &configuration(1)).unwrap_err(), LoadError::Disk(DiskError::Locked)));
    drop(store);
    recover(&disk, &configuration(1)).unwrap();
    recover(&disk, &configuration(2)).unwrap();
    assert_eq!(
        names(&disk),
        [
            "0000000000000001-0000000000000004",
            "0000000000000005-0000000000000005",
            "0000000000000006-0000000000000006",
            "dqlite-lock",
            "metadata1"
        ]
    );
    let (_, loaded) = open(&disk);
    let last = loaded.entries.last().unwrap();
    assert_eq!((last.term, last.kind), (Term(3), EntryKind::Configuration));
    assert_eq!(Configuration::decode(&last.data).unwrap(), configuration(2));
    assert_eq!(loaded.hard_state.term, Term(9));
    assert!(matches!(
        recover(&disk, &Configuration::default()).unwrap_err(),
        LoadError::Disk(DiskError::Invalid(_))
    ));
}

#[test]
fn recover_makes_an_empty_directory_startable() {
    let disk = MemoryDisk::new(0);
    recover(&disk, &configuration(3)).unwrap();
    let (_, loaded) = open(&disk);
    assert_eq!((loaded.hard_state.term, loaded.entries.len()), (Term(1), 1));
    assert_eq!(loaded.first_index, LogIndex(1));
}

#[test]
fn recover_behind_a_snapshot() {
    let disk = MemoryDisk::new(0);
    let mut store = fresh(&disk);
    store.persist(&[installed(100, 5)]).unwrap();
    store.close().unwrap();
    recover(&disk, &configuration(1)).unwrap();
    assert!(names(&disk).contains(&"0000000000000101-0000000000000101".to_owned()));
    assert_eq!(describe_last_entry(&disk).unwrap(), (LogIndex(101), Term(5)));
}

#[test]
fn describe_changes_nothing_and_needs_no_lock() {
    let disk = MemoryDisk::new(0);
    assert_eq!(describe_last_entry(&disk).unwrap(), (LogIndex(0), Term(0)));
    assert!(disk.list().unwrap().is_empty());
    let mut store = fresh(&disk);
    store.persist(&[installed(100, 5)]).unwrap();
    assert_eq!(describe_last_entry(&disk).unwrap(), (LogIndex(100), Term(5)));
    store.persist(&[step(101, 103, 6)]).unwrap();
    let operations = disk.operations();
    assert_eq!(describe_last_entry(&disk).unwrap(), (LogIndex(103), Term(6)));
    assert_eq!(disk.operations(), operations);
    store.persist(&[step(104, 104, 6)]).unwrap();
}

#[test]
fn a_raw_snapshot_is_written_on_demand_and_read_with_any_setting() {
    let disk = MemoryDisk::new(0);
    let raw = LogOptions { compression: false, ..options() };
    let (mut store, _) = LogStore::open(disk.clone(), raw).unwrap();
    store.persist(&[with_state(installed(100, 5), 9, None)]).unwrap();
    store.close().unwrap();
    assert_eq!(disk.content("snapshot-5-100-1").unwrap(), payload());
    assert_eq!(open(&disk).1.snapshot, Some(metadata(100, 5)));
}
