//! One member of the cluster without socket, clock or disk: `handle_*` and requests go in, [`Replica::poll_output`]
//! gives what is to be done.
//!
//! Invariants, for the sake of peers that may be C nodes:
//!
//! - No reply, vote or request for votes leaves before everything it depends on is durable, in order.
//! - The newest configuration in the log is in force, committed or not (`membership`).
//! - No campaign, vote or pre-vote while anything is not durable or a snapshot is not applied.
//! - An append to a peer that is not known to hold an entry of this leadership reaches to the end of the log
//!   (`outbound`).

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use bytes::Bytes;
use raft::eraftpb::{Message, MessageType};
use raft::{GetEntriesContext, RawNode, StateRole};
use wire_protocol::{
    Configuration, Entry, EntryKind, Features, LogIndex, NodeId, PeerAnnouncement, Term, rpc,
};

use crate::changes::Requests;
use crate::config::{Config, ReplicaError};
use crate::disk::MAX_TERM;
use crate::entry::to_raft;
use crate::error::{ChangeError, ProposeError};
use crate::identity::Identity;
use crate::lease::{self, Lease};
use crate::logger::logger;
use crate::membership::Membership;
use crate::output::{Output, ReadEntries, RequestId};
use crate::plausible::Measure;
use crate::storage::Log;
use crate::streams::{StreamId, Streams};
use crate::{HardState, InstalledSnapshot, Loaded, has_caught_up};

/// Addresses of peers that are not members (a leader that knows us before we know it) are kept up to this number.
const MAX_STRANGERS: usize = 64;
/// Ticks made up for after a pause of the caller; a longer pause counts as no more.
const MAX_TICKS_AT_ONCE: u64 = 5;

/// What is known of another node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Peer {
    /// As announced by its stream.
    pub(crate) address: String,
    /// A heartbeat went out and no result has come since: the next one stands for a heartbeat response.
    pub(crate) heartbeat_credit: bool,
    /// Its last answer to us as the leader is not older than this.
    pub(crate) contact_ms: Option<u64>,
    /// A snapshot is on its way since then.
    pub(crate) snapshot_since_ms: Option<u64>,
    /// The newest echo number of its appends as our leader, and their term.
    pub(crate) echo: Option<(u64, u64)>,
}

/// Our leadership.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leading {
    pub(crate) term: u64,
    /// Index of the empty entry it began with.
    pub(crate) first_index: u64,
    pub(crate) since_ms: u64,
}

/// A message that waits for something to be durable.
#[derive(Debug)]
pub(crate) enum Held {
    /// Translated when it leaves, because it reports what is durable then.
    Raft(Message),
    Translated(NodeId, rpc::Message),
}

/// A Ready of raft-rs whose predecessors, or itself, are not durable yet.
#[derive(Debug)]
pub(crate) struct Outstanding {
    pub(crate) number: u64,
    pub(crate) writes: bool,
    pub(crate) hard_state: bool,
    pub(crate) snapshot: Option<InstalledSnapshot>,
    pub(crate) held: Vec<Held>,
}

/// A member of the cluster.
pub struct Replica {
    pub(crate) config: Config,
    pub(crate) raw: RawNode<Log>,
    pub(crate) membership: Membership,
    pub(crate) peers: BTreeMap<NodeId, Peer>,
    pub(crate) streams: Streams,
    /// What was promised to our leadership.
    pub(crate) lease: Lease,
    /// Until when a promise forbids to vote.
    pub(crate) no_vote_before_ms: u64,
    /// When pre-votes were asked for last.
    pub(crate) asked_ms: u64,
    pub(crate) identity: Identity,
    /// The node of another cluster that was refused last, which was said.
    pub(crate) refused: Option<NodeId>,
    /// A request of a leader that is answered, with no, when a snapshot is restored or a log is moved aside: who sent it, and
    /// what the answer rejects.
    pub(crate) unanswered: Option<(NodeId, LogIndex)>,
    /// When a line about a message that was refused was logged last.
    pub(crate) complained_ms: Option<u64>,
    pub(crate) leading: Option<Leading>,
    pub(crate) requests: Requests,
    pub(crate) now_ms: u64,
    /// The moment before that: what arrives now had not arrived then, and may have lain in its socket ever since.
    pub(crate) looked_ms: u64,
    /// A snapshot of the leader that was accepted and is not restored yet.
    pub(crate) installing: Option<InstalledSnapshot>,
    /// An own snapshot is being written.
    pub(crate) snapshot_running: bool,
    pub(crate) outputs: VecDeque<Output>,
    pub(crate) outstanding: VecDeque<Outstanding>,
    /// Answers made here, not by raft-rs; they wait like the messages of a Ready.
    pub(crate) replies: Vec<(NodeId, rpc::Message)>,
    /// Hard state given to the disk last.
    pub(crate) written: HardState,
    last_tick_ms: u64,
    pub(crate) campaigns: u64,
    pub(crate) lost_undelivered: bool,
    pub(crate) snapshot_attempt: u64,
    /// Data of the entries that were applied since the newest snapshot.
    pub(crate) applied_bytes: u64,
    pub(crate) reads: BTreeMap<LogIndex, Vec<GetEntriesContext>>,
    pub(crate) halted: bool,
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let log = &self.raw.raft.raft_log;
        f.debug_struct("Replica")
            .field("id", &self.config.id)
            .field("term", &self.raw.raft.term)
            .field("state", &self.raw.raft.state)
            .field("leader", &self.raw.raft.leader_id)
            .field("last_index", &log.last_index())
            .field("persisted", &log.persisted)
            .field("committed", &log.committed)
            .field("applied", &log.applied)
            .field("configuration", self.membership.newest())
            .field("requests", &self.requests)
            .finish_non_exhaustive()
    }
}

impl Replica {
    /// A member with what its data directory holds. The state machine must hold the snapshot; everything after it
    /// comes as [`Output::Apply`].
    ///
    /// # Errors
    ///
    /// When the settings make no sense or the directory contradicts itself.
    pub fn new(config: Config, loaded: Loaded, now_ms: u64) -> Result<Self, ReplicaError> {
        config.validate()?;
        let (written, cluster) = (loaded.hard_state, loaded.cluster);
        // Whoever answers a leader has stored its term before.
        let took_part = written.term.0 > 0 && !planted::bug!(PromiseForgotten);
        let mut log = Log::new(config.id, loaded)?;
        let mut membership = match log.snapshot_metadata() {
            Some(snapshot) => Membership::new(snapshot.configuration.clone(), snapshot.configuration_index),
            None => Membership::default(),
        };
        let snapshot_index = log.snapshot_metadata().map_or(LogIndex(0), |snapshot| snapshot.index);
        for (index, entry) in log.cached().filter(|(index, _)| *index > snapshot_index) {
            if entry.kind == EntryKind::Configuration {
                let configuration = Configuration::decode(&entry.data)
                    .map_err(|source| ReplicaError::BadConfiguration { index, source })?;
                membership.push(index, entry.term, configuration);
            }
        }
        log.set_start_configuration(membership.newest().clone());
        let start_commit = log.start_commit();
        let raw = RawNode::new(&config.to_raft(start_commit), log, &logger())?;
        let identity = Identity::new(cluster, Self::is_visitor(&membership, config.id));
        let mut replica = Self {
            config,
            raw,
            membership,
            peers: BTreeMap::new(),
            streams: Streams::default(),
            lease: Lease::default(),
            no_vote_before_ms: 0,
            asked_ms: 0,
            identity,
            refused: None,
            unanswered: None,
            complained_ms: None,
            leading: None,
            requests: Requests::default(),
            now_ms,
            looked_ms: now_ms,
            installing: None,
            snapshot_running: false,
            outputs: VecDeque::new(),
            outstanding: VecDeque::new(),
            replies: Vec::new(),
            written,
            last_tick_ms: now_ms,
            campaigns: 0,
            lost_undelivered: false,
            snapshot_attempt: 0,
            applied_bytes: 0,
            reads: BTreeMap::new(),
            halted: false,
        };
        if took_part {
            replica.promise();
        }
        if replica.is_sole_voter() && replica.may_vote() {
            replica.raw.campaign()?;
        }
        replica.settle(Vec::new());
        Ok(replica)
    }

    /// Moves the clock, which never goes back.
    pub(crate) fn advance(&mut self, now_ms: u64) {
        if now_ms > self.now_ms {
            self.looked_ms = self.now_ms;
            self.now_ms = now_ms;
        }
    }

    /// A peer has opened a stream to us. It replaces those that it opened before, though what they still carry may
    /// come; `announcement` is what it said of itself, which a C node does not.
    pub fn handle_stream_opened(
        &mut self,
        stream: StreamId,
        from: NodeId,
        announcement: Option<PeerAnnouncement>,
    ) {
        if from.0 != 0 && from != self.config.id {
            self.streams.opened(stream, from, announcement);
            self.lease.forget(from);
        }
    }

    /// A stream to us has ended, and with it what its dialler announced.
    pub fn handle_stream_ended(&mut self, stream: StreamId, from: NodeId) {
        if self.streams.ended(stream, from) {
            self.lease.forget(from);
        }
    }

    /// A message of a peer, which announced itself with this id and address. A stream that was never opened counts as one
    /// whose dialler announced nothing.
    pub fn handle_message(
        &mut self,
        stream: StreamId,
        from: NodeId,
        address: &str,
        message: rpc::Message,
        now_ms: u64,
    ) {
        if self.halted || from.0 == 0 || from == self.config.id {
            // Nobody processes it here. A leader that is waiting for an answer hears of that at once.
            self.outputs.push_back(Output::CloseStream { stream, from });
            return;
        }
        self.advance(now_ms);
        if self.peers.len() >= MAX_STRANGERS && !self.peers.contains_key(&from) {
            let members = self.membership.newest();
            self.peers.retain(|id, _| members.server(*id).is_some());
        }
        let peer = self.peers.entry(from).or_default();
        if peer.address != address {
            address.clone_into(&mut peer.address);
        }
        if self.measure().is_exceeded_by(&message) {
            self.complain(
                from,
                "its term, or its snapshot, lies farther above what is here than any cluster gets",
            );
            return self.refuse(from, &message);
        }
        if !self.admits(stream, from, &message) {
            return;
        }
        let configurations = self.inbound(stream, from, message);
        self.settle(configurations);
        self.learn_identity(stream, from);
    }

    /// Time has passed.
    pub fn handle_tick(&mut self, now_ms: u64) {
        self.advance(now_ms);
        let interval_ms = self.config.tick_interval_ms();
        let due = now_ms.saturating_sub(self.last_tick_ms) / interval_ms;
        self.last_tick_ms =
            if due > MAX_TICKS_AT_ONCE { now_ms } else { self.last_tick_ms + due * interval_ms };
        for _ in 0..due.min(MAX_TICKS_AT_ONCE) {
            if self.halted || self.identity.is_moving() {
                return;
            }
            if self.raw.raft.state != StateRole::Leader && !self.may_vote() {
                self.raw.raft.election_elapsed = 0;
                continue;
            }
            if self.raw.raft.state != StateRole::Leader && self.would_stand_too_early() {
                continue;
            }
            let leads = self.raw.raft.state == StateRole::Leader;
            if self.raw.tick() && !leads {
                self.campaigns += 1;
                self.asked_ms = self.now_ms;
            }
            self.settle(Vec::new());
        }
        self.ask_again();
        self.expire_snapshots();
        self.expire_requests();
        self.assign_identity();
        self.settle(Vec::new());
    }

    /// Everything up to this number is durable.
    pub fn handle_persisted(&mut self, number: u64) {
        if !self.halted {
            self.release(number);
            self.settle(Vec::new());
        }
    }

    /// A write or sync failed: what is on disk is unknown. We promise nothing any more and stop taking part.
    pub fn handle_persist_failed(&mut self) {
        self.halt();
    }

    /// A message to this peer was not sent.
    pub fn handle_unreachable(&mut self, to: NodeId, snapshot: bool) {
        if self.halted {
            return;
        }
        self.raw.report_unreachable(to.0);
        if snapshot {
            self.snapshot_failed(to);
        }
        self.settle(Vec::new());
    }

    /// The state machine has applied the entry at this index.
    pub fn handle_applied(&mut self, index: LogIndex) {
        if self.halted {
            return;
        }
        let before = self.raw.raft.raft_log.applied;
        self.applied_bytes += self.raw.store().data_bytes(before + 1, index.0);
        self.raw.advance_apply_to(index.0);
        let limit_bytes = self.config.log_cache_bytes;
        let until = index.0.min(self.raw.raft.raft_log.persisted);
        if self.reads.is_empty() {
            self.raw.mut_store().evict(until, limit_bytes);
        }
        self.change_applied(index);
        self.settle(Vec::new());
    }

    /// Old entries as asked for, or nothing.
    pub fn handle_entries_read(&mut self, read: &ReadEntries, entries: Result<Vec<Entry>, ()>) {
        let contexts = self.reads.remove(&read.first).unwrap_or_default();
        let Ok(entries) = entries else { return };
        if self.halted
            || entries.len() != read.count
            || !self.raw.mut_store().set_fetched(read.first, entries)
        {
            return;
        }
        for context in contexts {
            self.raw.on_entries_fetched(context);
        }
        // What raft-rs makes of them stands in its messages now and has to be translated while they are here.
        self.settle(Vec::new());
        while self.raw.has_ready() && self.process_ready() {}
        self.raw.mut_store().drop_fetched();
    }

    /// Appends a command to the log; its length is a multiple of 8 and not 0, as C nodes insist.
    ///
    /// # Errors
    ///
    /// When we do not lead, or are about to hand over.
    pub fn propose(&mut self, data: Bytes) -> Result<LogIndex, ProposeError> {
        assert!(!data.is_empty() && data.len().is_multiple_of(8), "commands are whole words");
        if !self.is_leader() {
            return Err(ProposeError::NotLeader);
        }
        if self.transfer_pending() {
            return Err(ProposeError::TransferPending);
        }
        let entry = Entry { term: Term(self.raw.raft.term), kind: EntryKind::Command, data };
        self.append(&entry).ok_or(ProposeError::NotLeader)
    }

    /// The next thing to do.
    pub fn poll_output(&mut self, now_ms: u64) -> Option<Output> {
        self.advance(now_ms);
        loop {
            if let Some(output) = self.outputs.pop_front() {
                if matches!(output, Output::LostLeadership) {
                    self.lost_undelivered = false;
                }
                return Some(output);
            }
            // What comes behind that belongs to a log that is gone.
            if self.identity.is_moving() || !self.process_ready() {
                return None;
            }
        }
    }

    /// Whether we lead and know everything that was committed before.
    #[must_use]
    pub fn serving(&self) -> bool {
        self.is_leader()
            && self.leading.is_some_and(|leading| self.raw.raft.raft_log.applied >= leading.first_index)
    }

    /// Whether we lead, and everybody here knows.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.leading.is_some() && !self.lost_undelivered && !self.halted
    }

    /// Who leads, as far as we know. Nobody while leadership is being handed over.
    #[must_use]
    pub fn leader(&self) -> Option<(NodeId, String)> {
        let id = NodeId(self.raw.raft.leader_id);
        if self.halted || id.0 == 0 || self.transfer_pending() {
            return None;
        }
        let member = self.membership.newest().server(id).map(|server| &server.address);
        let address = match id == self.config.id {
            true => member.or(Some(&self.config.address)),
            false => self.announced_address(id).or(member),
        };
        Some((id, address?.clone()))
    }

    /// What we say of ourselves on a stream that we open now.
    #[must_use]
    pub fn announcement(&self) -> PeerAnnouncement {
        PeerAnnouncement {
            features: Features::READ_LEASE,
            election_timeout_ms: Some(self.config.election_timeout_ms),
            cluster: self.identity.announced(),
        }
    }

    /// What this peer says of itself on the newest stream that it has opened to us, as long as that lasts.
    #[must_use]
    pub fn announced_by(&self, id: NodeId) -> Option<&PeerAnnouncement> {
        self.streams.of_peer(id)
    }

    /// The configuration in force.
    #[must_use]
    pub fn configuration(&self) -> &Configuration {
        self.membership.newest()
    }

    /// Whether leadership is being handed over; nothing can be proposed meanwhile.
    #[must_use]
    pub fn transfer_pending(&self) -> bool {
        self.leading.is_some() && self.raw.raft.lead_transferee.is_some()
    }

    /// Whether we lead and have heard from a majority of the voters, ourselves among them, within so many milliseconds.
    #[must_use]
    pub fn hears_quorum(&self, within_ms: u64, now_ms: u64) -> bool {
        let Some(leading) = self.leading else { return false };
        let hears = |id: NodeId| {
            let contact = self.peers.get(&id).and_then(|peer| peer.contact_ms).unwrap_or(leading.since_ms);
            id == self.config.id || now_ms.saturating_sub(contact) <= within_ms
        };
        let (mut voters, mut heard) = (0, 0);
        for voter in self.configuration().voters() {
            voters += 1;
            heard += usize::from(hears(voter.id));
        }
        voters == 0 || heard > voters / 2
    }

    /// Whether we lead, know what was committed before, and nobody else can have been elected by `now_ms`, so that what
    /// is applied here is the newest state there is. It is asked in memory; `now_ms` must have been read after the request
    /// that wants to know has arrived.
    #[must_use]
    pub fn may_read(&mut self, now_ms: u64) -> bool {
        self.advance(now_ms);
        let pending = self.hands_over() && !planted::bug!(LeaseInTransfer);
        self.serving()
            && !pending
            && self.lease.is_valid(self.config.id, self.membership.newest(), self.now_ms)
    }

    /// Whether [`Self::may_read`] becomes true by the heartbeats alone. It does not if the voters that understand leases are
    /// no majority, nor while the target of a transfer that was given up may still act: one that is gone would make every read
    /// wait in vain.
    #[must_use]
    pub fn lease_is_possible(&self) -> bool {
        !self.lease.is_suspended()
            && lease::is_possible(self.config.id, self.membership.newest(), |id| self.streams.of_peer(id))
    }

    /// Appends an empty entry. Once that is applied, and we still lead, nobody else had been elected when this was called:
    /// the proof of leadership that needs nothing of the voters but what every one, also a C node, does.
    pub fn confirm_leadership(&mut self) -> Option<LogIndex> {
        if !self.serving() || self.transfer_pending() {
            return None;
        }
        let term = Term(self.raw.raft.term);
        self.append(&Entry { term, kind: EntryKind::Barrier, data: Entry::BARRIER_DATA })
    }

    /// When this peer last answered us as the leader; nothing while we do not lead.
    #[must_use]
    pub fn contact_ms(&self, id: NodeId) -> Option<u64> {
        self.leading?;
        self.peers.get(&id)?.contact_ms
    }

    /// Whether this peer has answered us as the leader within an election timeout.
    #[must_use]
    pub fn hears(&self, id: NodeId, now_ms: u64) -> bool {
        let limit_ms = self.config.election_timeout_ms;
        self.contact_ms(id).is_some_and(|at_ms| now_ms.saturating_sub(at_ms) < limit_ms)
    }

    /// Base of the election timeouts, milliseconds.
    #[must_use]
    pub fn election_timeout_ms(&self) -> u64 {
        self.config.election_timeout_ms
    }

    /// How often a leader speaks to everybody, milliseconds.
    #[must_use]
    pub fn heartbeat_timeout_ms(&self) -> u64 {
        self.config.heartbeat_timeout_ms
    }

    /// How often [`Self::handle_tick`] is to be called, milliseconds.
    #[must_use]
    pub fn tick_interval_ms(&self) -> u64 {
        self.config.tick_interval_ms()
    }

    /// Our current term.
    #[must_use]
    pub fn term(&self) -> Term {
        Term(self.raw.raft.term)
    }

    /// Last entry in the log, durable or not.
    #[must_use]
    pub fn last_index(&self) -> LogIndex {
        LogIndex(self.raw.raft.raft_log.last_index())
    }

    /// Whether an entry is on its way: neither durable here nor committed by the others.
    #[must_use]
    pub fn is_writing(&self) -> bool {
        let log = &self.raw.raft.raft_log;
        log.last_index() > log.persisted.max(log.committed)
    }

    /// Last entry known to be committed.
    #[must_use]
    pub fn commit_index(&self) -> LogIndex {
        LogIndex(self.raw.raft.raft_log.committed)
    }

    /// Last entry the state machine holds.
    #[must_use]
    pub fn applied_index(&self) -> LogIndex {
        LogIndex(self.raw.raft.raft_log.applied)
    }

    /// Term of the last entry known to be committed; 0 if there is none.
    #[must_use]
    pub fn commit_term(&self) -> Term {
        let log = &self.raw.raft.raft_log;
        Term(log.term(log.committed).unwrap_or(0))
    }

    /// While this node neither votes nor leads because it may have lost entries that it acknowledged: the index that has
    /// to be committed before it does. A committed entry of a term later than the damage ends the wait earlier; see
    /// [`crate::has_caught_up`].
    #[must_use]
    pub fn vote_withheld_until(&self) -> Option<LogIndex> {
        let Config { no_vote_until, damaged_in, .. } = self.config;
        no_vote_until
            .filter(|until| !has_caught_up(*until, damaged_in, self.commit_index(), self.commit_term()))
    }

    /// Whether nothing forbids us to vote or to campaign.
    pub(crate) fn may_vote(&self) -> bool {
        let log = &self.raw.raft.raft_log;
        let is_settled = self.installing.is_none() && log.persisted >= log.last_index();
        let has_next_term = self.term() < Term(MAX_TERM);
        self.vote_withheld_until().is_none() && is_settled && has_next_term && self.identity.takes_part()
    }

    /// What the numbers of peers are measured by.
    pub(crate) fn measure(&self) -> Measure {
        Measure { term: self.term(), last_index: self.last_index() }
    }

    /// Appends an entry as the leader and puts a configuration in force at once.
    pub(crate) fn append(&mut self, entry: &Entry) -> Option<LogIndex> {
        let index = self.last_index().next();
        let mut message = Message { from: self.config.id.0, ..Message::default() };
        message.set_msg_type(MessageType::MsgPropose);
        message.set_entries(vec![to_raft(index, entry)].into());
        self.raw.raft.step(message).ok()?;
        let configuration = (entry.kind == EntryKind::Configuration)
            .then(|| Configuration::decode(&entry.data).expect("encoded by this node"));
        let term = Term(self.raw.raft.term);
        self.settle(configuration.map(|configuration| (index, term, configuration)).into_iter().collect());
        Some(index)
    }

    /// A translated message that may leave when everything before it is durable.
    pub(crate) fn reply(&mut self, to: NodeId, message: rpc::Message) {
        self.replies.push((to, message));
    }

    /// Contradiction with the cluster.
    pub(crate) fn fail(&mut self, reason: String) {
        self.halt();
        self.outputs.push_back(Output::Failed(reason));
    }

    pub(crate) fn finish(&mut self, request: RequestId, result: Result<(), ChangeError>) {
        self.outputs.push_back(Output::RequestDone { request, result });
    }
}
