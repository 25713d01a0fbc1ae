//! The one source of chance.

/// SplitMix64. Equal seeds give equal numbers on every platform.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A source that starts from a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A source of its own for something, so that more draws there change nothing here.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        Self(self.number())
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to `limit` - 1.
    pub fn below(&mut self, limit: u64) -> u64 {
        assert!(limit > 0, "there is no number below 0");
        // The high half of a product of 64 bits each, so it fits.
        u64::try_from((u128::from(self.number()) * u128::from(limit)) >> 64).expect("less than the limit")
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// An index into something of this length.
    pub fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).expect("below a usize")
    }

    /// One of these.
    pub fn pick<'a, T>(&mut self, among: &'a [T]) -> &'a T {
        &among[self.index(among.len())]
    }

    /// True this many times in a million.
    pub fn per_million(&mut self, parts: u32) -> bool {
        self.below(1_000_000) < u64::from(parts)
    }

    /// True this many times in a hundred.
    pub fn percent(&mut self, parts: u32) -> bool {
        self.below(100) < u64::from(parts)
    }

    /// A waiting time with this mean, mostly shorter and sometimes much longer, at most ten times as long.
    pub fn around(&mut self, mean: u64) -> u64 {
        // The sum of halves of halves: a geometric tail without floating point.
        let mut left = mean;
        let mut total = self.below(mean.max(1));
        while left > 0 && self.percent(50) && total < mean.saturating_mul(9) {
            total += self.below(mean.max(1));
            left -= left / 8 + 1;
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_give_equal_numbers_within_their_bounds() {
        let mut first = Random::new(7);
        let mut second = Random::new(7);
        for limit in 1..500 {
            let number = first.below(limit);
            assert!(number < limit);
            assert_eq!(number, second.below(limit));
        }
        assert!((0..1000).map(|_| first.around(100)).all(|wait| wait <= 1000));
        assert_ne!(Random::new(1).number(), Random::new(2).number());
    }
}
