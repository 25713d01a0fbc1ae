//! Read transactions whose view is taken: they see their snapshot or an error, and the memory is free again.
#![allow(clippy::unwrap_used, reason = "a failure of a helper is a failure of the test")]

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::rng::Rng;
use common::*;
use vfs::{Connection, Database, Step, Vfs};

const BUSY_SNAPSHOT: i32 = 517;

/// Rows on pages of their own, which have the same value in every committed state.
fn fill(connection: &mut Connection) {
    exec(connection, "CREATE TABLE t(a INTEGER PRIMARY KEY, b INT, c)");
    exec(
        connection,
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 200) \
         INSERT INTO t SELECT i, 0, zeroblob(3000) FROM n",
    );
}

fn write(connection: &mut Connection, database: &Database, times: usize) {
    for _ in 0..times {
        exec(connection, "UPDATE t SET b = b + 1");
        commit_all(database);
        database.maintain_with(1).unwrap();
    }
}

/// Ends all readers that keep memory; returns how many.
fn end_all(database: &Database) -> usize {
    let holds = database.reader_holds();
    holds.iter().filter(|hold| database.end_reader(hold.reader, hold.transaction)).count()
}

/// With `in_main` the reader finds the WAL empty and reads the main file alone.
fn setup(in_main: bool) -> (Pair, Connection, Connection) {
    let pair = pair();
    let mut writer = pair.open();
    fill(&mut writer);
    commit_all(&pair.leader);
    let mut reader = pair.open();
    exec(&mut reader, "PRAGMA cache_size=3");
    if in_main {
        pair.leader.backfill().unwrap();
    } else {
        exec(&mut writer, "UPDATE t SET b = 0");
        commit_all(&pair.leader);
    }
    (pair, writer, reader)
}

#[test]
fn a_reader_is_charged_with_what_was_replaced_since_it_began_and_gives_it_back() {
    for in_main in [false, true] {
        let (pair, mut writer, mut reader) = setup(in_main);
        exec(&mut reader, "BEGIN; SELECT a FROM t WHERE a = 1");
        assert_eq!(pair.leader.reader_holds(), [], "nothing was replaced yet");
        write(&mut writer, &pair.leader, 20);
        let holds = pair.leader.reader_holds();
        assert_eq!(holds.len(), 1, "{in_main}");
        assert_eq!(holds[0].reader, reader.reader());
        // A reader of the WAL keeps every version of every page, one of the main file the first.
        let versions = if in_main { 1 } else { 20 };
        let expected = versions * 200 * 4096;
        assert!((expected..expected * 2).contains(&holds[0].bytes), "{holds:?}");
        assert_eq!(holds[0].bytes, holds[0].share);

        assert!(pair.leader.end_reader(holds[0].reader, holds[0].transaction));
        assert!(!pair.leader.end_reader(holds[0].reader, holds[0].transaction), "once");
        pair.leader.maintain_with(1).unwrap();
        assert_eq!(pair.leader.reader_holds(), []);
        assert_eq!(pair.leader.wal_frames(), 0, "the WAL could start again");
        let error = fails(&mut reader, "SELECT sum(b) FROM t");
        assert_eq!(error.code, BUSY_SNAPSHOT);
        assert!(error.message.starts_with("database is locked: "), "{error}");
        assert!(reader.in_transaction(), "it is the client's to end");
        assert_eq!(fails(&mut reader, "SELECT max(b) FROM t").code, BUSY_SNAPSHOT, "and stays so");
        assert_eq!(fails(&mut reader, "INSERT INTO t VALUES(1000, 1, 1)").code, BUSY_SNAPSHOT);
        exec(&mut reader, if in_main { "ROLLBACK" } else { "COMMIT" });
        assert_eq!(rows(&mut reader, "SELECT min(b), max(b) FROM t"), ["20|20"]);
        exec(&mut reader, "UPDATE t SET b = b + 1");
        assert_eq!(rows(&mut writer, "SELECT min(b), max(b) FROM t"), ["21|21"]);
        pair.leader.check().unwrap();
    }
}

#[test]
fn a_statement_in_the_middle_of_its_rows_ends_with_an_error_and_its_connection_goes_on() {
    for in_main in [false, true] {
        let (pair, mut writer, mut reader) = setup(in_main);
        let mut statement = reader.prepare(b"SELECT b, c FROM t").unwrap().statement.unwrap();
        assert_eq!(statement.step(), Ok(Step::Row));
        write(&mut writer, &pair.leader, 3);
        assert_eq!(end_all(&pair.leader), 1);
        pair.leader.maintain_with(1).unwrap();
        write(&mut writer, &pair.leader, 3);
        let error = loop {
            match statement.step() {
                // What stands in pages that it has is of its snapshot.
                Ok(Step::Row) => assert_eq!(statement.column(0), vfs::ColumnValue::Integer(0)),
                Ok(Step::Done) => panic!("it cannot have read all"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.code, BUSY_SNAPSHOT);
        drop(statement);
        assert!(!reader.in_transaction());
        assert_eq!(rows(&mut reader, "SELECT min(b), max(b) FROM t"), ["6|6"]);
    }
}

#[test]
fn writers_and_readers_of_the_newest_state_are_let_be() {
    let (pair, mut writer, mut reader) = setup(false);
    exec(&mut reader, "BEGIN; SELECT a FROM t WHERE a = 1");
    write(&mut writer, &pair.leader, 1);
    let hold = pair.leader.reader_holds()[0];
    exec(&mut reader, "ROLLBACK; BEGIN IMMEDIATE; UPDATE t SET b = b + 1");
    assert_eq!(pair.leader.reader_holds(), []);
    assert!(!pair.leader.end_reader(hold.reader, hold.transaction), "another transaction");
    assert!(!pair.leader.end_reader(hold.reader, hold.transaction + 1), "it writes");
    exec(&mut reader, "COMMIT");
    commit_all(&pair.leader);
    assert_eq!(rows(&mut writer, "SELECT min(b), max(b) FROM t"), ["2|2"]);
}

#[test]
fn readers_are_charged_with_what_those_that_began_later_do_not_keep() {
    let (pair, mut writer, mut first) = setup(false);
    let mut second = pair.open();
    exec(&mut first, "BEGIN; SELECT a FROM t WHERE a = 1");
    write(&mut writer, &pair.leader, 6);
    exec(&mut second, "BEGIN; SELECT a FROM t WHERE a = 1");
    write(&mut writer, &pair.leader, 2);
    let holds = pair.leader.reader_holds();
    let readers: Vec<_> = holds.iter().map(|hold| hold.reader).collect();
    assert_eq!(readers, [first.reader(), second.reader()]);
    assert_eq!(holds[0].bytes, holds[0].share + holds[1].share);
    assert_eq!(holds[1].bytes, holds[1].share);
    assert!(holds[0].share > 2 * holds[1].share);
    assert!(pair.leader.end_reader(holds[0].reader, holds[0].transaction));
    assert_eq!(rows(&mut second, "SELECT min(b), max(b) FROM t"), ["6|6"], "nobody else is touched");
    assert_eq!(pair.leader.reader_holds(), holds[1..]);
}

/// A writer, readers, and somebody who takes their views at any moment.
#[test]
fn whatever_moment_a_view_is_taken_at_its_reader_sees_its_snapshot_or_an_error() {
    let vfs = Vfs::register().unwrap();
    let database = vfs.get_or_create(&name("db"));
    fill(&mut vfs.open(database.name()).unwrap());
    commit_all(&database);
    let stop = AtomicBool::new(false);
    let (whole, ended) = (AtomicU64::new(0), AtomicU64::new(0));
    let read = |seed: u64| {
        let mut rng = Rng::new(seed);
        let mut connection = vfs.open(database.name()).unwrap();
        exec(&mut connection, "PRAGMA cache_size=3");
        while !stop.load(Ordering::Relaxed) {
            exec(&mut connection, "BEGIN");
            let mut first = None;
            for _ in 0..rng.below(20) {
                match query(&mut connection, "SELECT count(*), min(b), max(b) FROM t") {
                    Ok(rows) => {
                        let numbers: Vec<u64> =
                            rows[0].split('|').map(|text| text.parse().unwrap()).collect();
                        assert_eq!((numbers[0], numbers[1]), (200, numbers[2]), "a torn snapshot");
                        assert_eq!(*first.get_or_insert(numbers[1]), numbers[1], "a snapshot has changed");
                        whole.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error) => {
                        assert_eq!(error.code, BUSY_SNAPSHOT, "{error}");
                        ended.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
            exec(&mut connection, "COMMIT");
        }
    };
    // Also when an assertion fails, or the others would go on for ever.
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let wanted = std::env::var("VFS_STRESS_MS").ok().map(|text| text.parse().unwrap());
    let duration = Duration::from_millis(wanted.unwrap_or(1500));
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        let readers: Vec<_> = (0..3).map(|seed| scope.spawn(move || read(seed))).collect();
        let mut writer = vfs.open(database.name()).unwrap();
        let (begin, mut rng) = (Instant::now(), Rng::new(7));
        let shown = || whole.load(Ordering::Relaxed) > 50 && ended.load(Ordering::Relaxed) > 50;
        while begin.elapsed() < duration || (!shown() && begin.elapsed().as_secs() < 60) {
            write(&mut writer, &database, 1);
            if rng.once_in(3) {
                end_all(&database);
                database.maintain_with(1).unwrap();
            }
        }
        stop.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.join().unwrap();
        }
        assert!(shown(), "{whole:?} whole reads, {ended:?} ended");
    });
    database.check().unwrap();
    database.maintain_with(1).unwrap();
    assert_eq!(database.wal_frames(), 0, "no lock is left behind");
}
