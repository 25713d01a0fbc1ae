//! Bootstrap, recover and describe on directories in good order.

use raft_glue::disk::{
    Disk, DiskError, Fault, LoadError, LogOptions, LogStore, MemoryDisk, bootstrap, describe_last_entry,
    inspect, recover,
};
use raft_glue::{Configuration, EntryKind, HardState, LogIndex, NodeId, Role, Server, Term};

use crate::damage::contents;
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
            "backup-1-configuration",
            "backup-1-metadata1",
            "backup-1-open-1",
            "backup-1-tmp-log-manifest",
            "backup-2-configuration",
            "backup-2-metadata1",
            "backup-2-tmp-log-manifest",
            "dqlite-lock",
            "metadata1",
            "tmp-log-manifest"
        ]
    );
    let servers = |name: &str| String::from_utf8(disk.content(name).unwrap()).unwrap();
    assert_eq!(servers("backup-1-configuration"), "1 a:1 Voter\n2 a:2 Voter\n3 a:3 Voter\n");
    assert_eq!(servers("backup-2-configuration"), "1 a:1 Voter\n");
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

/// A stranger's heartbeat could raise the term of a node so far that nobody would ever follow it again.
#[test]
fn recover_lowers_only_a_term_without_headroom_and_never_to_one_of_the_log() {
    let recovered = |term: u64, last_term: u64| {
        let disk = MemoryDisk::new(0);
        let mut store = fresh(&disk);
        store.persist(&[with_state(step(1, 4, last_term), term, Some(2))]).unwrap();
        drop(store);
        recover(&disk, &configuration(1)).unwrap();
        let (_, loaded) = open(&disk);
        assert_eq!(loaded.entries.last().unwrap().term, Term(last_term), "the log stays as it is");
        loaded.hard_state
    };
    let headroom = 1 << 32;
    for term in [20, 20 + headroom] {
        let kept = HardState { term: Term(term), vote: Some(NodeId(2)) };
        assert_eq!(recovered(term, 20), kept, "there is room");
    }
    for term in [21 + headroom, 1 << 62, 1 << 63] {
        let HardState { term: lowered, vote } = recovered(term, 20);
        assert_eq!(vote, None);
        assert!((21..=20 + headroom).contains(&lowered.0), "{term}: {lowered}");
    }
    assert_eq!(recovered(1 << 62, 1 << 62).term, Term(1 << 62), "entries of that term exist");
}

/// A directory with all that a recovery may have to deal with: open segments, a torn tail, damage that costs nothing, a
/// note to wait, metadata that does not decode.
fn eventful() -> MemoryDisk {
    let disk = MemoryDisk::new(0);
    let mut store = fresh(&disk);
    store.persist(&[step(1, 6, 3)]).unwrap();
    write(&disk, 4, 3).unwrap();
    store.snapshot_taken(&metadata(4, 3)).unwrap();
    store.persist(&[with_state(step(7, 9, 3), 10, Some(2))]).unwrap();
    store.persist(&[step(10, 12, 3)]).unwrap();
    drop(store);
    let closed = "0000000000000001-0000000000000006";
    let mut content = disk.content(closed).unwrap();
    content.extend([7; 64]);
    disk.put(closed, &content);
    let mut content = disk.content("open-2").unwrap();
    let torn = content.iter().rposition(|byte| *byte != 0).unwrap() / 512 * 512;
    content[torn..].fill(0);
    disk.put("open-2", &content);
    disk.put("metadata1", &[9; 32]);
    disk.put("catch-up-needed", b"77\n");
    disk.put("notes", b"mine");
    disk
}

fn copy(disk: &MemoryDisk) -> MemoryDisk {
    let copy = MemoryDisk::new(0);
    contents(disk).iter().for_each(|(name, content)| copy.put(name, content));
    copy
}

#[test]
fn recover_can_be_undone_with_the_copies_it_keeps() {
    let before = eventful();
    let disk = copy(&before);
    recover(&disk, &configuration(1)).unwrap();
    let (_, loaded) = open(&copy(&disk));
    assert_eq!(Configuration::decode(&loaded.entries.last().unwrap().data).unwrap(), configuration(1));
    assert_eq!(loaded.no_vote_until, None);

    // As the documentation says.
    let added = names(&disk).into_iter().rfind(|name| name.starts_with('0')).unwrap();
    disk.unlink(&added).unwrap();
    for name in names(&disk) {
        if let Some(old) = name.strip_prefix("backup-1-").filter(|old| *old != "configuration") {
            disk.rename(&name, old).unwrap();
        }
    }
    // The open segment is there again, beside its closed form.
    let closed = names(&disk).into_iter().rfind(|name| name.starts_with('0')).unwrap();
    disk.unlink(&closed).unwrap();
    for (name, content) in contents(&before) {
        let is_cut = name.starts_with('0');
        assert!(is_cut || disk.content(&name).as_ref() == Some(&content), "{name}");
    }
    let (index, term) = describe_last_entry(&before).unwrap();
    assert_eq!(describe_last_entry(&disk).unwrap(), (index, term));
}

#[test]
fn a_failed_recover_leaves_the_directory_unlocked_and_unchanged() {
    let is_unlocked = |disk: &MemoryDisk| disk.lock("dqlite-lock").unwrap().is_some();
    let before = eventful();
    before.put("dqlite-lock", b"");
    let unchanged = |disk: &MemoryDisk, context: &str| {
        assert!(is_unlocked(disk), "{context}");
        assert!(contents(disk) == contents(&before), "{context}: {:?}", names(disk));
    };

    // For lack of space, wherever it ends.
    let mut failures = 0;
    for more in (0..).step_by(509) {
        let disk = copy(&before);
        disk.set_capacity(Some(disk.used() + more));
        let Err(error) = recover(&disk, &configuration(1)) else { break };
        assert!(matches!(&error, LoadError::Disk(error) if error.is_no_space()), "{error}");
        unchanged(&disk, &format!("{more} bytes"));
        failures += 1;
    }
    assert!(failures > 100, "{failures}");

    // Damaged entries, and arguments that make no sense.
    let damaged = copy(&before);
    let mut content = damaged.content("open-2").unwrap();
    content[30] ^= 1;
    damaged.put("open-2", &content);
    let as_damaged = contents(&damaged);
    assert!(matches!(recover(&damaged, &configuration(1)).unwrap_err(), LoadError::Damaged { .. }));
    assert!(is_unlocked(&damaged) && contents(&damaged) == as_damaged);
    let disk = copy(&before);
    recover(&disk, &Configuration::default()).unwrap_err();
    unchanged(&disk, "no servers");

    // A disk that fails at any operation: the log says what it said before, or what a start makes of that.
    let whole = copy(&before);
    recover(&whole, &configuration(1)).unwrap();
    let log_of = |disk: &MemoryDisk| inspect(disk, &mut || {}).unwrap().0.loaded;
    let expected = log_of(&before);
    let mut points = 0;
    for number in 1..=whole.operations() {
        let disk = copy(&before);
        disk.inject(Fault::Operation(number));
        if recover(&disk, &configuration(1)).is_ok() {
            continue;
        }
        disk.heal();
        assert!(is_unlocked(&disk), "operation {number}");
        assert!(!names(&disk).iter().any(|name| name.starts_with("backup-")), "operation {number}");
        let found = log_of(&disk);
        assert_eq!((&found.entries, &found.snapshot), (&expected.entries, &expected.snapshot));
        // The second attempt succeeds.
        recover(&disk, &configuration(1)).unwrap_or_else(|error| panic!("operation {number}: {error}"));
        assert_eq!(open(&disk).1.entries.len(), expected.entries.len() + 1);
        points += 1;
    }
    assert!(points > 30, "{points}");
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
