//! What a replica is told at its creation.

use bytes::Bytes;
use thiserror::Error;
use wire_protocol::{LogIndex, NodeId, Term};

/// How many entries stay behind a snapshot.
///
/// The log on disk always keeps the configured number, as C does. The dynamic strategy of C only shrinks the log in
/// memory, which [`Config::log_cache_bytes`] bounds here in any case; both values therefore behave alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrailingStrategy {
    /// Always the configured number.
    Static,
    /// C: as many as fit in the size of the snapshot, at most the configured number.
    #[default]
    Dynamic,
}

/// When a snapshot is wanted, besides that [`Config::snapshot_threshold`] entries were applied since the last one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SnapshotRule {
    /// At once: what a host asked for is done to the letter.
    #[default]
    Threshold,
    /// When the log since the last one is eight times as long as the state itself, or four times if that is more than
    /// 256 MiB, and at the latest when it is 1 GiB long or has 262,144 entries. So a small state is written as often as
    /// with C's default, and for snapshots of a larger one an eighth to a quarter of what goes into the log is written; a
    /// start replays no more than that.
    BySize,
}

/// How many times as long as the state [`SnapshotRule::BySize`] lets a log grow that is short all the same,
const SHORT_LOG_TO_STATE: u64 = 8;
/// that is, no longer than this, bytes of data,
const SHORT_LOG_BYTES: u64 = 1 << 28;
/// and how many times any other,
const LOG_TO_STATE: u64 = 4;
/// which is never longer than this.
const MAX_LOG_BYTES: u64 = 1 << 30;

/// How long [`SnapshotRule::BySize`] lets the log of a state of this many bytes grow, bytes of data.
pub(crate) fn longest_log(state_bytes: u64) -> u64 {
    let short = state_bytes.saturating_mul(SHORT_LOG_TO_STATE).min(SHORT_LOG_BYTES);
    state_bytes.saturating_mul(LOG_TO_STATE).clamp(short, MAX_LOG_BYTES)
}

/// Entries of a log that it lets grow.
pub(crate) const MAX_LOG_ENTRIES: u64 = 1 << 18;

/// Looks whether this payload of a snapshot can be restored; else the text says what is wrong with it. Called where the loop
/// waits, so it must not look at every page.
pub type SnapshotCheck = fn(&Bytes) -> Result<(), String>;

/// Settings of one replica. They never change while it lives.
#[derive(Clone, Debug)]
pub struct Config {
    /// Our identity, not 0.
    pub id: NodeId,
    /// Our address, as other members know it.
    pub address: String,
    /// Followers stand for election after between one and two of these without a leader.
    pub election_timeout_ms: u64,
    /// A leader speaks to everybody at least this often. Less than the election timeout.
    pub heartbeat_timeout_ms: u64,
    /// Source of the election timeouts.
    pub seed: u64,
    /// A snapshot is wanted after this many applied entries.
    pub snapshot_threshold: u64,
    /// What else must be.
    pub snapshot_rule: SnapshotRule,
    /// Entries kept behind a snapshot.
    pub snapshot_trailing: u64,
    /// Accepted for C's sake.
    pub trailing_strategy: TrailingStrategy,
    /// A promotion fails in the round with this number, if it takes longer than an election timeout.
    pub max_catch_up_rounds: u32,
    /// A promotion fails when one round takes longer than this.
    pub max_catch_up_round_duration_ms: u64,
    /// Entries that are applied and durable leave memory, oldest first, when the log in memory is larger than this.
    pub log_cache_bytes: u64,
    /// A snapshot that a leader sends replaces the log only if this agrees with its content. The default agrees with any.
    pub snapshot_check: SnapshotCheck,
    /// Neither vote nor campaign before this index is known to be committed: set after damage to the log, to the
    /// highest index this node may ever have acknowledged.
    pub no_vote_until: Option<LogIndex>,
    /// The term in which that damage was found; see [`crate::has_caught_up`].
    pub damaged_in: Option<Term>,
}

impl Config {
    /// Settings with the defaults of dqlite.
    #[must_use]
    pub fn new(id: NodeId, address: impl Into<String>) -> Self {
        Self {
            id,
            address: address.into(),
            election_timeout_ms: 3000,
            heartbeat_timeout_ms: 500,
            seed: 0,
            snapshot_threshold: 1024,
            snapshot_rule: SnapshotRule::default(),
            snapshot_trailing: 8192,
            trailing_strategy: TrailingStrategy::default(),
            max_catch_up_rounds: 100,
            max_catch_up_round_duration_ms: 50_000,
            log_cache_bytes: 64 << 20,
            snapshot_check: |_| Ok(()),
            no_vote_until: None,
            damaged_in: None,
        }
    }

    /// Length of a tick: a fifth of the heartbeat. Coarser ticks leave too few distinct election timeouts.
    #[must_use]
    pub fn tick_interval_ms(&self) -> u64 {
        (self.heartbeat_timeout_ms / 5).max(1)
    }

    pub(crate) fn heartbeat_ticks(&self) -> usize {
        to_ticks(self.heartbeat_timeout_ms / self.tick_interval_ms()).max(1)
    }

    pub(crate) fn election_ticks(&self) -> usize {
        to_ticks(self.election_timeout_ms / self.tick_interval_ms()).max(self.heartbeat_ticks() + 1)
    }

    /// What raft-rs is told; everything up to `applied` is in the state machine.
    pub(crate) fn to_raft(&self, applied: LogIndex) -> raft::Config {
        raft::Config {
            id: self.id.0,
            election_tick: self.election_ticks(),
            heartbeat_tick: self.heartbeat_ticks(),
            applied: applied.0,
            max_size_per_msg: raft::NO_LIMIT,
            max_inflight_msgs: 256,
            check_quorum: true,
            pre_vote: true,
            skip_bcast_commit: true,
            batch_append: true,
            max_uncommitted_size: raft::NO_LIMIT,
            max_committed_size_per_ready: 16 << 20,
            ..raft::Config::default()
        }
    }

    pub(crate) fn validate(&self) -> Result<(), ReplicaError> {
        if self.id.0 == 0 {
            return Err(ReplicaError::Config("the id is 0"));
        }
        if self.heartbeat_timeout_ms == 0 || self.heartbeat_timeout_ms >= self.election_timeout_ms {
            return Err(ReplicaError::Config(
                "the heartbeat timeout is not between 0 and the election timeout",
            ));
        }
        if self.election_timeout_ms > MAX_ELECTION_TIMEOUT_MS {
            return Err(ReplicaError::Config("the election timeout is too long"));
        }
        Ok(())
    }
}

/// Far above the largest that C's `dqlite_node_set_network_latency` allows (15 hours); keeps tick counts small.
const MAX_ELECTION_TIMEOUT_MS: u64 = 1 << 40;

fn to_ticks(count: u64) -> usize {
    usize::try_from(count.min(1 << 30)).expect("bounded by 2^30")
}

/// Why a replica cannot be created.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReplicaError {
    /// A setting is out of range.
    #[error("bad replica configuration: {0}")]
    Config(&'static str),
    /// The log does not connect to the snapshot, or to index 1.
    #[error("the log starts at {first_index}, but the snapshot ends at {snapshot_index}")]
    Gap {
        /// First entry found.
        first_index: LogIndex,
        /// Last entry covered by the snapshot, 0 without one.
        snapshot_index: LogIndex,
    },
    /// The first entry ever has to be a configuration.
    #[error("the first log entry is not a configuration")]
    NoConfiguration,
    /// A configuration entry does not decode.
    #[error("the configuration in the log entry at index {index} is malformed: {source}")]
    BadConfiguration {
        /// Index of the entry.
        index: LogIndex,
        /// What is wrong.
        source: wire_protocol::DecodeError,
    },
    /// An entry has a term above the stored one.
    #[error("the log contains term {entry}, but the stored term is {stored}")]
    TermBeyondHardState {
        /// Highest term in the log or the snapshot.
        entry: Term,
        /// Term from the metadata files.
        stored: Term,
    },
    /// The consensus library refused the state.
    #[error("consensus: {0}")]
    Raft(#[from] raft::Error),
}

#[cfg(test)]
mod tests {
    use super::longest_log;

    #[test]
    fn logs_are_long_for_small_states_and_bounded_for_large_ones() {
        const MIB: u64 = 1 << 20;
        let limits = [
            (0, 0),
            (1, 8),
            (32, 256),
            (50, 256),
            (64, 256),
            (100, 400),
            (256, 1024),
            (u64::MAX / MIB, 1024),
        ];
        for (state, log) in limits {
            assert_eq!(longest_log(state * MIB), log * MIB, "{state} MiB");
        }
    }
}
