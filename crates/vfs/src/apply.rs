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
        let (page_count, deleted) = final_size(&mut copies, state.committed_pages)?;
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
    generation.publish_schema(state);
    state.committed = state.captured;
    state.committed_pages = page_count;
    state.deleted = deleted;
    Ok(state.committed_position())
}

/// Pages that a transaction may leave out in the space by which it makes the database longer. SQLite writes every new
/// page except the one with the pending byte; the bound is for what a few pages may cost in memory.
const MAX_HOLES: u32 = 1 << 18;

/// Size of the database after a transaction, and whether that is the deletion of the database. Page 1 tells the size;
/// without it the size does not change. Drops pages beyond the size: a cache that was too small for pages which were then
/// rolled back or cut off leaves them behind.
fn final_size(pages: &mut Vec<(u32, Page)>, before: u32) -> Result<(u32, bool), ApplyError> {
    if pages.is_empty() {
        return Err(ApplyError::Empty);
    }
    let first = pages.iter().rev().find(|(number, _)| *number == 1);
    let size = match first.map(|(_, page)| page.field(SIZE_FIELD)) {
        None => before,
        Some(0) if pages.len() == 1 => return Ok((1, true)),
        Some(0) => return Err(ApplyError::DeleteMarker),
        Some(size) => size,
    };
    let named = pages.iter().map(|(number, _)| *number).max().unwrap_or(0);
    pages.retain(|(number, _)| *number <= size);
    let count = u32::try_from(pages.len()).unwrap_or(u32::MAX);
    let highest = pages.iter().map(|(number, _)| *number).max();
    let Some(highest) = highest.filter(|_| pages.iter().all(|(number, _)| *number != 0)) else {
        let number = if highest.is_none() { named } else { 0 };
        return Err(ApplyError::PageNumber { number, page_count: before });
    };
    if highest > before.saturating_add(count).saturating_add(MAX_HOLES) {
        return Err(ApplyError::PageNumber { number: highest, page_count: before });
    }
    let highest = highest.max(before);
    if size > highest {
        return Err(ApplyError::Size { size, highest });
    }
    Ok((size, false))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::PAGE_SIZE;

    fn page(size: u32) -> Page {
        let mut bytes = [0; PAGE_SIZE];
        crate::wal::put_be_u32(&mut bytes, SIZE_FIELD, size);
        Page::copy_from(&bytes).unwrap()
    }

    /// Outcome for pages with these numbers, page 1 with this size, on a database of 10 pages.
    fn outcome(numbers: &[u32], size: u32) -> Result<(u32, bool, Vec<u32>), ApplyError> {
        let mut pages: Vec<(u32, Page)> = numbers.iter().map(|number| (*number, page(size))).collect();
        let (size, deleted) = final_size(&mut pages, 10)?;
        Ok((size, deleted, pages.iter().map(|(number, _)| *number).collect()))
    }

    #[test]
    fn page_one_tells_the_size_and_pages_beyond_it_are_left_out() {
        assert_eq!(outcome(&[3], 99), Ok((10, false, vec![3])), "only page 1 tells");
        assert_eq!(outcome(&[11, 1, 12], 12), Ok((12, false, vec![11, 1, 12])));
        assert_eq!(outcome(&[1, 5, 9], 5), Ok((5, false, vec![1, 5])));
        assert_eq!(outcome(&[5, 4000, 4002], 0), Ok((10, false, vec![5])));
        assert_eq!(outcome(&[1], 0), Ok((1, true, vec![1])));
    }

    #[test]
    fn impossible_transactions_are_refused() {
        assert_eq!(outcome(&[], 0), Err(ApplyError::Empty));
        assert_eq!(outcome(&[1, 2], 0), Err(ApplyError::DeleteMarker));
        assert_eq!(outcome(&[0, 1], 10), Err(ApplyError::PageNumber { number: 0, page_count: 10 }));
        assert_eq!(outcome(&[77], 0), Err(ApplyError::PageNumber { number: 77, page_count: 10 }));
        assert_eq!(outcome(&[1, 2], 12), Err(ApplyError::Size { size: 12, highest: 10 }));
        let far = u32::MAX - 1;
        assert_eq!(outcome(&[1, far], far), Err(ApplyError::PageNumber { number: far, page_count: 10 }));
    }
}
