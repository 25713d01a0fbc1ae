//! What peers say, as raft-rs understands it.
//!
//! Everything is checked here: raft-rs believes any index it is told, and panics on what cannot be.

use raft::StateRole;
use raft::eraftpb::{ConfState, Message, MessageType};
use raft::{ProgressState, eraftpb};
use wire_protocol::rpc::{
    AppendEntries, AppendEntriesResult, InstallSnapshot, RequestVote, RequestVoteResult, TimeoutNow,
};
use wire_protocol::{Configuration, EntryKind, Features, LogIndex, NodeId, Term, rpc};

use crate::disk::MAX_INDEX;
use crate::entry::to_raft;
use crate::membership::to_conf_state;
use crate::plausible::MAX_SERVERS;
use crate::replica::Replica;
use crate::streams::StreamId;
use crate::{InstalledSnapshot, SnapshotMetadata};

/// Why the stream of a leader is closed in whose term another one leads.
const LEADS_BESIDE_OTHER: &str = "it leads in a term in which another node does";

/// Configuration entries that a message may have put into the log.
type Appended = Vec<(LogIndex, Term, Configuration)>;

impl Replica {
    /// Steps a message. Returns the configurations it brought.
    pub(crate) fn inbound(&mut self, stream: StreamId, from: NodeId, message: rpc::Message) -> Appended {
        match message {
            rpc::Message::AppendEntries(append) => return self.append_received(stream, from, &append),
            rpc::Message::AppendEntriesResult(result) => self.append_result_received(stream, from, &result),
            rpc::Message::RequestVote(request) => self.vote_requested(from, &request),
            rpc::Message::RequestVoteResult(result) => self.vote_received(from, &result),
            rpc::Message::InstallSnapshot(install) => self.snapshot_received(stream, from, install),
            rpc::Message::TimeoutNow(timeout) => self.timeout_now_received(from, &timeout),
        }
        Vec::new()
    }

    fn message(&self, from: NodeId, kind: MessageType, term: Term) -> Message {
        let mut message = Message { from: from.0, to: self.config.id.0, term: term.0, ..Message::default() };
        message.set_msg_type(kind);
        message
    }

    fn step(&mut self, message: Message) {
        // Refused messages are of no consequence; what matters was checked before.
        let _ = self.raw.step(message);
    }

    fn append_received(&mut self, stream: StreamId, from: NodeId, append: &AppendEntries) -> Appended {
        let AppendEntries { term, prev_log_index: prev, prev_log_term, leader_commit, entries, echo: _ } =
            append;
        let configurations = match configurations_of(append) {
            Ok(configurations) => configurations,
            Err(reason) => {
                self.close_stream(stream, from, &reason);
                return Vec::new();
            }
        };
        if self.is_led_by_other(from, *term) {
            self.close_stream(stream, from, LEADS_BESIDE_OTHER);
            return Vec::new();
        }
        if !self.agrees_with_committed(stream, from, append) {
            return Vec::new();
        }
        let mut message = self.message(from, MessageType::MsgAppend, *term);
        message.index = prev.0;
        message.log_term = prev_log_term.0;
        message.commit = leader_commit.0;
        let converted: Vec<eraftpb::Entry> =
            (prev.0 + 1..).zip(entries).map(|(index, entry)| to_raft(LogIndex(index), entry)).collect();
        message.set_entries(converted.into());
        self.step(message);
        self.append_taken(stream, from, append);
        configurations
    }

    /// A leader that lacks, or has otherwise, what is committed here belongs to another history. Nothing that is
    /// committed is ever given up, so this node stops instead; but only if a member says so. Anybody can reach the port, and
    /// somebody who is no member cannot know better what this cluster has committed.
    fn agrees_with_committed(&mut self, stream: StreamId, from: NodeId, append: &AppendEntries) -> bool {
        let log = &self.raw.raft.raft_log;
        if append.term.0 < self.raw.raft.term {
            return true;
        }
        let known = log.first_index().saturating_sub(1);
        let previous = (append.prev_log_index.0, append.prev_log_term.0);
        let entries = (append.prev_log_index.0 + 1..).zip(append.entries.iter().map(|entry| entry.term.0));
        let conflict = std::iter::once(previous)
            .chain(entries)
            .take_while(|(index, _)| *index <= log.committed)
            .find(|(index, term)| *index >= known && !log.match_term(*index, *term));
        let Some((index, term)) = conflict else { return true };
        if !self.is_member(from) && !planted::bug!(StrangerLatches) {
            let reason = format!(
                "it is no member, leads with another entry (term {term}) at index {index}, which is committed here, and \
                 belongs to another cluster"
            );
            self.close_stream(stream, from, &reason);
            return false;
        }
        self.fail(format!(
            "node {from} leads with another entry (term {term}) at index {index}, which is committed here: it belongs \
             to another cluster, or its data was lost; do not start nodes with old or foreign data directories"
        ));
        false
    }

    /// An append of our leader is a promise to it, whatever becomes of the entries; what it wants echoed goes back with the
    /// next result.
    fn append_taken(&mut self, stream: StreamId, from: NodeId, append: &AppendEntries) {
        let raft = &self.raw.raft;
        if raft.state != StateRole::Follower || raft.leader_id != from.0 || raft.term != append.term.0 {
            return;
        }
        let term = raft.term;
        self.promise();
        let announced = self.streams.of_stream(stream, from);
        let echoes = announced.is_some_and(|announced| announced.features.contains(Features::READ_LEASE));
        if let Some(peer) = self.peers.get_mut(&from).filter(|_| echoes && append.echo > 0) {
            peer.echo = Some((term, append.echo));
        }
    }

    fn append_result_received(&mut self, stream: StreamId, from: NodeId, result: &AppendEntriesResult) {
        let raft = &self.raw.raft;
        let term = result.term;
        if self.leading.is_none() || term.0 < raft.term || raft.prs().get(from.0).is_none() {
            return;
        }
        if term.0 > raft.term {
            return self.step(self.message(from, MessageType::MsgAppendResponse, term));
        }
        let last = raft.raft_log.last_index();
        if let (Some(announced), Some(number)) = (self.streams.of_stream(stream, from), result.features) {
            self.lease.echoed(from, number, announced, self.now_ms);
        }
        // A process that was stopped finds answers from before; by now another leader may have been elected.
        let looked_ms = self.looked_ms;
        let peer = self.peers.entry(from).or_default();
        peer.contact_ms = Some(looked_ms);
        let credit = std::mem::take(&mut peer.heartbeat_credit);
        if result.rejected.0 == 0 || planted::bug!(RejectionCounts) {
            let mut message = self.message(from, MessageType::MsgAppendResponse, term);
            message.index = result.last_log_index.0.min(last);
            self.step(message);
        } else {
            self.rejection_received(from, result);
        }
        if planted::bug!(OneAnswerCommits) && result.rejected.0 == 0 {
            self.raw.raft.raft_log.maybe_commit(result.last_log_index.0.min(last), term.0);
        }
        let matched = self.raw.raft.prs().get(from.0).map_or(0, |progress| progress.matched);
        self.lease.acknowledged(from, LogIndex(matched));
        if credit && self.leading.is_some() {
            self.step(self.message(from, MessageType::MsgHeartbeatResponse, term));
        }
        self.promotion_result(from);
    }

    fn rejection_received(&mut self, from: NodeId, result: &AppendEntriesResult) {
        let last = self.raw.raft.raft_log.last_index();
        let Some(progress) = self.raw.raft.mut_prs().get_mut(from.0) else { return };
        progress.recent_active = true;
        let rejected = result.rejected.0;
        let matched = progress.matched;
        if progress.state == ProgressState::Snapshot {
            if rejected == progress.pending_snapshot {
                self.snapshot_failed(from);
            }
        } else if progress.state == ProgressState::Probe
            && progress.next_idx == 1
            && result.last_log_index.0 > 0
        {
            // It said that it was empty, and was only about to install a snapshot. Entries from the very beginning
            // would make a C node abort now.
            progress.next_idx = result.last_log_index.0.min(rejected - 1).min(last) + 1;
            progress.resume();
            self.raw.raft.send_append(from.0);
        } else if rejected <= matched
            && !planted::bug!(LostDataKeepsMatched)
            && match progress.state {
                ProgressState::Probe => rejected + 1 == progress.next_idx,
                // Nobody has noticed that it was away. An old rejection costs one more question.
                ProgressState::Replicate => result.last_log_index.0 < matched,
                ProgressState::Snapshot => false,
            }
        {
            // It does not have what it acknowledged: its disk was damaged, and it came back with less. Counting it for
            // less is always safe.
            progress.matched = 0;
            progress.become_probe();
            progress.next_idx = rejected.min(result.last_log_index.0.min(last) + 1).max(1);
            self.raw.raft.send_append(from.0);
        } else if rejected > matched {
            let mut message = self.message(from, MessageType::MsgAppendResponse, result.term);
            message.reject = true;
            message.index = rejected;
            message.reject_hint = result.last_log_index.0.max(matched).min(MAX_INDEX);
            self.step(message);
        }
    }

    /// Whether a leader is known and has been heard from lately, so that others should not disturb it.
    fn has_leader(&self) -> bool {
        let raft = &self.raw.raft;
        raft.state == StateRole::Leader
            || self.is_bound()
            || (raft.leader_id != 0 && raft.election_elapsed < raft.election_timeout())
    }

    fn vote_requested(&mut self, from: NodeId, request: &RequestVote) {
        // A log cannot end in a later term than that of its candidate.
        if request.term.0 == 0 || request.last_log_term > request.term {
            return self.refuse(from, &rpc::Message::RequestVote(*request));
        }
        if request.pre_vote {
            return self.pre_vote_requested(from, request);
        }
        let own = self.raw.raft.term;
        let disturbs = self.has_leader() && !request.disrupt_leader;
        if !disturbs && request.term.0 > own && !self.grants_votes() {
            self.raw.raft.become_follower(request.term.0, 0);
        }
        if disturbs || request.term.0 < own || !self.grants_votes() {
            let term = Term(self.raw.raft.term);
            let refusal = RequestVoteResult { term, vote_granted: false, pre_vote: Some(false) };
            return self.reply(from, rpc::Message::RequestVoteResult(refusal));
        }
        let mut message = self.message(from, MessageType::MsgRequestVote, request.term);
        message.index = request.last_log_index.0;
        message.log_term = request.last_log_term.0;
        if request.disrupt_leader {
            message.context = bytes::Bytes::from_static(b"CampaignTransfer");
        }
        self.step(message);
    }

    /// Entries that are not durable are no obstacle: the answer waits for them. Nor is it one that we have no vote as far
    /// as we know: the candidate may know of our promotion before we do, and not be elected without us. (C nodes refuse,
    /// and then stay without a leader.)
    fn grants_votes(&self) -> bool {
        let caught_up = self.vote_withheld_until().is_none() || planted::bug!(VotesBeforeCaughtUp);
        caught_up && self.installing.is_none() && self.identity.takes_part()
    }

    /// raft-rs would refuse a second pre-vote in a term, and C candidates never learn of a higher term by a refusal:
    /// either can leave a cluster without leader for ever, so pre-votes are answered here.
    fn pre_vote_requested(&mut self, from: NodeId, request: &RequestVote) {
        let own = self.raw.raft.term;
        let log = &self.raw.raft.raft_log;
        let has_leader = self.has_leader();
        let up_to_date = log.is_up_to_date(request.last_log_index.0, request.last_log_term.0);
        let eligible = !has_leader && self.grants_votes() && request.term.0 >= own;
        let granted = eligible && up_to_date;
        if eligible && !up_to_date && request.term.0 - 1 > own {
            self.raw.raft.become_follower(request.term.0 - 1, 0);
        }
        let term = if granted { request.term } else { request.term.max(Term(self.raw.raft.term)) };
        let result = RequestVoteResult { term, vote_granted: granted, pre_vote: Some(true) };
        self.reply(from, rpc::Message::RequestVoteResult(result));
    }

    fn vote_received(&mut self, from: NodeId, result: &RequestVoteResult) {
        let own = self.raw.raft.term;
        let term = result.term;
        if term.0 < own {
            return;
        }
        let asked_for_pre_vote = match self.raw.raft.state {
            StateRole::PreCandidate => true,
            StateRole::Candidate => false,
            StateRole::Follower | StateRole::Leader => return,
        };
        if result.pre_vote.is_some_and(|pre_vote| pre_vote != asked_for_pre_vote) {
            return;
        }
        let (kind, term) = match (asked_for_pre_vote, result.vote_granted) {
            (false, _) => (MessageType::MsgRequestVoteResponse, term),
            (true, true) if term.0 == own + 1 => (MessageType::MsgRequestPreVoteResponse, term),
            (true, true) => return,
            // Not the last word, as with C: who is bound by a promise is asked again (`promise`).
            (true, false) if term.0 <= own + 1 => return,
            (true, false) => (MessageType::MsgRequestPreVoteResponse, term),
        };
        let mut message = self.message(from, kind, term);
        message.reject = !result.vote_granted;
        self.step(message);
    }

    fn snapshot_received(&mut self, stream: StreamId, from: NodeId, install: InstallSnapshot) {
        if let Err(reason) = check_snapshot(&install) {
            return self.close_stream(stream, from, reason);
        }
        let InstallSnapshot { term, last_index, last_term, configuration, configuration_index, data } =
            install;
        let (voters, learners) = to_conf_state(&configuration, self.config.id, None);
        let own = self.raw.raft.term;
        if term.0 < own {
            return self.reject(from, last_index);
        }
        if self.is_led_by_other(from, term) {
            return self.close_stream(stream, from, LEADS_BESIDE_OTHER);
        }
        // What is replaced stays until it is known that the new one can be restored.
        if let Err(reason) = (self.config.snapshot_check)(&data)
            && !planted::bug!(SnapshotNotChecked)
        {
            self.complain(from, &format!("its snapshot at index {last_index} cannot be restored: {reason}"));
            return self.reject(from, last_index);
        }
        if term.0 > own || self.raw.raft.state != StateRole::Follower {
            self.raw.raft.become_follower(term.0, from.0);
        }
        let busy = self.installing.as_ref().map(|snapshot| (snapshot.metadata.index, snapshot.metadata.term));
        if busy
            .is_some_and(|(index, other)| last_index > index || (last_index == index && last_term != other))
        {
            // There is a leader. It hears of its snapshot when the one before is restored: a C node that was told at once
            // would send it again at once.
            self.raw.raft.leader_id = from.0;
            self.raw.raft.election_elapsed = 0;
            return self.answer_later(from, last_index);
        }
        let mut message = self.message(from, MessageType::MsgSnapshot, term);
        let converted = message.mut_snapshot().mut_metadata();
        converted.index = last_index.0;
        converted.term = last_term.0;
        converted.set_conf_state(ConfState {
            voters: voters.into_iter().collect(),
            learners: learners.into_iter().collect(),
            ..ConfState::default()
        });
        self.step(message);
        if self.raw.raft.leader_id == from.0 && self.raw.raft.term == term.0 {
            self.promise();
        }
        // One that is being installed covers this one.
        if busy.is_none() && self.raw.raft.raft_log.unstable_snapshot().is_some() {
            if !planted::bug!(SnapshotConfigurationIgnored) {
                self.membership.install(configuration.clone(), configuration_index);
            }
            let metadata =
                SnapshotMetadata { index: last_index, term: last_term, configuration, configuration_index };
            self.installing = Some(InstalledSnapshot { metadata, data });
        }
    }

    /// Whether another member is known to lead in this term, perhaps this node: there are never two. One that is no member
    /// makes room for one that is, since whoever reaches the port can say that it leads.
    fn is_led_by_other(&self, from: NodeId, term: Term) -> bool {
        let leader = NodeId(self.raw.raft.leader_id);
        let is_known = leader == self.config.id || self.is_member(leader);
        term == self.term() && leader != from && is_known
    }

    /// Whether the newest configuration names this node.
    fn is_member(&self, id: NodeId) -> bool {
        self.membership.newest().server(id).is_some()
    }

    /// An election that a TIMEOUT_NOW begins passes over the promises of voters, so the word of a stranger does not count: it
    /// may have made this node its follower, but the leader before may still read by its lease.
    fn timeout_now_received(&mut self, from: NodeId, timeout: &TimeoutNow) {
        let raft = &self.raw.raft;
        let log = &raft.raft_log;
        let same_log =
            log.last_index() == timeout.last_log_index.0 && log.last_term() == timeout.last_log_term.0;
        if raft.state == StateRole::Follower
            && raft.leader_id == from.0
            && timeout.term.0 >= raft.term
            && same_log
            && self.is_member(from)
            && self.may_vote()
        {
            self.step(self.message(from, MessageType::MsgTimeoutNow, timeout.term));
        }
    }
}

/// The configurations that an append brings, or why no program that follows the protocol sends it.
fn configurations_of(append: &AppendEntries) -> Result<Appended, String> {
    let AppendEntries { term, prev_log_index: prev, prev_log_term, entries, .. } = append;
    let starts = term.0 > 0 && (prev.0 == 0) == (prev_log_term.0 == 0);
    let end = prev.0.checked_add(entries.len() as u64).filter(|end| *end <= MAX_INDEX);
    if !starts || end.is_none() {
        return Err("an append that begins where no log can be".to_owned());
    }
    let mut last_term = *prev_log_term;
    let mut configurations = Vec::new();
    for (index, entry) in (prev.0 + 1..).map(LogIndex).zip(entries) {
        if entry.term.0 == 0 || entry.term < last_term {
            return Err(format!("the term of entry {index} is below that of the one before"));
        }
        last_term = entry.term;
        match entry.kind {
            EntryKind::Command if entry.data.is_empty() || !entry.data.len().is_multiple_of(8) => {
                return Err(format!("entry {index} is a command that is not whole words"));
            }
            EntryKind::Configuration => {
                let configuration = Configuration::decode(&entry.data)
                    .map_err(|error| format!("entry {index} is a malformed configuration: {error}"))?;
                check_size(&configuration)?;
                configurations.push((index, entry.term, configuration));
            }
            _ => {}
        }
    }
    if last_term > *term {
        return Err("an append with entries of a later term than its own".to_owned());
    }
    Ok(configurations)
}

/// What every snapshot of a program that follows the protocol is.
fn check_snapshot(install: &InstallSnapshot) -> Result<(), &'static str> {
    let InstallSnapshot { term, last_index, last_term, configuration, configuration_index, .. } = install;
    if last_term.0 == 0 || last_term > term || last_index.0 == 0 || configuration_index > last_index {
        return Err("a snapshot that ends where no log can");
    }
    if configuration.voters().next().is_none() {
        return Err("a snapshot whose configuration has no voters");
    }
    check_size(configuration)
}

fn check_size(configuration: &Configuration) -> Result<(), &'static str> {
    if configuration.servers.len() > MAX_SERVERS {
        Err("a configuration with too many servers")
    } else {
        Ok(())
    }
}
