//! Tests of the transport.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::Receiver;
use raft_glue::{Configuration, LogIndex, Term};
use wire_protocol::Features;
use wire_protocol::rpc::{InstallSnapshot, TimeoutNow};

use super::*;
use crate::connector::Connect;
use crate::dialer::Purpose;
use crate::wake::Completion;
use crate::wake::tests::outbox;

const PEER: NodeId = NodeId(2);
const ANNOUNCEMENT: PeerAnnouncement =
    PeerAnnouncement { features: Features::READ_LEASE, election_timeout_ms: Some(3000), cluster: None };
const READY: Readiness = Readiness { readable: true, writable: true, ending: false, gone: false };

/// Hands out sockets made before; without one it fails.
#[derive(Default)]
struct Scripted {
    sockets: Mutex<VecDeque<OwnedFd>>,
    addresses: Mutex<Vec<String>>,
}

impl Connect for Scripted {
    fn connect(&self, address: &str) -> std::io::Result<OwnedFd> {
        self.addresses.lock().unwrap().push(address.to_owned());
        let socket = self.sockets.lock().unwrap().pop_front();
        socket.ok_or_else(|| std::io::ErrorKind::ConnectionRefused.into())
    }
}

struct Fixture {
    transport: Transport,
    connect: Arc<Scripted>,
    completions: Receiver<Completion>,
    tokens: Tokens,
    _poll: mio::Poll,
}

impl Fixture {
    fn new() -> Self {
        let (poll, outbox, completions) = outbox();
        let connect = Arc::new(Scripted::default());
        let dialer = Dialer::new(Arc::<Scripted>::clone(&connect), outbox, Purpose::Raft);
        let registry = poll.registry().try_clone().unwrap();
        let transport = Transport::new(NodeId(1), "1".to_owned(), dialer, registry);
        Self { transport, connect, completions, tokens: Tokens::new(), _poll: poll }
    }

    /// The next attempt will succeed; returns the other end.
    fn offer_socket(&self) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        self.connect.sockets.lock().unwrap().push_back(ours.into());
        theirs
    }

    /// Waits for the attempt under way.
    fn finish_attempt(&mut self, now_ms: u64) {
        match self.completions.recv_timeout(Duration::from_secs(10)) {
            Ok(Completion::Dialled(dialled)) => {
                self.transport.dialled(dialled, ANNOUNCEMENT, &mut self.tokens, now_ms);
            }
            other => panic!("{other:?}"),
        }
    }

    fn send(&mut self, message: Message, now_ms: u64) {
        self.transport.send(PEER, "b".to_owned(), message, now_ms);
    }

    fn flush(&mut self) {
        self.transport.flush(0);
    }

    /// A stream of the peer, of which these bytes were read already.
    fn adopt(&mut self, socket: Socket, input: &[u8]) {
        let stream = PeerStream { socket, input: BytesMut::from(input), inlet: Inlet::new() };
        self.transport.adopt(9, PEER, "b".to_owned(), Some(ANNOUNCEMENT), stream);
        let opened = self.transport.reports.pop_back();
        let expected = |input: &Input| {
            matches!(input, Input::PeerStreamOpened { stream: StreamId(9), from: PEER, announcement: Some(said) }
                if *said == ANNOUNCEMENT)
        };
        assert!(opened.as_ref().is_some_and(expected), "{opened:?}");
    }

    /// How many messages come before the end of the stream, of which the core hears last.
    fn read_to_the_end(&mut self) -> usize {
        let mut seen = Vec::new();
        self.transport.read(&mut [0; 100], |input| seen.push(input));
        let end = seen.pop();
        assert!(matches!(end, Some(Input::PeerStreamEnded { stream: StreamId(9), from: PEER })), "{end:?}");
        assert!(seen.iter().all(|input| matches!(input, Input::PeerMessage { .. })), "{seen:?}");
        assert!(self.transport.inbound.is_empty());
        seen.len()
    }

    /// Peers reported as unreachable, with whether a snapshot was lost.
    fn reports(&mut self) -> Vec<(u64, bool)> {
        let report = |input| match input {
            Input::PeerUnreachable { to, snapshot } => (to.0, snapshot),
            other => panic!("{other:?}"),
        };
        self.transport.take_reports().into_iter().map(report).collect()
    }

    fn attempts(&self) -> usize {
        self.connect.addresses.lock().unwrap().len()
    }
}

fn message(index: u64) -> Message {
    let index = LogIndex(index);
    Message::TimeoutNow(TimeoutNow { term: Term(1), last_log_index: index, last_log_term: Term(1) })
}

fn snapshot(len: usize) -> Message {
    Message::InstallSnapshot(InstallSnapshot {
        term: Term(1),
        last_index: LogIndex(1),
        last_term: Term(1),
        configuration: Configuration::default(),
        configuration_index: LogIndex(1),
        data: vec![7; len].into(),
    })
}

/// Reads what a stream begins with and `count` messages.
fn receive(stream: &mut UnixStream, count: usize) -> Vec<Message> {
    let expected = opening(NodeId(1), "1", Some(ANNOUNCEMENT));
    let mut start = vec![0; expected.len()];
    stream.read_exact(&mut start).unwrap();
    assert_eq!(start, expected);
    let mut decoder = RpcDecoder::new(RpcLimits::default());
    let mut input = BytesMut::new();
    let mut messages = Vec::new();
    while messages.len() < count {
        let mut buffer = [0; 1000];
        let len = stream.read(&mut buffer).unwrap();
        assert_ne!(len, 0, "the stream ended early");
        input.extend_from_slice(&buffer[..len]);
        while let Some(message) = decoder.decode(&mut input).unwrap() {
            messages.push(message);
        }
    }
    assert!(input.is_empty());
    messages
}

#[test]
fn messages_follow_the_opening_in_order_on_one_connection() {
    let mut fixture = Fixture::new();
    let mut peer = fixture.offer_socket();
    fixture.send(message(1), 0);
    fixture.send(message(2), 0);
    fixture.finish_attempt(0);
    fixture.send(message(3), 0);
    fixture.flush();
    assert_eq!(receive(&mut peer, 3), [message(1), message(2), message(3)]);
    assert_eq!(*fixture.connect.addresses.lock().unwrap(), ["b"]);
    assert_eq!(fixture.reports(), []);
}

#[test]
fn failed_attempts_wait_longer_and_longer_and_keep_the_newest_messages() {
    let mut fixture = Fixture::new();
    fixture.send(snapshot(8), 0);
    for index in 1..=4 {
        fixture.send(message(index), 0);
    }
    fixture.finish_attempt(0);
    assert_eq!(fixture.reports(), [(2, true)]);
    let mut now_ms = 0;
    let mut waits = Vec::new();
    for _ in 0..6 {
        let deadline_ms = fixture.transport.next_deadline_ms().unwrap();
        waits.push(deadline_ms - now_ms);
        fixture.transport.handle_time(deadline_ms - 1);
        assert_eq!(fixture.transport.next_deadline_ms(), Some(deadline_ms), "not before its time");
        now_ms = deadline_ms;
        fixture.transport.handle_time(now_ms);
        fixture.finish_attempt(now_ms);
        assert_eq!(fixture.reports(), [(2, false)]);
    }
    assert_eq!(waits, [100, 200, 400, 800, 1000, 1000]);

    let mut peer = fixture.offer_socket();
    fixture.transport.handle_time(now_ms + 1000);
    fixture.finish_attempt(now_ms + 1000);
    fixture.flush();
    assert_eq!(receive(&mut peer, 3), [message(2), message(3), message(4)]);
}

#[test]
fn peer_that_connects_is_not_waited_for() {
    let mut fixture = Fixture::new();
    fixture.send(message(1), 0);
    fixture.finish_attempt(5);
    assert_eq!(fixture.transport.next_deadline_ms(), Some(105));
    let (socket, _peer) = crate::socket::tests::pair();
    fixture.adopt(socket, &[]);
    assert!(fixture.transport.next_deadline_ms() < Some(5));
    fixture.transport.handle_time(5);
    fixture.finish_attempt(5);
    assert_eq!(fixture.attempts(), 2);
}

#[test]
fn broken_connection_is_reported_and_replaced_after_a_moment() {
    let mut fixture = Fixture::new();
    let peer = fixture.offer_socket();
    fixture.send(snapshot(8), 0);
    fixture.finish_attempt(0);
    fixture.flush();
    drop(peer);
    let mut second = fixture.offer_socket();
    let token = *fixture.transport.outbound.keys().next().unwrap();
    fixture.transport.ready(token, READY, 0);
    assert_eq!(fixture.reports(), [(2, true)]);
    fixture.transport.handle_time(LOST_RETRY_MS - 1);
    assert_eq!(fixture.attempts(), 1);
    fixture.transport.handle_time(LOST_RETRY_MS);
    fixture.finish_attempt(LOST_RETRY_MS);
    fixture.send(message(1), LOST_RETRY_MS);
    fixture.flush();
    assert_eq!(receive(&mut second, 1), [message(1)]);
    assert_eq!(fixture.attempts(), 2);
    assert!(!fixture.transport.outbound.contains_key(&token));
}

#[test]
fn what_waits_for_a_peer_that_does_not_read_is_bounded() {
    let mut fixture = Fixture::new();
    let _peer = fixture.offer_socket();
    fixture.send(message(1), 0);
    fixture.finish_attempt(0);
    fixture.flush();
    let large = MAX_WAITING_LEN - 1024 * 1024;
    fixture.send(snapshot(large), 0);
    fixture.flush();
    assert_eq!(fixture.reports(), []);
    fixture.send(snapshot(2 * 1024 * 1024), 0);
    assert_eq!(fixture.reports(), [(2, true)]);
    fixture.send(message(2), 0);
    assert_eq!(fixture.reports(), [], "there is room for a small one");
}

#[test]
fn messages_without_a_connection_are_bounded_in_number() {
    let mut fixture = Fixture::new();
    let mut peer = fixture.offer_socket();
    let count = u64::try_from(MAX_WAITING_MESSAGES).unwrap() + 2;
    for index in 1..=count {
        fixture.send(message(index), 0);
    }
    assert_eq!(fixture.reports(), [(2, false), (2, false)]);
    fixture.finish_attempt(0);
    fixture.flush();
    let received = receive(&mut peer, MAX_WAITING_MESSAGES);
    assert_eq!((received[0].clone(), received.last()), (message(3), Some(&message(count))));
}

#[test]
fn message_too_large_for_any_peer_is_not_sent() {
    let mut fixture = Fixture::new();
    fixture.send(snapshot(rpc::MAX_PAYLOAD_LEN + 8), 0);
    assert_eq!(fixture.reports(), [(2, true)]);
    assert_eq!(fixture.attempts(), 0);
}

#[test]
fn another_address_means_another_connection() {
    let mut fixture = Fixture::new();
    let mut old = fixture.offer_socket();
    fixture.send(message(1), 0);
    fixture.finish_attempt(0);
    let mut new = fixture.offer_socket();
    fixture.transport.send(PEER, "c".to_owned(), message(2), 0);
    assert_eq!(old.read(&mut [0; 8]).unwrap(), 0, "closed");
    fixture.finish_attempt(0);
    fixture.flush();
    assert_eq!(receive(&mut new, 1), [message(2)]);
    assert_eq!(*fixture.connect.addresses.lock().unwrap(), ["b", "c"]);
}

#[test]
fn unused_connection_is_closed() {
    let mut fixture = Fixture::new();
    let mut peer = fixture.offer_socket();
    fixture.send(message(1), 0);
    fixture.finish_attempt(0);
    fixture.flush();
    fixture.transport.handle_time(IDLE_MS);
    assert_eq!(fixture.transport.outbound.len(), 1);
    fixture.transport.handle_time(IDLE_MS + 1);
    assert_eq!(receive(&mut peer, 1), [message(1)]);
    assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0, "closed");
}

#[test]
fn inbound_messages_cut_anywhere_come_out_with_the_announced_identity() {
    let mut bytes = BytesMut::new();
    message(1).encode(&mut bytes);
    snapshot(24).encode(&mut bytes);
    message(2).encode(&mut bytes);
    for cut in 0..bytes.len() {
        let mut fixture = Fixture::new();
        let (socket, mut peer) = crate::socket::tests::pair();
        // Part of it came together with the announcement.
        let (early, late) = bytes.split_at(cut);
        fixture.adopt(socket, early);
        let mut seen = Vec::new();
        fixture.transport.read(&mut [0; 100], |input| seen.push(input));
        peer.write_all(late).unwrap();
        fixture.transport.ready(9, READY, 0);
        fixture.transport.read(&mut [0; 100], |input| seen.push(input));
        let messages: Vec<Message> = seen
            .into_iter()
            .map(|input| match input {
                Input::PeerMessage { stream, from, address, message } => {
                    assert_eq!((stream, from, &address[..]), (StreamId(9), PEER, "b"));
                    message
                }
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(messages, [message(1), snapshot(24), message(2)], "cut at {cut}");
    }
}

#[test]
fn inbound_nonsense_ends_the_stream_after_what_made_sense() {
    let mut fixture = Fixture::new();
    let (socket, mut peer) = crate::socket::tests::pair();
    fixture.adopt(socket, &[]);
    let mut bytes = BytesMut::new();
    message(1).encode(&mut bytes);
    bytes.extend_from_slice(&[0xff; 16]);
    peer.write_all(&bytes).unwrap();
    assert_eq!(fixture.read_to_the_end(), 1);
    assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0, "closed");
}

#[test]
fn an_end_that_was_told_together_with_the_last_bytes_is_seen() {
    for told_before_adoption in [false, true] {
        let mut fixture = Fixture::new();
        let (socket, mut peer) = crate::socket::tests::pair();
        let mut bytes = BytesMut::new();
        message(1).encode(&mut bytes);
        let mut inlet = Inlet::new();
        inlet.ready(Readiness { ending: told_before_adoption, ..READY });
        let stream = PeerStream { socket, input: BytesMut::new(), inlet };
        fixture.transport.adopt(9, PEER, "b".to_owned(), None, stream);
        if !told_before_adoption {
            fixture.transport.read(&mut [0; 100], |_| panic!("nothing was sent"));
        }
        peer.write_all(&bytes).unwrap();
        drop(peer);
        if !told_before_adoption {
            fixture.transport.ready(9, Readiness { ending: true, ..READY }, 0);
        }
        assert_eq!(fixture.read_to_the_end(), 1);
    }
}

/// The peer hears of it although somebody else may hold the same socket, and the core that nothing more comes.
#[test]
fn an_inbound_stream_can_be_closed() {
    let mut fixture = Fixture::new();
    let (socket, mut peer) = crate::socket::tests::pair();
    let held = rustix::io::dup(&socket).unwrap();
    fixture.adopt(socket, &[]);
    fixture.transport.close_inbound(StreamId(9));
    assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0);
    drop(held);
    let end = fixture.transport.take_reports().pop_front();
    assert!(matches!(end, Some(Input::PeerStreamEnded { stream: StreamId(9), from: PEER })), "{end:?}");
    fixture.transport.close_inbound(StreamId(9));
    assert!(fixture.transport.take_reports().is_empty(), "it has ended already");
}
