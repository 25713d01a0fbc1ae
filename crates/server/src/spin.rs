//! Threads that have just had work look for more for a moment before they sleep.
//!
//! To wake a thread takes longer than most requests do, on virtual machines several times as long, and the next request of
//! an open transaction, or the next writer, is usually there within tens of microseconds. A thread that looks lets others
//! have its processor in between, so that only time that nobody wants is lost; one that has had no work sleeps at once.

use std::num::NonZero;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// How long.
const SPIN: Duration = Duration::from_micros(60);

/// Processors this process may use; asked once, since that reads files.
pub(crate) fn processors() -> usize {
    static PROCESSORS: LazyLock<usize> =
        LazyLock::new(|| std::thread::available_parallelism().map_or(1, NonZero::get));
    *PROCESSORS
}

/// The moment after work.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spin {
    until: Option<Instant>,
}

impl Spin {
    /// There was work.
    pub(crate) fn begin() -> Self {
        Self::with(processors())
    }

    /// With one processor nobody could bring more meanwhile.
    fn with(processors: usize) -> Self {
        Self { until: (processors > 1).then(|| Instant::now() + SPIN) }
    }

    /// Whether to look once more; lets others run first.
    pub(crate) fn go_on(&mut self) -> bool {
        if self.until.is_some_and(|until| Instant::now() >= until) {
            self.until = None;
        }
        if self.until.is_some() {
            std::thread::yield_now();
        }
        self.until.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_and_begins_after_work_only() {
        let started = Instant::now();
        let mut spin = Spin::with(2);
        while spin.go_on() {}
        assert!(started.elapsed() >= SPIN);
        assert!(!spin.go_on());
        assert!(!Spin::with(1).go_on());
        assert!(!Spin::default().go_on());
    }
}
