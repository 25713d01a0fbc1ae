//! When SQL may run: once this node leads, has applied what was committed before, and nobody else can have been elected
//! since the request came.
//!
//! Usually that is asked in memory (`Replica::may_read`, the read lease). A request that finds no valid lease waits: for
//! the next echo of a majority, which comes with the heartbeats; or, if the voters that understand leases are no majority
//! (the others are C nodes), or none comes for some heartbeats, until an empty entry that was appended after the request
//! came is applied. All requests that wait share one such entry. "Not leader" is answered only by a node that does not
//! lead, or does not hear a majority any more.

use std::collections::VecDeque;

use raft_glue::LogIndex;

use super::client::RequestState;
use super::job::Work;
use super::{ClientId, Core, codes};

/// Heartbeats that a request waits for an echo before leadership is confirmed through the log.
const ECHO_HEARTBEATS: u64 = 2;

/// A client in [`RequestState::Barrier`].
#[derive(Debug)]
struct Waiting {
    client: ClientId,
    since_ms: u64,
    /// The entry that was appended after the request came.
    confirmed_by: Option<LogIndex>,
}

/// Who waits, in order of arrival.
#[derive(Debug, Default)]
pub(super) struct Admission {
    waiting: VecDeque<Waiting>,
    /// The newest entry that was appended for them.
    asked: Option<LogIndex>,
}

impl Admission {
    /// Leadership is lost; whoever waits is told so elsewhere.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Core {
    /// Only a leader runs SQL.
    pub(super) fn check_leader(&mut self, client: ClientId, now_ms: u64) -> bool {
        let leads = self.failed.is_none() && self.replica.is_leader();
        if !leads {
            self.refuse(client, codes::NOT_LEADER, "not leader", now_ms);
        }
        leads
    }

    /// Runs the work now, or as soon as it may run.
    pub(super) fn when_serving(&mut self, client: ClientId, work: Work, now_ms: u64) {
        if self.may_run(now_ms) {
            self.dispatch(client, work, now_ms);
        } else if let Some(state) = self.clients.get_mut(&client) {
            state.request = RequestState::Barrier(work);
            self.admission.waiting.push_back(Waiting { client, since_ms: now_ms, confirmed_by: None });
        }
    }

    fn may_run(&mut self, now_ms: u64) -> bool {
        self.replica.may_read(now_ms)
            || planted::bug!(BarrierSkipped)
            || (planted::bug!(LeaseIgnored) && self.replica.serving())
    }

    /// Starts what has waited and may run by now, and sees to it that the rest will.
    pub(super) fn admit_waiting(&mut self, now_ms: u64) -> bool {
        if self.admission.waiting.is_empty() {
            return false;
        }
        let all = self.may_run(now_ms);
        let applied = self.replica.applied_index();
        let heartbeat_ms = self.replica.heartbeat_timeout_ms();
        let hears_quorum = self.replica.hears_quorum(self.replica.election_timeout_ms(), now_ms);
        let confirmed = self.replica.serving();
        let mut progress = false;
        for waiting in std::mem::take(&mut self.admission.waiting) {
            let Waiting { client, since_ms, confirmed_by } = waiting;
            let admitted = all || (confirmed && confirmed_by.is_some_and(|index| index <= applied));
            // What came while nobody looked, because the process was stopped, is looked at first.
            let lost = !hears_quorum && now_ms.saturating_sub(since_ms) >= heartbeat_ms;
            if !admitted && !lost {
                self.admission.waiting.push_back(waiting);
                continue;
            }
            let Some(state) = self.clients.get_mut(&client) else { continue };
            match std::mem::replace(&mut state.request, RequestState::Idle) {
                RequestState::Barrier(work) if admitted => self.dispatch(client, work, now_ms),
                RequestState::Barrier(_) => self.refuse(client, codes::NOT_LEADER, "not leader", now_ms),
                other => state.request = other,
            }
            progress = true;
        }
        self.confirm_for_waiting(now_ms) || progress
    }

    /// Appends an entry for those who cannot, or need not, wait for echoes any longer; one at a time.
    fn confirm_for_waiting(&mut self, now_ms: u64) -> bool {
        let applied = self.replica.applied_index();
        if self.admission.asked.is_some_and(|index| index > applied) {
            return false;
        }
        let possible = self.replica.lease_is_possible();
        let patience_ms = ECHO_HEARTBEATS * self.replica.heartbeat_timeout_ms();
        let wants = |waiting: &Waiting| {
            waiting.confirmed_by.is_none()
                && (!possible || now_ms.saturating_sub(waiting.since_ms) >= patience_ms)
        };
        if !self.admission.waiting.iter().any(wants) {
            return false;
        }
        let Some(index) = self.replica.confirm_leadership() else { return false };
        self.admission.asked = Some(index);
        for waiting in self.admission.waiting.iter_mut().filter(|waiting| waiting.confirmed_by.is_none()) {
            waiting.confirmed_by = Some(index);
        }
        true
    }
}
