//! The clock of a node: milliseconds since it started, the time that the machine was suspended included.
//!
//! Promises between nodes are kept by this clock (`raft_glue`'s lease). One that stood still while the machine was suspended
//! (CLOCK_MONOTONIC, which `Instant` reads) would let a leader that wakes up believe in a lease that has long ended. That a
//! virtual machine was paused from outside is seen by no clock of its own.

/// The clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    origin_ms: u64,
}

impl Clock {
    /// A clock that shows 0 now.
    pub(crate) fn start() -> Self {
        Self { origin_ms: boot_ms() }
    }

    /// Milliseconds since the start.
    pub(crate) fn now_ms(self) -> u64 {
        boot_ms().saturating_sub(self.origin_ms)
    }
}

/// Milliseconds since the machine was booted.
fn boot_ms() -> u64 {
    u64::try_from(vfs::boot_time().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_at_zero_and_goes_on() {
        let clock = Clock::start();
        let first = clock.now_ms();
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(first < 10_000 && clock.now_ms() >= first + 20);
    }
}
