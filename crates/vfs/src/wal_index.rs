//! The wal-index that all connections of a generation share, on the heap.
//!
//! SQLite's C code reads and writes this memory through raw pointers that [`WalIndex::region`] hands out, on several
//! threads and without our mutex. So every access of ours is atomic, and we write only where the locks say that nobody
//! else does: entries and header while the mutex of the generation is held and the WRITE lock is free, marks of free
//! READ slots, `nBackfill` (which only native code changes).
//!
//! | region 0, machine byte order | |
//! |---|---|
//! | 0, 48 | two copies of the header: version, pad, iChange, isInit (1) bigEndCksum (1) szPage (2), mxFrame, nPage, frame checksum (8), salts (8), checksum of the first 40 bytes (8) |
//! | 96 | nBackfill |
//! | 100 | five read marks |
//! | 120 | lock bytes, unused here |
//! | 128 | nBackfillAttempted |
//! | 136 | page numbers of frames 1 to 4062 |
//! | 16384 | hash of 8192 two-byte slots, also in every later region, which indexes 4096 frames each |
//!
//! A header is never invalid after creation, so SQLite never runs recovery.

use std::ffi::c_void;
use std::sync::atomic::{AtomicU32, Ordering, fence};

use crate::sys::ZeroedPages;
use crate::wal::{Checksum, NATIVE_BIG_ENDIAN, WAL_VERSION, checksum, native_bytes, native_u32};

pub(crate) const REGION_LEN: usize = 32_768;
const REGION_WORDS: usize = REGION_LEN / 4;
const HEADER_WORDS: usize = 12;
const BACKFILL_WORD: usize = 24;
const MARK_WORD: usize = 25;
const ATTEMPTED_WORD: usize = 32;
const FIRST_PAGES_WORD: usize = 34;
const HASH_WORD: usize = 4096;
const HASH_SLOTS: usize = 8192;
const FRAMES_PER_REGION: u32 = 4096;
const FRAMES_IN_FIRST: u32 = 4062;
/// Value of a mark that names no frame.
pub(crate) const MARK_UNUSED: u32 = u32::MAX;

/// The fields of the wal-index header that change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IndexHeader {
    pub(crate) change: u32,
    pub(crate) max_frame: u32,
    pub(crate) page_count: u32,
    pub(crate) frame_checksum: Checksum,
    pub(crate) salts: [u8; 8],
}

impl IndexHeader {
    fn words(&self) -> [u32; HEADER_WORDS] {
        let mut flags = [1, 0, 0, 0];
        flags[1] = u8::from(NATIVE_BIG_ENDIAN == 1);
        let size = if cfg!(target_endian = "big") { 4096_u16.to_be_bytes() } else { 4096_u16.to_le_bytes() };
        flags[2..].copy_from_slice(&size);
        let [a, b, c, d, e, f, g, h] = self.salts;
        let mut words = [
            WAL_VERSION,
            0,
            self.change,
            native_u32(flags),
            self.max_frame,
            self.page_count,
            self.frame_checksum[0],
            self.frame_checksum[1],
            native_u32([a, b, c, d]),
            native_u32([e, f, g, h]),
            0,
            0,
        ];
        let sum = words_checksum(&words);
        words[10] = sum[0];
        words[11] = sum[1];
        words
    }
}

/// Checksum of the first 40 bytes of a header.
fn words_checksum(words: &[u32; HEADER_WORDS]) -> Checksum {
    let mut bytes = [0; 40];
    for (target, word) in bytes.chunks_exact_mut(4).zip(words) {
        target.copy_from_slice(&native_bytes(*word));
    }
    checksum(&bytes, [0, 0])
}

struct Region(ZeroedPages<REGION_WORDS>);

impl Region {
    fn new() -> Self {
        Self(ZeroedPages::new())
    }

    /// Word and shift of a hash slot, so that two-byte slots are changed by whole words. The neighbour in the word is
    /// stored back unchanged, which is harmless because there is no other writer.
    fn slot(&self, slot: usize) -> (&AtomicU32, u32) {
        let upper = (slot % 2 == 1) != cfg!(target_endian = "big");
        (&self.0.words()[HASH_WORD + slot / 2], if upper { 16 } else { 0 })
    }

    fn load_slot(&self, slot: usize) -> u32 {
        let (word, shift) = self.slot(slot);
        (word.load(Ordering::Relaxed) >> shift) & 0xffff
    }

    fn store_slot(&self, slot: usize, value: u32) {
        let (word, shift) = self.slot(slot);
        let kept = word.load(Ordering::Relaxed) & !(0xffff << shift);
        word.store(kept | (value << shift), Ordering::Release);
    }
}

/// All regions of one wal-index.
pub(crate) struct WalIndex {
    regions: Vec<Region>,
    /// Regions from 1 up to here, excluded, were given back.
    released: usize,
}

impl WalIndex {
    /// A valid wal-index without frames.
    pub(crate) fn new(change: u32, page_count: u32, salts: [u8; 8]) -> Self {
        let index = Self { regions: vec![Region::new()], released: 1 };
        index.write_header(&IndexHeader { change, max_frame: 0, page_count, frame_checksum: [0, 0], salts });
        index.reset_marks();
        index
    }

    /// Address of a region for SQLite. It stays valid as long as the index exists: regions are never moved or freed.
    pub(crate) fn region(&mut self, number: usize, extend: bool) -> Option<*mut c_void> {
        if extend {
            while self.regions.len() <= number {
                self.regions.push(Region::new());
            }
        }
        self.regions.get(number).map(|region| region.0.words().as_ptr().cast_mut().cast::<c_void>())
    }

    /// Gives back the memory of regions whose frames all are below `floor`, where no reader looks. Their addresses stay
    /// good, they read as zeros.
    pub(crate) fn release(&mut self, floor: u32) {
        // The region of the next frame stays, and with it all later ones.
        let (kept, _, _) = locate(floor.saturating_add(1));
        for region in self.regions.iter().take(kept).skip(self.released) {
            region.0.clear();
        }
        self.released = self.released.max(kept);
    }

    /// Regions whose memory was given back.
    #[cfg(test)]
    pub(crate) fn released_regions(&self) -> usize {
        self.released - 1
    }

    /// Frame numbers start again at 1, so that all regions are going to be used again.
    pub(crate) fn reuse(&mut self) {
        self.released = 1;
    }

    fn word(&self, word: usize) -> &AtomicU32 {
        &self.regions[0].0.words()[word]
    }

    pub(crate) fn max_frame(&self) -> u32 {
        self.word(4).load(Ordering::Acquire)
    }

    pub(crate) fn page_count(&self) -> u32 {
        self.word(5).load(Ordering::Acquire)
    }

    /// The header, or `None` if its checksum is wrong.
    pub(crate) fn header(&self) -> Option<IndexHeader> {
        let mut words = [0; HEADER_WORDS];
        for (word, target) in words.iter_mut().enumerate() {
            *target = self.word(word).load(Ordering::Acquire);
        }
        if words_checksum(&words) != [words[10], words[11]] {
            return None;
        }
        let mut salts = [0; 8];
        salts[..4].copy_from_slice(&native_bytes(words[8]));
        salts[4..].copy_from_slice(&native_bytes(words[9]));
        Some(IndexHeader {
            change: words[2],
            max_frame: words[4],
            page_count: words[5],
            frame_checksum: [words[6], words[7]],
            salts,
        })
    }

    /// Publishes a header. Readers take the first copy, then the second, and accept equal ones only; so the second is
    /// written first.
    pub(crate) fn write_header(&self, header: &IndexHeader) {
        let words = header.words();
        for (word, value) in words.iter().enumerate() {
            self.word(HEADER_WORDS + word).store(*value, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
        for (word, value) in words.iter().enumerate() {
            self.word(word).store(*value, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
    }

    pub(crate) fn backfill(&self) -> u32 {
        self.word(BACKFILL_WORD).load(Ordering::Acquire)
    }

    pub(crate) fn set_backfill(&self, frame: u32) {
        self.word(ATTEMPTED_WORD).store(frame, Ordering::Release);
        self.word(BACKFILL_WORD).store(frame, Ordering::Release);
    }

    /// Mark of READ slot `slot`, 0 to 4.
    pub(crate) fn mark(&self, slot: usize) -> u32 {
        self.word(MARK_WORD + slot).load(Ordering::Acquire)
    }

    pub(crate) fn set_mark(&self, slot: usize, frame: u32) {
        self.word(MARK_WORD + slot).store(frame, Ordering::Release);
    }

    /// Marks as they are in an index without frames.
    pub(crate) fn reset_marks(&self) {
        self.set_mark(0, 0);
        self.set_mark(1, 0);
        for slot in 2..5 {
            self.set_mark(slot, MARK_UNUSED);
        }
    }

    /// Adds the entry of `frame`. The frames below it are in the index; entries above them are leftovers of a writer
    /// that rolled back and are removed.
    pub(crate) fn append(&mut self, frame: u32, page_number: u32) {
        let (number, position, pages_word) = locate(frame);
        while self.regions.len() <= number {
            self.regions.push(Region::new());
        }
        let region = &self.regions[number];
        if position == 1 {
            for word in &region.0.words()[pages_word..] {
                word.store(0, Ordering::Relaxed);
            }
        } else if region.0.words()[pages_word + position as usize - 1].load(Ordering::Relaxed) != 0 {
            clean(region, pages_word, position - 1);
        }
        region.0.words()[pages_word + position as usize - 1].store(page_number, Ordering::Release);
        let mut slot = page_number.wrapping_mul(383) as usize % HASH_SLOTS;
        // At most 4096 of 8192 slots are taken, so a free one exists.
        while region.load_slot(slot) != 0 {
            slot = (slot + 1) % HASH_SLOTS;
        }
        region.store_slot(slot, position);
    }
}

/// Removes the entries above position `limit` of a region.
fn clean(region: &Region, pages_word: usize, limit: u32) {
    for slot in 0..HASH_SLOTS {
        if region.load_slot(slot) > limit {
            region.store_slot(slot, 0);
        }
    }
    for word in &region.0.words()[pages_word + limit as usize..HASH_WORD] {
        word.store(0, Ordering::Relaxed);
    }
}

/// Region of a frame, its 1-based position there, and the word where the region's page numbers start.
fn locate(frame: u32) -> (usize, u32, usize) {
    if frame <= FRAMES_IN_FIRST {
        return (0, frame, FIRST_PAGES_WORD);
    }
    let rest = frame - FRAMES_IN_FIRST - 1;
    ((rest / FRAMES_PER_REGION + 1) as usize, rest % FRAMES_PER_REGION + 1, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const _: () = assert!(FIRST_PAGES_WORD + FRAMES_IN_FIRST as usize == HASH_WORD);

    #[test]
    fn frames_fall_into_the_regions_of_the_format() {
        assert_eq!(locate(1), (0, 1, 34));
        assert_eq!(locate(4062), (0, 4062, 34));
        assert_eq!(locate(4063), (1, 1, 0));
        assert_eq!(locate(8158), (1, 4096, 0));
        assert_eq!(locate(8159), (2, 1, 0));
    }

    #[test]
    fn header_reads_back_and_a_damaged_one_does_not() {
        let index = WalIndex::new(7, 3, [1, 2, 3, 4, 5, 6, 7, 8]);
        let header = index.header().unwrap();
        assert_eq!((header.change, header.page_count, header.max_frame), (7, 3, 0));
        assert_eq!(header.salts, [1, 2, 3, 4, 5, 6, 7, 8]);
        index.word(5).store(4, Ordering::Relaxed);
        assert_eq!(index.header(), None);
    }

    #[test]
    fn leftovers_above_the_last_frame_are_removed_by_the_next_entry() {
        let mut index = WalIndex::new(0, 1, [0; 8]);
        for frame in 1..=10 {
            index.append(frame, 100 + frame);
        }
        index.append(4, 77);
        let region = &index.regions[0];
        let live: Vec<u32> =
            (0..HASH_SLOTS).map(|slot| region.load_slot(slot)).filter(|value| *value != 0).collect();
        assert_eq!(live.len(), 4);
        assert_eq!(region.0.words()[FIRST_PAGES_WORD + 3].load(Ordering::Relaxed), 77);
        assert_eq!(region.0.words()[FIRST_PAGES_WORD + 4].load(Ordering::Relaxed), 0);
    }
}
