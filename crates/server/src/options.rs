//! Settings of a node: [`NodeOptions`] holds what is fixed once the node runs, [`LiveOptions`] what may change under it.
//!
//! Setters check their arguments and change nothing when they refuse. Whether a node is in a state that accepts a
//! setting at all is the node's business, not this file's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicU32, AtomicU64, Ordering};

use crate::core::MemoryRules;

/// Why a setting was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OptionError {
    /// The value, or the moment, is against the rules of the interface.
    #[error("value out of range")]
    Misuse,
    /// A block size that no disk has.
    #[error("unsupported block size")]
    BlockSize,
    /// The library was built without what the setting needs.
    #[error("not supported by this build")]
    Unsupported,
}

impl OptionError {
    /// The number the C interface returns for it.
    #[must_use]
    pub fn code(self) -> i32 {
        match self {
            Self::BlockSize => 1,
            Self::Misuse => 2,
            // raft's "invalid parameter".
            Self::Unsupported => 20,
        }
    }
}

/// When entries that a snapshot covers leave the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrailingStrategy {
    /// Always keep the configured number of entries behind the snapshot.
    #[default]
    Static,
    /// Keep at most that many, fewer when the snapshot itself is small.
    Dynamic,
}

/// Longest one-way network latency that can be configured: one hour.
pub const MAX_LATENCY_MS: u32 = 3_600_000;
/// Fewest entries that may trail a snapshot.
pub const MIN_SNAPSHOT_TRAILING: u32 = 4;
/// How long a writer waits for its turn when nobody configured it.
pub const DEFAULT_BUSY_TIMEOUT_MS: u32 = 5000;

const NANOSECONDS_PER_MS: u64 = 1_000_000;
const BLOCK_SIZES: std::ops::RangeInclusive<usize> = 512..=262_144;

/// Settings that are read when a node starts.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    election_timeout_ms: u64,
    heartbeat_timeout_ms: u64,
    snapshot_threshold: u32,
    snapshot_trailing: u32,
    trailing_strategy: TrailingStrategy,
    snapshot_params_are_set: bool,
    block_size: Option<u32>,
    live: Arc<LiveOptions>,
}

impl Default for NodeOptions {
    fn default() -> Self {
        Self {
            election_timeout_ms: 3000,
            heartbeat_timeout_ms: 500,
            snapshot_threshold: 1024,
            snapshot_trailing: 8192,
            trailing_strategy: TrailingStrategy::Static,
            snapshot_params_are_set: false,
            block_size: None,
            live: Arc::default(),
        }
    }
}

impl NodeOptions {
    /// Derives the raft timeouts from a one-way latency in nanoseconds; fractions of a millisecond are dropped.
    pub fn set_network_latency_ns(&mut self, nanoseconds: u64) -> Result<(), OptionError> {
        if nanoseconds > u64::from(MAX_LATENCY_MS) * NANOSECONDS_PER_MS {
            return Err(OptionError::Misuse);
        }
        let milliseconds =
            u32::try_from(nanoseconds / NANOSECONDS_PER_MS).map_err(|_| OptionError::Misuse)?;
        self.set_network_latency_ms(milliseconds)
    }

    /// Derives the raft timeouts from a one-way latency in milliseconds, 1 to [`MAX_LATENCY_MS`].
    pub fn set_network_latency_ms(&mut self, milliseconds: u32) -> Result<(), OptionError> {
        if milliseconds == 0 || milliseconds > MAX_LATENCY_MS {
            return Err(OptionError::Misuse);
        }
        let milliseconds = u64::from(milliseconds);
        self.heartbeat_timeout_ms = milliseconds * 15 / 10;
        self.election_timeout_ms = milliseconds * 15;
        Ok(())
    }

    /// How many applied entries trigger a snapshot, and how many entries stay in the log behind it. From then on the
    /// size of the databases plays no part.
    pub fn set_snapshot_params(
        &mut self,
        threshold: u32,
        trailing: u32,
        strategy: TrailingStrategy,
    ) -> Result<(), OptionError> {
        if trailing < MIN_SNAPSHOT_TRAILING || trailing < threshold {
            return Err(OptionError::Misuse);
        }
        self.snapshot_threshold = threshold;
        self.snapshot_trailing = trailing;
        self.trailing_strategy = strategy;
        self.snapshot_params_are_set = true;
        Ok(())
    }

    /// As [`Self::set_snapshot_params`] with the strategy as C numbers it: 0 static, 1 dynamic.
    pub fn set_snapshot_params_raw(
        &mut self,
        threshold: u32,
        trailing: u32,
        strategy: i32,
    ) -> Result<(), OptionError> {
        let strategy = match strategy {
            0 => TrailingStrategy::Static,
            1 => TrailingStrategy::Dynamic,
            _ => return Err(OptionError::Misuse),
        };
        self.set_snapshot_params(threshold, trailing, strategy)
    }

    /// Size of the I/O block segments are written in: a power of two from 512 to 262144.
    pub fn set_block_size(&mut self, size_bytes: usize) -> Result<(), OptionError> {
        if !size_bytes.is_power_of_two() || !BLOCK_SIZES.contains(&size_bytes) {
            return Err(OptionError::BlockSize);
        }
        self.block_size = Some(u32::try_from(size_bytes).map_err(|_| OptionError::BlockSize)?);
        Ok(())
    }

    /// Base of the randomized election timeout.
    #[must_use]
    pub fn election_timeout_ms(&self) -> u64 {
        self.election_timeout_ms
    }

    /// Period of heartbeats and of raft's tick.
    #[must_use]
    pub fn heartbeat_timeout_ms(&self) -> u64 {
        self.heartbeat_timeout_ms
    }

    /// Applied entries between snapshots.
    #[must_use]
    pub fn snapshot_threshold(&self) -> u32 {
        self.snapshot_threshold
    }

    /// Entries that stay in the log behind a snapshot.
    #[must_use]
    pub fn snapshot_trailing(&self) -> u32 {
        self.snapshot_trailing
    }

    /// How [`Self::snapshot_trailing`] is meant.
    #[must_use]
    pub fn trailing_strategy(&self) -> TrailingStrategy {
        self.trailing_strategy
    }

    /// Whether somebody chose the snapshot parameters, if only the defaults.
    #[must_use]
    pub fn snapshot_params_are_set(&self) -> bool {
        self.snapshot_params_are_set
    }

    /// The configured I/O block, if one was configured.
    #[must_use]
    pub fn block_size(&self) -> Option<u32> {
        self.block_size
    }

    /// The settings that stay changeable while the node runs.
    #[must_use]
    pub fn live(&self) -> &Arc<LiveOptions> {
        &self.live
    }
}

/// `busy_timeout_ms` when nobody has set one.
const BUSY_TIMEOUT_UNSET: i64 = -1;

/// Settings that threads of the host may change while the node runs.
///
/// Each value stands alone, so relaxed atomics are enough: nobody infers anything about one from another.
#[derive(Debug)]
pub struct LiveOptions {
    failure_domain: AtomicU64,
    weight: AtomicU64,
    busy_timeout_ms: AtomicI64,
    target_voters: AtomicI32,
    target_standbys: AtomicI32,
    role_management: AtomicBool,
    pool_thread_count: AtomicU32,
    auto_recovery: AtomicBool,
    snapshot_compression: AtomicBool,
    client_memory_bytes: AtomicU64,
    reader_bytes: AtomicU64,
    reader_age_ms: AtomicU64,
    idle_writer_ms: AtomicU64,
}

impl Default for LiveOptions {
    fn default() -> Self {
        Self {
            failure_domain: AtomicU64::new(0),
            weight: AtomicU64::new(0),
            busy_timeout_ms: AtomicI64::new(BUSY_TIMEOUT_UNSET),
            target_voters: AtomicI32::new(3),
            target_standbys: AtomicI32::new(0),
            role_management: AtomicBool::new(false),
            pool_thread_count: AtomicU32::new(4),
            auto_recovery: AtomicBool::new(true),
            snapshot_compression: AtomicBool::new(true),
            client_memory_bytes: AtomicU64::new(0),
            reader_bytes: AtomicU64::new(0),
            reader_age_ms: AtomicU64::new(0),
            idle_writer_ms: AtomicU64::new(0),
        }
    }
}

macro_rules! live {
    ($(#[$doc:meta])* $get:ident, $set:ident, $type:ty) => {
        $(#[$doc])*
        #[must_use]
        pub fn $get(&self) -> $type {
            self.$get.load(Ordering::Relaxed)
        }

        #[doc = concat!("Changes [`Self::", stringify!($get), "`].")]
        pub fn $set(&self, value: $type) {
            self.$get.store(value, Ordering::Relaxed);
        }
    };
}

impl LiveOptions {
    live! {
        /// Where this node stands, as DESCRIBE reports it.
        failure_domain, set_failure_domain, u64
    }
    live! {
        /// How reluctant this node is to lead or vote, as DESCRIBE reports it. Kept for the life of the process only.
        weight, set_weight, u64
    }
    live! {
        /// Voters that role management aims at; zero and less mean none.
        target_voters, set_target_voters, i32
    }
    live! {
        /// Stand-bys that role management aims at; zero and less mean none.
        target_standbys, set_target_standbys, i32
    }
    live! {
        /// Whether this node, when it leads, gives members the roles that the targets call for.
        role_management, set_role_management, bool
    }
    live! {
        /// Threads for reading statements, as asked for; whoever starts the threads bounds it. Read at start.
        pool_thread_count, set_pool_thread_count, u32
    }
    live! {
        /// Whether damaged files may be moved aside when the directory is loaded. Read at start.
        auto_recovery, set_auto_recovery, bool
    }
    live! {
        /// Whether the next snapshot is written compressed. Both forms can always be read.
        snapshot_compression, set_snapshot_compression, bool
    }

    live! {
        /// Bytes to hold on behalf of clients; 0 for what [`crate::client_memory`] says. Read at start.
        client_memory_bytes, set_client_memory_bytes, u64
    }
    live! {
        /// Bytes that one read transaction may keep from being freed; 0 for what goes with the former. Read at start.
        reader_bytes, set_reader_bytes, u64
    }
    live! {
        /// How long it may keep more than that, milliseconds; 0 for the default. Read at start.
        reader_age_ms, set_reader_age_ms, u64
    }
    live! {
        /// How long a client may hold a writer lane without a request once others wait for it, milliseconds; 0 for the
        /// default. Read at start.
        idle_writer_ms, set_idle_writer_ms, u64
    }

    /// The rules for memory that follow from these settings.
    #[must_use]
    pub fn memory_rules(&self) -> MemoryRules {
        let chosen = |value: u64, default: u64| if value == 0 { default } else { value };
        let limit_bytes = match self.client_memory_bytes() {
            0 => crate::client_memory::client_memory_bytes(),
            bytes => bytes,
        };
        let rules = MemoryRules::with_limit(limit_bytes);
        MemoryRules {
            limit_bytes,
            reader_bytes: chosen(self.reader_bytes(), rules.reader_bytes),
            reader_age_ms: chosen(self.reader_age_ms(), rules.reader_age_ms),
            idle_writer_ms: chosen(self.idle_writer_ms(), rules.idle_writer_ms),
        }
    }

    /// How long a writer waits for its turn: what was configured, also 0, else [`DEFAULT_BUSY_TIMEOUT_MS`].
    #[must_use]
    pub fn busy_timeout_ms(&self) -> u32 {
        u32::try_from(self.busy_timeout_ms.load(Ordering::Relaxed)).unwrap_or(DEFAULT_BUSY_TIMEOUT_MS)
    }

    /// Whether somebody chose the busy timeout.
    #[must_use]
    pub fn busy_timeout_is_explicit(&self) -> bool {
        self.busy_timeout_ms.load(Ordering::Relaxed) != BUSY_TIMEOUT_UNSET
    }

    /// Chooses the busy timeout; 0 means that a writer that finds another one fails at once.
    pub fn set_busy_timeout_ms(&self, milliseconds: u32) {
        self.busy_timeout_ms.store(i64::from(milliseconds), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults() {
        let options = NodeOptions::default();
        assert_eq!(options.election_timeout_ms(), 3000);
        assert_eq!(options.heartbeat_timeout_ms(), 500);
        assert_eq!(options.snapshot_threshold(), 1024);
        assert_eq!(options.snapshot_trailing(), 8192);
        assert_eq!(options.trailing_strategy(), TrailingStrategy::Static);
        assert_eq!(options.block_size(), None);
        let live = options.live();
        assert_eq!(live.failure_domain(), 0);
        assert_eq!(live.weight(), 0);
        assert_eq!(live.target_voters(), 3);
        assert_eq!(live.target_standbys(), 0);
        assert!(!live.role_management());
        assert_eq!(live.pool_thread_count(), 4);
        assert!(live.auto_recovery());
        assert!(live.snapshot_compression());
    }

    #[test]
    fn latency_in_milliseconds_gives_both_timeouts() {
        let mut options = NodeOptions::default();
        for (latency, heartbeat, election) in [(1, 1, 15), (10, 15, 150), (200, 300, 3000)] {
            options.set_network_latency_ms(latency).unwrap();
            assert_eq!(
                (options.heartbeat_timeout_ms(), options.election_timeout_ms()),
                (heartbeat, election)
            );
        }
        assert_eq!(options.set_network_latency_ms(0), Err(OptionError::Misuse));
        assert_eq!(options.set_network_latency_ms(3_600_001), Err(OptionError::Misuse));
        assert_eq!(options.election_timeout_ms(), 3000, "a refused value changes nothing");
        options.set_network_latency_ms(3_600_000).unwrap();
        assert_eq!(options.election_timeout_ms(), 54_000_000);
    }

    #[test]
    fn latency_in_nanoseconds_is_cut_to_milliseconds() {
        let mut options = NodeOptions::default();
        for bad in [0, 999_999, 3_600_000_000_001, u64::MAX] {
            assert_eq!(options.set_network_latency_ns(bad), Err(OptionError::Misuse), "{bad}");
        }
        options.set_network_latency_ns(1_999_999).unwrap();
        assert_eq!(options.election_timeout_ms(), 15);
        options.set_network_latency_ns(3_600_000_000_000).unwrap();
        assert_eq!(options.heartbeat_timeout_ms(), 5_400_000);
    }

    #[test]
    fn snapshot_parameters_are_checked() {
        let mut options = NodeOptions::default();
        for (threshold, trailing, strategy) in [(0, 3, 0), (5, 4, 0), (1024, 1023, 1), (1, 4, 2), (1, 4, -1)]
        {
            let result = options.set_snapshot_params_raw(threshold, trailing, strategy);
            assert_eq!(result, Err(OptionError::Misuse), "{threshold} {trailing} {strategy}");
        }
        assert_eq!(options.snapshot_threshold(), 1024);
        assert!(!options.snapshot_params_are_set(), "a refused value changes nothing");
        options.set_snapshot_params_raw(0, 4, 1).unwrap();
        assert!(options.snapshot_params_are_set());
        assert_eq!((options.snapshot_threshold(), options.snapshot_trailing()), (0, 4));
        assert_eq!(options.trailing_strategy(), TrailingStrategy::Dynamic);
    }

    #[test]
    fn block_sizes_are_powers_of_two_between_512_and_262144() {
        let mut options = NodeOptions::default();
        for bad in [0, 1, 256, 511, 513, 4095, 524_288, usize::MAX] {
            assert_eq!(options.set_block_size(bad), Err(OptionError::BlockSize), "{bad}");
        }
        assert_eq!(OptionError::BlockSize.code(), 1);
        for shift in 9..=18 {
            options.set_block_size(1 << shift).unwrap();
            assert_eq!(options.block_size(), Some(1 << shift));
        }
    }

    #[test]
    fn explicit_busy_timeout_of_zero_is_obeyed() {
        let live = LiveOptions::default();
        assert_eq!(live.busy_timeout_ms(), DEFAULT_BUSY_TIMEOUT_MS);
        assert!(!live.busy_timeout_is_explicit());
        live.set_busy_timeout_ms(0);
        assert_eq!(live.busy_timeout_ms(), 0);
        assert!(live.busy_timeout_is_explicit());
        live.set_busy_timeout_ms(u32::MAX);
        assert_eq!(live.busy_timeout_ms(), u32::MAX);
    }

    #[test]
    fn clones_of_the_options_share_the_live_part() {
        let options = NodeOptions::default();
        let running = options.clone();
        options.live().set_failure_domain(7);
        assert_eq!(running.live().failure_domain(), 7);
    }
}
