//! Client sockets: bytes both ways in order, and all the ways in which they end.

use bytes::{Bytes, BytesMut};
use server::core::limits::MAX_REQUEST_LEN;
use server::core::{ClientId, Input};
use wire_protocol::{ClientDecoder, FrameDecoder, Incoming, Protocol, Request, Response};

use crate::oracle::Violation;
use crate::scenario::{MILLISECOND, SECOND};
use crate::world::{Event, World};

/// When a node notices that a client is gone without a word, as in the real event loop.
const USER_TIMEOUT_US: u64 = 11 * SECOND;

/// A socket between a client and a node.
#[derive(Debug)]
pub(crate) struct Socket {
    /// Which client.
    pub(crate) client: usize,
    /// Which node.
    pub(crate) node: usize,
    /// In which life of the node.
    pub(crate) epoch: u64,
    /// The client has closed it.
    pub(crate) left: bool,
    /// The node has closed it, or never will.
    closed: bool,
    /// Nothing gets through any more.
    dead: bool,
    decoder: ClientDecoder,
    server_input: BytesMut,
    paused: bool,
    opened: bool,
    client_input: BytesMut,
    to_server_us: u64,
    to_client_us: u64,
}

impl World {
    /// A client connects to a node and says which protocol follows. The number of the socket, or nothing if the node
    /// does not listen.
    pub(crate) fn connect(&mut self, client: usize, node: usize) -> Option<u64> {
        let machine = &self.machines[node];
        if machine.process.is_none() || self.cut_from_clients[node] > 0 {
            return None;
        }
        let number = self.next_socket;
        self.next_socket += 1;
        self.sockets.insert(
            number,
            Socket {
                client,
                node,
                epoch: machine.epoch,
                left: false,
                closed: false,
                dead: false,
                decoder: ClientDecoder::new(MAX_REQUEST_LEN),
                server_input: BytesMut::new(),
                paused: false,
                opened: false,
                client_input: BytesMut::new(),
                to_server_us: 0,
                to_client_us: 0,
            },
        );
        let mut handshake = BytesMut::new();
        Protocol::Current.encode(&mut handshake);
        self.send_to_server(number, handshake.freeze());
        Some(number)
    }

    /// A client sends a request.
    pub(crate) fn send_request(&mut self, number: u64, request: &Request) {
        let mut bytes = BytesMut::new();
        request.encode(&mut bytes);
        self.send_to_server(number, bytes.freeze());
    }

    fn send_to_server(&mut self, number: u64, bytes: Bytes) {
        let latency = self.network.latency(bytes.len(), &mut self.random);
        let now_us = self.now_us;
        let Some(socket) = self.sockets.get_mut(&number) else { return };
        if self.cut_from_clients[socket.node] > 0 {
            socket.dead = true;
        }
        if socket.dead {
            return;
        }
        socket.to_server_us = socket.to_server_us.max(now_us + latency);
        let at_us = socket.to_server_us;
        self.plan_at(at_us, Event::ToServer { socket: number, bytes });
    }

    pub(crate) fn bytes_arrive_at_server(&mut self, number: u64, bytes: &Bytes) {
        if let Some(socket) = self.sockets.get_mut(&number) {
            socket.server_input.extend_from_slice(bytes);
            self.decode_at_server(number);
        }
    }

    /// What the real connection does with what it has read.
    fn decode_at_server(&mut self, number: u64) {
        let Some(socket) = self.sockets.get_mut(&number) else { return };
        let (node, epoch) = (socket.node, socket.epoch);
        let client = ClientId(number);
        let mut inputs = Vec::new();
        while !socket.paused && !socket.closed {
            match socket.decoder.decode(&mut socket.server_input) {
                Ok(None) => break,
                Ok(Some(Incoming::Handshake(protocol))) => {
                    socket.opened = true;
                    inputs.push(Input::ClientOpened { client, protocol });
                }
                Ok(Some(Incoming::Frame(frame))) => inputs.push(Input::ClientFrame { client, frame }),
                Err(_) => {
                    socket.closed = true;
                    inputs.push(Input::ClientEof { client });
                }
            }
        }
        for input in inputs {
            self.feed(node, epoch, input);
        }
    }

    pub(crate) fn pause_socket(&mut self, number: u64) {
        if let Some(socket) = self.sockets.get_mut(&number) {
            socket.paused = true;
        }
    }

    pub(crate) fn resume_socket(&mut self, number: u64) {
        if let Some(socket) = self.sockets.get_mut(&number) {
            socket.paused = false;
        }
        self.decode_at_server(number);
    }

    /// A node sends bytes to a client.
    pub(crate) fn reply(&mut self, number: u64, bytes: Bytes) {
        if self.answer_sent(number, &bytes) {
            return;
        }
        let latency = self.network.latency(bytes.len(), &mut self.random);
        let now_us = self.now_us;
        let Some(socket) = self.sockets.get_mut(&number) else { return };
        let cut = self.cut_from_clients[socket.node] > 0;
        socket.dead |= cut;
        if socket.dead {
            // Small answers disappear in the buffers of the kernel; the core cannot tell.
            return self.plan(20, Event::Drained { socket: number });
        }
        socket.to_client_us = socket.to_client_us.max(now_us + latency);
        let at_us = socket.to_client_us;
        self.plan_at(at_us, Event::ToClient { socket: number, bytes });
        let slow_reader = self.random.percent(2);
        let wait_us = if slow_reader { self.random.around(100 * MILLISECOND) } else { 20 };
        self.plan(wait_us, Event::Drained { socket: number });
    }

    pub(crate) fn drained(&mut self, number: u64) {
        let Some(socket) = self.sockets.get(&number) else { return };
        if !socket.closed {
            let (node, epoch) = (socket.node, socket.epoch);
            self.feed(node, epoch, Input::ClientDrained { client: ClientId(number) });
        }
    }

    /// The node closes a socket behind everything it has sent.
    pub(crate) fn close_by_server(&mut self, number: u64) {
        let now_us = self.now_us;
        let Some(socket) = self.sockets.get_mut(&number) else { return };
        socket.closed = true;
        let (node, epoch, dead) = (socket.node, socket.epoch, socket.dead);
        let at_us = socket.to_client_us.max(now_us) + 100;
        self.feed(node, epoch, Input::ClientClosed { client: ClientId(number) });
        if !dead {
            self.plan_at(at_us, Event::ClientHangup { socket: number });
        }
    }

    /// A client closes its socket. The node hears of it after what was sent before, or much later.
    pub(crate) fn close_by_client(&mut self, number: u64) {
        let half = self.random.percent(20);
        let latency = self.network.latency(0, &mut self.random);
        let now_us = self.now_us;
        let Some(socket) = self.sockets.get_mut(&number) else { return };
        socket.left = true;
        let (node, epoch) = (socket.node, socket.epoch);
        let at_us =
            if socket.dead { now_us + USER_TIMEOUT_US } else { socket.to_server_us.max(now_us + latency) };
        if half && !socket.dead && !socket.closed && socket.opened {
            // The end of its sending half arrives first.
            self.feed(node, epoch, Input::ClientEof { client: ClientId(number) });
        }
        self.plan_at(at_us, Event::ServerHangup { socket: number });
    }

    pub(crate) fn server_hangup(&mut self, number: u64) {
        let Some(socket) = self.sockets.remove(&number) else { return };
        if socket.opened {
            self.feed(socket.node, socket.epoch, Input::ClientClosed { client: ClientId(number) });
        }
    }

    /// The node is dead: its kernel says so to every client, or nobody does.
    pub(crate) fn sockets_of_dead(&mut self, node: usize, silently: bool) {
        let numbers: Vec<u64> = self
            .sockets
            .iter()
            .filter(|(_, socket)| socket.node == node)
            .map(|(number, _)| *number)
            .collect();
        for number in numbers {
            let latency = self.network.latency(0, &mut self.random);
            let Some(socket) = self.sockets.get_mut(&number) else { continue };
            socket.closed = true;
            if socket.left {
                self.sockets.remove(&number);
            } else if silently {
                socket.dead = true;
            } else {
                let at_us = socket.to_client_us.max(self.now_us + latency);
                self.plan_at(at_us, Event::ClientHangup { socket: number });
            }
        }
    }

    pub(crate) fn bytes_arrive_at_client(&mut self, number: u64, bytes: &Bytes) -> Result<(), Violation> {
        let Some(socket) = self.sockets.get_mut(&number) else { return Ok(()) };
        if socket.left {
            return Ok(());
        }
        socket.client_input.extend_from_slice(bytes);
        let client = socket.client;
        loop {
            let Some(socket) = self.sockets.get_mut(&number) else { return Ok(()) };
            if socket.left {
                return Ok(());
            }
            let decoder = FrameDecoder::new(1 << 30);
            let malformed = |error: &dyn std::fmt::Display| {
                Violation::new("answers can be decoded", format!("client {client}: {error}"))
            };
            let frame = decoder.decode(&mut socket.client_input).map_err(|error| malformed(&error))?;
            let Some(frame) = frame else { return Ok(()) };
            let response = Response::decode(&frame).map_err(|error| malformed(&error))?;
            self.answered(client, response)?;
        }
    }

    /// The client sees the end of its socket.
    pub(crate) fn client_hangup(&mut self, number: u64) {
        let Some(socket) = self.sockets.remove(&number) else { return };
        if !socket.left {
            self.hung_up(socket.client);
        }
    }
}
