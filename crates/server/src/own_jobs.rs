//! Jobs that the thread which has the loop runs itself, and which jobs those are.

use std::collections::VecDeque;

use crate::core::JobClass;

/// After so many readers' jobs that took long, more than did not, they go to the executor
const MANY_LONG_READS: u32 = 4;
/// for so long.
const READERS_AWAY_MS: u64 = 50;

/// The jobs in order, and what is known of those before.
#[derive(Debug)]
pub(crate) struct OwnJobs<J> {
    queue: VecDeque<J>,
    /// Until then readers' jobs are none of them.
    readers_away_until_ms: u64,
    /// Readers' jobs that took long, less those that did not.
    long_reads: u32,
}

impl<J> OwnJobs<J> {
    pub(crate) fn new() -> Self {
        Self { queue: VecDeque::new(), readers_away_until_ms: 0, long_reads: 0 }
    }

    /// Whether jobs of this class are among them at the moment. Those that run no statement are not: opening a
    /// connection is as long as the schema.
    pub(crate) fn include(&self, class: JobClass, now_ms: u64) -> bool {
        match class {
            JobClass::Writer => true,
            JobClass::Reader => now_ms >= self.readers_away_until_ms,
            JobClass::Short => false,
        }
    }

    /// Joins the end of the queue.
    pub(crate) fn push(&mut self, job: J) {
        self.queue.push_back(job);
    }

    /// The next one.
    pub(crate) fn pop(&mut self) -> Option<J> {
        self.queue.pop_front()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// A reader's job was run. If most take long, the next ones go to the executor, where they run side by side; single
    /// long ones may just have had to wait for a processor.
    pub(crate) fn reader_ended(&mut self, brief: bool, now_ms: u64) {
        self.long_reads = if brief { self.long_reads.saturating_sub(1) } else { self.long_reads + 1 };
        if self.long_reads == MANY_LONG_READS {
            self.long_reads = 0;
            self.readers_away_until_ms = now_ms + READERS_AWAY_MS;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_are_kept_away_while_most_of_them_take_long() {
        let mut jobs = OwnJobs::<u8>::new();
        for _ in 0..100 {
            jobs.reader_ended(false, 7);
            jobs.reader_ended(true, 7);
            jobs.reader_ended(true, 7);
        }
        assert!(jobs.include(JobClass::Reader, 7));
        for _ in 0..MANY_LONG_READS {
            assert!(jobs.include(JobClass::Reader, 7));
            jobs.reader_ended(false, 7);
        }
        assert!(!jobs.include(JobClass::Reader, 7));
        assert!(jobs.include(JobClass::Writer, 7));
        assert!(!jobs.include(JobClass::Reader, 6 + READERS_AWAY_MS));
        assert!(jobs.include(JobClass::Reader, 7 + READERS_AWAY_MS));
        assert!(!jobs.include(JobClass::Short, 7 + READERS_AWAY_MS));
    }

    #[test]
    fn jobs_keep_their_order() {
        let mut jobs = OwnJobs::new();
        assert!(jobs.is_empty());
        jobs.push(1);
        jobs.push(2);
        assert_eq!([jobs.pop(), jobs.pop(), jobs.pop()], [Some(1), Some(2), None]);
    }
}
