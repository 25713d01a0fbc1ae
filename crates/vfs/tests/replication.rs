//! Transactions from a leader's connections to a follower's pages.

#![allow(clippy::unwrap_used, reason = "a failure of a helper is a failure of the test")]

mod common;

use common::rng::Rng;
use common::*;
use proptest::collection::vec;
use proptest::prelude::*;
use vfs::{ApplyError, Error, Page, PageNumber, Position};

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
    assert_eq!(commit_all(&restored).len(), 1);
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

#[test]
fn every_answer_knows_the_position_it_depends_on() {
    let pair = pair();
    let (mut first, mut second) = (pair.open(), pair.open());
    exec(&mut first, "CREATE TABLE t(a INTEGER PRIMARY KEY)");
    replicate(&pair.leader, &pair.follower);
    let committed = pair.leader.committed();
    exec(&mut first, "INSERT INTO t VALUES(1)");
    let inserted = pair.leader.captured();
    assert!(inserted > committed);
    assert_eq!(first.gate(), inserted, "the end of its own transaction");
    assert_eq!(fails(&mut second, "INSERT INTO t VALUES(1)").message, "UNIQUE constraint failed: t.a");
    assert_eq!(second.gate(), inserted, "an error can come from speculative rows");
    exec(&mut first, "DROP TABLE t");
    let dropped = pair.leader.captured();
    assert_eq!(second.prepare(b"SELECT * FROM t").map(|_| ()), Ok(()), "a schema that it has read already");
    assert_eq!(second.gate(), inserted);
    let mut third = pair.open();
    assert_eq!(third.prepare(b"SELECT * FROM t").unwrap_err().message, "no such table: t");
    assert_eq!(third.gate(), dropped, "and from speculative schemas");
    // A snapshot that was taken earlier does not wait for later commits, and positions go on over restarts.
    replicate(&pair.leader, &pair.follower);
    assert!(pair.leader.maintain_with(1).unwrap().restarted);
    assert_eq!(pair.leader.committed(), dropped);
    assert_eq!(rows(&mut second, "SELECT count(*) FROM sqlite_schema"), ["0"]);
    assert_eq!(second.gate(), dropped);
    exec(&mut second, "CREATE TABLE u(a)");
    assert!(second.gate() > dropped);
    assert_eq!(first.gate(), dropped);
}

#[test]
fn commits_name_what_was_handed_out() {
    let pair = pair();
    let mut connection = pair.open();
    exec(&mut connection, "CREATE TABLE t(a); INSERT INTO t VALUES(1); INSERT INTO t VALUES(2)");
    let first = pair.leader.poll_captured().unwrap();
    assert!(pair.leader.poll_captured_if(|_| false).is_none());
    let second = pair.leader.poll_captured().unwrap();
    assert_eq!(second.sequence, first.sequence + 1);
    let over = first.generation + 1000;
    assert_eq!(pair.leader.commit(over, first.sequence), Err(Error::StaleGeneration(over)));
    assert_eq!(pair.leader.commit(first.generation, second.sequence), Ok(second.end), "all up to it");
    assert!(matches!(
        pair.leader.commit(first.generation, second.sequence + 1),
        Err(Error::Invariant { database, .. }) if database == "leader"
    ));
    // From here on the database refuses all work.
    assert!(pair.leader.check().is_err());
    assert!(query(&mut connection, "INSERT INTO t VALUES(3)").is_err());
    assert!(pair.leader.maintain().is_err());
    let page = pair.follower.snapshot().page(1);
    assert!(pair.leader.apply(&mut [(PageNumber(1), &page[..])].into_iter()).is_err());
    pair.leader.switch_generation();
    assert!(pair.leader.check().is_err(), "also in another generation");
}

#[test]
fn a_fenced_generation_gives_nothing_and_takes_nothing() {
    let pair = pair();
    let mut connection = pair.open();
    exec(&mut connection, "CREATE TABLE t(a); INSERT INTO t VALUES(1)");
    let polled = pair.leader.poll_captured().unwrap();
    pair.leader.fence();
    assert!(pair.leader.poll_captured().is_none());
    let stale = Error::StaleGeneration(polled.generation);
    assert_eq!(pair.leader.commit(polled.generation, polled.sequence), Err(stale.clone()));
    assert_eq!(pair.leader.switch_generation(), 2);
    assert_eq!(pair.leader.commit(polled.generation, polled.sequence), Err(stale));
    // The transaction made it into the log after all and comes back as that of another node.
    apply(&pair.leader, &polled);
    assert_eq!(rows(&mut pair.open(), "SELECT count(*) FROM t"), ["0"]);
    assert!(pair.leader.committed() > Position(0));
}

#[test]
fn a_foreign_transaction_does_not_wait_for_a_local_writer() {
    let pair = pair();
    let mut local = pair.open_follower();
    exec(&mut local, "BEGIN IMMEDIATE");
    let mut connection = pair.open();
    exec(&mut connection, "CREATE TABLE t(a); INSERT INTO t VALUES(1)");
    let before = pair.follower.generation();
    replicate(&pair.leader, &pair.follower);
    assert_ne!(pair.follower.generation(), before);
    assert!(local.is_stale());
    assert_eq!(fails(&mut local, "CREATE TABLE x(a); COMMIT").code, vfs::SQLITE_IOERR_NOT_LEADER);
    let mut fresh = pair.open_follower();
    assert_eq!(rows(&mut fresh, "SELECT a FROM t; PRAGMA integrity_check"), ["1", "ok"]);
}

#[test]
fn a_foreign_transaction_beside_speculation_is_a_violated_invariant() {
    let pair = pair();
    let (mut ours, mut theirs) = (pair.open_follower(), pair.open());
    exec(&mut ours, "CREATE TABLE mine(a)");
    exec(&mut theirs, "CREATE TABLE theirs(a)");
    let transaction = pair.leader.poll_captured().unwrap();
    let mut pages = transaction.pages.iter().map(|(number, page)| (*number, page.as_ref()));
    assert!(matches!(
        pair.follower.apply(&mut pages),
        Err(ApplyError::Database(Error::Invariant { reason, .. })) if reason == "apply with 1 speculative transactions"
    ));
    assert!(pair.follower.check().is_err());
}

#[test]
fn merged_and_shuffled_transactions_have_the_same_effect() {
    let pair = pair();
    let merged = pair.vfs.get_or_create(&name("merged"));
    let mut rng = Rng::new(5);
    let mut connection = pair.open();
    exec(&mut connection, "PRAGMA auto_vacuum=FULL; VACUUM; CREATE TABLE t(a INTEGER PRIMARY KEY, b)");
    for _ in 0..40 {
        let sql = match rng.below(3) {
            0 => format!("DELETE FROM t WHERE a % {} = 0", rng.below(4) + 1),
            1 => format!("UPDATE t SET b = zeroblob({})", rng.below(3000)),
            _ => format!("INSERT INTO t(b) VALUES(zeroblob({}))", rng.below(60_000)),
        };
        exec(&mut connection, &sql);
        if !rng.once_in(4) {
            continue;
        }
        // As a leader merges a batch: in order, so that the last image of a page wins, and in one entry.
        let batch = commit_all(&pair.leader);
        let Some(last) = batch.last() else { continue };
        let mut images: Vec<(PageNumber, Page)> = Vec::new();
        for transaction in &batch {
            apply(&pair.follower, transaction);
            images.extend(transaction.pages.iter().cloned());
        }
        images.retain(|(number, _)| number.0 <= last.page_count);
        merged.apply(&mut images.iter().map(|(number, page)| (*number, page.as_ref()))).unwrap();
        assert_same_image(&pair.leader, &merged);
        assert_same_image(&pair.leader, &pair.follower);
        if rng.once_in(3) {
            merged.maintain_with(1).unwrap();
        }
    }
    let mut reader = pair.vfs.open(merged.name()).unwrap();
    assert_eq!(rows(&mut reader, "PRAGMA integrity_check"), ["ok"]);
}

#[test]
fn an_image_that_is_none_changes_nothing() {
    let pair = pair();
    let mut connection = pair.open();
    exec(&mut connection, "CREATE TABLE t(a)");
    replicate(&pair.leader, &pair.follower);
    let good: Vec<Page> = pair.leader.snapshot().pages().collect();
    let mut short = good[0].to_vec();
    short.pop();
    let damaged = |offset: usize| {
        let mut page = good[0].to_vec();
        page[offset] ^= 0xff;
        page
    };
    let generation = pair.leader.generation();
    for first in [short, damaged(0), damaged(16), damaged(18), damaged(19)] {
        let pages = [&first[..], &good[1][..]];
        assert!(matches!(pair.leader.restore(2, &mut pages.into_iter()), Err(Error::Image(_))));
    }
    for count in [0, 1, 3, u32::MAX] {
        let mut pages = good.iter().map(|page| &page[..]);
        assert!(matches!(pair.leader.restore(count, &mut pages), Err(Error::Image(_))), "{count}");
    }
    assert_eq!(pair.leader.generation(), generation);
    assert_same_image(&pair.leader, &pair.follower);
    pair.leader.restore(0, &mut std::iter::empty()).unwrap();
    assert_eq!(pair.leader.page_count(), 1, "no pages are those of a new database");
    assert_eq!(rows(&mut pair.open(), "SELECT count(*) FROM sqlite_schema"), ["0"]);
}

#[test]
fn images_of_many_sizes_come_back_as_they_were() {
    for count in [0, 1, 256, 993, 2200] {
        let pair = pair();
        let mut connection = pair.open();
        exec(&mut connection, "CREATE TABLE t(a INTEGER PRIMARY KEY, b)");
        if count > 0 {
            exec(
                &mut connection,
                &format!(
                    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {count}) \
                     INSERT INTO t SELECT i, printf('%.*c', i % 700, 'x') FROM n"
                ),
            );
        }
        replicate(&pair.leader, &pair.follower);
        // Taken with frames in the WAL, and written to meanwhile.
        let snapshot = pair.leader.snapshot();
        exec(&mut connection, "CREATE TABLE later(a); DELETE FROM t");
        commit_all(&pair.leader);
        pair.leader.maintain_with(1).unwrap();
        let pages: Vec<Page> = snapshot.pages().collect();
        pair.leader.restore(snapshot.page_count(), &mut pages.iter().map(|page| &page[..])).unwrap();
        assert_same_image(&pair.leader, &pair.follower);
        let mut fresh = pair.open();
        assert_eq!(
            rows(&mut fresh, "SELECT count(*) FROM t; PRAGMA integrity_check"),
            [count.to_string(), "ok".to_owned()]
        );
        assert_eq!(fails(&mut fresh, "SELECT * FROM later").message, "no such table: later");
        exec(&mut fresh, "INSERT INTO t(b) VALUES('more')");
        assert_eq!(replicate(&pair.leader, &pair.follower), 1);
        assert_same_image(&pair.leader, &pair.follower);
    }
}

proptest! {
    #[test]
    fn any_bytes_are_an_old_image_or_an_error(main in 0_usize..3, cut in 0_usize..40, mut wal in vec(any::<u8>(), 0..9000), keep: bool) {
        let main = vec![1; main * 4096 + usize::from(cut == 1)];
        if keep && wal.len() >= 32 {
            wal[8..12].copy_from_slice(&4096_u32.to_be_bytes());
            let frames = (wal.len() - 32) / 4120;
            wal.truncate(32 + frames * 4120);
            for frame in 0..frames {
                let start = 32 + frame * 4120;
                // Small numbers, or nearly all would be refused for the same reason.
                for field in [start, start + 4] {
                    wal[field..field + 3].fill(0);
                    wal[field + 3] %= 8;
                }
            }
        }
        if let Ok(pages) = vfs::overlay_wal(&main, &wal) {
            prop_assert!(pages.iter().all(|page| page.len() == 4096));
            prop_assert!(pages.len() <= main.len() / 4096 + wal.len() / 4120 + 1);
        }
    }
}
