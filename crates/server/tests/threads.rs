//! Alone in its process: stop leaves no thread, no descriptor and no address behind.
#![allow(clippy::unwrap_used, reason = "a failure of a helper is a failure of the test")]

mod common;

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

#[test]
fn stop_joins_every_thread_and_closes_every_descriptor() {
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
