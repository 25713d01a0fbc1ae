//! A node with a log of another cluster, or of none that names it.
#![allow(clippy::unwrap_used, reason = "a failure of a helper is a failure of the test")]

use raft_glue::{
    ChangeError, ClusterId, Config, Configuration, Entry, EntryKind, HardState, Loaded, LogIndex, NodeId,
    Output, PeerAnnouncement, Replica, Role, Server, StreamId, Term,
};
use wire_protocol::rpc::{AppendEntries, AppendEntriesResult, Message, RequestVote, RequestVoteResult};

fn configuration(ids: &[u64]) -> Configuration {
    let server = |id: &u64| Server { id: NodeId(*id), address: format!("a{id}"), role: Role::Voter };
    Configuration { servers: ids.iter().map(server).collect() }
}

fn entry(term: u64, kind: EntryKind, data: Vec<u8>) -> Entry {
    Entry { term: Term(term), kind, data: data.into() }
}

/// A log of these configurations, each followed by a command.
fn log(configurations: &[&[u64]], term: u64) -> Vec<Entry> {
    let pair = |ids: &&[u64]| {
        [
            entry(term, EntryKind::Configuration, configuration(ids).encode().to_vec()),
            entry(term, EntryKind::Command, vec![7; 8]),
        ]
    };
    configurations.iter().flat_map(pair).collect()
}

struct Node {
    replica: Replica,
    now_ms: u64,
    streams: u64,
    moved: usize,
    announced: usize,
    sent: Vec<(u64, Message)>,
    bound: Vec<ClusterId>,
    done: Vec<Result<(), ChangeError>>,
}

impl Node {
    fn start(id: u64, entries: Vec<Entry>, cluster: Option<u128>) -> Self {
        let hard_state = HardState { term: Term(3), vote: None };
        let cluster = cluster.and_then(ClusterId::new);
        let loaded = Loaded { hard_state, first_index: LogIndex(1), entries, cluster, ..Loaded::default() };
        let replica = Replica::new(Config::new(NodeId(id), format!("a{id}")), loaded, 0).unwrap();
        let mut node = Self {
            replica,
            now_ms: 0,
            streams: 0,
            moved: 0,
            announced: 0,
            sent: Vec::new(),
            bound: Vec::new(),
            done: Vec::new(),
        };
        node.pump();
        node
    }

    fn pump(&mut self) {
        while let Some(output) = self.replica.poll_output(self.now_ms) {
            match output {
                Output::Persist(step) => self.replica.handle_persisted(step.number),
                Output::Apply(committed) => self.replica.handle_applied(committed.index),
                Output::Transmit { to, message, .. } => self.sent.push((to.0, message)),
                Output::MoveAside => {
                    self.moved += 1;
                    self.replica.handle_moved_aside(true);
                }
                Output::BindIdentity { cluster, index } => {
                    self.bound.push(cluster);
                    self.replica.handle_identity_bound(cluster, index, true);
                }
                Output::Announce => self.announced += 1,
                Output::RequestDone { result, .. } => self.done.push(result),
                Output::Failed(reason) => panic!("{reason}"),
                _ => {}
            }
        }
    }

    /// A message on a stream that announces this, or nothing if it is C's.
    fn hear(&mut self, from: u64, cluster: Option<u128>, is_c: bool, message: Message) {
        let announcement =
            PeerAnnouncement { cluster: cluster.and_then(ClusterId::new), ..PeerAnnouncement::default() };
        self.streams += 1;
        let stream = StreamId(self.streams);
        self.replica.handle_stream_opened(stream, NodeId(from), (!is_c).then_some(announcement));
        self.replica.handle_message(stream, NodeId(from), &format!("a{from}"), message, self.now_ms);
        self.pump();
    }

    fn pass(&mut self, ms: u64) {
        for _ in 0..ms / 100 {
            self.now_ms += 100;
            self.replica.handle_tick(self.now_ms);
            self.pump();
        }
    }

    fn results(&mut self) -> Vec<AppendEntriesResult> {
        let results = std::mem::take(&mut self.sent).into_iter();
        results
            .filter_map(|(_, message)| match message {
                Message::AppendEntriesResult(result) => Some(result),
                _ => None,
            })
            .collect()
    }
}

fn append(term: u64, entries: Vec<Entry>, commit: u64) -> Message {
    Message::AppendEntries(AppendEntries {
        term: Term(term),
        prev_log_index: LogIndex(0),
        prev_log_term: Term(0),
        leader_commit: LogIndex(commit),
        entries,
        echo: 0,
    })
}

/// Behind entry 2 of term 3.
fn append_behind(term: u64, entries: Vec<Entry>, commit: u64) -> Message {
    let Message::AppendEntries(append) = append(term, entries, commit) else { panic!("it is one") };
    Message::AppendEntries(AppendEntries { prev_log_index: LogIndex(2), prev_log_term: Term(3), ..append })
}

#[test]
fn a_node_that_its_log_does_not_name_neither_votes_nor_stands_and_brings_nothing() {
    for own in [None, Some(5)] {
        for (theirs, is_c) in [(Some(6), false), (None, false), (None, true)] {
            let mut node = Node::start(3, log(&[&[1, 2]], 3), own);
            node.pass(30_000);
            assert!(node.sent.is_empty(), "it does not stand: {:?}", node.sent);
            let request = RequestVote {
                term: Term(4),
                candidate_id: NodeId(1),
                last_log_index: LogIndex(100),
                last_log_term: Term(3),
                disrupt_leader: false,
                pre_vote: false,
            };
            node.hear(1, theirs, is_c, Message::RequestVote(request));
            assert!(
                matches!(
                    node.sent[..],
                    [(1, Message::RequestVoteResult(RequestVoteResult { vote_granted: false, .. }))]
                ),
                "{:?}",
                node.sent
            );
            node.sent.clear();
            assert_eq!(node.moved, 0, "nothing is touched before a leader speaks");
            // Equal indexes and terms, other content: its own entries would pass for the leader's.
            let mut leaders = log(&[&[1, 2]], 3);
            leaders[1] = entry(3, EntryKind::Command, vec![8; 8]);
            node.hear(1, theirs, is_c, append(5, leaders.clone(), 2));
            assert_eq!((node.moved, node.replica.last_index()), (1, LogIndex(0)));
            node.hear(1, theirs, is_c, append(5, leaders, 2));
            assert_eq!((node.moved, node.replica.last_index()), (1, LogIndex(2)));
            node.hear(1, theirs, is_c, append_behind(5, Vec::new(), 2));
            assert_eq!(node.replica.cluster(), theirs.and_then(ClusterId::new), "learned from the leader");
        }
    }
}

#[test]
fn a_log_of_the_leaders_own_cluster_stays() {
    let mut node = Node::start(3, log(&[&[1, 2]], 3), Some(5));
    assert_eq!(node.replica.cluster(), None, "it announces nothing before it has joined");
    node.hear(1, Some(5), false, append(5, log(&[&[1, 2]], 3), 2));
    assert_eq!((node.moved, node.replica.last_index()), (0, LogIndex(2)));
    assert_eq!(node.replica.cluster(), ClusterId::new(5));
    assert_eq!(node.announced, 1);
}

/// The entry that removes it may be taken back, and then its acknowledgements count.
#[test]
fn a_node_that_only_the_newest_configuration_does_not_name_is_a_member() {
    let mut node = Node::start(3, log(&[&[1, 2, 3], &[1, 2]], 3), None);
    let leaders = log(&[&[1, 2, 3], &[1, 2]], 3);
    node.hear(1, Some(5), false, append_behind(5, leaders[2..].to_vec(), 4));
    assert_eq!((node.moved, node.replica.last_index()), (0, LogIndex(4)));
}

#[test]
fn an_empty_node_joins_without_ado() {
    let mut node = Node::start(3, Vec::new(), None);
    node.hear(1, Some(5), false, append(5, log(&[&[1, 2]], 3), 0));
    assert_eq!((node.moved, node.replica.last_index()), (0, LogIndex(2)));
    node.hear(1, Some(5), false, append_behind(5, Vec::new(), 2));
    assert_eq!((node.moved, node.replica.cluster()), (0, ClusterId::new(5)));
}

#[test]
fn members_of_different_clusters_refuse_each_other() {
    let mut node = Node::start(3, log(&[&[1, 2, 3]], 3), Some(5));
    let more = log(&[&[1, 2, 3]], 3);
    node.hear(1, Some(6), false, append_behind(9, more.clone(), 2));
    assert_eq!((node.replica.last_index(), node.replica.term()), (LogIndex(2), Term(3)));
    let results = node.results();
    assert!(
        results.len() == 1 && results[0].rejected.0 > 0,
        "a leader learns whom it speaks to: {results:?}"
    );
    node.hear(1, None, true, append_behind(9, more, 2));
    assert_eq!(node.replica.last_index(), LogIndex(4), "a C leader says nothing of itself");
}

#[test]
fn a_leader_alone_gives_its_cluster_an_identity_and_a_node_that_leads_nobody_does_not() {
    let mut alone = Node::start(1, log(&[&[1]], 3), None);
    alone.pass(1000);
    assert_eq!(alone.bound.len(), 1);
    assert_eq!(alone.replica.cluster(), Some(alone.bound[0]));
    alone.pass(60_000);
    assert_eq!((alone.bound.len(), alone.announced), (1, 1), "once");
    let mut follower = Node::start(2, log(&[&[1, 2]], 3), None);
    follower.pass(60_000);
    assert!(follower.bound.is_empty());
    let mut other = Node::start(1, log(&[&[1]], 3), None);
    other.replica = {
        let loaded = Loaded {
            hard_state: HardState { term: Term(3), vote: None },
            first_index: LogIndex(1),
            entries: log(&[&[1]], 3),
            ..Loaded::default()
        };
        Replica::new(Config { seed: 1, ..Config::new(NodeId(1), "a1") }, loaded, 0).unwrap()
    };
    other.pump();
    other.pass(1000);
    assert_ne!(other.replica.cluster(), alone.replica.cluster(), "clusters that began alike differ");
}
