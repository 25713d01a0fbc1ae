//! The door of a request: bytes of one client become work, in order, one request at a time.

use bytes::Bytes;
use wire_protocol::{Frame, PeerAnnouncement, Protocol, Request, RequestError, Response};

use super::client::{Client, Received};
use super::codes;
use super::job::{RequestKind, Work};
use super::session::encode;
use super::{ClientId, Core, Output, limits};
use vfs::DatabaseName;

pub(super) const INTERRUPT_KIND: u8 = 10;
const CONNECT_KIND: u8 = 11;

impl Core {
    pub(super) fn client_opened(&mut self, client: ClientId, protocol: Protocol) {
        if self.stopping {
            self.outputs.push_back(Output::CloseClient { client });
            return;
        }
        self.clients.insert(client, Client::new(protocol));
    }

    pub(super) fn client_frame(&mut self, client: ClientId, frame: Frame, now_ms: u64) {
        let Some(state) = self.clients.get_mut(&client) else { return };
        let interrupts = frame.kind == INTERRUPT_KIND && state.inbox.is_empty() && !state.is_idle();
        let is_large = frame.body.len() as u64 >= limits::BUDGET_GRAIN;
        state.push(Received::Frame(frame));
        if state.inbox_is_full() && !state.paused {
            state.paused = true;
            self.outputs.push_back(Output::PauseClient { client });
        }
        if is_large {
            self.count_requests(client);
        }
        if interrupts {
            self.interrupt(client, now_ms);
        } else {
            self.next_request(client, now_ms);
        }
    }

    /// A request has come for which there was no memory.
    pub(super) fn client_refused(&mut self, client: ClientId, now_ms: u64) {
        let Some(state) = self.clients.get_mut(&client) else { return };
        state.push(Received::Refused);
        self.next_request(client, now_ms);
    }

    /// Nothing more comes of this client, for this reason if it is one to be told.
    pub(super) fn client_eof(&mut self, client: ClientId, reason: Option<String>, now_ms: u64) {
        if let Some(state) = self.clients.get_mut(&client) {
            state.at_end = true;
            state.last_words = reason;
        }
        self.client_departing(client, now_ms);
        self.next_request(client, now_ms);
    }

    pub(super) fn client_departing(&mut self, client: ClientId, now_ms: u64) {
        if let Some(state) = self.clients.get_mut(&client) {
            state.departed_at_ms.get_or_insert(now_ms);
        }
    }

    /// Starts waiting requests until one has to wait for something.
    pub(super) fn next_request(&mut self, client: ClientId, now_ms: u64) {
        loop {
            let Some(state) = self.clients.get_mut(&client) else { return };
            if !state.is_idle() {
                return;
            }
            if state.end_request() {
                self.count_requests(client);
            }
            let Some(state) = self.clients.get_mut(&client) else { return };
            if state.gone {
                self.close_session(client, now_ms);
                return;
            }
            let Some(received) = state.pop() else {
                state.idle_since_ms = now_ms;
                if state.at_end {
                    if let Some(reason) = state.last_words.take() {
                        self.reply_only(client, codes::DQLITE_PARSE, &reason);
                    }
                    self.outputs.push_back(Output::CloseClient { client });
                }
                return;
            };
            if state.paused && !state.inbox_is_full() {
                state.paused = false;
                self.outputs.push_back(Output::ResumeClient { client });
            }
            match received {
                Received::Frame(frame) => self.start(client, &frame, now_ms),
                Received::Refused => {
                    let limit = self.budget.rules().limit_bytes;
                    let message = format!(
                        "out of memory: there was no room for this request beside all others in the {limit} bytes that \
                         this node keeps for clients (LIBDQLITE_CLIENT_MEMORY)"
                    );
                    self.refuse(client, codes::NOMEM, &message, now_ms);
                }
            }
        }
    }

    fn start(&mut self, client: ClientId, frame: &Frame, now_ms: u64) {
        let request = match Request::decode(frame) {
            Ok(request) => request,
            Err(RequestError::UnrecognizedType) => {
                return self.refuse(client, codes::DQLITE_PARSE, "unrecognized request type", now_ms);
            }
            Err(RequestError::UnrecognizedSchema { sql }) => {
                let code = if sql { codes::ERROR } else { codes::DQLITE_PARSE };
                return self.refuse(client, code, "unrecognized schema version", now_ms);
            }
            Err(error) => {
                if let (CONNECT_KIND, Some(state)) = (frame.kind, self.clients.get_mut(&client)) {
                    // Its socket is not read any more: what follows a CONNECT is no request.
                    state.at_end = true;
                }
                let cause =
                    std::error::Error::source(&error).map_or_else(String::new, |cause| format!(": {cause}"));
                let message = format!("{error}{cause}");
                return self.refuse(client, codes::DQLITE_PARSE, &message, now_ms);
            }
        };
        match request {
            Request::Leader => self.leader_request(client, now_ms),
            Request::Client { .. } => {
                let heartbeat_timeout_ms = limits::ANNOUNCED_HEARTBEAT_TIMEOUT_MS;
                self.respond(client, encode(&Response::Welcome { heartbeat_timeout_ms }), now_ms);
            }
            Request::Open { name, .. } => self.open_request(client, &name, now_ms),
            Request::Prepare { database, sql, schema } => {
                let work = Work::Prepare { database: 0, sql, schema };
                self.sql_request(client, database, None, work, now_ms);
            }
            Request::Exec { database, statement, params } => {
                let work = Work::Exec { statement, params };
                self.sql_request(client, u64::from(database), Some(statement), work, now_ms);
            }
            Request::Query { database, statement, params } => {
                let work = Work::Query { statement, params };
                self.sql_request(client, u64::from(database), Some(statement), work, now_ms);
            }
            Request::ExecSql { database, sql, params } => {
                self.sql_request(client, database, None, Work::ExecSql { sql, params }, now_ms);
            }
            Request::QuerySql { database, sql, params } => {
                self.sql_request(client, database, None, Work::QuerySql { sql, params }, now_ms);
            }
            Request::Finalize { database, statement } => {
                self.finalize_request(client, u64::from(database), statement, now_ms);
            }
            // Nothing is running: the answer is all there is to it.
            Request::Interrupt => self.respond(client, encode(&Response::Empty), now_ms),
            Request::Connect { id, address, announcement } => {
                self.connect_request(client, id, address, announcement, now_ms);
            }
            Request::Add { id, address } => self.add_request(client, id, address, now_ms),
            Request::Assign { id, role } => self.assign_request(client, id, role, now_ms),
            Request::Remove { id } => self.remove_request(client, id, now_ms),
            Request::Dump { name } => self.dump_request(client, &name, now_ms),
            Request::Cluster { format } => self.cluster_request(client, format, now_ms),
            Request::Transfer { id } => self.transfer_request(client, id, now_ms),
            Request::Describe { format, announcement } => {
                self.describe_request(client, format, announcement.is_some(), now_ms);
            }
            Request::Weight { weight } => {
                self.live.set_weight(weight);
                self.respond(client, encode(&Response::Empty), now_ms);
            }
        }
    }

    fn open_request(&mut self, client: ClientId, name: &Bytes, now_ms: u64) {
        if !self.check_leader(client, now_ms) {
            return;
        }
        if self.clients.get(&client).is_some_and(|state| state.opened.is_some()) {
            return self.refuse(
                client,
                codes::BUSY,
                "a database for this connection is already open",
                now_ms,
            );
        }
        match DatabaseName::new(name) {
            Ok(name) => self.when_serving(client, self.open_work(name), now_ms),
            Err(error) => {
                self.refuse(client, codes::CANT_OPEN, &format!("cannot open database: {error}"), now_ms)
            }
        }
    }

    fn open_work(&self, name: DatabaseName) -> Work {
        let limit = usize::try_from(self.budget.rules().limit_bytes).unwrap_or(usize::MAX);
        Work::Open { vfs: self.vfs.clone(), name, max_reply_len: limits::MAX_ROW_LEN.min(limit) }
    }

    fn sql_request(
        &mut self,
        client: ClientId,
        database: u64,
        statement: Option<u32>,
        work: Work,
        now_ms: u64,
    ) {
        if !self.check_leader(client, now_ms) || !self.check_open(client, database, now_ms) {
            return;
        }
        if statement.is_some_and(|id| !self.statement_exists(client, id)) {
            return self.refuse(client, codes::NOT_FOUND, "no statement with the given id", now_ms);
        }
        if !matches!(work, Work::Prepare { .. }) && self.tell_of_rollback(client, now_ms) {
            return;
        }
        self.when_serving(client, work, now_ms);
    }

    fn finalize_request(&mut self, client: ClientId, database: u64, statement: u32, now_ms: u64) {
        if !self.check_open(client, database, now_ms) {
            return;
        }
        if !self.statement_exists(client, statement) {
            return self.refuse(client, codes::NOT_FOUND, "no statement with the given id", now_ms);
        }
        if let Some(opened) = self.clients.get_mut(&client).and_then(|state| state.opened.as_mut()) {
            opened.forget_statement(statement);
        }
        self.run_short(client, RequestKind::Session, Work::Finalize { statement });
    }

    /// CONNECT: the socket leaves the client protocol. A session it had is closed first.
    fn connect_request(
        &mut self,
        client: ClientId,
        id: wire_protocol::NodeId,
        address: String,
        announcement: Option<PeerAnnouncement>,
        now_ms: u64,
    ) {
        if let Some(state) = self.clients.get_mut(&client) {
            state.gone = true;
            state.inbox.clear();
        }
        self.outputs.push_back(Output::BecomePeer { client, id, address, announcement });
        self.next_request(client, now_ms);
    }

    fn check_open(&mut self, client: ClientId, database: u64, now_ms: u64) -> bool {
        let open = self.clients.get(&client).and_then(|state| state.opened.as_ref()).is_some();
        if !open || database != 0 {
            self.refuse(client, codes::NOT_FOUND, "no database opened", now_ms);
            return false;
        }
        true
    }

    fn statement_exists(&self, client: ClientId, statement: u32) -> bool {
        let opened = self.clients.get(&client).and_then(|state| state.opened.as_ref());
        opened.is_some_and(|opened| opened.statement_is_readonly(statement).is_some())
    }
}
