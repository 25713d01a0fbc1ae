//! When to ask the allocator for the memory that large requests have left behind.
//!
//! Each thread frees into a heap of its own, and glibc keeps more of it the larger the blocks were: after requests of 16 MiB
//! up to 250 MiB stayed with the process. A second after a large request was answered, all heaps are asked for what they
//! do not use. They give all but what is free at their ends, which is 64 MiB at most, and half of that after such requests.
//!
//! Many small blocks stay in the same way: 4000 connections that came and went left 390 MiB. So the loop tells once in a
//! tick interval about how much is in use, and after a large fall the heaps are asked, too; less often, since what a busy
//! node uses rises and falls all the time.

/// Length in bytes from which a request is large. Smaller ones leave little behind.
pub(crate) const LARGE_REQUEST_LEN: usize = 1024 * 1024;
/// After an answer; what comes within that time is trimmed together.
const DELAY_MS: u64 = 1000;
/// A fall by so many bytes is large.
const LARGE_FALL: u64 = 16 * 1024 * 1024;
/// Between two times that follow from falls.
const INTERVAL_MS: u64 = 10_000;
/// About what a connection takes beside what SQLite counts, bytes.
pub(crate) const CONNECTION_LEN: u64 = 64 * 1024;

/// When it is time.
#[derive(Debug, Default)]
pub(crate) struct Trim {
    due_ms: Option<u64>,
    /// Most that was in use since the last time, bytes.
    peak: u64,
    /// From when on a fall counts again.
    falls_from_ms: u64,
}

impl Trim {
    /// A large request, or a part of one, was answered.
    pub(crate) fn answered(&mut self, now_ms: u64) {
        self.due_ms.get_or_insert_with(|| now_ms.saturating_add(DELAY_MS));
    }

    /// So many bytes are in use.
    pub(crate) fn in_use(&mut self, bytes: u64, now_ms: u64) {
        self.peak = self.peak.max(bytes);
        if self.peak - bytes >= LARGE_FALL && now_ms >= self.falls_from_ms {
            self.peak = bytes;
            self.falls_from_ms = now_ms.saturating_add(INTERVAL_MS);
            self.answered(now_ms);
        }
    }

    /// Whether it is time; once for each.
    pub(crate) fn take_due(&mut self, now_ms: u64) -> bool {
        self.due_ms.take_if(|due| *due <= now_ms).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_fall_is_trimmed_and_the_next_one_not_at_once() {
        let mut trim = Trim::default();
        for mib in [100, 300, 290] {
            trim.in_use(mib << 20, 0);
        }
        assert!(!trim.take_due(u64::MAX), "no large fall");
        trim.in_use(100 << 20, 0);
        assert!(trim.take_due(DELAY_MS));
        trim.in_use(50 << 20, 500);
        assert!(!trim.take_due(u64::MAX), "too early");
        trim.in_use(50 << 20, INTERVAL_MS);
        assert!(trim.take_due(u64::MAX), "but not forgotten");
        trim.in_use(49 << 20, 10 * INTERVAL_MS);
        assert!(!trim.take_due(u64::MAX));
    }

    #[test]
    fn answers_within_a_second_are_trimmed_once() {
        let mut trim = Trim::default();
        assert!(!trim.take_due(u64::MAX));
        trim.answered(5);
        trim.answered(900);
        assert!(!trim.take_due(4 + DELAY_MS));
        assert!(trim.take_due(5 + DELAY_MS));
        assert!(!trim.take_due(u64::MAX));
        trim.answered(2000);
        assert!(trim.take_due(2000 + DELAY_MS));
    }
}
