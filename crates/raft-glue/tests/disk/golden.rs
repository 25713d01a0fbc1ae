//! Every directory that a release of C dqlite wrote loads with what C found in it.

use raft_glue::disk::{Disk, LogOptions, LogStore, MemoryDisk, describe_last_entry, read_snapshot};
use raft_glue::{Configuration, Entry, EntryKind, Loaded, LogIndex, Persist, Term};
use serde_json::Value;

use crate::archive::disk;
use crate::fixture::{entry, names};

pub(crate) fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is not a number"))
}

fn open(disk: &MemoryDisk) -> (LogStore<MemoryDisk>, Loaded) {
    LogStore::open(disk.clone(), LogOptions::default()).unwrap()
}

/// Members as the description lists them.
fn check_configuration(configuration: &Configuration, expected: &Value) {
    let expected = expected.as_array().unwrap();
    assert_eq!(configuration.servers.len(), expected.len());
    for (server, expected) in configuration.servers.iter().zip(expected) {
        assert_eq!(server.id.0, number(&expected["id"]));
        assert_eq!(server.address, expected["address"].as_str().unwrap());
        assert_eq!(u64::from(server.role.raft_code()), number(&expected["raft_role"]));
    }
}

fn check_node(name: &str, disk: &MemoryDisk, node: &Value) {
    let on_disk = &node["on_disk"];
    let before = names(disk);
    let described = describe_last_entry(disk).unwrap_or_else(|error| panic!("{name}: {error}"));
    let expected = (LogIndex(number(&on_disk["last_index"])), Term(number(&on_disk["last_term"])));
    assert_eq!(described, expected, "{name}");
    if let Some(by_c) = node.get("describe_last_entry") {
        assert_eq!((number(&by_c["index"]), number(&by_c["term"])), (expected.0.0, expected.1.0), "{name}");
    }
    assert_eq!(names(disk), before, "{name}");

    let (mut store, loaded) = open(disk);
    assert_eq!(loaded.no_vote_until, None);
    assert_eq!(loaded.hard_state.term.0, number(&on_disk["current_term"]), "{name}");
    assert_eq!(loaded.hard_state.vote.map_or(0, |id| id.0), number(&on_disk["voted_for"]), "{name}");
    let next = loaded.first_index.0 + loaded.entries.len() as u64;
    assert_eq!(next - 1, described.0.0);

    let newest = on_disk["snapshots"].as_array().unwrap().last();
    assert_eq!(loaded.snapshot.is_some(), newest.is_some(), "{name}");
    if let (Some(metadata), Some(expected)) = (&loaded.snapshot, newest) {
        assert_eq!(metadata.index.0, number(&expected["index"]));
        assert_eq!(metadata.term.0, number(&expected["term"]));
        assert_eq!(metadata.configuration_index.0, number(&expected["configuration_index"]));
        check_configuration(&metadata.configuration, &expected["configuration"]);
        let payload = read_snapshot(disk, metadata).unwrap();
        assert_eq!(payload.len() as u64, number(&expected["raw_size"]));
    }
    let configurations = loaded.entries.iter().filter(|entry| entry.kind == EntryKind::Configuration);
    let newest = configurations.map(|entry| Configuration::decode(&entry.data).unwrap()).next_back();
    let newest = newest.or_else(|| loaded.snapshot.as_ref().map(|snapshot| snapshot.configuration.clone()));
    match newest {
        Some(configuration) => check_configuration(&configuration, &on_disk["configuration"]),
        None => assert!(on_disk["configuration"].as_array().is_none_or(Vec::is_empty), "{name}"),
    }
    check_entry_counts(&loaded, on_disk);

    // What was loaded is what can be read, and the log goes on.
    if loaded.entries.is_empty() {
        store.close().unwrap();
        return;
    }
    let read = store.read_entries(loaded.first_index, usize::MAX, u64::MAX).unwrap();
    assert_eq!(read, loaded.entries);
    let more = Persist { first_index: LogIndex(next), entries: vec![entry(2, 1)], ..Persist::default() };
    store.persist(std::slice::from_ref(&more)).unwrap();
    store.close().unwrap();
    let (_, again) = open(disk);
    assert_eq!(again.entries, [loaded.entries, more.entries].concat());
    assert_eq!(again.hard_state, loaded.hard_state);
    assert!(names(disk).iter().all(|name| !name.starts_with("open-") && !name.starts_with("corrupt-")));
}

/// Entries of each kind, over all segments.
fn check_entry_counts(loaded: &Loaded, on_disk: &Value) {
    for (text, kind) in [
        ("COMMAND", EntryKind::Command),
        ("BARRIER", EntryKind::Barrier),
        ("CHANGE", EntryKind::Configuration),
    ] {
        let segments = on_disk["segments"].as_array().unwrap();
        let expected: u64 = segments.iter().filter_map(|segment| segment["types"][text].as_u64()).sum();
        let found = loaded.entries.iter().filter(|entry: &&Entry| entry.kind == kind).count();
        assert_eq!(found as u64, expected, "{text}");
    }
}

#[test]
fn every_archive_loads_as_described() {
    let mut nodes = 0;
    for name in &golden::names() {
        let description = golden::description(name);
        for (directory, files) in golden::unpack(name) {
            let node = if directory.is_empty() { &description } else { &description["nodes"][&directory] };
            check_node(&format!("{name}/{directory}"), &disk(&files), node);
            nodes += 1;
        }
    }
    assert!(nodes >= 26, "{nodes}");
}

#[test]
fn a_stop_leaves_what_c_leaves() {
    let description = golden::description(golden::DAMAGE);
    let cases = golden::unpack(golden::DAMAGE);
    for name in ["log-ok", "snap-ok", "open-gap-in-counter", "open-ends-at-data"] {
        let disk = disk(&cases[name]);
        let (store, _) = open(&disk);
        store.close().unwrap();
        let expected = &description["cases"][name]["outcome"]["both"]["files_after"];
        let mut found: serde_json::Map<String, Value> =
            disk.list().unwrap().into_iter().map(|entry| (entry.name, entry.size.into())).collect();
        found.remove(crate::fixture::MANIFEST).unwrap();
        assert_eq!(&Value::Object(found), expected, "{name}");
    }
}
