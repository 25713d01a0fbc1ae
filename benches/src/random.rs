//! Numbers that only have to look random, the same for every library.

use bytes::Bytes;

/// Marsaglia's xorshift.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// From 0 to `end` - 1.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).expect("less than a usize")
    }
}

/// Values that do not compress, cut out of one block: the load must not cost what it measures.
#[derive(Clone, Debug)]
pub(crate) struct Values(Bytes);

const BLOCK_LEN: usize = 1 << 20;

impl Values {
    pub(crate) fn new() -> Self {
        let mut random = Random::new(7);
        Self((0..BLOCK_LEN / 8).flat_map(|_| random.next().to_le_bytes()).collect())
    }

    pub(crate) fn cut(&self, random: &mut Random, len: usize) -> Bytes {
        let start = random.below(self.0.len() - len);
        self.0.slice(start..start + len)
    }
}
