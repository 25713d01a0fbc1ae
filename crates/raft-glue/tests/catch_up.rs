//! A member that may have lost entries neither votes nor leads before it holds everything again.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

mod common;

use common::{address, configuration};
use raft_glue::{
    Config, Entry, EntryKind, HardState, Loaded, LogIndex, NodeId, Output, Replica, Role, StreamId, Term,
    has_caught_up,
};
use wire_protocol::rpc::{AppendEntries, Message, RequestVote};

const UNTIL: LogIndex = LogIndex(50);
const DAMAGED_IN: Term = Term(5);

fn entry(term: u64) -> Entry {
    Entry { term: Term(term), kind: EntryKind::Command, data: vec![1; 8].into() }
}

/// Node 1 of three, with entries up to 3 of terms up to 4 and the durable term 5.
fn member() -> Replica {
    let members = configuration(&[(1, Role::Voter), (2, Role::Voter), (3, Role::Voter)]);
    let first = Entry { term: Term(1), kind: EntryKind::Configuration, data: members.encode() };
    let loaded = Loaded {
        hard_state: HardState { term: Term(5), vote: None },
        first_index: LogIndex(1),
        entries: vec![first, entry(1), entry(4)],
        ..Loaded::default()
    };
    let config = Config {
        no_vote_until: Some(UNTIL),
        damaged_in: Some(DAMAGED_IN),
        ..Config::new(NodeId(1), address(1))
    };
    Replica::new(config, loaded, 0).unwrap()
}

/// What it sends when everything it wants written is written.
fn sent(replica: &mut Replica, now_ms: u64) -> Vec<Message> {
    let mut sent = Vec::new();
    while let Some(output) = replica.poll_output(now_ms) {
        match output {
            Output::Persist(step) => replica.handle_persisted(step.number),
            Output::Apply(committed) => replica.handle_applied(committed.index),
            Output::Transmit { message, .. } => sent.push(message),
            _ => {}
        }
    }
    sent
}

fn say(replica: &mut Replica, from: u64, message: Message, now_ms: u64) -> Vec<Message> {
    replica.handle_message(StreamId(from), NodeId(from), &address(from), message, now_ms);
    sent(replica, now_ms)
}

/// Entries behind `prev` from the leader 2 of `term`.
fn append(term: u64, prev: (u64, u64), commit: u64, entries: Vec<Entry>) -> Message {
    Message::AppendEntries(AppendEntries {
        term: Term(term),
        prev_log_index: LogIndex(prev.0),
        prev_log_term: Term(prev.1),
        leader_commit: LogIndex(commit),
        entries,
        echo: 0,
    })
}

/// Whether it grants its vote to node 3, which has a longer log, in a new term.
fn grants(replica: &mut Replica, now_ms: u64) -> bool {
    let request = RequestVote {
        term: Term(replica.term().0 + 1),
        candidate_id: NodeId(3),
        last_log_index: LogIndex(1000),
        last_log_term: replica.term(),
        disrupt_leader: true,
        pre_vote: false,
    };
    let answers = say(replica, 3, Message::RequestVote(request), now_ms);
    let granted =
        |message: &Message| matches!(message, Message::RequestVoteResult(result) if result.vote_granted);
    answers.iter().any(granted)
}

#[test]
fn neither_time_nor_terms_nor_entries_of_the_old_term_end_the_wait() {
    let mut replica = member();
    sent(&mut replica, 0);
    for now_ms in (0..60_000).step_by(100) {
        replica.handle_tick(now_ms);
        assert!(sent(&mut replica, now_ms).is_empty(), "it stands for election");
    }
    assert_eq!(replica.vote_withheld_until(), Some(UNTIL));
    assert!(!grants(&mut replica, 60_000));
    // The leader that it had acknowledged entries to sends some of them again.
    let mut replica = member();
    say(&mut replica, 2, append(5, (3, 4), 0, vec![entry(5), entry(5)]), 100);
    say(&mut replica, 2, append(5, (5, 5), 5, Vec::new()), 200);
    assert_eq!((replica.commit_index(), replica.commit_term()), (LogIndex(5), Term(5)));
    assert_eq!(replica.vote_withheld_until(), Some(UNTIL));
    assert!(!grants(&mut replica, 300));
}

#[test]
fn a_committed_entry_of_a_later_term_ends_the_wait() {
    let mut replica = member();
    say(&mut replica, 2, append(6, (3, 4), 3, vec![entry(5), entry(6)]), 100);
    // It is here, but nobody has said that it is committed.
    assert_eq!(replica.vote_withheld_until(), Some(UNTIL));
    say(&mut replica, 2, append(6, (5, 6), 5, Vec::new()), 200);
    assert_eq!((replica.commit_index(), replica.commit_term()), (LogIndex(5), Term(6)));
    assert_eq!(replica.vote_withheld_until(), None);
    assert!(grants(&mut replica, 300));
}

#[test]
fn the_index_alone_is_enough_and_the_term_needs_to_be_known() {
    let done =
        |damaged_in, committed, term| has_caught_up(UNTIL, damaged_in, LogIndex(committed), Term(term));
    assert!(done(None, 50, 1));
    assert!(!done(None, 49, u64::MAX));
    assert!(!done(Some(DAMAGED_IN), 49, 5));
    assert!(done(Some(DAMAGED_IN), 1, 6));
}
