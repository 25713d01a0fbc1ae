//! A leader between two polls: whatever happened since the last one, in whatever order, each append carries the entries
//! that belong behind the one it refers to. Once, raft-rs's merging of appends moved entries to other places of a
//! peer's log: a peer was set back while an append without entries waited for it.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

mod common;

use bytes::Bytes;
use common::{Random, address, configuration};
use raft_glue::{
    Config, Entry, EntryKind, HardState, Loaded, LogIndex, NodeId, Output, Replica, Role, StreamId, Term,
};
use wire_protocol::rpc::{AppendEntries, AppendEntriesResult, Message, RequestVoteResult};

/// A leader and what it has in its log.
struct Leader {
    replica: Replica,
    log: Vec<Entry>,
    now_ms: u64,
    unpersisted: Vec<u64>,
    appends: usize,
    /// Highest index that was sent to each of the two peers.
    sent: [u64; 2],
    /// What the last append to each of them referred to.
    behind: [u64; 2],
    /// Who was to be sent a snapshot.
    snapshots: Vec<NodeId>,
}

impl Leader {
    fn elect(seed: u64) -> Self {
        let members = configuration(&[(1, Role::Voter), (2, Role::Voter), (3, Role::Voter)]);
        let first = Entry { term: Term(1), kind: EntryKind::Configuration, data: members.encode() };
        let loaded = Loaded {
            hard_state: HardState { term: Term(1), vote: None },
            first_index: LogIndex(1),
            entries: vec![first.clone()],
            ..Loaded::default()
        };
        let config = Config {
            seed,
            snapshot_threshold: 16,
            snapshot_trailing: 16,
            ..Config::new(NodeId(1), address(1))
        };
        let replica = Replica::new(config, loaded, 0).unwrap();
        let mut leader = Self {
            replica,
            log: vec![first],
            now_ms: 0,
            unpersisted: Vec::new(),
            appends: 0,
            sent: [1; 2],
            behind: [0; 2],
            snapshots: Vec::new(),
        };
        while !leader.replica.is_leader() {
            leader.now_ms += 100;
            leader.replica.handle_tick(leader.now_ms);
            leader.poll();
            assert!(leader.now_ms < 60_000, "not elected");
        }
        leader.persist();
        leader
    }

    fn receive(&mut self, from: u64, message: Message) {
        self.replica.handle_message(StreamId(from), NodeId(from), &address(from), message, self.now_ms);
    }

    fn persist(&mut self) {
        if let Some(number) = self.unpersisted.pop() {
            self.unpersisted.clear();
            self.replica.handle_persisted(number);
        }
    }

    fn propose(&mut self, random: &mut Random) {
        let data = Bytes::from(random.next().to_le_bytes().to_vec());
        let index = self.replica.propose(data.clone()).unwrap();
        let entry = Entry { term: self.replica.term(), kind: EntryKind::Command, data };
        assert_eq!(index.0, self.log.len() as u64 + 1);
        self.log.push(entry);
    }

    /// Takes all outputs, checks the appends and answers requests for votes.
    fn poll(&mut self) {
        while let Some(output) = self.replica.poll_output(self.now_ms) {
            match output {
                Output::Persist(step) => {
                    for (index, entry) in (step.first_index.0..).zip(&step.entries) {
                        // The entry that a leadership begins with is not one of ours.
                        if index == self.log.len() as u64 + 1 {
                            self.log.push(entry.clone());
                        }
                    }
                    self.unpersisted.push(step.number);
                    if !self.replica.is_leader() {
                        self.persist();
                    }
                }
                Output::Transmit { to, message: Message::RequestVote(request), .. } => {
                    let pre_vote = Some(request.pre_vote);
                    let result = RequestVoteResult { term: request.term, vote_granted: true, pre_vote };
                    self.receive(to.0, Message::RequestVoteResult(result));
                }
                Output::Transmit { to, message: Message::AppendEntries(append), .. } => {
                    let prev = usize::try_from(append.prev_log_index.0).unwrap();
                    let before = prev.checked_sub(1).map_or(Term(0), |place| self.log[place].term);
                    assert_eq!(append.prev_log_term, before, "to {to}");
                    let end = prev + append.entries.len();
                    assert_eq!(append.entries, self.log[prev..end], "to {to}, behind entry {prev}");
                    assert!(append.leader_commit.0 <= end as u64);
                    let place = usize::try_from(to.0 - 2).unwrap();
                    self.sent[place] = self.sent[place].max(end as u64);
                    self.behind[place] = prev as u64;
                    self.appends += usize::from(!append.entries.is_empty());
                }
                Output::Apply(committed) => self.replica.handle_applied(committed.index),
                Output::ReadSnapshot { to, .. } => self.snapshots.push(to),
                _ => {}
            }
        }
    }

    /// An answer of a peer that has entries up to `last`, to an append that referred to `rejected` unless that is 0.
    fn answer(&mut self, from: u64, rejected: u64, last: u64) {
        let term = self.replica.term();
        let result = AppendEntriesResult {
            term,
            rejected: LogIndex(rejected),
            last_log_index: LogIndex(last),
            features: Some(0),
        };
        self.receive(from, Message::AppendEntriesResult(result));
    }
}

#[test]
fn entries_keep_their_places_whatever_happens_between_two_polls() {
    let mut appends = 0;
    for seed in 0..300 {
        let mut random = Random(seed);
        let mut leader = Leader::elect(seed);
        // What each peer has; it only grows, but the peer may say less.
        let mut held = [1_u64; 2];
        for _ in 0..400 {
            let peer = random.below(2);
            let place = usize::try_from(peer).unwrap();
            let (id, sent) = (peer + 2, leader.sent[place]);
            match random.below(8) {
                0 | 1 => leader.propose(&mut random),
                2 | 3 => {
                    held[place] += random.below(sent - held[place] + 1);
                    leader.answer(id, 0, held[place]);
                }
                4 => leader.answer(id, held[place] + 1 + random.below(4), held[place]),
                5 => leader.replica.handle_unreachable(NodeId(id), false),
                6 => {
                    leader.now_ms += random.below(150);
                    leader.replica.handle_tick(leader.now_ms);
                }
                _ => leader.persist(),
            }
            if random.chance(25) {
                leader.poll();
            }
            if !leader.replica.is_leader() {
                break;
            }
        }
        appends += leader.appends;
    }
    assert!(appends > 5_000, "{appends}");
}

/// A peer comes back with less than it acknowledged. Whether the leader has `noticed` that it was away.
fn peer_that_lost_something_gets_it_again(noticed: bool) {
    let mut random = Random(1);
    let mut leader = Leader::elect(1);
    for _ in 0..20 {
        leader.propose(&mut random);
    }
    leader.poll();
    leader.persist();
    let last = leader.log.len() as u64;
    while leader.replica.commit_index().0 < last {
        leader.poll();
        let [second, third] = leader.sent;
        leader.answer(2, 0, second);
        leader.answer(3, 0, third);
    }
    assert_eq!(leader.sent, [last; 2]);
    // Its disk was damaged; it comes back with three entries.
    if noticed {
        leader.replica.handle_unreachable(NodeId(2), false);
    }
    let mut held = 3;
    leader.sent[0] = held;
    for _ in 0..50 {
        leader.now_ms += 100;
        leader.replica.handle_tick(leader.now_ms);
        leader.answer(3, 0, last);
        leader.behind[0] = u64::MAX;
        leader.poll();
        match leader.behind[0] {
            // Nothing was sent.
            u64::MAX => {}
            behind if behind > held => leader.answer(2, behind, held),
            _ => {
                held = held.max(leader.sent[0]);
                leader.answer(2, 0, held);
            }
        }
    }
    assert_eq!(held, last, "the leader sends nothing that it can use");
    assert!(leader.replica.is_leader());
}

#[test]
fn a_peer_that_lost_what_it_acknowledged_gets_it_again() {
    // Simulator seed 97: its rejections were taken for old ones, because it had acknowledged more.
    peer_that_lost_something_gets_it_again(true);
}

#[test]
fn a_peer_that_lost_what_it_acknowledged_between_two_heartbeats_gets_it_again() {
    // Simulator seed 201602: so they were if it was back before anybody had noticed.
    peer_that_lost_something_gets_it_again(false);
}

#[test]
fn a_peer_that_fell_silent_is_asked_for_what_the_leader_still_knows() {
    // Simulator seed 215311: heartbeats referred to an entry that the leader had compacted, with a term of 0, which a
    // peer does not answer; it was back before anybody had noticed that it was away, and stayed behind.
    let mut random = Random(1);
    let mut leader = Leader::elect(1);
    leader.poll();
    let held = leader.log.len() as u64;
    leader.answer(2, 0, held);
    leader.answer(3, 0, held);
    for _ in 0..600 {
        leader.propose(&mut random);
        leader.poll();
        leader.persist();
        leader.answer(3, 0, leader.sent[1]);
    }
    leader.poll();
    let last = leader.log.len() as u64;
    assert_eq!(leader.replica.commit_index().0, last);
    assert!(leader.sent[0] < last, "the peer that answers nothing is not sent everything");
    let metadata = leader.replica.begin_snapshot(|| 0).unwrap();
    leader.replica.handle_snapshot_taken(&metadata);
    for _ in 0..20 {
        leader.now_ms += 100;
        leader.replica.handle_tick(leader.now_ms);
        leader.answer(3, 0, last);
        leader.behind[0] = 0;
        leader.poll();
        if leader.behind[0] > held && leader.snapshots.is_empty() {
            leader.answer(2, leader.behind[0], held);
        }
    }
    assert_eq!(leader.snapshots, [NodeId(2)]);
}

#[test]
fn answers_from_before_a_pause_do_not_count_as_new() {
    let mut leader = Leader::elect(1);
    leader.now_ms += 20;
    leader.replica.handle_tick(leader.now_ms);
    let last = leader.log.len() as u64;
    let asked_ms = leader.now_ms;
    // The process is stopped for so long that the others may have elected a leader. Then it finds what had come before.
    leader.now_ms += 10_000;
    leader.answer(2, 0, last);
    leader.answer(3, 0, last);
    assert!(!leader.replica.hears_quorum(leader.now_ms - asked_ms - 1, leader.now_ms));
    assert!(!leader.replica.hears(NodeId(2), leader.now_ms));
    leader.now_ms += 20;
    leader.replica.handle_tick(leader.now_ms);
    leader.now_ms += 20;
    leader.answer(2, 0, last);
    assert!(leader.replica.hears_quorum(20, leader.now_ms));
}

/// Simulator seed 101943: a node that had lost its newest entries knew the leader from before the cluster had moved.
#[test]
fn answers_go_to_where_the_peer_says_that_it_is() {
    let old = configuration(&[(1, Role::Voter), (3, Role::Voter)]);
    let loaded = Loaded {
        hard_state: HardState { term: Term(2), vote: None },
        first_index: LogIndex(1),
        entries: vec![Entry { term: Term(1), kind: EntryKind::Configuration, data: old.encode() }],
        ..Loaded::default()
    };
    let mut replica = Replica::new(Config::new(NodeId(3), address(3)), loaded, 0).unwrap();
    let append = AppendEntries {
        term: Term(2),
        prev_log_index: LogIndex(9),
        prev_log_term: Term(2),
        leader_commit: LogIndex(9),
        entries: Vec::new(),
        echo: 0,
    };
    replica.handle_message(StreamId(1), NodeId(1), "moved", Message::AppendEntries(append), 0);
    let mut answers = Vec::new();
    while let Some(output) = replica.poll_output(0) {
        match output {
            Output::Persist(step) => replica.handle_persisted(step.number),
            Output::Transmit { to, address, message } => answers.push((to, address, message)),
            _ => {}
        }
    }
    assert!(
        matches!(&answers[..], [(NodeId(1), address, Message::AppendEntriesResult(_))] if address == "moved")
    );
    assert_eq!(replica.leader(), Some((NodeId(1), "moved".to_owned())));
}
