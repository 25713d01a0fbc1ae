//! When a leader answers reads: from memory, through the log, later, or not at all. Its peers are played by the test.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::BytesMut;
use raft_glue::{
    Configuration, Entry, EntryKind, HardState, Loaded, LogIndex, NodeId, PeerAnnouncement, Role, Server,
    StreamId, Term,
};
use server::assembly;
use server::core::{ClientId, Core, DiskDone, DiskJob, Input, Output};
use server::options::NodeOptions;
use vfs::Vfs;
use wire_protocol::rpc::{AppendEntriesResult, Message, RequestVoteResult};
use wire_protocol::{Features, FrameDecoder, Params, Protocol, Request, Response};

const TICK_MS: u64 = 20;
const CLIENT: ClientId = ClientId(77);

/// What nodes 2 and 3 are.
#[derive(Clone, Copy, PartialEq)]
enum Peers {
    Ours,
    C,
    Silent,
}

/// Node 1, the leader of voters 1, 2 and 3, with one client that has a database open.
struct Leader {
    core: Core,
    now_ms: u64,
    peers: Peers,
    inputs: VecDeque<Input>,
    answers: Vec<Response>,
    /// Entries that were written.
    written: usize,
}

impl Leader {
    fn elect(peers: Peers) -> Self {
        let server = |id| Server { id: NodeId(id), address: format!("10.0.0.{id}:9000"), role: Role::Voter };
        let data = Configuration { servers: [1, 2, 3].map(server).to_vec() }.encode();
        let loaded = Loaded {
            hard_state: HardState { term: Term(1), vote: None },
            first_index: LogIndex(1),
            entries: vec![Entry { term: Term(1), kind: EntryKind::Configuration, data }],
            ..Loaded::default()
        };
        let options = NodeOptions::default();
        let vfs = Arc::new(Vfs::register_with(vfs::Options::default()).unwrap());
        let config = assembly::replica_config(NodeId(1), "10.0.0.1:9000", &options, 7);
        let core = assembly::core(config, loaded, vfs, Arc::clone(options.live()), 0).unwrap();
        let inputs = VecDeque::new();
        let mut leader = Self { core, now_ms: 0, peers, inputs, answers: Vec::new(), written: 0 };
        for from in [NodeId(2), NodeId(3)] {
            let announcement = (peers == Peers::Ours).then_some(PeerAnnouncement {
                features: Features::READ_LEASE,
                election_timeout_ms: Some(3000),
                cluster: None,
            });
            leader.feed(Input::PeerStreamOpened { stream: StreamId(from.0), from, announcement });
        }
        leader.run_until(|leader| leader.core.replica().serving());
        leader.feed(Input::ClientOpened { client: CLIENT, protocol: Protocol::Current });
        leader.request(&Request::Open { name: "test".into(), flags: 0, vfs: "".into() });
        leader.run_until(|leader| !leader.answers.is_empty());
        assert!(matches!(leader.answers.pop(), Some(Response::Database { .. })));
        leader.written = 0;
        leader
    }

    fn request(&mut self, request: &Request) {
        let mut bytes = BytesMut::new();
        request.encode(&mut bytes);
        let frame = FrameDecoder::new(1 << 20).decode(&mut bytes).unwrap().unwrap();
        self.feed(Input::ClientFrame { client: CLIENT, frame });
    }

    fn ask(&mut self) {
        self.request(&Request::QuerySql { database: 0, sql: "SELECT 1".into(), params: Params::new(&[]) });
    }

    /// Waits for an answer. Returns how long that took, and the code if it is a refusal.
    fn answer(&mut self) -> (u64, Option<u64>) {
        let begin_ms = self.now_ms;
        self.run_until(|leader| !leader.answers.is_empty());
        let took_ms = self.now_ms - begin_ms;
        match self.answers.pop().unwrap() {
            Response::Rows(_) => (took_ms, None),
            Response::Failure { code, .. } => (took_ms, Some(code)),
            other => panic!("{other:?}"),
        }
    }

    fn pass(&mut self, time_ms: u64) {
        let end_ms = self.now_ms + time_ms;
        self.run_until(|leader| leader.now_ms >= end_ms);
    }

    fn run_until(&mut self, reached: impl Fn(&Self) -> bool) {
        let end_ms = self.now_ms + 60_000;
        while !reached(self) {
            assert!(self.now_ms < end_ms, "it never comes true");
            self.now_ms += TICK_MS;
            self.feed(Input::Tick);
        }
    }

    fn feed(&mut self, input: Input) {
        self.inputs.push_back(input);
        while let Some(input) = self.inputs.pop_front() {
            self.core.handle(input, self.now_ms);
            while let Some(output) = self.core.poll_output(self.now_ms) {
                let input = self.perform(output);
                self.inputs.extend(input);
            }
        }
    }

    fn perform(&mut self, output: Output) -> Option<Input> {
        match output {
            Output::Disk(DiskJob::Persist(step)) => {
                self.written += step.entries.len();
                Some(Input::DiskDone(DiskDone::Persisted(Ok(step.number))))
            }
            Output::Sql(job) => Some(Input::SqlDone(job.run())),
            Output::Transmit { to, address, message } => {
                let message = self.acknowledge(message)?;
                Some(Input::PeerMessage { stream: StreamId(to.0), from: to, address, message })
            }
            Output::Reply { bytes, .. } => {
                let frame = FrameDecoder::new(1 << 20).decode(&mut BytesMut::from(&bytes[..]));
                self.answers.push(Response::decode(&frame.unwrap().unwrap()).unwrap());
                None
            }
            Output::Failed(reason) => panic!("{reason}"),
            _ => None,
        }
    }

    fn acknowledge(&self, message: Message) -> Option<Message> {
        match message {
            _ if self.peers == Peers::Silent => None,
            Message::RequestVote(request) => Some(Message::RequestVoteResult(RequestVoteResult {
                term: request.term,
                vote_granted: true,
                pre_vote: Some(request.pre_vote),
            })),
            Message::AppendEntries(append) => Some(Message::AppendEntriesResult(AppendEntriesResult {
                term: append.term,
                rejected: LogIndex(0),
                last_log_index: LogIndex(append.prev_log_index.0 + append.entries.len() as u64),
                features: Some(if self.peers == Peers::Ours { append.echo } else { 0 }),
            })),
            _ => None,
        }
    }
}

#[test]
fn reads_of_an_idle_leader_whose_voters_are_ours_write_and_wait_for_nothing() {
    let mut leader = Leader::elect(Peers::Ours);
    for _ in 0..100 {
        leader.pass(260);
        leader.ask();
        assert_eq!(leader.answer(), (0, None));
    }
    assert_eq!(leader.written, 0);
}

#[test]
fn with_c_voters_each_read_is_confirmed_by_an_entry() {
    let mut leader = Leader::elect(Peers::C);
    for count in 1..20 {
        leader.ask();
        assert_eq!(leader.answer(), (0, None), "at once");
        assert_eq!(leader.written, count);
    }
    leader.pass(2_000);
    assert_eq!(leader.written, 19, "none without a reason");
}

#[test]
fn a_read_without_a_lease_waits_and_is_refused_only_when_the_quorum_is_lost() {
    let mut leader = Leader::elect(Peers::Ours);
    leader.peers = Peers::Silent;
    leader.ask();
    assert_eq!(leader.answer(), (0, None), "what was promised holds");
    leader.pass(2_760);
    leader.ask();
    assert!(leader.answers.is_empty(), "the lease is over, the quorum is not lost yet");
    leader.peers = Peers::Ours;
    let (took_ms, refused) = leader.answer();
    assert!(refused.is_none() && took_ms <= 600, "{took_ms}: the next echo");
    leader.peers = Peers::Silent;
    leader.pass(2_960);
    leader.ask();
    let (took_ms, refused) = leader.answer();
    assert_eq!(refused, Some(10250));
    assert!(took_ms >= 500, "{took_ms}: what lies in sockets is looked at first");
}
