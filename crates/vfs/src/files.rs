//! What SQLite reads and writes: the WAL file and the main file, as offsets and bytes.

use std::ffi::c_int;

use libsqlite3_sys as ffi;

use crate::generation::{Generation, SIZE_FIELD, State};
use crate::handle::Handle;
use crate::locks::WRITE;
use crate::page::{PAGE_SIZE, Page, PageTable};
use crate::wal::{FRAME_HEADER_LEN, Frame, WAL_HEADER_LEN, be_u32, frame_at};

impl Generation {
    /// xWrite of the WAL file.
    pub(crate) fn write_wal(&self, handle: &Handle, offset: u64, bytes: &[u8]) -> c_int {
        // Copied before the mutex is taken.
        let page = Page::copy_from(bytes);
        let mut state = self.lock();
        if !handle.view.holds_exclusive(WRITE) || state.failure.is_some() {
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
                let is_commit = be_u32(bytes, 4) != 0;
                let frames = u64::from(number.saturating_sub(fixed));
                let allowed = if frames * PAGE_SIZE as u64 > self.settings.max_transaction_bytes {
                    Err(ffi::SQLITE_FULL)
                } else if is_commit {
                    state.check_commit(handle)
                } else {
                    Ok(())
                };
                let written = allowed.and_then(|()| {
                    let written = state.wal.write_frame_header(number, fixed, bytes);
                    written.map_err(|_| ffi::SQLITE_IOERR_WRITE)
                });
                if written.is_err() && is_commit {
                    handle.set_refused();
                }
                written.err().unwrap_or(ffi::SQLITE_OK)
            }
            (Some((number, FRAME_HEADER_LEN)), Some(page)) => {
                if state.wal.write_frame_page(number, fixed, page).is_err() {
                    return ffi::SQLITE_IOERR_WRITE;
                }
                let code = state.check_size(number);
                if code != ffi::SQLITE_OK {
                    handle.set_refused();
                }
                code
            }
            _ => ffi::SQLITE_IOERR_WRITE,
        }
    }

    /// xRead of the WAL file; the rest of a short read is zeroed, which SQLite relies on.
    pub(crate) fn read_wal(&self, handle: &Handle, offset: u64, buffer: &mut [u8]) -> c_int {
        let state = self.lock();
        if handle.view.is_taken() {
            return ffi::SQLITE_BUSY_SNAPSHOT;
        }
        // The common case, a page: copied after the mutex is free again.
        if let Some((number, FRAME_HEADER_LEN)) = frame_at(offset)
            && let Some(page) = state.wal.frame(number).and_then(|frame| frame.page.clone())
            && let Some(part) = page.get(..buffer.len())
        {
            drop(state);
            buffer.copy_from_slice(part);
            return ffi::SQLITE_OK;
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
        if last < state.captured || !handle.view.holds_exclusive(WRITE) {
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
            let page = match self.main_page(handle, number) {
                Ok(Some(page)) => page,
                Ok(None) => break,
                Err(code) => return code,
            };
            done += crate::wal::copy_part(&page[..], position % PAGE_SIZE as u64, &mut buffer[done..]);
        }
        finish_read(buffer, done)
    }

    /// xFetch of the main file, for the page that begins at `offset`.
    pub(crate) fn fetch_main(&self, handle: &Handle, offset: u64) -> Result<Option<Page>, c_int> {
        match u32::try_from(offset / PAGE_SIZE as u64 + 1) {
            Ok(number) if offset.is_multiple_of(PAGE_SIZE as u64) => self.main_page(handle, number),
            _ => Ok(None),
        }
    }

    /// A page of the main file as the handle sees it, or the code for a view that was taken.
    fn main_page(&self, handle: &Handle, number: u32) -> Result<Option<Page>, c_int> {
        if let Some(page) = handle.view.pinned(number) {
            return Ok(page);
        }
        let state = self.lock();
        // Looked at under the mutex: from the moment a view is taken the main file goes on without it.
        if handle.view.is_taken() {
            return Err(ffi::SQLITE_BUSY_SNAPSHOT);
        }
        Ok(lookup(&state.table, state.main_pages, number))
    }

    /// xFileSize of the main file, in pages.
    pub(crate) fn main_pages(&self, handle: &Handle) -> u32 {
        handle.view.pinned_count().unwrap_or_else(|| self.lock().main_pages)
    }
}

impl State {
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
