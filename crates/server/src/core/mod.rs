//! The node without sockets, threads, clock or disk: clients, writer lanes, proposals, apply, snapshots.
//!
//! [`Core::handle`] takes what happened, [`Core::poll_output`] gives what is to be done. A request moves forward only:
//! `gateway` decodes it, `sql` runs it on an executor through the writer lane, `leader` puts what it wrote into the
//! log, `apply` moves the committed watermark, and the reply that waited for it leaves.
//!
//! Invariants: one job per session and one writer per database at a time; no reply leaves before the state it was
//! computed from is committed; after leadership is lost nothing of the old generation is proposed or answered.

mod admission;
mod apply;
mod ask;
mod batch;
mod budget;
mod cancel;
mod client;
mod cluster;
mod codes;
mod database;
mod dump;
mod gateway;
pub mod handover;
mod interface;
mod job;
mod lane;
mod leader;
pub mod limits;
mod memory;
mod other_cluster;
pub mod role_manager;
pub mod roles;
mod rows;
mod session;
mod space;
mod sql;
mod statements;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use raft_glue::disk::Space;
use raft_glue::{NodeId, Output as ReplicaOutput, Replica, RequestId};
use vfs::{Veto, Vfs};
use wire_protocol::Response;

use crate::options::LiveOptions;
use admission::Admission;
use ask::Asker;
use budget::Budget;
use client::{Client, RequestState};
use database::Databases;
use handover::Handover;
use leader::Proposals;
use role_manager::RoleManager;

pub(crate) use apply::transaction_of;
pub use apply::{check_payload, restore_payload};
pub use ask::AskId;
pub use budget::MemoryRules;
pub use interface::{ClientId, DiskDone, DiskJob, Input, Output, SnapshotDone, SnapshotJob};
pub use job::{JobClass, SqlDone, SqlJob};

/// What the core must know of its node.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// Identity of this node.
    pub id: NodeId,
    /// Address of this node as the cluster knows it.
    pub address: String,
    /// How much clients may make the node hold.
    pub memory: MemoryRules,
}

/// The sans-io node.
#[derive(Debug)]
pub struct Core {
    config: CoreConfig,
    replica: Replica,
    vfs: Arc<Vfs>,
    live: Arc<LiveOptions>,
    clients: BTreeMap<ClientId, Client>,
    budget: Budget,
    /// What SQLite held when no statement had run for long, bytes.
    sqlite_bytes: u64,
    /// When that was looked at last.
    sqlite_looked_ms: u64,
    databases: Databases,
    proposals: Proposals,
    /// Clients in [`RequestState::Barrier`].
    admission: Admission,
    cluster_requests: BTreeMap<RequestId, ClientId>,
    roles: RoleManager,
    handover: Option<Handover>,
    /// Questions that are not answered yet.
    asks: BTreeMap<AskId, Asker>,
    next_ask: u64,
    /// Changes of the configuration that wait for the answer of the node that they name.
    changes_asked: BTreeMap<AskId, cluster::Change>,
    /// Time of the newest input or poll.
    now_ms: u64,
    next_request: u64,
    next_gated: u64,
    snapshot_running: bool,
    /// When databases at rest are looked for again.
    next_rest_ms: u64,
    /// Room on the disk, as the log last said.
    space: Space,
    /// Commits of all databases are refused for this reason.
    veto: Option<Veto>,
    sql_jobs_out: usize,
    /// See [`Core::take_jobs_cancelled`].
    jobs_cancelled: bool,
    stopping: bool,
    stopped: bool,
    failed: Option<String>,
    outputs: VecDeque<Output>,
}

impl Core {
    /// A node whose state machine already holds what `replica` considers applied.
    #[must_use]
    pub fn new(config: CoreConfig, replica: Replica, vfs: Arc<Vfs>, live: Arc<LiveOptions>) -> Self {
        Self {
            budget: Budget::new(config.memory),
            sqlite_bytes: 0,
            sqlite_looked_ms: 0,
            config,
            replica,
            vfs,
            live,
            clients: BTreeMap::new(),
            databases: Databases::default(),
            proposals: Proposals::default(),
            admission: Admission::default(),
            cluster_requests: BTreeMap::new(),
            roles: RoleManager::default(),
            handover: None,
            asks: BTreeMap::new(),
            next_ask: 1,
            changes_asked: BTreeMap::new(),
            now_ms: 0,
            next_request: 1,
            next_gated: 0,
            snapshot_running: false,
            next_rest_ms: 0,
            space: Space::default(),
            veto: None,
            sql_jobs_out: 0,
            jobs_cancelled: false,
            stopping: false,
            stopped: false,
            failed: None,
            outputs: VecDeque::new(),
        }
    }

    /// Takes one input. What follows from it comes out of [`Self::poll_output`]; feeding all inputs of a turn before
    /// polling lets proposals of several clients share one write and one message.
    pub fn handle(&mut self, input: Input, now_ms: u64) {
        self.now_ms = now_ms;
        match input {
            Input::ClientOpened { client, protocol } => self.client_opened(client, protocol),
            Input::ClientFrame { client, frame } => self.client_frame(client, frame, now_ms),
            Input::ClientEof { client } => self.client_eof(client, None, now_ms),
            Input::ClientDeparting { client } => self.client_departing(client, now_ms),
            Input::ClientUnreadable { client, reason } => self.client_eof(client, Some(reason), now_ms),
            Input::ClientClosed { client } => self.client_closed(client, now_ms),
            Input::ClientDrained { client } => self.client_drained(client, now_ms),
            Input::ClientHolds { client, input, output } => self.client_holds(client, input, output),
            Input::SqliteHolds { bytes } => self.sqlite_holds(bytes),
            Input::ClientRefused { client } => self.client_refused(client, now_ms),
            Input::PeerStreamOpened { stream, from, announcement } => {
                self.replica.handle_stream_opened(stream, from, announcement);
            }
            Input::PeerStreamEnded { stream, from } => self.replica.handle_stream_ended(stream, from),
            Input::PeerMessage { stream, from, address, message } => {
                self.replica.handle_message(stream, from, &address, message, now_ms);
            }
            Input::PeerUnreachable { to, snapshot } => self.replica.handle_unreachable(to, snapshot),
            Input::SqlDone(done) => self.sql_done(done, now_ms),
            Input::DiskDone(done) => self.disk_done(done, now_ms),
            Input::SnapshotDone(done) => self.snapshot_done(done),
            Input::PeerAnswered { ask, result } => self.peer_answered(ask, result, now_ms),
            Input::Handover { handover } => self.begin_handover(handover, now_ms),
            Input::Tick => self.tick(now_ms),
            Input::Stop => self.stop(now_ms),
        }
    }

    /// The next thing to do, in order; `None` when there is nothing until the next input.
    pub fn poll_output(&mut self, now_ms: u64) -> Option<Output> {
        self.now_ms = now_ms;
        loop {
            if let Some(output) = self.outputs.pop_front() {
                return Some(output);
            }
            if !self.pump(now_ms) && self.outputs.is_empty() {
                return None;
            }
        }
    }

    /// Whether a job that is out was cancelled since the last call; one that has not begun yet can be ended at once.
    pub fn take_jobs_cancelled(&mut self) -> bool {
        std::mem::take(&mut self.jobs_cancelled)
    }

    /// When [`Input::Tick`] is wanted besides the regular ticks.
    #[must_use]
    pub fn next_deadline_ms(&self) -> Option<u64> {
        let deadlines = [
            self.databases.next_deadline_ms(),
            self.proposals.next_deadline_ms(),
            self.roles_deadline_ms(),
            self.handover_deadline_ms(),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// Regular interval of [`Input::Tick`], milliseconds.
    #[must_use]
    pub fn tick_interval_ms(&self) -> u64 {
        self.replica.tick_interval_ms()
    }

    /// Whether a start may report success: a sole voter leads and has applied its whole log, any other node has loaded.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let configuration = self.replica.configuration();
        let sole_voter = configuration.is_voter(self.config.id) && configuration.voters().count() == 1;
        !sole_voter || self.replica.serving() || self.failed.is_some()
    }

    /// Why the node refuses to work, if it does.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    /// The consensus half, to look at.
    #[must_use]
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// Moves what can move: captured transactions into the log, the replica's next output to where it belongs; when there
    /// is none, what waits for that. Returns whether to come again.
    fn pump(&mut self, now_ms: u64) -> bool {
        if self.stopped {
            return false;
        }
        self.enforce_veto();
        self.propose_captured();
        if let Some(output) = self.replica.poll_output(now_ms) {
            // What it leads to is given out before the next one is looked at: an entry is on its way to the disk before
            // those that it says are committed are applied.
            self.replica_output(output, now_ms);
            return true;
        }
        let progress = self.admit_waiting(now_ms);
        self.take_snapshot_if_due();
        if self.stopping && self.sql_jobs_out == 0 {
            self.stopped = true;
            self.outputs.push_back(Output::Stopped);
        }
        progress
    }

    fn replica_output(&mut self, output: ReplicaOutput, now_ms: u64) {
        match output {
            ReplicaOutput::Persist(persist) => {
                self.outputs.push_back(Output::Disk(DiskJob::Persist(persist)))
            }
            ReplicaOutput::Transmit { to, address, message } => {
                self.outputs.push_back(Output::Transmit { to, address, message });
            }
            ReplicaOutput::Apply(committed) => self.apply(committed, now_ms),
            ReplicaOutput::Restore(snapshot) => self.restore(&snapshot, now_ms),
            ReplicaOutput::ReadSnapshot { to, metadata } => {
                self.outputs.push_back(Output::Snapshot(SnapshotJob::Read { to, metadata }));
            }
            ReplicaOutput::ReadEntries(read) => {
                self.outputs.push_back(Output::Disk(DiskJob::ReadEntries(read)))
            }
            ReplicaOutput::CloseStream { stream, from } => {
                self.outputs.push_back(Output::ClosePeerStream { stream, from });
            }
            ReplicaOutput::Announce => self.outputs.push_back(Output::Announce),
            ReplicaOutput::BindIdentity { cluster, index } => {
                self.outputs.push_back(Output::Disk(DiskJob::BindIdentity(cluster, index)));
            }
            ReplicaOutput::MoveAside => self.outputs.push_back(Output::Disk(DiskJob::MoveAside)),
            ReplicaOutput::BecameLeader { term } => tracing::info!(%term, "became leader"),
            ReplicaOutput::LostLeadership => self.lost_leadership(now_ms),
            ReplicaOutput::RequestDone { request, result } => {
                self.cluster_request_done(request, result, now_ms)
            }
            ReplicaOutput::Failed(reason) => self.fail(reason, now_ms),
        }
    }

    fn disk_done(&mut self, done: DiskDone, now_ms: u64) {
        match done {
            DiskDone::Persisted(Ok(number)) => self.replica.handle_persisted(number),
            DiskDone::Persisted(Err(reason)) => {
                self.replica.handle_persist_failed();
                self.fail(reason, now_ms);
            }
            DiskDone::SnapshotTaken(metadata, Ok(())) => {
                self.snapshot_running = false;
                self.replica.handle_snapshot_taken(&metadata);
            }
            DiskDone::SnapshotTaken(_, Err(reason)) => {
                self.snapshot_running = false;
                self.replica.handle_snapshot_failed();
                self.fail(reason, now_ms);
            }
            DiskDone::Space(space) => self.space_changed(space),
            DiskDone::IdentityBound(cluster, index, Ok(done)) => {
                self.replica.handle_identity_bound(cluster, index, done);
            }
            DiskDone::MovedAside(Ok(done)) => {
                if done {
                    self.forget_databases();
                }
                self.replica.handle_moved_aside(done);
            }
            DiskDone::IdentityBound(_, _, Err(reason)) | DiskDone::MovedAside(Err(reason)) => {
                self.replica.handle_persist_failed();
                self.fail(reason, now_ms);
            }
            DiskDone::EntriesRead(read, result) => {
                self.replica.handle_entries_read(&read, result.map_err(drop))
            }
        }
    }

    fn tick(&mut self, now_ms: u64) {
        self.replica.handle_tick(now_ms);
        self.backfill_at_rest(now_ms);
        self.end_idle_writers(now_ms);
        self.expire_writers(now_ms);
        self.look_at_readers();
        self.cancel_jobs_of_departed(now_ms);
        self.cancel_again();
        self.manage_roles(now_ms);
        self.continue_handover(now_ms);
    }

    /// A name for a request to the replica.
    fn new_request(&mut self) -> RequestId {
        let request = RequestId(self.next_request);
        self.next_request += 1;
        request
    }

    /// Latches: the node refuses everything from here on, but stays up to be inspected.
    fn fail(&mut self, reason: String, now_ms: u64) {
        if self.failed.is_some() {
            return;
        }
        tracing::error!(%reason, "node failed");
        self.failed = Some(reason.clone());
        self.lost_leadership(now_ms);
        self.outputs.push_back(Output::Failed(reason));
    }

    fn stop(&mut self, now_ms: u64) {
        self.stopping = true;
        self.continue_handover(now_ms);
        let clients: Vec<ClientId> = self.clients.keys().copied().collect();
        for client in clients {
            self.outputs.push_back(Output::CloseClient { client });
            self.client_closed(client, now_ms);
        }
    }

    /// Sends a whole response and goes on with the client's next request.
    fn respond(&mut self, client: ClientId, bytes: Bytes, now_ms: u64) {
        if let Some(state) = self.clients.get_mut(&client) {
            state.request = RequestState::Idle;
            if !state.gone {
                self.outputs.push_back(Output::Reply { client, bytes });
            }
        }
        self.next_request(client, now_ms);
    }

    /// FAILURE.
    fn refuse(&mut self, client: ClientId, code: u64, message: &str, now_ms: u64) {
        let message = Bytes::copy_from_slice(message.as_bytes());
        let reply = session::encode(&Response::Failure { code, message });
        self.respond(client, reply, now_ms);
    }
}
