//! One client socket, from the handshake to the end, or until it turns out to be a peer.
//!
//! Invariants: nothing is decoded after a CONNECT frame (what follows may be raft messages); a client that does not
//! take its replies is not read either, so neither buffer grows without bound; `Drained` is reported once after each
//! time the output ran empty.

use bytes::{Bytes, BytesMut};
use wire_protocol::{ClientDecoder, Frame, HEADER_LEN, Incoming, Protocol, try_reserve};

use crate::core::limits::{BUDGET_GRAIN, MAX_REQUEST_LEN};
use crate::registration::Readiness;
use crate::socket::{CLIENT_USER_TIMEOUT_MS, Flush, Inlet, SLOW_READER_USER_TIMEOUT_MS, SendQueue, Socket};
use crate::trim::LARGE_REQUEST_LEN;

/// Reading stops while this much output waits for the client.
pub(crate) const MAX_OUTPUT_LEN: usize = 1024 * 1024;
/// What one socket may read in one turn of the loop before others get their share.
pub(crate) const READ_BUDGET: usize = 512 * 1024;
/// A connection keeps the buffer of its input while that never held more, bytes: most requests fit.
const KEPT_INPUT_LEN: usize = 4096;
/// Request type of CONNECT.
const CONNECT: u8 = 11;

/// What came out of the socket.
#[derive(Debug)]
pub(crate) enum FromClient {
    /// The handshake is complete.
    Opened(Protocol),
    /// A whole message.
    Frame(Frame),
    /// The last byte of a message that was refused, and whose bytes were dropped.
    Refused,
    /// Nothing more comes; what came before is still to be answered.
    Eof,
    /// What follows cannot be read, for this reason; what came before is still to be answered.
    Unreadable(String),
}

/// How a read ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadEnd {
    /// Nothing to do until the next event or until something changes.
    Waiting,
    /// More is there; read again.
    Unfinished,
    /// The connection is of no more use.
    Broken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Handshake,
    Open,
    /// CONNECT was seen: the core decides what becomes of the socket.
    Connecting,
    /// The client sent all it will.
    Eof,
}

/// A client socket and its buffers.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: Socket,
    decoder: ClientDecoder,
    input: BytesMut,
    /// `input` has held more than [`KEPT_INPUT_LEN`] since it was made.
    roomy: bool,
    /// Bytes still to come of a message that was refused; they are dropped.
    refused_len: usize,
    /// What the core was told that the buffers hold.
    told: (u64, u64),
    output: SendQueue,
    phase: Phase,
    inlet: Inlet,
    writable: bool,
    paused: bool,
    closing: bool,
    /// Something was queued since the last time the output was reported empty.
    owes_drained: bool,
    slow: bool,
    /// The newest request is a large one.
    large: bool,
}

/// A connection whose client turned out to be a peer.
#[derive(Debug)]
pub(crate) struct PeerStream {
    pub(crate) socket: Socket,
    /// Behind the announcement, not decoded.
    pub(crate) input: BytesMut,
    pub(crate) inlet: Inlet,
}

impl Connection {
    pub(crate) fn new(socket: Socket) -> Self {
        socket.tune(CLIENT_USER_TIMEOUT_MS);
        Self {
            socket,
            decoder: ClientDecoder::new(MAX_REQUEST_LEN),
            input: BytesMut::new(),
            roomy: false,
            refused_len: 0,
            told: (0, 0),
            output: SendQueue::default(),
            phase: Phase::Handshake,
            inlet: Inlet::new(),
            writable: true,
            paused: false,
            closing: false,
            owes_drained: false,
            slow: false,
            large: false,
        }
    }

    /// Notes what the poll said.
    pub(crate) fn ready(&mut self, ready: Readiness) {
        self.inlet.ready(ready);
        self.writable |= ready.writable;
    }

    /// Whether a read could bring anything now.
    pub(crate) fn wants_read(&self) -> bool {
        self.inlet.is_readable() && self.may_read()
    }

    fn may_read(&self) -> bool {
        !self.paused
            && !self.closing
            && matches!(self.phase, Phase::Handshake | Phase::Open)
            && self.output.len() < MAX_OUTPUT_LEN
    }

    /// The core wants no more frames for now.
    pub(crate) fn pause(&mut self) {
        self.paused = true;
    }

    /// The core wants frames again; bytes that were left undecoded are looked at by the next read.
    pub(crate) fn resume(&mut self) {
        self.paused = false;
        self.inlet.look_again();
    }

    /// Whether the core knows this client.
    pub(crate) fn is_opened(&self) -> bool {
        self.phase != Phase::Handshake
    }

    /// Close once everything is sent.
    pub(crate) fn close(&mut self) {
        self.closing = true;
    }

    /// Whether the socket is only kept for its output, and that is gone.
    pub(crate) fn is_finished(&self) -> bool {
        self.closing && self.output.is_empty()
    }

    /// Reads and decodes within the budget of a turn. `scratch` is the buffer of the loop.
    pub(crate) fn read(&mut self, scratch: &mut [u8], mut sink: impl FnMut(FromClient)) -> ReadEnd {
        let mut budget = READ_BUDGET;
        while self.may_read() {
            if !self.decode(&mut sink) {
                return if self.phase == Phase::Handshake { ReadEnd::Broken } else { ReadEnd::Waiting };
            }
            if !self.may_read() || !self.inlet.is_readable() {
                break;
            }
            if budget == 0 {
                return ReadEnd::Unfinished;
            }
            match self.inlet.recv(&self.socket, scratch) {
                Ok(None) => {}
                Ok(Some(0)) if self.phase == Phase::Handshake => return ReadEnd::Broken,
                Ok(Some(0)) => self.end(FromClient::Eof, &mut sink),
                Ok(Some(len)) => {
                    budget = budget.saturating_sub(len);
                    self.take_in(&scratch[..len], &mut sink);
                }
                Err(_) => return ReadEnd::Broken,
            }
        }
        if self.roomy && self.input.is_empty() {
            // Even one without capacity keeps all the memory alive that its last messages stood in.
            self.input = BytesMut::new();
            self.roomy = false;
        }
        ReadEnd::Waiting
    }

    /// Takes bytes that were read into the input, or drops them if they belong to a message that was refused. A message
    /// that there is no memory for is refused.
    fn take_in(&mut self, bytes: &[u8], sink: &mut impl FnMut(FromClient)) {
        let refused = bytes.len().min(self.refused_len);
        let bytes = &bytes[refused..];
        if refused > 0 {
            self.refused_len -= refused;
            if self.refused_len > 0 {
                return;
            }
            sink(FromClient::Refused);
        }
        self.roomy |= self.input.len() + bytes.len() > KEPT_INPUT_LEN;
        let missing = self.decoder.missing_len(&self.input);
        if try_reserve(&mut self.input, bytes.len(), missing).is_ok() {
            self.input.extend_from_slice(bytes);
            return;
        }
        // There is room for what was read last: it stands in the buffer of the loop, which is small.
        self.refuse();
        let refused = bytes.len().min(self.refused_len);
        self.refused_len -= refused;
        if refused > 0 && self.refused_len == 0 {
            sink(FromClient::Refused);
        }
        self.input.extend_from_slice(&bytes[refused..]);
    }

    /// Drops what is there of an unfinished message, and what is still to come of it. [`FromClient::Refused`] follows.
    pub(crate) fn refuse(&mut self) {
        if self.phase == Phase::Open && self.input.len() >= HEADER_LEN {
            self.refused_len = self.decoder.missing_len(&self.input);
        }
        if self.refused_len > 0 {
            self.input = BytesMut::new();
            self.roomy = false;
        }
    }

    /// What the buffers hold, of input and of output, if the core is to hear of it: not of every few bytes.
    pub(crate) fn take_held(&mut self) -> Option<(u64, u64)> {
        // An input that was worked off shares its memory with requests, which are counted as such.
        let input = if self.input.is_empty() { 0 } else { self.input.capacity() as u64 };
        let held = (input, self.output.len() as u64);
        let differs = |now: u64, told: u64| now.abs_diff(told) >= BUDGET_GRAIN;
        let tell = differs(held.0, self.told.0) || differs(held.1, self.told.1);
        if tell {
            self.told = held;
        }
        tell.then_some(held)
    }

    /// Takes whole messages out of the input. `false` if it makes no sense.
    fn decode(&mut self, sink: &mut impl FnMut(FromClient)) -> bool {
        while self.phase != Phase::Connecting {
            match self.decoder.decode(&mut self.input) {
                Ok(None) => return true,
                Ok(Some(Incoming::Handshake(protocol))) => {
                    self.phase = Phase::Open;
                    sink(FromClient::Opened(protocol));
                }
                Ok(Some(Incoming::Frame(frame))) => {
                    self.large = frame.body.len() >= LARGE_REQUEST_LEN;
                    if frame.kind == CONNECT {
                        self.phase = Phase::Connecting;
                    }
                    sink(FromClient::Frame(frame));
                }
                Err(error) => {
                    tracing::debug!(%error, "client sent nonsense");
                    if self.phase != Phase::Handshake {
                        self.end(FromClient::Unreadable(error.to_string()), sink);
                    }
                    return false;
                }
            }
        }
        true
    }

    fn end(&mut self, last: FromClient, sink: &mut impl FnMut(FromClient)) {
        self.phase = Phase::Eof;
        self.input = BytesMut::new();
        sink(last);
    }

    /// Queues a reply.
    pub(crate) fn push(&mut self, bytes: Bytes) {
        self.owes_drained = true;
        self.output.push(bytes);
    }

    /// Sends what the socket takes.
    pub(crate) fn flush(&mut self) -> std::io::Result<Flush> {
        if !self.writable && !self.output.is_empty() {
            return Ok(Flush::Blocked);
        }
        let (_, flush) = self.output.flush(&self.socket)?;
        let slow = flush == Flush::Blocked;
        if slow {
            self.writable = false;
        }
        if slow != self.slow && flush != Flush::Unfinished {
            self.slow = slow;
            self.socket.set_user_timeout(if slow {
                SLOW_READER_USER_TIMEOUT_MS
            } else {
                CLIENT_USER_TIMEOUT_MS
            });
        }
        Ok(flush)
    }

    /// Whether the output has run empty since the last call and the core must hear of it.
    pub(crate) fn take_drained(&mut self) -> bool {
        self.output.is_empty() && std::mem::take(&mut self.owes_drained)
    }

    /// Whether the newest request is so large that the allocator may keep much of it.
    pub(crate) fn is_large(&self) -> bool {
        self.large
    }

    /// What a raft stream begins with.
    pub(crate) fn into_peer(self) -> PeerStream {
        PeerStream { socket: self.socket, input: self.input, inlet: self.inlet }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    const HANDSHAKE: [u8; 8] = [1, 0, 0, 0, 0, 0, 0, 0];

    fn connection() -> (Connection, UnixStream) {
        let (socket, peer) = crate::socket::tests::pair();
        (Connection::new(socket), peer)
    }

    fn frame(kind: u8, words: u8) -> Vec<u8> {
        let mut bytes = vec![words, 0, 0, 0, kind, 0, 0, 0];
        bytes.resize(8 + usize::from(words) * 8, kind);
        bytes
    }

    fn read(connection: &mut Connection) -> (ReadEnd, Vec<FromClient>) {
        connection.ready(Readiness { readable: true, ending: false, writable: true, gone: false });
        let mut seen = Vec::new();
        let end = connection.read(&mut [0; 4096], |event| seen.push(event));
        (end, seen)
    }

    #[test]
    fn messages_cut_anywhere_come_out_whole() {
        let mut bytes = HANDSHAKE.to_vec();
        bytes.extend(frame(3, 2));
        bytes.extend(frame(4, 0));
        bytes.extend(frame(5, 1));
        for step in 1..bytes.len() {
            let (mut connection, mut peer) = connection();
            let mut seen = Vec::new();
            for piece in bytes.chunks(step) {
                peer.write_all(piece).unwrap();
                let (end, events) = read(&mut connection);
                assert_eq!(end, ReadEnd::Waiting);
                seen.extend(events);
            }
            let kinds: Vec<u8> = seen[1..]
                .iter()
                .map(|event| match event {
                    FromClient::Frame(frame) => frame.kind,
                    other => panic!("{other:?}"),
                })
                .collect();
            assert!(matches!(seen[0], FromClient::Opened(Protocol::Current)));
            assert_eq!(kinds, [3, 4, 5], "pieces of {step}");
        }
    }

    #[test]
    fn unknown_protocol_breaks_the_connection() {
        let (mut connection, mut peer) = connection();
        peer.write_all(&[9; 8]).unwrap();
        let (end, seen) = read(&mut connection);
        assert_eq!(end, ReadEnd::Broken);
        assert!(seen.is_empty());
    }

    #[test]
    fn end_before_the_handshake_breaks_and_after_it_is_reported_once() {
        let (mut early, peer) = connection();
        drop(peer);
        assert_eq!(read(&mut early).0, ReadEnd::Broken);

        let (mut late, mut peer) = connection();
        peer.write_all(&HANDSHAKE).unwrap();
        peer.write_all(&frame(3, 1)).unwrap();
        drop(peer);
        late.ready(Readiness { readable: true, ending: true, writable: true, gone: false });
        let (end, seen) = read(&mut late);
        assert_eq!(end, ReadEnd::Waiting);
        assert!(matches!(seen[..], [FromClient::Opened(_), FromClient::Frame(_), FromClient::Eof]));
        assert!(!late.wants_read());
    }

    #[test]
    fn an_end_that_comes_behind_what_was_read_is_reported_when_the_poll_tells_of_it() {
        let (mut connection, mut peer) = connection();
        peer.write_all(&HANDSHAKE).unwrap();
        let (_, seen) = read(&mut connection);
        assert!(matches!(seen[..], [FromClient::Opened(_)]));
        assert!(!connection.wants_read(), "one look is enough");
        drop(peer);
        connection.ready(Readiness { readable: true, ending: true, writable: false, gone: false });
        let (_, seen) = read(&mut connection);
        assert!(matches!(seen[..], [FromClient::Eof]));
    }

    #[test]
    fn nonsense_after_good_requests_lets_them_be_answered() {
        let (mut connection, mut peer) = connection();
        peer.write_all(&HANDSHAKE).unwrap();
        peer.write_all(&frame(3, 1)).unwrap();
        peer.write_all(&[0xff; 8]).unwrap();
        let (end, seen) = read(&mut connection);
        assert_eq!(end, ReadEnd::Waiting);
        assert!(matches!(seen[..], [FromClient::Opened(_), FromClient::Frame(_), FromClient::Unreadable(_)]));
    }

    #[test]
    fn nothing_is_decoded_behind_connect() {
        let (mut connection, mut peer) = connection();
        peer.write_all(&HANDSHAKE).unwrap();
        peer.write_all(&frame(CONNECT, 2)).unwrap();
        peer.write_all(&frame(3, 1)).unwrap();
        let (_, seen) = read(&mut connection);
        assert!(matches!(seen[..], [FromClient::Opened(_), FromClient::Frame(_)]));
        assert_eq!(connection.into_peer().input, frame(3, 1));
    }

    #[test]
    fn client_that_does_not_take_replies_is_not_read() {
        let (mut connection, mut peer) = connection();
        peer.write_all(&HANDSHAKE).unwrap();
        read(&mut connection);
        let mut queued = 0;
        while connection.output.len() < MAX_OUTPUT_LEN {
            connection.push(vec![7; 100_000].into());
            queued += 100_000;
            connection.flush().unwrap();
        }
        peer.write_all(&frame(3, 1)).unwrap();
        assert!(read(&mut connection).1.is_empty());
        assert!(!connection.take_drained());

        let reader = std::thread::spawn(move || {
            let mut all = vec![0; queued];
            peer.read_exact(&mut all).unwrap();
            peer
        });
        while !connection.take_drained() {
            connection.ready(Readiness { readable: false, ending: false, writable: true, gone: false });
            connection.flush().unwrap();
            std::thread::yield_now();
        }
        assert!(!connection.take_drained(), "reported once");
        assert_eq!(read(&mut connection).1.len(), 1);
        reader.join().unwrap();
    }

    #[test]
    fn paused_connection_keeps_its_requests_in_the_kernel() {
        let (mut connection, mut peer) = connection();
        peer.write_all(&HANDSHAKE).unwrap();
        read(&mut connection);
        connection.pause();
        peer.write_all(&frame(3, 1)).unwrap();
        assert!(read(&mut connection).1.is_empty());
        connection.resume();
        assert!(connection.wants_read());
        assert_eq!(read(&mut connection).1.len(), 1);
    }

    #[test]
    fn an_idle_connection_keeps_no_large_buffer() {
        let (mut connection, mut peer) = connection();
        peer.write_all(&HANDSHAKE).unwrap();
        read(&mut connection);
        let mut large = vec![0x20, 0x4e, 0, 0, 3, 0, 0, 0];
        large.resize(8 + 20_000 * 8, 1);
        let writer = std::thread::spawn(move || {
            peer.write_all(&large).unwrap();
            peer
        });
        let frame = loop {
            match read(&mut connection).1.pop() {
                Some(FromClient::Frame(frame)) => break frame,
                Some(other) => panic!("{other:?}"),
                None => {}
            }
        };
        let mut peer = writer.join().unwrap();
        read(&mut connection);
        assert!(frame.body.is_unique(), "the connection shares the memory of a message it has handed on");
        assert_eq!(connection.input.capacity(), 0);
        peer.write_all(&self::frame(3, 2)).unwrap();
        assert_eq!(read(&mut connection).1.len(), 1);
        assert!(connection.input.capacity() <= 4 * KEPT_INPUT_LEN, "{}", connection.input.capacity());
    }
}
