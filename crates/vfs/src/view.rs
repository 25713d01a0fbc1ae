//! What a connection holds of its generation as a reader, and how that is taken from it.
//!
//! A read transaction keeps memory: frames that writers replace while it reads the WAL, pages that they replace while it
//! reads the main file alone. Both stay until it ends, however long that takes. So every handle has a [`View`], which its
//! generation knows too, and which can be *taken*: its locks are given back and its pinned table is dropped, as if the
//! transaction had ended, and every read that follows fails with `SQLITE_BUSY_SNAPSHOT` until the connection begins
//! another transaction. The view is taken and looked at under the mutex of the generation, so no read can meet a page
//! that is not of its snapshot. Pages that SQLite holds by address (xFetch) are counted by themselves and stay.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::database::Database;
use crate::files::lookup;
use crate::generation::State;
use crate::locks::{READ0, WRITE, bit};
use crate::page::{PAGE_FOOTPRINT, Page, PageTable};

/// The main file as a reader without WAL found it.
pub(crate) struct Pin {
    pub(crate) table: PageTable,
    pub(crate) page_count: u32,
}

/// Names a connection among those of the process that read; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReaderId(u64);

/// A read transaction that keeps memory which nobody else needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReaderHold {
    /// Whose it is.
    pub reader: ReaderId,
    /// Which of the transactions of that connection it is.
    pub transaction: u64,
    /// Bytes of what was replaced since it began, and would be free without it and those that began later.
    pub bytes: u64,
    /// The part of them that no transaction which began later keeps as well. The sum over all readers is what they keep.
    pub share: u64,
}

/// The locks of one handle, and what it sees. Changes under the mutex of the generation only; atomics, so that the handle
/// needs no second mutex.
pub(crate) struct View {
    pub(crate) id: ReaderId,
    shared: AtomicU8,
    exclusive: AtomicU8,
    /// Counts the transactions of this handle that read.
    transaction: AtomicU64,
    /// The last frame that the transaction sees.
    end: AtomicU32,
    taken: AtomicBool,
    /// Of a reader that ignores the WAL.
    pin: Mutex<Option<Pin>>,
}

impl View {
    pub(crate) fn new() -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Arc::new(Self {
            id: ReaderId(NEXT.fetch_add(1, Ordering::Relaxed)),
            shared: AtomicU8::new(0),
            exclusive: AtomicU8::new(0),
            transaction: AtomicU64::new(0),
            end: AtomicU32::new(0),
            taken: AtomicBool::new(false),
            pin: Mutex::new(None),
        })
    }

    pub(crate) fn holds_shared(&self, slot: usize) -> bool {
        self.shared.load(Ordering::Relaxed) & bit(slot) != 0
    }

    pub(crate) fn add_shared(&self, bits: u8) {
        self.shared.fetch_or(bits, Ordering::Relaxed);
    }

    pub(crate) fn remove_shared(&self, bits: u8) {
        self.shared.fetch_and(!bits, Ordering::Relaxed);
    }

    pub(crate) fn holds_exclusive(&self, slot: usize) -> bool {
        self.exclusive.load(Ordering::Relaxed) & bit(slot) != 0
    }

    pub(crate) fn add_exclusive(&self, bits: u8) {
        self.exclusive.fetch_or(bits, Ordering::Relaxed);
    }

    pub(crate) fn remove_exclusive(&self, bits: u8) {
        self.exclusive.fetch_and(!bits, Ordering::Relaxed);
    }

    /// A transaction begins to read, and sees the frames up to `end`.
    pub(crate) fn begin(&self, end: u32) {
        self.end.store(end, Ordering::Relaxed);
        self.transaction.fetch_add(1, Ordering::Relaxed);
        self.taken.store(false, Ordering::Relaxed);
    }

    /// Whether what the transaction reads was taken from it.
    pub(crate) fn is_taken(&self) -> bool {
        self.taken.load(Ordering::Relaxed)
    }

    /// The transaction ended; reads outside of one see the main file as it is.
    pub(crate) fn end(&self) {
        self.taken.store(false, Ordering::Relaxed);
    }

    pub(crate) fn pin(&self, pin: Pin) {
        *self.pin.lock().unwrap_or_else(PoisonError::into_inner) = Some(pin);
    }

    pub(crate) fn unpin(&self) {
        self.pin.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// The pinned page; the outer `None` means that nothing is pinned.
    #[expect(clippy::option_option, reason = "both answers are plain words here")]
    pub(crate) fn pinned(&self, number: u32) -> Option<Option<Page>> {
        let pin = self.pin.lock().unwrap_or_else(PoisonError::into_inner);
        pin.as_ref().map(|pin| lookup(&pin.table, pin.page_count, number))
    }

    /// Size of the pinned main file.
    pub(crate) fn pinned_count(&self) -> Option<u32> {
        self.pin.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|pin| pin.page_count)
    }

    fn pinned_table(&self) -> Option<PageTable> {
        self.pin.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|pin| pin.table.clone())
    }
}

impl Database {
    /// The read transactions that keep memory, those that keep most first. Takes time by the number of connections, and
    /// for readers of the main file alone by the pages that were replaced under them.
    #[must_use]
    pub fn reader_holds(&self) -> Vec<ReaderHold> {
        let generation = self.current();
        let (mut of_wal, of_main, table, committed) = {
            let state = generation.lock();
            if state.views.is_empty() {
                return Vec::new();
            }
            let mut of_wal = Vec::new();
            let mut of_main = Vec::new();
            for view in state.views.values() {
                if view.holds_exclusive(WRITE) {
                    // Nobody else writes meanwhile.
                    continue;
                }
                let transaction = view.transaction.load(Ordering::Relaxed);
                if (READ0 + 1..READ0 + 5).any(|slot| view.holds_shared(slot)) {
                    let behind = state.committed.saturating_sub(view.end.load(Ordering::Relaxed));
                    of_wal.push((behind, view.id, transaction));
                } else if view.holds_shared(READ0)
                    && let Some(table) = view.pinned_table()
                {
                    of_main.push((table, view.id, transaction));
                }
            }
            (of_wal, of_main, state.table.clone(), state.committed)
        };
        let mut holds = Vec::new();
        // The newest first: each is charged with what it keeps beyond those that began after it.
        of_wal.sort_unstable();
        let mut charged = 0;
        for (behind, reader, transaction) in of_wal {
            let frames = behind.min(committed);
            if frames > 0 {
                let (bytes, share) = (footprint(frames), footprint(frames - charged));
                holds.push(ReaderHold { reader, transaction, bytes, share });
            }
            charged = frames;
        }
        // Readers that began between the same two backfills share a table.
        let mut seen = BTreeSet::new();
        let mut replaced_of = BTreeMap::new();
        for (pinned, reader, transaction) in of_main {
            let key = pinned.address();
            let replaced = *replaced_of.entry(key).or_insert_with(|| pinned.replaced_by(&table));
            if replaced > 0 {
                let bytes = footprint(replaced);
                let share = if seen.insert(key) { bytes } else { 0 };
                holds.push(ReaderHold { reader, transaction, bytes, share });
            }
        }
        holds.sort_unstable_by_key(|hold| std::cmp::Reverse(hold.bytes));
        holds
    }

    /// Takes from a read transaction what it reads, so that the memory can be freed: its next read that needs a page
    /// fails with `SQLITE_BUSY_SNAPSHOT`, and the connection is good for another transaction. `false` if that transaction
    /// has ended, or writes by now.
    pub fn end_reader(&self, reader: ReaderId, transaction: u64) -> bool {
        let generation = self.current();
        let mut state = generation.lock();
        let Some(view) = state.views.get(&reader).cloned() else { return false };
        let is_it = view.transaction.load(Ordering::Relaxed) == transaction;
        is_it && state.take_view(&view)
    }
}

impl State {
    /// Gives back the READ locks of a view and what it has pinned. `false` if there is nothing to take.
    fn take_view(&mut self, view: &View) -> bool {
        if view.holds_exclusive(WRITE) {
            return false;
        }
        let mut taken = false;
        for slot in READ0..READ0 + 5 {
            if view.holds_shared(slot) {
                if !planted::bug!(TakenReaderReadsOn) {
                    view.taken.store(true, Ordering::Relaxed);
                }
                self.locks.unlock_shared(slot);
                view.remove_shared(bit(slot));
                view.unpin();
                taken = true;
            }
        }
        taken
    }
}

fn footprint(pages: u32) -> u64 {
    u64::from(pages) * PAGE_FOOTPRINT as u64
}
