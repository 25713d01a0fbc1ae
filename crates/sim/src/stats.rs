//! What is counted in a run, and added up over many.

use std::collections::BTreeMap;

/// Counts of one run or of many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Simulated time, microseconds.
    pub simulated_us: u64,
    /// Transactions that clients know to be committed.
    pub committed: u64,
    /// Indexes at which the databases of nodes were compared.
    pub images: u64,
    /// Everything else, by name.
    pub counts: BTreeMap<String, u64>,
}

impl Stats {
    /// Counts one more of something.
    pub fn count(&mut self, what: &str) {
        match self.counts.get_mut(what) {
            Some(count) => *count += 1,
            None => {
                self.counts.insert(what.to_owned(), 1);
            }
        }
    }

    /// Adds another run.
    pub fn add(&mut self, other: &Self) {
        self.simulated_us += other.simulated_us;
        self.committed += other.committed;
        self.images += other.images;
        for (what, count) in &other.counts {
            *self.counts.entry(what.clone()).or_default() += count;
        }
    }

    /// As one line of words.
    #[must_use]
    pub fn to_line(&self) -> String {
        let mut line = format!("{} {} {}", self.simulated_us, self.committed, self.images);
        for (what, count) in &self.counts {
            line.push_str(&format!(" {}={count}", what.replace(' ', "_")));
        }
        line
    }

    /// From [`Self::to_line`].
    #[must_use]
    pub fn from_line(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let mut number = || words.next()?.parse().ok();
        let mut stats = Self {
            simulated_us: number()?,
            committed: number()?,
            images: number()?,
            counts: BTreeMap::new(),
        };
        for word in words {
            let (what, count) = word.split_once('=')?;
            stats.counts.insert(what.replace('_', " "), count.parse().ok()?);
        }
        Some(stats)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_holds_everything() {
        let mut stats = Stats { simulated_us: 1, committed: 2, images: 3, ..Stats::default() };
        stats.count("node killed");
        stats.count("node killed");
        stats.count("pause");
        assert_eq!(Stats::from_line(&stats.to_line()), Some(stats.clone()));
        let mut sum = stats.clone();
        sum.add(&stats);
        assert_eq!((sum.committed, sum.counts["node killed"]), (4, 4));
        assert_eq!(Stats::from_line("1 2"), None);
    }
}
