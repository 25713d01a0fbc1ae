//! The WAL: its bytes, its checksums, and the frames we keep.
//!
//! | WAL header, 32 bytes, big-endian | | frame header, 24 bytes, big-endian | |
//! |---|---|---|---|
//! | 0  | magic 0x377f0682, +1 if checksums read big-endian words | 0 | page number |
//! | 4  | version 3007000 | 4 | database size in pages for a commit, else 0 |
//! | 8  | page size | 8 | salts, 8 bytes |
//! | 12 | checkpoint sequence | 16 | cumulative checksum, 8 bytes |
//! | 16 | salts, 8 bytes | | |
//! | 24 | checksum of the first 24 bytes, 8 bytes | | |
//!
//! The checksum of a frame covers the first 8 bytes of its header and its page, continued from the frame before, or
//! from the WAL header. We only ever produce checksums in the byte order of the machine, as SQLite does.
//!
//! Frames are numbered from 1. The front of the list may be gone (see [`Wal::release`]), its numbers stay taken.

use std::collections::VecDeque;

use crate::page::{PAGE_SIZE, Page};

pub(crate) const WAL_HEADER_LEN: usize = 32;
pub(crate) const FRAME_HEADER_LEN: usize = 24;
pub(crate) const FRAME_LEN: usize = FRAME_HEADER_LEN + PAGE_SIZE;
pub(crate) const WAL_MAGIC: u32 = 0x377f_0682;
pub(crate) const WAL_VERSION: u32 = 3_007_000;
/// Set in the magic number when checksums are computed over big-endian words.
pub(crate) const NATIVE_BIG_ENDIAN: u32 = if cfg!(target_endian = "big") { 1 } else { 0 };

pub(crate) type Checksum = [u32; 2];

/// Reads a big-endian word; bytes past the end read as zero.
pub(crate) fn be_u32(bytes: &[u8], offset: usize) -> u32 {
    let mut word = [0; 4];
    if let Some(source) = bytes.get(offset..offset + 4) {
        word.copy_from_slice(source);
    }
    u32::from_be_bytes(word)
}

/// Writes a big-endian word.
pub(crate) fn put_be_u32(bytes: &mut [u8], offset: usize, value: u32) {
    bytes[offset..offset + 4].copy_from_slice(&value.to_be_bytes());
}

/// Continues a checksum over `bytes`, whose length is a multiple of 8.
pub(crate) fn checksum(bytes: &[u8], seed: Checksum) -> Checksum {
    let [mut first, mut second] = seed;
    let (pairs, rest) = bytes.as_chunks::<8>();
    debug_assert!(rest.is_empty());
    for &[a, b, c, d, e, f, g, h] in pairs {
        let low = native_u32([a, b, c, d]);
        let high = native_u32([e, f, g, h]);
        first = first.wrapping_add(low).wrapping_add(second);
        second = second.wrapping_add(high).wrapping_add(first);
    }
    [first, second]
}

/// A word in the byte order of the machine.
pub(crate) fn native_u32(bytes: [u8; 4]) -> u32 {
    if cfg!(target_endian = "big") { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
}

/// The four bytes of a word in the byte order of the machine.
pub(crate) fn native_bytes(word: u32) -> [u8; 4] {
    if cfg!(target_endian = "big") { word.to_be_bytes() } else { word.to_le_bytes() }
}

/// Builds a WAL header; returns it with the checksum that the first frame continues.
pub(crate) fn build_header(sequence: u32, salts: [u8; 8]) -> ([u8; WAL_HEADER_LEN], Checksum) {
    let mut header = [0; WAL_HEADER_LEN];
    put_be_u32(&mut header, 0, WAL_MAGIC | NATIVE_BIG_ENDIAN);
    put_be_u32(&mut header, 4, WAL_VERSION);
    put_be_u32(&mut header, 8, u32::try_from(PAGE_SIZE).expect("4096 fits"));
    put_be_u32(&mut header, 12, sequence);
    header[16..24].copy_from_slice(&salts);
    let sum = checksum(&header[..24], [0, 0]);
    put_be_u32(&mut header, 24, sum[0]);
    put_be_u32(&mut header, 28, sum[1]);
    (header, sum)
}

/// One frame: the header as written, and the page once it arrived.
#[derive(Clone)]
pub(crate) struct Frame {
    header: [u8; FRAME_HEADER_LEN],
    pub(crate) page: Option<Page>,
}

impl Frame {
    /// A frame with a checksum that continues `seed`, which is moved on.
    pub(crate) fn build(
        number: u32,
        commit_size: u32,
        salts: [u8; 8],
        seed: &mut Checksum,
        page: Page,
    ) -> Self {
        let mut header = [0; FRAME_HEADER_LEN];
        put_be_u32(&mut header, 0, number);
        put_be_u32(&mut header, 4, commit_size);
        header[8..16].copy_from_slice(&salts);
        *seed = checksum(&page[..], checksum(&header[..8], *seed));
        put_be_u32(&mut header, 16, seed[0]);
        put_be_u32(&mut header, 20, seed[1]);
        Self { header, page: Some(page) }
    }

    pub(crate) fn page_number(&self) -> u32 {
        be_u32(&self.header, 0)
    }

    /// Database size in pages if the frame ends a transaction, else 0.
    pub(crate) fn commit_size(&self) -> u32 {
        be_u32(&self.header, 4)
    }
}

/// What a write asked for that the WAL cannot do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadWrite;

/// Header and frames of one WAL.
pub(crate) struct Wal {
    pub(crate) header: [u8; WAL_HEADER_LEN],
    frames: VecDeque<Frame>,
    /// Frames that were dropped at the front.
    released: u32,
}

impl Wal {
    pub(crate) fn new() -> Self {
        Self { header: [0; WAL_HEADER_LEN], frames: VecDeque::new(), released: 0 }
    }

    /// Number of the last frame.
    pub(crate) fn len(&self) -> u32 {
        self.released + u32::try_from(self.frames.len()).expect("frame numbers are 32 bits in SQLite too")
    }

    /// Frames that take memory.
    pub(crate) fn held(&self) -> usize {
        self.frames.len()
    }

    pub(crate) fn frame(&self, number: u32) -> Option<&Frame> {
        let index = number.checked_sub(self.released + 1)? as usize;
        self.frames.get(index)
    }

    fn frame_mut(&mut self, number: u32) -> Option<&mut Frame> {
        let index = number.checked_sub(self.released + 1)? as usize;
        self.frames.get_mut(index)
    }

    pub(crate) fn push(&mut self, frame: Frame) {
        self.frames.push_back(frame);
    }

    /// Drops the frames above `last`.
    pub(crate) fn truncate(&mut self, last: u32) {
        self.frames.truncate(last.saturating_sub(self.released) as usize);
    }

    /// Forgets the frames up to `last`, which no reader looks at any more.
    pub(crate) fn release(&mut self, last: u32) {
        let count = last.saturating_sub(self.released).min(self.len() - self.released);
        self.frames.drain(..count as usize);
        self.released += count;
    }

    /// Forgets all frames; numbers start again at 1. The header's bytes stay.
    pub(crate) fn restart(&mut self) {
        self.frames.clear();
        self.frames.shrink_to(1024);
        self.released = 0;
    }

    /// Writes a frame header: of the next frame, or again of one above `fixed`.
    pub(crate) fn write_frame_header(
        &mut self,
        number: u32,
        fixed: u32,
        bytes: &[u8],
    ) -> Result<(), BadWrite> {
        let header = <[u8; FRAME_HEADER_LEN]>::try_from(bytes).map_err(|_| BadWrite)?;
        if number <= fixed {
            return Err(BadWrite);
        }
        if number == self.len() + 1 {
            self.push(Frame { header, page: None });
            return Ok(());
        }
        let frame = self.frame_mut(number).ok_or(BadWrite)?;
        if frame.page_number() != be_u32(&header, 0) {
            // The position was moved back by a rollback to a savepoint and another page takes the place.
            frame.page = None;
        }
        frame.header = header;
        Ok(())
    }

    /// Writes the page of a frame above `fixed` whose header is there.
    pub(crate) fn write_frame_page(&mut self, number: u32, fixed: u32, page: Page) -> Result<(), BadWrite> {
        if number <= fixed {
            return Err(BadWrite);
        }
        self.frame_mut(number).ok_or(BadWrite)?.page = Some(page);
        Ok(())
    }

    /// Copies the bytes at `offset` of the WAL file into `buffer`; returns how many of them exist.
    pub(crate) fn read(&self, mut offset: u64, buffer: &mut [u8]) -> usize {
        let mut done = 0;
        while done < buffer.len() {
            let rest = &mut buffer[done..];
            let count = if offset < WAL_HEADER_LEN as u64 {
                copy_part(&self.header, offset, rest)
            } else {
                let index = (offset - WAL_HEADER_LEN as u64) / FRAME_LEN as u64;
                let within = (offset - WAL_HEADER_LEN as u64) % FRAME_LEN as u64;
                let Some(frame) = u32::try_from(index + 1).ok().and_then(|number| self.frame(number)) else {
                    break;
                };
                if within < FRAME_HEADER_LEN as u64 {
                    copy_part(&frame.header, within, rest)
                } else if let Some(page) = &frame.page {
                    copy_part(&page[..], within - FRAME_HEADER_LEN as u64, rest)
                } else {
                    break;
                }
            };
            done += count;
            offset += count as u64;
        }
        done
    }
}

/// Copies `source[offset..]` into the front of `target`, as much as fits.
pub(crate) fn copy_part(source: &[u8], offset: u64, target: &mut [u8]) -> usize {
    let offset = usize::try_from(offset).map_or(source.len(), |offset| offset.min(source.len()));
    let count = (source.len() - offset).min(target.len());
    target[..count].copy_from_slice(&source[offset..offset + count]);
    count
}

/// Number of the frame that a file offset lies in, and the offset within it.
pub(crate) fn frame_at(offset: u64) -> Option<(u32, usize)> {
    let offset = offset.checked_sub(WAL_HEADER_LEN as u64)?;
    let number = u32::try_from(offset / FRAME_LEN as u64 + 1).ok()?;
    let within = usize::try_from(offset % FRAME_LEN as u64).ok()?;
    Some((number, within))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_is_the_sum_the_format_describes() {
        let mut bytes = [0; 16];
        for (index, word) in [1_u32, 2, 3, 4].into_iter().enumerate() {
            bytes[index * 4..index * 4 + 4].copy_from_slice(&native_bytes(word));
        }
        // s1 = 1, s2 = 2 + 1; s1 = 1 + 3 + 3, s2 = 3 + 4 + 7
        assert_eq!(checksum(&bytes, [0, 0]), [7, 14]);
    }

    #[test]
    fn frames_keep_their_numbers_when_the_front_is_released() {
        let mut wal = Wal::new();
        let mut sum = [0, 0];
        for number in 1..=5 {
            wal.push(Frame::build(number, 0, [0; 8], &mut sum, Page::zero()));
        }
        wal.release(2);
        assert_eq!(wal.len(), 5);
        assert!(wal.frame(2).is_none());
        assert_eq!(wal.frame(3).unwrap().page_number(), 3);
        let mut header = [0; FRAME_HEADER_LEN];
        let offset = (WAL_HEADER_LEN + 2 * FRAME_LEN) as u64;
        assert_eq!(wal.read(offset, &mut header), FRAME_HEADER_LEN);
        assert_eq!(be_u32(&header, 0), 3);
        wal.truncate(3);
        assert_eq!(wal.len(), 3);
    }

    #[test]
    fn fixed_frames_cannot_be_written_again() {
        let mut wal = Wal::new();
        let header = [0; FRAME_HEADER_LEN];
        assert_eq!(wal.write_frame_header(1, 0, &header), Ok(()));
        assert_eq!(wal.write_frame_page(1, 0, Page::zero()), Ok(()));
        assert_eq!(wal.write_frame_header(1, 1, &header), Err(BadWrite));
        assert_eq!(wal.write_frame_page(1, 1, Page::zero()), Err(BadWrite));
        assert_eq!(wal.write_frame_header(3, 1, &header), Err(BadWrite));
        assert_eq!(wal.write_frame_page(2, 1, Page::zero()), Err(BadWrite));
    }
}
