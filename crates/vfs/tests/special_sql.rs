//! What a fresh connection is like, what clients may not say, and statements with rules of their own.
#![allow(clippy::unwrap_used, reason = "a failure of a helper is a failure of the test")]

mod common;

use bytes::Bytes;
use common::*;
use libsqlite3_sys as ffi;
use vfs::{Lifetime, Step, TransactionState};

#[test]
fn a_fresh_connection_has_the_settings_of_the_node() {
    let pair = pair();
    let mut connection = pair.open();
    for (pragma, value) in [
        ("journal_mode", "wal"),
        ("synchronous", "0"),
        ("foreign_keys", "1"),
        ("cache_size", "-2000"),
        ("mmap_size", "0"),
        ("page_size", "4096"),
        ("temp_store", "0"),
        ("auto_vacuum", "0"),
        ("encoding", "UTF-8"),
        ("query_only", "0"),
        ("page_count", "1"),
    ] {
        assert_eq!(rows(&mut connection, &format!("PRAGMA {pragma}")), [value], "{pragma}");
    }
    assert_eq!(rows(&mut connection, "PRAGMA wal_autocheckpoint"), ["0"], "and it is in effect");
    assert_eq!(
        fails(&mut connection, "SELECT load_extension('x')").message,
        "not authorized to use function: load_extension"
    );
    assert_eq!(pair.leader.speculative_len(), 0, "opening writes nothing");
    exec(&mut connection, "CREATE TABLE p(a PRIMARY KEY); CREATE TABLE c(a REFERENCES p)");
    assert_eq!(fails(&mut connection, "INSERT INTO c VALUES(1)").message, "FOREIGN KEY constraint failed");
}

#[test]
fn settings_of_the_node_cannot_be_changed() {
    let pair = pair();
    let mut connection = pair.open();
    let denied = [
        "journal_mode=DELETE",
        "journal_mode=WAL",
        "Journal_Mode(off)",
        "main.journal_mode=memory",
        "temp.journal_mode=memory",
        "page_size=4096",
        "page_size=8192",
        "synchronous=OFF",
        "synchronous=FULL",
        "wal_autocheckpoint=1",
        "busy_timeout",
        "busy_timeout=5000",
        "read_uncommitted",
        "read_uncommitted=1",
        "LOCKING_MODE",
        "locking_mode=EXCLUSIVE",
        "writable_schema=ON",
        "writable_schema=1",
        "main.writable_schema(yes)",
        "schema_version=7",
        "hard_heap_limit=1",
        "soft_heap_limit=1",
        "temp_store_directory='/'",
    ];
    for pragma in denied {
        let error = fails(&mut connection, &format!("PRAGMA {pragma}"));
        assert_eq!((error.code, &error.message[..]), (ffi::SQLITE_AUTH, "not authorized"), "{pragma}");
    }
    for pragma in ["busy_timeout", "wal_checkpoint", "locking_mode"] {
        assert!(query(&mut connection, &format!("SELECT * FROM pragma_{pragma}")).is_err(), "{pragma}");
    }
    for pragma in [
        "foreign_keys=0",
        "cache_size=10",
        "cache_spill=1",
        "mmap_size=100000",
        "journal_size_limit=0",
        "max_page_count=1000000",
        "auto_vacuum=1",
        "writable_schema=0",
        "query_only=0",
        "user_version=3",
        "hard_heap_limit",
        "soft_heap_limit",
        "delete_database=x",
    ] {
        query(&mut connection, &format!("PRAGMA {pragma}")).unwrap();
    }
    exec(&mut connection, "CREATE TABLE t(a); INSERT INTO t VALUES(zeroblob(100000)); DELETE FROM t; VACUUM");
    replicate(&pair.leader, &pair.follower);
    assert_same_image(&pair.leader, &pair.follower);
}

#[test]
fn a_checkpoint_finds_nothing_to_do() {
    let pair = pair();
    let mut connection = pair.open();
    exec(&mut connection, "CREATE TABLE t(a)");
    let frames = pair.leader.wal_frames();
    for sql in
        ["PRAGMA wal_checkpoint", "PRAGMA wal_checkpoint(TRUNCATE)", "PRAGMA main.wal_checkpoint=FULL;"]
    {
        let prepared = connection.prepare(sql.as_bytes()).unwrap();
        assert_eq!(prepared.consumed, sql.len(), "{sql}");
        assert_eq!(prepared.statement.unwrap().column_name(1), b"log");
        assert_eq!(rows(&mut connection, sql), ["0|0|0"], "{sql}");
    }
    assert_eq!(pair.leader.wal_frames(), frames);
}

#[test]
fn functions_that_reach_the_process_are_refused_in_every_place() {
    let pair = pair();
    let mut connection = pair.open();
    exec(&mut connection, "CREATE TABLE t(a)");
    for call in
        ["fts3_tokenizer('simple')", "FTS3_Tokenizer('mine', ?)", "sqlite_log(1, 'x')", "load_extension('x')"]
    {
        for sql in [
            format!("SELECT {call}"),
            format!("CREATE VIEW v AS SELECT {call}; SELECT * FROM v"),
            format!("CREATE TRIGGER r AFTER INSERT ON t BEGIN SELECT {call}; END; INSERT INTO t VALUES(1)"),
            format!(
                "DROP TABLE IF EXISTS d; CREATE TABLE d(b, a DEFAULT ({call})); INSERT INTO d(b) VALUES(1)"
            ),
            format!("WITH c AS (SELECT {call}) SELECT * FROM c"),
        ] {
            let failed = connection.exec_simple(sql.as_bytes());
            assert!(failed.is_err(), "{sql}");
            connection.exec_simple(b"DROP VIEW IF EXISTS v; DROP TRIGGER IF EXISTS r").unwrap();
        }
        let message = fails(&mut connection, &format!("SELECT {call}")).message;
        assert!(message.starts_with("not authorized to use function"), "{call}: {message}");
    }
    assert!(query(&mut connection, "UPDATE sqlite_schema SET sql = 'garbage'").is_err());
}

#[test]
fn a_database_with_a_damaged_schema_can_be_opened() {
    let pair = pair();
    let mut connection = pair.open();
    exec(&mut connection, "CREATE TABLE precious(a); CREATE TABLE ws(a)");
    while let Some(transaction) = pair.leader.poll_captured() {
        let pages: Vec<_> = transaction
            .pages
            .iter()
            .map(|(number, page)| {
                let mut bytes = page.as_ref().to_vec();
                let sql = b"CREATE TABLE ws";
                if let Some(at) = bytes.windows(sql.len()).position(|window| window == sql) {
                    bytes[at..at + 6].copy_from_slice(b"broken");
                }
                (*number, bytes)
            })
            .collect();
        pair.follower.apply(&mut pages.iter().map(|(number, bytes)| (*number, &bytes[..]))).unwrap();
    }
    let mut damaged = pair.open_follower();
    assert!(fails(&mut damaged, "SELECT * FROM precious").message.contains("malformed database schema"));
    assert_eq!(rows(&mut damaged, "SELECT 1"), ["1"]);
}

#[test]
fn statements_know_whether_they_need_the_writer_lane() {
    let pair = pair();
    let mut connection = pair.open();
    exec(&mut connection, "CREATE TABLE t(a)");
    for (sql, readonly) in [
        ("SELECT 1", true),
        ("BEGIN", true),
        ("SAVEPOINT s", true),
        ("RELEASE s", true),
        ("COMMIT", true),
        ("ROLLBACK", true),
        ("ATTACH '' AS x", true),
        ("PRAGMA cache_size=10", true),
        ("BEGIN IMMEDIATE", false),
        ("INSERT INTO t VALUES(1)", false),
        ("VACUUM", false),
        ("ANALYZE", false),
        ("CREATE TABLE IF NOT EXISTS t(a)", false),
        ("CREATE TEMP TABLE x(a)", false),
        ("PRAGMA user_version=1", false),
    ] {
        let statement = connection.prepare(sql.as_bytes()).unwrap().statement.unwrap();
        assert_eq!(statement.readonly(), readonly, "{sql}");
    }
}

#[test]
fn temporary_tables_are_private_and_not_replicated() {
    let pair = pair();
    let (mut connection, mut other) = (pair.open(), pair.open());
    exec(&mut connection, "PRAGMA cache_size=5; CREATE TEMP TABLE x(a)");
    exec(
        &mut connection,
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 3000) \
         INSERT INTO x SELECT printf('%.*c', 2000, 'x') FROM n",
    );
    assert_eq!(rows(&mut connection, "SELECT count(*) FROM x"), ["3000"]);
    assert_eq!(fails(&mut other, "SELECT * FROM x").message, "no such table: x");
    assert_eq!(pair.leader.speculative_len(), 0);
    exec(&mut connection, "BEGIN; INSERT INTO x VALUES(1)");
    exec(&mut other, "CREATE TABLE t(a)");
    exec(&mut connection, "COMMIT");
    assert_eq!(replicate(&pair.leader, &pair.follower), 1);
}

#[test]
fn vacuum_is_one_transaction_and_gives_space_back() {
    let pair = pair();
    let mut connection = pair.open();
    exec(&mut connection, "CREATE TABLE t(a); INSERT INTO t VALUES(zeroblob(3000000)); DROP TABLE t");
    replicate(&pair.leader, &pair.follower);
    assert!(pair.leader.page_count() > 700);
    exec(&mut connection, "VACUUM");
    assert_eq!(replicate(&pair.leader, &pair.follower), 1);
    assert_eq!((pair.leader.page_count(), pair.follower.page_count()), (1, 1));
    for database in [&pair.leader, &pair.follower] {
        assert!(database.maintain_with(1).unwrap().restarted);
        assert_eq!(database.snapshot().page_count(), 1);
    }
    assert_same_image(&pair.leader, &pair.follower);
}

#[test]
fn a_second_writer_is_busy_only_while_a_transaction_is_open() {
    let pair = pair();
    let (mut first, mut second) = (pair.open(), pair.open());
    exec(&mut first, "CREATE TABLE t(a)");
    exec(&mut first, "BEGIN; INSERT INTO t VALUES(1)");
    assert_eq!(first.transaction_state(), TransactionState::Write);
    let error = fails(&mut second, "INSERT INTO t VALUES(2)");
    assert_eq!((error.code, &error.message[..]), (ffi::SQLITE_BUSY, "database is locked"));
    assert_eq!(rows(&mut second, "SELECT count(*) FROM t"), ["0"]);
    exec(&mut first, "COMMIT");
    exec(&mut second, "INSERT INTO t VALUES(2)");
    assert_eq!(pair.leader.speculative_len(), 3, "the second did not wait for the log");
    assert_eq!(rows(&mut first, "SELECT a FROM t"), ["1", "2"]);
    assert!(first.gate() > pair.leader.committed());
}

#[test]
fn a_stale_snapshot_cannot_become_a_write() {
    let pair = pair();
    let (mut first, mut second) = (pair.open(), pair.open());
    exec(&mut first, "CREATE TABLE t(a)");
    exec(&mut second, "BEGIN");
    assert_eq!(rows(&mut second, "SELECT count(*) FROM t"), ["0"]);
    exec(&mut first, "INSERT INTO t VALUES(1)");
    let error = fails(&mut second, "INSERT INTO t VALUES(2)");
    assert_eq!((error.code, &error.message[..]), (ffi::SQLITE_BUSY_SNAPSHOT, "database is locked"));
    assert_eq!(rows(&mut second, "SELECT count(*) FROM t"), ["0"]);
    exec(&mut second, "ROLLBACK; INSERT INTO t VALUES(2)");
}

#[test]
fn a_rollback_leaves_no_frames_with_and_without_spill() {
    let pair = pair();
    let mut connection = pair.open();
    exec(&mut connection, "CREATE TABLE t(a)");
    let frames = pair.leader.wal_frames();
    for cache in ["1000", "5"] {
        exec(&mut connection, &format!("PRAGMA cache_size={cache}; BEGIN"));
        exec(
            &mut connection,
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 163) \
             INSERT INTO t SELECT printf('%.*c', 1000, 'x') FROM n",
        );
        exec(&mut connection, "ROLLBACK");
        assert_eq!((pair.leader.wal_frames(), pair.leader.speculative_len()), (frames, 1));
    }
}

#[test]
fn a_spilled_transaction_travels_with_the_final_images() {
    let pair = pair();
    let mut connection = pair.open();
    exec(&mut connection, "PRAGMA cache_size=5; CREATE TABLE t(a INTEGER PRIMARY KEY, b)");
    replicate(&pair.leader, &pair.follower);
    exec(&mut connection, "BEGIN");
    for row in 0..163 {
        exec(&mut connection, &format!("INSERT INTO t VALUES({row}, printf('%.*c', 500, 'x'))"));
    }
    exec(&mut connection, "UPDATE t SET b = 'final' WHERE a = 0; COMMIT");
    let transaction = pair.leader.poll_captured().unwrap();
    let numbers = pages(&transaction);
    assert!(numbers.is_sorted_by(|left, right| left < right), "each page once: {numbers:?}");
    apply(&pair.follower, &transaction);
    pair.leader.commit(transaction.generation, transaction.sequence).unwrap();
    assert_same_image(&pair.leader, &pair.follower);
    let mut reader = pair.open_follower();
    assert_eq!(rows(&mut reader, "SELECT b FROM t WHERE a = 0; PRAGMA integrity_check"), ["final", "ok"]);
}

#[test]
fn values_of_all_kinds_go_in_and_come_out() {
    use vfs::ColumnValue::{Blob, Float, Integer, Null, Text};
    let pair = pair();
    let mut connection = pair.open();
    exec(&mut connection, "CREATE TABLE t(a INT, b REAL, c TEXT, d BLOB, e)");
    let sql = b"INSERT INTO t VALUES(?1, ?2, ?3, ?4, ?5); tail";
    let prepared = connection.prepare_with(sql, Lifetime::Persistent).unwrap();
    assert_eq!(&sql[prepared.consumed..], b" tail");
    let mut insert = prepared.statement.unwrap();
    assert_eq!(insert.parameter_count(), 5);
    insert.bind_integer(1, i64::MIN).unwrap();
    insert.bind_float(2, -0.5).unwrap();
    insert.bind_text(3, Bytes::new()).unwrap();
    insert.bind_blob(4, Bytes::new()).unwrap();
    insert.bind_null(5).unwrap();
    assert_eq!(insert.bind_null(6).unwrap_err().code, ffi::SQLITE_RANGE);
    assert_eq!(insert.bind_null(usize::MAX).unwrap_err().code, ffi::SQLITE_RANGE);
    assert_eq!(insert.step(), Ok(Step::Done));
    insert.reset().unwrap();
    assert_eq!((connection.last_insert_rowid(), connection.changes()), (1, 1));
    insert.clear_bindings();
    assert_eq!(insert.step(), Ok(Step::Done));

    let mut select = connection.prepare(b"SELECT *, 1 + 1 AS two FROM t").unwrap().statement.unwrap();
    assert_eq!((select.column_count(), select.column_name(5)), (6, &b"two"[..]));
    assert_eq!(select.column_decltype(1), Some(&b"REAL"[..]));
    assert_eq!((select.column_decltype(5), select.column_decltype(99)), (None, None));
    assert_eq!(select.step(), Ok(Step::Row));
    let row: Vec<_> = (0..7).map(|column| select.column(column)).collect();
    assert_eq!(row, [Integer(i64::MIN), Float(-0.5), Text(b""), Blob(b""), Null, Integer(2), Null]);
    assert_eq!(select.step(), Ok(Step::Row));
    assert_eq!(select.column(3), Null, "cleared");
    assert_eq!(select.step(), Ok(Step::Done));

    for nothing in [&b""[..], b"  ", b"-- comment", b";"] {
        assert!(connection.prepare(nothing).unwrap().statement.is_none());
    }
    let error = connection.prepare(b"SELEC 1").unwrap_err();
    assert_eq!((error.code, &error.message[..]), (ffi::SQLITE_ERROR, "near \"SELEC\": syntax error"));
}

#[test]
fn bound_values_are_neither_copied_nor_let_go_while_a_row_may_use_them() {
    use vfs::ColumnValue::{Null, Text};
    let pair = pair();
    let mut connection = pair.open();
    let mut select = connection.prepare(b"SELECT ?1").unwrap().statement.unwrap();
    let value = Bytes::from(vec![b'x'; 100_000]);
    select.bind_text(1, value.clone()).unwrap();
    assert!(!value.is_unique(), "it is kept");
    assert_eq!(select.step(), Ok(Step::Row));
    select.clear_bindings();
    assert!(!value.is_unique(), "the row is made of it");
    assert_eq!(select.column(0), Text(&value));
    assert_eq!(select.step(), Ok(Step::Done));
    select.clear_bindings();
    assert!(value.is_unique());
    assert_eq!(select.step(), Ok(Step::Row));
    assert_eq!(select.column(0), Null);
    select.bind_text(1, value.clone()).unwrap_err();
    drop(select);
    assert!(value.is_unique());
}
