//! Backfill and restart of the WAL, done natively beside readers and writers.
//!
//! Backfill moves committed frames into the main file by pointer; it stops at the lowest mark of a READ slot that is in
//! use. Readers that ignore the WAL (READ(0)) have pinned the table, so they are not in the way. A restart makes frame
//! numbers begin at 1 again; it needs a WAL that is committed and backfilled whole and that nobody reads or writes.

use crate::database::Maintenance;
use crate::generation::{Generation, State};
use crate::locks::{CHECKPOINT, READ0, WRITE};
use crate::page::{Page, PageTable};
use crate::wal::{Wal, be_u32};
use crate::wal_index::{IndexHeader, MARK_UNUSED};

/// Past this many thresholds a WAL is long, and a restart no longer spares readers that ignore the WAL the surprise of
/// `BUSY_SNAPSHOT`.
const PATIENCE: u32 = 16;

impl Generation {
    /// Backfills and restarts if at least `threshold` frames wait for it.
    pub(crate) fn maintain(&self, state: &mut State, threshold: u32) -> Result<Maintenance, crate::Error> {
        let mut done = Maintenance::default();
        if state.fenced || state.committed < threshold.max(1) {
            return Ok(done);
        }
        let before = self.check_marks(state)?;
        // Without speculation all of it may be movable, which a restart needs. A long WAL is moved at every chance: readers
        // of a WAL that is in the main file do without it, and once the last of the others has gone it can be restarted.
        let is_long = state.captured >= threshold.saturating_mul(PATIENCE);
        if is_long || state.queue.is_empty() || state.committed - before >= threshold {
            done.backfilled = state.backfill();
        }
        // Also when nothing moved: a reader may have gone.
        state.release_frames();
        if state.can_restart(is_long) {
            if let Err(reason) = state.restart(&*self.settings.environment) {
                return Err(self.violate(state, reason));
            }
            done.restarted = true;
        }
        Ok(done)
    }

    /// Backfills what can be, however little it is.
    pub(crate) fn backfill(&self, state: &mut State) -> Result<u32, crate::Error> {
        if state.fenced {
            return Ok(0);
        }
        self.check_marks(state)?;
        let moved = state.backfill();
        // Also when nothing moved: a reader may have gone.
        state.release_frames();
        Ok(moved)
    }

    /// The order of the marks; nBackfill.
    fn check_marks(&self, state: &mut State) -> Result<u32, crate::Error> {
        let backfill = state.index.backfill();
        if backfill <= state.committed
            && state.committed <= state.captured
            && state.captured <= state.wal.len()
        {
            return Ok(backfill);
        }
        let (committed, captured, written) = (state.committed, state.captured, state.wal.len());
        let reason =
            format!("nBackfill {backfill}, committed {committed}, captured {captured}, written {written}");
        Err(self.violate(state, reason))
    }
}

impl State {
    /// Moves frames into the main file; returns how many.
    pub(crate) fn backfill(&mut self) -> u32 {
        // SQLite holds this lock shared while it checks a snapshot of its own snapshot API.
        if !self.locks.is_free(CHECKPOINT) {
            return 0;
        }
        let before = self.index.backfill();
        let mut limit = if planted::bug!(BackfillBeyondWatermark) { self.captured } else { self.committed };
        for slot in 1..5 {
            let mark = self.index.mark(slot);
            if mark >= limit {
                continue;
            }
            if self.locks.is_free(READ0 + slot) {
                // As SQLite does: a free slot with an old mark would hold the next checkpoint back for no reader.
                self.index.set_mark(slot, if slot == 1 { limit } else { MARK_UNUSED });
            } else if !planted::bug!(BackfillUnderReaders) {
                limit = mark;
            }
        }
        // A mark that a slow reader left in a free slot before a restart can lie inside a transaction, and the main file
        // must not have one in part.
        while limit > before && self.wal.frame(limit).is_none_or(|frame| frame.commit_size() == 0) {
            limit -= 1;
        }
        if limit <= before {
            return 0;
        }
        self.main_pages = overlay(&mut self.table, self.main_pages, &self.wal, before, limit);
        self.index.set_backfill(limit);
        self.release_frames();
        limit - before
    }

    /// Drops frames that are in the main file and below what any reader looks at.
    fn release_frames(&mut self) {
        let mut floor = self.index.backfill().min(self.captured.saturating_sub(1));
        for slot in 1..5 {
            if !self.locks.is_free(READ0 + slot) {
                floor = floor.min(self.slot_floor[slot]);
            }
        }
        // The last frame stays: its checksum is read when a transaction has to compute its own anew.
        self.wal.release(floor);
        self.index.release(floor);
    }

    fn can_restart(&self, is_long: bool) -> bool {
        let length = self.captured;
        length > 0
            && self.queue.is_empty()
            && self.committed == length
            && self.index.backfill() == length
            && self.index.max_frame() == length
            && self.locks.is_free(WRITE)
            && ((READ0 + 1..READ0 + 5).all(|slot| self.locks.is_free(slot))
                || planted::bug!(RestartUnderReaders))
            && (self.locks.is_free(READ0) || is_long)
    }

    fn restart(&mut self, environment: &dyn crate::Environment) -> Result<(), String> {
        let header = self.index.header().ok_or("the wal-index header is damaged")?;
        let mut salts = header.salts;
        let first = be_u32(&salts, 0).wrapping_add(1);
        crate::wal::put_be_u32(&mut salts, 0, first);
        environment.randomness(&mut salts[4..]);
        self.base += u64::from(self.captured);
        self.wal.restart();
        self.index.reuse();
        self.captured = 0;
        self.committed = 0;
        self.restarts = self.restarts.wrapping_add(1);
        self.index.write_header(&IndexHeader {
            change: header.change.wrapping_add(1),
            max_frame: 0,
            salts,
            ..header
        });
        self.index.set_backfill(0);
        self.index.reset_marks();
        Ok(())
    }
}

/// Puts the frames after `from` up to `to`, which ends a transaction, over a table; returns the new size. Each commit
/// cuts the table at its size, so that the outcome does not depend on how many steps are made.
pub(crate) fn overlay(table: &mut PageTable, mut page_count: u32, wal: &Wal, from: u32, to: u32) -> u32 {
    for number in from + 1..=to {
        let Some(frame) = wal.frame(number) else { continue };
        table.set(frame.page_number(), frame.page.clone().unwrap_or_else(Page::zero));
        let size = frame.commit_size();
        if size != 0 {
            page_count = size;
            table.truncate(size);
        }
    }
    page_count
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{Database, DatabaseName, Options, Vfs};

    fn setup() -> (Vfs, Arc<Database>) {
        let vfs = Vfs::register_with(Options { checkpoint_threshold: 10, ..Options::default() }).unwrap();
        let database = vfs.get_or_create(&DatabaseName::try_from("db").unwrap());
        (vfs, database)
    }

    /// The log has everything that was captured.
    fn commit_all(database: &Database) {
        while let Some(transaction) = database.poll_captured() {
            database.commit(transaction.generation, transaction.sequence).unwrap();
        }
    }

    #[test]
    fn memory_is_freed_while_the_pipeline_never_empties() {
        let (vfs, database) = setup();
        let mut connection = vfs.open(database.name()).unwrap();
        connection.exec_simple(b"CREATE TABLE t(a); INSERT INTO t VALUES(0)").unwrap();
        let mut before = database.poll_captured().unwrap();
        for _ in 0..9000 {
            connection.exec_simple(b"UPDATE t SET a = a + 1").unwrap();
            database.commit(before.generation, before.sequence).unwrap();
            database.maintain().unwrap();
            before = database.poll_captured().unwrap();
        }
        let generation = database.current();
        let state = generation.lock();
        assert!(state.wal.len() > 9000, "no restart");
        assert!(state.wal.held() < 30, "{} frames are held", state.wal.held());
        assert_eq!(state.index.released_regions(), 1, "the second of three regions");
    }

    #[test]
    fn a_reader_that_goes_frees_what_only_it_needed() {
        let (vfs, database) = setup();
        let mut writer = vfs.open(database.name()).unwrap();
        let mut reader = vfs.open(database.name()).unwrap();
        writer.exec_simple(b"CREATE TABLE t(a); INSERT INTO t VALUES(zeroblob(100000))").unwrap();
        reader.exec_simple(b"BEGIN; SELECT count(*) FROM t").unwrap();
        commit_all(&database);
        let held = || database.current().lock().wal.held();
        assert!(database.maintain_with(1).unwrap().backfilled > 20);
        assert!(held() > 20, "the reader finds its pages in these frames");
        reader.exec_simple(b"COMMIT; BEGIN; SELECT count(*) FROM t").unwrap();
        assert_eq!(database.maintain_with(1).unwrap().backfilled, 0);
        assert!(held() <= 1);
        reader.exec_simple(b"COMMIT").unwrap();
    }

    #[test]
    fn backfill_alone_empties_the_wal_without_starting_it_again() {
        let (vfs, database) = setup();
        let mut writer = vfs.open(database.name()).unwrap();
        writer.exec_simple(b"CREATE TABLE t(a)").unwrap();
        assert_eq!(database.backfill().unwrap(), 0, "what is not committed stays in the WAL");
        commit_all(&database);
        let salts = || database.current().lock().index.header().unwrap().salts;
        let before = (salts(), database.wal_frames());
        let held = || database.current().lock().wal.held();
        let mut reader = vfs.open(database.name()).unwrap();
        reader.exec_simple(b"BEGIN; SELECT count(*) FROM t").unwrap();
        assert_eq!(database.maintain().unwrap(), Maintenance::default(), "too few for this");
        assert_eq!(database.backfill().unwrap(), before.1);
        assert_eq!((salts(), database.wal_frames()), before, "connections keep the pages they know");
        assert!(held() > 1, "the reader finds its pages in these frames");
        reader.exec_simple(b"COMMIT").unwrap();
        assert_eq!(database.backfill().unwrap(), 0);
        assert!(held() <= 1, "{} frames are held", held());
        reader.exec_simple(b"BEGIN; SELECT count(*) FROM t").unwrap();
        assert!(!database.current().lock().locks.is_free(READ0), "it reads the main file alone");
        database.fence();
        assert_eq!(database.backfill().unwrap(), 0);
    }

    #[test]
    fn a_mark_inside_a_transaction_does_not_split_it() {
        let (vfs, database) = setup();
        let mut writer = vfs.open(database.name()).unwrap();
        writer.exec_simple(b"CREATE TABLE t(a)").unwrap();
        writer.exec_simple(b"INSERT INTO t VALUES(zeroblob(100000))").unwrap();
        let mut first = 0;
        while let Some(transaction) = database.poll_captured() {
            let position = database.commit(transaction.generation, transaction.sequence).unwrap();
            first = if first == 0 { u32::try_from(position.0).unwrap() } else { first };
        }
        let generation = database.current();
        let mut state = generation.lock();
        state.index.set_mark(2, first + 5);
        assert_eq!(state.locks.lock_shared(READ0 + 2), Some(1));
        assert_eq!(state.backfill(), first);
        assert_eq!(state.main_pages, 2);
        assert_eq!(state.index.backfill(), first);
        state.locks.unlock_shared(READ0 + 2);
        assert!(state.backfill() > 20);
        assert_eq!(state.main_pages, state.committed_pages);
    }
}
