//! The simulated world: time, what is going to happen, and everything it happens to.
//!
//! One thread, one source of chance, one queue of events ordered by time and then by when they were planned.

use std::collections::BTreeMap;

use raft_glue::NodeId;

use crate::client::Client;
use crate::history::History;
use crate::marks::Marks;
use crate::network::{Network, Parcel};
use crate::node::Machine;
use crate::oracle::{Oracle, Violation};
use crate::random::Random;
use crate::roles::Roles;
use crate::scenario::{Nemesis, SECOND, Scenario};
use crate::sockets::Socket;
use crate::stats::Stats;
use crate::strangers::Strangers;
use crate::trace::{Detail, Kept, Trace};
use crate::workload::Author;

/// More events than this mean that something goes round in circles.
const MAX_EVENTS: u64 = 3_000_000;

/// Something that is going to happen.
#[derive(Debug)]
pub(crate) enum Event {
    /// The loop of a node turns.
    Turn { node: usize, epoch: u64 },
    /// The disk of a node has done the next thing.
    Disk { node: usize, epoch: u64 },
    /// The loop of a node hears what the disk has done.
    DiskDone { node: usize, epoch: u64, done: server::core::DiskDone },
    /// SQL runs.
    SqlRuns { node: usize, epoch: u64, job: u64 },
    /// The loop of a node hears what came of SQL.
    SqlDone { node: usize, epoch: u64, job: u64 },
    /// The snapshot thread of a node has done the next thing.
    Snapshot { node: usize, epoch: u64 },
    /// A raft message arrives.
    Parcel { from: usize, to: usize, stream: u64, parcel: Parcel },
    /// A node hears that a peer could not be reached.
    Unreachable { node: usize, epoch: u64, peer: usize, snapshot: bool },
    /// What waited for a node, or for the end of a cut, is sent.
    Resend { from: usize, to: usize },
    /// Bytes of a client arrive.
    ToServer { socket: u64, bytes: bytes::Bytes },
    /// The other end of a client's socket is gone.
    ServerHangup { socket: u64 },
    /// The socket of a client has taken everything.
    Drained { socket: u64 },
    /// Bytes of a node arrive at a client.
    ToClient { socket: u64, bytes: bytes::Bytes },
    /// The node has closed the socket.
    ClientHangup { socket: u64 },
    /// A client goes on, or gives up waiting.
    Alarm { client: usize, alarm: u64 },
    /// A node starts.
    Start { node: usize },
    /// A fault strikes.
    Strike { nemesis: usize },
    /// A cut begins.
    Cut { from: usize, to: usize },
    /// A cut ends.
    Mend { links: Vec<(usize, usize)> },
    /// A node can be reached by clients again.
    MendClients { node: usize },
    /// A disk has space again.
    Space { node: usize },
    /// A question of a node arrives at another one.
    Question { socket: u64, request: wire_protocol::Request },
    /// An answer arrives, or the news that there is none.
    Answer {
        node: usize,
        epoch: u64,
        ask: server::core::AskId,
        result: Result<wire_protocol::Response, String>,
    },
    /// An answer should have come by now.
    AnswerOverdue { socket: u64 },
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Faults happen.
    Hostile,
    /// Everything works, and must work.
    Healed,
    /// Clients are done; nodes must become equal.
    Settling,
}

/// The world.
pub struct World {
    pub(crate) scenario: Scenario,
    pub(crate) random: Random,
    pub(crate) now_us: u64,
    pub(crate) phase: Phase,
    /// By moment, microseconds, and then by the order in which they were planned.
    queue: BTreeMap<(u64, u64), Box<Event>>,
    happened: u64,
    order: u64,
    pub(crate) machines: Vec<Machine>,
    pub(crate) network: Network,
    pub(crate) sockets: BTreeMap<u64, Socket>,
    pub(crate) next_socket: u64,
    pub(crate) roles: Roles,
    pub(crate) strangers: Strangers,
    /// Id of the next node that replaces another.
    pub(crate) next_id: u64,
    pub(crate) cut_from_clients: Vec<u32>,
    pub(crate) clients: Vec<Client>,
    pub(crate) author: Author,
    pub(crate) history: History,
    pub(crate) marks: Marks,
    pub(crate) oracle: Oracle,
    pub(crate) trace: Trace,
    pub(crate) stats: Stats,
}

/// How a run ended.
#[derive(Debug)]
pub struct Report {
    /// Hash of everything that happened.
    pub hash: u64,
    /// Number of events.
    pub events: u64,
    /// What was counted.
    pub stats: Stats,
    /// What went wrong, if anything did.
    pub violation: Option<Violation>,
    /// The last events, if they were kept.
    pub last_events: Vec<String>,
}

impl Report {
    /// Of a run that ended in a panic.
    #[must_use]
    pub fn of_panic(violation: Violation, last_events: Vec<String>) -> Self {
        Self { hash: 0, events: 0, stats: Stats::default(), violation: Some(violation), last_events }
    }
}

impl World {
    /// The world of a scenario, before anything has happened.
    #[must_use]
    pub fn new(scenario: Scenario, detail: Detail) -> Self {
        let mut random = Random::new(scenario.seed);
        let machines =
            (1..=scenario.nodes as u64).map(|id| Machine::new(NodeId(id), random.number())).collect();
        let mut world = Self {
            random,
            now_us: 0,
            phase: Phase::Hostile,
            queue: BTreeMap::new(),
            happened: 0,
            order: 0,
            machines,
            network: Network::new(scenario.nodes, scenario.latency_us),
            sockets: BTreeMap::new(),
            next_socket: 1,
            roles: Roles::default(),
            strangers: Strangers::default(),
            next_id: scenario.nodes as u64 + 1,
            cut_from_clients: vec![0; scenario.nodes],
            clients: (0..scenario.clients).map(|_| Client::default()).collect(),
            author: Author::default(),
            history: History::default(),
            marks: Marks::default(),
            oracle: Oracle::default(),
            trace: Trace::new(detail),
            stats: Stats::default(),
            scenario,
        };
        world.prepare();
        world
    }

    fn prepare(&mut self) {
        self.found_cluster();
        for node in 0..self.machines.len() {
            let at_us = self.random.below(SECOND);
            self.plan(at_us, Event::Start { node });
        }
        for client in 0..self.clients.len() {
            let wait_us = self.random.below(5 * SECOND);
            self.wake_client(client, wait_us);
        }
        self.hire_administrator();
        for nemesis in 0..self.scenario.nemeses.len() {
            self.plan_strike(nemesis);
        }
    }

    /// Plans an event for a moment from now.
    pub(crate) fn plan(&mut self, after_us: u64, event: Event) {
        self.plan_at(self.now_us + after_us, event);
    }

    /// Plans an event.
    pub(crate) fn plan_at(&mut self, at_us: u64, event: Event) {
        self.order += 1;
        self.queue.insert((at_us.max(self.now_us), self.order), Box::new(event));
    }

    /// The last events as they are at any moment, also after a panic.
    #[must_use]
    pub fn last_events(&self) -> Kept {
        self.trace.kept()
    }

    /// Lets everything happen and checks what can be checked.
    #[must_use]
    pub fn run(mut self) -> Report {
        let result = self.live();
        self.stats.simulated_us = self.now_us;
        self.stats.images = self.oracle.images() as u64;
        Report {
            hash: self.trace.hash(),
            events: self.trace.events(),
            violation: result.err(),
            last_events: self.trace.kept().take(),
            stats: self.stats,
        }
    }

    fn live(&mut self) -> Result<(), Violation> {
        self.run_until(self.scenario.duration_us)?;
        self.heal();
        self.demand_progress()?;
        self.settle()?;
        self.final_checks()
    }

    /// Runs until this moment.
    pub(crate) fn run_until(&mut self, until_us: u64) -> Result<(), Violation> {
        while let Some(next) = self.queue.first_entry()
            && next.key().0 < until_us
        {
            let ((at_us, _), event) = next.remove_entry();
            self.now_us = at_us;
            self.happened += 1;
            if self.happened > MAX_EVENTS {
                let text = format!("{MAX_EVENTS} events in {} s", self.now_us / SECOND);
                return Err(Violation::new("nothing goes round in circles", text));
            }
            self.happen(*event)?;
        }
        self.now_us = until_us;
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Turn { node, epoch } => self.turn(node, epoch)?,
            Event::Disk { node, epoch } => self.disk_works(node, epoch)?,
            Event::DiskDone { node, epoch, done } => self.disk_done(node, epoch, done),
            Event::SqlRuns { node, epoch, job } => self.sql_runs(node, epoch, job),
            Event::SqlDone { node, epoch, job } => self.sql_done(node, epoch, job),
            Event::Snapshot { node, epoch } => self.snapshot_works(node, epoch),
            Event::Parcel { from, to, stream, parcel } => self.parcel_arrives(from, to, stream, parcel),
            Event::Unreachable { node, epoch, peer, snapshot } => {
                self.unreachable(node, epoch, peer, snapshot);
            }
            Event::Resend { from, to } => self.resend(from, to),
            Event::ToServer { socket, bytes } => self.bytes_arrive_at_server(socket, &bytes),
            Event::ServerHangup { socket } => self.server_hangup(socket),
            Event::Drained { socket } => self.drained(socket),
            Event::ToClient { socket, bytes } => self.bytes_arrive_at_client(socket, &bytes)?,
            Event::ClientHangup { socket } => self.client_hangup(socket),
            Event::Alarm { client, alarm } => self.alarm(client, alarm),
            Event::Start { node } => self.start(node)?,
            Event::Strike { nemesis } => self.strike(nemesis),
            Event::Cut { from, to } => self.network.cut(from, to, self.now_us),
            Event::Mend { links } => self.mend(&links),
            Event::MendClients { node } => self.cut_from_clients[node] -= 1,
            Event::Space { node } => self.space_returns(node),
            Event::Question { socket, request } => self.question_arrives(socket, &request),
            Event::Answer { node, epoch, ask, result } => {
                self.feed(node, epoch, server::core::Input::PeerAnswered { ask, result });
            }
            Event::AnswerOverdue { socket } => self.answer_overdue(socket),
        }
        Ok(())
    }

    /// Notes an event of a node.
    pub(crate) fn note(
        &mut self,
        node: usize,
        what: &'static str,
        numbers: [u64; 2],
        text: impl FnOnce() -> String,
    ) {
        let id = self.machines[node].id.0;
        self.trace.event(self.now_us, id, what, numbers, text);
    }

    /// Notes an event of the world.
    pub(crate) fn note_world(
        &mut self,
        what: &'static str,
        numbers: [u64; 2],
        text: impl FnOnce() -> String,
    ) {
        self.trace.event(self.now_us, 0, what, numbers, text);
    }

    /// Whether the node exists in this life.
    pub(crate) fn lives(&self, node: usize, epoch: u64) -> bool {
        let machine = &self.machines[node];
        machine.epoch == epoch && machine.process.is_some()
    }

    /// Whether a fault of the world is still to come.
    pub(crate) fn is_hostile(&self) -> bool {
        self.phase == Phase::Hostile
    }

    /// Whether this fault is part of the scenario.
    pub(crate) fn suffers(&self, nemesis: Nemesis) -> bool {
        self.scenario.has(nemesis)
    }
}
