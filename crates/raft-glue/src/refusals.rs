//! How a peer hears that something of it was not processed. Every request gets an answer, or its stream is closed: a
//! leader that hears nothing waits, for 30 s where it has sent a snapshot.
//!
//! - What another program could have meant, but not here and now, is answered with no and with our own term and log.
//! - What no program that follows the protocol sends closes the stream. To answer would not help: a leader whose append is
//!   refused sends it again at once, and a C node would do so in a loop.
//! - What this node cannot process now, because it restores a snapshot or moves its log aside, is answered with no when that
//!   is over.
//! - TIMEOUT_NOW and results have no answer in the protocol, and nobody waits for one.

use wire_protocol::rpc::{AppendEntriesResult, RequestVoteResult};
use wire_protocol::{LogIndex, NodeId, rpc};

use crate::output::Output;
use crate::replica::Replica;
use crate::streams::StreamId;

/// Lines about peers in the log are at least so far apart, milliseconds: anybody can cause them, as often as they like.
const COMPLAINT_INTERVAL_MS: u64 = 1000;

impl Replica {
    /// Says no to a request. What has no answer is dropped.
    pub(crate) fn refuse(&mut self, from: NodeId, message: &rpc::Message) {
        let rejected = match message {
            rpc::Message::AppendEntries(append) => append.prev_log_index,
            rpc::Message::InstallSnapshot(install) => install.last_index,
            rpc::Message::RequestVote(request) => {
                let result = RequestVoteResult {
                    term: self.term(),
                    vote_granted: false,
                    pre_vote: Some(request.pre_vote),
                };
                return self.reply(from, rpc::Message::RequestVoteResult(result));
            }
            rpc::Message::AppendEntriesResult(_)
            | rpc::Message::RequestVoteResult(_)
            | rpc::Message::TimeoutNow(_) => return,
        };
        self.reject(from, rejected);
    }

    /// Says no to the append behind this entry, or to the snapshot that ends with it.
    pub(crate) fn reject(&mut self, from: NodeId, rejected: LogIndex) {
        let result = AppendEntriesResult {
            term: self.term(),
            rejected: rejected.max(LogIndex(1)),
            last_log_index: LogIndex(self.raw.raft.raft_log.persisted),
            features: Some(0),
        };
        self.reply(from, rpc::Message::AppendEntriesResult(result));
    }

    /// The request of a leader that has to wait is answered by [`Self::answer_waiting`]. One leader waits at a time.
    pub(crate) fn answer_later(&mut self, from: NodeId, rejected: LogIndex) {
        let before = self.unanswered.replace((from, rejected));
        if let Some((other, rejected)) = before.filter(|(other, _)| *other != from) {
            self.reject(other, rejected);
        }
    }

    /// What kept the request of a leader waiting is over.
    pub(crate) fn answer_waiting(&mut self) {
        if let Some((from, rejected)) = self.unanswered.take() {
            self.reject(from, rejected);
        }
    }

    /// Ends a stream on which something came that follows no protocol.
    pub(crate) fn close_stream(&mut self, stream: StreamId, from: NodeId, reason: &str) {
        self.complain(from, reason);
        if planted::bug!(OddRequestsUnanswered) {
            return;
        }
        self.outputs.push_back(Output::CloseStream { stream, from });
    }

    /// A line of the log, if the last one is old enough.
    pub(crate) fn complain(&mut self, from: NodeId, reason: &str) {
        let due_ms = self.complained_ms.map_or(0, |at_ms| at_ms.saturating_add(COMPLAINT_INTERVAL_MS));
        if self.now_ms >= due_ms {
            self.complained_ms = Some(self.now_ms);
            tracing::warn!(peer = %from, "a message of a peer was refused: {reason}");
        }
    }
}
