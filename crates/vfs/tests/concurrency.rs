//! Threads: a writer, readers, and the thread that commits, backfills, takes snapshots and loses leadership.
//!
//! `VFS_STRESS_MS=60000` makes each test run for a minute.
#![allow(clippy::unwrap_used, reason = "a failure of a helper is a failure of the test")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::rng::Rng;
use common::*;
use vfs::{Connection, Database, Vfs};

const ROWS: u64 = 40;

/// A table whose rows lie on different pages and have the same value in every committed state.
fn fill(connection: &mut Connection) {
    exec(connection, "CREATE TABLE t(a INTEGER PRIMARY KEY, b INT, c)");
    exec(
        connection,
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 40) \
         INSERT INTO t SELECT i, 0, zeroblob(3000) FROM n",
    );
}

/// The value that all rows have.
fn value(connection: &mut Connection) -> u64 {
    let answer = rows(connection, "SELECT count(*), min(b), max(b) FROM t");
    let numbers: Vec<u64> = answer[0].split('|').map(|text| text.parse().unwrap()).collect();
    assert_eq!(numbers[0], ROWS);
    assert_eq!(numbers[1], numbers[2], "a torn snapshot");
    numbers[1]
}

/// How long a test goes on.
fn duration() -> Duration {
    let wanted = std::env::var("VFS_STRESS_MS").ok().map(|text| text.parse().unwrap());
    Duration::from_millis(wanted.unwrap_or(1500))
}

struct Shared {
    vfs: Vfs,
    leader: Arc<Database>,
    follower: Arc<Database>,
    stop: AtomicBool,
    reads: AtomicU64,
    writes: AtomicU64,
}

impl Shared {
    fn new() -> Self {
        let vfs = Vfs::register().unwrap();
        let leader = vfs.get_or_create(&name("leader"));
        let follower = vfs.get_or_create(&name("follower"));
        fill(&mut vfs.open(leader.name()).unwrap());
        replicate(&leader, &follower);
        Self {
            vfs,
            leader,
            follower,
            stop: AtomicBool::new(false),
            reads: AtomicU64::new(0),
            writes: AtomicU64::new(0),
        }
    }

    fn running(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Replaces a connection if its generation is over; returns whether it was.
    fn renew(&self, connection: &mut Connection) -> bool {
        let stale = connection.is_stale();
        if stale {
            *connection = self.vfs.open(self.leader.name()).unwrap();
        }
        stale
    }

    fn write(&self) {
        let mut connection = self.vfs.open(self.leader.name()).unwrap();
        while self.running() {
            match connection.exec_simple(b"UPDATE t SET b = b + 1") {
                Ok(()) => {
                    self.writes.fetch_add(1, Ordering::Relaxed);
                }
                // There is no other writer, so nothing but the end of the generation may stand in the way.
                Err(error) => assert_eq!(error.code, vfs::SQLITE_IOERR_NOT_LEADER, "{error}"),
            }
            self.renew(&mut connection);
        }
    }

    fn read(&self, seed: u64) {
        let mut rng = Rng::new(seed);
        let mut connection = self.vfs.open(self.leader.name()).unwrap();
        exec(&mut connection, "PRAGMA cache_size=3");
        let mut last = 0;
        while self.running() {
            if rng.once_in(4) {
                exec(&mut connection, "BEGIN");
                let first = value(&mut connection);
                for _ in 0..rng.below(20) {
                    assert_eq!(value(&mut connection), first, "a snapshot has changed");
                }
                exec(&mut connection, "COMMIT");
            } else {
                let now = value(&mut connection);
                assert!(now >= last, "a connection saw time go back");
                last = now;
            }
            self.reads.fetch_add(1, Ordering::Relaxed);
            if self.renew(&mut connection) {
                last = 0;
            }
        }
    }

    /// What the loop thread does. `losses` says whether leadership is lost now and then.
    fn drive(&self, duration: Duration, losses: bool) {
        let mut rng = Rng::new(1);
        let begin = Instant::now();
        let mut held = Vec::new();
        let mut captured = 0;
        // On a busy machine the others get their turns late; a minute must do.
        while begin.elapsed() < duration || (!self.has_shown_something() && begin.elapsed().as_secs() < 60) {
            for _ in 0..rng.below(5) {
                let Some(transaction) = self.leader.poll_captured() else { break };
                captured += 1;
                apply(&self.follower, &transaction);
                self.leader.commit(transaction.generation, transaction.sequence).unwrap();
                self.leader.maintain_with(rng.pick(&[1, 50, 1000])).unwrap();
            }
            if rng.once_in(50) {
                let pages: Vec<_> = self.leader.snapshot().pages().collect();
                held.push((self.leader.snapshot(), pages));
                held.drain(..held.len().saturating_sub(3));
            }
            if losses && captured > rng.below(10) {
                captured = 0;
                if rng.once_in(2) {
                    self.leader.fence();
                    std::thread::yield_now();
                }
                self.leader.switch_generation();
                assert_same_image(&self.leader, &self.follower);
            }
            self.follower.maintain_with(500).unwrap();
            self.leader.check().unwrap();
        }
        for (image, pages) in held {
            assert!(image.pages().eq(pages));
        }
    }

    fn run(&self, duration: Duration, losses: bool) {
        // Also when the assertions of this thread fail, or the others would go on for ever.
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        std::thread::scope(|scope| {
            let _stop = Stop(&self.stop);
            let writer = scope.spawn(|| self.write());
            let readers: Vec<_> = (0..3).map(|seed| scope.spawn(move || self.read(seed))).collect();
            self.drive(duration, losses);
            self.stop.store(true, Ordering::Relaxed);
            writer.join().unwrap();
            for reader in readers {
                reader.join().unwrap();
            }
        });
        replicate(&self.leader, &self.follower);
        assert_same_image(&self.leader, &self.follower);
        for database in [&self.leader, &self.follower] {
            let mut connection = self.vfs.open(database.name()).unwrap();
            value(&mut connection);
            assert_eq!(rows(&mut connection, "PRAGMA integrity_check"), ["ok"]);
        }
        println!("{:?} reads, {:?} writes", self.reads, self.writes);
        assert!(self.has_shown_something());
    }

    fn has_shown_something(&self) -> bool {
        self.reads.load(Ordering::Relaxed) > 50 && self.writes.load(Ordering::Relaxed) > 50
    }
}

#[test]
fn a_writer_and_readers_run_beside_commits_and_maintenance() {
    let shared = Shared::new();
    shared.run(duration(), false);
    assert_eq!(
        value(&mut shared.vfs.open(shared.leader.name()).unwrap()),
        shared.writes.load(Ordering::Relaxed)
    );
}

#[test]
fn a_writer_and_readers_survive_losses_of_leadership() {
    Shared::new().run(duration(), true);
}

#[test]
fn follower_readers_see_whole_transactions_while_others_are_applied() {
    let shared = Shared::new();
    let mut writer = shared.vfs.open(shared.leader.name()).unwrap();
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut connection = shared.vfs.open(shared.follower.name()).unwrap();
                    exec(&mut connection, "PRAGMA cache_size=3");
                    let generation = connection.generation();
                    let mut last = 0;
                    while shared.running() {
                        let now = value(&mut connection);
                        assert!(now >= last);
                        last = now;
                    }
                    assert_eq!(generation, shared.follower.generation(), "readers are no reason to switch");
                })
            })
            .collect();
        let end = Instant::now() + duration();
        while Instant::now() < end {
            exec(&mut writer, "UPDATE t SET b = b + 1");
            replicate(&shared.leader, &shared.follower);
            shared.follower.maintain_with(200).unwrap();
            shared.leader.maintain_with(200).unwrap();
        }
        shared.stop.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.join().unwrap();
        }
    });
    assert_same_image(&shared.leader, &shared.follower);
}
