//! From SQLite's commit to a speculative transaction, and native frames.
//!
//! The write of a frame header with a commit size is the last point of refusal. At the release of the WRITE lock the
//! frames between the last captured frame and the header's mxFrame are one transaction; frames above mxFrame are what a
//! rolled-back spill left behind.

use std::ffi::c_int;

use libsqlite3_sys as ffi;

use crate::delete::is_delete_marker;
use crate::error::Veto;
use crate::generation::{COOKIE_FIELD, Generation, Speculative, State};
use crate::handle::{DeleteRequest, Handle};
use crate::locks::{WRITE, bit};
use crate::page::Page;
use crate::wal::{Frame, build_header};
use crate::wal_index::IndexHeader;

impl Generation {
    /// Captures what was committed under the WRITE lock, forgets what was not, and frees the lock.
    pub(crate) fn release_write(&self, state: &mut State, handle: &Handle) {
        match state.capture(handle) {
            Ok(true) => {
                self.publish_schema(state);
                handle.set_delete(DeleteRequest::None);
            }
            Ok(false) if handle.delete() == DeleteRequest::Requested => {
                // SQLite says only afterwards whether this was COMMIT or ROLLBACK, see `commit_done` and `settle`.
                handle.set_delete(DeleteRequest::Undecided);
                return;
            }
            Ok(false) => {}
            Err(reason) => {
                self.violate(state, reason);
                // SQLite takes the commit for done. No answer of this connection may leave any more.
                handle.raise_gate(u64::MAX);
            }
        }
        state.free_write(handle);
    }
}

impl State {
    /// The last point of refusal: an error here makes SQLite roll back the whole transaction, cache and schema included.
    pub(crate) fn check_commit(&self, handle: &Handle) -> Result<(), c_int> {
        if self.failure.is_some() {
            return Err(ffi::SQLITE_IOERR);
        }
        if self.fenced {
            return Err(Veto::NotLeader.code());
        }
        match self.veto.or_else(|| handle.veto()) {
            Some(veto) => Err(veto.code()),
            None => Ok(()),
        }
    }

    pub(crate) fn free_write(&mut self, handle: &Handle) {
        if handle.view.holds_exclusive(WRITE) {
            self.locks.unlock_exclusive(WRITE);
            handle.view.remove_exclusive(bit(WRITE));
        }
    }

    /// Turns the frames of a commit into a speculative transaction; false if there was none.
    pub(crate) fn capture(&mut self, handle: &Handle) -> Result<bool, String> {
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
        for number in first..=max_frame {
            let Some((frame, page)) =
                self.wal.frame(number).and_then(|frame| Some((frame, frame.page.as_ref()?)))
            else {
                return Err(format!("a frame of {first} to {max_frame} has no page"));
            };
            if frame.page_number() == 1 {
                self.cookie = page.field(COOKIE_FIELD);
            }
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
            if number == 1 {
                self.cookie = page.field(COOKIE_FIELD);
            }
            let commit_size = if place == last { page_count } else { 0 };
            self.wal.push(Frame::build(number, commit_size, header.salts, &mut header.frame_checksum, page));
            header.max_frame += 1;
            self.index.append(header.max_frame, number);
        }
        self.index.write_header(&IndexHeader { change: header.change.wrapping_add(1), page_count, ..header });
        Ok(())
    }
}
