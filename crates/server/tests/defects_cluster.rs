//! Loss of leadership and snapshots between nodes. Each test says in its first lines what C dqlite 1.18.6 does. The table
//! of all defects stands in the README of this folder.
#![allow(clippy::unwrap_used, reason = "a failure of a helper is a failure of the test")]

mod common;

use common::alone::Alone;
use common::raw::{RawClient, exec_sql, query_sql};
use common::{TestNode, eventually, leader_of, position, start_three_with, wait_equal};
use raft_glue::disk::MemoryDisk;
use raft_glue::{LogIndex, StreamId, Term};
use server::client::Client;
use server::core::Input;
use server::options::TrailingStrategy;
use server::{Node, NodeId};
use wire_protocol::rpc::{AppendEntries, Message};
use wire_protocol::{Params, Request, Response, Value};

/// Elections after 1.5 to 3 s, so that a busy machine does not hold any.
fn patient(node: &mut Node) {
    node.options_mut().unwrap().set_network_latency_ms(100).unwrap();
}

/// A connection to the leader with this database open.
fn open_leader(nodes: &[TestNode], name: &str) -> Client {
    let mut opened = None;
    eventually("a leader", || {
        let mut client = leader_of(nodes);
        let is_open = client.open(name).is_ok();
        opened = Some(client);
        is_open
    });
    opened.unwrap()
}

#[test]
fn lost_leadership_answers_everybody_who_waits_for_the_lane() {
    // A queued writer that is released while raft fails its requests makes C use freed memory.
    let mut nodes = start_three_with(patient);
    let mut client = open_leader(&nodes, "test");
    client.exec_sql("CREATE TABLE t (n INTEGER)", &[]).unwrap();
    let leader = position(&nodes, &client);
    let address = nodes[leader].address.clone();
    let mut holder = RawClient::open(&address);
    assert!(matches!(holder.call(&exec_sql("BEGIN; INSERT INTO t VALUES (1)")), Response::Result { .. }));
    let mut waiters: Vec<RawClient> = (0..20).map(|_| RawClient::open(&address)).collect();
    for waiter in &mut waiters {
        waiter.request(&exec_sql("INSERT INTO t VALUES (2)"));
    }
    let mut readers: Vec<RawClient> = (0..3).map(|_| RawClient::open(&address)).collect();
    for reader in &mut readers {
        reader.request(&query_sql(common::ENDLESS));
    }
    for node in (0..3).filter(|node| *node != leader) {
        nodes[node].stop();
    }
    holder.request(&exec_sql("COMMIT"));
    let (code, _) = holder.failure();
    assert!(code == 10506 || code == 10250, "{code}");
    for client in waiters.iter_mut().chain(&mut readers) {
        let (code, text) = client.failure();
        assert!([10506, 10250].contains(&code), "({code}, {text})");
        client.request(&query_sql("SELECT 1"));
        let (code, text) = client.failure();
        assert!([10250, 12].contains(&code), "({code}, {text})");
    }
    for node in (0..3).filter(|node| *node != leader) {
        nodes[node].restart();
    }
    eventually("writes go on", || {
        let mut client = leader_of(&nodes);
        client.open("test").is_ok() && client.exec_sql("INSERT INTO t VALUES (3)", &[]).is_ok()
    });
    wait_equal(&nodes);
}

#[test]
fn a_snapshot_takes_databases_away_that_it_does_not_hold() {
    // In C they stay.
    let mut nodes = start_three_with(|node| {
        patient(node);
        let options = node.options_mut().unwrap();
        options.set_snapshot_params(16, 16, TrailingStrategy::Static).unwrap();
    });
    let mut old = open_leader(&nodes, "old");
    old.exec_sql("CREATE TABLE t (n INTEGER)", &[]).unwrap();
    let away = (position(&nodes, &old) + 1) % 3;
    eventually("the database is everywhere", || nodes[away].connect().dump("old").is_ok());
    nodes[away].stop();
    old.exec_sql("BEGIN IMMEDIATE; PRAGMA delete_database; COMMIT", &[]).unwrap();
    drop(old);
    let mut client = open_leader(&nodes, "test");
    client.exec_sql("CREATE TABLE t (n INTEGER)", &[]).unwrap();
    for number in 0..100 {
        client.exec_sql("INSERT INTO t VALUES (?)", &[Value::Integer(number)]).unwrap();
    }
    let opened_only = open_leader(&nodes, "never written");
    nodes[away].restart();
    wait_equal(&nodes);
    for name in ["old", "never written"] {
        let dumped = nodes[away].connect().dump(name);
        assert_eq!(dumped.unwrap_err().code(), Some(1002), "{name}");
    }
    drop(opened_only);
}

#[test]
fn sessions_end_with_the_leadership_and_others_begin_with_the_next() {
    // As C since 1.18.3: the connection stays, its database is closed. A refused schema change that the session remembers
    // could reach another table there.
    let nodes = start_three_with(patient);
    let mut client = open_leader(&nodes, "test");
    client.exec_sql("CREATE TABLE t (n INTEGER)", &[]).unwrap();
    let leader = position(&nodes, &client);
    let mut session = RawClient::open(&nodes[leader].address);
    assert!(matches!(session.call(&exec_sql("BEGIN; CREATE TABLE gone (a)")), Response::Result { .. }));
    let target = (leader + 1) % 3;
    client.transfer(NodeId(nodes[target].id)).unwrap();
    session.request(&exec_sql("INSERT INTO gone VALUES (1)"));
    assert_eq!(session.failure(), (10250, "not leader".to_owned()));
    let mut next = open_leader(&nodes, "test");
    next.exec_sql("CREATE TABLE other (a)", &[]).unwrap();
    // Back to the first, where the old connection has to open the database again.
    eventually("the first leads again", || {
        next.transfer(NodeId(nodes[leader].id)).is_ok() || {
            next = open_leader(&nodes, "test");
            position(&nodes, &next) == leader
        }
    });
    eventually("its database is closed", || {
        session.request(&exec_sql("INSERT INTO gone VALUES (1)"));
        let (code, _) = session.failure();
        assert!([10250, 12].contains(&code), "{code}");
        code == 12
    });
    session.request(&Request::Finalize { database: 0, statement: 0 });
    assert_eq!(session.failure(), (12, "no database opened".to_owned()));
    assert_eq!(session.call(&common::raw::open_request(b"test")), Response::Database { id: 0 });
    session.request(&exec_sql("INSERT INTO gone VALUES (1)"));
    assert_eq!(session.failure(), (1, "no such table: gone".to_owned()));
    let rows = session.call(&query_sql("SELECT count(*) FROM other"));
    assert!(matches!(rows, Response::Rows(rows) if rows.rows == [[Value::Integer(0)]]));
}

#[test]
fn a_write_that_reached_the_log_before_its_job_came_back_is_not_called_refused() {
    // Simulator seeds 120 and 164: "not leader" means that nothing was written, and a client that believes it writes twice.
    for (sql, expected) in [("INSERT INTO t VALUES (1)", 10506), ("SELECT count(*) FROM t", 10250)] {
        let mut alone = Alone::start(MemoryDisk::new(1), None);
        alone.open("test");
        alone.exec("CREATE TABLE t (n INTEGER)").unwrap();
        let prepare =
            Request::Prepare { database: 0, sql: sql.into(), schema: wire_protocol::PrepareSchema::V0 };
        alone.request(&prepare);
        let Some(Response::Statement { statement, .. }) = alone.answer() else { panic!("not prepared") };
        alone.holds_jobs = true;
        let params = Params::default();
        alone.request(&match expected {
            10506 => Request::Exec { database: 0, statement, params },
            _ => Request::Query { database: 0, statement, params },
        });
        assert!(alone.answer().is_none());
        let entries = AppendEntries {
            term: Term(99),
            prev_log_index: LogIndex(0),
            prev_log_term: Term(0),
            leader_commit: LogIndex(0),
            entries: Vec::new(),
            echo: 0,
        };
        let message = Message::AppendEntries(entries);
        let (stream, from, address) = (StreamId(1), NodeId(2), "2".to_owned());
        alone.feed(Input::PeerMessage { stream, from, address, message });
        alone.release_jobs();
        match alone.answer() {
            Some(Response::Failure { code, .. }) => assert_eq!(code, expected, "{sql}"),
            other => panic!("{sql}: {other:?}"),
        }
    }
}
