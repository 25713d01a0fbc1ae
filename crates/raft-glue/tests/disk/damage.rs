//! Damaged directories: what is cut, what is moved aside, what is refused.

use std::collections::BTreeMap;

use raft_glue::disk::{
    Disk, Fault, LoadError, LogOptions, LogStore, MemoryDisk, bootstrap, describe_last_entry, read_snapshot,
    recover,
};
use raft_glue::{EntryKind, Loaded, LogIndex, Term};

use crate::archive::{description, disk, unpack};
use crate::fixture::*;

/// What becomes of a case with one voter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// Starts; the next index and the term.
    Starts(u64, u64),
    /// Refuses and names this file.
    Refuses(&'static str),
}
use Outcome::{Refuses, Starts};

const LAST_CLOSED: &str = "0000000000000002-0000000000000007";
const META: &str = "snapshot-1-32-2851225.meta";
const DATA: &str = "snapshot-1-32-2851225";

/// Case, outcome with auto-recovery, outcome without. Nothing is lost up to index 13 (log) and 33 (snapshots).
const CASES: [(&str, Outcome, Outcome); 66] = [
    ("bootstrap-crash", Starts(1, 1), Starts(1, 1)),
    ("closed-entry-type-4", Refuses(LAST_CLOSED), Refuses(LAST_CLOSED)),
    (
        "closed-first-data-crc",
        Refuses("0000000000000001-0000000000000001"),
        Refuses("0000000000000001-0000000000000001"),
    ),
    ("closed-first-missing", Refuses(LAST_CLOSED), Refuses(LAST_CLOSED)),
    ("closed-last-4bytes", Refuses(LAST_CLOSED), Refuses(LAST_CLOSED)),
    ("closed-last-count-huge", Refuses(LAST_CLOSED), Refuses(LAST_CLOSED)),
    ("closed-last-cut", Refuses(LAST_CLOSED), Refuses(LAST_CLOSED)),
    ("closed-last-data-crc", Refuses(LAST_CLOSED), Refuses(LAST_CLOSED)),
    ("closed-last-empty", Refuses(LAST_CLOSED), Refuses(LAST_CLOSED)),
    ("closed-last-format2", Refuses(LAST_CLOSED), Refuses(LAST_CLOSED)),
    ("closed-last-garbage-tail", Starts(14, 1), Refuses(LAST_CLOSED)),
    ("closed-last-header-crc", Refuses(LAST_CLOSED), Refuses(LAST_CLOSED)),
    (
        "closed-last-wrong-end",
        Refuses("0000000000000002-0000000000000008"),
        Refuses("0000000000000002-0000000000000008"),
    ),
    ("closed-last-zero-tail", Starts(14, 1), Refuses(LAST_CLOSED)),
    ("closed-last-zero-tail8", Starts(14, 1), Refuses(LAST_CLOSED)),
    ("closed-overlap", Starts(14, 1), Starts(14, 1)),
    ("closed-term-above-metadata", Starts(8, 10), Starts(8, 10)),
    ("closed-unpadded-name", Starts(14, 1), Starts(14, 1)),
    ("command-format-2", Starts(14, 1), Starts(14, 1)),
    ("command-not-commit", Starts(14, 1), Starts(14, 1)),
    ("junk-files", Starts(14, 1), Starts(14, 1)),
    ("log-ok", Starts(14, 1), Starts(14, 1)),
    ("meta-format2", Starts(14, 2), Refuses("metadata1")),
    ("meta-long", Starts(14, 2), Refuses("metadata1")),
    ("meta-missing", Starts(14, 2), Refuses("metadata1, metadata2")),
    ("meta-same-version", Starts(14, 1), Starts(14, 1)),
    ("meta-short-only", Starts(14, 2), Refuses("metadata1, metadata2")),
    ("meta-short-other-ok", Starts(14, 1), Starts(14, 1)),
    ("meta-version0", Starts(14, 2), Refuses("metadata1")),
    ("meta-wrong-parity", Starts(14, 5), Starts(14, 5)),
    ("meta-zeros-other-ok", Starts(14, 1), Starts(14, 1)),
    ("open-4bytes", Refuses("open-1"), Refuses("open-1")),
    ("open-8bytes", Refuses("open-1"), Refuses("open-1")),
    ("open-cut-first-batch", Refuses("open-1"), Refuses("open-1")),
    ("open-cut-second-batch", Refuses("open-1"), Refuses("open-1")),
    ("open-empty", Starts(8, 1), Starts(8, 1)),
    ("open-ends-8-after-data", Starts(14, 1), Starts(14, 1)),
    ("open-ends-at-data", Starts(14, 1), Starts(14, 1)),
    ("open-first-batch-bad", Refuses("open-1"), Refuses("open-1")),
    ("open-format0-data", Refuses("open-1"), Refuses("open-1")),
    ("open-format9", Refuses("open-1"), Refuses("open-1")),
    ("open-gap-in-counter", Starts(14, 1), Starts(14, 1)),
    ("open-mid-batch-bad", Refuses("open-1"), Refuses("open-1")),
    ("open-second-garbage", Refuses("open-9"), Refuses("open-9")),
    ("open-torn-last", Starts(13, 1), Starts(13, 1)),
    ("open-zeroed", Starts(8, 1), Starts(8, 1)),
    (
        "snap-gap-after",
        Refuses("0000000000000034-0000000000000034"),
        Refuses("0000000000000034-0000000000000034"),
    ),
    ("snap-lz4-5bytes", Starts(34, 1), Refuses(DATA)),
    ("snap-lz4-bad-checksum", Starts(34, 1), Refuses(DATA)),
    ("snap-lz4-cut", Starts(34, 1), Refuses(DATA)),
    ("snap-lz4-no-checksum", Starts(34, 1), Starts(34, 1)),
    ("snap-lz4-no-endmark", Starts(34, 1), Starts(34, 1)),
    ("snap-lz4-trailing", Starts(34, 1), Starts(34, 1)),
    ("snap-meta-conf-len0", Starts(34, 1), Refuses(META)),
    ("snap-meta-crc", Starts(34, 1), Refuses(META)),
    ("snap-meta-format2", Starts(34, 1), Refuses(META)),
    ("snap-meta-short", Starts(34, 1), Refuses(META)),
    ("snap-meta-trailing", Starts(34, 1), Starts(34, 1)),
    ("snap-newer-than-log", Refuses("open-2"), Refuses("open-2")),
    ("snap-newest-data-missing", Starts(34, 1), Starts(34, 1)),
    ("snap-newest-empty", Starts(34, 1), Starts(34, 1)),
    ("snap-newest-meta-missing", Starts(34, 1), Starts(34, 1)),
    ("snap-ok", Starts(34, 1), Starts(34, 1)),
    ("snap-old-noncontiguous", Starts(34, 1), Starts(34, 1)),
    ("snap-only", Starts(33, 1), Starts(33, 1)),
    ("snap-raw-compression-on", Starts(34, 1), Starts(34, 1)),
];

fn contents(disk: &MemoryDisk) -> BTreeMap<String, Vec<u8>> {
    disk.names().into_iter().map(|name| (name.clone(), disk.content(&name).unwrap())).collect()
}

fn open_with(disk: &MemoryDisk, auto_recovery: bool) -> Result<(LogStore<MemoryDisk>, Loaded), LoadError> {
    LogStore::open(disk.clone(), LogOptions { auto_recovery, ..LogOptions::default() })
}

fn damaged_file(error: &LoadError) -> &str {
    match error {
        LoadError::Damaged { file, .. }
        | LoadError::Metadata { file, .. }
        | LoadError::Snapshot { file, .. } => file,
        other => panic!("{other}"),
    }
}

#[test]
fn every_damaged_directory_of_c_is_decided_as_listed() {
    let directories = unpack("damage");
    let cases = description("damage");
    let listed: Vec<&str> = CASES.iter().map(|(name, ..)| *name).collect();
    assert_eq!(cases["cases"].as_object().unwrap().keys().collect::<Vec<_>>().len(), listed.len());
    for (name, with, without) in CASES {
        for (auto_recovery, expected) in [(true, with), (false, without)] {
            check_case(name, &disk(&directories[name]), auto_recovery, expected);
        }
    }
}

fn check_case(name: &str, disk: &MemoryDisk, auto_recovery: bool, expected: Outcome) {
    let before = contents(disk);
    match (open_with(disk, auto_recovery), expected) {
        (Ok((store, loaded)), Starts(next, term)) => {
            let found = loaded.first_index.0 + loaded.entries.len() as u64;
            assert_eq!((found, loaded.hard_state.term), (next, Term(term)), "{name}");
            assert_eq!(loaded.no_vote_until, None, "{name}");
            if let Some(snapshot) = &loaded.snapshot {
                assert!(!read_snapshot(disk, snapshot).unwrap().is_empty());
            }
            store.close().unwrap();
            // What was moved aside is there, unchanged.
            for (file, content) in contents(disk) {
                if let Some(old) = file.strip_prefix("corrupt-").and_then(|rest| rest.split_once('-')) {
                    let original = before.get(old.1).or_else(|| before.get(&file));
                    assert_eq!(original, Some(&content), "{name}: {file}");
                }
            }
            // The second start finds nothing to repair any more, with any setting.
            let (_, again) = open_with(disk, false).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(again.entries, loaded.entries, "{name}");
            assert_eq!(again.snapshot, loaded.snapshot, "{name}");
            assert_eq!(again.hard_state, loaded.hard_state, "{name}");
        }
        (Err(error), Refuses(file)) => {
            assert_eq!(damaged_file(&error), file, "{name}: {error}");
            assert!(error.to_string().contains(file.split(',').next().unwrap()), "{name}: {error}");
            let mut after = contents(disk);
            after.entry("dqlite-lock".to_owned()).or_default();
            let mut before = before;
            before.entry("dqlite-lock".to_owned()).or_default();
            assert!(after == before, "{name}: {:?}", after.keys());
            assert!(disk.lock("dqlite-lock").unwrap().is_some(), "{name}");
        }
        (Ok(_), Refuses(_)) => panic!("{name}: started"),
        (Err(error), Starts(..)) => panic!("{name}: {error}"),
    }
}

/// The same directories, with a first entry that says that there are three voters.
#[test]
fn damaged_members_of_a_cluster_wait_for_what_they_lost() {
    let first = "0000000000000001-0000000000000001";
    let bootstrapped = MemoryDisk::new(0);
    bootstrap(&bootstrapped, &configuration(3)).unwrap();
    let directories = unpack("damage");
    let mut waiting = 0;
    for (name, alone, _) in CASES {
        let disk = disk(&directories[name]);
        if disk.content(first).is_none() || name == "closed-first-data-crc" {
            continue;
        }
        disk.put(first, &bootstrapped.content(first).unwrap());
        let before = contents(&disk);
        let result = open_with(&disk, true);
        let loses_votes = name.starts_with("meta-") && matches!(alone, Starts(_, 2));
        match (result, alone) {
            (Err(error), _) => {
                assert!(loses_votes, "{name}: {error}");
                assert!(matches!(error, LoadError::Metadata { .. }), "{name}: {error}");
            }
            (Ok((_, loaded)), Starts(next, _)) => {
                assert!(!loses_votes, "{name}");
                assert_eq!((loaded.no_vote_until, loaded.entries.len() as u64), (None, next - 1), "{name}");
            }
            (Ok((_, loaded)), Refuses(file)) => {
                assert!(loaded.no_vote_until.is_some_and(|until| until >= LogIndex(13)), "{name}");
                assert!(!loaded.entries.is_empty());
                let aside = disk
                    .names()
                    .into_iter()
                    .find(|aside| aside.starts_with("corrupt-") && aside.ends_with(file));
                assert_eq!(disk.content(&aside.unwrap()).as_ref(), before.get(file), "{name}");
                waiting += 1;
            }
        }
    }
    assert!(waiting >= 15, "{waiting}");
}

#[test]
fn the_readme_lists_every_case() {
    let readme = include_str!("../../src/disk/README.md");
    for (name, with, without) in CASES {
        let row = readme
            .lines()
            .find(|line| line.starts_with(&format!("| `{name}` |")))
            .unwrap_or_else(|| panic!("{name}"));
        let alone = row.split(" | ").nth(3).unwrap();
        let (on, off) = alone.split_once(" / ").unwrap_or((alone, alone));
        for (outcome, text) in [(with, on), (without, off)] {
            let refuses = matches!(outcome, Refuses(_));
            assert_eq!(text.starts_with("refuses"), refuses, "{name}: {text}");
        }
    }
}

#[test]
fn refusals_say_what_c_says_and_what_to_do() {
    let directories = unpack("damage");
    let cases = description("damage");
    let mut same = 0;
    for (name, _, without) in CASES {
        let outcome = &cases["cases"][name]["outcome"];
        let by_c = outcome.get("off").or_else(|| outcome.get("both")).unwrap();
        let text = by_c["start_errmsg"].as_str().or_else(|| by_c["create_errmsg"].as_str());
        let Some(text) = text.and_then(|text| text.split_once("io: ")).map(|(_, text)| text) else {
            continue;
        };
        // C shows a stale text in these.
        if matches!(without, Starts(..)) || text.ends_with("metadata contains term 1") {
            continue;
        }
        let error = open_with(&disk(&directories[name]), false).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{text}; ")), "{name}: {error}");
        same += 1;
    }
    assert!(same >= 25, "{same}");
}

/// The log of a cluster's member: two closed segments and an open one, entries 1 to 30, all acknowledged.
fn member() -> MemoryDisk {
    let disk = MemoryDisk::new(0);
    let mut store = fresh(&disk);
    store.persist(&[step(1, 5, 1)]).unwrap();
    store.persist(&[step(6, 10, 1)]).unwrap();
    store.close().unwrap();
    let (mut store, _) = open(&disk);
    store.persist(&[step(11, 15, 1)]).unwrap();
    store.persist(&[step(16, 20, 1)]).unwrap();
    store.close().unwrap();
    let (mut store, _) = open(&disk);
    store.persist(&[step(21, 25, 1)]).unwrap();
    store.persist(&[step(26, 30, 1)]).unwrap();
    drop(store);
    disk.crash()
}

const FIRST: &str = "0000000000000001-0000000000000010";
const SECOND: &str = "0000000000000011-0000000000000020";

fn change(disk: &MemoryDisk, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let mut content = disk.content(name).unwrap();
    change(&mut content);
    disk.put(name, &content);
}

/// Offset of the second batch of a segment that holds the entries from `first` on.
fn second_batch(first: u64) -> usize {
    8 + 16 + (first..first + 5).map(|index| 16 + entry(index, 1).data.len()).sum::<usize>()
}

#[test]
fn a_member_of_a_cluster_keeps_the_front_and_waits_for_the_rest() {
    type Damage = fn(&MemoryDisk);
    let cases: [(&str, Damage, u64); 7] = [
        (
            "second batch of the first segment",
            |disk| change(disk, FIRST, |c| c[second_batch(1) + 60] ^= 1),
            6,
        ),
        ("first batch of the second segment", |disk| change(disk, SECOND, |c| c[100] ^= 1), 11),
        (
            "second batch of the second segment",
            |disk| change(disk, SECOND, |c| c[second_batch(11) + 60] ^= 1),
            16,
        ),
        ("cut second segment", |disk| change(disk, SECOND, |c| c.truncate(second_batch(11) + 100)), 16),
        ("missing second segment", |disk| disk.unlink(SECOND).unwrap(), 11),
        ("first batch of the open segment", |disk| change(disk, "open-1", |c| c[100] ^= 1), 21),
        (
            "second batch of the open segment",
            |disk| change(disk, "open-1", |c| c[second_batch(21) + 60] ^= 1),
            26,
        ),
    ];
    for (name, damage, lost_from) in cases {
        let disk = member();
        damage(&disk);
        // The missing segment shows only by the gap.
        if name.starts_with("missing") {
            let (mut store, _) = open(&member());
            store.persist(&[step(31, 31, 1)]).unwrap();
            disk.put("0000000000000021-0000000000000030", &segment(21, 30));
            disk.unlink("open-1").unwrap();
        }
        disk.sync_directory().unwrap();
        let before = contents(&disk);
        let context = |error| panic!("{name}: {error}");
        let refused =
            LogStore::open(disk.clone(), LogOptions { auto_recovery: false, ..options() }).unwrap_err();
        assert!(refused.to_string().contains("auto-recovery"), "{name}: {refused}");
        assert_eq!(contents(&disk), before, "{name}");

        let (mut store, loaded) = LogStore::open(disk.clone(), options()).unwrap_or_else(context);
        assert_eq!(loaded.entries, entries(1, lost_from - 1, 1), "{name}");
        let until = loaded.no_vote_until.unwrap();
        assert!(until >= LogIndex(30), "{name}: {until}");
        // Whatever was damaged, or follows it, is still there.
        let after = contents(&disk);
        for (file, content) in &before {
            let kept = after.iter().any(|(name, now)| name.ends_with(file.as_str()) && now == content);
            let is_front = file.as_str() < "0000000000000020" && lost_from > 20;
            assert!(kept || is_front || file.starts_with("meta"), "{name}: {file}");
        }
        // The leader sends the rest again; the node still remembers after a restart, until it has caught up.
        store.persist(&[step(lost_from, 40, 2)]).unwrap();
        store.committed(LogIndex(until.0 - 1)).unwrap();
        drop(store);
        let (mut store, loaded) = open(&disk.crash());
        assert_eq!(loaded.no_vote_until, Some(until), "{name}");
        assert_eq!(loaded.entries, [entries(1, lost_from - 1, 1), entries(lost_from, 40, 2)].concat());
        store.committed(until).unwrap();
        store.close().unwrap();
    }
}

/// A closed segment with two batches, as the store writes it.
fn segment(first: u64, last: u64) -> Vec<u8> {
    let disk = MemoryDisk::new(0);
    let mut store = fresh(&disk);
    store.persist(&[step(1, first - 1, 1)]).unwrap();
    store.close().unwrap();
    let (mut store, _) = open(&disk);
    store.persist(&[step(first, first + 4, 1)]).unwrap();
    store.persist(&[step(first + 5, last, 1)]).unwrap();
    store.close().unwrap();
    disk.content(&format!("{first:016}-{last:016}")).unwrap()
}

#[test]
fn a_member_that_caught_up_votes_again_and_stays_so() {
    let disk = member();
    change(&disk, SECOND, |content| content[100] ^= 1);
    let (mut store, loaded) = open(&disk);
    let until = loaded.no_vote_until.unwrap();
    store.persist(&[step(11, until.0, 1)]).unwrap();
    store.committed(until).unwrap();
    drop(store);
    assert_eq!(open(&disk.crash()).1.no_vote_until, None);

    // A snapshot from the leader that covers it all does the same.
    let disk = member();
    change(&disk, SECOND, |content| content[100] ^= 1);
    let (mut store, _) = open(&disk);
    store.persist(&[installed(until.0, 2)]).unwrap();
    drop(store);
    assert_eq!(open(&disk.crash()).1.no_vote_until, None);
}

#[test]
fn a_crash_during_the_repair_never_makes_the_loss_look_like_none() {
    for (file, offset) in [(FIRST, 3100), (SECOND, 100), (SECOND, 3500), ("open-1", 100), ("open-1", 3000)] {
        let damaged = member();
        let size = damaged.content(file).unwrap().len();
        assert!(offset < size);
        change(&damaged, file, |content| content[offset] ^= 1);
        damaged.sync_directory().unwrap();
        for stop in 0.. {
            let disk = damaged.crash_with(1);
            disk.inject(Fault::PowerOff(stop));
            let finished = LogStore::open(disk.clone(), options()).is_ok();
            for seed in 0..40 {
                let (_, loaded) = open(&disk.crash_with(seed));
                let found = loaded.entries.len() as u64;
                assert_eq!(loaded.entries, entries(1, found, 1), "{file} {offset} stop {stop} seed {seed}");
                assert!(
                    loaded.no_vote_until.is_some_and(|until| until >= LogIndex(30)),
                    "{file} {stop} {seed}"
                );
            }
            if finished {
                break;
            }
        }
    }
}

/// A member whose only snapshot, at 40, is damaged; the log goes on to 42.
fn member_with_damaged_snapshot() -> MemoryDisk {
    let disk = MemoryDisk::new(0);
    let mut store = fresh(&disk);
    store.persist(&[step(1, 40, 1)]).unwrap();
    write(&disk, 40, 1).unwrap();
    store.snapshot_taken(&metadata(40, 1)).unwrap();
    store.persist(&[step(41, 42, 1)]).unwrap();
    store.close().unwrap();
    change(&disk, "snapshot-1-40-40", |content| {
        let middle = content.len() / 2;
        content[middle] ^= 0xff;
    });
    disk.sync_directory().unwrap();
    disk
}

#[test]
fn a_damaged_snapshot_without_a_log_that_covers_it_is_a_loss() {
    let disk = member_with_damaged_snapshot();
    let refused = LogStore::open(disk.clone(), LogOptions { auto_recovery: false, ..options() }).unwrap_err();
    assert!(matches!(&refused, LoadError::Snapshot { file, .. } if file == "snapshot-1-40-40"), "{refused}");
    let (mut store, loaded) = open(&disk);
    assert_eq!((loaded.snapshot, loaded.entries, loaded.first_index), (None, Vec::new(), LogIndex(1)));
    assert!(loaded.no_vote_until.is_some_and(|until| until >= LogIndex(42)));
    assert_eq!(loaded.hard_state.term, Term(9));
    assert!(names(&disk).iter().filter(|name| name.starts_with("corrupt-")).count() >= 3);
    store.persist(&[installed(50, 2), step(51, 52, 2)]).unwrap();
    drop(store);
    let (_, loaded) = open(&disk.crash());
    check_log(&loaded, 51, 52, 2);
    assert_eq!(loaded.no_vote_until, None);
}

#[test]
fn a_crash_while_a_damaged_snapshot_is_moved_aside_is_no_obstacle() {
    let damaged = member_with_damaged_snapshot();
    for stop in 0.. {
        let disk = damaged.crash_with(1);
        disk.inject(Fault::PowerOff(stop));
        let finished = LogStore::open(disk.clone(), options()).is_ok();
        for seed in 0..40 {
            let (_, loaded) = open(&disk.crash_with(seed));
            assert_eq!((loaded.snapshot, loaded.entries.len()), (None, 0), "stop {stop} seed {seed}");
            assert!(
                loaded.no_vote_until.is_some_and(|until| until >= LogIndex(42)),
                "stop {stop} seed {seed}"
            );
        }
        if finished {
            break;
        }
    }
}

#[test]
fn lost_votes_of_a_cluster_member_are_never_guessed() {
    for damage in [
        |disk: &MemoryDisk| disk.unlink("metadata1").unwrap(),
        |disk: &MemoryDisk| disk.put("metadata1", &[7; 32]),
        |disk: &MemoryDisk| disk.put("metadata1", &[0; 32]),
        |disk: &MemoryDisk| disk.put("metadata1", &[0; 5]),
        |disk: &MemoryDisk| disk.put("metadata2", &[7; 32]),
    ] {
        let disk = member();
        damage(&disk);
        let before = contents(&disk);
        let error = LogStore::open(disk.clone(), options()).unwrap_err();
        assert!(matches!(error, LoadError::Metadata { .. }), "{error}");
        assert_eq!(contents(&disk), before);
        assert_eq!(describe_last_entry(&disk).unwrap(), (LogIndex(30), Term(1)));
    }
}

#[test]
fn a_stale_segment_before_the_snapshot_never_misplaces_an_open_one() {
    // What a crash of C can leave: closed segments that end before the snapshot, and entries behind it in an open one.
    let disk = MemoryDisk::new(0);
    let mut store = fresh(&disk);
    store.persist(&[installed(100, 5), step(101, 103, 5)]).unwrap();
    drop(store);
    let disk = disk.crash();
    disk.put("0000000000000001-0000000000000010", &member().content(FIRST).unwrap());
    let error = LogStore::open(disk.clone(), LogOptions { auto_recovery: false, ..options() }).unwrap_err();
    assert!(error.to_string().starts_with("last entry on disk has index 13, which is behind"), "{error}");
    let (store, loaded) = open(&disk);
    assert_eq!((loaded.first_index, loaded.entries.len()), (LogIndex(101), 0));
    assert!(loaded.no_vote_until.is_some_and(|until| until >= LogIndex(103)));
    drop(store);

    // Without anything in the open one, the stale ones just go.
    let disk = MemoryDisk::new(0);
    let mut store = fresh(&disk);
    store.persist(&[installed(100, 5)]).unwrap();
    store.close().unwrap();
    disk.put("0000000000000001-0000000000000010", &member().content(FIRST).unwrap());
    let (mut store, loaded) = open(&disk);
    assert_eq!((loaded.first_index, loaded.no_vote_until), (LogIndex(101), None));
    store.persist(&[step(101, 103, 5)]).unwrap();
    drop(store);
    check_log(&open(&disk.crash()).1, 101, 103, 5);
}

#[test]
fn a_log_that_contradicts_the_received_snapshot_was_about_to_go() {
    let disk = MemoryDisk::new(0);
    let mut store = fresh(&disk);
    store.persist(&[step(1, 30, 1)]).unwrap();
    store.close().unwrap();
    let (mut store, _) = open(&disk);
    store.persist(&[step(31, 40, 1)]).unwrap();
    store.close().unwrap();
    let log: Vec<_> = contents(&disk).into_iter().filter(|(name, _)| name.starts_with('0')).collect();
    let (mut store, _) = open(&disk);
    store.persist(&[installed(25, 5)]).unwrap();
    drop(store);
    for (name, content) in log {
        disk.put(&name, &content);
    }
    let (_, loaded) = open(&disk);
    assert_eq!((loaded.first_index, loaded.entries.len(), loaded.no_vote_until), (LogIndex(26), 0, None));
    assert_eq!(loaded.snapshot, Some(metadata(25, 5)));
}

#[test]
fn a_log_whose_front_is_missing_is_not_taken_for_a_whole_one() {
    let disk = MemoryDisk::new(0);
    let mut store = fresh(&disk);
    store.persist(&[step(1, 10, 1)]).unwrap();
    store.close().unwrap();
    let (mut store, _) = open(&disk);
    store.persist(&[step(11, 12, 1)]).unwrap();
    drop(store);
    let disk = disk.crash();
    disk.unlink(FIRST).unwrap();
    let error = LogStore::open(disk, options()).unwrap_err();
    assert!(error.to_string().contains("not a configuration"), "{error}");
    assert_eq!(damaged_file(&error), "open-1");
}

#[test]
fn recover_refuses_damage_and_ends_a_wait() {
    let disk = member();
    change(&disk, SECOND, |content| content[100] ^= 1);
    let before = contents(&disk);
    assert!(recover(&disk, &configuration(1)).is_err());
    assert_eq!(contents(&disk), before);
    drop(open(&disk));
    recover(&disk, &configuration(1)).unwrap();
    let (_, loaded) = open(&disk);
    assert_eq!(loaded.no_vote_until, None);
    assert_eq!(loaded.entries.last().unwrap().kind, EntryKind::Configuration);
    assert!(names(&disk).iter().any(|name| name.ends_with("-catch-up-needed")));
    bootstrap(&disk, &configuration(2)).unwrap();
    assert_eq!(open(&disk).1.entries, loaded.entries);
}
