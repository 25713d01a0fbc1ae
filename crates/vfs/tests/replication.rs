//! Transactions from a leader's connections to a follower's pages.

mod common;

use common::*;
use vfs::Position;

#[test]
fn a_committed_transaction_reaches_the_follower() {
    let pair = pair();
    let mut connection = pair.open();
    exec(&mut connection, "CREATE TABLE t(a INTEGER PRIMARY KEY, b); INSERT INTO t VALUES(1, 'x')");
    assert_eq!(pair.leader.committed(), Position(0));
    assert_eq!(pair.leader.speculative_len(), 2);
    assert_eq!(connection.gate(), pair.leader.captured());
    assert_eq!(replicate(&pair.leader, &pair.follower), 2);
    assert_eq!(pair.leader.committed(), pair.leader.captured());
    assert_same_image(&pair.leader, &pair.follower);
    let mut reader = pair.open_follower();
    assert_eq!(rows(&mut reader, "SELECT * FROM t; PRAGMA integrity_check"), ["1|x", "ok"]);
}

#[test]
fn an_image_survives_snapshot_restore_and_a_switch() {
    let pair = pair();
    let mut connection = pair.open();
    exec(&mut connection, "CREATE TABLE t(a INTEGER PRIMARY KEY, b); INSERT INTO t VALUES(1, 'x')");
    replicate(&pair.leader, &pair.follower);
    exec(&mut connection, "INSERT INTO t VALUES(2, 'lost')");
    let snapshot = pair.leader.snapshot();
    assert_eq!(pair.leader.switch_generation(), 1);
    assert_same_image(&pair.leader, &pair.follower);
    assert_eq!(fails(&mut connection, "INSERT INTO t VALUES(3, 'late')").code, 10250);
    let mut fresh = pair.open();
    assert_eq!(rows(&mut fresh, "SELECT * FROM t; PRAGMA integrity_check"), ["1|x", "ok"]);

    let restored = pair.vfs.get_or_create(&name("restored"));
    let pages: Vec<_> = snapshot.pages().collect();
    restored.restore(snapshot.page_count(), &mut pages.iter().map(|page| &page[..])).unwrap();
    assert_same_image(&restored, &pair.follower);
    let mut reader = pair.vfs.open(restored.name()).unwrap();
    assert_eq!(rows(&mut reader, "SELECT * FROM t; PRAGMA integrity_check"), ["1|x", "ok"]);
    exec(&mut reader, "INSERT INTO t VALUES(9, 'after')");
    assert_eq!(pages_of(&restored), 1);
}

/// Polled transactions, left speculative.
fn pages_of(database: &vfs::Database) -> usize {
    assert!(database.poll_captured_if(|_| false).is_none());
    std::iter::from_fn(|| database.poll_captured_if(|transaction| !transaction.is_delete_marker())).count()
}

#[test]
fn handles_can_go_to_other_threads() {
    fn send<T: Send + std::fmt::Debug>() {}
    fn sync<T: Sync>() {}
    send::<vfs::Connection>();
    send::<vfs::Statement>();
    send::<vfs::InterruptHandle>();
    send::<vfs::Database>();
    send::<vfs::DatabaseSnapshot>();
    send::<vfs::Transaction>();
    send::<vfs::Vfs>();
    sync::<vfs::InterruptHandle>();
    sync::<vfs::DatabaseSnapshot>();
    sync::<vfs::Database>();
    sync::<vfs::Vfs>();
}
