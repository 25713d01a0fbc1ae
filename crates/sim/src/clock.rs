//! The clocks of a node: a steady one that may drift and jump ahead, and a wall clock that may jump either way.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use vfs::Environment;

use crate::random::Random;
use crate::scenario::MILLISECOND;

/// Where simulated time begins, milliseconds since the Unix epoch.
const EPOCH_MS: u64 = 1_700_000_000_000;
/// Parts in a million.
const MILLION: u64 = 1_000_000;

/// The steady clock of a process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// When it began, simulated microseconds.
    origin_us: u64,
    /// Its microseconds in a million of simulated ones.
    rate: u64,
    /// How far it has jumped, microseconds.
    ahead_us: u64,
}

impl Clock {
    /// A clock that starts now at 0 and deviates by at most this, parts per million.
    pub(crate) fn new(now_us: u64, drift: u64, random: &mut Random) -> Self {
        let rate = MILLION - drift + random.below(2 * drift + 1);
        Self { origin_us: now_us, rate, ahead_us: 0 }
    }

    /// What it shows, milliseconds.
    #[must_use]
    pub(crate) fn now_ms(&self, now_us: u64) -> u64 {
        ((now_us - self.origin_us) * self.rate / MILLION + self.ahead_us) / MILLISECOND
    }

    /// When it will show this, simulated microseconds; not before `now_us`.
    #[must_use]
    pub(crate) fn when(&self, at_ms: u64, now_us: u64) -> u64 {
        let local_us = (at_ms * MILLISECOND).saturating_sub(self.ahead_us);
        let after = (local_us * MILLION).div_ceil(self.rate);
        (self.origin_us + after).max(now_us)
    }

    /// Jumps ahead.
    pub(crate) fn jump(&mut self, by_us: u64) {
        self.ahead_us += by_us;
    }
}

/// What SQLite takes for the wall clock and for chance.
#[derive(Debug)]
pub(crate) struct Surroundings {
    random: AtomicU64,
    now_us: AtomicU64,
    /// Deviation of the wall clock, milliseconds.
    wall_ms: AtomicI64,
}

impl Surroundings {
    /// Those of one process.
    #[must_use]
    pub(crate) fn new(seed: u64, wall_ms: i64) -> Self {
        Self { random: AtomicU64::new(seed), now_us: AtomicU64::new(0), wall_ms: AtomicI64::new(wall_ms) }
    }

    /// Tells the time.
    pub(crate) fn set_now_us(&self, now_us: u64) {
        self.now_us.store(now_us, Ordering::Relaxed);
    }

    /// The wall clock, milliseconds since the epoch.
    #[must_use]
    pub(crate) fn wall_clock_ms(&self) -> u64 {
        let now_ms = EPOCH_MS + self.now_us.load(Ordering::Relaxed) / MILLISECOND;
        now_ms.saturating_add_signed(self.wall_ms.load(Ordering::Relaxed))
    }

    /// Sets the wall clock.
    pub(crate) fn set_wall_ms(&self, deviation_ms: i64) {
        self.wall_ms.store(deviation_ms, Ordering::Relaxed);
    }
}

impl Environment for Surroundings {
    fn randomness(&self, buffer: &mut [u8]) {
        let mut random = Random::new(self.random.load(Ordering::Relaxed));
        for chunk in buffer.chunks_mut(8) {
            let bytes = random.number().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
        self.random.store(random.number(), Ordering::Relaxed);
    }

    fn now_ms(&self) -> i64 {
        i64::try_from(self.wall_clock_ms()).unwrap_or(i64::MAX)
    }

    fn sleep(&self, _: Duration) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_reaches_what_it_is_asked_for() {
        let mut random = Random::new(1);
        for drift in [0, 100, 20_000] {
            let mut clock = Clock::new(5_000_000, drift, &mut random);
            for at_ms in [0, 1, 99, 100, 12_345] {
                let when = clock.when(at_ms, 5_000_000);
                assert_eq!(clock.now_ms(when), at_ms);
            }
            clock.jump(1_000_000);
            assert_eq!(clock.now_ms(5_000_000), 1000);
            assert_eq!(clock.when(500, 6_000_000), 6_000_000);
        }
    }
}
