//! When a snapshot is wanted: by the number of entries, or by what they hold against the size of the state.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

mod common;

use bytes::Bytes;
use common::{address, configuration};
use raft_glue::{
    Config, Entry, EntryKind, HardState, Loaded, LogIndex, NodeId, Output, Replica, Role, SnapshotMetadata,
    SnapshotRule, Term,
};

const THRESHOLD: u64 = 16;
const KIB: u64 = 1024;

/// The only voter of its cluster.
struct Sole {
    replica: Replica,
    applied: u64,
}

impl Sole {
    fn new(rule: SnapshotRule) -> Self {
        let members = configuration(&[(1, Role::Voter)]);
        let first = Entry { term: Term(1), kind: EntryKind::Configuration, data: members.encode() };
        let loaded = Loaded {
            hard_state: HardState { term: Term(1), vote: None },
            first_index: LogIndex(1),
            entries: vec![first],
            ..Loaded::default()
        };
        let config = Config {
            snapshot_threshold: THRESHOLD,
            snapshot_trailing: THRESHOLD,
            snapshot_rule: rule,
            ..Config::new(NodeId(1), address(1))
        };
        let mut sole = Self { replica: Replica::new(config, loaded, 0).unwrap(), applied: 1 };
        sole.poll();
        assert!(sole.replica.is_leader());
        sole
    }

    fn poll(&mut self) {
        while let Some(output) = self.replica.poll_output(0) {
            match output {
                Output::Persist(step) => self.replica.handle_persisted(step.number),
                Output::Apply(committed) => {
                    self.replica.handle_applied(committed.index);
                    self.applied = committed.index.0;
                }
                _ => {}
            }
        }
    }

    fn write(&mut self, entries: u64, bytes: u64) {
        for _ in 0..entries {
            self.replica.propose(Bytes::from(vec![0; usize::try_from(bytes).unwrap()])).unwrap();
            self.poll();
        }
    }

    /// The snapshot that is wanted for a state of this size.
    fn wanted(&mut self, state_bytes: u64) -> Option<SnapshotMetadata> {
        self.replica.begin_snapshot(|| state_bytes)
    }
}

#[test]
fn a_threshold_that_a_host_set_is_obeyed_whatever_the_sizes() {
    let mut sole = Sole::new(SnapshotRule::Threshold);
    sole.write(THRESHOLD - sole.applied - 1, 8);
    assert_eq!(sole.wanted(0), None);
    sole.write(1, 8);
    assert_eq!(sole.wanted(u64::MAX).unwrap().index, LogIndex(THRESHOLD));
}

#[test]
fn a_state_is_written_when_the_log_is_eight_times_as_large() {
    let mut sole = Sole::new(SnapshotRule::BySize);
    let state = 25 * KIB / 2;
    sole.write(99, KIB);
    assert_eq!(sole.wanted(state), None);
    // As often as by number if the state is small.
    assert!(Sole::new(SnapshotRule::BySize).wanted(0).is_none(), "not even the number is reached");
    sole.write(1, KIB);
    let metadata = sole.wanted(state).unwrap();
    assert_eq!(sole.wanted(state), None, "one at a time");

    // What is applied while it is written counts for the next one.
    sole.write(40, KIB);
    sole.replica.handle_snapshot_taken(&metadata);
    assert_eq!(sole.wanted(state), None);
    sole.write(59, KIB);
    assert_eq!(sole.wanted(state), None);
    sole.write(1, KIB);
    let metadata = sole.wanted(state).unwrap();

    // A failed one is due again after the threshold, or at once when its cause is gone.
    sole.replica.handle_snapshot_failed();
    assert_eq!(sole.wanted(state), None);
    sole.write(THRESHOLD - 1, KIB);
    assert_eq!(sole.wanted(state), None);
    sole.write(1, KIB);
    assert!(sole.wanted(state).unwrap().index > metadata.index);
    sole.replica.handle_snapshot_failed();
    assert_eq!(sole.wanted(state), None);
    sole.replica.retry_snapshot();
    assert!(sole.wanted(state).is_some());
}

#[test]
fn the_log_does_not_grow_without_limit() {
    let mut sole = Sole::new(SnapshotRule::BySize);
    let large = 1 << 24;
    let mut written = 0;
    while sole.wanted(u64::MAX).is_none() {
        assert!(written < 1 << 30, "{written} bytes");
        sole.write(1, large);
        written += large;
    }
    assert!(written > 1 << 29);

    let mut sole = Sole::new(SnapshotRule::BySize);
    let mut entries = 0;
    while sole.wanted(u64::MAX).is_none() {
        assert!(entries <= 1 << 18, "{entries} entries");
        sole.write(1 << 10, 8);
        entries += 1 << 10;
    }
    assert!(entries >= 1 << 18);
}

#[test]
fn what_a_start_replays_counts_too() {
    let members = configuration(&[(1, Role::Voter)]);
    let configuration = Entry { term: Term(1), kind: EntryKind::Configuration, data: members.encode() };
    let command = Entry { term: Term(1), kind: EntryKind::Command, data: vec![0; 1024].into() };
    let mut entries = vec![configuration];
    entries.extend(std::iter::repeat_n(command, 100));
    let loaded = Loaded {
        hard_state: HardState { term: Term(1), vote: None },
        first_index: LogIndex(1),
        entries,
        ..Loaded::default()
    };
    let config = Config {
        snapshot_threshold: THRESHOLD,
        snapshot_rule: SnapshotRule::BySize,
        ..Config::new(NodeId(1), address(1))
    };
    let mut sole = Sole { replica: Replica::new(config, loaded, 0).unwrap(), applied: 0 };
    sole.poll();
    assert_eq!(sole.wanted(26 * KIB / 2), None);
    assert!(sole.wanted(25 * KIB / 2).is_some());
}
