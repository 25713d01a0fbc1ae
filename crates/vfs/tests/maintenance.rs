//! Backfill and restart of the WAL beside readers: nobody's snapshot changes, nothing uncommitted is moved.
#![allow(clippy::unwrap_used, reason = "a failure of a helper is a failure of the test")]

mod common;

use std::collections::VecDeque;

use common::rng::Rng;
use common::*;
use vfs::{Connection, Database, DatabaseSnapshot, Maintenance, Page};

/// Fills a table that covers some hundred pages.
fn fill(connection: &mut Connection) {
    exec(connection, "CREATE TABLE t(a INTEGER PRIMARY KEY, b INT, c)");
    exec(
        connection,
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 300) \
         INSERT INTO t SELECT i, 0, zeroblob(2000) FROM n",
    );
}

const SUM: &str = "SELECT count(*), sum(b), sum(a * b), sum(length(c)) FROM t";

#[test]
fn a_reader_of_the_wal_stops_backfill_at_its_snapshot() {
    let pair = pair();
    let (mut writer, mut reader) = (pair.open(), pair.open());
    fill(&mut writer);
    commit_all(&pair.leader);
    exec(&mut reader, "PRAGMA cache_size=1; BEGIN");
    let before = rows(&mut reader, SUM);
    let frames = pair.leader.wal_frames();
    for _ in 0..3 {
        exec(&mut writer, "UPDATE t SET b = b + 1");
    }
    commit_all(&pair.leader);
    let done = pair.leader.maintain_with(1).unwrap();
    assert_eq!(done, Maintenance { backfilled: frames, restarted: false });
    assert_eq!(pair.leader.maintain_with(1).unwrap(), Maintenance::default(), "nothing more can be moved");
    assert_eq!(rows(&mut reader, SUM), before);
    exec(&mut reader, "COMMIT");
    let rest = pair.leader.wal_frames() - frames;
    assert_eq!(
        pair.leader.maintain_with(1).unwrap(),
        Maintenance { backfilled: rest, restarted: true },
        "the reader has gone"
    );
    assert_eq!(pair.leader.wal_frames(), 0);
    assert_eq!(rows(&mut reader, SUM), rows(&mut writer, SUM));
    assert_ne!(rows(&mut reader, SUM), before);
}

#[test]
fn a_reader_of_the_main_file_is_in_nobodys_way() {
    let pair = pair();
    let (mut writer, mut reader) = (pair.open(), pair.open());
    fill(&mut writer);
    commit_all(&pair.leader);
    assert!(pair.leader.maintain_with(1).unwrap().restarted);
    exec(&mut reader, "PRAGMA cache_size=1; BEGIN");
    let before = rows(&mut reader, SUM);
    exec(&mut writer, "UPDATE t SET b = b + 1");
    commit_all(&pair.leader);
    let frames = pair.leader.wal_frames();
    let done = pair.leader.maintain_with(frames).unwrap();
    assert_eq!(
        done,
        Maintenance { backfilled: frames, restarted: false },
        "a restart would end its hope to write"
    );
    assert_eq!(rows(&mut reader, SUM), before);
    exec(&mut writer, "DELETE FROM t; VACUUM");
    commit_all(&pair.leader);
    pair.leader.maintain_with(1).unwrap();
    assert_eq!(pair.leader.page_count(), 2);
    assert_eq!(rows(&mut reader, SUM), before, "even a database that has become short");
    assert_eq!(rows(&mut reader, "PRAGMA integrity_check"), ["ok"]);
}

#[test]
fn a_wal_that_has_become_long_is_restarted_under_readers_of_the_main_file() {
    let pair = pair();
    let (mut writer, mut reader) = (pair.open(), pair.open());
    fill(&mut writer);
    commit_all(&pair.leader);
    assert!(pair.leader.maintain_with(1).unwrap().restarted);
    exec(&mut reader, "BEGIN");
    let before = rows(&mut reader, SUM);
    exec(&mut writer, "UPDATE t SET b = b + 1");
    commit_all(&pair.leader);
    assert!(pair.leader.maintain_with(1).unwrap().restarted);
    assert_eq!(rows(&mut reader, SUM), before);
    assert_eq!(
        fails(&mut reader, "UPDATE t SET b = 9").code,
        517,
        "it could not have written any more anyway"
    );
}

#[test]
fn nothing_happens_below_the_threshold_or_after_a_fence() {
    let pair = pair();
    let mut writer = pair.open();
    fill(&mut writer);
    assert_eq!(pair.leader.maintain().unwrap(), Maintenance::default(), "nothing is committed");
    assert_eq!(pair.leader.maintain_with(1).unwrap(), Maintenance::default());
    commit_all(&pair.leader);
    assert!(pair.leader.wal_frames() < 1000);
    assert_eq!(pair.leader.maintain().unwrap(), Maintenance::default());
    pair.leader.fence();
    assert_eq!(pair.leader.maintain_with(1).unwrap(), Maintenance::default());
    pair.leader.switch_generation();
    let mut writer = pair.open();
    for _ in 0..8 {
        exec(&mut writer, "UPDATE t SET b = b + 1");
    }
    commit_all(&pair.leader);
    assert!(pair.leader.wal_frames() >= 1000);
    assert!(pair.leader.maintain().unwrap().restarted);
}

#[test]
fn a_writer_in_a_transaction_allows_backfill_and_forbids_a_restart() {
    let pair = pair();
    let mut writer = pair.open();
    fill(&mut writer);
    commit_all(&pair.leader);
    exec(&mut writer, "PRAGMA cache_size=1; BEGIN; UPDATE t SET b = b + 1");
    let done = pair.leader.maintain_with(1).unwrap();
    assert!(done.backfilled > 0 && !done.restarted);
    exec(&mut writer, "UPDATE t SET b = b + 1; COMMIT");
    assert_eq!(replicate_image(&pair.leader).page_count(), pair.leader.page_count());
    assert_eq!(rows(&mut writer, "SELECT sum(b) FROM t; PRAGMA integrity_check"), ["600", "ok"]);
}

fn replicate_image(database: &Database) -> DatabaseSnapshot {
    commit_all(database);
    database.snapshot()
}

#[test]
fn followers_restart_when_their_wal_is_long_and_positions_go_on() {
    let pair = pair();
    let mut writer = pair.open();
    fill(&mut writer);
    let mut restarts = 0;
    for _ in 0..16 {
        exec(&mut writer, "UPDATE t SET b = b + 1");
        let before = pair.follower.committed();
        replicate(&pair.leader, &pair.follower);
        assert!(pair.follower.committed() > before);
        assert_eq!(pair.follower.committed(), pair.leader.committed());
        restarts += u32::from(pair.follower.maintain().unwrap().restarted);
        assert!(pair.follower.wal_frames() < 1000);
        assert_same_image(&pair.leader, &pair.follower);
    }
    assert!(restarts >= 2);
    let mut reader = pair.open_follower();
    assert_eq!(rows(&mut reader, "SELECT sum(b) FROM t; PRAGMA integrity_check"), ["4800", "ok"]);
}

/// A reader in a transaction and what it saw when it began.
struct Reader {
    connection: Connection,
    seen: Option<Vec<String>>,
}

#[test]
fn snapshots_of_readers_hold_under_random_maintenance() {
    for seed in 0..6 {
        let mut rng = Rng::new(seed);
        let pair = pair();
        let mut writer = pair.open();
        fill(&mut writer);
        let mut readers: Vec<Reader> = Vec::new();
        let mut images: VecDeque<(DatabaseSnapshot, Vec<Page>)> = VecDeque::new();
        for _ in 0..150 {
            match rng.below(12) {
                0..4 => {
                    let sql = match rng.below(5) {
                        0 => "DELETE FROM t WHERE a % 7 = 3; INSERT INTO t(b, c) VALUES(5, zeroblob(9000))"
                            .to_owned(),
                        1 => format!("UPDATE t SET c = zeroblob({}) WHERE a % 5 = 1", rng.below(5000)),
                        2 => "VACUUM".to_owned(),
                        _ => format!("UPDATE t SET b = b + 1 WHERE a % {} = 0", rng.below(20) + 1),
                    };
                    exec(&mut writer, &sql);
                }
                4 | 5 => {
                    for _ in 0..rng.below(4) {
                        let Some(transaction) = pair.leader.poll_captured() else { break };
                        apply(&pair.follower, &transaction);
                        pair.leader.commit(transaction.generation, transaction.sequence).unwrap();
                    }
                }
                6 | 7 => {
                    let threshold = rng.pick(&[1, 10, 100, 1000]);
                    pair.leader.maintain_with(threshold).unwrap();
                    pair.follower.maintain_with(threshold).unwrap();
                }
                8 => {
                    if readers.len() < 5 {
                        let mut connection = pair.open();
                        exec(&mut connection, &format!("PRAGMA cache_size={}; BEGIN", rng.below(10)));
                        let seen = Some(rows(&mut connection, SUM));
                        readers.push(Reader { connection, seen });
                    }
                }
                9 => {
                    if !readers.is_empty() {
                        let index = usize::try_from(rng.below(readers.len() as u64)).unwrap();
                        let reader = &mut readers[index];
                        if reader.seen.take().is_some() {
                            exec(&mut reader.connection, "COMMIT");
                        } else {
                            exec(&mut reader.connection, "BEGIN");
                            reader.seen = Some(rows(&mut reader.connection, SUM));
                        }
                    }
                }
                10 => {
                    let image = pair.leader.snapshot();
                    let pages = image.pages().collect();
                    images.push_back((image, pages));
                    if images.len() > 3 {
                        images.pop_front();
                    }
                }
                _ => {
                    if rng.once_in(6) {
                        pair.leader.switch_generation();
                        writer = pair.open();
                        assert_eq!(rows(&mut writer, "PRAGMA integrity_check"), ["ok"]);
                        if query(&mut writer, SUM).is_err() {
                            fill(&mut writer);
                        }
                    }
                }
            }
            for reader in &mut readers {
                if let Some(seen) = &reader.seen {
                    assert_eq!(&rows(&mut reader.connection, SUM), seen, "seed {seed}");
                }
            }
            for (image, pages) in &images {
                assert!(image.pages().eq(pages.iter().cloned()), "seed {seed}: an image has changed");
            }
            pair.leader.check().unwrap();
            assert_same_image(&pair.leader, &pair.follower);
        }
        for reader in &mut readers {
            assert_eq!(rows(&mut reader.connection, "PRAGMA integrity_check"), ["ok"], "seed {seed}");
        }
    }
}
