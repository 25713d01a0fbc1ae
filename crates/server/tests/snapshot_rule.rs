//! How often databases are written to a snapshot.
#![allow(clippy::unwrap_used, reason = "a failure of a helper is a failure of the test")]

mod common;

use common::alone::Alone;
use raft_glue::disk::MemoryDisk;

/// Inserts until the next snapshot; returns how many entries that took.
fn entries_to_next_snapshot(alone: &mut Alone) -> usize {
    let before = alone.snapshots;
    for entries in 1..5000 {
        alone.exec("UPDATE counter SET n = n + 1").unwrap();
        if alone.snapshots > before {
            return entries;
        }
    }
    panic!("no snapshot within 5,000 entries");
}

/// A database of about 1.5 MiB, with a snapshot of it.
fn large(threshold: Option<u32>) -> Alone {
    let mut alone = Alone::start(MemoryDisk::new(1), threshold);
    alone.open("test");
    alone.exec("CREATE TABLE counter (n INTEGER); INSERT INTO counter VALUES (0)").unwrap();
    alone.exec("CREATE TABLE t (b BLOB)").unwrap();
    alone.exec("INSERT INTO t VALUES (randomblob(1500000))").unwrap();
    entries_to_next_snapshot(&mut alone);
    alone
}

#[test]
fn a_database_is_not_rewritten_before_the_log_is_eight_times_as_long_as_it() {
    let entries = entries_to_next_snapshot(&mut large(None));
    // An entry has a page and some dozen bytes.
    assert!((2850..2950).contains(&entries), "{entries}");
}

#[test]
fn numbers_of_the_host_are_obeyed_to_the_letter() {
    assert_eq!(entries_to_next_snapshot(&mut large(Some(1024))), 1024);
    assert_eq!(entries_to_next_snapshot(&mut large(Some(200))), 200);
}

#[test]
fn a_small_database_is_written_as_often_as_by_c() {
    let mut alone = Alone::start(MemoryDisk::new(1), None);
    alone.open("test");
    alone.exec("CREATE TABLE counter (n INTEGER); INSERT INTO counter VALUES (0)").unwrap();
    entries_to_next_snapshot(&mut alone);
    assert_eq!(entries_to_next_snapshot(&mut alone), 1024);
}
