//! Membership changes and leadership transfers: one at a time, each with an answer.
//!
//! A change waits until something of this leadership is committed (without that, two leaders could use configurations
//! that do not overlap), and a member that becomes a voter catches up first.

use std::cmp::Reverse;

use wire_protocol::{Configuration, Entry, EntryKind, LogIndex, NodeId, Role, Term};

use crate::error::ChangeError;
use crate::membership::Change;
use crate::output::RequestId;
use crate::replica::Replica;

/// A member that catches up with the log before it becomes a voter.
#[derive(Clone, Copy, Debug)]
struct Promotion {
    request: RequestId,
    id: NodeId,
    round: u32,
    target: u64,
    round_start_ms: u64,
}

/// A hand-over of leadership.
#[derive(Clone, Copy, Debug)]
struct Transfer {
    request: RequestId,
    target: NodeId,
    deadline_ms: u64,
}

/// What is in progress.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    /// Waits for a commit in our term.
    queued: Option<(RequestId, Change)>,
    promotion: Option<Promotion>,
    /// In the log at this index.
    appended: Option<(RequestId, LogIndex)>,
    transfer: Option<Transfer>,
}

impl Requests {
    /// Who gets the log although its role says otherwise.
    pub(crate) fn promotee(&self) -> Option<NodeId> {
        self.promotion.map(|promotion| promotion.id)
    }
}

impl Replica {
    /// Adds a member, as a spare. The answer comes as [`crate::Output::RequestDone`].
    ///
    /// # Errors
    ///
    /// When it cannot even begin.
    pub fn add(&mut self, request: RequestId, id: NodeId, address: String) -> Result<(), ChangeError> {
        self.change(request, Change::Add(id, address))
    }

    /// Gives a member another role; a new voter catches up first.
    ///
    /// # Errors
    ///
    /// When it cannot even begin.
    pub fn assign(&mut self, request: RequestId, id: NodeId, role: Role) -> Result<(), ChangeError> {
        self.change(request, Change::Assign(id, role))
    }

    /// Removes a member.
    ///
    /// # Errors
    ///
    /// When it cannot even begin.
    pub fn remove(&mut self, request: RequestId, id: NodeId) -> Result<(), ChangeError> {
        self.change(request, Change::Remove(id))
    }

    /// Hands leadership over, to the most suitable voter if none is named. Nothing can be proposed meanwhile.
    ///
    /// # Errors
    ///
    /// When it cannot even begin.
    pub fn transfer(
        &mut self,
        request: RequestId,
        target: Option<NodeId>,
        now_ms: u64,
    ) -> Result<(), ChangeError> {
        self.advance(now_ms);
        if !self.is_leader() || self.requests.transfer.is_some() {
            return Err(ChangeError::NotLeader);
        }
        let own = self.config.id;
        let target = match target {
            Some(id) if id != own && self.configuration().is_voter(id) => id,
            Some(_) => return Err(ChangeError::BadId),
            None => self.best_transferee().ok_or(ChangeError::NotFound)?,
        };
        let deadline_ms = self.now_ms + self.config.election_timeout_ms;
        self.requests.transfer = Some(Transfer { request, target, deadline_ms });
        self.raw.transfer_leader(target.0);
        self.settle(Vec::new());
        Ok(())
    }

    /// Whether leadership may be taken from us by a transfer that we have begun.
    pub(crate) fn hands_over(&self) -> bool {
        self.requests.transfer.is_some() || self.transfer_pending()
    }

    /// The voter that has most of the log, among those heard from lately: of equals the first, as C chooses. If none was
    /// heard from, C's choice: the first voter that has been sent everything, else the last one.
    fn best_transferee(&self) -> Option<NodeId> {
        let own = self.config.id;
        let voters = || self.configuration().voters().map(|server| server.id).filter(move |id| *id != own);
        let heard = |id: &NodeId| self.hears(*id, self.now_ms);
        let farthest = voters().filter(heard).min_by_key(|id| Reverse(self.matched(*id).unwrap_or(0)));
        if farthest.is_some() {
            return farthest;
        }
        let next = self.last_index().0 + 1;
        let sent =
            |id: &NodeId| self.raw.raft.prs().get(id.0).is_some_and(|progress| progress.next_idx == next);
        voters().find(sent).or_else(|| voters().last())
    }

    fn change(&mut self, request: RequestId, change: Change) -> Result<(), ChangeError> {
        if !self.is_leader() || self.transfer_pending() {
            return Err(ChangeError::NotLeader);
        }
        let requests = &self.requests;
        let busy = requests.queued.is_some() || requests.promotion.is_some() || requests.appended.is_some();
        if busy || self.membership.newest_index() > self.commit_index() {
            return Err(ChangeError::CantChange);
        }
        change.apply(self.configuration())?;
        self.requests.queued = Some((request, change));
        self.begin_queued_change();
        Ok(())
    }

    fn begin_queued_change(&mut self) {
        if self.leading.is_none() || !self.raw.raft.commit_to_current_term() {
            return;
        }
        let Some((request, change)) = self.requests.queued.take() else { return };
        let configuration = match change.apply(self.configuration()) {
            Ok(configuration) => configuration,
            Err(error) => return self.finish(request, Err(error)),
        };
        let last = self.last_index().0;
        match change {
            Change::Assign(id, Role::Voter) if self.matched(id) != Some(last) => {
                let round_start_ms = self.now_ms;
                self.requests.promotion =
                    Some(Promotion { request, id, round: 1, target: last, round_start_ms });
                self.settle(Vec::new());
            }
            _ => self.append_configuration(request, &configuration),
        }
    }

    fn append_configuration(&mut self, request: RequestId, configuration: &Configuration) {
        let term = Term(self.raw.raft.term);
        let entry = Entry { term, kind: EntryKind::Configuration, data: configuration.encode() };
        match self.append(&entry) {
            Some(index) => self.requests.appended = Some((request, index)),
            None => self.finish(request, Err(ChangeError::NotLeader)),
        }
    }

    fn matched(&self, id: NodeId) -> Option<u64> {
        self.raw.raft.prs().get(id.0).map(|progress| progress.matched)
    }

    /// A result of `from` may end a round of its promotion.
    pub(crate) fn promotion_result(&mut self, from: NodeId) {
        let Some(promotion) = self.requests.promotion.filter(|promotion| promotion.id == from) else {
            return;
        };
        let matched = self.matched(from).unwrap_or(0);
        if matched < promotion.target {
            return;
        }
        let last = self.last_index().0;
        let took_ms = self.now_ms.saturating_sub(promotion.round_start_ms);
        if matched < last && took_ms >= self.config.election_timeout_ms {
            let round_start_ms = self.now_ms;
            let next = Promotion { round: promotion.round + 1, target: last, round_start_ms, ..promotion };
            self.requests.promotion = Some(next);
            return;
        }
        self.requests.promotion = None;
        match Change::Assign(from, Role::Voter).apply(self.configuration()) {
            Ok(configuration) => self.append_configuration(promotion.request, &configuration),
            Err(error) => self.finish(promotion.request, Err(error)),
        }
    }

    /// Promotions and transfers that take too long.
    pub(crate) fn expire_requests(&mut self) {
        if let Some(promotion) = self.requests.promotion {
            let took_ms = self.now_ms.saturating_sub(promotion.round_start_ms);
            // A long log takes its time; what counts is that it goes on.
            let progress_ms = self.catching_up_progress_ms(promotion.id).unwrap_or(promotion.round_start_ms);
            let idle_ms = self.now_ms.saturating_sub(progress_ms.max(promotion.round_start_ms));
            let last_round = promotion.round >= self.config.max_catch_up_rounds;
            if idle_ms > self.config.max_catch_up_round_duration_ms
                || (last_round && took_ms > self.config.election_timeout_ms)
            {
                self.requests.promotion = None;
                self.finish(promotion.request, Err(ChangeError::NoConnection));
            }
        }
        if let Some(transfer) = self.requests.transfer
            && self.now_ms >= transfer.deadline_ms
        {
            self.raw.raft.abort_leader_transfer();
            self.end_transfer(self.raw.raft.leader_id == transfer.target.0);
        }
    }

    /// Whether something that requests wait for has come true.
    pub(crate) fn observe_requests(&mut self) {
        if let Some(transfer) = self.requests.transfer {
            if self.raw.raft.leader_id == transfer.target.0 {
                self.end_transfer(true);
            } else if self.leading.is_some() && self.raw.raft.lead_transferee.is_none() {
                self.end_transfer(false);
            }
        }
        if self.requests.queued.is_some() {
            self.begin_queued_change();
        }
    }

    fn end_transfer(&mut self, succeeded: bool) {
        if let Some(transfer) = self.requests.transfer.take() {
            let result = if succeeded { Ok(()) } else { Err(ChangeError::TransferFailed) };
            self.finish(transfer.request, result);
        }
    }

    /// The entry at this index was applied: a change that it carried is over, and a leader that is no voter any more
    /// steps down.
    pub(crate) fn change_applied(&mut self, index: LogIndex) {
        if let Some((request, _)) = self.requests.appended.take_if(|(_, appended)| *appended <= index) {
            self.finish(request, Ok(()));
        }
        // Older configurations, from before we were a voter, are applied after a restart as well.
        let newest = self.membership.newest_index() == index;
        if newest && self.leading.is_some() && !self.configuration().is_voter(self.config.id) {
            let term = self.raw.raft.term;
            self.raw.raft.become_follower(term, 0);
        }
    }

    /// Leadership is lost. A transfer goes on: losing it is what it is for.
    pub(crate) fn fail_changes(&mut self, error: ChangeError) {
        let queued = self.requests.queued.take().map(|(request, _)| request);
        let promotion = self.requests.promotion.take().map(|promotion| promotion.request);
        let appended = self.requests.appended.take().map(|(request, _)| request);
        for request in [queued, promotion, appended].into_iter().flatten() {
            self.finish(request, Err(error));
        }
    }
}
