//! The identity of the cluster at work: which messages are processed, when one is learned or assigned, and how a log that
//! belongs to another cluster makes room. The rules are those of [`crate::identity`].

use raft::{RawNode, StateRole};
use wire_protocol::{ClusterId, LogIndex, NodeId, Role, Term, rpc};

use crate::Loaded;
use crate::error::ChangeError;
use crate::identity::{Other, Verdict};
use crate::membership::Membership;
use crate::output::Output;
use crate::replica::Replica;
use crate::settle::mix;
use crate::storage::Log;
use crate::streams::StreamId;

/// So many election timeouts a leader waits for stand-bys to tell their identity before it assigns one.
const PATIENCE: u64 = 3;

/// The term of a leader's request.
fn term_of_request(message: &rpc::Message) -> Option<Term> {
    match message {
        rpc::Message::AppendEntries(append) => Some(append.term),
        rpc::Message::InstallSnapshot(install) => Some(install.term),
        _ => None,
    }
}

impl Replica {
    /// Whether a log whose newest configurations do not name this node was loaded: see [`crate::identity`].
    pub(crate) fn is_visitor(membership: &Membership, own: NodeId) -> bool {
        let names = |configuration: &crate::Configuration| configuration.server(own).is_some();
        !membership.newest().servers.is_empty()
            && !names(membership.newest())
            && !membership.previous().is_some_and(names)
    }

    /// The identity that this node announces, and answers with when it is asked.
    #[must_use]
    pub fn cluster(&self) -> Option<ClusterId> {
        self.identity.announced()
    }

    /// Whether a message may be processed. What follows from one that may not is done here.
    pub(crate) fn admits(&mut self, stream: StreamId, from: NodeId, message: &rpc::Message) -> bool {
        let theirs = self.streams.of_stream(stream, from).and_then(|announcement| announcement.cluster);
        // A leader that is none any more is told so, and nothing else follows from it.
        let leads = term_of_request(message).is_some_and(|term| term >= self.term());
        match self.identity.judge(theirs, leads) {
            Verdict::Process => {
                if leads && self.identity.joined() {
                    self.outputs.push_back(Output::Announce);
                }
                true
            }
            Verdict::Ignore => {
                self.refuse_or_wait(from, message);
                false
            }
            Verdict::MoveAside => {
                self.refuse_or_wait(from, message);
                self.move_aside(from);
                false
            }
            Verdict::Refuse => {
                if self.refused != Some(from) {
                    self.refused = Some(from);
                    tracing::warn!(
                        peer = %from,
                        "a node of another cluster was refused; if it is to join this one, remove it, empty its data \
                         directory and add it again"
                    );
                }
                self.fail_promotion(from, ChangeError::OtherCluster);
                self.refuse(from, message);
                false
            }
        }
    }

    /// The log makes room first. Its leader hears of that when it has, all others at once.
    fn refuse_or_wait(&mut self, from: NodeId, message: &rpc::Message) {
        match message {
            rpc::Message::AppendEntries(append) => self.answer_later(from, append.prev_log_index),
            rpc::Message::InstallSnapshot(install) => self.answer_later(from, install.last_index),
            _ => self.refuse(from, message),
        }
    }

    fn move_aside(&mut self, leader: NodeId) {
        // Everything that is to be written is given out before, so that nothing of it comes behind.
        // Whether there was something says nothing about that: it is also so while outputs wait to be taken.
        while !self.halted && self.raw.has_ready() {
            self.process_ready();
        }
        self.process_ready();
        if self.halted || self.snapshot_running || self.installing.is_some() {
            return self.answer_waiting();
        }
        tracing::warn!(
            %leader,
            "this node joins a cluster and brings the log of another one, which is moved aside"
        );
        self.identity.moving();
        self.outputs.push_back(Output::MoveAside);
    }

    /// Log and snapshots are aside, and the state machine is empty; or there was no space for that and nothing has changed.
    pub fn handle_moved_aside(&mut self, done: bool) {
        if self.halted || !self.identity.is_moving() {
            return;
        }
        self.identity.moved(done);
        if !done {
            return self.answer_waiting();
        }
        let loaded = Loaded { hard_state: self.written, first_index: LogIndex(1), ..Loaded::default() };
        let started = Log::new(self.config.id, loaded).and_then(|log| {
            Ok(RawNode::new(&self.config.to_raft(log.start_commit()), log, &crate::logger::logger())?)
        });
        match started {
            Ok(raw) => self.raw = raw,
            Err(error) => return self.fail(format!("cannot begin with an empty log: {error}")),
        }
        self.membership = Membership::default();
        // What may be missing was in the log that is gone.
        self.config.no_vote_until = None;
        self.outstanding.clear();
        self.reads.clear();
        self.applied_bytes = 0;
        self.snapshot_attempt = 0;
        self.answer_waiting();
        self.settle(Vec::new());
    }

    /// The identity is durable, bound to the entry at `index`; or it could not be bound.
    pub fn handle_identity_bound(&mut self, cluster: ClusterId, index: LogIndex, done: bool) {
        if !self.halted && self.identity.written(cluster, index, done) {
            tracing::info!("this node belongs to the cluster {:032x}", cluster.get());
            self.outputs.push_back(Output::Announce);
        }
    }

    /// A message on this stream was processed: perhaps it came from a leader whose identity is to be learned.
    pub(crate) fn learn_identity(&mut self, stream: StreamId, from: NodeId) {
        let raft = &self.raw.raft;
        if self.halted || raft.state != StateRole::Follower || raft.leader_id != from.0 {
            return;
        }
        let theirs = self.streams.of_stream(stream, from).and_then(|announcement| announcement.cluster);
        let commit = self.durable_commit();
        if commit.0 > 0
            && let Some(cluster) = self.identity.followed(theirs, commit)
        {
            self.outputs.push_back(Output::BindIdentity { cluster, index: commit });
        }
    }

    /// Time has passed: a leader may give its cluster an identity, or learn it from its members.
    pub(crate) fn assign_identity(&mut self) {
        let Some(leading) = self.leading.filter(|_| !self.halted) else {
            if planted::bug!(IdentityInventedAtStart) && !self.halted {
                self.bind_new(&[], 0);
            }
            return;
        };
        if !self.raw.raft.commit_to_current_term() {
            return;
        }
        let other = |server: &crate::Server| {
            let announcement = self.streams.of_peer(server.id);
            Other {
                is_voter: server.role == Role::Voter,
                answered: self.peers.get(&server.id).is_some_and(|peer| peer.contact_ms.is_some()),
                announces: announcement.is_some(),
                cluster: announcement.and_then(|announcement| announcement.cluster),
            }
        };
        let with_log = |server: &&crate::Server| server.id != self.config.id && server.role != Role::Spare;
        let others: Vec<Other> =
            self.membership.newest().servers.iter().filter(with_log).map(other).collect();
        self.bind_new(&others, leading.since_ms);
    }

    fn bind_new(&mut self, others: &[Other], leading_since_ms: u64) {
        let commit = self.durable_commit();
        let half = |salt: u64| {
            let term = self.raw.raft.term;
            mix([self.config.seed ^ salt, self.config.id.0, term, commit.0])
        };
        let number = u128::from(half(0)) << 64 | u128::from(half(u64::MAX)) | 1;
        let Some(new) = ClusterId::new(number).filter(|_| commit.0 > 0) else { return };
        let patient =
            self.now_ms.saturating_sub(leading_since_ms) < PATIENCE * self.config.election_timeout_ms;
        if let Some(cluster) = self.identity.led(others, new, commit, patient) {
            self.outputs.push_back(Output::BindIdentity { cluster, index: commit });
        }
    }

    fn durable_commit(&self) -> LogIndex {
        let log = &self.raw.raft.raft_log;
        LogIndex(log.committed.min(log.persisted))
    }
}
