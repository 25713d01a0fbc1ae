//! Mistakes of C dqlite 1.18.6 that this VFS must not make. Each test says in its first lines what went wrong there.
//!
//! Those that need clients, a log or a network are listed in the README of this folder.
#![allow(clippy::unwrap_used, reason = "a failure of a helper is a failure of the test")]

mod common;

use std::time::{Duration, Instant};

use bytes::Bytes;
use common::*;
use libsqlite3_sys as ffi;
use vfs::{ApplyError, DatabaseName, NameError, Options, PageNumber, Step, TransactionState, Veto, Vfs};

/// A transaction of some thousand pages.
const BIG: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 2000) \
                   INSERT INTO t SELECT i, printf('%.*c', 3000, 'x') FROM n";

#[test]
fn a_long_wal_is_not_checkpointed_before_the_log_commits() {
    // SQLite checkpointed by itself once a commit reached frame 1000, before replication. What was then aborted stayed
    // visible on that node.
    let pair = pair();
    let mut connection = pair.open();
    exec(&mut connection, "CREATE TABLE t(a INTEGER PRIMARY KEY, b)");
    replicate(&pair.leader, &pair.follower);
    exec(&mut connection, BIG);
    exec(&mut connection, "UPDATE t SET b = 'never replicated' WHERE a = 1");
    assert!(pair.leader.wal_frames() > 1000);
    assert_eq!(rows(&mut connection, "SELECT b FROM t WHERE a = 1"), ["never replicated"]);
    assert_eq!(
        pair.leader.maintain_with(1).unwrap().backfilled,
        pair.leader.wal_frames() - frames_of(&pair, 2)
    );
    assert_same_image(&pair.leader, &pair.follower);
    assert_eq!(pair.leader.switch_generation(), 2);
    let mut fresh = pair.open();
    assert_eq!(rows(&mut fresh, "SELECT count(*) FROM t; PRAGMA integrity_check"), ["0", "ok"]);
    assert_same_image(&pair.leader, &pair.follower);
}

/// Frames of the transactions that are not committed.
fn frames_of(pair: &Pair, transactions: usize) -> u32 {
    assert_eq!(pair.leader.speculative_len(), transactions);
    u32::try_from(pair.leader.speculative_bytes() / vfs::PAGE_SIZE as u64).unwrap()
}

#[test]
fn a_savepoint_rolled_back_after_a_spill_loses_nothing() {
    // The spill left frames above the commit frame. C looked at the last frame, found no commit, and threw away a
    // transaction whose COMMIT had succeeded; the next write stopped the process.
    let pair = pair();
    let mut connection = pair.open();
    exec(&mut connection, "PRAGMA cache_size=5; CREATE TABLE t(a INTEGER PRIMARY KEY, b)");
    exec(&mut connection, "BEGIN; INSERT INTO t VALUES(0, 'kept'); SAVEPOINT s");
    exec(&mut connection, BIG);
    exec(&mut connection, "ROLLBACK TO s; INSERT INTO t VALUES(-1, 'kept too'); COMMIT");
    assert_eq!(replicate(&pair.leader, &pair.follower), 2);
    assert_same_image(&pair.leader, &pair.follower);
    for mut reader in [connection, pair.open(), pair.open_follower()] {
        let expected = ["-1|kept too", "0|kept", "ok"];
        assert_eq!(rows(&mut reader, "SELECT * FROM t; PRAGMA integrity_check"), expected);
    }
    let mut next = pair.open();
    exec(&mut next, "INSERT INTO t VALUES(1, 'next')");
    assert_eq!(replicate(&pair.leader, &pair.follower), 1);
}

#[test]
fn a_statement_that_fails_after_a_spill_loses_nothing() {
    // The same with the default cache: a multi-row statement that fails inside an explicit transaction.
    let pair = pair();
    let mut connection = pair.open();
    exec(&mut connection, "CREATE TABLE t(a INTEGER PRIMARY KEY, b)");
    exec(&mut connection, "BEGIN; INSERT INTO t VALUES(2000, 'in the way')");
    assert_eq!(fails(&mut connection, BIG).message, "UNIQUE constraint failed: t.a");
    exec(&mut connection, "INSERT INTO t VALUES(1, 'after'); COMMIT");
    assert_eq!(replicate(&pair.leader, &pair.follower), 2);
    assert_same_image(&pair.leader, &pair.follower);
    let mut reader = pair.open_follower();
    assert_eq!(
        rows(&mut reader, "SELECT * FROM t; PRAGMA integrity_check"),
        ["1|after", "2000|in the way", "ok"]
    );
}

#[test]
fn pages_that_were_spilled_and_then_cut_off_do_not_travel() {
    let pair = pair();
    let mut connection = pair.open();
    exec(&mut connection, "PRAGMA auto_vacuum=FULL; VACUUM; CREATE TABLE t(a INTEGER PRIMARY KEY, b)");
    exec(&mut connection, "PRAGMA cache_size=5");
    replicate(&pair.leader, &pair.follower);
    exec(&mut connection, "BEGIN");
    exec(&mut connection, BIG);
    exec(&mut connection, "DELETE FROM t; INSERT INTO t VALUES(1, 1); COMMIT");
    let transaction = pair.leader.poll_captured().unwrap();
    assert!(pages(&transaction).iter().all(|page| *page <= transaction.page_count));
    apply(&pair.follower, &transaction);
    pair.leader.commit(transaction.generation, transaction.sequence).unwrap();
    assert_same_image(&pair.leader, &pair.follower);
}

#[test]
fn a_refused_schema_change_leaves_the_connection_with_the_right_schema() {
    // After an aborted DDL the connection kept its schema with a cookie that another connection's DDL produced again, and
    // then wrote a row for the vanished table into the other one.
    let pair = pair();
    let (mut first, mut second) = (pair.open(), pair.open());
    exec(&mut first, "CREATE TABLE base(a)");
    replicate(&pair.leader, &pair.follower);
    pair.leader.set_veto(Some(Veto::TransferPending));
    let refused = fails(&mut first, "CREATE TABLE gone(a, b)");
    assert_eq!((refused.code, &refused.message[..]), (vfs::SQLITE_IOERR_NOT_LEADER, "not leader"));
    assert!(!first.in_transaction());
    pair.leader.set_veto(None);
    exec(&mut second, "CREATE TABLE other(a, b)");
    assert_eq!(fails(&mut first, "INSERT INTO gone VALUES(1, 2)").message, "no such table: gone");
    assert_eq!(rows(&mut first, "SELECT count(*) FROM other"), ["0"]);
    exec(&mut first, "INSERT INTO other VALUES(3, 4)");
    assert_eq!(replicate(&pair.leader, &pair.follower), 2);
    assert_same_image(&pair.leader, &pair.follower);
    assert_eq!(rows(&mut second, "SELECT * FROM other; PRAGMA integrity_check"), ["3|4", "ok"]);
}

#[test]
fn a_connection_whose_schema_change_was_undone_never_writes_again() {
    // The same by loss of leadership: the old connection must not reach the database that went on without it.
    let pair = pair();
    let mut old = pair.open();
    exec(&mut old, "CREATE TABLE base(a)");
    replicate(&pair.leader, &pair.follower);
    exec(&mut old, "CREATE TABLE gone(a, b)");
    pair.leader.fence();
    assert_eq!(pair.leader.switch_generation(), 1);
    assert!(old.is_stale());
    let mut fresh = pair.open();
    exec(&mut fresh, "CREATE TABLE other(a, b)");
    assert_eq!(fails(&mut old, "INSERT INTO gone VALUES(1, 2)").code, vfs::SQLITE_IOERR_NOT_LEADER);
    assert_eq!(rows(&mut old, "SELECT count(*) FROM gone"), ["0"], "it goes on reading what it could read");
    assert_eq!(replicate(&pair.leader, &pair.follower), 1);
    assert_same_image(&pair.leader, &pair.follower);
    assert_eq!(rows(&mut fresh, "SELECT count(*) FROM other; PRAGMA integrity_check"), ["0", "ok"]);
}

#[test]
fn rollback_takes_back_the_deletion_of_a_database() {
    // In C the database was deleted by any release of the WRITE lock after the PRAGMA.
    let pair = pair();
    let mut connection = pair.open();
    exec(&mut connection, "CREATE TABLE t(a)");
    replicate(&pair.leader, &pair.follower);
    exec(&mut connection, "BEGIN IMMEDIATE; PRAGMA delete_database; ROLLBACK");
    assert_eq!(pair.leader.speculative_len(), 0);
    exec(&mut connection, "BEGIN IMMEDIATE; SAVEPOINT s; PRAGMA delete_database; ROLLBACK");
    assert_eq!(rows(&mut connection, "SELECT count(*) FROM t"), ["0"]);
    let mut other = pair.open();
    exec(&mut other, "INSERT INTO t VALUES(1)");
    assert_eq!(replicate(&pair.leader, &pair.follower), 1);
    assert!(!pair.leader.is_deleted() && !pair.follower.is_deleted());
}

#[test]
fn asking_twice_to_delete_a_database_is_asking_once() {
    // It stopped the process.
    let pair = pair();
    let mut connection = pair.open();
    exec(&mut connection, "CREATE TABLE t(a)");
    exec(&mut connection, "BEGIN IMMEDIATE; PRAGMA delete_database; PRAGMA Delete_Database; COMMIT");
    assert_eq!(replicate(&pair.leader, &pair.follower), 2);
    assert!(pair.leader.is_deleted() && pair.follower.is_deleted());
}

#[test]
fn rows_of_a_writing_statement_that_nobody_wants_leave_no_trace() {
    // EXEC of INSERT ... RETURNING answered with an error, but the reset of the statement committed; the WRITE lock stayed
    // taken and a later read replicated the insert.
    let pair = pair();
    let (mut connection, mut other) = (pair.open(), pair.open());
    exec(&mut connection, "CREATE TABLE t(a INTEGER PRIMARY KEY)");
    let mut statement =
        connection.prepare(b"INSERT INTO t VALUES(1) RETURNING a").unwrap().statement.unwrap();
    assert_eq!(statement.step(), Ok(Step::Row));
    connection.refuse_next_commit(Veto::Abort);
    assert_eq!(statement.reset().unwrap_err().code, ffi::SQLITE_ABORT);
    connection.clear_veto();
    drop(statement);
    assert_eq!(connection.transaction_state(), TransactionState::None);
    exec(&mut other, "INSERT INTO t VALUES(2)");
    assert_eq!(rows(&mut connection, "INSERT INTO t VALUES(3) RETURNING a"), ["3"]);
    assert_eq!(rows(&mut other, "SELECT a FROM t"), ["2", "3"]);
    assert_eq!(replicate(&pair.leader, &pair.follower), 3);
    assert_same_image(&pair.leader, &pair.follower);
}

/// Goes through whenever nobody holds the WRITE lock.
const FREE: &str = "INSERT INTO t SELECT ifnull(min(a), 0) - 1, 'free' FROM t";

#[test]
fn a_commit_that_fails_frees_the_write_lock() {
    // A failure between the commit frame and the poll left WRITE taken for ever.
    let mut options = Options::default();
    options.max_transaction_bytes = 100 * vfs::PAGE_SIZE as u64;
    let vfs = Vfs::register_with(options).unwrap();
    let database = vfs.get_or_create(&name("db"));
    let (mut first, mut second) = (vfs.open(database.name()).unwrap(), vfs.open(database.name()).unwrap());
    exec(&mut first, "CREATE TABLE t(a INTEGER PRIMARY KEY, b)");
    for veto in [Veto::NotLeader, Veto::TransferPending, Veto::Abort, Veto::Full] {
        database.set_veto(Some(veto));
        assert_eq!(fails(&mut first, "INSERT INTO t VALUES(1, 1)").code, veto.code());
        exec(&mut first, "BEGIN; INSERT INTO t VALUES(1, 1)");
        assert_eq!(fails(&mut first, "COMMIT").code, veto.code());
        assert!(!first.in_transaction(), "the transaction is gone, {veto:?}");
        exec(&mut first, "BEGIN IMMEDIATE; PRAGMA delete_database");
        assert_eq!(fails(&mut first, "COMMIT").code, veto.code());
        assert!(!first.in_transaction());
        database.set_veto(None);
        exec(&mut second, FREE);
    }
    // Too large: by frames that were spilled, and at the end.
    for cache in ["5", "100000"] {
        exec(&mut first, &format!("PRAGMA cache_size={cache}"));
        let error = fails(&mut first, BIG);
        assert_eq!((error.code, &error.message[..]), (ffi::SQLITE_FULL, "database or disk is full"));
        exec(&mut second, FREE);
    }
    assert_eq!(rows(&mut first, "SELECT count(*) FROM t; PRAGMA integrity_check"), ["6", "ok"]);
    assert_eq!(database.speculative_len(), 7);
    assert_eq!(database.check(), Ok(()));
}

#[test]
fn a_release_that_fails_to_commit_ends_the_transaction() {
    // SQLite rolls the changes back and then goes on as if the savepoint were still open: what followed would be committed
    // without what came before.
    let pair = pair();
    let mut connection = pair.open();
    exec(&mut connection, "CREATE TABLE t(a)");
    exec(&mut connection, "SAVEPOINT s; INSERT INTO t VALUES(1)");
    connection.refuse_next_commit(Veto::NotLeader);
    assert_eq!(fails(&mut connection, "RELEASE s").code, vfs::SQLITE_IOERR_NOT_LEADER);
    connection.clear_veto();
    assert!(!connection.in_transaction());
    assert_eq!(fails(&mut connection, "RELEASE s").message, "no such savepoint: s");
    exec(&mut connection, "INSERT INTO t VALUES(2)");
    assert_eq!(rows(&mut connection, "SELECT a FROM t"), ["2"]);
    assert_eq!(replicate(&pair.leader, &pair.follower), 2);
}

#[test]
fn interrupt_does_not_wait_for_the_statement() {
    // Cancelling set a progress handler, which waits for the connection: 14.8 s of a 15 s statement on the loop thread.
    let pair = pair();
    let mut connection = pair.open();
    let interrupt = connection.interrupt_handle();
    let (started, wait) = std::sync::mpsc::channel();
    let runner = std::thread::spawn(move || {
        started.send(()).unwrap();
        let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT sum(i) FROM n";
        fails(&mut connection, endless).code
    });
    wait.recv().unwrap();
    while !runner.is_finished() {
        let before = Instant::now();
        interrupt.interrupt();
        assert!(before.elapsed() < Duration::from_secs(1), "an interrupt waited");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(runner.join().unwrap(), ffi::SQLITE_INTERRUPT);
    interrupt.interrupt();
}

#[test]
fn an_interrupted_write_leaves_nothing_and_holds_nothing() {
    let pair = pair();
    let mut connection = pair.open();
    exec(&mut connection, "PRAGMA cache_size=5; CREATE TABLE t(a INTEGER PRIMARY KEY, b)");
    let interrupt = connection.interrupt_handle();
    let runner = std::thread::spawn(move || {
        let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) \
                       INSERT INTO t SELECT i, printf('%.*c', 3000, 'x') FROM n";
        let error = fails(&mut connection, endless);
        (connection, error.code)
    });
    while !runner.is_finished() {
        std::thread::sleep(Duration::from_millis(20));
        interrupt.interrupt();
    }
    let (mut connection, code) = runner.join().unwrap();
    assert_eq!(code, ffi::SQLITE_INTERRUPT);
    let mut other = pair.open();
    exec(&mut other, "INSERT INTO t VALUES(1, 1)");
    assert_eq!(rows(&mut connection, "SELECT * FROM t"), ["1|1"]);
    assert_eq!(pair.leader.wal_frames(), frames_of(&pair, 2), "spilled frames are gone");
}

#[test]
fn attach_reaches_neither_files_nor_databases() {
    // A bound parameter or an expression as name was seen as null and let through.
    let pair = pair();
    let mut connection = pair.open();
    exec(&mut connection, "CREATE TABLE t(a)");
    for sql in
        ["ATTACH 'other' AS o", "ATTACH ':memory:' AS o", "ATTACH 'oth' || 'er' AS o", "ATTACH NULL AS o"]
    {
        let error = fails(&mut connection, sql);
        assert_eq!((error.code, &error.message[..]), (ffi::SQLITE_AUTH, "not authorized"), "{sql}");
    }
    let error = connection.prepare(b"ATTACH ?1 AS o").unwrap_err();
    assert_eq!(error.code, ffi::SQLITE_AUTH);
    let error = fails(&mut connection, "VACUUM INTO 'file'");
    assert_eq!((error.code, &error.message[..]), (ffi::SQLITE_AUTH, "authorization denied"));
    let mut vacuum = connection.prepare(b"VACUUM INTO ?1").unwrap().statement.unwrap();
    vacuum.bind_text(1, Bytes::from_static(b"file")).unwrap();
    assert_eq!(vacuum.step().unwrap_err().code, ffi::SQLITE_AUTH);
    assert_eq!(pair.vfs.databases().len(), 2);
    assert!(!std::path::Path::new("file").exists());

    exec(&mut connection, "ATTACH '' AS o; CREATE TABLE o.x(a); INSERT INTO o.x VALUES(1)");
    assert_eq!(rows(&mut connection, "SELECT a FROM o.x"), ["1"]);
    exec(&mut connection, "DETACH o");
    assert_eq!(pair.leader.speculative_len(), 1, "a private temporary database is not replicated");
}

#[test]
fn names_that_sqlite_would_not_pass_on_are_refused() {
    // OPEN of ":memory:" or "" succeeded and the next request or snapshot crashed; a name of 505 bytes made every later
    // snapshot fail; "x-wal" was mixed up with "x".
    let vfs = Vfs::register().unwrap();
    for (text, error) in [
        ("", NameError::Empty),
        (":memory:", NameError::Memory),
        ("x-wal", NameError::Suffix),
        ("file:x?mode=memory", NameError::Uri),
    ] {
        assert_eq!(DatabaseName::new(text.as_bytes()), Err(error));
    }
    assert_eq!(DatabaseName::new(&[b'n'; 505]), Err(NameError::TooLong));
    // From the log such names are taken, and nothing can be opened.
    let replicated = DatabaseName::replicated(b"x-wal").unwrap();
    let database = vfs.get_or_create(&replicated);
    assert_eq!(vfs.open(&replicated).unwrap_err().code, ffi::SQLITE_CANTOPEN);
    assert_eq!(database.snapshot().page_count(), 1);
    assert_eq!(vfs.databases().len(), 1);
}

#[test]
fn pages_of_another_size_and_impossible_numbers_change_nothing() {
    // The page size of a command was not compared with that of the database.
    let pair = pair();
    let before = pair.follower.committed();
    let page = pair.leader.snapshot().page(1);
    let refused = |pages: Vec<(PageNumber, &[u8])>| pair.follower.apply(&mut pages.into_iter()).unwrap_err();
    assert_eq!(
        refused(vec![(PageNumber(1), &page[..]), (PageNumber(2), &[0; 8192])]),
        ApplyError::PageSize { number: 2, len: 8192 }
    );
    assert_eq!(refused(vec![]), ApplyError::Empty);
    assert!(matches!(refused(vec![(PageNumber(0), &page[..])]), ApplyError::PageNumber { number: 0, .. }));
    let far = PageNumber(u32::MAX);
    assert!(matches!(refused(vec![(far, &page[..])]), ApplyError::PageNumber { .. }));
    assert_eq!(pair.follower.committed(), before);
    assert_same_image(&pair.leader, &pair.follower);
}

#[test]
fn a_restore_replaces_everything_beside_readers() {
    // A restore waited for readers and was then dropped, and databases that a snapshot does not have stayed.
    let pair = pair();
    let mut connection = pair.open();
    exec(&mut connection, "CREATE TABLE t(a); INSERT INTO t VALUES(1)");
    replicate(&pair.leader, &pair.follower);
    let snapshot = pair.leader.snapshot();
    let mut reader = pair.open_follower();
    exec(&mut connection, "CREATE TABLE later(a)");
    replicate(&pair.leader, &pair.follower);
    exec(&mut reader, "BEGIN");
    assert_eq!(rows(&mut reader, "SELECT count(*) FROM later"), ["0"]);
    let pages: Vec<_> = snapshot.pages().collect();
    pair.follower.restore(snapshot.page_count(), &mut pages.iter().map(|page| &page[..])).unwrap();
    assert_eq!(rows(&mut reader, "SELECT count(*) FROM later"), ["0"], "the reader keeps its snapshot");
    assert!(reader.is_stale());
    let mut fresh = pair.open_follower();
    assert_eq!(fails(&mut fresh, "SELECT * FROM later").message, "no such table: later");
    assert_eq!(rows(&mut fresh, "SELECT a FROM t; PRAGMA integrity_check"), ["1", "ok"]);

    assert!(pair.vfs.remove(pair.leader.name()));
    assert_eq!(fails(&mut connection, "INSERT INTO t VALUES(2)").code, vfs::SQLITE_IOERR_NOT_LEADER);
    assert!(pair.vfs.database(pair.leader.name()).is_none());
    assert_eq!(pair.vfs.databases().len(), 1);
}
