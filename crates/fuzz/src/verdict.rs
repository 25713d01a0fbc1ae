//! How long another client waits while a node is attacked.

use std::fmt;
use std::time::Duration;

/// Times of one kind of request.
#[derive(Clone, Debug, Default)]
pub struct Latencies(Vec<Duration>);

impl Latencies {
    /// Notes one.
    pub fn push(&mut self, latency: Duration) {
        self.0.push(latency);
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The smallest time that this share of a thousand of all requests do not exceed.
    #[must_use]
    pub fn permille(&self, permille: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let last = sorted.len().saturating_sub(1);
        sorted.get((sorted.len() * permille / 1000).min(last)).copied().unwrap_or_default()
    }
}

impl fmt::Display for Latencies {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |permille| self.permille(permille).as_secs_f64() * 1000.0;
        write!(
            formatter,
            "{} requests, p50 {:.1} ms, p99 {:.1} ms, max {:.0} ms",
            self.len(),
            ms(500),
            ms(990),
            ms(1000)
        )
    }
}
