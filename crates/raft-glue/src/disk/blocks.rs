//! Memory for writes of whole blocks.
//!
//! Writes past the cache want the memory, the length and the place in the file to be multiples of the disk's block. They
//! spare a copy into the cache, the cache itself, and a thread of the kernel between the disk and whoever waits for it.

/// Block size, a multiple of that of nearly every disk, and the unit in which C writes its segments, too.
pub(super) const BLOCK_LEN: usize = 4096;
/// Memory that is kept from one write to the next; enough for an entry of as many transactions as are merged.
const KEPT_LEN: usize = 2 * 1024 * 1024;

/// Bytes that begin at a boundary in memory.
#[derive(Debug, Default)]
pub(super) struct BlockBuffer {
    bytes: Vec<u8>,
    /// Where the boundary is.
    skip: usize,
}

impl BlockBuffer {
    /// An empty buffer for `len` bytes; with more the boundary may be lost. They are appended to the vector, which holds
    /// others in front of them.
    pub(super) fn begin(&mut self, len: usize) -> &mut Vec<u8> {
        self.bytes.clear();
        self.bytes.reserve(len.next_multiple_of(BLOCK_LEN) + BLOCK_LEN);
        self.skip = self.bytes.as_ptr().align_offset(BLOCK_LEN);
        self.bytes.resize(self.skip, 0);
        &mut self.bytes
    }

    /// What was appended, and zeros to the end of the last block.
    pub(super) fn blocks(&mut self) -> &[u8] {
        let len = (self.bytes.len() - self.skip).next_multiple_of(BLOCK_LEN);
        self.bytes.resize(self.skip + len, 0);
        &self.bytes[self.skip..]
    }

    /// Called between writes: a long one does not keep its memory.
    pub(super) fn rest(&mut self) {
        if self.bytes.capacity() > KEPT_LEN {
            self.bytes = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_begin_at_a_boundary_and_end_with_zeros() {
        let mut buffer = BlockBuffer::default();
        for len in [1, 4095, 4096, 4097, 3 * KEPT_LEN, 1, 0, 100_000] {
            buffer.begin(len).extend(std::iter::repeat_n(7, len));
            let blocks = buffer.blocks();
            assert_eq!(blocks.as_ptr().align_offset(BLOCK_LEN), 0);
            assert_eq!(blocks.len(), len.next_multiple_of(BLOCK_LEN));
            assert!(blocks[..len].iter().all(|byte| *byte == 7));
            assert!(blocks[len..].iter().all(|byte| *byte == 0));
            buffer.rest();
            assert!(buffer.bytes.capacity() <= KEPT_LEN);
        }
    }
}
