//! Nodes that ask each other, hosts that hand over before a stop, and what role changes must never do.

use std::collections::BTreeMap;

use bytes::BytesMut;
use raft_glue::{NodeId, Role, Term};
use server::core::handover::{HANDOVER_MS, MAX_ELECTIONS_MS};
use server::core::{AskId, ClientId, Input};
use wire_protocol::{Configuration, FrameDecoder, Protocol, Request, Response};

use crate::oracle::Violation;
use crate::scenario::{MILLISECOND, Nemesis, SECOND};
use crate::world::{Event, World};

/// Sockets of nodes that ask have numbers that no client's has.
const FIRST_SOCKET: u64 = 1 << 40;
/// How much older than an election timeout the last message of a voter may be that is counted on: messages wait for the
/// turn of a loop, and clocks differ.
const SLACK_US: u64 = 1500 * MILLISECOND;
/// How much longer than its bound a handover may take: its node may stand still, or its clock be slow.
const HANDOVER_SLACK_US: u64 = 60 * SECOND;
/// Role changes this long after a handover may be its own, which nobody checks: a client may ask for anything.
const AFTERMATH_US: u64 = 30 * SECOND;

/// A question on its way.
#[derive(Debug)]
struct Question {
    node: usize,
    epoch: u64,
    ask: AskId,
    to: usize,
    to_epoch: u64,
    answer: BytesMut,
}

/// What is known of questions, handovers and configurations.
#[derive(Debug, Default)]
pub(crate) struct Roles {
    /// By the number of the socket that stands for it.
    questions: BTreeMap<u64, Question>,
    next_socket: u64,
    /// Node, life and beginning of the handovers that have not ended.
    handovers: BTreeMap<u64, (usize, u64, u64)>,
    next_handover: u64,
    handover_us: Option<u64>,
    /// When a message of the second was last heard by the first.
    heard: BTreeMap<(NodeId, NodeId), u64>,
    /// The configuration of the newest leader.
    newest: Option<(NodeId, Term, Configuration)>,
}

impl World {
    /// A node asks another one. The answer comes, or a failure at the latest after `timeout_ms`.
    pub(crate) fn ask_peer(
        &mut self,
        node: usize,
        ask: AskId,
        (to, address): (NodeId, &str),
        request: Request,
        timeout_ms: u64,
    ) {
        let epoch = self.machines[node].epoch;
        let socket = FIRST_SOCKET + self.roles.next_socket;
        self.roles.next_socket += 1;
        let hears = |world: &mut Self, peer: usize| {
            world.network.is_open(node, peer) && world.network.is_open(peer, node)
        };
        let peer = self.machines.iter().position(|machine| machine.address == address);
        let latency = self.network.latency(100, &mut self.random);
        self.note(node, "asks", [to.0, socket], || format!("{to}: {request:?}"));
        let Some(peer) = peer.filter(|peer| self.machines[*peer].process.is_some()) else {
            let result = Err("connection refused".to_owned());
            return self.plan(latency, Event::Answer { node, epoch, ask, result });
        };
        let question = Question {
            node,
            epoch,
            ask,
            to: peer,
            to_epoch: self.machines[peer].epoch,
            answer: BytesMut::new(),
        };
        self.roles.questions.insert(socket, question);
        self.plan(timeout_ms * MILLISECOND, Event::AnswerOverdue { socket });
        if hears(self, peer) {
            self.plan(2 * latency, Event::Question { socket, request });
        }
    }

    /// A question arrives, with the connection that carries it.
    pub(crate) fn question_arrives(&mut self, socket: u64, request: &Request) {
        let Some(question) = self.roles.questions.get(&socket) else { return };
        let (to, epoch) = (question.to, question.to_epoch);
        let mut bytes = BytesMut::new();
        request.encode(&mut bytes);
        let frame = FrameDecoder::new(1 << 20).decode(&mut bytes).ok().flatten();
        let frame = frame.expect("what was encoded can be decoded");
        let client = ClientId(socket);
        self.feed(to, epoch, Input::ClientOpened { client, protocol: Protocol::Current });
        self.feed(to, epoch, Input::ClientFrame { client, frame });
    }

    /// A node sends bytes to another one that has asked; `false` if the socket is none of those.
    pub(crate) fn answer_sent(&mut self, socket: u64, bytes: &[u8]) -> bool {
        if socket < FIRST_SOCKET {
            return false;
        }
        let latency = self.network.latency(bytes.len(), &mut self.random);
        let Some(question) = self.roles.questions.get_mut(&socket) else { return true };
        question.answer.extend_from_slice(bytes);
        let (node, epoch, to, to_epoch) = (question.node, question.epoch, question.to, question.to_epoch);
        self.feed(to, to_epoch, Input::ClientDrained { client: ClientId(socket) });
        let Some(question) = self.roles.questions.get_mut(&socket) else { return true };
        let frame = FrameDecoder::new(1 << 20).decode(&mut question.answer);
        let Some(frame) = frame.expect("nodes answer in frames") else { return true };
        let ask = question.ask;
        if self.network.is_open(to, node) {
            let result = Response::decode(&frame).map_err(|error| error.to_string());
            self.roles.questions.remove(&socket);
            self.plan(latency, Event::Answer { node, epoch, ask, result });
            self.feed(to, to_epoch, Input::ClientClosed { client: ClientId(socket) });
        }
        true
    }

    /// The time for an answer is over.
    pub(crate) fn answer_overdue(&mut self, socket: u64) {
        let Some(question) = self.roles.questions.remove(&socket) else { return };
        let Question { node, epoch, ask, to, to_epoch, .. } = question;
        self.feed(node, epoch, Input::PeerAnswered { ask, result: Err("no answer in time".to_owned()) });
        self.feed(to, to_epoch, Input::ClientClosed { client: ClientId(socket) });
    }

    /// A host wants to stop a node soon.
    pub(crate) fn hand_over(&mut self, node: usize) {
        let epoch = self.machines[node].epoch;
        if self.machines[node].process.is_none() {
            return;
        }
        let handover = self.roles.next_handover;
        self.roles.next_handover += 1;
        self.roles.handovers.insert(handover, (node, epoch, self.now_us));
        self.roles.handover_us = Some(self.now_us);
        self.feed(node, epoch, Input::Handover { handover });
    }

    pub(crate) fn handed_over(&mut self, node: usize, handover: u64, result: &Result<(), String>) {
        self.note(node, "handover done", [handover, u64::from(result.is_ok())], || format!("{result:?}"));
        self.stats.count(if result.is_ok() { "handover" } else { "handover that could not be" });
        self.roles.handovers.remove(&handover);
        self.roles.handover_us = Some(self.now_us);
    }

    /// Hosts change their minds about the targets while members are missing.
    pub(crate) fn retarget_now_and_then(&mut self) {
        if self.scenario.role_targets.is_none() || !self.random.percent(25) {
            return;
        }
        let targets = (*self.random.pick(&[1, 2, 3, 5]), *self.random.pick(&[0, 1, 2]));
        self.stats.count("targets changed");
        self.scenario.role_targets = Some(targets);
        for process in self.machines.iter().filter_map(|machine| machine.process.as_ref()) {
            process.live.set_target_voters(targets.0);
            process.live.set_target_standbys(targets.1);
        }
    }

    /// No handover goes on for ever.
    pub(crate) fn check_handovers(&self) -> Result<(), Violation> {
        let bound_us = (HANDOVER_MS + MAX_ELECTIONS_MS) * MILLISECOND + HANDOVER_SLACK_US;
        for (node, epoch, begun_us) in self.roles.handovers.values() {
            if self.lives(*node, *epoch) && self.now_us > begun_us + bound_us {
                let text = format!("that of node {} since {} s", self.machines[*node].id, begun_us / SECOND);
                return Err(Violation::new("handovers end", text));
            }
        }
        Ok(())
    }

    /// A node's loop takes a message of a peer.
    pub(crate) fn note_heard(&mut self, node: usize, input: &Input) {
        if let Input::PeerMessage { from, .. } = input {
            self.roles.heard.insert((self.machines[node].id, *from), self.now_us);
        }
    }

    /// The configuration of a leader, after a turn: role management leaves it a quorum of voters it hears.
    pub(crate) fn check_roles(&mut self, node: usize) -> Result<(), Violation> {
        let id = self.machines[node].id;
        let Some(process) = self.machines[node].process.as_ref() else { return Ok(()) };
        let replica = process.core.replica();
        if !replica.is_leader() {
            return Ok(());
        }
        let (term, configuration) = (replica.term(), replica.configuration());
        let timeout_us = replica.election_timeout_ms() * MILLISECOND;
        if matches!(&self.roles.newest, Some((leader, known, newest))
            if (*leader, *known) == (id, term) && newest == configuration)
        {
            return Ok(());
        }
        let newest = Some((id, term, configuration.clone()));
        let Some((leader, known, before)) = std::mem::replace(&mut self.roles.newest, newest) else {
            return Ok(());
        };
        // What a predecessor or a client has changed is not looked at.
        let by_client = self.scenario.role_targets.is_none()
            || self.suffers(Nemesis::Assign)
            || self.suffers(Nemesis::Replace)
            || self.roles.handover_us.is_some_and(|at_us| self.now_us < at_us + AFTERMATH_US)
            || !self.roles.handovers.is_empty();
        if (leader, known) != (id, term) || by_client {
            return Ok(());
        }
        self.stats.count("role changed by the leader");
        let Some((_, _, after)) = &self.roles.newest else { return Ok(()) };
        let hears = |voter: NodeId| {
            let heard_us = self.roles.heard.get(&(id, voter));
            voter == id || heard_us.is_some_and(|at_us| self.now_us < at_us + timeout_us + SLACK_US)
        };
        // Also who has just become a voter: it was caught up for that.
        let counted = |server: &&wire_protocol::Server| hears(server.id);
        // Who has no vote before and after it has no part in a quorum.
        if before.voters().eq(after.voters()) {
            return Ok(());
        }
        let voters = after.voters().count();
        let answering = after.voters().filter(counted).count();
        let grows_from_one = before.voters().count() == 1 && voters == 2;
        if answering > voters / 2 || grows_from_one {
            return Ok(());
        }
        let text = format!(
            "leader {id} hears {answering} of {voters} voters after it changed {before:?} to {after:?}"
        );
        Err(Violation::new("role changes keep the quorum", text))
    }

    /// Role management has reached what it can: no member that is up is missing where one is wanted.
    pub(crate) fn targets_are_met(&self) -> bool {
        let Some((voters, _)) = self.scenario.role_targets else { return true };
        let processes = self.machines.iter().filter_map(|machine| machine.process.as_ref());
        let leader = processes.map(|process| process.core.replica()).find(|replica| replica.is_leader());
        leader.is_some_and(|leader| {
            let servers = &leader.configuration().servers;
            let found = servers.iter().filter(|server| server.role == Role::Voter).count();
            found >= usize::try_from(voters).unwrap_or(0).clamp(1, servers.len())
        })
    }
}
