//! What ends, and what lets others go on, where SQLite by itself looks at nothing: compilation and `randomblob`.
#![allow(clippy::unwrap_used, reason = "a failure of a helper is a failure of the test")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use libsqlite3_sys as ffi;
use vfs::{ColumnValue, Connection, DatabaseName, Step, Vfs};

fn open(vfs: &Vfs) -> Connection {
    vfs.open(&DatabaseName::new(b"test").unwrap()).unwrap()
}

fn length(connection: &mut Connection, sql: &str) -> Result<i64, i32> {
    let mut statement = connection.prepare(sql.as_bytes()).unwrap().statement.unwrap();
    assert_eq!(statement.step().map_err(|error| error.code)?, Step::Row);
    let ColumnValue::Integer(value) = statement.column(0) else { panic!("not an integer") };
    Ok(value)
}

/// Runs `work` while another thread interrupts the connection every twenty milliseconds.
fn interrupted<R>(connection: &mut Connection, work: impl FnOnce(&mut Connection) -> R) -> R {
    let interrupt = connection.interrupt_handle();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(20));
                interrupt.interrupt();
            }
        });
        let result = work(connection);
        done.store(true, Ordering::Relaxed);
        result
    })
}

/// SQLite 3.40 finished what it compiled whatever was asked of it, newer ones do not.
#[test]
fn an_interrupt_ends_a_compilation() {
    let vfs = Vfs::register().unwrap();
    let mut connection = open(&vfs);
    let mut sql = "WITH c0 AS (SELECT 1 AS a)".to_owned();
    for number in 1..1500 {
        sql += &format!(", c{number} AS (SELECT * FROM c{})", number - 1);
    }
    sql += " SELECT * FROM c1499";
    // One may be over before the interrupt comes.
    let ended = interrupted(&mut connection, |connection| {
        (0..200).find_map(|_| connection.prepare(sql.as_bytes()).err())
    });
    assert_eq!(ended.expect("none of 200 was interrupted").code, ffi::SQLITE_INTERRUPT);
    // What came before has no effect on what comes.
    connection.interrupt_handle().interrupt();
    assert!(connection.prepare(b"SELECT 1, abs(2)").unwrap().statement.is_some());
}

#[test]
fn randomblob_gives_what_sqlite_gives() {
    let vfs = Vfs::register().unwrap();
    let mut connection = open(&vfs);
    for (argument, len) in
        [("16", 16), ("1", 1), ("0", 1), ("-5", 1), ("NULL", 1), ("'x'", 1), ("200000", 200_000)]
    {
        assert_eq!(length(&mut connection, &format!("SELECT length(randomblob({argument}))")), Ok(len));
    }
    let is_blob = "SELECT typeof(randomblob(9)) = 'blob' AND randomblob(9) <> randomblob(9)";
    assert_eq!(length(&mut connection, is_blob), Ok(1));
    // Each piece of a long one is filled: a kilobyte of zeros is no accident.
    let zeros = "SELECT instr(randomblob(300000), zeroblob(1000))";
    assert_eq!(length(&mut connection, zeros), Ok(0));
    for sql in ["SELECT length(randomblob(2147483647))", "SELECT length(randomblob(9223372036854775807))"] {
        assert_eq!(length(&mut connection, sql), Err(ffi::SQLITE_TOOBIG), "{sql}");
    }
    // As SQLite's own it may stand in a default value and a trigger, and in no index.
    connection
        .exec_simple(b"CREATE TABLE t (a, b DEFAULT (randomblob(4))); INSERT INTO t (a) VALUES (1)")
        .unwrap();
    assert_eq!(length(&mut connection, "SELECT length(b) FROM t"), Ok(4));
    connection.exec_simple(b"PRAGMA trusted_schema = OFF; INSERT INTO t (a) VALUES (2)").unwrap();
    let index = connection.exec_simple(b"CREATE INDEX i ON t (randomblob(a))").unwrap_err();
    assert!(index.message.contains("non-deterministic"), "{index:?}");
}

#[test]
fn an_interrupt_ends_randomblob() {
    let vfs = Vfs::register().unwrap();
    let mut connection = open(&vfs);
    let sql = "SELECT length(randomblob(100000000))";
    let ended =
        interrupted(&mut connection, |connection| (0..200).find_map(|_| length(connection, sql).err()));
    assert_eq!(ended, Some(ffi::SQLITE_INTERRUPT));
    assert_eq!(length(&mut connection, "SELECT length(randomblob(100000))"), Ok(100_000));
}

/// SQLite's own held the generator of the process until it was done, and with it everybody who needed a random number.
#[test]
fn randomblob_keeps_nobody_from_the_generator() {
    let vfs = Vfs::register().unwrap();
    let (mut connection, mut other) = (open(&vfs), open(&vfs));
    // Longer than this the other one must not wait; a busy machine may keep it off its processor for as long.
    let is_free = (0..10).any(|_| {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let blob = scope.spawn(|| {
                let begun = Instant::now();
                assert_eq!(length(&mut connection, "SELECT length(randomblob(100000000))"), Ok(100_000_000));
                done.store(true, Ordering::Relaxed);
                begun.elapsed()
            });
            let mut longest = Duration::ZERO;
            while !done.load(Ordering::Relaxed) {
                let begun = Instant::now();
                length(&mut other, "SELECT random()").unwrap();
                longest = longest.max(begun.elapsed());
            }
            longest < blob.join().unwrap() / 2
        })
    });
    assert!(is_free, "each time it had to wait for most of the blob");
}
