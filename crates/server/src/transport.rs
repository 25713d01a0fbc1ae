//! Raft streams: one outgoing connection for each peer, made when there is something to send, and the incoming ones.
//!
//! A stream carries messages in one direction. Nobody answers on it, so all that is read on an outgoing one is its end.
//! What is lost with a connection, or dropped because there is no connection or too much waits already, is reported as
//! [`Input::PeerUnreachable`]; consensus sends it again.
//!
//! Invariants: at most one connection and one dialling attempt for each peer; what waits for a peer is bounded; a
//! message is either sent whole or the connection is given up; the core hears of an inbound stream before anything that
//! came on it, and of its end behind it all.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use mio::Registry;
use raft_glue::{NodeId, PeerAnnouncement, StreamId};
use wire_protocol::rpc::{self, Message, RpcDecoder, RpcLimits};
use wire_protocol::try_reserve;

use crate::connection::PeerStream;
use crate::connector::opening;
use crate::core::Input;
use crate::dialer::{Attempt, Dialer, Dialled};
use crate::registration::{Readiness, Tokens, deregister};
use crate::socket::{Flush, Inlet, PEER_USER_TIMEOUT_MS, SendQueue, Socket};

/// Wait after the first failed attempt, milliseconds; doubles with each further one.
const FIRST_RETRY_MS: u64 = 100;
/// Wait after an established connection broke, milliseconds. C notices a closed connection only when it writes, so hosts
/// are not used to being asked at once: go-dqlite's `app.WithExternalConn` panics when it is dialled during its stop.
const LOST_RETRY_MS: u64 = 300;
/// Longest wait between attempts, milliseconds. C dqlite always waits this long.
const MAX_RETRY_MS: u64 = 1000;
/// Messages that survive a failed attempt: the newest ones, like C.
const KEPT_MESSAGES: usize = 3;
/// Messages that wait for a connection.
const MAX_WAITING_MESSAGES: usize = 256;
/// Bytes that wait for a peer. One message may be larger.
const MAX_WAITING_LEN: usize = 64 * 1024 * 1024;
/// A connection that was not used for this long is closed, milliseconds: the peer may have left the cluster.
const IDLE_MS: u64 = 120_000;
/// What an inbound stream may bring in one turn of the loop before others get their share.
const READ_BUDGET: usize = 4 * 1024 * 1024;
/// Buffer that an idle inbound stream keeps.
const IDLE_BUFFER_LEN: usize = 64 * 1024;

/// All raft streams of a node.
#[derive(Debug)]
pub(crate) struct Transport {
    id: NodeId,
    /// Our address as the cluster knows it.
    address: String,
    dialer: Dialer,
    registry: Registry,
    peers: BTreeMap<NodeId, Peer>,
    /// Outgoing connections by their token.
    outbound: BTreeMap<u64, NodeId>,
    inbound: BTreeMap<u64, Inbound>,
    to_flush: BTreeSet<NodeId>,
    to_read: BTreeSet<u64>,
    /// What the core has yet to hear.
    reports: VecDeque<Input>,
}

/// What stands between us and a peer.
#[derive(Debug)]
struct Peer {
    address: String,
    link: Link,
    waiting: VecDeque<Message>,
    waiting_len: usize,
    /// Failed attempts since the last connection.
    failures: u32,
    used_at_ms: u64,
}

#[derive(Debug)]
enum Link {
    /// Nothing under way.
    Down,
    /// A connect function runs.
    Dialling(Attempt),
    /// The next attempt has to wait.
    Retry { at_ms: u64 },
    /// Connected.
    Up(Outbound),
}

#[derive(Debug)]
struct Outbound {
    token: u64,
    socket: Socket,
    queue: SendQueue,
    writable: bool,
    /// A snapshot was sent; if the connection breaks nobody knows whether it arrived.
    carried_snapshot: bool,
}

/// A stream that a peer opened.
#[derive(Debug)]
struct Inbound {
    socket: Socket,
    stream: StreamId,
    id: NodeId,
    address: String,
    decoder: RpcDecoder,
    input: BytesMut,
    inlet: Inlet,
}

impl Transport {
    pub(crate) fn new(id: NodeId, address: String, dialer: Dialer, registry: Registry) -> Self {
        Self {
            id,
            address,
            dialer,
            registry,
            peers: BTreeMap::new(),
            outbound: BTreeMap::new(),
            inbound: BTreeMap::new(),
            to_flush: BTreeSet::new(),
            to_read: BTreeSet::new(),
            reports: VecDeque::new(),
        }
    }

    /// Queues a message; [`Self::flush`] sends it.
    pub(crate) fn send(&mut self, to: NodeId, address: String, message: Message, now_ms: u64) {
        if message.header_len() > rpc::MAX_HEADER_LEN || message.payload_len() > rpc::MAX_PAYLOAD_LEN {
            tracing::error!(
                %to, payload_len = message.payload_len(),
                "a raft message is larger than any peer accepts, and was not sent"
            );
            self.report(to, is_snapshot(&message));
            return;
        }
        if self.peers.get(&to).is_some_and(|peer| peer.address != address) {
            // The result of an attempt under way is thrown away when it comes.
            self.disconnect(to);
            self.peers.remove(&to);
        }
        let peer = self.peers.entry(to).or_insert_with(|| Peer::new(address));
        peer.used_at_ms = now_ms;
        match &mut peer.link {
            Link::Up(outbound) => {
                let len = outbound.queue.len();
                if len > 0 && len + message.encoded_len() > MAX_WAITING_LEN {
                    self.report(to, is_snapshot(&message));
                } else {
                    outbound.push(&message);
                    self.to_flush.insert(to);
                }
            }
            link => {
                let down = matches!(link, Link::Down);
                peer.push(message);
                let dropped = peer.trim(MAX_WAITING_MESSAGES, MAX_WAITING_LEN);
                self.report_dropped(to, dropped);
                if down {
                    self.dial(to, now_ms);
                }
            }
        }
    }

    /// Takes the socket of a client that turned out to be a peer, and what it sent behind its announcement.
    pub(crate) fn adopt(
        &mut self,
        token: u64,
        id: NodeId,
        address: String,
        announcement: Option<PeerAnnouncement>,
        stream: PeerStream,
    ) {
        let PeerStream { socket, input, mut inlet } = stream;
        inlet.look_again();
        socket.tune(PEER_USER_TIMEOUT_MS);
        let decoder = RpcDecoder::new(RpcLimits::default());
        let stream = StreamId(token);
        self.inbound.insert(token, Inbound { socket, stream, id, address, decoder, input, inlet });
        self.reports.push_back(Input::PeerStreamOpened { stream, from: id, announcement });
        self.to_read.insert(token);
        // Who can reach us can probably be reached.
        if let Some(Peer { link: Link::Retry { at_ms }, .. }) = self.peers.get_mut(&id) {
            *at_ms = 0;
        }
    }

    /// Notes what the poll said, if the token is one of ours.
    pub(crate) fn ready(&mut self, token: u64, ready: Readiness, now_ms: u64) {
        if let Some(inbound) = self.inbound.get_mut(&token) {
            inbound.inlet.ready(ready);
            self.to_read.insert(token);
        } else if let Some(&id) = self.outbound.get(&token) {
            let Some(Peer { link: Link::Up(outbound), .. }) = self.peers.get_mut(&id) else { return };
            outbound.writable |= ready.writable;
            if ready.readable && outbound.has_ended() {
                self.lost(id, now_ms);
            } else {
                self.to_flush.insert(id);
            }
        }
    }

    /// A connect function returned. What a new stream begins with says this of our node.
    pub(crate) fn dialled(
        &mut self,
        dialled: Dialled,
        announcement: PeerAnnouncement,
        tokens: &mut Tokens,
        now_ms: u64,
    ) {
        let Dialled { peer: id, attempt, .. } = dialled;
        self.dialer.finished(attempt);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if !matches!(peer.link, Link::Dialling(current) if current == attempt) {
            return;
        }
        match dialled.into_socket(&self.registry, tokens) {
            Ok((socket, token)) => {
                let opening = opening(self.id, &self.address, Some(announcement));
                peer.connected(socket, token, opening);
                self.outbound.insert(token, id);
                self.to_flush.insert(id);
            }
            Err(error) => {
                tracing::debug!(peer = %id, address = %peer.address, %error, "no connection to peer");
                self.attempt_failed(id, now_ms);
            }
        }
    }

    /// What we announce has changed, and it is announced when a stream begins: all are given up, and the next message to
    /// each peer dials again. An attempt under way will announce what is true then.
    pub(crate) fn dial_anew(&mut self) {
        let up = |(id, peer): (&NodeId, &Peer)| matches!(peer.link, Link::Up(_)).then_some(*id);
        let connected: Vec<NodeId> = self.peers.iter().filter_map(up).collect();
        for id in connected {
            let snapshot = self.disconnect(id);
            self.report(id, snapshot);
        }
    }

    /// Reads inbound streams and gives their messages to `sink`.
    pub(crate) fn read(&mut self, scratch: &mut [u8], mut sink: impl FnMut(Input)) {
        for token in std::mem::take(&mut self.to_read) {
            let Some(inbound) = self.inbound.get_mut(&token) else { continue };
            match inbound.read(scratch, &mut sink) {
                Ok(true) => {}
                Ok(false) => {
                    self.to_read.insert(token);
                }
                Err(reason) => {
                    tracing::debug!(peer = %inbound.id, %reason, "raft stream ended");
                    sink(Input::PeerStreamEnded { stream: inbound.stream, from: inbound.id });
                    self.inbound.remove(&token);
                }
            }
        }
    }

    /// Closes a stream that a peer has opened, if it has not ended yet.
    pub(crate) fn close_inbound(&mut self, stream: StreamId) {
        let StreamId(token) = stream;
        if let Some(inbound) = self.inbound.remove(&token) {
            self.to_read.remove(&token);
            // Closing is not enough: the host may hold another descriptor of the same socket.
            deregister(&self.registry, inbound.socket.raw());
            inbound.socket.shut_down();
            self.reports.push_back(Input::PeerStreamEnded { stream, from: inbound.id });
        }
    }

    /// Sends what the sockets take.
    pub(crate) fn flush(&mut self, now_ms: u64) {
        for id in std::mem::take(&mut self.to_flush) {
            let Some(Peer { link: Link::Up(outbound), .. }) = self.peers.get_mut(&id) else { continue };
            if !outbound.writable {
                continue;
            }
            match outbound.queue.flush(&outbound.socket) {
                Ok((_, Flush::Drained)) => {}
                Ok((_, Flush::Blocked)) => outbound.writable = false,
                Ok((_, Flush::Unfinished)) => {
                    self.to_flush.insert(id);
                }
                Err(error) => {
                    tracing::debug!(peer = %id, %error, "connection to peer broke");
                    self.lost(id, now_ms);
                }
            }
        }
    }

    /// Makes due attempts and closes what nobody uses.
    pub(crate) fn handle_time(&mut self, now_ms: u64) {
        let due: Vec<NodeId> = self
            .peers
            .iter()
            .filter(|(_, peer)| matches!(peer.link, Link::Retry { at_ms } if at_ms <= now_ms))
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            self.dial(id, now_ms);
        }
        let idle: Vec<NodeId> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.is_idle() && now_ms.saturating_sub(peer.used_at_ms) > IDLE_MS)
            .map(|(id, _)| *id)
            .collect();
        for id in idle {
            self.disconnect(id);
            self.peers.remove(&id);
        }
    }

    /// When [`Self::handle_time`] is wanted besides the regular ticks.
    pub(crate) fn next_deadline_ms(&self) -> Option<u64> {
        let retry = |peer: &Peer| match peer.link {
            Link::Retry { at_ms } => Some(at_ms),
            _ => None,
        };
        self.peers.values().filter_map(retry).min()
    }

    /// Whether [`Self::read`] has something to do.
    pub(crate) fn wants_read(&self) -> bool {
        !self.to_read.is_empty()
    }

    /// Whether [`Self::flush`] has something to do, or the core something to hear.
    pub(crate) fn wants_turn(&self) -> bool {
        !self.to_flush.is_empty() || !self.reports.is_empty()
    }

    /// What the core must hear of lost messages and new streams.
    pub(crate) fn take_reports(&mut self) -> VecDeque<Input> {
        std::mem::take(&mut self.reports)
    }

    /// Closes everything; see [`Dialer::close`].
    pub(crate) fn close(mut self, deadline: Instant) {
        self.peers.clear();
        self.inbound.clear();
        self.dialer.close(deadline);
    }

    fn dial(&mut self, id: NodeId, now_ms: u64) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        match self.dialer.dial(id, peer.address.clone()) {
            Ok(attempt) => peer.link = Link::Dialling(attempt),
            Err(error) => {
                tracing::warn!(%error, "no thread to connect to a peer");
                self.attempt_failed(id, now_ms);
            }
        }
    }

    fn attempt_failed(&mut self, id: NodeId, now_ms: u64) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let snapshot = peer.trim(KEPT_MESSAGES, MAX_WAITING_LEN).unwrap_or(false);
        let wait_ms = (FIRST_RETRY_MS << peer.failures.min(8)).min(MAX_RETRY_MS);
        peer.failures = peer.failures.saturating_add(1);
        peer.link = Link::Retry { at_ms: now_ms + wait_ms };
        self.report(id, snapshot);
    }

    /// An established connection broke: whatever was on its way is lost. The peer is probably going down, and a connect
    /// function of the host that still reaches it then may do harm there, so the next attempt waits a moment.
    fn lost(&mut self, id: NodeId, now_ms: u64) {
        let snapshot = self.disconnect(id);
        self.report(id, snapshot);
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.link = Link::Retry { at_ms: now_ms + LOST_RETRY_MS };
        }
    }

    /// Drops the connection, if there is one; returns whether it may have lost a snapshot.
    fn disconnect(&mut self, id: NodeId) -> bool {
        let Some(peer) = self.peers.get_mut(&id) else { return false };
        let mut snapshot = peer.waiting.iter().any(is_snapshot);
        peer.waiting.clear();
        peer.waiting_len = 0;
        if let Link::Up(outbound) = std::mem::replace(&mut peer.link, Link::Down) {
            self.outbound.remove(&outbound.token);
            // Closing is not enough: the host may hold another descriptor of the same socket.
            deregister(&self.registry, outbound.socket.raw());
            snapshot |= outbound.carried_snapshot;
        }
        snapshot
    }

    fn report(&mut self, to: NodeId, snapshot: bool) {
        self.reports.push_back(Input::PeerUnreachable { to, snapshot });
    }

    fn report_dropped(&mut self, to: NodeId, dropped: Option<bool>) {
        if let Some(snapshot) = dropped {
            self.report(to, snapshot);
        }
    }
}

fn is_snapshot(message: &Message) -> bool {
    matches!(message, Message::InstallSnapshot(_))
}

impl Peer {
    fn new(address: String) -> Self {
        Self {
            address,
            link: Link::Down,
            waiting: VecDeque::new(),
            waiting_len: 0,
            failures: 0,
            used_at_ms: 0,
        }
    }

    fn push(&mut self, message: Message) {
        self.waiting_len += message.encoded_len();
        self.waiting.push_back(message);
    }

    /// Drops the oldest messages beyond the bounds, but never the only one. Says whether anything was dropped, and if
    /// so whether a snapshot was.
    fn trim(&mut self, max_count: usize, max_len: usize) -> Option<bool> {
        let mut dropped = None;
        while self.waiting.len() > max_count || (self.waiting.len() > 1 && self.waiting_len > max_len) {
            let message = self.waiting.pop_front()?;
            self.waiting_len -= message.encoded_len();
            dropped = Some(dropped.unwrap_or(false) | is_snapshot(&message));
        }
        dropped
    }

    fn connected(&mut self, socket: Socket, token: u64, opening: Bytes) {
        let mut outbound =
            Outbound { token, socket, queue: SendQueue::default(), writable: true, carried_snapshot: false };
        outbound.queue.push(opening);
        for message in std::mem::take(&mut self.waiting) {
            outbound.push(&message);
        }
        self.waiting_len = 0;
        self.failures = 0;
        self.link = Link::Up(outbound);
    }

    fn is_idle(&self) -> bool {
        match &self.link {
            Link::Up(outbound) => outbound.queue.is_empty(),
            Link::Down | Link::Retry { .. } => true,
            Link::Dialling(_) => false,
        }
    }
}

impl Outbound {
    fn push(&mut self, message: &Message) {
        self.carried_snapshot |= is_snapshot(message);
        for piece in message.encode_vectored() {
            self.queue.push(piece);
        }
    }

    /// Whether the peer closed the stream. What it may have sent is thrown away.
    fn has_ended(&self) -> bool {
        let mut buffer = [0; 512];
        // A peer that keeps sending where nobody listens is no peer.
        for _ in 0..64 {
            match self.socket.recv(&mut buffer) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
            }
        }
        true
    }
}

impl Inbound {
    /// Reads within the budget of a turn; `false` if there is more. An error ends the stream.
    fn read(&mut self, scratch: &mut [u8], sink: &mut impl FnMut(Input)) -> Result<bool, String> {
        let mut budget = READ_BUDGET;
        loop {
            while let Some(message) =
                self.decoder.decode(&mut self.input).map_err(|error| error.to_string())?
            {
                let address = self.address.clone();
                sink(Input::PeerMessage { stream: self.stream, from: self.id, address, message });
            }
            if !self.inlet.is_readable() {
                if self.input.is_empty() && self.input.capacity() > IDLE_BUFFER_LEN {
                    self.input = BytesMut::new();
                }
                return Ok(true);
            }
            if budget == 0 {
                return Ok(false);
            }
            match self.inlet.recv(&self.socket, scratch) {
                Ok(None) => {}
                Ok(Some(0)) => return Err("closed by the peer".to_owned()),
                Ok(Some(len)) => {
                    let missing = self.decoder.missing_len(&self.input);
                    try_reserve(&mut self.input, len, missing).map_err(|error| error.to_string())?;
                    self.input.extend_from_slice(&scratch[..len]);
                    budget = budget.saturating_sub(len);
                }
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}

#[cfg(test)]
#[path = "transport_tests.rs"]
mod tests;
