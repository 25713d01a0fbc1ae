//! Requests that end early: INTERRUPT, closed sockets, clients that are probably gone.

use super::client::{Client, RequestState};
use super::codes;
use super::database::DatabaseId;
use super::gateway::INTERRUPT_KIND;
use super::job::{RequestKind, Work};
use super::{ClientId, Core, limits};

impl Core {
    /// INTERRUPT arrived behind the request in progress: end that one early. What is already captured goes on.
    pub(super) fn interrupt(&mut self, client: ClientId, now_ms: u64) {
        let Some(state) = self.clients.get_mut(&client) else { return };
        match &state.request {
            RequestState::Running(_) => self.cancel_job(client),
            RequestState::Streaming => self.abandon_stream(client),
            RequestState::Queued => self.interrupt_queued(client, now_ms),
            _ => {}
        }
    }

    /// Ends the job that is out for this client as soon as it can be.
    pub(super) fn cancel_job(&mut self, client: ClientId) {
        if let Some(opened) = self.clients.get(&client).and_then(|state| state.opened.as_ref()) {
            opened.cancel.cancel();
            self.jobs_cancelled = true;
        }
    }

    /// Interrupts every statement again whose request was cancelled and still runs. SQLite forgets an interrupt that comes
    /// after the flag was looked at and before a statement's first step; without this such a statement would run to its
    /// end, however far that is, and a node that stops would wait for it.
    pub(super) fn cancel_again(&self) {
        for state in self.clients.values() {
            if let (RequestState::Running(_), Some(opened)) = (&state.request, &state.opened) {
                opened.cancel.interrupt_if_cancelled();
            }
        }
    }

    /// Acts on an INTERRUPT that arrived while the request was on its way from one step to the next.
    pub(super) fn interrupt_if_asked(&mut self, client: ClientId, now_ms: u64) {
        if self.is_interrupted(client) {
            self.interrupt(client, now_ms);
        }
    }

    /// Whether an INTERRUPT stands behind the request in progress; its answer is that of a query it ended.
    pub(super) fn is_interrupted(&self, client: ClientId) -> bool {
        let next = self.clients.get(&client).and_then(|state| state.inbox.front());
        next.is_some_and(|received| received.is_kind(INTERRUPT_KIND))
    }

    fn interrupt_queued(&mut self, client: ClientId, now_ms: u64) {
        let Some(database) = self.database_of(client) else { return };
        if let Some(waiter) = self.databases.get_mut(database).lane.withdraw(client) {
            let failure = (waiter.kind != RequestKind::Query).then_some((codes::INTERRUPT, "interrupted"));
            self.abandon_queued(&waiter, failure, now_ms);
        }
    }

    /// Closes the client's session, which is at home.
    pub(super) fn run_close(&mut self, client: ClientId) {
        self.run_short(client, RequestKind::Close, Work::Close);
    }

    /// Ends a stream of rows between two parts.
    pub(super) fn abandon_stream(&mut self, client: ClientId) {
        self.run_short(client, RequestKind::Session, Work::Abandon);
    }

    pub(super) fn database_of(&self, client: ClientId) -> Option<DatabaseId> {
        self.clients.get(&client).and_then(|state| state.opened.as_ref()).map(|opened| opened.database)
    }

    /// The socket is gone: whatever is in progress ends as soon as it can, the transaction is rolled back.
    pub(super) fn client_closed(&mut self, client: ClientId, now_ms: u64) {
        let Some(state) = self.clients.get_mut(&client) else { return };
        state.gone = true;
        state.inbox.clear();
        match &state.request {
            RequestState::Running(_) => self.cancel_job(client),
            RequestState::Queued => {
                let Some(database) = self.database_of(client) else { return };
                if let Some(waiter) = self.databases.get_mut(database).lane.withdraw(client) {
                    self.abandon_queued(&waiter, None, now_ms);
                }
            }
            RequestState::Streaming => self.abandon_stream(client),
            // The write is in the log; its reply goes nowhere.
            RequestState::Gated if !self.stopping => {}
            RequestState::Idle
            | RequestState::Gated
            | RequestState::Barrier(_)
            | RequestState::Cluster
            | RequestState::Dumping(_) => self.finish(client, now_ms),
        }
    }

    /// An idle client without a socket: close its session, then forget it.
    pub(super) fn close_session(&mut self, client: ClientId, now_ms: u64) {
        let _ = now_ms;
        let has_session = self
            .clients
            .get(&client)
            .and_then(|state| state.opened.as_ref())
            .is_some_and(|opened| opened.session.is_some());
        if has_session {
            self.run_close(client);
        } else {
            self.clients.remove(&client);
            self.budget.forget(client);
        }
    }

    /// Stops what runs for clients that closed their sending half some time ago: they are probably gone.
    pub(super) fn cancel_jobs_of_departed(&mut self, now_ms: u64) {
        let is_over = |state: &Client| {
            let (Some(departed_at_ms), RequestState::Running(running)) =
                (state.departed_at_ms, &state.request)
            else {
                return false;
            };
            let age_ms = now_ms.saturating_sub(departed_at_ms.max(running.since_ms));
            running.kind != RequestKind::Close && age_ms >= limits::EOF_GRACE_MS
        };
        let over: Vec<ClientId> =
            self.clients.iter().filter(|(_, state)| is_over(state)).map(|(&client, _)| client).collect();
        over.into_iter().for_each(|client| self.cancel_job(client));
    }
}
