//! This node as a client of others: questions of the core, over one connection for each node, made when there is
//! something to ask and kept as long as it is used.
//!
//! Invariants: every question is answered once, at the latest when its time is up; answers come in the order of the
//! questions, so a connection on which one is overdue is given up, and with it what was asked behind it; nothing is
//! asked twice.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use mio::Registry;
use raft_glue::NodeId;
use wire_protocol::{FrameDecoder, Protocol, Request, Response};

use crate::core::{AskId, Input};
use crate::dialer::{Attempt, Dialer, Dialled};
use crate::registration::{Tokens, deregister};
use crate::socket::{Flush, SendQueue, Socket};

/// Longest answer taken, bytes: the members of a large cluster.
const MAX_ANSWER_LEN: usize = 4 * 1024 * 1024;
/// A connection over which nothing was asked for this long is closed, milliseconds.
const IDLE_MS: u64 = 30_000;
/// What one connection may bring in one turn of the loop before others get their share.
const READ_BUDGET: usize = 256 * 1024;

/// All such connections of a node.
#[derive(Debug)]
pub(crate) struct PeerClients {
    dialer: Dialer,
    registry: Registry,
    peers: BTreeMap<NodeId, Peer>,
    /// Connections by their token.
    connections: BTreeMap<u64, NodeId>,
    /// What the core has yet to hear.
    answers: VecDeque<Input>,
}

#[derive(Debug)]
struct Peer {
    address: String,
    link: Link,
    /// Questions without an answer, oldest first.
    questions: VecDeque<Question>,
    used_at_ms: u64,
}

#[derive(Debug)]
enum Link {
    Down,
    Dialling(Attempt),
    Up(Connection),
}

#[derive(Debug)]
struct Connection {
    token: u64,
    socket: Socket,
    output: SendQueue,
    input: BytesMut,
}

#[derive(Debug)]
struct Question {
    ask: AskId,
    bytes: Bytes,
    deadline_ms: u64,
}

impl PeerClients {
    pub(crate) fn new(dialer: Dialer, registry: Registry) -> Self {
        Self {
            dialer,
            registry,
            peers: BTreeMap::new(),
            connections: BTreeMap::new(),
            answers: VecDeque::new(),
        }
    }

    /// Asks; the answer is among [`Self::take_answers`] sooner or later.
    pub(crate) fn ask(
        &mut self,
        ask: AskId,
        to: NodeId,
        address: String,
        request: &Request,
        deadline_ms: u64,
        now_ms: u64,
    ) {
        if self.peers.get(&to).is_some_and(|peer| peer.address != address) {
            self.give_up(to, "its address has changed");
        }
        let peer = self.peers.entry(to).or_insert_with(|| Peer {
            address,
            link: Link::Down,
            questions: VecDeque::new(),
            used_at_ms: now_ms,
        });
        peer.used_at_ms = now_ms;
        let mut message = BytesMut::new();
        request.encode(&mut message);
        let bytes = message.freeze();
        peer.questions.push_back(Question { ask, bytes: bytes.clone(), deadline_ms });
        match &mut peer.link {
            Link::Up(connection) => connection.output.push(bytes),
            Link::Dialling(_) => return,
            Link::Down => match self.dialer.dial(to, peer.address.clone()) {
                Ok(attempt) => {
                    peer.link = Link::Dialling(attempt);
                    return;
                }
                Err(error) => return self.give_up(to, &format!("no thread to connect: {error}")),
            },
        }
        self.flush(to);
    }

    /// A connect function returned.
    pub(crate) fn dialled(&mut self, dialled: Dialled, tokens: &mut Tokens) {
        let Dialled { peer: id, attempt, .. } = dialled;
        self.dialer.finished(attempt);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if !matches!(peer.link, Link::Dialling(current) if current == attempt) {
            return;
        }
        match dialled.into_socket(&self.registry, tokens) {
            Ok((socket, token)) => {
                let mut connection =
                    Connection { token, socket, output: SendQueue::default(), input: BytesMut::new() };
                let mut handshake = BytesMut::new();
                Protocol::Current.encode(&mut handshake);
                connection.output.push(handshake.freeze());
                for question in &peer.questions {
                    connection.output.push(question.bytes.clone());
                }
                peer.link = Link::Up(connection);
                self.connections.insert(token, id);
                self.flush(id);
            }
            Err(error) => self.give_up(id, &format!("no connection: {error}")),
        }
    }

    /// Notes what the poll said, if the token is one of ours.
    pub(crate) fn ready(&mut self, token: u64, scratch: &mut [u8]) {
        let Some(&id) = self.connections.get(&token) else { return };
        self.flush(id);
        let mut budget = READ_BUDGET;
        loop {
            let Some(Peer { link: Link::Up(connection), questions, .. }) = self.peers.get_mut(&id) else {
                return;
            };
            let result = connection.socket.recv(scratch);
            match result {
                Ok(0) => return self.give_up(id, "it closed the connection"),
                Ok(len) if len > budget => return self.give_up(id, "its answers are too long"),
                Ok(len) => {
                    budget -= len;
                    connection.input.extend_from_slice(&scratch[..len]);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(error) => return self.give_up(id, &format!("the connection broke: {error}")),
            }
            loop {
                let decoder = FrameDecoder::new(MAX_ANSWER_LEN);
                let decoded = decoder.decode(&mut connection.input);
                let response = match decoded {
                    Ok(None) => break,
                    Ok(Some(frame)) => Response::decode(&frame),
                    Err(error) => Err(error),
                };
                match (response, questions.pop_front()) {
                    (Ok(response), Some(question)) => {
                        let answer = Input::PeerAnswered { ask: question.ask, result: Ok(response) };
                        self.answers.push_back(answer);
                    }
                    (Ok(_), None) => return self.give_up(id, "it answers without having been asked"),
                    (Err(error), question) => {
                        questions.extend(question);
                        return self.give_up(id, &format!("its answer is none: {error}"));
                    }
                }
            }
        }
    }

    fn flush(&mut self, id: NodeId) {
        let Some(Peer { link: Link::Up(connection), .. }) = self.peers.get_mut(&id) else { return };
        loop {
            match connection.output.flush(&connection.socket) {
                Ok((_, Flush::Drained | Flush::Blocked)) => return,
                Ok((_, Flush::Unfinished)) => {}
                Err(error) => return self.give_up(id, &format!("the connection broke: {error}")),
            }
        }
    }

    /// Gives up what is overdue, and closes what nobody uses.
    pub(crate) fn handle_time(&mut self, now_ms: u64) {
        let overdue = |peer: &Peer| peer.questions.iter().any(|question| question.deadline_ms <= now_ms);
        let late: Vec<NodeId> =
            self.peers.iter().filter(|(_, peer)| overdue(peer)).map(|(id, _)| *id).collect();
        for id in late {
            self.give_up(id, "no answer in time");
        }
        let idle =
            |peer: &Peer| peer.questions.is_empty() && now_ms.saturating_sub(peer.used_at_ms) > IDLE_MS;
        let unused: Vec<NodeId> =
            self.peers.iter().filter(|(_, peer)| idle(peer)).map(|(id, _)| *id).collect();
        for id in unused {
            self.give_up(id, "");
        }
    }

    /// When [`Self::handle_time`] is wanted besides the regular ticks.
    pub(crate) fn next_deadline_ms(&self) -> Option<u64> {
        let questions = self.peers.values().flat_map(|peer| &peer.questions);
        questions.map(|question| question.deadline_ms).min()
    }

    /// What the core must hear.
    pub(crate) fn take_answers(&mut self) -> VecDeque<Input> {
        std::mem::take(&mut self.answers)
    }

    /// Whether the core has something to hear.
    pub(crate) fn wants_turn(&self) -> bool {
        !self.answers.is_empty()
    }

    /// Closes everything; see [`Dialer::close`].
    pub(crate) fn close(mut self, deadline: Instant) {
        self.peers.clear();
        self.dialer.close(deadline);
    }

    /// Closes the connection and fails what waits for an answer; the result of an attempt under way is thrown away when
    /// it comes.
    fn give_up(&mut self, id: NodeId, reason: &str) {
        let Some(peer) = self.peers.remove(&id) else { return };
        if let Link::Up(connection) = peer.link {
            self.connections.remove(&connection.token);
            // Closing is not enough: the host may hold another descriptor of the same socket.
            deregister(&self.registry, connection.socket.raw());
        }
        for question in peer.questions {
            let result = Err(format!("{}: {reason}", peer.address));
            self.answers.push_back(Input::PeerAnswered { ask: question.ask, result });
        }
    }
}

#[cfg(test)]
#[path = "peer_client_tests.rs"]
mod tests;
