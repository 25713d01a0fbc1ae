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

use std::collections::VecDeque;
use std::ffi::c_int;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use libsqlite3_sys as ffi;

use crate::error::{Error, Veto};
use crate::handle::{DeleteRequest, Handle, Pin};
use crate::locks::{CHECKPOINT, LOCKS, LockTable, READ0, WRITE, bit};
use crate::name::DatabaseName;
use crate::options::Settings;
use crate::page::{PAGE_SIZE, Page, PageTable};
use crate::wal::{FRAME_HEADER_LEN, Frame, WAL_HEADER_LEN, Wal, be_u32, build_header, frame_at};
use crate::wal_index::{IndexHeader, REGION_LEN, WalIndex};

/// Offset of the size in pages in the header of page 1.
pub(crate) const SIZE_FIELD: usize = 28;

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
    /// For each READ slot nBackfill when its first holder came; frames up to it are read by none of its holders.
    pub(crate) slot_floor: [u32; 5],
    /// Position of frame 0; grows by the length of the WAL at each restart.
    pub(crate) base: u64,
    pub(crate) committed: u32,
    pub(crate) committed_pages: u32,
    pub(crate) captured: u32,
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
        let state = State {
            index: WalIndex::new(seed.change, seed.page_count, seed.salts),
            wal: Wal::new(),
            table: seed.table,
            main_pages: seed.page_count,
            locks: LockTable::new(),
            slot_floor: [0; 5],
            base: seed.base,
            committed: 0,
            committed_pages: seed.page_count,
            captured: 0,
            deleted,
            restarts: 0,
            queue: VecDeque::new(),
            polled: 0,
            next_sequence: seed.next_sequence,
            fenced: false,
            veto: None,
            failure: None,
        };
        Self { id, name, settings, state: Mutex::new(state) }
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
                if handle.holds_shared(first) {
                    return ffi::SQLITE_OK;
                }
                let Some(sharers) = state.locks.lock_shared(first) else { return ffi::SQLITE_BUSY };
                handle.add_shared(bit(first));
                if let Some(slot) = first.checked_sub(READ0) {
                    state.grant_read(handle, slot, sharers);
                }
                ffi::SQLITE_OK
            }
            Mode::Exclusive => {
                let range = first..first + count;
                if range.clone().all(|slot| handle.holds_exclusive(slot)) {
                    return ffi::SQLITE_OK;
                }
                // Checkpoints, recovery (which takes CHECKPOINT too) and the restart of the WAL (the range of READ(1) to
                // READ(4)) are our business. SQLite goes on without them when they are busy.
                if range.contains(&CHECKPOINT) || range.contains(&READ0) || (first > READ0 && count > 1) {
                    return ffi::SQLITE_BUSY;
                }
                if first == WRITE && (state.fenced || state.failure.is_some()) {
                    return state.check_commit(handle).err().unwrap_or(ffi::SQLITE_IOERR);
                }
                if !state.locks.lock_exclusive(first, count) {
                    return ffi::SQLITE_BUSY;
                }
                for slot in range {
                    handle.add_exclusive(bit(slot));
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
                Mode::Shared if handle.holds_shared(slot) => {
                    state.locks.unlock_shared(slot);
                    handle.remove_shared(bit(slot));
                    if slot == READ0 {
                        handle.unpin();
                    }
                }
                Mode::Exclusive if handle.holds_exclusive(slot) => {
                    if slot == WRITE {
                        self.release_write(&mut state, handle);
                    } else {
                        state.locks.unlock_exclusive(slot);
                        handle.remove_exclusive(bit(slot));
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

    /// Captures what was committed under the WRITE lock, forgets what was not, and frees the lock.
    fn release_write(&self, state: &mut State, handle: &Handle) {
        match state.capture(handle) {
            Ok(true) => handle.set_delete(DeleteRequest::None),
            Ok(false) if handle.delete() == DeleteRequest::Requested => {
                // SQLite says only afterwards whether this was COMMIT or ROLLBACK, see `commit_done` and `settle`.
                handle.set_delete(DeleteRequest::Undecided);
                return;
            }
            Ok(false) => {}
            Err(reason) => {
                self.violate(state, reason);
            }
        }
        state.free_write(handle);
    }

    /// Frees the WRITE lock of a transaction that asked for the deletion of the database and turned out not to commit.
    pub(crate) fn settle(&self, state: &mut State, handle: &Handle) {
        if handle.delete() == DeleteRequest::Undecided {
            handle.set_delete(DeleteRequest::None);
            state.free_write(handle);
        }
    }

    /// The end of a COMMIT. If the transaction was `PRAGMA delete_database` and nothing else, it takes effect now.
    pub(crate) fn commit_done(&self, handle: &Handle) -> c_int {
        if handle.delete() != DeleteRequest::Undecided {
            return ffi::SQLITE_OK;
        }
        let mut state = self.lock();
        let result = state.check_commit(handle).and_then(|()| {
            let page = state.delete_marker();
            state.append(vec![(1, page)], 1).and_then(|()| state.capture(handle)).map_err(|reason| {
                self.violate(&mut state, reason);
                ffi::SQLITE_IOERR
            })
        });
        self.settle(&mut state, handle);
        result.err().unwrap_or(ffi::SQLITE_OK)
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

    /// Handles PRAGMA delete_database; the error is a text for the client.
    pub(crate) fn request_delete(&self, handle: &Handle) -> Result<(), &'static str> {
        let mut state = self.lock();
        self.settle(&mut state, handle);
        if !handle.holds_exclusive(WRITE) {
            return Err(
                "PRAGMA delete_database must be run in a write transaction. Use BEGIN IMMEDIATE to start one.",
            );
        }
        if state.wal.len() > state.captured {
            return Err("PRAGMA delete_database must be the only statement run in the transaction.");
        }
        handle.set_delete(DeleteRequest::Requested);
        Ok(())
    }

    /// xWrite of the WAL file.
    pub(crate) fn write_wal(&self, handle: &Handle, offset: u64, bytes: &[u8]) -> c_int {
        // Copied before the mutex is taken.
        let page = Page::copy_from(bytes);
        let mut state = self.lock();
        if !handle.holds_exclusive(WRITE) || state.failure.is_some() {
            return ffi::SQLITE_IOERR_WRITE;
        }
        let fixed = state.captured;
        if offset == 0 {
            let Ok(header) = <[u8; WAL_HEADER_LEN]>::try_from(bytes) else { return ffi::SQLITE_IOERR_WRITE };
            if fixed != 0 {
                return ffi::SQLITE_IOERR_WRITE;
            }
            state.wal.header = header;
            return ffi::SQLITE_OK;
        }
        match (frame_at(offset), page) {
            (Some((number, 0)), None) if bytes.len() == FRAME_HEADER_LEN => {
                if be_u32(bytes, 4) != 0 {
                    if let Err(code) = state.check_commit(handle) {
                        return code;
                    }
                }
                let frames = u64::from(number.saturating_sub(fixed));
                if frames * PAGE_SIZE as u64 > self.settings.max_transaction_bytes {
                    return ffi::SQLITE_FULL;
                }
                match state.wal.write_frame_header(number, fixed, bytes) {
                    Ok(()) => ffi::SQLITE_OK,
                    Err(_) => ffi::SQLITE_IOERR_WRITE,
                }
            }
            (Some((number, FRAME_HEADER_LEN)), Some(page)) => {
                if state.wal.write_frame_page(number, fixed, page).is_err() {
                    return ffi::SQLITE_IOERR_WRITE;
                }
                state.check_size(number)
            }
            _ => ffi::SQLITE_IOERR_WRITE,
        }
    }

    /// xRead of the WAL file; the rest of a short read is zeroed, which SQLite relies on.
    pub(crate) fn read_wal(&self, offset: u64, buffer: &mut [u8]) -> c_int {
        let state = self.lock();
        if let Some((number, FRAME_HEADER_LEN)) = frame_at(offset) {
            if buffer.len() <= PAGE_SIZE {
                if let Some(page) = state.wal.frame(number).and_then(|frame| frame.page.clone()) {
                    drop(state);
                    buffer.copy_from_slice(&page[..buffer.len()]);
                    return ffi::SQLITE_OK;
                }
            }
        }
        let done = state.wal.read(offset, buffer);
        drop(state);
        finish_read(buffer, done)
    }

    /// xTruncate of the WAL file: only frames that no header covers can go.
    pub(crate) fn truncate_wal(&self, handle: &Handle, size: u64) -> c_int {
        let mut state = self.lock();
        let last = match frame_at(size) {
            Some((number, _)) => number - 1,
            None => 0,
        };
        if last >= state.wal.len() {
            return ffi::SQLITE_OK;
        }
        if last < state.captured || !handle.holds_exclusive(WRITE) {
            return ffi::SQLITE_IOERR_TRUNCATE;
        }
        state.wal.truncate(last);
        ffi::SQLITE_OK
    }

    /// xRead of the main file.
    pub(crate) fn read_main(&self, handle: &Handle, offset: u64, buffer: &mut [u8]) -> c_int {
        let mut done = 0;
        while done < buffer.len() {
            let position = offset + done as u64;
            let Some(number) = u32::try_from(position / PAGE_SIZE as u64 + 1).ok() else { break };
            let page = match handle.pinned(number) {
                Some(pinned) => pinned,
                None => {
                    let state = self.lock();
                    lookup(&state.table, state.main_pages, number)
                }
            };
            let Some(page) = page else { break };
            done += crate::wal::copy_part(&page[..], position % PAGE_SIZE as u64, &mut buffer[done..]);
        }
        finish_read(buffer, done)
    }

    /// xFileSize of the main file, in pages.
    pub(crate) fn main_pages(&self, handle: &Handle) -> u32 {
        handle.pinned_count().unwrap_or_else(|| self.lock().main_pages)
    }
}

/// The page, zeros for a hole inside the database, `None` beyond its end.
pub(crate) fn lookup(table: &PageTable, page_count: u32, number: u32) -> Option<Page> {
    (1..=page_count).contains(&number).then(|| table.get(number).cloned().unwrap_or_else(Page::zero))
}

/// Zeroes what a read did not fill.
fn finish_read(buffer: &mut [u8], done: usize) -> c_int {
    if done == buffer.len() {
        return ffi::SQLITE_OK;
    }
    buffer[done..].fill(0);
    ffi::SQLITE_IOERR_SHORT_READ
}

/// Whether a database of this size with this first page was deleted.
pub(crate) fn is_delete_marker(page: Option<&Page>, page_count: u32) -> bool {
    page_count == 1 && page.is_some_and(|page| page.field(SIZE_FIELD) == 0)
}

impl State {
    /// The last point of refusal: an error here makes SQLite roll back the whole transaction, cache and schema included.
    fn check_commit(&self, handle: &Handle) -> Result<(), c_int> {
        if self.failure.is_some() {
            return Err(ffi::SQLITE_IOERR);
        }
        if self.fenced {
            return Err(Veto::NotLeader.code());
        }
        match self.veto.or(handle.veto()) {
            Some(veto) => Err(veto.code()),
            None => Ok(()),
        }
    }

    /// Followers derive the size of the database from page 1; a transaction for which that gives another size than
    /// SQLite's must not be published. Checked when the page of the commit frame arrives.
    fn check_size(&self, number: u32) -> c_int {
        let size = self.wal.frame(number).map_or(0, Frame::commit_size);
        if size == 0 || number != self.wal.len() {
            return ffi::SQLITE_OK;
        }
        let derived = (self.captured + 1..=number)
            .rev()
            .filter_map(|number| self.wal.frame(number))
            .find(|frame| frame.page_number() == 1)
            .and_then(|frame| frame.page.as_ref())
            .map_or_else(|| self.index.page_count(), |page| page.field(SIZE_FIELD));
        if derived == size { ffi::SQLITE_OK } else { ffi::SQLITE_CORRUPT }
    }

    /// Notes what a reader sees. SQLite compares the header again after the lock and starts over if it changed, so
    /// the frame noted here is the frame of its snapshot.
    fn grant_read(&mut self, handle: &Handle, slot: usize, sharers: u32) {
        handle.raise_gate(self.base + u64::from(self.index.max_frame()));
        if slot == 0 {
            // Such a reader ignores the WAL. It keeps the main file as it is now, so that backfill need not wait.
            handle.pin(Pin { table: self.table.clone(), page_count: self.main_pages });
        } else if sharers == 1 {
            self.slot_floor[slot] = self.index.backfill();
        }
    }

    fn free_write(&mut self, handle: &Handle) {
        if handle.holds_exclusive(WRITE) {
            self.locks.unlock_exclusive(WRITE);
            handle.remove_exclusive(bit(WRITE));
        }
    }

    /// Turns the frames of a commit into a speculative transaction; false if there was none.
    fn capture(&mut self, handle: &Handle) -> Result<bool, String> {
        let max_frame = self.index.max_frame();
        if max_frame < self.captured || max_frame > self.wal.len() {
            return Err(format!(
                "mxFrame {max_frame} with {} captured and {} written frames",
                self.captured,
                self.wal.len()
            ));
        }
        self.wal.truncate(max_frame);
        if max_frame == self.captured {
            return Ok(false);
        }
        let page_count = self.wal.frame(max_frame).map_or(0, Frame::commit_size);
        if page_count == 0 || page_count != self.index.page_count() {
            return Err(format!(
                "frame {max_frame} commits {page_count} pages, the header says {}",
                self.index.page_count()
            ));
        }
        let first = self.captured + 1;
        if (first..=max_frame).any(|number| self.wal.frame(number).is_none_or(|frame| frame.page.is_none())) {
            return Err(format!("a frame of {first} to {max_frame} has no page"));
        }
        let delete_marker = first == max_frame
            && self.wal.frame(first).is_some_and(|frame| {
                frame.page_number() == 1 && is_delete_marker(frame.page.as_ref(), page_count)
            });
        self.queue.push_back(Speculative {
            sequence: self.next_sequence,
            first,
            last: max_frame,
            page_count,
            delete_marker,
        });
        self.next_sequence += 1;
        self.captured = max_frame;
        handle.raise_gate(self.base + u64::from(max_frame));
        Ok(true)
    }

    /// Appends one transaction natively. The WRITE lock is free, or held by whoever asks for this.
    pub(crate) fn append(&mut self, pages: Vec<(u32, Page)>, page_count: u32) -> Result<(), String> {
        let mut header = self.index.header().ok_or("the wal-index header is damaged")?;
        if header.max_frame != self.captured || self.wal.len() < self.captured {
            return Err(format!("mxFrame {} with {} captured frames", header.max_frame, self.captured));
        }
        self.wal.truncate(self.captured);
        if header.max_frame == 0 {
            (self.wal.header, header.frame_checksum) = build_header(self.restarts, header.salts);
        }
        let last = pages.len() - 1;
        for (place, (number, page)) in pages.into_iter().enumerate() {
            let commit_size = if place == last { page_count } else { 0 };
            self.wal.push(Frame::build(number, commit_size, header.salts, &mut header.frame_checksum, page));
            header.max_frame += 1;
            self.index.append(header.max_frame, number);
        }
        self.index.write_header(&IndexHeader { change: header.change.wrapping_add(1), page_count, ..header });
        Ok(())
    }

    /// Newest version of page 1, speculative ones included.
    fn newest_first_page(&self) -> Page {
        (self.index.backfill() + 1..=self.captured)
            .rev()
            .filter_map(|number| self.wal.frame(number))
            .find(|frame| frame.page_number() == 1)
            .and_then(|frame| frame.page.clone())
            .or_else(|| self.table.get(1).cloned())
            .unwrap_or_else(Page::zero)
    }

    /// Page 1 of a deleted database: the old header with everything that describes content taken out, and an empty
    /// table leaf. The schema cookie moves on so that every connection drops its schema.
    fn delete_marker(&self) -> Page {
        const HEADER_LEN: usize = 100;
        let mut bytes = [0; PAGE_SIZE];
        bytes[..HEADER_LEN].copy_from_slice(&self.newest_first_page()[..HEADER_LEN]);
        // Size, first freelist page and their number; default cache size and largest root page; user version and
        // incremental vacuum; application id.
        for field in [28, 32, 36, 48, 52, 60, 64, 68] {
            crate::wal::put_be_u32(&mut bytes, field, 0);
        }
        let cookie = be_u32(&bytes, 40).wrapping_add(1);
        crate::wal::put_be_u32(&mut bytes, 40, cookie);
        bytes[92..96].copy_from_slice(&[1, 0, 0, 0]);
        bytes[HEADER_LEN] = 0x0d;
        bytes[HEADER_LEN + 5..HEADER_LEN + 7].copy_from_slice(&4096_u16.to_be_bytes());
        Page::copy_from(&bytes).expect("the buffer is one page")
    }
}
