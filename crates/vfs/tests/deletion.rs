//! `PRAGMA delete_database`.
#![allow(clippy::unwrap_used, reason = "a failure of a helper is a failure of the test")]

mod common;

use common::*;
use libsqlite3_sys as ffi;

const DELETE: &str = "BEGIN IMMEDIATE; PRAGMA delete_database; COMMIT";

#[test]
fn deleting_needs_a_write_transaction() {
    let pair = pair();
    let mut connection = pair.open();
    exec(&mut connection, "CREATE TABLE t(a)");
    for prefix in ["", "BEGIN; ", "BEGIN; SELECT * FROM t; "] {
        let error = fails(&mut connection, &format!("{prefix}PRAGMA delete_database"));
        assert_eq!(error.code, ffi::SQLITE_ERROR);
        assert_eq!(
            error.message,
            "PRAGMA delete_database must be run in a write transaction. Use BEGIN IMMEDIATE to start one."
        );
        let _ = query(&mut connection, "ROLLBACK");
    }
    assert_eq!(pair.leader.speculative_len(), 1);
}

#[test]
fn deleting_is_ignored_beside_other_changes() {
    let pair = pair();
    let mut connection = pair.open();
    exec(&mut connection, "CREATE TABLE t(a)");
    exec(&mut connection, "BEGIN IMMEDIATE; PRAGMA delete_database; INSERT INTO t VALUES(1); COMMIT");
    exec(&mut connection, "BEGIN; INSERT INTO t VALUES(2); PRAGMA delete_database; COMMIT");
    replicate(&pair.leader, &pair.follower);
    assert_eq!(rows(&mut connection, "SELECT a FROM t"), ["1", "2"]);
    // The request does not outlive its transaction.
    exec(&mut connection, "BEGIN IMMEDIATE; COMMIT");
    assert_eq!(pair.leader.speculative_len(), 0);
    exec(&mut connection, "PRAGMA cache_size=1; BEGIN");
    exec(
        &mut connection,
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 500) \
         INSERT INTO t SELECT printf('%.*c', 3000, 'x') FROM n",
    );
    assert_eq!(
        fails(&mut connection, "PRAGMA delete_database").message,
        "PRAGMA delete_database must be the only statement run in the transaction."
    );
}

#[test]
fn the_marker_is_one_page_that_travels_alone() {
    let pair = pair();
    let mut connection = pair.open();
    exec(&mut connection, "PRAGMA user_version=7; CREATE TABLE t(a); INSERT INTO t VALUES(zeroblob(50000))");
    replicate(&pair.leader, &pair.follower);
    let cookie = rows(&mut connection, "PRAGMA schema_version")[0].parse::<u32>().unwrap();
    exec(&mut connection, DELETE);
    let marker = pair.leader.poll_captured().unwrap();
    assert!(marker.is_delete_marker());
    assert_eq!((pages(&marker), marker.page_count), (vec![1], 1));
    let page = &marker.pages[0].1;
    let word = |offset: usize| u32::from_be_bytes(page[offset..offset + 4].try_into().unwrap());
    for field in [28, 32, 36, 48, 52, 60, 64, 68] {
        assert_eq!(word(field), 0, "{field}");
    }
    assert_eq!(word(40), cookie + 1);
    assert_eq!(page[92..96], [1, 0, 0, 0]);
    assert_eq!(page[100..108], [0x0d, 0, 0, 0, 0, 0x10, 0, 0]);
    assert!(!pair.leader.is_deleted(), "not before the log commits");
    assert!(connection.gate() >= marker.end);
    apply(&pair.follower, &marker);
    pair.leader.commit(marker.generation, marker.sequence).unwrap();
    assert!(pair.leader.is_deleted() && pair.follower.is_deleted());
    assert_same_image(&pair.leader, &pair.follower);
}

#[test]
fn readers_keep_their_snapshot_and_see_an_empty_database_afterwards() {
    let pair = pair();
    let (mut connection, mut reader) = (pair.open(), pair.open());
    exec(&mut connection, "CREATE TABLE t(a); INSERT INTO t VALUES(1)");
    exec(&mut reader, "BEGIN");
    assert_eq!(rows(&mut reader, "SELECT a FROM t"), ["1"]);
    exec(&mut connection, DELETE);
    replicate(&pair.leader, &pair.follower);
    pair.leader.maintain_with(1).unwrap();
    assert_eq!(rows(&mut reader, "SELECT a FROM t"), ["1"]);
    exec(&mut reader, "COMMIT");
    for connection in [&mut reader, &mut connection] {
        assert_eq!(fails(connection, "SELECT a FROM t").message, "no such table: t");
        assert_eq!(rows(connection, "PRAGMA integrity_check; PRAGMA user_version"), ["ok", "0"]);
    }
}

#[test]
fn storage_goes_with_the_last_connection_and_other_databases_stay() {
    let pair = pair();
    let mut connection = pair.open();
    exec(&mut connection, DELETE);
    assert!(!pair.vfs.remove_if_deleted(pair.leader.name()), "the log has not committed it");
    replicate(&pair.leader, &pair.follower);
    assert!(!pair.vfs.remove_if_deleted(pair.leader.name()), "a connection is open");
    assert!(pair.vfs.remove_if_deleted(pair.follower.name()), "followers have none");
    drop(connection);
    assert!(pair.vfs.remove_if_deleted(pair.leader.name()));
    assert!(!pair.vfs.remove_if_deleted(pair.leader.name()));
    assert!(pair.vfs.databases().is_empty());
    let other = pair.vfs.get_or_create(&name("other"));
    assert!(!other.is_deleted());
    assert!(!pair.vfs.remove_if_deleted(other.name()));
}

#[test]
fn storage_that_was_never_written_goes_with_the_last_connection() {
    let pair = pair();
    let mut connection = pair.open();
    assert_eq!(rows(&mut connection, "SELECT count(*) FROM sqlite_schema"), ["0"]);
    assert!(pair.leader.is_pristine());
    assert!(!pair.vfs.remove_if_pristine(pair.leader.name()), "it is open");
    exec(&mut connection, "CREATE TABLE t(a)");
    drop(connection);
    assert!(!pair.vfs.remove_if_pristine(pair.leader.name()), "the log may commit something");
    assert_eq!(pair.leader.switch_generation(), 1);
    assert!(pair.vfs.remove_if_pristine(pair.leader.name()));
    assert!(pair.vfs.database(pair.leader.name()).is_none());

    // What came from the log or from a snapshot stays, even if it is empty.
    let mut connection = pair.open();
    exec(&mut connection, "CREATE TABLE t(a)");
    let leader = pair.vfs.database(pair.leader.name()).unwrap();
    replicate(&leader, &pair.follower);
    drop(connection);
    let restored = pair.vfs.get_or_create(&name("restored"));
    let image = pair.vfs.get_or_create(&name("empty")).snapshot();
    let pages: Vec<_> = image.pages().collect();
    restored.restore(image.page_count(), &mut pages.iter().map(|page| &page[..])).unwrap();
    for database in [&leader, &pair.follower, &restored] {
        assert!(!database.is_pristine() && !pair.vfs.remove_if_pristine(database.name()));
    }
}

#[test]
fn a_write_brings_the_database_back() {
    let pair = pair();
    let mut connection = pair.open();
    exec(&mut connection, "CREATE TABLE t(a); INSERT INTO t VALUES(1)");
    exec(&mut connection, DELETE);
    exec(&mut connection, "CREATE TABLE t(a, b); INSERT INTO t VALUES(2, 3)");
    assert_eq!(replicate(&pair.leader, &pair.follower), 5);
    assert!(!pair.leader.is_deleted() && !pair.follower.is_deleted());
    assert_same_image(&pair.leader, &pair.follower);
    let mut reader = pair.open_follower();
    assert_eq!(rows(&mut reader, "SELECT * FROM t; PRAGMA integrity_check"), ["2|3", "ok"]);
    exec(&mut connection, DELETE);
    replicate(&pair.leader, &pair.follower);
    exec(&mut connection, "PRAGMA user_version=1");
    replicate(&pair.leader, &pair.follower);
    assert!(!pair.leader.is_deleted() && !pair.follower.is_deleted());
    assert_same_image(&pair.leader, &pair.follower);
}

#[test]
fn a_deletion_that_the_log_did_not_commit_is_undone() {
    let pair = pair();
    let mut connection = pair.open();
    exec(&mut connection, "CREATE TABLE t(a); INSERT INTO t VALUES(1)");
    replicate(&pair.leader, &pair.follower);
    exec(&mut connection, DELETE);
    assert_eq!(pair.leader.switch_generation(), 1);
    assert!(!pair.leader.is_deleted());
    assert_eq!(rows(&mut pair.open(), "SELECT a FROM t; PRAGMA integrity_check"), ["1", "ok"]);
}

#[test]
fn a_deleted_database_survives_snapshot_and_restore_as_deleted() {
    let pair = pair();
    let mut connection = pair.open();
    exec(&mut connection, DELETE);
    replicate(&pair.leader, &pair.follower);
    let snapshot = pair.leader.snapshot();
    let restored = pair.vfs.get_or_create(&name("restored"));
    let pages: Vec<_> = snapshot.pages().collect();
    restored.restore(snapshot.page_count(), &mut pages.iter().map(|page| &page[..])).unwrap();
    assert!(restored.is_deleted());
}
