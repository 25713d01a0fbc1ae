//! The damaged directories of the golden data: what is cut, what is moved aside, what is refused.

use std::collections::BTreeMap;

use raft_glue::disk::{Disk, LoadError, LogOptions, LogStore, MemoryDisk, bootstrap, read_snapshot};
use raft_glue::{Loaded, LogIndex, Term};

use crate::archive::disk;
use crate::fixture::*;

/// What becomes of a case with one voter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Starts; the next index and the term.
    Starts(u64, u64),
    /// Refuses and names this file.
    Refuses(&'static str),
}
pub(crate) use Outcome::{Refuses, Starts};

const LAST_CLOSED: &str = "0000000000000002-0000000000000007";
const META: &str = "snapshot-1-32-2851225.meta";
const DATA: &str = "snapshot-1-32-2851225";

/// Case, outcome with auto-recovery, outcome without. Nothing is lost up to index 13 (log) and 33 (snapshots).
pub(crate) const CASES: [(&str, Outcome, Outcome); 66] = [
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

pub(crate) fn contents(disk: &MemoryDisk) -> BTreeMap<String, Vec<u8>> {
    disk.names().into_iter().map(|name| (name.clone(), disk.content(&name).unwrap())).collect()
}

fn open_with(disk: &MemoryDisk, auto_recovery: bool) -> Result<(LogStore<MemoryDisk>, Loaded), LoadError> {
    LogStore::open(disk.clone(), LogOptions { auto_recovery, ..LogOptions::default() })
}

pub(crate) fn damaged_file(error: &LoadError) -> &str {
    match error {
        LoadError::Damaged { file, .. }
        | LoadError::Metadata { file, .. }
        | LoadError::Snapshot { file, .. } => file,
        other => panic!("{other}"),
    }
}

#[test]
fn every_damaged_directory_of_c_is_decided_as_listed() {
    let directories = golden::unpack(golden::DAMAGE);
    let cases = golden::description(golden::DAMAGE);
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
    let directories = golden::unpack(golden::DAMAGE);
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
    let readme = include_str!("../../README.md");
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
    let directories = golden::unpack(golden::DAMAGE);
    let cases = golden::description(golden::DAMAGE);
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
