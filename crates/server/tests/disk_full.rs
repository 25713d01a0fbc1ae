//! A disk that fills up: the core alone, on a disk in memory; and a whole node, on a small file system if that can be
//! mounted.
#![allow(clippy::unwrap_used, reason = "a failure of a helper is a failure of the test")]

mod common;

use common::alone::{Alone, CLIENT};
use raft_glue::disk::{MemoryDisk, Space};
use server::core::Input;
use wire_protocol::{Protocol, Value};

/// SQLITE_FULL.
const FULL: u64 = 13;

fn filled(snapshot: u32) -> (Alone, i64) {
    let mut alone = Alone::start(MemoryDisk::new(1), Some(snapshot));
    alone.open("test");
    alone.exec("CREATE TABLE t (s TEXT)").unwrap();
    alone.look_for_space();
    alone.disk.set_capacity(Some(alone.disk.used() + 100_000));
    let mut rows = 0;
    let refused = loop {
        match alone.exec("INSERT INTO t VALUES (hex(randomblob(200)))") {
            Ok(()) => rows += 1,
            Err(code) => break code,
        }
        assert!(rows < 10_000, "never full");
    };
    assert_eq!(refused, FULL);
    assert!(!alone.waits, "nothing had to wait for space: the refusal came before that");
    (alone, rows)
}

#[test]
fn writes_are_refused_in_time_and_accepted_again_without_a_restart() {
    let (mut alone, mut rows) = filled(10_000);
    assert_eq!(alone.count(), rows, "reads go on, and no refused row is there");
    assert_eq!(alone.exec("DELETE FROM t"), Err(FULL));
    assert_eq!(alone.exec("BEGIN; INSERT INTO t VALUES ('x'); COMMIT"), Err(FULL));
    let _ = alone.exec("ROLLBACK");
    assert_eq!(alone.count(), rows);
    alone.look_for_space();
    assert_eq!(alone.worker.space(), Space::Low);
    assert_eq!(alone.exec("INSERT INTO t VALUES ('x')"), Err(FULL), "still");

    alone.disk.set_capacity(None);
    alone.look_for_space();
    for _ in 0..50 {
        alone.exec("INSERT INTO t VALUES (hex(randomblob(200)))").unwrap();
        rows += 1;
    }
    assert_eq!(alone.count(), rows);
    let mut alone = Alone::start(alone.crash(), Some(10_000));
    alone.open("test");
    assert_eq!(alone.count(), rows);
}

#[test]
fn a_database_that_is_new_is_refused_too() {
    let (mut alone, _) = filled(10_000);
    alone.feed(Input::ClientClosed { client: CLIENT });
    alone.feed(Input::ClientOpened { client: CLIENT, protocol: Protocol::Current });
    alone.open("other");
    assert_eq!(alone.exec("CREATE TABLE u (n INTEGER)"), Err(FULL));
    alone.disk.set_capacity(None);
    alone.look_for_space();
    alone.exec("CREATE TABLE u (n INTEGER)").unwrap();
}

#[test]
fn snapshots_make_room_as_long_as_they_can_and_a_full_disk_starts_again() {
    let (mut alone, rows) = filled(8);
    assert!(alone.snapshots > 4, "{}", alone.snapshots);
    let snapshots = |disk: &MemoryDisk| {
        disk.names().iter().filter(|name| name.starts_with("snapshot-") && name.ends_with(".meta")).count()
    };
    assert!(snapshots(&alone.disk) >= 1);
    assert_eq!(alone.count(), rows);
    let used = alone.disk.used();
    // The power fails; what was prepared is free for a start, which needs hardly any.
    let disk = alone.crash();
    disk.set_capacity(Some(used));
    let mut alone = Alone::start(disk, Some(8));
    alone.open("test");
    assert_eq!(alone.count(), rows);
    alone.disk.set_capacity(None);
    alone.look_for_space();
    alone.exec("INSERT INTO t VALUES ('x')").unwrap();
    assert_eq!(alone.count(), rows + 1);
}

/// A file system of its own, gone when dropped.
struct Small(tempfile::TempDir);

impl Small {
    /// `None` where mounting is not allowed.
    fn mount(size: &str) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let size = format!("size={size}");
        let status = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(directory.path())
            .output();
        status.is_ok_and(|output| output.status.success()).then(|| Self(directory))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Whatever still has it open does not matter to a test that ends.
        let _ = std::process::Command::new("umount").arg("-l").arg(self.0.path()).output();
    }
}

#[test]
fn a_node_on_a_full_file_system_recovers_by_itself() {
    let Some(small) = Small::mount("44m") else {
        common::skip("no file system can be mounted here: a full disk is tried in memory only");
        return;
    };
    let directory = small.0.path().join("node");
    std::fs::create_dir(&directory).unwrap();
    let start = || {
        let address = common::unique_address();
        let mut node = server::Node::create(1, address.clone(), directory.clone()).unwrap();
        node.bind(&address).unwrap();
        node.start().unwrap();
        let mut client = server::client::Client::connect(&address, common::TIMEOUT).unwrap();
        client.open("test").unwrap();
        (node, client)
    };
    let (mut node, mut client) = start();
    client.exec_sql("CREATE TABLE t (s TEXT)", &[]).unwrap();
    // Room for one more segment besides the reserve.
    common::eventually("the reserve is there", || {
        let names = std::fs::read_dir(&directory).unwrap();
        names.filter(|name| name.as_ref().unwrap().file_name().to_str().unwrap().starts_with("open-")).count()
            == 3
    });
    let ballast = small.0.path().join("ballast");
    std::fs::write(&ballast, vec![1; 10 << 20]).unwrap();
    let mut rows = 0;
    let refused = loop {
        match client.exec_sql("INSERT INTO t VALUES (hex(randomblob(100000)))", &[]) {
            Ok(_) => rows += 1,
            Err(error) => break error,
        }
        assert!(rows < 1000, "never full");
    };
    assert_eq!(refused.code(), Some(FULL), "{refused}");
    assert!(rows > 10, "{rows}");
    let count = |client: &mut server::client::Client| match common::one(client, "SELECT count(*) FROM t") {
        Value::Integer(count) => count,
        other => panic!("{other:?}"),
    };
    assert_eq!(count(&mut client), rows);
    std::fs::remove_file(&ballast).unwrap();
    common::eventually("writes are accepted again", || {
        client.exec_sql("INSERT INTO t VALUES ('x')", &[]).is_ok()
    });
    rows += 1;
    node.stop().unwrap();
    let (mut node, mut client) = start();
    assert_eq!(count(&mut client), rows);
    node.stop().unwrap();
}
