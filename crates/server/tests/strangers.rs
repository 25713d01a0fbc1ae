//! Somebody who is no member speaks raft to every node of a cluster: nothing of it ends a node or the cluster, and no row
//! changes.

#![allow(clippy::unwrap_used, reason = "a failure of a helper is a failure of the test")]

mod common;

use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};

use bytes::{Bytes, BytesMut};
use common::{TIMEOUT, TestNode, eventually, one, open_leader, start_three, wait_equal};
use raft_glue::{Configuration, Entry, EntryKind, LogIndex, Role, Server, Term};
use server::NodeId;
use server::connector::opening;
use wire_protocol::Value;
use wire_protocol::rpc::{AppendEntries, InstallSnapshot, Message, RequestVote};
use wire_protocol::snapshot::{encode_database_header, encode_payload_header};

const STRANGER: NodeId = NodeId(77);

/// A stream of the stranger on which this was said.
fn says(node: &TestNode, message: &Message) -> UnixStream {
    let name = SocketAddr::from_abstract_name(&node.address.as_bytes()[1..]).unwrap();
    let mut stream = UnixStream::connect_addr(&name).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream.write_all(&opening(STRANGER, "@nobody-lives-here", None)).unwrap();
    let mut bytes = BytesMut::new();
    message.encode(&mut bytes);
    stream.write_all(&bytes).unwrap();
    stream
}

fn append(term: u64, prev: (u64, u64), entries: Vec<Entry>) -> Message {
    Message::AppendEntries(AppendEntries {
        term: Term(term),
        prev_log_index: LogIndex(prev.0),
        prev_log_term: Term(prev.1),
        leader_commit: LogIndex(0),
        entries,
        echo: 0,
    })
}

fn command(term: u64, data: &'static [u8]) -> Entry {
    Entry { term: Term(term), kind: EntryKind::Command, data: Bytes::from_static(data) }
}

fn snapshot(nodes: &[TestNode], data: Vec<u8>) -> Message {
    let server =
        |node: &TestNode| Server { id: NodeId(node.id), address: node.address.clone(), role: Role::Voter };
    Message::InstallSnapshot(InstallSnapshot {
        term: Term(900),
        last_index: LogIndex(1000),
        last_term: Term(900),
        configuration: Configuration { servers: nodes.iter().map(server).collect() },
        configuration_index: LogIndex(1),
        data: data.into(),
    })
}

/// One heartbeat of term 2^62 - 1 ended a cluster for ever, a contradiction or a bad snapshot a member until its restart.
#[test]
fn whatever_a_stranger_says_the_cluster_goes_on_with_all_rows() {
    let mut nodes = start_three();
    let mut leader = open_leader(&nodes);
    leader.exec_sql("CREATE TABLE t(a)", &[]).unwrap();
    let header = encode_payload_header(1);
    let bad_page = [&header[..], &encode_database_header(b"test", 4096, 0), &[0xaa; 4096]].concat();
    let vote = |pre_vote| {
        Message::RequestVote(RequestVote {
            term: Term((1 << 62) - 1),
            candidate_id: STRANGER,
            last_log_index: LogIndex((1 << 62) - 1),
            last_log_term: Term((1 << 62) - 1),
            disrupt_leader: true,
            pre_vote,
        })
    };
    let messages = [
        append((1 << 62) - 1, (0, 0), Vec::new()),
        append(u64::MAX, (0, 0), Vec::new()),
        vote(false),
        vote(true),
        append(1000, (0, 0), vec![command(999, &[7; 16])]),
        append(1000, (2, 999), Vec::new()),
        snapshot(&nodes, b"garbage!".repeat(100)),
        snapshot(&nodes, bad_page),
        snapshot(&nodes, header.to_vec()),
    ];
    for (number, message) in messages.iter().enumerate() {
        for node in &nodes {
            drop(says(node, message));
        }
        eventually("a write", || {
            let mut leader = open_leader(&nodes);
            leader.exec_sql("INSERT INTO t SELECT count(*) FROM t", &[]).is_ok()
        });
        let count = one(&mut open_leader(&nodes), "SELECT count(*) FROM t");
        assert_eq!(count, Value::Integer(i64::try_from(number + 1).unwrap()), "{message:?}");
    }
    wait_equal(&nodes);
    nodes.iter_mut().for_each(TestNode::stop);
    nodes.iter_mut().for_each(TestNode::restart);
    let count = one(&mut open_leader(&nodes), "SELECT count(*) FROM t");
    assert_eq!(count, Value::Integer(i64::try_from(messages.len()).unwrap()));
    wait_equal(&nodes);
}

#[test]
fn what_no_program_says_closes_the_stream() {
    let nodes = start_three();
    for message in [
        append(5, (u64::MAX, 5), vec![command(5, &[7; 8])]),
        append(5, (3, 6), vec![command(5, &[7; 8])]),
        append(900, (0, 0), vec![command(900, &[7; 8])]),
    ] {
        for node in &nodes {
            let mut stream = says(node, &message);
            let mut rest = Vec::new();
            let read = stream.read_to_end(&mut rest);
            let is_end = read
                .as_ref()
                .map_or_else(|error| error.kind() == std::io::ErrorKind::ConnectionReset, |len| *len == 0);
            assert!(is_end, "{read:?}");
        }
    }
    assert_eq!(one(&mut open_leader(&nodes), "SELECT 42"), Value::Integer(42));
}
