//! From captured transactions to log entries, and what happens to all of it when leadership is lost.

use std::collections::VecDeque;

use raft_glue::{LogIndex, ProposeError};

use super::batch::Batch;
use super::client::RequestState;
use super::codes;
use super::database::{DatabaseId, GatedReply};
use super::{ClientId, Core, limits};

/// Own entries in the log that are not applied yet, in log order.
#[derive(Debug, Default)]
pub(super) struct Proposals {
    pending: VecDeque<Proposal>,
    /// Until when captured transactions wait for more to share their entry.
    growing_until_ms: Option<u64>,
}

/// One own entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Proposal {
    pub(super) index: LogIndex,
    pub(super) database: DatabaseId,
    pub(super) generation: u64,
    /// Newest transaction in it.
    pub(super) sequence: u64,
}

impl Proposals {
    /// Whether an entry of this database is not applied yet.
    pub(super) fn mention(&self, database: DatabaseId) -> bool {
        self.pending.iter().any(|proposal| proposal.database == database)
    }

    /// When captured transactions have waited long enough.
    pub(super) fn next_deadline_ms(&self) -> Option<u64> {
        self.growing_until_ms
    }

    /// Takes the proposal at `index`, if the entry there is ours.
    pub(super) fn take(&mut self, index: LogIndex) -> Option<Proposal> {
        let front = self.pending.front()?;
        if front.index == index { self.pending.pop_front() } else { None }
    }
}

impl Core {
    /// Puts everything captured so far into the log, in order. While an entry is on its way the next one grows: the busier
    /// the writers, the more of their transactions share an entry, and a lone one never waits.
    pub(super) fn propose_captured(&mut self) {
        if !self.replica.is_leader() || self.failed.is_some() || self.replica.is_writing() {
            self.proposals.growing_until_ms = None;
            return;
        }
        let mut grows = false;
        for id in self.databases.ids() {
            if self.entry_grows(id) {
                grows = true;
            } else {
                self.propose_batches(id);
            }
        }
        let until = self.proposals.growing_until_ms.unwrap_or(self.now_ms + limits::GROWTH_MS);
        self.proposals.growing_until_ms = grows.then_some(until);
    }

    fn propose_batches(&mut self, id: DatabaseId) {
        while let Some(batch) = self.next_batch(id) {
            let named = if planted::bug!(WrongDatabase) { self.databases.ids()[0] } else { id };
            let data = batch.encode(self.databases.get(named).database.name());
            let state = self.databases.get_mut(id);
            match self.replica.propose(data) {
                Ok(index) => {
                    state.proposed = batch.end;
                    let Batch { generation, sequence, .. } = batch;
                    self.proposals.pending.push_back(Proposal { index, database: id, generation, sequence });
                }
                Err(ProposeError::NotLeader | ProposeError::TransferPending) => {
                    // Tried again when a transfer has failed; dropped when leadership is lost.
                    state.held_back = Some(batch);
                    return;
                }
            }
        }
    }

    /// Whether most of the writers that are there will have been captured in a moment.
    fn entry_grows(&self, id: DatabaseId) -> bool {
        let state = self.databases.get(id);
        let captured = state.database.captured_len();
        // A transaction of several requests most probably goes on after the one that runs.
        let ends_soon = |client: ClientId| {
            self.clients.get(&client).is_some_and(|state| {
                let explicit = state.opened.as_ref().is_some_and(|opened| opened.explicit);
                matches!(state.request, RequestState::Running(_)) && !explicit
            })
        };
        captured > 0
            && state.lane.waiting_len() > captured
            && state.lane.holder().is_some_and(ends_soon)
            && self.proposals.growing_until_ms.is_none_or(|until| self.now_ms < until)
    }

    /// Merges what is captured now. A delete marker stays alone: a C follower insists on one page.
    fn next_batch(&mut self, id: DatabaseId) -> Option<Batch> {
        let state = self.databases.get_mut(id);
        if let Some(batch) = state.held_back.take() {
            return Some(batch);
        }
        let first = state.database.poll_captured()?;
        let alone = first.delete_marker;
        let mut batch = Batch::new(first);
        while !alone && batch.len() < limits::MAX_MERGED_LEN {
            let Some(next) = state.database.poll_captured_if(|next| !next.delete_marker) else { break };
            batch.add(next);
        }
        Some(batch)
    }

    /// Everything that is not committed is undone here, in one place: each database goes on in a new generation, every
    /// reply that depended on the old one becomes a failure, every session is closed.
    pub(super) fn lost_leadership(&mut self, now_ms: u64) {
        if !planted::bug!(ProposalsSurvive) {
            self.proposals.pending.clear();
        }
        for id in self.databases.ids() {
            let state = self.databases.get_mut(id);
            if planted::bug!(FifoNotDrained) {
                continue;
            }
            state.database.fence();
            let undone = state.database.switch_generation();
            if undone > 0 {
                tracing::warn!(database = ?state.database.name(), undone, "speculative transactions undone");
            }
            let generation = std::mem::replace(&mut state.generation, state.database.generation());
            if !planted::bug!(HeldBackSurvives) {
                state.held_back = None;
            }
            let proposed = std::mem::take(&mut state.proposed);
            state.ended = Some((generation, proposed));
            let waiting = state.lane.reset();
            for ((gate, _), reply) in std::mem::take(&mut state.gated) {
                let proposed =
                    if planted::bug!(RefusedButProposed) { gate < proposed } else { gate <= proposed };
                self.fail_gated(&reply, proposed);
            }
            for waiter in waiting {
                self.fail_and_close(waiter.client, codes::NOT_LEADER);
            }
        }
        self.admission.clear();
        let clients: Vec<ClientId> = self.clients.keys().copied().collect();
        for client in clients {
            self.end_client_of_lost_leader(client, now_ms);
        }
    }

    /// A gated reply dies. Whether its write was proposed decides between "unknown" and "certainly not".
    fn fail_gated(&mut self, reply: &GatedReply, proposed: bool) {
        let code = if proposed || reply.batch { codes::LEADERSHIP_LOST } else { codes::NOT_LEADER };
        self.fail_and_close(reply.client, code);
    }

    /// Answers the request in progress and closes the session, which is at home.
    fn fail_and_close(&mut self, client: ClientId, code: u64) {
        let message = if code == codes::LEADERSHIP_LOST { "leadership lost" } else { "not leader" };
        self.reply_only(client, code, message);
        self.close_dead(client);
    }

    fn close_dead(&mut self, client: ClientId) {
        if let Some(opened) = self.clients.get_mut(&client).and_then(|state| state.opened.as_mut()) {
            opened.dead = true;
        }
        self.run_close(client);
    }

    fn end_client_of_lost_leader(&mut self, client: ClientId, now_ms: u64) {
        let has_session = self.has_session(client);
        let Some(state) = self.clients.get_mut(&client) else { return };
        match &state.request {
            RequestState::Barrier(_) => {
                // It has not begun.
                self.reply_only(client, codes::NOT_LEADER, "not leader");
                if has_session { self.close_dead(client) } else { self.finish(client, now_ms) }
            }
            RequestState::Idle if has_session && planted::bug!(StaleSchemaAfterUndo) => {}
            RequestState::Idle if has_session => self.close_dead(client),
            RequestState::Streaming => self.fail_and_close(client, codes::NOT_LEADER),
            RequestState::Running(_) => {
                // Its answer, whatever it will be, is replaced when it comes back.
                if let Some(opened) = state.opened.as_mut() {
                    opened.dead = true;
                }
                self.cancel_job(client);
            }
            // A cluster request or a dump goes on, but the session behind it ends.
            RequestState::Cluster | RequestState::Dumping(_) => {
                if let Some(opened) = state.opened.as_mut() {
                    opened.dead = true;
                }
            }
            RequestState::Idle | RequestState::Queued | RequestState::Gated => {}
        }
    }

    fn has_session(&self, client: ClientId) -> bool {
        self.clients
            .get(&client)
            .and_then(|state| state.opened.as_ref())
            .is_some_and(|opened| opened.session.is_some())
    }
}
