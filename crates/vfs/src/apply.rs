//! Transactions of other nodes, without SQLite.

use std::sync::Arc;

use crate::database::Database;
use crate::error::ApplyError;
use crate::generation::{Generation, SIZE_FIELD, State};
use crate::locks::WRITE;
use crate::page::{Page, PageNumber, Position};

impl Database {
    /// Applies a transaction of another node. Duplicate page numbers and any order are fine, the last image of a page
    /// wins. All is checked before anything changes.
    ///
    /// If a connection of this node holds the WRITE lock, or the generation is fenced, the generation is replaced first:
    /// a transaction that the log committed never waits for a local one.
    ///
    /// # Errors
    /// What is wrong with the transaction, or [`Error::Invariant`](crate::Error::Invariant) when speculative transactions exist, which then
    /// include one that the log decided against without anybody having said so.
    pub fn apply(
        &self,
        pages: &mut dyn ExactSizeIterator<Item = (PageNumber, &[u8])>,
    ) -> Result<Position, ApplyError> {
        let mut copies = Vec::with_capacity(pages.len());
        for (number, bytes) in pages {
            let page =
                Page::copy_from(bytes).ok_or(ApplyError::PageSize { number: number.0, len: bytes.len() })?;
            copies.push((number.0, page));
        }
        let mut slot = self.slot();
        let current = Arc::clone(&slot);
        let mut state = current.lock();
        current.check(&state)?;
        let (page_count, deleted) = final_size(&copies, state.committed_pages)?;
        if !state.fenced && !state.queue.is_empty() {
            let reason = format!("apply with {} speculative transactions", state.queue.len());
            return Err(current.violate(&mut state, reason).into());
        }
        if state.fenced || !state.locks.is_free(WRITE) {
            drop(state);
            self.switch(&mut slot);
            let current = Arc::clone(&slot);
            let mut state = current.lock();
            return apply_to(&current, &mut state, copies, page_count, deleted);
        }
        drop(slot);
        apply_to(&current, &mut state, copies, page_count, deleted)
    }
}

fn apply_to(
    generation: &Generation,
    state: &mut State,
    pages: Vec<(u32, Page)>,
    page_count: u32,
    deleted: bool,
) -> Result<Position, ApplyError> {
    if state.committed != state.captured {
        let reason = format!("apply with {} captured, {} committed", state.captured, state.committed);
        return Err(generation.violate(state, reason).into());
    }
    if let Err(reason) = state.append(pages, page_count) {
        return Err(generation.violate(state, reason).into());
    }
    state.captured = state.index.max_frame();
    state.committed = state.captured;
    state.committed_pages = page_count;
    state.deleted = deleted;
    Ok(state.committed_position())
}

/// Size of the database after a transaction, and whether that is the deletion of the database. Page 1 tells the size;
/// without it the size does not change.
fn final_size(pages: &[(u32, Page)], before: u32) -> Result<(u32, bool), ApplyError> {
    let count = u32::try_from(pages.len()).unwrap_or(u32::MAX);
    if count == 0 {
        return Err(ApplyError::Empty);
    }
    // Growth writes every new page except the one that holds the pending byte.
    let limit = before.saturating_add(count).saturating_add(1);
    let mut highest = before;
    for (number, _) in pages {
        if *number == 0 || *number > limit {
            return Err(ApplyError::PageNumber { number: *number, page_count: before });
        }
        highest = highest.max(*number);
    }
    let Some((_, page)) = pages.iter().rev().find(|(number, _)| *number == 1) else {
        return Ok((before, false));
    };
    match page.field(SIZE_FIELD) {
        0 if count == 1 => Ok((1, true)),
        0 => Err(ApplyError::DeleteMarker),
        size if size > highest => Err(ApplyError::Size { size, highest }),
        size => Ok((size, false)),
    }
}
