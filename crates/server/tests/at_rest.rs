//! A database that nobody writes is moved out of its WAL, however few frames that has.
#![allow(clippy::unwrap_used, reason = "a failure of a helper is a failure of the test")]

mod common;

use common::alone::Alone;
use raft_glue::disk::MemoryDisk;
use server::core::Input;
use vfs::DatabaseName;

/// A fifth of the heartbeat.
const TICK_MS: u64 = 100;

#[test]
fn ticks_backfill_a_database_at_rest_only() {
    let mut alone = Alone::start(MemoryDisk::new(1), None);
    alone.open("test");
    alone.exec("CREATE TABLE t (n INTEGER)").unwrap();
    let database = alone.vfs.database(&DatabaseName::new(b"test").unwrap()).unwrap();
    let tick_after = |alone: &mut Alone, ms: u64| {
        alone.now_ms += ms;
        alone.feed(Input::Tick);
        alone.settle();
    };
    for _ in 0..3 {
        alone.exec("INSERT INTO t VALUES (1)").unwrap();
        tick_after(&mut alone, TICK_MS);
    }
    assert!(database.wal_frames() > 0);
    let waiting = database.backfill().unwrap();
    assert_eq!(waiting, database.wal_frames(), "there was a commit before each tick");
    alone.exec("INSERT INTO t VALUES (1)").unwrap();
    tick_after(&mut alone, TICK_MS);
    tick_after(&mut alone, 1);
    assert!(database.backfill().unwrap() > 0, "ticks for deadlines come at any time");
    alone.exec("INSERT INTO t VALUES (1)").unwrap();
    tick_after(&mut alone, TICK_MS);
    tick_after(&mut alone, TICK_MS);
    assert_eq!(database.backfill().unwrap(), 0, "nothing was left to move");
    assert_eq!(alone.count(), 5);
}
