//! A database as the node sees it: captured transactions out, committed transactions in, images in and out.
//!
//! Nothing here calls SQLite and everything may be called from any thread, beside connections that are being stepped.
//! A database has one current generation; replacing it is how speculative transactions are undone.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::checkpoint::overlay;
use crate::error::{Error, Veto};
use crate::first_page::first_page;
use crate::generation::{Generation, Seed, Speculative, State};
use crate::name::DatabaseName;
use crate::options::Settings;
use crate::page::{PAGE_SIZE, Page, PageNumber, PageTable, Position};
use crate::snapshot::DatabaseSnapshot;

/// A transaction that SQLite committed on this node and the log did not commit yet.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// Generation it was captured in.
    pub generation: u64,
    /// Number of the transaction; consecutive within a database.
    pub sequence: u64,
    /// Position of its last frame.
    pub end: Position,
    /// Final image of every page it changed.
    pub pages: Vec<(PageNumber, Page)>,
    /// Size of the database after it, in pages.
    pub page_count: u32,
    /// Whether it is the deletion of the database, which must not be merged with another transaction.
    pub delete_marker: bool,
}

impl Transaction {
    /// Whether it is the deletion of the database, which must not be merged with another transaction.
    #[must_use]
    pub fn is_delete_marker(&self) -> bool {
        self.delete_marker
    }
}

/// What [`Database::maintain`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Maintenance {
    /// Frames moved into the main file.
    pub backfilled: u32,
    /// Whether frame numbers start again.
    pub restarted: bool,
}

/// One database of a node.
pub struct Database {
    name: DatabaseName,
    settings: Arc<Settings>,
    /// Source of generation numbers, shared by all databases of the VFS.
    generations: Arc<AtomicU64>,
    current: Mutex<Arc<Generation>>,
    open_handles: AtomicUsize,
    restored: AtomicBool,
    /// What its connections know of its schema.
    pub(crate) schema: crate::schema_check::Shared,
}

impl fmt::Debug for Database {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Database").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Database {
    /// A database with the page that SQLite would give a new one.
    pub(crate) fn create(name: DatabaseName, settings: Arc<Settings>, generations: Arc<AtomicU64>) -> Self {
        let mut table = PageTable::default();
        table.set(1, first_page(settings.sqlite_version));
        let seed =
            Seed { table, page_count: 1, base: 0, next_sequence: 1, change: 1, salts: salts(&settings) };
        let id = generations.fetch_add(1, Ordering::Relaxed);
        let generation = Generation::new(id, name.clone(), Arc::clone(&settings), seed);
        Self {
            name,
            settings,
            generations,
            current: Mutex::new(Arc::new(generation)),
            open_handles: AtomicUsize::new(0),
            restored: AtomicBool::new(false),
            schema: Mutex::default(),
        }
    }

    /// Name of the database.
    #[must_use]
    pub fn name(&self) -> &DatabaseName {
        &self.name
    }

    pub(crate) fn current(&self) -> Arc<Generation> {
        Arc::clone(&self.slot())
    }

    pub(crate) fn slot(&self) -> MutexGuard<'_, Arc<Generation>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        let generation = self.current();
        let state = generation.lock();
        read(&state)
    }

    /// Number of the current generation; numbers are never used twice within a VFS.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.slot().id
    }

    /// Position up to which the log committed.
    #[must_use]
    pub fn committed(&self) -> Position {
        let committed = self.with(State::committed_position);
        Position(committed.0 + u64::from(planted::bug!(WatermarkOffByOne)))
    }

    /// Position up to which transactions were captured; equals [`committed`](Self::committed) without speculation.
    #[must_use]
    pub fn captured(&self) -> Position {
        self.with(|state| Position(state.base + u64::from(state.captured)))
    }

    /// Whether the newest committed state is that of a deleted database.
    #[must_use]
    pub fn is_deleted(&self) -> bool {
        self.with(|state| state.deleted)
    }

    /// Whether nothing was ever committed to this database, so that it exists only because somebody opened it.
    #[must_use]
    pub fn is_pristine(&self) -> bool {
        self.committed() == Position(0) && !self.restored.load(Ordering::Acquire)
    }

    /// Pages of the committed state.
    #[must_use]
    pub fn page_count(&self) -> u32 {
        self.with(|state| state.committed_pages)
    }

    /// Number of the last frame in the WAL. It goes back to zero at a restart, which needs a moment without speculative
    /// transactions and without readers of the WAL. Memory does not grow with it, [`maintain`](Self::maintain) frees what
    /// nobody reads any more, but the number has 32 bits: a caller that sees millions should let the pipeline drain once.
    #[must_use]
    pub fn wal_frames(&self) -> u32 {
        self.with(|state| state.captured)
    }

    /// Bytes of the frames in the WAL.
    #[must_use]
    pub fn wal_bytes(&self) -> u64 {
        self.with(|state| state.wal.held() as u64 * crate::page::PAGE_FOOTPRINT as u64)
    }

    /// Transactions captured and not yet committed.
    #[must_use]
    pub fn speculative_len(&self) -> usize {
        self.with(|state| state.queue.len())
    }

    /// How many of them [`poll_captured`](Self::poll_captured) has not given out yet.
    #[must_use]
    pub fn captured_len(&self) -> usize {
        self.with(|state| state.queue.len() - state.polled)
    }

    /// Bytes of their pages.
    #[must_use]
    pub fn speculative_bytes(&self) -> u64 {
        self.with(|state| u64::from(state.captured - state.committed) * PAGE_SIZE as u64)
    }

    /// The invariant that was violated, if any was. Such a database refuses all work and the node must stop.
    ///
    /// # Errors
    /// [`Error::Invariant`].
    pub fn check(&self) -> Result<(), Error> {
        let generation = self.current();
        let state = generation.lock();
        generation.check(&state)
    }

    /// Handles that are open on any generation of this database.
    pub(crate) fn open_handles(&self) -> usize {
        self.open_handles.load(Ordering::Acquire)
    }

    pub(crate) fn handle_opened(&self) {
        self.open_handles.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn handle_closed(&self) {
        self.open_handles.fetch_sub(1, Ordering::AcqRel);
    }

    /// The next captured transaction that was not handed out yet, in the order of the commits. It stays speculative
    /// until [`commit`](Self::commit). A fenced generation gives nothing.
    #[must_use]
    pub fn poll_captured(&self) -> Option<Transaction> {
        self.poll_captured_if(|_| true)
    }

    /// [`poll_captured`](Self::poll_captured), unless `wanted` says no: then the transaction stays the next one.
    #[must_use]
    pub fn poll_captured_if(&self, wanted: impl FnOnce(&Transaction) -> bool) -> Option<Transaction> {
        let generation = self.current();
        let mut state = generation.lock();
        if state.fenced {
            return None;
        }
        let speculative = state.queue.get(state.polled)?;
        let transaction = Transaction {
            generation: generation.id,
            sequence: speculative.sequence,
            end: Position(state.base + u64::from(speculative.last)),
            pages: state.pages(speculative),
            page_count: speculative.page_count,
            delete_marker: speculative.delete_marker,
        };
        if !wanted(&transaction) {
            return None;
        }
        state.polled += 1;
        Some(transaction)
    }

    /// The log committed our own transactions up to `sequence`, which was handed out before. Only moves the watermark.
    ///
    /// # Errors
    /// [`Error::StaleGeneration`] if the generation is not the current one or is fenced, [`Error::Invariant`] if the
    /// transaction is not in the queue.
    pub fn commit(&self, generation: u64, sequence: u64) -> Result<Position, Error> {
        let current = self.current();
        let mut state = current.lock();
        current.check(&state)?;
        if current.id != generation || state.fenced {
            return Err(Error::StaleGeneration(generation));
        }
        let head = state.queue.front().map(|speculative| speculative.sequence);
        let count = head
            .and_then(|head| sequence.checked_sub(head))
            .and_then(|ahead| usize::try_from(ahead).ok())
            .map_or(usize::MAX, |ahead| ahead.saturating_add(1));
        if count > state.polled {
            let reason = format!("commit of {sequence}, queue head {head:?}, {} handed out", state.polled);
            return Err(current.violate(&mut state, reason));
        }
        for _ in 0..count {
            let speculative = state.queue.pop_front().expect("the queue holds at least what was handed out");
            if speculative.first != state.committed + 1 {
                let reason = format!("frame {} follows {}", speculative.first, state.committed);
                return Err(current.violate(&mut state, reason));
            }
            state.committed = speculative.last;
            state.committed_pages = speculative.page_count;
            state.deleted = speculative.delete_marker;
        }
        state.polled -= count;
        Ok(state.committed_position())
    }

    /// From now on no commit passes and nobody gets the WRITE lock, until the generation is replaced.
    pub fn fence(&self) {
        self.current().lock().fenced = true;
    }

    /// Refuses commits with the code of the veto, or lets them pass again. Statements fail cleanly and their connections
    /// stay usable. A veto ends with the generation.
    pub fn set_veto(&self, veto: Option<Veto>) {
        self.current().lock().veto = veto;
    }

    /// Replaces the generation by one that holds exactly the committed state. Connections of the old one stay safe to
    /// use; they read what they could read and their writes are refused. Returns how many speculative transactions are
    /// gone.
    pub fn switch_generation(&self) -> usize {
        let mut slot = self.slot();
        self.switch(&mut slot)
    }

    pub(crate) fn switch(&self, slot: &mut Arc<Generation>) -> usize {
        let mut old = slot.lock();
        old.fenced = true;
        let discarded = old.queue.len();
        let failure = old.failure.clone();
        let snapshot = if planted::bug!(UndoForgetsFrames) { old.with_frames(0) } else { old.snapshot() };
        let page_count =
            if planted::bug!(SizeNotRestored) { old.index.page_count() } else { snapshot.page_count };
        let next = self.next_generation(&old, snapshot.table, page_count);
        drop(old);
        // A database that broke an invariant does not come back to life.
        next.lock().failure = failure;
        *slot = next;
        discarded
    }

    pub(crate) fn next_generation(&self, old: &State, table: PageTable, page_count: u32) -> Arc<Generation> {
        let seed = Seed {
            table,
            page_count,
            base: old.committed_position().0,
            next_sequence: old.next_sequence,
            change: old.index.header().map_or(0, |header| header.change).wrapping_add(1),
            salts: salts(&self.settings),
        };
        let id = self.generations.fetch_add(1, Ordering::Relaxed);
        Arc::new(Generation::new(id, self.name.clone(), Arc::clone(&self.settings), seed))
    }

    /// Moves committed frames into the main file and restarts the WAL, if enough frames wait and nobody is in the way.
    /// Cheap when there is nothing to do; call it after commits.
    ///
    /// # Errors
    /// [`Error::Invariant`].
    pub fn maintain(&self) -> Result<Maintenance, Error> {
        self.maintain_with(self.settings.checkpoint_threshold)
    }

    /// [`maintain`](Self::maintain) with another threshold; 1 moves everything that can be moved.
    ///
    /// # Errors
    /// [`Error::Invariant`].
    pub fn maintain_with(&self, threshold: u32) -> Result<Maintenance, Error> {
        let generation = self.current();
        let mut state = generation.lock();
        generation.check(&state)?;
        generation.maintain(&mut state, threshold)
    }

    /// Moves committed frames into the main file, however few they are, and lets the WAL be: its restart would make all
    /// connections forget the pages they know. For a database at rest, whose readers then find pages where they lie.
    ///
    /// # Errors
    /// [`Error::Invariant`].
    pub fn backfill(&self) -> Result<u32, Error> {
        let generation = self.current();
        let mut state = generation.lock();
        generation.check(&state)?;
        generation.backfill(&mut state)
    }

    /// The committed state.
    #[must_use]
    pub fn snapshot(&self) -> DatabaseSnapshot {
        self.current().lock().snapshot()
    }

    /// The committed state like [`snapshot`](Self::snapshot), for observers: moves no frames into the main file, so that
    /// looking changes nothing.
    #[must_use]
    pub fn look(&self) -> DatabaseSnapshot {
        self.with(|state| state.with_frames(state.committed))
    }

    /// Replaces the database by an image, in a new generation. An image without pages is that of a new database.
    ///
    /// # Errors
    /// [`Error::Image`] if a page has another length, the count is wrong, or page 1 is not that of a WAL database with
    /// pages of 4096 bytes; then nothing changes.
    pub fn restore(&self, page_count: u32, pages: &mut dyn Iterator<Item = &[u8]>) -> Result<(), Error> {
        let mut table = PageTable::default();
        let mut count = 0;
        for bytes in pages {
            count += 1;
            if count > page_count {
                break;
            }
            let page = Page::copy_from(bytes).ok_or(Error::Image("a page does not have 4096 bytes"))?;
            table.set(count, page);
        }
        if count != page_count {
            return Err(Error::Image("the number of pages is not the announced one"));
        }
        let page_count = match table.get(1) {
            None => {
                table.set(1, first_page(self.settings.sqlite_version));
                1
            }
            Some(page) => {
                check_first_page(&page[..])?;
                page_count
            }
        };
        let mut slot = self.slot();
        let mut old = slot.lock();
        old.fenced = true;
        let next = self.next_generation(&old, table, page_count);
        next.lock().failure = old.failure.clone();
        drop(old);
        self.restored.store(true, Ordering::Release);
        *slot = next;
        Ok(())
    }
}

impl State {
    pub(crate) fn committed_position(&self) -> Position {
        Position(self.base + u64::from(self.committed))
    }

    fn snapshot(&mut self) -> DatabaseSnapshot {
        // What can be moved into the main file first changes it in place; the rest has to be put over a copy.
        self.backfill();
        self.with_frames(if planted::bug!(SpeculativeSnapshot) { self.captured } else { self.committed })
    }

    /// The main file with the frames up to this one over it.
    fn with_frames(&self, until: u32) -> DatabaseSnapshot {
        let mut table = self.table.clone();
        let page_count = overlay(&mut table, self.main_pages, &self.wal, self.index.backfill(), until);
        DatabaseSnapshot { table, page_count }
    }

    /// Final image of each page of a transaction. A page occurs twice when it was spilled and changed again, and one that
    /// was spilled can be beyond the size in the end.
    fn pages(&self, transaction: &Speculative) -> Vec<(PageNumber, Page)> {
        let mut pages: Vec<(PageNumber, Page)> = (transaction.first..=transaction.last)
            .rev()
            .filter_map(|number| self.wal.frame(number))
            .filter(|frame| frame.page_number() <= transaction.page_count)
            .filter_map(|frame| Some((PageNumber(frame.page_number()), frame.page.clone()?)))
            .collect();
        // Newest first until here; a stable sort keeps the newest of equals in front.
        pages.sort_by_key(|(number, _)| *number);
        pages.dedup_by_key(|(number, _)| *number);
        pages
    }
}

/// Whether an image can begin with this page.
///
/// # Errors
/// [`Error::Image`] if it does not have 4096 bytes or is not page 1 of a WAL database with pages of that size.
pub fn check_first_page(page: &[u8]) -> Result<(), Error> {
    if page.len() != PAGE_SIZE {
        return Err(Error::Image("a page does not have 4096 bytes"));
    }
    if page[..16] != *b"SQLite format 3\0" {
        return Err(Error::Image("page 1 is not that of an sqlite database"));
    }
    if page[16..18] != 4096_u16.to_be_bytes() {
        return Err(Error::Image("the database has another page size"));
    }
    if page[18..20] != [2, 2] {
        return Err(Error::Image("the database is not in wal mode"));
    }
    Ok(())
}

fn salts(settings: &Settings) -> [u8; 8] {
    let mut salts = [0; 8];
    settings.environment.randomness(&mut salts);
    salts
}
