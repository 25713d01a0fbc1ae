//! Role management of a leader whose peers are played by the test: whom it counts, and whom it leaves alone.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

use std::sync::Arc;

use raft_glue::{
    Configuration, Entry, EntryKind, HardState, Loaded, LogIndex, NodeId, Role, Server, StreamId, Term,
};
use server::assembly;
use server::core::{Core, DiskDone, DiskJob, Input, Output};
use server::options::NodeOptions;
use vfs::Vfs;
use wire_protocol::Response;
use wire_protocol::rpc::{AppendEntriesResult, Message, RequestVoteResult};

const TICK_MS: u64 = 20;

/// Node 1, the leader, of voters 1, 2 and 3 and stand-by 4. Everybody answers questions; node 3 may have a failed log,
/// and then acknowledges nothing.
struct Leader {
    core: Core,
    live: Arc<server::options::LiveOptions>,
    now_ms: u64,
    log_of_3_failed: bool,
    /// Length of the log, as far as it is durable.
    last: u64,
}

fn address(id: u64) -> String {
    format!("10.0.0.{id}:9000")
}

impl Leader {
    fn elect() -> Self {
        let server = |(id, role)| Server { id: NodeId(id), address: address(id), role };
        let members = [(1, Role::Voter), (2, Role::Voter), (3, Role::Voter), (4, Role::StandBy)];
        let configuration = Configuration { servers: members.map(server).to_vec() };
        let data = configuration.encode();
        let loaded = Loaded {
            hard_state: HardState { term: Term(1), vote: None },
            first_index: LogIndex(1),
            entries: vec![Entry { term: Term(1), kind: EntryKind::Configuration, data }],
            ..Loaded::default()
        };
        let options = NodeOptions::default();
        let live = Arc::clone(options.live());
        let vfs = Arc::new(Vfs::register_with(vfs::Options::default()).unwrap());
        let config = assembly::replica_config(NodeId(1), &address(1), &options, 7);
        let core = assembly::core(config, loaded, vfs, Arc::clone(&live), 0).unwrap();
        let mut leader = Self { core, live, now_ms: 0, log_of_3_failed: false, last: 1 };
        leader.run_until(60_000, |leader| leader.core.replica().serving());
        leader
    }

    /// It has managed roles for a while when the log of node 3 fails.
    fn of_a_voter_whose_log_has_failed() -> Self {
        let mut leader = Self::elect();
        leader.manage(3, 1);
        leader.run_until(10_000, |leader| leader.now_ms > 5_000);
        leader.log_of_3_failed = true;
        leader
    }

    fn run_until(&mut self, limit_ms: u64, reached: impl Fn(&Self) -> bool) {
        let end_ms = self.now_ms + limit_ms;
        while !reached(self) {
            assert!(self.now_ms < end_ms, "roles are {:?}", self.roles());
            self.now_ms += TICK_MS;
            self.core.handle(Input::Tick, self.now_ms);
            while let Some(output) = self.core.poll_output(self.now_ms) {
                if let Some(input) = self.answer(output) {
                    self.core.handle(input, self.now_ms);
                }
            }
        }
    }

    /// What the disk and the peers say.
    fn answer(&mut self, output: Output) -> Option<Input> {
        match output {
            Output::Disk(DiskJob::Persist(step)) => {
                if !step.entries.is_empty() {
                    self.last = step.first_index.0 + step.entries.len() as u64 - 1;
                }
                Some(Input::DiskDone(DiskDone::Persisted(Ok(step.number))))
            }
            Output::Transmit { to, address, message } => {
                let message = self.acknowledge(to, message)?;
                Some(Input::PeerMessage { stream: StreamId(to.0), from: to, address, message })
            }
            Output::AskPeer { ask, .. } => {
                let result = Ok(Response::Metadata { failure_domain: 0, weight: 0, announcement: None });
                Some(Input::PeerAnswered { ask, result })
            }
            Output::Failed(reason) => panic!("{reason}"),
            _ => None,
        }
    }

    fn acknowledge(&self, peer: NodeId, message: Message) -> Option<Message> {
        if peer == NodeId(3) && self.log_of_3_failed {
            return None;
        }
        match message {
            Message::RequestVote(request) => Some(Message::RequestVoteResult(RequestVoteResult {
                term: request.term,
                vote_granted: true,
                pre_vote: Some(request.pre_vote),
            })),
            Message::AppendEntries(append) => Some(Message::AppendEntriesResult(AppendEntriesResult {
                term: append.term,
                rejected: LogIndex(0),
                last_log_index: LogIndex(append.prev_log_index.0 + append.entries.len() as u64),
                features: Some(0),
            })),
            _ => None,
        }
    }

    fn manage(&self, voters: i32, stand_bys: i32) {
        self.live.set_target_voters(voters);
        self.live.set_target_standbys(stand_bys);
        self.live.set_role_management(true);
    }

    fn roles(&self) -> Vec<(u64, Role)> {
        self.core.replica().configuration().servers.iter().map(|server| (server.id.0, server.role)).collect()
    }

    fn has(&self, id: u64, role: Role) -> bool {
        self.roles().contains(&(id, role))
    }
}

/// Simulator seed 870: the voter answered questions, so the leader took the vote of a healthy one, and stood alone.
#[test]
fn a_voter_whose_log_has_failed_is_not_counted_for_the_quorum_after_a_change() {
    let mut leader = Leader::of_a_voter_whose_log_has_failed();
    // Longer than an election timeout, and not yet so long that the voter counts as lost.
    leader.run_until(10_000, |leader| leader.now_ms > 7_000);
    leader.manage(2, 1);
    leader.run_until(60_000, |leader| {
        assert!(leader.has(2, Role::Voter), "the only voter that acknowledges anything");
        !leader.has(3, Role::Voter)
    });
}

#[test]
fn a_voter_whose_log_has_failed_is_replaced_although_it_answers_questions() {
    let mut leader = Leader::of_a_voter_whose_log_has_failed();
    leader.run_until(60_000, |leader| {
        assert!(leader.has(2, Role::Voter));
        leader.has(4, Role::Voter) && !leader.has(3, Role::Voter)
    });
}
