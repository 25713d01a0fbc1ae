//! Files that are missing, or older copies of themselves: what the manifest makes visible, by enumeration.

use std::collections::BTreeMap;
use std::io::Write;

use raft_glue::disk::{LoadError, LogOptions, LogStore, MemoryDisk};
use raft_glue::{Entry, HardState, Loaded, LogIndex, Persist, Term};

use crate::damage::contents;
use crate::fixture::*;

type Files = BTreeMap<String, Vec<u8>>;

/// A moment of a member's life: its directory, and all that it has acknowledged.
#[derive(Clone)]
struct Moment {
    name: &'static str,
    files: Files,
    hard_state: HardState,
    /// What the log holds, or held before a snapshot of its own.
    entries: BTreeMap<u64, Entry>,
    next: u64,
}

/// The life, with closed segments, an open one, snapshots of its own and of a leader, a truncation and restarts.
struct Life {
    disk: MemoryDisk,
    moments: Vec<Moment>,
    hard_state: HardState,
    entries: BTreeMap<u64, Entry>,
    next: u64,
}

impl Life {
    fn persist(&mut self, store: &mut LogStore<MemoryDisk>, step: Persist) {
        self.hard_state = step.hard_state.unwrap_or(self.hard_state);
        if let Some(snapshot) = &step.snapshot {
            self.entries.clear();
            self.next = snapshot.metadata.index.0 + 1;
        }
        if !step.entries.is_empty() {
            self.entries.split_off(&step.first_index.0);
            self.next = step.first_index.0 + step.entries.len() as u64;
            self.entries.extend((step.first_index.0..).zip(step.entries.iter().cloned()));
        }
        store.persist(&[step]).unwrap();
    }

    fn note(&mut self, name: &'static str) {
        let mut files = contents(&self.disk.crash());
        files.retain(|name, content| {
            let is_prepared = name.starts_with("open-") && content.iter().all(|byte| *byte == 0);
            name != "dqlite-lock" && !is_prepared
        });
        let (entries, hard_state, next) = (self.entries.clone(), self.hard_state, self.next);
        self.moments.push(Moment { name, files, hard_state, entries, next });
    }

    fn snapshot(&self, store: &mut LogStore<MemoryDisk>, index: u64, term: u64) {
        write(&self.disk, index, term).unwrap();
        store.snapshot_taken(&metadata(index, term)).unwrap();
    }
}

fn moments() -> Vec<Moment> {
    let disk = MemoryDisk::new(0);
    let mut life = Life {
        disk: disk.clone(),
        moments: Vec::new(),
        hard_state: HardState::default(),
        entries: BTreeMap::new(),
        next: 1,
    };
    let (mut store, _) = open(&disk);
    life.persist(&mut store, with_state(step(1, 5, 1), 1, None));
    life.note("an open segment only");
    store.close().unwrap();
    let (mut store, _) = open(&disk);
    life.persist(&mut store, step(6, 12, 1));
    life.note("a closed segment and an open one");
    life.persist(&mut store, with_state(Persist::default(), 2, Some(2)));
    store.close().unwrap();
    let (mut store, _) = open(&disk);
    life.note("closed segments only");
    life.persist(&mut store, step(13, 18, 2));
    life.persist(&mut store, step(19, 24, 2));
    life.note("two closed segments and an open one");
    life.snapshot(&mut store, 14, 2);
    life.note("a snapshot and closed segments");
    life.persist(&mut store, with_state(step(25, 30, 3), 3, Some(1)));
    life.note("a snapshot, closed segments and an open one");
    // The end of the log is replaced, the same indexes in segments of the same names included.
    life.persist(&mut store, with_state(step(20, 24, 4), 4, None));
    store.close().unwrap();
    let (mut store, _) = open(&disk);
    life.persist(&mut store, step(25, 30, 4));
    life.note("the same with other entries");
    life.snapshot(&mut store, 29, 4);
    life.persist(&mut store, step(31, 33, 4));
    life.note("two snapshots and an open segment");
    life.persist(&mut store, with_state(installed(60, 6), 6, None));
    life.note("a snapshot of a leader");
    life.persist(&mut store, step(61, 66, 6));
    life.note("a snapshot of a leader and an open segment");
    store.close().unwrap();
    let (mut store, _) = open(&disk);
    life.persist(&mut store, step(67, 70, 6));
    life.note("a snapshot of a leader, a closed segment and an open one");
    life.snapshot(&mut store, 65, 6);
    life.persist(&mut store, step(71, 72, 6));
    life.note("all of it");
    life.moments
}

fn disk_of(files: &Files) -> MemoryDisk {
    let disk = MemoryDisk::new(1);
    for (name, content) in files {
        disk.put(name, content);
    }
    disk
}

/// What a start may make of a directory.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Whole,
    Waits,
    Refused,
    Wrong(String),
}

fn verdict(moment: &Moment, result: &Result<(LogStore<MemoryDisk>, Loaded), LoadError>) -> Verdict {
    let loaded = match result {
        Ok((_, loaded)) => loaded,
        Err(LoadError::Disk(error)) => return Verdict::Wrong(format!("fails: {error}")),
        Err(error) if error.to_string().len() < 40 => return Verdict::Wrong(format!("says only: {error}")),
        Err(_) => return Verdict::Refused,
    };
    let had = moment.hard_state;
    if loaded.hard_state.term < had.term || (loaded.hard_state.term == had.term && loaded.hard_state != had) {
        return Verdict::Wrong(format!("{:?}, had {had:?}", loaded.hard_state));
    }
    for (index, entry) in (loaded.first_index.0..).zip(&loaded.entries) {
        if moment.entries.get(&index) != Some(entry) {
            return Verdict::Wrong(format!("entry {index} of term {} is another one", entry.term));
        }
    }
    let snapshot = loaded.snapshot.as_ref().map_or(0, |snapshot| snapshot.index.0);
    let next = loaded.first_index.0 + loaded.entries.len() as u64;
    if loaded.first_index.0 > snapshot + 1 || next <= snapshot {
        return Verdict::Wrong(format!("entries {} to {next} behind {snapshot}", loaded.first_index));
    }
    match loaded.no_vote_until {
        Some(until) if until.0 + 1 >= moment.next => Verdict::Waits,
        None if next >= moment.next => Verdict::Whole,
        until => Verdict::Wrong(format!("entries up to {next} of {}, votes from {until:?} on", moment.next)),
    }
}

/// Starts the directory as a member of a cluster, and as a node that cannot get anything back from others.
fn start(moment: &Moment, files: &Files) -> [Verdict; 2] {
    [true, false].map(|auto_recovery| {
        let options = LogOptions { auto_recovery, ..options() };
        let verdict = verdict(moment, &LogStore::open(disk_of(files), options));
        match verdict {
            Verdict::Waits if !auto_recovery => Verdict::Wrong("waits without being allowed to".to_owned()),
            verdict => verdict,
        }
    })
}

fn expect_safe(moment: &Moment, files: &Files, context: impl Fn() -> String) -> bool {
    let verdicts = start(moment, files);
    let is_wrong = verdicts.iter().any(|verdict| matches!(verdict, Verdict::Wrong(_)));
    assert!(!is_wrong, "{}: {}: {verdicts:?}\n{}", moment.name, context(), shown(files));
    verdicts[0] == Verdict::Waits
}

fn shown(files: &Files) -> String {
    let manifest = files.get(MANIFEST).map(|content| String::from_utf8_lossy(content));
    format!("{:?}\n{}", files.keys(), manifest.unwrap_or_default())
}

fn tell(what: &str) {
    // A line that cannot be written changes nothing.
    let _ = writeln!(std::io::stderr(), "{what}");
}

#[test]
fn every_moment_starts_whole() {
    for moment in moments() {
        assert_eq!(start(&moment, &moment.files), [Verdict::Whole, Verdict::Whole], "{}", moment.name);
        // Without a manifest it is a directory of C.
        let mut files = moment.files.clone();
        files.remove(MANIFEST).unwrap();
        assert_eq!(start(&moment, &files), [Verdict::Whole, Verdict::Whole], "{}", moment.name);
    }
}

#[test]
fn no_subset_of_the_files_is_taken_for_all_of_them() {
    let (mut tried, mut waiting) = (0, 0);
    for moment in moments() {
        let names: Vec<&String> = moment.files.keys().filter(|name| *name != MANIFEST).collect();
        for removed in 1_u32..1 << names.len() {
            let mut files = moment.files.clone();
            for (number, name) in names.iter().enumerate() {
                if removed & 1 << number != 0 {
                    files.remove(*name);
                }
            }
            tried += 1;
            waiting += u32::from(expect_safe(&moment, &files, || "a subset".to_owned()));
        }
    }
    tell(&format!("{tried} subsets, {waiting} of them wait"));
    assert!(tried > 1000 && waiting > 100, "{tried} {waiting}");
}

/// An older copy of the segment in use, which only lacks its end, cannot be told from the newest one.
fn is_older_open(moment: &Moment, name: &str) -> bool {
    name.starts_with("open-") && moment.files.contains_key(name)
}

#[test]
fn no_older_copy_of_a_file_is_taken_for_the_newest() {
    let moments = moments();
    let (mut tried, mut waiting, mut unseen) = (0, 0, 0);
    for (number, moment) in moments.iter().enumerate() {
        for older in &moments[..number] {
            for (name, content) in &older.files {
                if moment.files.get(name) == Some(content) {
                    continue;
                }
                if is_older_open(moment, name) {
                    unseen += 1;
                    continue;
                }
                let mut files = moment.files.clone();
                files.insert(name.clone(), content.clone());
                let context = || format!("{name} of the moment \"{}\"", older.name);
                tried += 1;
                waiting += u32::from(expect_safe(moment, &files, context));
                // And something is missing.
                for missing in moment.files.keys().filter(|missing| *missing != MANIFEST && *missing != name)
                {
                    if name == MANIFEST {
                        continue;
                    }
                    let mut files = files.clone();
                    files.remove(missing);
                    tried += 1;
                    let context = || format!("{name} of the moment \"{}\", without {missing}", older.name);
                    waiting += u32::from(expect_safe(moment, &files, context));
                }
            }
        }
    }
    tell(&format!("{tried} older copies, {waiting} wait, {unseen} of the segment in use left out"));
    assert!(tried > 1000 && waiting > 100, "{tried} {waiting}");
}

#[test]
fn closed_segments_missing_in_front_of_an_open_one_are_a_loss() {
    // The entries of the open segment were taken for those behind the snapshot: the state was corrupt, and the node voted.
    let moments = moments();
    let moment =
        moments.iter().find(|moment| moment.name == "a snapshot, closed segments and an open one").unwrap();
    let mut files = moment.files.clone();
    files.retain(|name, _| !name.starts_with('0'));
    let (store, loaded) = LogStore::open(disk_of(&files), options()).unwrap();
    check_log(&loaded, 15, 14, 2);
    assert_eq!((loaded.no_vote_until, loaded.damaged_in), (Some(LogIndex(30)), Some(Term(3))));
    drop(store);
    let alone = LogOptions { auto_recovery: false, ..options() };
    let error = LogStore::open(disk_of(&files), alone).unwrap_err().to_string();
    assert!(error.contains("closed segment 0000000000000013-0000000000000024 is missing"), "{error}");
    assert!(error.contains("tmp-log-manifest out of it to give up all entries from 15 on"), "{error}");
    // C's format cannot show it.
    files.remove(MANIFEST);
    let (_, loaded) = LogStore::open(disk_of(&files), options()).unwrap();
    assert_eq!(loaded.no_vote_until, None);
}

#[test]
fn a_manifest_that_cannot_be_used_blocks_nobody() {
    for moment in moments() {
        let content = &moment.files[MANIFEST];
        for at in (0..content.len()).step_by(7) {
            for change in [|c: &mut Vec<u8>, at: usize| c[at] ^= 1, |c: &mut Vec<u8>, at| c.truncate(at)] {
                let mut files = moment.files.clone();
                change(files.get_mut(MANIFEST).unwrap(), at);
                assert_eq!(start(&moment, &files), [Verdict::Whole, Verdict::Whole], "{} {at}", moment.name);
            }
        }
    }
}

#[test]
fn advice_of_a_refused_start_can_be_followed() {
    for moment in moments() {
        for missing in moment.files.keys().filter(|name| !name.starts_with("meta") && *name != MANIFEST) {
            let mut files = moment.files.clone();
            files.remove(missing);
            let options = LogOptions { auto_recovery: false, ..options() };
            let Err(error) = LogStore::open(disk_of(&files), options.clone()) else { continue };
            let text = error.to_string();
            let advised = text.split("move ").nth(1).and_then(|rest| rest.split(" out of it").next());
            for name in advised.unwrap_or_else(|| panic!("{text}")).split(", ") {
                assert!(files.remove(name).is_some(), "{text}");
            }
            LogStore::open(disk_of(&files), options).unwrap_or_else(|error| panic!("{text}\nthen {error}"));
        }
    }
}
