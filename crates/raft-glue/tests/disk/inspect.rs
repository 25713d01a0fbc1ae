//! Inspection: sees what C wrote and what is damaged, changes nothing, and is not misled by a node that writes.

use raft_glue::disk::{
    Disk, DiskError, File, Inspection, MemoryDisk, OtherKind, ReadOnly, Segment, SegmentEnd, Severity,
    Snapshot, Standing, inspect,
};
use raft_glue::{LogIndex, Term};
use serde_json::Value;

use crate::archive::disk;
use crate::damage::{CASES, Refuses, Starts, contents};
use crate::fixture::*;
use crate::golden::number;

fn look(disk: &MemoryDisk) -> Inspection {
    let before = (contents(disk), disk.operations());
    let (found, _) = inspect(&ReadOnly::new(disk.clone()), &mut || {}).unwrap();
    assert!(before == (contents(disk), disk.operations()), "something was changed");
    found
}

fn check_segment(found: &Segment, expected: &Value) {
    let name = &found.name;
    assert_eq!(name, expected["file"].as_str().unwrap());
    assert_eq!((&found.end, found.standing), (&SegmentEnd::Sound, Standing::Used), "{name}");
    assert_eq!(found.batches, number(&expected["batches"]), "{name}");
    let last = found.last().unwrap();
    if let Some(first) = expected["first"].as_u64() {
        assert_eq!(
            (found.first, last),
            (Some(LogIndex(first)), LogIndex(number(&expected["last"]))),
            "{name}"
        );
    }
    if found.promised.is_some() {
        assert_eq!((found.promised, found.used), (Some(last), found.size), "{name}");
    }
    let terms = expected["terms"].as_array().unwrap();
    let terms = (number(&terms[0]), number(terms.last().unwrap()));
    assert_eq!(found.terms.map(|(first, last)| (first.0, last.0)), Some(terms), "{name}");
    let of_type = |text: &str| expected["types"][text].as_u64().unwrap_or(0);
    assert_eq!((found.commands, found.configurations), (of_type("COMMAND"), of_type("CHANGE")), "{name}");
}

fn check_snapshot(found: &Snapshot, expected: &Value) {
    assert_eq!(found.name, expected["file"].as_str().unwrap());
    assert_eq!(found.index.0, number(&expected["index"]));
    assert_eq!(found.term.0, number(&expected["term"]));
    assert_eq!(found.timestamp_ms, number(&expected["timestamp"]));
    assert_eq!(found.size, number(&expected["file_size"]));
    assert_eq!(Value::Bool(found.compressed), expected["compressed"]);
    let content = found.content.as_ref().unwrap();
    let expected = expected["databases"].as_array().unwrap();
    assert_eq!(content.databases.len(), expected.len());
    for (found, expected) in content.databases.iter().zip(expected) {
        assert_eq!(std::str::from_utf8(&found.name).unwrap(), expected["name"].as_str().unwrap());
        let sizes = (number(&expected["main_size"]), number(&expected["wal_size"]));
        assert_eq!((found.main_size, found.wal_size), sizes);
    }
}

#[test]
fn directories_of_c_are_seen_as_described() {
    let mut seen = 0;
    for name in &golden::names() {
        let description = golden::description(name);
        for (directory, files) in golden::unpack(name) {
            let node = if directory.is_empty() { &description } else { &description["nodes"][&directory] };
            let on_disk = &node["on_disk"];
            let found = look(&disk(&files));
            assert_eq!(found.problems, [], "{name}/{directory}");
            assert_eq!(found.last_index.0, number(&on_disk["last_index"]), "{name}/{directory}");
            assert_eq!(found.last_term.0, number(&on_disk["last_term"]), "{name}/{directory}");
            assert_eq!(found.loaded.hard_state.term.0, number(&on_disk["current_term"]));
            let segments = on_disk["segments"].as_array().unwrap();
            let with_entries = || found.segments.iter().filter(|segment| segment.entries > 0);
            assert_eq!(
                with_entries().count(),
                segments
                    .iter()
                    .filter(|segment| { segment["batches"].as_u64().is_some_and(|batches| batches > 0) })
                    .count(),
                "{name}/{directory}"
            );
            for segment in with_entries() {
                let expected = segments.iter().find(|expected| expected["file"] == *segment.name).unwrap();
                check_segment(segment, expected);
            }
            let snapshots = on_disk["snapshots"].as_array().unwrap();
            assert_eq!(found.snapshots.len(), snapshots.len());
            found
                .snapshots
                .iter()
                .zip(snapshots)
                .for_each(|(found, expected)| check_snapshot(found, expected));
            let chosen: Vec<bool> = found.snapshots.iter().rev().map(|snapshot| snapshot.is_chosen).collect();
            assert!(
                chosen.first().is_none_or(|first| *first) && chosen.iter().filter(|is| **is).count() <= 1
            );
            for (file, content) in on_disk["metadata"].as_object().unwrap() {
                let found = found.metadata.iter().find(|found| found.name == *file).unwrap();
                assert_eq!(found.content.as_ref().unwrap().version, number(&content["version"]));
            }
            seen += 1;
        }
    }
    assert!(seen >= 26, "{seen}");
}

#[test]
fn every_damage_is_found_and_explained() {
    let directories = golden::unpack(golden::DAMAGE);
    for (name, with, without) in CASES {
        let found = look(&disk(&directories[name]));
        let text = format!("{name}: {:?}", found.problems);
        let losses = || found.problems.iter().filter(|problem| problem.severity == Severity::Loss);
        let is_meta = name.starts_with("meta-");
        match with {
            Refuses(file) => {
                assert!(losses().any(|problem| problem.file == file && problem.remedy.is_some()), "{text}");
            }
            Starts(..) => assert!(losses().count() == 0 || is_meta, "{text}"),
        }
        match without {
            Refuses(file) => {
                let problem = found.problems.iter().find(|problem| problem.file == file).expect(&text);
                assert!(
                    problem.outcome.contains("without auto-recovery it is refused") || with == without,
                    "{text}"
                );
            }
            Starts(..) if with == without => {
                assert!(found.problems.iter().all(|problem| !problem.outcome.contains("refused")), "{text}");
            }
            Starts(..) => panic!("{name}"),
        }
        // Everything that is damaged in a segment or snapshot is also among the problems.
        for segment in &found.segments {
            if matches!(segment.end, SegmentEnd::Damaged { .. }) && segment.standing != Standing::Superfluous
            {
                assert!(!found.problems.is_empty() || name == "closed-overlap", "{text}");
            }
        }
        for snapshot in found.snapshots.iter().filter(|snapshot| snapshot.content.is_err()) {
            let is_explained =
                |file: &str| file == snapshot.name || file == format!("{}.meta", snapshot.name);
            assert!(found.problems.iter().any(|problem| is_explained(&problem.file)), "{text}");
        }
    }
}

#[test]
fn a_member_of_a_cluster_is_told_that_it_would_wait() {
    let disk = MemoryDisk::new(0);
    let mut store = fresh(&disk);
    store.persist(&[step(1, 4, 3)]).unwrap();
    store
        .snapshot_taken(&{
            write(&disk, 2, 3).unwrap();
            metadata(2, 3)
        })
        .unwrap();
    store.persist(&[step(5, 9, 3)]).unwrap();
    store.close().unwrap();
    let name = "0000000000000005-0000000000000009";
    let mut content = disk.content(name).unwrap();
    let at = content.len() - 3;
    content[at] ^= 1;
    disk.put(name, &content);
    disk.put("corrupt-1-x", b"old");
    disk.put("notes.txt", b"mine");
    disk.put("catch-up-needed", b"77\n");
    let found = look(&disk);
    let [problem] = &found.problems[..] else { panic!("{:?}", found.problems) };
    assert_eq!((problem.severity, problem.file.as_str()), (Severity::Loss, name));
    assert_eq!((problem.offset, problem.index), (Some(8), Some(LogIndex(5))));
    assert_eq!(
        problem.outcome,
        format!(
            "a start with auto-recovery keeps the log up to entry 4, moves {name} aside, and neither votes nor leads \
             before entry 9 is known to be committed; without auto-recovery it is refused"
        )
    );
    assert_eq!((found.last_index, found.last_term), (LogIndex(4), Term(3)));
    assert_eq!(found.loaded.no_vote_until, Some(LogIndex(77)));
    let kinds: Vec<(&str, OtherKind)> =
        found.others.iter().map(|other| (other.name.as_str(), other.kind)).collect();
    assert_eq!(
        kinds,
        [
            ("catch-up-needed", OtherKind::Marker),
            ("corrupt-1-x", OtherKind::Aside),
            ("dqlite-lock", OtherKind::Lock),
            ("notes.txt", OtherKind::Foreign),
            ("tmp-log-manifest", OtherKind::Manifest),
        ]
    );
}

#[test]
fn a_write_under_way_is_no_damage() {
    let disk = MemoryDisk::new(0);
    let mut store = fresh(&disk);
    store.persist(&[step(1, 4, 3)]).unwrap();
    let sound = disk.content("open-1").unwrap();
    let mut half = sound.clone();
    half[40] ^= 1;
    disk.put("open-1", &half);
    let mut pauses = 0;
    let (found, _) = inspect(&ReadOnly::new(disk.clone()), &mut || {
        pauses += 1;
        disk.put("open-1", &sound);
    })
    .unwrap();
    assert_eq!((pauses, found.problems.len(), found.last_index), (1, 0, LogIndex(4)));

    // What stays is damage.
    disk.put("open-1", &half);
    assert_eq!(look(&disk).problems.len(), 1);
    drop(store);
}

#[test]
fn what_goes_while_it_is_read_is_read() {
    // A node may replace snapshots and segments faster than they can be read.
    let disk = MemoryDisk::new(0);
    let mut store = fresh(&disk);
    store.persist(&[step(1, 4, 3)]).unwrap();
    drop(store);
    let before = disk.content("open-1").unwrap();
    let (found, held) = inspect(&ReadOnly::new(disk.clone()), &mut || panic!("names do not change")).unwrap();
    disk.rename("open-1", "0000000000000001-0000000000000004").unwrap();
    disk.unlink("0000000000000001-0000000000000004").unwrap();
    assert_eq!((found.problems.len(), found.last_index), (0, LogIndex(4)));
    let file = held.open_read("open-1").unwrap();
    let mut content = vec![0; before.len()];
    assert_eq!(file.read_at(&mut content, 0).unwrap(), before.len());
    assert!(content == before);
    assert!(held.list().unwrap().iter().any(|entry| entry.name == "open-1"));
    let refused = |result: std::io::Result<()>| {
        assert_eq!(result.unwrap_err().kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    };
    refused(held.unlink("open-1"));
    refused(held.rename("open-1", "x"));
    refused(held.create("x").map(drop));
    refused(file.write_at(b"x", 0));
    refused(file.truncate(0));
}

#[test]
fn nothing_of_a_read_only_directory_can_be_changed() {
    let disk = MemoryDisk::new(0);
    disk.put("a", b"x");
    let guarded = ReadOnly::new(disk.clone());
    let refused = |result: std::io::Result<()>| {
        assert_eq!(result.unwrap_err().kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    };
    refused(guarded.create("b").map(drop));
    refused(guarded.open("a").map(drop));
    refused(guarded.rename("a", "b"));
    refused(guarded.unlink("a"));
    refused(guarded.sync_directory());
    refused(guarded.lock("dqlite-lock").map(drop));
    let file = guarded.open_read("a").unwrap();
    refused(file.write_at(b"y", 0));
    refused(file.allocate(100));
    refused(file.truncate(0));
    refused(file.sync());
    assert_eq!((disk.names(), disk.content("a").unwrap()), (vec!["a".to_owned()], b"x".to_vec()));
    assert_eq!(disk.operations(), 0);
}

#[test]
fn a_directory_that_never_rests_is_given_up() {
    let disk = MemoryDisk::new(0);
    drop(fresh(&disk));
    disk.put("open-1", &[1; 100]);
    let mut count = 0;
    let error = inspect(&ReadOnly::new(disk.clone()), &mut || {
        count += 1;
        let mut content = vec![1; 100];
        content.resize(100 + count, 1);
        disk.put("open-1", &content);
        disk.put(&format!("0000000000009{count:03}-0000000000009{count:03}"), &content);
    })
    .unwrap_err();
    assert!(matches!(error, DiskError::Directory(_)), "{error}");
}
