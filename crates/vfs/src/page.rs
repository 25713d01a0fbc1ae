//! Pages and the two-level page table.
//!
//! A page never changes after it was made: whoever holds a [`Page`] holds its bytes for as long as it wants. The table
//! maps page numbers to pages through chunks of 512 pointers. Both levels are reference counted, so a clone of the
//! table costs one count, and the first change after it copies the list of chunks and the one chunk that is touched.

use std::ffi::c_void;
use std::fmt;
use std::ops::Deref;
use std::ptr;
use std::sync::{Arc, OnceLock};

/// Bytes in one database page. The database format of dqlite has no other size.
pub const PAGE_SIZE: usize = 4096;

/// Page pointers in one chunk of a [`PageTable`].
const CHUNK_PAGES: usize = 512;

/// Number of a database page; the first page of a database is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageNumber(pub u32);

/// Count of frames that became part of a database so far; it only grows within a generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

/// Zeros behind the bytes of a page. SQLite reads pages where they lie, and of a corrupt one it may read a little more
/// than there is; its own VFS for Unix maps no page that has not as many bytes behind it (`unixFetch` in `os_unix.c`).
const OVERREAD: usize = 256;

/// What a page takes in memory, bytes: itself, its counts, and its place in a WAL or a table.
pub(crate) const PAGE_FOOTPRINT: usize = size_of::<Padded>() + 2 * size_of::<usize>() + 64;

/// What is allocated for a page.
#[repr(C)]
struct Padded {
    bytes: [u8; PAGE_SIZE],
    zeros: [u8; OVERREAD],
}

/// An immutable page; cloning it copies a pointer.
#[derive(Clone)]
pub struct Page(Arc<Padded>);

impl Page {
    /// Copies `bytes` into a new page; `None` unless there are exactly [`PAGE_SIZE`] of them.
    #[must_use]
    pub fn copy_from(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; PAGE_SIZE] = bytes.try_into().ok()?;
        // Copied once, straight to the heap; a value would pass over the stack.
        let mut page = Arc::<Padded>::new_uninit();
        let place = Arc::get_mut(&mut page)?.as_mut_ptr();
        // SAFETY: `place` is the memory of a whole `Padded`, which nobody else has.
        let zeros = unsafe { &raw mut (*place).zeros };
        // SAFETY: as above.
        unsafe { zeros.write([0; OVERREAD]) };
        // SAFETY: the memory begins with an array of that length, and `bytes` is elsewhere.
        unsafe { ptr::copy_nonoverlapping(bytes, place.cast(), 1) };
        // SAFETY: both fields are written, and there are no others.
        Some(Self(unsafe { page.assume_init() }))
    }

    /// Address of the bytes, [`OVERREAD`] zeros behind them, for a reader in C. They stay until the address is given to
    /// [`from_raw`](Self::from_raw).
    pub(crate) fn into_raw(self) -> *const c_void {
        Arc::into_raw(self.0).cast()
    }

    /// Takes back what [`into_raw`](Self::into_raw) gave out.
    ///
    /// # Safety
    /// The address is from `into_raw`, and it is given back once for each time.
    pub(crate) unsafe fn from_raw(address: *const c_void) -> Self {
        // SAFETY: by contract.
        Self(unsafe { Arc::from_raw(address.cast()) })
    }

    /// The page that a hole in a database reads as.
    #[must_use]
    pub fn zero() -> Self {
        static ZERO: OnceLock<Page> = OnceLock::new();
        ZERO.get_or_init(|| Self(Arc::new(Padded { bytes: [0; PAGE_SIZE], zeros: [0; OVERREAD] }))).clone()
    }

    /// Whether both are the same allocation, which implies the same bytes.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The big-endian 32-bit field at `offset`, as used all over SQLite's file header.
    #[must_use]
    pub(crate) fn field(&self, offset: usize) -> u32 {
        crate::wal::be_u32(&self[..], offset)
    }
}

impl Deref for Page {
    type Target = [u8; PAGE_SIZE];

    fn deref(&self) -> &Self::Target {
        &self.0.bytes
    }
}

impl AsRef<[u8]> for Page {
    fn as_ref(&self) -> &[u8] {
        &self.0.bytes
    }
}

impl PartialEq for Page {
    fn eq(&self, other: &Self) -> bool {
        self.is_same(other) || self.0.bytes == other.0.bytes
    }
}

impl Eq for Page {}

impl fmt::Debug for Page {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Page(..)")
    }
}

#[derive(Clone)]
struct Chunk([Option<Page>; CHUNK_PAGES]);

impl Chunk {
    /// A chunk of holes; all are the same until they are changed.
    fn empty() -> Arc<Self> {
        static EMPTY: OnceLock<Arc<Chunk>> = OnceLock::new();
        Arc::clone(EMPTY.get_or_init(|| Arc::new(Self([const { None }; CHUNK_PAGES]))))
    }
}

/// Page number to page. Absent pages are holes and read as zeros.
#[derive(Clone, Default)]
pub(crate) struct PageTable {
    chunks: Arc<Vec<Arc<Chunk>>>,
}

impl PageTable {
    /// The page, or `None` for a hole.
    pub(crate) fn get(&self, number: u32) -> Option<&Page> {
        let (chunk, slot) = place(number)?;
        self.chunks.get(chunk)?.0[slot].as_ref()
    }

    /// Puts a page in place, making room as needed. Page 0 does not exist and is ignored.
    pub(crate) fn set(&mut self, number: u32, page: Page) {
        let Some((chunk, slot)) = place(number) else { return };
        let chunks = Arc::make_mut(&mut self.chunks);
        if chunks.len() <= chunk {
            chunks.resize_with(chunk + 1, Chunk::empty);
        }
        Arc::make_mut(&mut chunks[chunk]).0[slot] = Some(page);
    }

    /// Drops every page above `page_count`.
    pub(crate) fn truncate(&mut self, page_count: u32) {
        let kept = page_count as usize;
        if kept >= self.chunks.len() * CHUNK_PAGES {
            return;
        }
        let chunks = Arc::make_mut(&mut self.chunks);
        chunks.truncate(kept.div_ceil(CHUNK_PAGES));
        if let (Some(last), used @ 1..) = (chunks.last_mut(), kept % CHUNK_PAGES)
            && last.0[used..].iter().any(Option::is_some)
        {
            Arc::make_mut(last).0[used..].fill(None);
        }
    }
}

impl PageTable {
    /// Tells tables apart: clones that were not changed since have the same.
    pub(crate) fn address(&self) -> usize {
        Arc::as_ptr(&self.chunks).addr()
    }

    /// Pages of this table that `newer` has no longer, so that this one keeps them. Takes time by the chunks that differ.
    pub(crate) fn replaced_by(&self, newer: &Self) -> u32 {
        if Arc::ptr_eq(&self.chunks, &newer.chunks) {
            return 0;
        }
        let mut replaced = 0;
        for (place, old) in self.chunks.iter().enumerate() {
            let new = newer.chunks.get(place);
            if new.is_some_and(|new| Arc::ptr_eq(old, new)) {
                continue;
            }
            for (slot, page) in old.0.iter().enumerate() {
                let Some(page) = page else { continue };
                let now = new.and_then(|new| new.0[slot].as_ref());
                replaced += u32::from(!now.is_some_and(|now| now.is_same(page)));
            }
        }
        replaced
    }
}

/// Chunk and slot of a page number.
fn place(number: u32) -> Option<(usize, usize)> {
    let index = number.checked_sub(1)? as usize;
    Some((index / CHUNK_PAGES, index % CHUNK_PAGES))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(fill: u8) -> Page {
        Page::copy_from(&[fill; PAGE_SIZE]).unwrap()
    }

    #[test]
    fn a_clone_keeps_what_it_saw() {
        let mut table = PageTable::default();
        for number in 1..=1500 {
            table.set(number, page(1));
        }
        let before = table.clone();
        table.set(700, page(2));
        table.truncate(1000);
        assert_eq!(before.get(700).unwrap()[0], 1);
        assert_eq!(table.get(700).unwrap()[0], 2);
        assert!(before.get(1500).is_some());
        assert!(table.get(1001).is_none() && table.get(1500).is_none());
        assert!(table.get(1000).is_some());
    }

    #[test]
    fn what_a_clone_keeps_alone_is_counted() {
        let mut table = PageTable::default();
        for number in 1..=1500 {
            table.set(number, page(1));
        }
        let before = table.clone();
        assert_eq!(before.replaced_by(&table), 0);
        assert_eq!(before.address(), table.address());
        table.set(2, page(2));
        table.set(700, page(2));
        table.truncate(1400);
        assert_ne!(before.address(), table.address());
        assert_eq!(before.replaced_by(&table), 102);
        table.truncate(0);
        assert_eq!(before.replaced_by(&table), 1500);
    }

    #[test]
    fn truncation_forgets_what_a_later_growth_would_uncover() {
        let mut table = PageTable::default();
        table.set(3, page(9));
        table.truncate(2);
        table.set(4, page(1));
        assert!(table.get(3).is_none());
        assert!(table.get(0).is_none());
    }

    #[test]
    fn only_whole_pages_are_pages() {
        assert!(Page::copy_from(&[0; 4095]).is_none());
        assert!(Page::copy_from(&[0; 4097]).is_none());
        assert_eq!(Page::zero()[..], [0; PAGE_SIZE][..]);
    }
}
