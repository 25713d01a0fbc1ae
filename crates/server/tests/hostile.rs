//! Whatever comes through the socket, the node goes on and others are served.

#![allow(clippy::unwrap_used, reason = "a failure of a helper is a failure of the test")]

mod common;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use common::{TIMEOUT, TestNode, one};
use server::NodeId;
use server::connector::opening;
use wire_protocol::{Params, Request, Value};

const HANDSHAKE: [u8; 8] = [1, 0, 0, 0, 0, 0, 0, 0];

fn raw(node: &TestNode) -> UnixStream {
    let name = SocketAddr::from_abstract_name(&node.address.as_bytes()[1..]).unwrap();
    let stream = UnixStream::connect_addr(&name).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream
}

/// The node closes the stream, having answered nothing.
fn assert_closed(mut stream: UnixStream) {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => assert!(rest.is_empty(), "{rest:?}"),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
}

fn assert_serves(node: &TestNode) {
    assert_eq!(one(&mut node.open(), "SELECT 42"), Value::Integer(42));
}

fn encoded(request: &Request) -> BytesMut {
    let mut bytes = BytesMut::new();
    request.encode(&mut bytes);
    bytes
}

#[test]
fn unknown_handshakes_are_closed() {
    let node = TestNode::start(1);
    for greeting in [[0; 8], [0xff; 8], *b"GET / HT"] {
        let mut stream = raw(&node);
        stream.write_all(&greeting).unwrap();
        assert_closed(stream);
    }
    assert_serves(&node);
}

#[test]
fn raft_nonsense_costs_the_stream_and_nothing_else() {
    let node = TestNode::start(1);
    let mut nonsense = vec![vec![0; 64], vec![0xff; 64]];
    // Each type with a header that says nothing, or promises more than any buffer holds.
    for kind in 0..10_u64 {
        for len in [8_u64, 24, 40, 1 << 20, u64::MAX] {
            let mut bytes = [kind.to_le_bytes(), len.to_le_bytes()].concat();
            bytes.resize(4096, 0xa5);
            nonsense.push(bytes);
        }
    }
    for bytes in nonsense {
        let mut stream = raw(&node);
        stream.write_all(&opening(NodeId(9), "@nine", None)).unwrap();
        // The node may have closed it after the first bytes already.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(Shutdown::Write);
        assert_closed(stream);
    }
    assert_serves(&node);
}

#[test]
fn request_in_single_bytes_is_answered() {
    let node = TestNode::start(1);
    let mut stream = raw(&node);
    for byte in HANDSHAKE.iter().chain(&encoded(&Request::Leader)[..]) {
        stream.write_all(&[*byte]).unwrap();
    }
    let mut header = [0; 8];
    stream.read_exact(&mut header).unwrap();
    assert_ne!(header[..4], [0; 4]);
}

#[test]
fn requests_sent_ahead_are_answered_in_order_even_after_the_client_closed_its_half() {
    let node = TestNode::start(1);
    node.open().exec_sql("CREATE TABLE t (n INTEGER)", &[]).unwrap();
    let mut bytes = HANDSHAKE.to_vec();
    bytes.extend_from_slice(&encoded(&Request::Open { name: "test".into(), flags: 0, vfs: "".into() }));
    for _ in 0..200 {
        let sql = "INSERT INTO t VALUES (1)".into();
        bytes.extend_from_slice(&encoded(&Request::ExecSql { database: 0, sql, params: Params::new(&[]) }));
    }
    let mut stream = raw(&node);
    stream.write_all(&bytes).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answers = Vec::new();
    stream.read_to_end(&mut answers).unwrap();
    // One DATABASE of two words and 200 RESULTs of three.
    assert_eq!(answers.len(), 16 + 200 * 24);
    assert_eq!(one(&mut node.open(), "SELECT count(*) FROM t"), Value::Integer(200));
}

#[test]
fn client_that_takes_no_rows_delays_nobody_and_is_forgotten_when_it_leaves() {
    let node = TestNode::start(1);
    let mut stream = raw(&node);
    let endless = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT n FROM c";
    stream.write_all(&HANDSHAKE).unwrap();
    stream.write_all(&encoded(&Request::Open { name: "test".into(), flags: 0, vfs: "".into() })).unwrap();
    let query = Request::QuerySql { database: 0, sql: endless.into(), params: Params::new(&[]) };
    stream.write_all(&encoded(&query)).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let begin = Instant::now();
    let mut client = node.open();
    client.exec_sql("CREATE TABLE t (n INTEGER)", &[]).unwrap();
    client.exec_sql("INSERT INTO t VALUES (1)", &[]).unwrap();
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    drop(stream);
    assert_serves(&node);
}

#[test]
fn departure_in_the_middle_of_a_query_frees_its_thread() {
    let node = TestNode::start(1);
    let endless = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT max(n) FROM c";
    // More than there are threads for readers.
    for _ in 0..10 {
        let mut client = node.open();
        let query = Request::QuerySql { database: 0, sql: endless.into(), params: Params::new(&[]) };
        client.send(&query).unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    let begin = Instant::now();
    assert_serves(&node);
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
}

#[test]
fn hundreds_of_clients_are_served_at_once() {
    let node = TestNode::start(1);
    node.open().exec_sql("CREATE TABLE t (n INTEGER)", &[]).unwrap();
    let mut clients: Vec<_> = (0..300).map(|_| node.open()).collect();
    let insert =
        || Request::ExecSql { database: 0, sql: "INSERT INTO t VALUES (1)".into(), params: Params::new(&[]) };
    for client in &mut clients {
        client.send(&insert()).unwrap();
    }
    for client in &mut clients {
        client.receive().unwrap();
    }
    assert_eq!(one(&mut clients[0], "SELECT count(*) FROM t"), Value::Integer(300));
}
