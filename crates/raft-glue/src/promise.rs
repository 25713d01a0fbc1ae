//! What this node has promised to leaders, as a voter: no vote and no pre-vote for an election timeout after it has taken
//! an append. The leader's side of it is `lease`.
//!
//! A promise is kept in time and not in ticks, since a loop that was held up makes up for ticks. It outlives the process,
//! but not in any file: a node that starts behaves as if it had taken an append at that moment. Exempt is one that has never
//! taken part in anything, and a sole voter. Votes that a transfer asks for are given all the same; the leader gave its
//! lease up before.
//!
//! One whose pre-votes are refused for this reason does not begin anew after another election timeout: it asks again every
//! heartbeat, until it is elected or its candidacy ends.

use raft::StateRole;
use wire_protocol::rpc::RequestVote;
use wire_protocol::{LogIndex, NodeId, Term, rpc};

use crate::replica::Replica;

impl Replica {
    /// An append or a snapshot of the leader was taken.
    pub(crate) fn promise(&mut self) {
        self.no_vote_before_ms = self.now_ms.saturating_add(self.config.election_timeout_ms);
    }

    /// Whether a promise forbids to vote, or to stand. It says nothing once we are the only voter: nobody else leads.
    pub(crate) fn is_bound(&self) -> bool {
        self.now_ms < self.no_vote_before_ms && !self.is_sole_voter() && !planted::bug!(PromiseBroken)
    }

    pub(crate) fn is_sole_voter(&self) -> bool {
        let mut voters = self.configuration().voters();
        voters.next().is_some_and(|voter| voter.id == self.config.id) && voters.next().is_none()
    }

    /// Whether the next tick would begin an election that a promise forbids.
    pub(crate) fn would_stand_too_early(&self) -> bool {
        let raft = &self.raw.raft;
        self.is_bound() && raft.election_elapsed + 1 >= raft.randomized_election_timeout()
    }

    /// Asks those again who may have refused a pre-vote because of a promise.
    pub(crate) fn ask_again(&mut self) {
        let raft = &self.raw.raft;
        let due_ms = self.asked_ms.saturating_add(self.config.heartbeat_timeout_ms);
        if raft.state != StateRole::PreCandidate || self.now_ms < due_ms || !self.may_vote() {
            return;
        }
        self.asked_ms = self.now_ms;
        let log = &raft.raft_log;
        let request = RequestVote {
            term: Term(raft.term + 1),
            candidate_id: self.config.id,
            last_log_index: LogIndex(log.last_index()),
            last_log_term: Term(log.last_term()),
            disrupt_leader: false,
            pre_vote: true,
        };
        let conf = raft.prs().conf().to_conf_state();
        let voters = conf.voters.iter().chain(&conf.voters_outgoing).copied();
        let others: std::collections::BTreeSet<u64> = voters.filter(|id| *id != self.config.id.0).collect();
        for id in others {
            self.reply(NodeId(id), rpc::Message::RequestVote(request));
        }
    }
}
