use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::Receiver;
use mio::Poll;

use super::*;
use crate::connector::Connect;
use crate::dialer::Purpose;
use crate::wake::Completion;
use crate::wake::tests::outbox;

const PEER: NodeId = NodeId(2);

#[derive(Default)]
struct Sockets(Mutex<VecDeque<OwnedFd>>);

impl Connect for Sockets {
    fn connect(&self, _: &str) -> io::Result<OwnedFd> {
        self.0.lock().unwrap().pop_front().ok_or_else(|| io::ErrorKind::ConnectionRefused.into())
    }
}

struct Fixture {
    clients: PeerClients,
    sockets: Arc<Sockets>,
    completions: Receiver<Completion>,
    tokens: Tokens,
    _poll: Poll,
}

impl Fixture {
    fn new() -> Self {
        let (poll, outbox, completions) = outbox();
        let sockets = Arc::new(Sockets::default());
        let connect: Arc<dyn Connect> = Arc::<Sockets>::clone(&sockets);
        let dialer = Dialer::new(connect, outbox, Purpose::Questions);
        let clients = PeerClients::new(dialer, poll.registry().try_clone().unwrap());
        Self { clients, sockets, completions, tokens: Tokens::new(), _poll: poll }
    }

    fn offer_socket(&self) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        self.sockets.0.lock().unwrap().push_back(ours.into());
        theirs
    }

    fn ask(&mut self, ask: u64, deadline_ms: u64) {
        let request = Request::Describe { format: 0, announcement: None };
        self.clients.ask(AskId(ask), PEER, "b".to_owned(), &request, deadline_ms, 0);
    }

    fn finish_attempt(&mut self) {
        match self.completions.recv_timeout(Duration::from_secs(10)) {
            Ok(Completion::Dialled(dialled)) => self.clients.dialled(dialled, &mut self.tokens),
            other => panic!("{other:?}"),
        }
    }

    fn read(&mut self) {
        let token = *self.clients.connections.keys().next().unwrap();
        self.clients.ready(token, &mut [0; 100]);
    }

    /// Ids of the answered questions, with the weight that was told.
    fn answers(&mut self) -> Vec<(u64, Result<u64, String>)> {
        let answer = |input| match input {
            Input::PeerAnswered { ask, result: Ok(Response::Metadata { weight, .. }) } => (ask.0, Ok(weight)),
            Input::PeerAnswered { ask, result: Err(reason) } => (ask.0, Err(reason)),
            other => panic!("{other:?}"),
        };
        self.clients.take_answers().into_iter().map(answer).collect()
    }
}

fn metadata(weight: u64) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    Response::Metadata { failure_domain: 0, weight, announcement: None }.encode(&mut bytes);
    bytes.to_vec()
}

/// Handshake and as many DESCRIBE requests.
fn expect(peer: &mut UnixStream, handshake: bool, requests: usize) {
    let mut expected = BytesMut::new();
    if handshake {
        Protocol::Current.encode(&mut expected);
    }
    for _ in 0..requests {
        Request::Describe { format: 0, announcement: None }.encode(&mut expected);
    }
    let mut bytes = vec![0; expected.len()];
    peer.read_exact(&mut bytes).unwrap();
    assert_eq!(bytes, expected);
}

#[test]
fn questions_share_a_connection_and_are_answered_in_order() {
    let mut fixture = Fixture::new();
    let mut peer = fixture.offer_socket();
    fixture.ask(1, 1000);
    fixture.ask(2, 1000);
    fixture.finish_attempt();
    expect(&mut peer, true, 2);
    let answers = [metadata(7), metadata(8)].concat();
    // Cut in the middle of the second.
    peer.write_all(&answers[..30]).unwrap();
    fixture.read();
    assert_eq!(fixture.answers(), [(1, Ok(7))]);
    peer.write_all(&answers[30..]).unwrap();
    fixture.read();
    assert_eq!(fixture.answers(), [(2, Ok(8))]);
    fixture.ask(3, 1000);
    expect(&mut peer, false, 1);
    peer.write_all(&metadata(9)).unwrap();
    fixture.read();
    assert_eq!(fixture.answers(), [(3, Ok(9))]);
    assert_eq!(fixture.clients.next_deadline_ms(), None);
}

#[test]
fn every_question_is_answered_whatever_happens() {
    let mut fixture = Fixture::new();
    // Nobody to connect to.
    fixture.ask(1, 1000);
    fixture.finish_attempt();
    assert!(matches!(&fixture.answers()[..], [(1, Err(reason))] if reason.contains("no connection")));
    // Closed.
    let peer = fixture.offer_socket();
    fixture.ask(2, 1000);
    fixture.ask(3, 1000);
    fixture.finish_attempt();
    drop(peer);
    let token = fixture.clients.connections.keys().next().copied();
    if let Some(token) = token {
        fixture.clients.ready(token, &mut [0; 100]);
    }
    assert!(matches!(&fixture.answers()[..], [(2, Err(_)), (3, Err(_))]));
    // Nonsense.
    let mut peer = fixture.offer_socket();
    fixture.ask(4, 1000);
    fixture.finish_attempt();
    peer.write_all(&[0xff; 16]).unwrap();
    fixture.read();
    assert!(matches!(&fixture.answers()[..], [(4, Err(reason))] if reason.contains("its answer is none")));
    // An answer to nothing.
    let mut peer = fixture.offer_socket();
    fixture.ask(5, 1000);
    fixture.finish_attempt();
    peer.write_all(&[metadata(1), metadata(2)].concat()).unwrap();
    fixture.read();
    assert_eq!(fixture.answers(), [(5, Ok(1))]);
    assert!(fixture.clients.peers.is_empty());
    // Silence.
    let _peer = fixture.offer_socket();
    fixture.ask(6, 1000);
    fixture.finish_attempt();
    assert_eq!(fixture.clients.next_deadline_ms(), Some(1000));
    fixture.clients.handle_time(999);
    assert_eq!(fixture.answers(), []);
    fixture.clients.handle_time(1000);
    assert!(matches!(&fixture.answers()[..], [(6, Err(reason))] if reason.contains("no answer in time")));
}

#[test]
fn overdue_while_connecting_does_not_disturb_what_is_asked_next() {
    let mut fixture = Fixture::new();
    let _late = fixture.offer_socket();
    fixture.ask(1, 10);
    let late = fixture.completions.recv_timeout(Duration::from_secs(10)).unwrap();
    fixture.clients.handle_time(10);
    assert_eq!(fixture.answers().len(), 1);
    let mut peer = fixture.offer_socket();
    fixture.ask(2, 1000);
    let Completion::Dialled(late) = late else { panic!("{late:?}") };
    fixture.clients.dialled(late, &mut fixture.tokens);
    fixture.finish_attempt();
    expect(&mut peer, true, 1);
    peer.write_all(&metadata(3)).unwrap();
    fixture.read();
    assert_eq!(fixture.answers(), [(2, Ok(3))]);
}

#[test]
fn unused_connections_are_closed() {
    let mut fixture = Fixture::new();
    let mut peer = fixture.offer_socket();
    fixture.ask(1, 1000);
    fixture.finish_attempt();
    expect(&mut peer, true, 1);
    peer.write_all(&metadata(3)).unwrap();
    fixture.read();
    fixture.clients.handle_time(IDLE_MS);
    assert_eq!(fixture.clients.connections.len(), 1);
    fixture.clients.handle_time(IDLE_MS + 1);
    assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0, "closed");
}
