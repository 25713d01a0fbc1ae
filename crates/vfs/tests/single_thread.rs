//! SQLite in single-thread mode, which is a property of the process: one thread at a time, and still nobody waits for the
//! end of a long statement.
#![allow(clippy::unwrap_used, reason = "a failure of a helper is a failure of the test")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use libsqlite3_sys as ffi;
use vfs::turns::{self, Kind};
use vfs::{ColumnValue, Connection, DatabaseName, Step, ThreadingMode, Vfs, threading_mode};

const ENDLESS: &[u8] =
    b"WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT max(n) FROM c";
const ENDLESS_INSERT: &[u8] =
    b"INSERT INTO t SELECT NULL FROM (WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT n FROM c) LIMIT 1 OFFSET 1000000000000";

fn open(vfs: &Vfs, name: &str) -> Connection {
    let mut connection = vfs.open(&DatabaseName::new(name.as_bytes()).unwrap()).unwrap();
    connection.exec_simple(b"CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY)").unwrap();
    connection
}

fn one(connection: &mut Connection, sql: &[u8]) -> i64 {
    let mut statement = connection.prepare(sql).unwrap().statement.unwrap();
    assert_eq!(statement.step(), Ok(Step::Row));
    let ColumnValue::Integer(value) = statement.column(0) else { panic!("not an integer") };
    value
}

#[test]
fn long_statements_of_other_connections_stop_neither_reads_nor_writes_in_single_thread_mode() {
    // SAFETY: nothing has initialized SQLite in this process yet.
    assert_eq!(unsafe { ffi::sqlite3_config(ffi::SQLITE_CONFIG_SINGLETHREAD) }, ffi::SQLITE_OK);
    assert_eq!(threading_mode(), ThreadingMode::SingleThread);
    let vfs = Arc::new(turns::call(Vfs::register).unwrap());
    let inside = Arc::new(AtomicUsize::new(0));
    let (told, interrupts) = mpsc::channel();
    let threads: Vec<_> = (0..12)
        .map(|number| {
            let (vfs, told, inside) = (Arc::clone(&vfs), told.clone(), Arc::clone(&inside));
            std::thread::spawn(move || {
                let (sql, kind) =
                    if number % 2 == 0 { (ENDLESS, Kind::Reads) } else { (ENDLESS_INSERT, Kind::Writes) };
                turns::run(kind, || {
                    let mut connection = open(&vfs, &format!("long-{number}"));
                    told.send(connection.interrupt_handle()).unwrap();
                    let mut statement = connection.prepare(sql).unwrap().statement.unwrap();
                    inside.fetch_add(1, Ordering::SeqCst);
                    let ended = statement.step();
                    drop(statement);
                    assert!(!connection.in_transaction());
                    ended.unwrap_err().code
                })
            })
        })
        .collect();
    let interrupts: Vec<_> = interrupts.iter().take(12).collect();
    // All of them run before any has ended: the turn goes round.
    let deadline = Instant::now() + Duration::from_secs(60);
    while inside.load(Ordering::SeqCst) < 12 {
        assert!(Instant::now() < deadline, "{inside:?} of 12 statements have begun");
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut probe = turns::call(|| open(&vfs, "probe"));
    let begun = Instant::now();
    for number in 1..=200 {
        turns::run(Kind::Writes, || probe.exec_simple(b"INSERT INTO t VALUES (NULL)").unwrap());
        assert_eq!(turns::run(Kind::Reads, || one(&mut probe, b"SELECT count(*) FROM t")), number);
    }
    let each = begun.elapsed() / 400;
    assert!(each < Duration::from_millis(100), "{each:?}");
    let interrupted = Instant::now();
    interrupts.iter().for_each(vfs::InterruptHandle::interrupt);
    for thread in threads {
        assert_eq!(thread.join().unwrap(), ffi::SQLITE_INTERRUPT);
    }
    assert!(interrupted.elapsed() < Duration::from_secs(10), "{:?}", interrupted.elapsed());
    turns::call(|| drop((probe, vfs)));
}
