//! Damage to a member of a cluster: the front of its log stays, the rest is moved aside and fetched again.

use raft_glue::disk::{
    Disk, Fault, LoadError, LogOptions, LogStore, MemoryDisk, bootstrap, check_metadata, describe_last_entry,
    recover,
};
use raft_glue::{EntryKind, LogIndex, Term};

use crate::damage::{contents, damaged_file};
use crate::fixture::*;

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
/// No counter is used twice.
const OPEN: &str = "open-3";

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
        ("first batch of the open segment", |disk| change(disk, OPEN, |c| c[100] ^= 1), 21),
        (
            "second batch of the open segment",
            |disk| change(disk, OPEN, |c| c[second_batch(21) + 60] ^= 1),
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
            disk.unlink(OPEN).unwrap();
            used_by_c(&disk);
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
            assert!(kept || is_front || file.starts_with("meta") || file == MANIFEST, "{name}: {file}");
        }
        // The leader sends the rest again; the node still remembers after a restart, until it has caught up.
        store.persist(&[step(lost_from, 40, 2)]).unwrap();
        store.committed(LogIndex(until.0 - 1), Term(9)).unwrap();
        drop(store);
        let (mut store, loaded) = open(&disk.crash());
        assert_eq!(loaded.no_vote_until, Some(until), "{name}");
        assert_eq!(loaded.entries, [entries(1, lost_from - 1, 1), entries(lost_from, 40, 2)].concat());
        store.committed(until, Term(2)).unwrap();
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
    store.committed(until, Term(2)).unwrap();
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
fn the_bound_is_what_was_there_and_not_what_would_fit() {
    let disk = member();
    change(&disk, OPEN, |content| content[100] ^= 1);
    let (_, loaded) = open(&disk);
    // The entry that would come next counts, too.
    assert_eq!(loaded.no_vote_until, Some(LogIndex(31)));
}

#[test]
fn a_committed_entry_of_a_later_term_ends_the_wait_also_after_a_restart() {
    let disk = member();
    change(&disk, SECOND, |content| content[100] ^= 1);
    let (mut store, loaded) = open(&disk);
    let until = loaded.no_vote_until.unwrap();
    // The durable term, which is above that of all entries.
    assert_eq!((until, loaded.damaged_in), (LogIndex(30), Some(Term(9))));
    // Terms that the node hears of while it waits do not move the one of the damage.
    store.persist(&[with_state(step(11, 12, 9), 11, None)]).unwrap();
    store.committed(LogIndex(12), Term(9)).unwrap();
    drop(store);
    let disk = disk.crash();
    let (mut store, loaded) = open(&disk);
    assert_eq!((loaded.no_vote_until, loaded.damaged_in), (Some(until), Some(Term(9))));
    store.persist(&[step(13, 13, 10)]).unwrap();
    store.committed(LogIndex(13), Term(10)).unwrap();
    drop(store);
    assert_eq!(open(&disk.crash()).1.no_vote_until, None);

    // So does a snapshot of the leader whose last entry is of a later term.
    for (term, waits) in [(9, true), (10, false)] {
        let disk = member();
        change(&disk, SECOND, |content| content[100] ^= 1);
        let (mut store, _) = open(&disk);
        store.persist(&[with_state(installed(20, term), 10, None)]).unwrap();
        drop(store);
        assert_eq!(open(&disk.crash()).1.no_vote_until.is_some(), waits, "{term}");
    }
}

#[test]
fn no_later_term_ends_the_wait_if_the_durable_term_cannot_be_trusted() {
    let disk = member();
    // An older term than that of the log: the newest was lost, and what was acknowledged in it is not known.
    let words = |words: [u64; 4]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    disk.put("metadata1", &words([1, 1, 0, 0]));
    change(&disk, SECOND, |content| content[100] ^= 1);
    let (store, loaded) = open(&disk);
    assert_eq!((loaded.no_vote_until, loaded.damaged_in), (Some(LogIndex(30)), None));
    drop(store);
    // Nor does it come to be trusted when there is more damage.
    change(&disk, FIRST, |content| content[second_batch(1) + 60] ^= 1);
    let (_, loaded) = open(&disk);
    assert_eq!((loaded.no_vote_until, loaded.damaged_in), (Some(LogIndex(30)), None));
}

#[test]
fn what_is_advised_for_lost_votes_can_be_done() {
    for (voters, recovers) in [(1, false), (3, true)] {
        let disk = MemoryDisk::new(0);
        bootstrap(&disk, &configuration(voters)).unwrap();
        let (mut store, _) = open(&disk);
        store.persist(&[with_state(step(2, 5, 1), 4, Some(2))]).unwrap();
        store.close().unwrap();
        disk.put("metadata2", &[7; 32]);
        let error = check_metadata(&disk).unwrap_err().to_string();
        assert!(error.contains("; its vote is lost: "), "{error}");
        for name in ["metadata1", "metadata2"] {
            assert!(error.contains(name), "{error}");
            disk.unlink(name).unwrap();
        }
        check_metadata(&disk).unwrap();
        if recovers {
            assert!(matches!(
                LogStore::open(disk.clone(), options()).unwrap_err(),
                LoadError::Metadata { .. }
            ));
            recover(&disk, &configuration(1)).unwrap();
        }
        let (_, loaded) = open(&disk);
        assert_eq!(loaded.entries[1..5], entries(2, 5, 1)[..]);
        assert_eq!((loaded.hard_state.vote, loaded.no_vote_until), (None, None));
    }
}

#[test]
fn a_crash_during_the_repair_never_makes_the_loss_look_like_none() {
    for (file, offset) in [(FIRST, 3100), (SECOND, 100), (SECOND, 3500), (OPEN, 100), (OPEN, 3000)] {
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
    used_by_c(&disk);
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
    used_by_c(&disk);
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
    used_by_c(&disk);
    let error = LogStore::open(disk, options()).unwrap_err();
    assert!(error.to_string().contains("not a configuration"), "{error}");
    assert_eq!(damaged_file(&error), "open-2");
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

#[test]
fn segments_prepared_ahead_are_no_obstacle_after_a_loss() {
    // Simulator seeds 269, 317: what was prepared ahead stayed, and the writer, which counts from 1, ran into it.
    for (damaged, lost_from) in [(FIRST, 6), (SECOND, 11), (OPEN, 21)] {
        let disk = member();
        let (mut store, _) = open(&disk);
        store.persist(&[step(31, 35, 1)]).unwrap();
        store.tend();
        drop(store);
        let disk = disk.crash();
        let damaged = if damaged == OPEN { "0000000000000021-0000000000000030" } else { damaged };
        let offset = if damaged == FIRST { second_batch(1) + 60 } else { 100 };
        change(&disk, damaged, |content| content[offset] ^= 1);
        let (mut store, loaded) = open(&disk);
        assert_eq!(loaded.first_index.0 + loaded.entries.len() as u64, lost_from, "{damaged}");
        let mut next = lost_from;
        for _ in 0..40 {
            store.persist(&[step(next, next + 4, 1)]).unwrap_or_else(|error| panic!("{damaged}: {error}"));
            store.tend();
            next += 5;
        }
        drop(store);
        let (_, loaded) = open(&disk.crash());
        check_log(&loaded, 1, next - 1, 1);
    }
}

#[test]
fn an_open_segment_behind_a_received_snapshot_that_broke_has_no_place() {
    // Simulator seed 1007: it was taken for the continuation of the older snapshot.
    for suffix in ["", ".meta"] {
        let disk = MemoryDisk::new(0);
        let mut store = fresh(&disk);
        store.persist(&[step(1, 10, 1)]).unwrap();
        write(&disk, 10, 1).unwrap();
        store.snapshot_taken(&metadata(10, 1)).unwrap();
        store.persist(&[installed(20, 1)]).unwrap();
        store.persist(&[step(21, 25, 1)]).unwrap();
        drop(store);
        let disk = disk.crash();
        let is_newest = |name: &String| name.starts_with("snapshot-1-20-") && !name.ends_with(".meta");
        let name = disk.names().into_iter().find(is_newest).unwrap() + suffix;
        let middle = disk.content(&name).unwrap().len() / 2;
        change(&disk, &name, |content| content[middle] ^= 1);
        let (mut store, loaded) = open(&disk);
        assert_eq!(loaded.snapshot.as_ref().map(|snapshot| snapshot.index.0), Some(10), "{name}");
        check_log(&loaded, 11, 10, 1);
        assert_eq!(loaded.no_vote_until, Some(LogIndex(25)));
        let is_aside = |name: &String| name.starts_with("corrupt-") && name.contains("-open-");
        assert!(disk.names().iter().any(is_aside), "{:?}", disk.names());
        store.persist(&[step(11, 30, 1)]).unwrap();
        drop(store);
        let (_, loaded) = open(&disk.crash());
        check_log(&loaded, 11, 30, 1);
    }
}
