//! `PRAGMA delete_database`.
//!
//! The deletion of a database is a transaction of one page: page 1 of an empty database with an in-header size of zero.
//! SQLite never writes such a page, so we make it, when a transaction commits that did nothing but ask for it.

use std::ffi::c_int;

use libsqlite3_sys as ffi;

use crate::generation::{Generation, SIZE_FIELD, State};
use crate::handle::{DeleteRequest, Handle};
use crate::locks::WRITE;
use crate::page::{PAGE_SIZE, Page};
use crate::wal::be_u32;

impl Generation {
    /// Handles PRAGMA delete_database; the error is a text for the client.
    pub(crate) fn request_delete(&self, handle: &Handle) -> Result<(), &'static str> {
        let mut state = self.lock();
        self.settle(&mut state, handle);
        if !handle.view.holds_exclusive(WRITE) {
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

    /// Frees the WRITE lock of a transaction that asked for the deletion of the database and turned out not to commit.
    pub(crate) fn settle(&self, state: &mut State, handle: &Handle) {
        if handle.delete() == DeleteRequest::Undecided {
            handle.set_delete(DeleteRequest::None);
            self.publish_schema(state);
            state.free_write(handle);
        }
    }
}

impl State {
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

/// Whether a database of this size with this first page was deleted.
pub(crate) fn is_delete_marker(page: Option<&Page>, page_count: u32) -> bool {
    page_count == 1 && page.is_some_and(|page| page.field(SIZE_FIELD) == 0)
}
