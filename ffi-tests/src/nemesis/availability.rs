//! How long nobody was served although a majority of the nodes ran and could talk.

use std::fmt;
use std::time::{Duration, Instant};

use super::ELECTION_TIMEOUT;

/// What happened when.
#[derive(Debug)]
pub struct Log {
    begin: Instant,
    acknowledgements: Vec<Duration>,
    /// From this time on a healthy majority is there, or is not; the name is that of the fault that changed it.
    states: Vec<(Duration, &'static str, bool)>,
}

impl Log {
    /// An empty one; times count from `begin`, at which all nodes are healthy.
    #[must_use]
    pub fn new(begin: Instant) -> Self {
        Self { begin, acknowledgements: Vec::new(), states: vec![(Duration::ZERO, "start", true)] }
    }

    /// A write was acknowledged.
    pub fn acknowledged(&mut self) {
        self.acknowledgements.push(self.begin.elapsed());
    }

    /// Something has changed, and now a majority is healthy or not.
    pub fn state(&mut self, name: &'static str, healthy: bool) {
        self.states.push((self.begin.elapsed(), name, healthy));
    }

    /// The longest wait after each change.
    #[must_use]
    pub fn judge(&self) -> Availability {
        let mut waits = Vec::new();
        for (position, (from, name, healthy)) in self.states.iter().enumerate() {
            let to = self.states.get(position + 1).map_or_else(|| self.begin.elapsed(), |(to, ..)| *to);
            if !healthy {
                continue;
            }
            let first = self.acknowledgements.partition_point(|time| time < from);
            let mut last = *from;
            let mut longest = Duration::ZERO;
            for time in self.acknowledgements[first..].iter().take_while(|time| **time < to).chain([&to]) {
                longest = longest.max(time.saturating_sub(last));
                last = *time;
            }
            waits.push((longest, *from, *name));
        }
        waits.sort_unstable();
        Availability { waits }
    }
}

/// The longest wait after each change after which a majority was healthy, in order of their length.
#[derive(Clone, Debug)]
pub struct Availability {
    waits: Vec<(Duration, Duration, &'static str)>,
}

impl Availability {
    /// How many changes there were.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waits.len()
    }

    /// Whether there were none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waits.is_empty()
    }

    /// The wait that this share of a hundred of all do not exceed.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> Duration {
        let last = self.waits.len().saturating_sub(1);
        let place = (self.waits.len() * percent / 100).min(last);
        self.waits.get(place).map_or(Duration::ZERO, |(wait, ..)| *wait)
    }

    /// The longest ones, with the time and the name of the change before them.
    #[must_use]
    pub fn longest(&self, count: usize) -> Vec<String> {
        let told = self.waits.iter().rev().take(count);
        told.map(|(wait, at, name)| format!("{wait:.2?} after {name} at {at:.1?}")).collect()
    }
}

impl fmt::Display for Availability {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let timeouts = |wait: Duration| wait.as_secs_f64() / ELECTION_TIMEOUT.as_secs_f64();
        write!(
            formatter,
            "longest wait after each of {} changes, in election timeouts: p50 {:.2}, p99 {:.2}, max {:.2}",
            self.waits.len(),
            timeouts(self.percentile(50)),
            timeouts(self.percentile(99)),
            timeouts(self.percentile(100))
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_count_only_while_a_majority_is_healthy() {
        let mut log = Log::new(Instant::now());
        let ms = Duration::from_millis;
        log.acknowledgements = vec![ms(10), ms(20), ms(500), ms(510)];
        log.states = vec![(ms(0), "start", true), (ms(30), "kill two", false), (ms(490), "restart", true)];
        log.begin = Instant::now().checked_sub(ms(515)).unwrap();
        let waits = log.judge().waits;
        assert_eq!(waits.len(), 2);
        assert_eq!(waits[0], (ms(10), ms(0), "start"));
        assert!(waits[1].0 >= ms(10) && waits[1].2 == "restart", "{waits:?}");
    }
}
