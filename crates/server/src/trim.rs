//! When to ask the allocator for the memory that large requests have left behind.
//!
//! Each thread frees into a heap of its own, and glibc keeps more of it the larger the blocks were: after requests of 16 MiB
//! up to 250 MiB stayed with the process. A second after a large request was answered, all heaps are asked for what they
//! do not use. They give all but what is free at their ends, which is 64 MiB at most, and half of that after such requests.

/// Length in bytes from which a request is large. Smaller ones leave little behind.
pub(crate) const LARGE_REQUEST_LEN: usize = 1024 * 1024;
/// After an answer; what comes within that time is trimmed together.
const DELAY_MS: u64 = 1000;

/// When it is time.
#[derive(Debug, Default)]
pub(crate) struct Trim {
    due_ms: Option<u64>,
}

impl Trim {
    /// A large request, or a part of one, was answered.
    pub(crate) fn answered(&mut self, now_ms: u64) {
        self.due_ms.get_or_insert_with(|| now_ms.saturating_add(DELAY_MS));
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
