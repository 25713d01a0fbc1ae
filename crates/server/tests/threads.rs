//! Alone in their process: connections leave nothing behind, and stop leaves no thread, no descriptor and no address behind.
#![allow(clippy::unwrap_used, reason = "a failure of a helper is a failure of the test")]

mod common;

use std::io::Write;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::sync::{Mutex, PoisonError};

use common::TestNode;

fn threads() -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok())
        .map(|name| name.trim().to_owned())
        .filter(|name| name.starts_with("dqlite-"))
        .collect();
    names.sort();
    names
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Both tests count what the process holds.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn connections_that_come_and_go_leave_nothing_behind() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let node = TestNode::start(1);
    drop(node.open());
    // The log prepares its files by and by.
    let sockets = || {
        let links = std::fs::read_dir("/proc/self/fd").unwrap();
        links
            .filter_map(|link| std::fs::read_link(link.unwrap().path()).ok())
            .filter(|target| target.to_string_lossy().starts_with("socket:"))
            .count()
    };
    common::eventually("a closed connection", || sockets() == 1);
    for round in 0..200 {
        let name = SocketAddr::from_abstract_name(&node.address.as_bytes()[1..]).unwrap();
        let mut stream = UnixStream::connect_addr(&name).unwrap();
        if round % 2 == 0 {
            stream.write_all(&[1, 0, 0, 0, 0, 0, 0, 0]).unwrap();
        }
        if round % 4 == 0 {
            stream.write_all(&[7, 0, 0, 0, 3]).unwrap();
        }
    }
    common::eventually("closed connections", || sockets() == 1);
    node.open().exec_sql("CREATE TABLE t (n INTEGER)", &[]).unwrap();
}

#[test]
fn stop_joins_every_thread_and_closes_every_descriptor() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    // What the first node of a process initializes may stay.
    let mut warm_up = TestNode::start(1);
    warm_up.open().exec_sql("CREATE TABLE t (n INTEGER)", &[]).unwrap();
    warm_up.stop();
    drop(warm_up);
    let before = descriptors();
    for _ in 0..3 {
        let mut node = TestNode::start(1);
        let mut client = node.open();
        client.exec_sql("CREATE TABLE t (n INTEGER)", &[]).unwrap();
        client.exec_sql("BEGIN; INSERT INTO t VALUES (1)", &[]).unwrap();
        assert!(threads().contains(&"dqlite-loop".to_owned()), "{:?}", threads());
        node.stop();
        assert_eq!(threads(), Vec::<String>::new());
        drop(client);
        drop(node);
        assert_eq!(descriptors(), before);
    }
}
