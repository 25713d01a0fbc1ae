//! What raft-rs sends, as C understands it.
//!
//! raft-rs's heartbeats and appends say less than C's: a C follower commits and reports whatever its disk holds when an
//! append succeeds. So that a success always means "my log is a prefix of yours":
//!
//! - an append with entries to a peer that is not known to hold an entry of this leadership reaches to our last one, or
//!   is a piece whose success is not believed (`catch_up`);
//! - an append without entries refers to an entry of this leadership;
//! - the commit index never lies beyond what the message covers;
//! - entries follow the previous one without a gap or an overlap: C's messages do not number them.

use raft::eraftpb::{Entry as RaftEntry, Message, MessageType};
use raft::{GetEntriesContext, ProgressState, StateRole};
use wire_protocol::rpc::{AppendEntries, AppendEntriesResult, RequestVote, RequestVoteResult, TimeoutNow};
use wire_protocol::{LogIndex, NodeId, Term, rpc};

use crate::entry::from_raft;
use crate::lease::echo_number;
use crate::replica::Replica;

/// raft-rs's mark of a campaign after a transfer.
const CAMPAIGN_TRANSFER: &[u8] = b"CampaignTransfer";

impl Replica {
    /// Translates a message, or does what it stands for.
    pub(crate) fn outbound(&mut self, mut message: Message) -> Option<rpc::Message> {
        let to = NodeId(message.to);
        let term = Term(message.term);
        match message.get_msg_type() {
            MessageType::MsgAppend => self.append_entries(to, &mut message),
            MessageType::MsgHeartbeat => self.heartbeat(to, term),
            MessageType::MsgSnapshot => {
                let next = self.raw.raft.prs().get(to.0)?.next_idx;
                self.catch_up(to, next);
                None
            }
            MessageType::MsgAppendResponse => Some(self.append_entries_result(&message)),
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => self.request_vote(&message),
            MessageType::MsgRequestVoteResponse => Some(rpc::Message::RequestVoteResult(RequestVoteResult {
                term,
                vote_granted: !message.reject,
                pre_vote: Some(false),
            })),
            MessageType::MsgTimeoutNow => {
                let log = &self.raw.raft.raft_log;
                self.lease.timeout_now_sent(to, LogIndex(log.last_index()));
                Some(rpc::Message::TimeoutNow(TimeoutNow {
                    term,
                    last_log_index: LogIndex(log.last_index()),
                    last_log_term: Term(log.last_term()),
                }))
            }
            // Forwarded proposals and reads do not exist between C nodes.
            _ => None,
        }
    }

    fn append_entries(&mut self, to: NodeId, message: &mut Message) -> Option<rpc::Message> {
        let leading = self.leading?;
        let mut entries: Vec<RaftEntry> = message.take_entries().into();
        let (prev, prev_term) = self.previous(message, entries.first())?;
        let peer = self.raw.raft.prs().get(to.0)?;
        if peer.state == ProgressState::Snapshot {
            // Taken from raft-rs by an append before this one.
            return None;
        }
        let matched = peer.matched;
        let is_known = matched >= leading.first_index;
        let store = self.raw.store();
        let last = match is_known {
            true => prev + entries.len() as u64,
            false => self.raw.raft.raft_log.last_index(),
        };
        let window_bytes = self.config.catch_up.window_bytes;
        let does_not_keep_up = is_known && store.message_bytes(matched + 1, prev) > window_bytes;
        if prev < last && (does_not_keep_up || store.exceeds_piece(prev + 1, last)) {
            self.catch_up(to, prev + 1);
            return None;
        }
        if !is_known {
            if prev == 0 && store.snapshot_metadata().is_some() {
                // A C node whose log is compacted aborts on entries from the very beginning.
                self.send_snapshot(to);
                return None;
            }
            let log = &self.raw.raft.raft_log;
            let sent = entries.last().map_or(prev, |entry| entry.index);
            if sent < last {
                let rest = log.slice(sent + 1, last + 1, None, GetEntriesContext::empty(false));
                entries.extend(rest.ok()?);
            }
        }
        let covered = prev + entries.len() as u64;
        Some(rpc::Message::AppendEntries(AppendEntries {
            term: Term(message.term),
            prev_log_index: LogIndex(prev),
            prev_log_term: Term(prev_term),
            leader_commit: LogIndex(message.commit.min(covered)),
            entries: entries.iter().map(from_raft).collect(),
            echo: echo_number(self.now_ms),
        }))
    }

    /// Index and term of the entry before `first`.
    ///
    /// raft-rs adds entries to an append to the same peer that waits to be sent. If that one has no entries yet and the
    /// peer was set back since it was made, it still refers to a later entry than the one before `first`; sent like
    /// that, the peer would store the right entries in the wrong places.
    fn previous(&self, message: &Message, first: Option<&RaftEntry>) -> Option<(u64, u64)> {
        match first {
            Some(first) if first.index != message.index + 1 && !planted::bug!(BatchedAppendNumbering) => {
                let prev = first.index - 1;
                Some((prev, self.raw.raft.raft_log.term(prev).ok()?))
            }
            _ => Some((message.index, message.log_term)),
        }
    }

    /// An empty append: where the peer should be, if it follows; else at our last entry, which it either has, or
    /// refuses in a way that says so.
    fn heartbeat(&mut self, to: NodeId, term: Term) -> Option<rpc::Message> {
        let leading = self.leading?;
        let raft = &self.raw.raft;
        let progress = raft.prs().get(to.0)?;
        let log = &raft.raft_log;
        let sent = progress.matched.max(progress.next_idx - 1);
        // One that has not answered for long may be farther behind than our log goes back.
        let follows = progress.state == ProgressState::Replicate
            && progress.matched >= leading.first_index
            && sent + 1 >= log.first_index();
        let expected = if follows { sent } else { log.last_index() };
        let prev = expected.max(leading.first_index).min(log.last_index());
        let message = rpc::Message::AppendEntries(AppendEntries {
            term,
            prev_log_index: LogIndex(prev),
            prev_log_term: Term(log.term(prev).ok()?),
            leader_commit: LogIndex(log.committed.min(prev)),
            entries: Vec::new(),
            echo: echo_number(self.now_ms),
        });
        self.peers.entry(to).or_default().heartbeat_credit = true;
        Some(message)
    }

    /// A candidacy may be over by the time that its term is durable, and its log another one.
    fn request_vote(&self, message: &Message) -> Option<rpc::Message> {
        let pre_vote = message.get_msg_type() == MessageType::MsgRequestPreVote;
        let raft = &self.raw.raft;
        let current = match raft.state {
            StateRole::PreCandidate => pre_vote && message.term == raft.term + 1,
            StateRole::Candidate => !pre_vote && message.term == raft.term,
            StateRole::Follower | StateRole::Leader => false,
        };
        current.then_some(rpc::Message::RequestVote(RequestVote {
            term: Term(message.term),
            candidate_id: self.config.id,
            last_log_index: LogIndex(message.index),
            last_log_term: Term(message.log_term),
            disrupt_leader: message.context == CAMPAIGN_TRANSFER,
            pre_vote,
        }))
    }

    /// What a leader of ours wants returned: the number of its newest append in this term. 0 for a C node.
    fn echo_for(&self, to: NodeId, term: u64) -> u64 {
        let echo = self.peers.get(&to).and_then(|peer| peer.echo);
        echo.filter(|(taken, _)| *taken == term).map_or(0, |(_, number)| number)
    }

    /// Reports no more than what is durable at this moment.
    fn append_entries_result(&self, message: &Message) -> rpc::Message {
        let persisted = self.raw.raft.raft_log.persisted;
        let reported = if message.reject { message.reject_hint } else { message.index };
        rpc::Message::AppendEntriesResult(AppendEntriesResult {
            term: Term(message.term),
            rejected: LogIndex(if message.reject { message.index } else { 0 }),
            last_log_index: LogIndex(reported.min(persisted)),
            features: Some(self.echo_for(NodeId(message.to), message.term)),
        })
    }
}

#[cfg(test)]
mod tests {
    use wire_protocol::{Configuration, Entry, EntryKind, Role, Server};

    use super::*;
    use crate::entry::to_raft;
    use crate::output::Output;
    use crate::{Config, HardState, Loaded};

    /// The leader of a cluster of one voter and one stand-by.
    fn leader() -> Replica {
        let server = |id, role| Server { id: NodeId(id), address: format!("address-{id}"), role };
        let configuration = Configuration { servers: vec![server(1, Role::Voter), server(2, Role::StandBy)] };
        let entry = Entry { term: Term(1), kind: EntryKind::Configuration, data: configuration.encode() };
        let loaded = Loaded {
            hard_state: HardState { term: Term(1), vote: None },
            first_index: LogIndex(1),
            entries: vec![entry],
            ..Loaded::default()
        };
        let mut replica = Replica::new(Config::new(NodeId(1), "address-1"), loaded, 0).unwrap();
        settle(&mut replica);
        assert!(replica.serving());
        replica
    }

    fn settle(replica: &mut Replica) {
        while let Some(output) = replica.poll_output(0) {
            match output {
                Output::Persist(step) => replica.handle_persisted(step.number),
                Output::Apply(committed) => replica.handle_applied(committed.index),
                _ => {}
            }
        }
    }

    /// raft-rs put entry 4 into an append without entries whose previous index was 4; the peer took it for entry 5, and
    /// logs with equal terms differed.
    #[test]
    fn entries_batched_onto_an_empty_append_keep_their_indexes() {
        let mut replica = leader();
        let data = bytes::Bytes::from_static(&[7; 8]);
        let first = replica.propose(data.clone()).unwrap();
        let second = replica.propose(data.clone()).unwrap();
        settle(&mut replica);
        let term = replica.term();
        let entry = |index| to_raft(index, &Entry { term, kind: EntryKind::Command, data: data.clone() });
        for (index, entries) in [(second, vec![first, second]), (second, vec![second]), (first, vec![second])]
        {
            let expected = entries[0].0 - 1;
            let mut message = Message { to: 2, term: term.0, index: index.0, ..Message::default() };
            message.log_term = term.0;
            message.set_msg_type(MessageType::MsgAppend);
            message.set_entries(entries.iter().map(|index| entry(*index)).collect::<Vec<_>>().into());
            let Some(rpc::Message::AppendEntries(append)) = replica.outbound(message) else { panic!() };
            assert_eq!(append.prev_log_index, LogIndex(expected));
            assert_eq!(append.prev_log_term, term);
            assert!(append.leader_commit <= second);
        }
    }
}
