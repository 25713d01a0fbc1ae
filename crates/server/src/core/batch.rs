//! Captured transactions that share a log entry.

use std::collections::BTreeMap;

use bytes::Bytes;
use vfs::{DatabaseName, Page, PageNumber, Position, Transaction};
use wire_protocol::command;

/// One or several captured transactions that become one entry: the newest image of each page.
#[derive(Debug)]
pub(super) struct Batch {
    pages: BTreeMap<PageNumber, Page>,
    page_count: u32,
    pub(super) generation: u64,
    /// Newest transaction in it.
    pub(super) sequence: u64,
    pub(super) end: Position,
}

impl Batch {
    /// Begins one.
    pub(super) fn new(transaction: Transaction) -> Self {
        let mut batch = Self {
            pages: BTreeMap::new(),
            page_count: transaction.page_count,
            generation: transaction.generation,
            sequence: transaction.sequence,
            end: transaction.end,
        };
        batch.add(transaction);
        batch
    }

    /// Lays a later transaction over this one.
    pub(super) fn add(&mut self, transaction: Transaction) {
        self.page_count = transaction.page_count;
        self.sequence = transaction.sequence;
        self.end = transaction.end;
        if planted::bug!(OlderImageWins) {
            for (number, page) in transaction.pages {
                self.pages.entry(number).or_insert(page);
            }
            return;
        }
        self.pages.extend(transaction.pages);
    }

    /// Bytes of pages.
    pub(super) fn len(&self) -> usize {
        self.pages.len() * vfs::PAGE_SIZE
    }

    /// COMMAND_FRAMES. Pages that a later transaction of the batch cut off are left out.
    pub(super) fn encode(&self, name: &DatabaseName) -> Bytes {
        let kept = self.pages.iter().filter(|(number, _)| number.0 <= self.page_count);
        let pages: Vec<(u32, &[u8])> = kept.map(|(number, page)| (number.0, &page[..])).collect();
        command::encode_frames(name.as_bytes(), pages.into_iter())
    }
}
