//! The loop of a node: sockets and timers on one side, the sans-io core on the other. [`crate::crew`] runs it.
//!
//! A turn collects what happened (events, completions of other threads, time), feeds all of it to the core, then does
//! what the core wants until it wants nothing, and flushes sockets at the end. A turn runs no SQL and waits for no disk.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use mio::{Events, Poll};
use vfs::Vfs;

use crate::clients::Clients;
use crate::clock::Clock;
use crate::connection::Connection;
use crate::core::{Core, DiskJob, Input, Output, SqlJob};
use crate::dialer::{self, Purpose};
use crate::disk_thread::DiskThread;
use crate::executor::Executor;
use crate::listener::Listener;
use crate::own_jobs::OwnJobs;
use crate::peer_client::PeerClients;
use crate::registration::{LISTENER, Readiness, Tokens, WAKE, register};
use crate::snapshot_thread::SnapshotThread;
use crate::spin::Spin;
use crate::transport::Transport;
use crate::trim::{CONNECTION_LEN, Trim};
use crate::wake::{ClusterView, Completion, Notifier};

/// Completions fed in one turn.
const MAX_COMPLETIONS: usize = 4096;
/// Size of the buffer that sockets are read into.
const SCRATCH_LEN: usize = 256 * 1024;

/// Everything a running node consists of.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) poll: Poll,
    pub(crate) notifier: Notifier,
    pub(crate) completions: Receiver<Completion>,
    /// What `now_ms` is read from.
    pub(crate) clock: Clock,
    pub(crate) core: Core,
    pub(crate) vfs: Arc<Vfs>,
    pub(crate) listener: Listener,
    pub(crate) transport: Transport,
    pub(crate) peer_clients: PeerClients,
    pub(crate) executor: Executor<SqlJob>,
    pub(crate) disk: DiskThread,
    pub(crate) snapshots: SnapshotThread,
    /// The log was damaged: it must hear when that is made up for.
    pub(crate) is_vote_withheld: bool,
    /// Hears once whether the node came up.
    pub(crate) started: Sender<Result<(), String>>,
}

/// How far the loop is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Starting,
    Running,
    Stopping,
    Ended,
}

/// The loop.
#[derive(Debug)]
pub(crate) struct EventLoop {
    parts: Parts,
    phase: Phase,
    clients: Clients,
    /// For the next feeding of the core.
    inputs: VecDeque<Input>,
    /// Jobs for the thread that has the loop, to run between two turns.
    own_jobs: OwnJobs<SqlJob>,
    more_completions: bool,
    /// Hosts that wait for a handover, by its name.
    handovers: BTreeMap<u64, Sender<Result<(), String>>>,
    next_handover: u64,
    /// After something has happened.
    spin: Spin,
    next_tick_ms: u64,
    trim: Trim,
    tokens: Tokens,
    scratch: Vec<u8>,
}

impl EventLoop {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            parts,
            phase: Phase::Starting,
            clients: Clients::default(),
            inputs: VecDeque::new(),
            own_jobs: OwnJobs::new(),
            more_completions: false,
            handovers: BTreeMap::new(),
            next_handover: 0,
            next_tick_ms: 0,
            trim: Trim::default(),
            spin: Spin::default(),
            tokens: Tokens::new(),
            scratch: vec![0; SCRATCH_LEN],
        }
    }

    /// One turn. `false` when the node has stopped, or cannot go on.
    pub(crate) fn turn(&mut self, events: &mut Events) -> bool {
        if self.phase == Phase::Ended {
            return false;
        }
        let timeout = self.timeout();
        if let Err(error) = self.parts.poll.poll(events, timeout)
            && error.kind() != io::ErrorKind::Interrupted
        {
            self.broken(&format!("waiting for events failed: {error}"));
            return false;
        }
        let now_ms = self.now_ms();
        let busy = !events.is_empty() || !self.inputs.is_empty();
        self.collect(events, now_ms);
        self.feed(now_ms);
        let now_ms = self.now_ms();
        self.perform(now_ms);
        self.parts.executor.look_after(Instant::now());
        self.report_made_up();
        self.flush(now_ms);
        if busy {
            self.spin = Spin::begin();
        }
        self.report_start();
        self.phase != Phase::Ended
    }

    /// A job to run between two turns, on this thread; then [`Self::complete`] or, after all, [`Self::submit`].
    pub(crate) fn take_own_job(&mut self) -> Option<SqlJob> {
        self.own_jobs.pop()
    }

    fn now_ms(&self) -> u64 {
        self.parts.clock.now_ms()
    }

    /// Whether new work may come in.
    fn accepts_work(&self) -> bool {
        !self.parts.disk.is_full()
    }

    fn timeout(&mut self) -> Option<Duration> {
        let parts = &self.parts;
        let unfinished = !self.inputs.is_empty()
            || !self.own_jobs.is_empty()
            || self.clients.wants_flush()
            || self.more_completions
            || parts.transport.wants_turn()
            || parts.peer_clients.wants_turn()
            || (self.accepts_work() && (self.clients.wants_read() || parts.transport.wants_read()));
        if unfinished || self.spin.go_on() {
            return Some(Duration::ZERO);
        }
        let parts = &self.parts;
        let accept = if self.phase == Phase::Stopping { None } else { parts.listener.deadline_ms() };
        let deadlines = [
            parts.core.next_deadline_ms(),
            parts.transport.next_deadline_ms(),
            parts.peer_clients.next_deadline_ms(),
            accept,
        ];
        let deadline_ms = deadlines.into_iter().flatten().fold(self.next_tick_ms, u64::min);
        let timeout = Duration::from_millis(deadline_ms.saturating_sub(self.now_ms()));
        let look = parts.executor.next_look().map(|look| look.saturating_duration_since(Instant::now()));
        Some(look.map_or(timeout, |look| timeout.min(look)))
    }

    /// Step 1: notes what the kernel and the other threads have to say.
    fn collect(&mut self, events: &Events, now_ms: u64) {
        self.parts.notifier.acknowledge();
        for event in events {
            let Ok(token) = u64::try_from(event.token().0) else { continue };
            match token {
                WAKE => {}
                LISTENER => self.parts.listener.ready(),
                _ => {
                    let ready = Readiness::from(event);
                    if !self.clients.ready(token, ready, &mut self.inputs) {
                        self.parts.transport.ready(token, ready, now_ms);
                        self.parts.peer_clients.ready(token, &mut self.scratch);
                    }
                }
            }
        }
        if self.phase != Phase::Stopping {
            self.accept(now_ms);
        }
        self.collect_completions();
    }

    fn accept(&mut self, now_ms: u64) {
        let Self { parts, clients, tokens, .. } = self;
        let registry = parts.poll.registry();
        parts.listener.accept(now_ms, |socket| {
            let token = tokens.next();
            match register(registry, socket.raw(), token) {
                Ok(()) => clients.add(token, Connection::new(socket)),
                Err(error) => tracing::warn!(%error, "a connection cannot be watched and was closed"),
            }
        });
    }

    fn collect_completions(&mut self) {
        for _ in 0..MAX_COMPLETIONS {
            let Ok(completion) = self.parts.completions.try_recv() else {
                self.more_completions = false;
                return;
            };
            self.complete(completion);
        }
        self.more_completions = true;
    }

    /// Notes what a thread has finished.
    pub(crate) fn complete(&mut self, completion: Completion) {
        match completion {
            Completion::Sql(done) => self.inputs.push_back(Input::SqlDone(done)),
            Completion::Disk(done) => self.inputs.push_back(Input::DiskDone(done)),
            Completion::Snapshot(done) => self.inputs.push_back(Input::SnapshotDone(done)),
            Completion::Dialled(dialled) => match dialled.purpose {
                Purpose::Raft => {
                    let now_ms = self.now_ms();
                    let announcement = self.parts.core.replica().announcement();
                    let tokens = &mut self.tokens;
                    self.parts.transport.dialled(dialled, announcement, tokens, now_ms);
                }
                Purpose::Questions => self.parts.peer_clients.dialled(dialled, &mut self.tokens),
            },
            Completion::Handover(waiting) => {
                self.next_handover += 1;
                self.handovers.insert(self.next_handover, waiting);
                self.inputs.push_back(Input::Handover { handover: self.next_handover });
            }
            Completion::Consult(waiting) => {
                let replica = self.parts.core.replica();
                let view =
                    ClusterView { leader: replica.leader(), configuration: replica.configuration().clone() };
                // A host that does not wait any more needs no answer.
                let _ = waiting.send(view);
            }
            Completion::Panicked(reason) => self.broken(&reason),
            Completion::Stop => {
                self.phase = Phase::Stopping;
                self.inputs.push_back(Input::Stop);
            }
        }
    }

    /// Step 2: everything goes into the core before anything is asked of it.
    fn feed(&mut self, now_ms: u64) {
        self.parts.disk.retry();
        self.inputs.extend(self.parts.transport.take_reports());
        self.inputs.extend(self.parts.peer_clients.take_answers());
        for input in std::mem::take(&mut self.inputs) {
            self.parts.core.handle(input, now_ms);
        }
        if self.accepts_work() {
            let Self { parts, clients, scratch, inputs, .. } = self;
            // The clock is read behind each message: the process may have been stopped since this turn began, and what
            // has come meanwhile must not be judged by the time before.
            let clock = parts.clock;
            clients.read(scratch, inputs, |input| parts.core.handle(input, clock.now_ms()));
            parts.transport.read(scratch, |input| parts.core.handle(input, clock.now_ms()));
        }
        let now_ms = self.now_ms();
        if self.parts.peer_clients.next_deadline_ms().is_some_and(|deadline| deadline <= now_ms) {
            self.parts.peer_clients.handle_time(now_ms);
        }
        let due = self.parts.core.next_deadline_ms().is_some_and(|deadline| deadline <= now_ms);
        if self.next_tick_ms <= now_ms {
            let interval = self.parts.core.tick_interval_ms().max(1);
            // After a delay the missed ticks are skipped: time itself is an argument of the tick.
            self.next_tick_ms = (self.next_tick_ms + interval).max(now_ms + 1);
            let mut in_use = self.clients.len() as u64 * CONNECTION_LEN + self.parts.vfs.wal_bytes();
            if self.parts.executor.is_parallel() {
                let bytes = vfs::sqlite_memory_bytes();
                self.parts.core.handle(Input::SqliteHolds { bytes }, now_ms);
                in_use += bytes;
            }
            self.trim.in_use(in_use, now_ms);
            self.parts.core.handle(Input::Tick, now_ms);
            self.parts.transport.handle_time(now_ms);
            self.parts.peer_clients.handle_time(now_ms);
            if self.trim.take_due(now_ms) {
                self.parts.snapshots.trim_memory();
            }
        } else if due {
            self.parts.core.handle(Input::Tick, now_ms);
        } else if self.parts.transport.next_deadline_ms().is_some_and(|deadline| deadline <= now_ms) {
            self.parts.transport.handle_time(now_ms);
        }
    }

    /// Step 3: does what the core wants until it wants nothing.
    fn perform(&mut self, now_ms: u64) {
        while let Some(output) = self.parts.core.poll_output(now_ms) {
            match output {
                Output::Reply { client, bytes } => self.clients.push(client, bytes),
                Output::CloseClient { client } => self.clients.close(client),
                Output::AbortClient { client } => self.clients.abort(client, &mut self.inputs),
                Output::RefuseInput { client } => self.clients.refuse(client),
                Output::PauseClient { client } => self.clients.pause(client),
                Output::ResumeClient { client } => self.clients.resume(client),
                Output::BecomePeer { client, id, address, announcement } => {
                    if let Some(connection) = self.clients.take(client) {
                        let stream = connection.into_peer();
                        self.parts.transport.adopt(client.0, id, address, announcement, stream);
                    }
                }
                Output::ClosePeerStream { stream, .. } => self.parts.transport.close_inbound(stream),
                Output::Announce => self.parts.transport.dial_anew(),
                Output::Sql(job)
                    if self.parts.executor.is_parallel() && self.own_jobs.include(job.class(), now_ms) =>
                {
                    self.own_jobs.push(job);
                }
                Output::Sql(job) => self.submit(job),
                Output::Disk(job) => {
                    if matches!(job, DiskJob::SnapshotTaken(_)) {
                        self.parts.snapshots.published();
                    }
                    self.parts.disk.submit(job);
                }
                Output::Snapshot(job) => {
                    if let Err(done) = self.parts.snapshots.submit(job) {
                        self.inputs.push_back(Input::SnapshotDone(done));
                    }
                }
                Output::Transmit { to, address, message } => {
                    self.parts.transport.send(to, address, message, now_ms);
                }
                Output::AskPeer { ask, to, address, request, timeout_ms } => {
                    let deadline_ms = now_ms.saturating_add(timeout_ms);
                    self.parts.peer_clients.ask(ask, to, address, &request, deadline_ms, now_ms);
                }
                Output::HandoverDone { handover, result } => {
                    if let Some(waiting) = self.handovers.remove(&handover) {
                        // A host that does not wait any more needs no answer.
                        let _ = waiting.send(result);
                    }
                }
                Output::Stopped => self.phase = Phase::Ended,
                // The core has logged it and refuses everything by itself.
                Output::Failed(_) => {}
            }
        }
        if self.parts.core.take_jobs_cancelled() {
            self.parts.executor.expedite_cancelled();
        }
    }

    /// The steps that wrote those entries are in the disk thread's queue by now, so this one comes behind them.
    fn report_made_up(&mut self) {
        let replica = self.parts.core.replica();
        if self.parts.is_vote_withheld && replica.vote_withheld_until().is_none() {
            self.parts.disk.submit_committed(replica.commit_index(), replica.commit_term());
            self.parts.is_vote_withheld = false;
        }
    }

    /// A reader's job was run by the thread that has the loop.
    pub(crate) fn reader_ended(&mut self, brief: bool) {
        let now_ms = self.now_ms();
        self.own_jobs.reader_ended(brief, now_ms);
    }

    /// Gives a job to the executor.
    pub(crate) fn submit(&mut self, job: SqlJob) {
        self.parts.executor.submit(job);
    }

    /// Step 4: gives the sockets what they take.
    fn flush(&mut self, now_ms: u64) {
        // Peers first: their disks have longer to work than any client.
        self.parts.transport.flush(now_ms);
        self.clients.flush(&mut self.trim, &mut self.inputs, now_ms);
    }

    fn report_start(&mut self) {
        if self.phase != Phase::Starting || !self.parts.core.is_ready() {
            return;
        }
        let result = match self.parts.core.failure() {
            Some(reason) => Err(reason.to_owned()),
            None => Ok(()),
        };
        self.phase = if result.is_ok() { Phase::Running } else { Phase::Ended };
        // Whoever started the node waits for this and nothing else, so it is there.
        let _ = self.parts.started.send(result);
    }

    /// A rule of our own was broken: what the core believes is no longer true, so the node ends here.
    fn broken(&mut self, reason: &str) {
        tracing::error!(%reason, "the node ends");
        if self.phase == Phase::Starting {
            let _ = self.parts.started.send(Err(reason.to_owned()));
        }
        self.phase = Phase::Ended;
    }

    /// Closes all sockets, lets the other threads finish what is queued, and joins them. What belongs to SQLite is
    /// dropped where SQLite may be called. `alone` returns when no thread runs a job for the loop any more.
    pub(crate) fn close(self, alone: impl FnOnce()) {
        let now_ms = self.now_ms();
        let Self { parts, clients, own_jobs, inputs, .. } = self;
        let Parts {
            completions,
            mut core,
            vfs,
            listener,
            transport,
            peer_clients,
            executor,
            disk,
            snapshots,
            ..
        } = parts;
        drop(listener);
        drop(clients);
        // After a normal end nothing runs any more; after any other the running statements must be interrupted.
        core.handle(Input::Stop, now_ms);
        // From here on completions are dropped where they are sent, which is where SQLite may be called.
        vfs::turns::call(move || drop((completions, own_jobs, inputs)));
        alone();
        executor.join();
        vfs::turns::call(move || drop((core, vfs)));
        disk.join();
        snapshots.join();
        let deadline = Instant::now() + dialer::PATIENCE;
        transport.close(deadline);
        peer_clients.close(deadline);
    }
}
