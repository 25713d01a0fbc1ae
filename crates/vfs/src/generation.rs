//! One generation of a database: its pages, its WAL, its wal-index, its locks, its speculative transactions.
//!
//! SQLite publishes a commit to the shared wal-index by itself; it is *speculative* from then on until the log commits
//! it. At the release of the WRITE lock the frames between the last captured frame and the header's mxFrame are one
//! transaction; frames above mxFrame are what a rolled-back spill left behind. Frames up to `committed` never go away.
//!
//! Always: nBackfill <= committed <= captured <= mxFrame <= frames in the WAL, and captured = mxFrame while the WRITE
//! lock is free. A violation is latched: the generation refuses commits and every later call of ours reports it.
//!
//! The mutex protects everything but the wal-index's memory, which SQLite reads and writes without asking.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::c_int;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use libsqlite3_sys as ffi;

use crate::delete::is_delete_marker;
use crate::error::{Error, Veto};
use crate::handle::Handle;
use crate::locks::{CHECKPOINT, LOCKS, LockTable, READ0, WRITE, bit};
use crate::name::DatabaseName;
use crate::options::Settings;
use crate::page::PageTable;
use crate::view::{Pin, ReaderId, View};
use crate::wal::Wal;
use crate::wal_index::{REGION_LEN, WalIndex};

/// Offset of the size in pages in the header of page 1.
pub(crate) const SIZE_FIELD: usize = 28;
/// Offset of the schema cookie there, which SQLite changes with the schema.
pub(crate) const COOKIE_FIELD: usize = 40;

/// A captured transaction that the log has not committed yet.
pub(crate) struct Speculative {
    pub(crate) sequence: u64,
    pub(crate) first: u32,
    pub(crate) last: u32,
    pub(crate) page_count: u32,
    pub(crate) delete_marker: bool,
}

/// What a new generation starts from.
pub(crate) struct Seed {
    pub(crate) table: PageTable,
    pub(crate) page_count: u32,
    /// Position of frame 0.
    pub(crate) base: u64,
    pub(crate) next_sequence: u64,
    pub(crate) change: u32,
    pub(crate) salts: [u8; 8],
}

/// A generation; connections hold on to the one they were opened in.
pub(crate) struct Generation {
    pub(crate) id: u64,
    pub(crate) name: DatabaseName,
    pub(crate) settings: Arc<Settings>,
    /// Changes of the schema so far, for those that look without the mutex. It follows what readers can see, never the
    /// other way round.
    schema_version: AtomicU32,
    state: Mutex<State>,
}

/// What the mutex of a generation protects.
pub(crate) struct State {
    pub(crate) index: WalIndex,
    pub(crate) wal: Wal,
    /// The main file: the database as of frame nBackfill.
    pub(crate) table: PageTable,
    pub(crate) main_pages: u32,
    pub(crate) locks: LockTable,
    /// Of all handles that are open.
    pub(crate) views: BTreeMap<ReaderId, Arc<View>>,
    /// For each READ slot nBackfill when its first holder came; frames up to it are read by none of its holders.
    pub(crate) slot_floor: [u32; 5],
    /// Position of frame 0; grows by the length of the WAL at each restart.
    pub(crate) base: u64,
    pub(crate) committed: u32,
    pub(crate) committed_pages: u32,
    pub(crate) captured: u32,
    /// Schema cookie as of frame `captured`.
    pub(crate) cookie: u32,
    /// What it was when the schema version was changed last.
    published_cookie: u32,
    /// Whether the committed state is that of a deleted database.
    pub(crate) deleted: bool,
    /// Count of WAL restarts, which goes into the WAL header.
    pub(crate) restarts: u32,
    pub(crate) queue: VecDeque<Speculative>,
    /// How many of `queue` were handed out.
    pub(crate) polled: usize,
    pub(crate) next_sequence: u64,
    /// No commit passes any more, and nobody gets the WRITE lock.
    pub(crate) fenced: bool,
    pub(crate) veto: Option<Veto>,
    pub(crate) failure: Option<String>,
}

/// Mode of a lock request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Shared,
    Exclusive,
}

impl Generation {
    pub(crate) fn new(id: u64, name: DatabaseName, settings: Arc<Settings>, seed: Seed) -> Self {
        let deleted = is_delete_marker(seed.table.get(1), seed.page_count);
        let cookie = seed.table.get(1).map_or(0, |page| page.field(COOKIE_FIELD));
        let state = State {
            index: WalIndex::new(seed.change, seed.page_count, seed.salts),
            wal: Wal::new(),
            table: seed.table,
            main_pages: seed.page_count,
            locks: LockTable::new(),
            views: BTreeMap::new(),
            slot_floor: [0; 5],
            base: seed.base,
            committed: 0,
            committed_pages: seed.page_count,
            captured: 0,
            cookie,
            published_cookie: cookie,
            deleted,
            restarts: 0,
            queue: VecDeque::new(),
            polled: 0,
            next_sequence: seed.next_sequence,
            fenced: false,
            veto: None,
            failure: None,
        };
        Self { id, name, settings, schema_version: AtomicU32::new(0), state: Mutex::new(state) }
    }

    /// The state. A panic of another holder is caught at the FFI border; the state it left is judged by the invariants.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Latches a broken rule and describes it.
    pub(crate) fn violate(&self, state: &mut State, reason: String) -> Error {
        state.fenced = true;
        let reason = state.failure.get_or_insert(reason).clone();
        Error::Invariant { database: self.name.to_string(), reason }
    }

    /// Changes with the schema; equal numbers of one generation mean that it did not change in between.
    pub(crate) fn schema_version(&self) -> u32 {
        self.schema_version.load(Ordering::Acquire)
    }

    /// Lets those that look without the mutex know whether the schema has changed.
    pub(crate) fn publish_schema(&self, state: &mut State) {
        if state.published_cookie != state.cookie {
            state.published_cookie = state.cookie;
            self.schema_version.fetch_add(1, Ordering::Release);
        }
    }

    /// The latched failure, if there is one.
    pub(crate) fn check(&self, state: &State) -> Result<(), Error> {
        match &state.failure {
            None => Ok(()),
            Some(reason) => Err(Error::Invariant { database: self.name.to_string(), reason: reason.clone() }),
        }
    }

    /// xShmLock, the locking half.
    pub(crate) fn acquire(&self, handle: &Handle, first: usize, count: usize, mode: Mode) -> c_int {
        if count == 0 || first + count > LOCKS || (mode == Mode::Shared && count != 1) {
            return ffi::SQLITE_IOERR_SHMLOCK;
        }
        let mut state = self.lock();
        self.settle(&mut state, handle);
        match mode {
            Mode::Shared => {
                if handle.view.holds_shared(first) {
                    return ffi::SQLITE_OK;
                }
                let Some(sharers) = state.locks.lock_shared(first) else { return ffi::SQLITE_BUSY };
                handle.view.add_shared(bit(first));
                if let Some(slot) = first.checked_sub(READ0) {
                    state.grant_read(handle, slot, sharers);
                }
                ffi::SQLITE_OK
            }
            Mode::Exclusive => {
                let range = first..first + count;
                if range.clone().all(|slot| handle.view.holds_exclusive(slot)) {
                    return ffi::SQLITE_OK;
                }
                // Checkpoints, recovery (which takes CHECKPOINT too) and the restart of the WAL (the range of READ(1) to
                // READ(4)) are our business. SQLite goes on without them when they are busy.
                if range.contains(&CHECKPOINT) || range.contains(&READ0) || (first > READ0 && count > 1) {
                    return ffi::SQLITE_BUSY;
                }
                // A writer is a reader already. Without a READ slot this is a reader that met a header in the middle of
                // its publication and wants to look at it again with the writers shut out; it would keep them from
                // beginning. When busy it just reads again.
                if first == WRITE && handle.view.is_taken() {
                    return ffi::SQLITE_BUSY_SNAPSHOT;
                }
                if first == WRITE && !(READ0..LOCKS).any(|slot| handle.view.holds_shared(slot)) {
                    return ffi::SQLITE_BUSY;
                }
                if first == WRITE && (state.fenced || state.failure.is_some()) {
                    return state.check_commit(handle).err().unwrap_or(ffi::SQLITE_IOERR);
                }
                if !state.locks.lock_exclusive(first, count) {
                    return ffi::SQLITE_BUSY;
                }
                for slot in range {
                    handle.view.add_exclusive(bit(slot));
                }
                ffi::SQLITE_OK
            }
        }
    }

    /// xShmLock, the unlocking half. Releasing what is not held is fine; SQLite does that when it opens a database.
    pub(crate) fn release(&self, handle: &Handle, first: usize, count: usize, mode: Mode) -> c_int {
        if count == 0 || first + count > LOCKS {
            return ffi::SQLITE_IOERR_SHMLOCK;
        }
        let mut state = self.lock();
        self.settle(&mut state, handle);
        for slot in first..first + count {
            match mode {
                Mode::Shared if handle.view.holds_shared(slot) => {
                    state.locks.unlock_shared(slot);
                    handle.view.remove_shared(bit(slot));
                    if slot == READ0 {
                        handle.view.unpin();
                    }
                }
                // The lock was given back when the view was taken.
                Mode::Shared if slot >= READ0 => handle.view.end(),
                Mode::Exclusive if handle.view.holds_exclusive(slot) => {
                    if slot == WRITE {
                        self.release_write(&mut state, handle);
                    } else {
                        state.locks.unlock_exclusive(slot);
                        handle.view.remove_exclusive(bit(slot));
                    }
                }
                Mode::Shared | Mode::Exclusive => {}
            }
        }
        ffi::SQLITE_OK
    }

    /// Gives back all that a handle holds, as if its connection had asked for it.
    pub(crate) fn release_all(&self, handle: &Handle) {
        self.release(handle, 0, LOCKS, Mode::Exclusive);
        self.release(handle, 0, LOCKS, Mode::Shared);
        self.settle(&mut self.lock(), handle);
    }

    /// xShmMap. `None` if the region does not exist and may not be made.
    pub(crate) fn map(
        &self,
        region: usize,
        len: usize,
        extend: bool,
    ) -> Result<Option<*mut std::ffi::c_void>, c_int> {
        if len != REGION_LEN {
            return Err(ffi::SQLITE_IOERR_SHMMAP);
        }
        Ok(self.lock().index.region(region, extend))
    }
}

impl State {
    /// Notes what a reader sees. SQLite compares the header again after the lock and starts over if it changed, so
    /// the frame noted here is the frame of its snapshot.
    fn grant_read(&mut self, handle: &Handle, slot: usize, sharers: u32) {
        handle.view.begin(self.index.max_frame());
        if !planted::bug!(ReadsNotGated) {
            handle.raise_gate(self.base + u64::from(self.index.max_frame()));
        }
        if slot == 0 {
            // Such a reader ignores the WAL. It keeps the main file as it is now, so that backfill need not wait.
            handle.view.pin(Pin { table: self.table.clone(), page_count: self.main_pages });
        } else if sharers == 1 {
            self.slot_floor[slot] = self.index.backfill();
        }
    }
}
