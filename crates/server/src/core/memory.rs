//! What follows from the budget: who is refused, ended, or rolled back, and with which words.
//!
//! Clients are told, where their stream is at a point where a message may follow and nothing that they wrote may be
//! committed yet. A read transaction is ended in the VFS,
//! and its client hears of it from SQLite, at its next step. A write transaction whose client does nothing is rolled back
//! when somebody waits for it, and the next statement is told so in place of being run: it was meant for the transaction.

use vfs::TransactionState;

use super::budget::{Holder, Kind};
use super::client::RequestState;
use super::codes;
use super::job::{JobClass, RequestKind, Work};
use super::{ClientId, Core, Output};

impl Core {
    /// What the buffers of a client's socket hold.
    pub(super) fn client_holds(&mut self, client: ClientId, input: u64, output: u64) {
        if self.clients.contains_key(&client) {
            self.budget.set(client, Kind::Input, input);
            self.budget.set(client, Kind::Output, output);
            self.enforce_budget();
        }
    }

    /// Counts the whole requests of a client anew.
    pub(super) fn count_requests(&mut self, client: ClientId) {
        if let Some(state) = self.clients.get(&client) {
            self.budget.set(client, Kind::Requests, state.requests_len());
            self.enforce_budget();
        }
    }

    /// Notes what SQLite keeps for a client's connection.
    pub(super) fn count_connection(&mut self, client: ClientId, bytes: u64) {
        if self.clients.contains_key(&client) {
            self.budget.set(client, Kind::Sqlite, bytes);
            self.enforce_budget();
        }
    }

    /// What SQLite holds for everybody. What has come since statements began that run for long is theirs: sorters, and
    /// tables of intermediate results. If there is no room for it the one that has run longest ends.
    pub(super) fn sqlite_holds(&mut self, bytes: u64) {
        let running = |(&client, state): (&ClientId, &super::client::Client)| match state.request {
            RequestState::Running(running) => Some((running.since_ms, client)),
            _ => None,
        };
        let looked_ms = std::mem::replace(&mut self.sqlite_looked_ms, self.now_ms);
        let longest =
            self.clients.iter().filter_map(running).min().filter(|(since_ms, _)| *since_ms < looked_ms);
        let Some((_, client)) = longest else {
            self.sqlite_bytes = bytes;
            return;
        };
        let growth = bytes.saturating_sub(self.sqlite_bytes);
        if self.budget.total().saturating_add(growth) <= self.budget.rules().limit_bytes {
            return;
        }
        if let Some(opened) = self.clients.get(&client).and_then(|state| state.opened.as_ref()) {
            tracing::warn!(
                client = client.0,
                growth,
                "the statement that ran longest was ended for lack of memory"
            );
            opened.cancel.cancel_for_memory();
            self.jobs_cancelled = true;
        }
    }

    /// Ends the largest holders until what is held is below the limit.
    pub(super) fn enforce_budget(&mut self) {
        while let Some(holder) = self.budget.overrun() {
            match holder {
                Holder::Reader(key, bytes) => {
                    let (database, reader, transaction) = key;
                    self.budget.forget_reader(key);
                    self.end_reader(database, reader, transaction, bytes);
                }
                Holder::Client(client, Kind::Input, _) => {
                    self.budget.set(client, Kind::Input, 0);
                    self.outputs.push_back(Output::RefuseInput { client });
                }
                Holder::Client(client, _, bytes) => {
                    self.budget.forget(client);
                    self.end_client(client, bytes);
                }
            }
        }
    }

    /// Closes a client's socket, whatever stands in it, with a word for the client if there is room for one.
    fn end_client(&mut self, client: ClientId, bytes: u64) {
        let limit = self.budget.rules().limit_bytes;
        tracing::warn!(
            client = client.0,
            bytes,
            limit,
            "a client held most of the memory for clients and was ended"
        );
        let Some(state) = self.clients.get(&client) else { return };
        // Of a write that is on its way an error would say that it did not happen. Pieces of a dump are no messages.
        let may_commit = match &state.request {
            RequestState::Gated => true,
            RequestState::Running(running) => running.class == JobClass::Writer,
            _ => false,
        };
        let tell = !may_commit || planted::bug!(EndedWriterTold);
        if tell && !matches!(state.request, RequestState::Dumping(_)) {
            let message = format!(
                "out of memory: this connection held {bytes} bytes, the most of all, and all together more than the \
                 {limit} that this node keeps for clients (LIBDQLITE_CLIENT_MEMORY)"
            );
            self.reply_only(client, codes::NOMEM, &message);
        }
        self.outputs.push_back(Output::AbortClient { client });
    }

    /// Ends a read transaction that keeps memory.
    fn end_reader(
        &self,
        database: super::database::DatabaseId,
        reader: vfs::ReaderId,
        transaction: u64,
        bytes: u64,
    ) {
        let Some(state) = self.databases.find(database) else { return };
        if state.database.end_reader(reader, transaction) {
            tracing::warn!(
                database = ?state.database.name(),
                bytes,
                "a read transaction kept too much memory and was ended"
            );
        }
    }

    /// Looks for read transactions that keep memory from being freed.
    pub(super) fn look_at_readers(&mut self) {
        let now_ms = self.now_ms;
        let found: Vec<_> = self
            .databases
            .ids()
            .into_iter()
            .flat_map(|id| {
                let holds = self.databases.get(id).database.reader_holds();
                holds.into_iter().map(move |hold| (id, hold))
            })
            .collect();
        let over = self.budget.look_at_readers(found.iter().copied(), now_ms);
        if planted::bug!(ReaderNeverEnded) {
            return;
        }
        for (database, reader, transaction) in over {
            let kept = |(id, hold): &&(_, vfs::ReaderHold)| {
                (*id, hold.reader, hold.transaction) == (database, reader, transaction)
            };
            let bytes = found.iter().find(kept).map_or(0, |(_, hold)| hold.bytes);
            self.budget.forget_reader((database, reader, transaction));
            self.end_reader(database, reader, transaction, bytes);
        }
        self.enforce_budget();
    }

    /// Rolls back write transactions of clients that have sent nothing for long while others wait for the lane.
    pub(super) fn end_idle_writers(&mut self, now_ms: u64) {
        for id in self.databases.ids() {
            let lane = &self.databases.get(id).lane;
            if lane.waiting_len() == 0 {
                continue;
            }
            let Some(holder) = lane.holder() else { continue };
            let idle_ms = self.budget.rules().idle_writer_ms;
            let Some(state) = self.clients.get_mut(&holder) else { continue };
            let is_idle = state.is_idle() && state.inbox.is_empty() && !state.gone;
            let Some(opened) = state.opened.as_mut() else { continue };
            let since_ms = now_ms.saturating_sub(state.idle_since_ms);
            if !is_idle || opened.transaction != TransactionState::Write || since_ms < idle_ms {
                continue;
            }
            if !planted::bug!(RolledBackUntold) {
                opened.rolled_back = true;
            }
            tracing::warn!(
                client = holder.0,
                since_ms,
                "a write transaction without requests was rolled back"
            );
            self.run_short(holder, RequestKind::Session, Work::Rollback);
        }
    }

    /// Whether the client's transaction was rolled back behind its back and it was not told yet; it is now.
    pub(super) fn tell_of_rollback(&mut self, client: ClientId, now_ms: u64) -> bool {
        let opened = self.clients.get_mut(&client).and_then(|state| state.opened.as_mut());
        if !opened.is_some_and(|opened| std::mem::take(&mut opened.rolled_back)) {
            return false;
        }
        let idle_ms = self.budget.rules().idle_writer_ms;
        let message = format!(
            "the transaction was rolled back: its client had sent nothing for {idle_ms} ms while others waited to write"
        );
        self.refuse(client, codes::ABORT_ROLLBACK, &message, now_ms);
        true
    }
}
