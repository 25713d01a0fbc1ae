//! SQL requests: through the writer lane to an executor, and their replies through the gate to the client.

use bytes::Bytes;
use vfs::TransactionState;
use wire_protocol::Response;

use super::budget::Kind;
use super::client::{Opened, RequestState, Running};
use super::codes;
use super::database::{DatabaseId, GatedReply};
use super::job::{JobClass, Outcome, RequestKind, SqlDone, SqlJob, Work};
use super::lane::Waiter;
use super::session::{encode, failure};
use super::{ClientId, Core, Output, limits};

/// Whether a text probably starts with a statement that writes. Only a hint: it saves a trip to a reader that would
/// find out; a wrong guess costs a little waiting, never correctness.
fn probably_writes(sql: &[u8]) -> bool {
    const WRITES: [&[u8]; 10] = [
        b"INSERT", b"UPDATE", b"DELETE", b"REPLACE", b"CREATE", b"DROP", b"ALTER", b"VACUUM", b"REINDEX",
        b"ANALYZE",
    ];
    let text = sql.trim_ascii_start();
    let word = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
    let (first, rest) = text.split_at(word(text));
    if WRITES.iter().any(|write| first.eq_ignore_ascii_case(write)) {
        return true;
    }
    if !first.eq_ignore_ascii_case(b"BEGIN") {
        return false;
    }
    let rest = rest.trim_ascii_start();
    let second = &rest[..word(rest)];
    second.eq_ignore_ascii_case(b"IMMEDIATE") || second.eq_ignore_ascii_case(b"EXCLUSIVE")
}

fn kind_of(work: &Work) -> RequestKind {
    match work {
        Work::Exec { .. } => RequestKind::Exec,
        Work::ExecSql { .. } => RequestKind::Batch,
        Work::Query { .. } | Work::QuerySql { .. } => RequestKind::Query,
        Work::Close => RequestKind::Close,
        Work::Open { .. }
        | Work::Prepare { .. }
        | Work::Finalize { .. }
        | Work::Continue
        | Work::Abandon
        | Work::Rollback => RequestKind::Session,
    }
}

impl Core {
    /// Sends work to the writer lane or to a reader.
    pub(super) fn dispatch(&mut self, client: ClientId, work: Work, now_ms: u64) {
        let kind = kind_of(&work);
        let Some(state) = self.clients.get_mut(&client) else { return };
        let Some(opened) = state.opened.as_ref() else {
            if matches!(work, Work::Open { .. }) {
                self.send_job(client, JobClass::Short, kind, None, work);
            } else {
                self.refuse(client, codes::NOT_FOUND, "no database opened", now_ms);
            }
            return;
        };
        opened.cancel.rearm();
        let database = opened.database;
        let writes = match &work {
            Work::Exec { statement, .. } | Work::Query { statement, .. } => {
                opened.statement_is_readonly(*statement) == Some(false)
            }
            Work::ExecSql { sql, .. } | Work::QuerySql { sql, .. } => probably_writes(sql),
            _ => false,
        };
        if matches!(work, Work::Prepare { .. }) {
            self.run_short(client, kind, work);
        } else if self.databases.get(database).lane.is_held_by(client) {
            self.run(client, JobClass::Writer, kind, work);
        } else if writes {
            self.queue_writer(client, kind, work, now_ms);
        } else {
            self.run(client, JobClass::Reader, kind, work);
        }
    }

    /// Runs work that runs no statement.
    pub(super) fn run_short(&mut self, client: ClientId, kind: RequestKind, work: Work) {
        self.run(client, JobClass::Short, kind, work);
    }

    /// Sends the client's session to an executor.
    pub(super) fn run(&mut self, client: ClientId, class: JobClass, kind: RequestKind, work: Work) {
        let session = self
            .clients
            .get_mut(&client)
            .and_then(|state| state.opened.as_mut())
            .and_then(|opened| opened.session.take());
        debug_assert!(session.is_some(), "one job per session at a time");
        self.send_job(client, class, kind, session, work);
    }

    fn send_job(
        &mut self,
        client: ClientId,
        class: JobClass,
        kind: RequestKind,
        session: Option<Box<super::session::Session>>,
        work: Work,
    ) {
        if let Some(state) = self.clients.get_mut(&client) {
            state.request = RequestState::Running(Running { class, kind, since_ms: self.now_ms });
        }
        self.sql_jobs_out += 1;
        self.outputs.push_back(Output::Sql(SqlJob { client, class, session, work }));
    }

    /// Joins the writer queue of the client's database.
    fn queue_writer(&mut self, client: ClientId, kind: RequestKind, work: Work, now_ms: u64) {
        let busy_timeout_ms = u64::from(self.live.busy_timeout_ms());
        let Some(state) = self.clients.get_mut(&client) else { return };
        let Some(opened) = state.opened.as_ref() else { return };
        let database = opened.database;
        state.request = RequestState::Queued;
        let lane = &mut self.databases.get_mut(database).lane;
        let held = !lane.is_free();
        // Whatever is committed in front of it makes its snapshot too old to be written to.
        let hopeless = held && opened.transaction == TransactionState::Read;
        let deadline_ms = if hopeless { now_ms } else { now_ms.saturating_add(busy_timeout_ms) };
        lane.wait(Waiter { client, kind, work, deadline_ms });
        self.grant(database);
        if held {
            self.end_idle_writers(now_ms);
        }
        if held && deadline_ms == now_ms {
            self.expire_writers(now_ms);
        }
    }

    /// Starts the next writer if the lane is free and the window has room.
    pub(super) fn grant(&mut self, database: DatabaseId) {
        let state = self.databases.get_mut(database);
        if !state.lane.has_next() || !state.window_has_room() {
            return;
        }
        if let Some(waiter) = state.lane.grant_next() {
            self.run(waiter.client, JobClass::Writer, waiter.kind, waiter.work);
        }
    }

    /// Refuses the writers whose busy timeout is over.
    pub(super) fn expire_writers(&mut self, now_ms: u64) {
        for database in self.databases.ids() {
            while let Some(waiter) = self.databases.get_mut(database).lane.expire(now_ms) {
                self.abandon_queued(&waiter, Some((codes::BUSY, "database is locked")), now_ms);
            }
        }
    }

    /// Ends a request that waited in the lane. If its statement is compiled already the session must forget it.
    pub(super) fn abandon_queued(&mut self, waiter: &Waiter, failure: Option<(u64, &str)>, now_ms: u64) {
        let client = waiter.client;
        if matches!(waiter.work, Work::Continue) {
            if let Some((code, message)) = failure {
                self.reply_only(client, code, message);
            }
            self.run_short(client, RequestKind::Session, Work::Abandon);
        } else if let Some((code, message)) = failure {
            self.refuse(client, code, message, now_ms);
        } else {
            self.finish(client, now_ms);
        }
    }

    /// FAILURE without going on to the next request.
    pub(super) fn reply_only(&mut self, client: ClientId, code: u64, message: &str) {
        let message = Bytes::copy_from_slice(message.as_bytes());
        let bytes = encode(&Response::Failure { code, message });
        if self.clients.get(&client).is_some_and(|state| !state.gone) {
            self.outputs.push_back(Output::Reply { client, bytes });
        }
    }

    /// The request is over and there is nothing to send.
    pub(super) fn finish(&mut self, client: ClientId, now_ms: u64) {
        if let Some(state) = self.clients.get_mut(&client) {
            state.request = RequestState::Idle;
        }
        self.next_request(client, now_ms);
    }

    /// A job came back. What its session has come to hold counts when its answer has left.
    pub(super) fn sql_done(&mut self, done: SqlDone, now_ms: u64) {
        let (client, memory_bytes) = (done.client, done.memory_bytes);
        self.job_returned(done, now_ms);
        if let Some(bytes) = memory_bytes {
            self.count_connection(client, bytes);
        }
    }

    fn job_returned(&mut self, done: SqlDone, now_ms: u64) {
        self.sql_jobs_out -= 1;
        let SqlDone { client, session, outcome, gate, generation, transaction, explicit, .. } = done;
        let Some(state) = self.clients.get_mut(&client) else {
            // The client record outlives its session, so this is the end of a session without one.
            return;
        };
        let RequestState::Running(running) = state.request else {
            debug_assert!(false, "a job is out only while a request is running");
            return;
        };
        match outcome {
            Outcome::Opened { cancel } => {
                let session = session.expect("an opened connection comes with its session");
                return self.session_opened(client, session, cancel, gate, generation, now_ms);
            }
            Outcome::OpenFailed(error) => return self.respond(client, failure(&error), now_ms),
            Outcome::Closed => return self.session_closed(client, now_ms),
            _ => {}
        }
        let Some(opened) = state.opened.as_mut() else { return };
        opened.session = session;
        opened.transaction = transaction;
        opened.explicit = explicit;
        let database = opened.database;
        let dead = opened.dead || generation != self.databases.get(database).generation;
        let dead = dead && !planted::bug!(StaleSchemaAfterUndo);
        let gone = state.gone;
        if dead {
            let may_be_proposed = running.class == JobClass::Writer
                && !planted::bug!(ReturnedWriteRefused)
                && self.databases.get(database).may_be_proposed(generation, gate);
            return self.dead_session_returned(client, running, &outcome, may_be_proposed);
        }
        let asks_for_lane = matches!(outcome, Outcome::NeedsWriter);
        if transaction != TransactionState::Write && !asks_for_lane {
            self.databases.get_mut(database).lane.release(client);
            self.grant(database);
        }
        if gone {
            return self.finish(client, now_ms);
        }
        match outcome {
            Outcome::NeedsWriter => {
                self.queue_writer(client, running.kind, Work::Continue, now_ms);
                self.interrupt_if_asked(client, now_ms);
            }
            Outcome::Prepared { reply, statement, readonly } => {
                if let Some(opened) = self.clients.get_mut(&client).and_then(|state| state.opened.as_mut()) {
                    opened.remember_statement(statement, readonly);
                }
                self.gate(
                    client,
                    database,
                    gate,
                    GatedReply { client, bytes: reply, more: false, batch: false },
                    now_ms,
                );
            }
            Outcome::Complete { reply } => {
                let batch = running.kind == RequestKind::Batch;
                self.gate(
                    client,
                    database,
                    gate,
                    GatedReply { client, bytes: reply, more: false, batch },
                    now_ms,
                );
            }
            Outcome::Rows { reply } => {
                self.gate(
                    client,
                    database,
                    gate,
                    GatedReply { client, bytes: reply, more: true, batch: false },
                    now_ms,
                );
            }
            Outcome::Cancelled if running.kind == RequestKind::Query && !self.is_interrupted(client) => {
                self.refuse(client, codes::INTERRUPT, "interrupted", now_ms);
            }
            Outcome::Cancelled => self.finish(client, now_ms),
            Outcome::Opened { .. } | Outcome::OpenFailed(_) | Outcome::Closed => {}
        }
    }

    fn session_opened(
        &mut self,
        client: ClientId,
        session: Box<super::session::Session>,
        cancel: super::session::CancelHandle,
        gate: vfs::Position,
        generation: u64,
        now_ms: u64,
    ) {
        let name = session.database_name();
        let database = self.databases.get_or_create(&self.vfs, &name);
        let Some(state) = self.clients.get_mut(&client) else { return };
        let dead = generation != self.databases.get(database).generation || !self.replica.is_leader();
        self.databases.get_mut(database).sessions += 1;
        state.opened = Some(Opened {
            database,
            session: Some(session),
            cancel,
            readonly: Vec::new(),
            transaction: TransactionState::None,
            explicit: false,
            rolled_back: false,
            dead,
        });
        let gone = state.gone;
        if dead {
            self.reply_only(client, codes::NOT_LEADER, "not leader");
            return self.run_close(client);
        }
        if gone {
            return self.finish(client, now_ms);
        }
        let bytes = encode(&Response::Database { id: 0 });
        self.gate(client, database, gate, GatedReply { client, bytes, more: false, batch: false }, now_ms);
    }

    /// The session's generation is over: whatever it answered may never have happened, and what it wrote may be
    /// committed if it got into the log while the job was on its way back.
    fn dead_session_returned(
        &mut self,
        client: ClientId,
        running: Running,
        outcome: &Outcome,
        may_be_proposed: bool,
    ) {
        let mut answered = matches!(outcome, Outcome::Cancelled) && running.kind != RequestKind::Query;
        if planted::bug!(DeadSessionAnswers)
            && let Outcome::Complete { reply } = outcome
        {
            answered = true;
            self.outputs.push_back(Output::Reply { client, bytes: reply.clone() });
        }
        if !answered && running.kind != RequestKind::Close {
            if may_be_proposed || running.kind == RequestKind::Batch {
                self.reply_only(client, codes::LEADERSHIP_LOST, "leadership lost");
            } else {
                self.reply_only(client, codes::NOT_LEADER, "not leader");
            }
        }
        self.run_close(client);
    }

    /// The connection is closed and its transaction rolled back.
    fn session_closed(&mut self, client: ClientId, now_ms: u64) {
        let Some(state) = self.clients.get_mut(&client) else { return };
        let database = state.opened.take().map(|opened| opened.database);
        for kind in [Kind::Gated, Kind::Sqlite] {
            self.budget.set(client, kind, 0);
        }
        if let Some(database) = database {
            let state = self.databases.get_mut(database);
            state.lane.release(client);
            state.sessions -= 1;
            self.grant(database);
            self.forget_if_unused(database);
        }
        self.finish(client, now_ms);
    }

    /// Sends a reply, or keeps it until everything it may depend on is committed.
    fn gate(
        &mut self,
        client: ClientId,
        database: DatabaseId,
        gate: vfs::Position,
        reply: GatedReply,
        now_ms: u64,
    ) {
        let state = self.databases.get_mut(database);
        if gate <= state.database.committed() || planted::bug!(GateRemoved) {
            self.deliver(reply, now_ms);
            return;
        }
        self.next_gated += 1;
        let len = reply.bytes.len() as u64;
        state.gated.insert((gate, self.next_gated), reply);
        if let Some(state) = self.clients.get_mut(&client) {
            state.request = RequestState::Gated;
        }
        if len >= limits::BUDGET_GRAIN {
            self.budget.set(client, Kind::Gated, len);
            self.enforce_budget();
        }
    }

    /// Lets out the replies that waited for the watermark to come this far.
    pub(super) fn release_gated(&mut self, database: DatabaseId, now_ms: u64) {
        let committed = self.databases.get(database).database.committed();
        while let Some(entry) = self.databases.get_mut(database).gated.first_entry() {
            if entry.key().0 > committed {
                break;
            }
            let reply = entry.remove();
            self.deliver(reply, now_ms);
        }
        self.grant(database);
    }

    fn deliver(&mut self, reply: GatedReply, now_ms: u64) {
        let GatedReply { client, bytes, more, .. } = reply;
        if bytes.len() as u64 >= limits::BUDGET_GRAIN {
            self.budget.set(client, Kind::Gated, 0);
        }
        if !more {
            return self.respond(client, bytes, now_ms);
        }
        let Some(state) = self.clients.get_mut(&client) else { return };
        state.request = RequestState::Streaming;
        if state.gone {
            return self.abandon_stream(client);
        }
        self.outputs.push_back(Output::Reply { client, bytes });
        self.interrupt_if_asked(client, now_ms);
    }

    /// The socket took everything: go on with a stream.
    pub(super) fn client_drained(&mut self, client: ClientId, now_ms: u64) {
        match self.clients.get(&client).map(|state| &state.request) {
            Some(RequestState::Streaming) => {
                let holds_lane = self
                    .clients
                    .get(&client)
                    .and_then(|state| state.opened.as_ref())
                    .is_some_and(|opened| self.databases.get(opened.database).lane.is_held_by(client));
                let class = if holds_lane { JobClass::Writer } else { JobClass::Reader };
                self.run(client, class, RequestKind::Query, Work::Continue);
            }
            Some(RequestState::Dumping(_)) => self.continue_dump(client, now_ms),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::probably_writes;

    #[test]
    fn the_hint_looks_at_the_first_words() {
        for sql in
            ["insert into t values(1)", "  UPDATE t SET a=1", "BEGIN IMMEDIATE", "begin\texclusive", "VACUUM"]
        {
            assert!(probably_writes(sql.as_bytes()), "{sql}");
        }
        for sql in ["", "SELECT 1", "BEGIN", "BEGIN DEFERRED", "COMMIT", "-- INSERT", "inserted", "PRAGMA x"]
        {
            assert!(!probably_writes(sql.as_bytes()), "{sql}");
        }
    }
}
