//! What somebody who reaches the port may say: nothing of it ends a member or a cluster, and every request gets an answer
//! or its stream is closed.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

mod common;

use bytes::Bytes;
use common::{address, configuration};
use raft_glue::{
    Config, Configuration, Entry, EntryKind, HardState, Loaded, LogIndex, NodeId, Output, Replica, Role,
    Server, StreamId, Term,
};
use wire_protocol::rpc::{
    AppendEntries, AppendEntriesResult, InstallSnapshot, Message, RequestVote, RequestVoteResult, TimeoutNow,
};

/// How far a term may lie above that of a node.
const HEADROOM: u64 = 1 << 32;
/// The leader of the cluster in which node 1 follows.
const LEADER: u64 = 2;
/// Nobody's id.
const STRANGER: u64 = 77;
/// Term and last index of the follower.
const TERM: u64 = 5;
const LAST: u64 = 8;
/// Content of a snapshot that is none.
const BAD: &[u8] = b"bad";

fn members() -> Configuration {
    configuration(&[(1, Role::Voter), (LEADER, Role::Voter), (3, Role::Voter)])
}

fn entry(index: u64) -> Entry {
    let (kind, data) = match index {
        1 => (EntryKind::Configuration, members().encode()),
        _ => (EntryKind::Command, Bytes::copy_from_slice(&index.to_le_bytes())),
    };
    Entry { term: Term(TERM), kind, data }
}

/// Node 1 and what it says.
struct Node {
    replica: Replica,
    now_ms: u64,
    answers: Vec<(NodeId, Message)>,
    closed: Vec<StreamId>,
    persists: usize,
    failure: Option<String>,
    /// Restoring a snapshot takes its time.
    restores_slowly: bool,
    restoring: Option<LogIndex>,
}

impl Node {
    /// A member that follows in a term of its own choice.
    fn follower(term: u64) -> Self {
        let entries: Vec<Entry> = (1..=LAST).map(entry).collect();
        let mut node = Self::with(HardState { term: Term(term), vote: None }, entries);
        node.now_ms += 10_000;
        let heartbeat = append(term, LAST, TERM, LAST, Vec::new());
        assert!(node.hears(LEADER, heartbeat).is_some());
        assert_eq!(node.replica.commit_index(), LogIndex(LAST));
        node
    }

    /// One that has never heard of any cluster.
    fn pristine() -> Self {
        Self::with(HardState::default(), Vec::new())
    }

    fn with(hard_state: HardState, entries: Vec<Entry>) -> Self {
        let loaded = Loaded { hard_state, first_index: LogIndex(1), entries, ..Loaded::default() };
        let snapshot_check = |data: &Bytes| if data == BAD { Err("it is bad".to_owned()) } else { Ok(()) };
        let config =
            Config { snapshot_threshold: LAST, snapshot_check, ..Config::new(NodeId(1), address(1)) };
        let mut node = Self {
            replica: Replica::new(config, loaded, 0).unwrap(),
            now_ms: 0,
            answers: Vec::new(),
            closed: Vec::new(),
            persists: 0,
            failure: None,
            restores_slowly: false,
            restoring: None,
        };
        node.poll();
        node
    }

    fn poll(&mut self) {
        while let Some(output) = self.replica.poll_output(self.now_ms) {
            match output {
                Output::Persist(step) => {
                    self.persists += 1;
                    self.replica.handle_persisted(step.number);
                }
                Output::Apply(committed) => self.replica.handle_applied(committed.index),
                Output::Restore(snapshot) if self.restores_slowly => {
                    self.restoring = Some(snapshot.metadata.index);
                }
                Output::Restore(snapshot) => self.replica.handle_restored(snapshot.metadata.index),
                Output::Transmit { to, message, .. } => self.answers.push((to, message)),
                Output::CloseStream { stream, .. } => self.closed.push(stream),
                Output::Failed(reason) => self.failure = Some(reason),
                Output::MoveAside => self.replica.handle_moved_aside(true),
                _ => {}
            }
        }
    }

    /// A message comes on a stream of its own, named after its sender. Gives the answer.
    fn hears(&mut self, from: u64, message: Message) -> Option<Message> {
        self.answers.clear();
        self.closed.clear();
        self.replica.handle_message(StreamId(from), NodeId(from), &address(from), message, self.now_ms);
        self.poll();
        let answers = std::mem::take(&mut self.answers);
        answers.into_iter().find(|(to, _)| *to == NodeId(from)).map(|(_, message)| message)
    }

    fn closes(&mut self, from: u64, message: Message) -> bool {
        let answer = self.hears(from, message);
        assert!(answer.is_none(), "{answer:?}");
        self.closed == [StreamId(from)]
    }

    fn leader(&self) -> Option<u64> {
        self.replica.leader().map(|(id, _)| id.0)
    }
}

fn append(term: u64, prev: u64, prev_term: u64, commit: u64, entries: Vec<Entry>) -> Message {
    Message::AppendEntries(AppendEntries {
        term: Term(term),
        prev_log_index: LogIndex(prev),
        prev_log_term: Term(prev_term),
        leader_commit: LogIndex(commit),
        entries,
        echo: 0,
    })
}

fn snapshot(term: u64, last_index: u64, servers: Configuration) -> InstallSnapshot {
    InstallSnapshot {
        term: Term(term),
        last_index: LogIndex(last_index),
        last_term: Term(TERM),
        configuration: servers,
        configuration_index: LogIndex(1),
        data: Bytes::from_static(&[0; 16]),
    }
}

fn vote(term: u64, pre_vote: bool, disrupt_leader: bool) -> Message {
    Message::RequestVote(RequestVote {
        term: Term(term),
        candidate_id: NodeId(STRANGER),
        last_log_index: LogIndex(LAST),
        last_log_term: Term(TERM),
        disrupt_leader,
        pre_vote,
    })
}

/// Each kind of message, with this term, as it could come from a stranger and from members.
fn each(term: u64) -> Vec<Message> {
    let vote_result = |pre_vote| {
        Message::RequestVoteResult(RequestVoteResult { term: Term(term), vote_granted: false, pre_vote })
    };
    vec![
        append(term, 0, 0, 0, Vec::new()),
        append(term, LAST, TERM, LAST, vec![]),
        Message::AppendEntriesResult(AppendEntriesResult {
            term: Term(term),
            rejected: LogIndex(0),
            last_log_index: LogIndex(LAST),
            features: Some(0),
        }),
        vote(term, false, false),
        vote(term, false, true),
        vote(term, true, false),
        vote_result(None),
        vote_result(Some(false)),
        vote_result(Some(true)),
        Message::InstallSnapshot(snapshot(term, LAST + 100, members())),
        Message::TimeoutNow(TimeoutNow {
            term: Term(term),
            last_log_index: LogIndex(LAST),
            last_log_term: Term(TERM),
        }),
    ]
}

fn is_request(message: &Message) -> bool {
    matches!(message, Message::AppendEntries(_) | Message::RequestVote(_) | Message::InstallSnapshot(_))
}

fn term_of_answer(answer: &Message) -> Term {
    match answer {
        Message::AppendEntriesResult(result) => result.term,
        Message::RequestVoteResult(result) => result.term,
        other => panic!("{other:?} answers nothing"),
    }
}

/// One heartbeat of term 2^62 - 1 once made everybody a follower for ever: nobody could stand in a higher term.
#[test]
fn a_term_far_above_ours_is_not_believed_in_any_message() {
    for term in [TERM + HEADROOM + 1, (1 << 62) - 1, 1 << 62, 1 << 63, u64::MAX] {
        for message in each(term) {
            for from in [LEADER, STRANGER] {
                let mut node = Node::follower(TERM);
                let written = node.persists;
                let answer = node.hears(from, message.clone());
                assert_eq!(node.replica.term(), Term(TERM), "{message:?}");
                assert_eq!(node.leader(), Some(LEADER), "{message:?}");
                assert_eq!((node.persists, &node.failure), (written, &None), "{message:?}");
                assert_eq!(answer.is_some(), is_request(&message), "{message:?}: {answer:?}");
                assert!(answer.is_none_or(|answer| term_of_answer(&answer) == Term(TERM)), "{message:?}");
            }
        }
    }
}

#[test]
fn candidates_and_leaders_believe_no_term_far_above_theirs() {
    for leads in [false, true] {
        for message in each(1 << 62) {
            let mut node = Node::follower(TERM);
            while !matches!(node.answers[..], [.., (_, Message::RequestVote(_))]) {
                node.now_ms += 100;
                node.replica.handle_tick(node.now_ms);
                node.poll();
            }
            for pre_vote in [true, false].into_iter().filter(|_| leads) {
                let result =
                    RequestVoteResult { term: Term(TERM + 1), vote_granted: true, pre_vote: Some(pre_vote) };
                node.hears(3, Message::RequestVoteResult(result));
            }
            assert_eq!(node.replica.is_leader(), leads);
            let term = node.replica.term();
            node.hears(LEADER, message);
            assert_eq!((node.replica.term(), node.replica.is_leader()), (term, leads));
        }
    }
}

#[test]
fn a_term_with_headroom_is_followed() {
    for term in [TERM + 1, TERM + HEADROOM] {
        let mut node = Node::follower(TERM);
        node.hears(3, append(term, LAST, TERM, LAST, Vec::new()));
        assert_eq!((node.replica.term(), node.leader()), (Term(term), Some(3)));
    }
}

/// From 2^62 on every message was nonsense, so a cluster whose term was near could not go on.
#[test]
fn a_term_above_2_62_is_no_cliff() {
    let term = (1 << 62) - 1;
    let mut node = Node::follower(term);
    for term in term..term + 5 {
        node.hears(3, append(term + 1, LAST, TERM, LAST, Vec::new()));
        assert_eq!((node.replica.term(), node.leader()), (Term(term + 1), Some(3)));
    }
    assert!(node.hears(3, vote(term + 6, false, true)).is_some_and(|answer| {
        matches!(answer, Message::RequestVoteResult(RequestVoteResult { vote_granted: true, .. }))
    }));
}

#[test]
fn a_node_without_a_log_follows_a_leader_of_any_term_below_2_62() {
    let mut node = Node::pristine();
    node.hears(LEADER, append((1 << 62) - 1, 0, 0, 0, vec![entry(1)]));
    assert_eq!((node.replica.term().0, node.replica.last_index()), ((1 << 62) - 1, LogIndex(1)));
    let mut node = Node::pristine();
    node.hears(LEADER, append(1 << 62, 0, 0, 0, vec![entry(1)]));
    assert_eq!((node.replica.term(), node.replica.last_index()), (Term(0), LogIndex(0)));
}

#[test]
fn a_snapshot_that_ends_where_no_log_gets_is_refused() {
    for last_index in [LAST + HEADROOM + 1, 1 << 62, u64::MAX] {
        let mut node = Node::follower(TERM);
        let answer = node.hears(LEADER, Message::InstallSnapshot(snapshot(TERM, last_index, members())));
        let Some(Message::AppendEntriesResult(result)) = answer else { panic!("{answer:?}") };
        assert_eq!((result.rejected, result.last_log_index), (LogIndex(last_index), LogIndex(LAST)));
        assert_eq!(node.replica.last_index(), LogIndex(LAST));
    }
}

#[test]
fn a_configuration_with_more_servers_than_any_cluster_has_closes_the_stream() {
    let server = |id| Server { id: NodeId(id), address: address(id), role: Role::Voter };
    let servers = |count| Configuration { servers: (1..=count).map(server).collect() };
    let carried = |configuration: &Configuration| {
        let entry = Entry { term: Term(TERM), kind: EntryKind::Configuration, data: configuration.encode() };
        append(TERM, LAST, TERM, LAST, vec![entry])
    };
    let mut node = Node::follower(TERM);
    assert!(node.hears(LEADER, carried(&servers(1024))).is_some());
    assert_eq!(node.replica.configuration().servers.len(), 1024);
    for message in
        [carried(&servers(1025)), Message::InstallSnapshot(snapshot(TERM, LAST + 1, servers(1025)))]
    {
        let mut node = Node::follower(TERM);
        assert!(node.closes(LEADER, message));
        assert_eq!(*node.replica.configuration(), members());
    }
}

/// Sums of an index and a number of entries once could overflow.
#[test]
fn an_append_that_no_program_sends_closes_the_stream_and_changes_nothing() {
    let entry =
        |term, kind, data: &[u8]| Entry { term: Term(term), kind, data: Bytes::copy_from_slice(data) };
    let command = |term| entry(term, EntryKind::Command, &[7; 8]);
    let odd = [
        append(0, 0, 0, 0, Vec::new()),
        append(TERM, u64::MAX, TERM, 0, vec![command(TERM)]),
        append(TERM, 1 << 62, TERM, 0, vec![command(TERM)]),
        append(TERM, 0, TERM, 0, Vec::new()),
        append(TERM, LAST, 0, 0, Vec::new()),
        append(TERM, LAST, TERM + 1, 0, Vec::new()),
        append(TERM, LAST, TERM, 0, vec![command(TERM + 1)]),
        append(TERM, LAST, TERM, 0, vec![command(0)]),
        append(TERM, LAST, TERM, 0, vec![command(TERM - 1)]),
        append(TERM, LAST, TERM, 0, vec![entry(TERM, EntryKind::Command, &[])]),
        append(TERM, LAST, TERM, 0, vec![entry(TERM, EntryKind::Command, &[7; 9])]),
        append(TERM, LAST, TERM, 0, vec![entry(TERM, EntryKind::Configuration, &[1; 16])]),
    ];
    for message in odd {
        for from in [LEADER, STRANGER] {
            let mut node = Node::follower(TERM);
            assert!(node.closes(from, message.clone()), "{message:?}");
            assert_eq!((node.replica.last_index(), node.leader()), (LogIndex(LAST), Some(LEADER)));
        }
    }
}

#[test]
fn a_commit_index_beyond_the_log_commits_no_more_than_what_matches() {
    for commit in [LAST + 1, 1 << 62, u64::MAX] {
        let mut node = Node::follower(TERM);
        node.hears(LEADER, append(TERM, LAST, TERM, commit, Vec::new()));
        assert_eq!(node.replica.commit_index(), LogIndex(LAST));
    }
}

#[test]
fn a_vote_for_a_log_that_ends_in_a_later_term_than_its_candidate_is_refused() {
    for pre_vote in [true, false] {
        let mut node = Node::follower(TERM);
        let request = RequestVote {
            term: Term(TERM + 1),
            candidate_id: NodeId(3),
            last_log_index: LogIndex(u64::MAX),
            last_log_term: Term(u64::MAX),
            disrupt_leader: true,
            pre_vote,
        };
        let answer = node.hears(3, Message::RequestVote(request));
        let refusal = RequestVoteResult { term: Term(TERM), vote_granted: false, pre_vote: Some(pre_vote) };
        assert_eq!(answer, Some(Message::RequestVoteResult(refusal)));
    }
}

/// What is committed is something else here: one message of anybody halted a member until its restart.
#[test]
fn a_contradiction_by_a_stranger_costs_its_stream_and_by_a_member_stops_the_node() {
    let other = Entry { term: Term(TERM + 1), kind: EntryKind::Command, data: Bytes::from_static(&[9; 8]) };
    for message in [
        append(TERM + 1, 0, 0, 0, vec![other.clone()]),
        append(TERM + 1, LAST, TERM + 1, 0, Vec::new()),
        append(TERM, LAST, TERM - 1, LAST, Vec::new()),
        append(TERM + 1, LAST - 1, TERM, LAST, vec![other]),
    ] {
        let mut node = Node::follower(TERM);
        assert!(node.closes(STRANGER, message.clone()));
        assert_eq!((node.replica.term(), node.leader()), (Term(TERM), Some(LEADER)), "{message:?}");
        assert_eq!(node.failure, None);
        assert!(node.hears(LEADER, append(TERM, LAST, TERM, LAST, Vec::new())).is_some(), "it goes on");

        node.hears(LEADER, message);
        assert!(node.failure.is_some_and(|reason| reason.contains("which is committed here")));
    }
}

/// It may be the leader that this node knows: then the one before may still read by its lease.
#[test]
fn a_stranger_cannot_make_a_node_stand_for_election() {
    let timeout = |term| {
        Message::TimeoutNow(TimeoutNow {
            term: Term(term),
            last_log_index: LogIndex(LAST),
            last_log_term: Term(TERM),
        })
    };
    for (from, stands) in [(STRANGER, false), (3, true)] {
        let mut node = Node::follower(TERM);
        node.hears(from, append(TERM + 1, LAST, TERM, 0, Vec::new()));
        node.hears(from, timeout(TERM + 1));
        assert_eq!(node.replica.term() > Term(TERM + 1), stands, "{from}");
    }
}

fn rejected(answer: Option<Message>) -> Option<(u64, u64)> {
    match answer? {
        Message::AppendEntriesResult(result) => Some((result.rejected.0, result.last_log_index.0)),
        other => panic!("{other:?}"),
    }
}

/// It replaced log and databases, and the node halted when it could not be restored.
#[test]
fn a_snapshot_that_cannot_be_restored_is_refused_and_replaces_nothing() {
    for from in [LEADER, STRANGER] {
        let mut node = Node::follower(TERM);
        let written = node.persists;
        let bad =
            InstallSnapshot { data: Bytes::from_static(BAD), ..snapshot(TERM + 1, LAST + 9, members()) };
        let answer = node.hears(from, Message::InstallSnapshot(bad));
        assert_eq!(rejected(answer), Some((LAST + 9, LAST)));
        assert_eq!((node.replica.last_index(), node.persists), (LogIndex(LAST), written));
        assert_eq!((node.replica.term(), node.leader(), &node.failure), (Term(TERM), Some(LEADER), &None));
        let good = snapshot(TERM + 1, LAST + 9, members());
        assert_eq!(rejected(node.hears(3, Message::InstallSnapshot(good))), Some((0, LAST + 9)));
        assert_eq!(node.replica.applied_index(), LogIndex(LAST + 9));
    }
}

/// It was dropped without an answer, and the leader waited for 30 s.
#[test]
fn a_snapshot_of_the_leader_is_taken_while_an_own_one_is_written() {
    let mut node = Node::follower(TERM);
    let own = node.replica.begin_snapshot(|| 0).unwrap();
    let newer = Message::InstallSnapshot(snapshot(TERM, LAST + 9, members()));
    assert_eq!(rejected(node.hears(LEADER, newer)), Some((0, LAST + 9)));
    node.replica.handle_snapshot_taken(&own);
    node.poll();
    let next = Entry { term: Term(TERM), kind: EntryKind::Command, data: Bytes::from_static(&[3; 8]) };
    let answer = node.hears(LEADER, append(TERM, LAST + 9, TERM, LAST + 10, vec![next]));
    assert_eq!(rejected(answer), Some((0, LAST + 10)));
    assert_eq!(node.replica.applied_index(), LogIndex(LAST + 10));
}

#[test]
fn while_a_snapshot_is_restored_older_ones_are_answered_at_once_and_newer_ones_afterwards() {
    let mut node = Node::follower(TERM);
    node.restores_slowly = true;
    let of = |index| Message::InstallSnapshot(snapshot(TERM, index, members()));
    assert_eq!(rejected(node.hears(LEADER, of(LAST + 9))), Some((0, LAST + 9)));
    assert_eq!(node.restoring, Some(LogIndex(LAST + 9)));
    assert_eq!(rejected(node.hears(LEADER, of(LAST + 9))), Some((0, LAST + 9)), "it came twice");
    assert_eq!(rejected(node.hears(LEADER, of(LAST + 5))), Some((0, LAST + 9)), "an older one");
    assert_eq!(node.hears(LEADER, of(LAST + 20)), None);
    assert_eq!(node.hears(LEADER, of(LAST + 30)), None);
    assert!(node.closed.is_empty());
    node.replica.handle_restored(LogIndex(LAST + 9));
    node.poll();
    let answers: Vec<Message> = node.answers.drain(..).map(|(_, message)| message).collect();
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_eq!(rejected(answers.into_iter().next()), Some((LAST + 30, LAST + 9)));
    assert_eq!(node.replica.applied_index(), LogIndex(LAST + 9));
    assert_eq!(rejected(node.hears(LEADER, of(LAST + 30))), Some((0, LAST + 30)));
}

#[test]
fn a_second_leader_of_a_term_loses_its_stream() {
    let heartbeat = || append(TERM, LAST, TERM, LAST, Vec::new());
    for from in [3, STRANGER] {
        let mut node = Node::follower(TERM);
        assert!(node.closes(from, heartbeat()));
        assert!(node.closes(from, Message::InstallSnapshot(snapshot(TERM, LAST + 9, members()))));
        assert_eq!((node.leader(), node.replica.last_index()), (Some(LEADER), LogIndex(LAST)));
    }
    let mut node = Node::follower(TERM);
    node.hears(STRANGER, append(TERM + 1, LAST, TERM, LAST, Vec::new()));
    assert_eq!(node.leader(), Some(STRANGER));
    node.hears(3, append(TERM + 1, LAST, TERM, LAST, Vec::new()));
    assert_eq!(node.leader(), Some(3), "a member is believed more than a stranger");
}

/// A request with numbers near those of the node, or with odd ones.
fn any_request(random: &mut common::Random) -> Message {
    let mut number = |near: u64| match random.below(8) {
        0 => random.next(),
        1 => u64::MAX,
        2 => 0,
        3 => [1 << 62, 1 << 63, 1 << 32][usize::try_from(random.below(3)).unwrap()],
        _ => (near + random.below(4)).saturating_sub(1),
    };
    let (term, prev, prev_term) = (number(TERM), number(LAST), number(TERM));
    let (commit, entry_term, last) = (number(LAST), number(TERM), number(LAST));
    let flags = number(1);
    let data: &'static [u8] = if flags & 1 == 0 { &[7; 8] } else { &[7; 7] };
    let kind = match flags & 2 {
        0 => EntryKind::Command,
        _ => EntryKind::Configuration,
    };
    let entries = vec![Entry { term: Term(entry_term), kind, data: Bytes::from_static(data) }];
    match random.below(4) {
        0 => append(term, prev, prev_term, commit, entries),
        1 => append(term, prev, prev_term, commit, Vec::new()),
        2 => Message::InstallSnapshot(InstallSnapshot {
            last_term: Term(prev_term),
            configuration_index: LogIndex(flags),
            data: Bytes::from_static(if commit & 1 == 0 { BAD } else { &[0; 16] }),
            ..snapshot(term, last, if flags & 4 == 0 { members() } else { configuration(&[]) })
        }),
        _ => Message::RequestVote(RequestVote {
            term: Term(term),
            candidate_id: NodeId(STRANGER),
            last_log_index: LogIndex(last),
            last_log_term: Term(prev_term),
            disrupt_leader: flags & 1 == 0,
            pre_vote: flags & 2 == 0,
        }),
    }
}

/// A leader that hears nothing waits for 30 s where it has sent a snapshot.
#[test]
fn every_request_is_answered_or_closes_its_stream() {
    let visitor = || {
        let foreign = Entry {
            term: Term(TERM),
            kind: EntryKind::Configuration,
            data: configuration(&[(50, Role::Voter)]).encode(),
        };
        Node::with(HardState { term: Term(TERM), vote: None }, vec![foreign])
    };
    let halted = || {
        let mut node = Node::follower(TERM);
        node.replica.handle_persist_failed();
        node
    };
    let sole_leader = || {
        let first = Entry {
            term: Term(TERM),
            kind: EntryKind::Configuration,
            data: configuration(&[(1, Role::Voter)]).encode(),
        };
        let node = Node::with(HardState { term: Term(TERM), vote: None }, vec![first]);
        assert!(node.replica.is_leader());
        node
    };
    let states: [&dyn Fn() -> Node; 5] =
        [&|| Node::follower(TERM), &Node::pristine, &visitor, &halted, &sole_leader];
    let mut random = common::Random(7);
    for state in states {
        let mut node = state();
        for number in 0..20_000 {
            if number % 50 == 0 || node.failure.is_some() {
                node = state();
            }
            let from = [LEADER, 3, STRANGER, 1][usize::try_from(random.below(4)).unwrap()];
            let message = any_request(&mut random);
            let answer = node.hears(from, message.clone());
            let closes = node.closed == [StreamId(from)];
            assert!(
                answer.is_some() != closes || node.failure.is_some(),
                "{from}: {message:?}: {answer:?}, {:?}, {:?}",
                node.closed,
                node.replica
            );
        }
    }
}
