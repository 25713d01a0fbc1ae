//! Which transactions share a log entry, and that none waits for it.
#![allow(clippy::unwrap_used, reason = "a failure of a helper is a failure of the test")]

mod common;

use bytes::Bytes;
use common::alone::Alone;
use raft_glue::disk::MemoryDisk;
use server::core::limits::GROWTH_MS;
use server::core::{ClientId, Input};
use wire_protocol::{Params, Request, Response};

const INSERT: &str = "INSERT INTO t VALUES (1)";

fn exec(sql: &'static str) -> Request {
    Request::ExecSql { database: 0, sql: Bytes::from_static(sql.as_bytes()), params: Params::default() }
}

/// A table, and clients that have it open.
fn start(clients: u64) -> (Alone, Vec<ClientId>) {
    let mut alone = Alone::start(MemoryDisk::new(1), None);
    alone.open("test");
    alone.exec("CREATE TABLE t (n INTEGER)").unwrap();
    let clients: Vec<ClientId> = (100..100 + clients).map(ClientId).collect();
    for &client in &clients {
        alone.connect(client);
        alone.open_of(client, "test");
    }
    (alone, clients)
}

fn is_done(alone: &mut Alone, client: ClientId) -> bool {
    match alone.answer_of(client) {
        Some(Response::Result { .. }) => true,
        None => false,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_entry_grows_while_most_of_the_writers_are_still_to_come() {
    let (mut alone, clients) = start(16);
    let before = alone.entries();
    for &client in &clients {
        alone.request_of(client, &exec(INSERT));
    }
    alone.settle();
    assert!(clients.iter().all(|&client| is_done(&mut alone, client)));
    // The disk is as fast as a writer here: eight, four, two, one, and the last one.
    assert_eq!(alone.entries() - before, 5);
    assert_eq!(alone.count(), 16);
}

#[test]
fn a_lone_writer_does_not_wait() {
    let (mut alone, clients) = start(1);
    let before = alone.entries();
    for _ in 0..3 {
        alone.request_of(clients[0], &exec(INSERT));
        alone.settle();
        assert!(is_done(&mut alone, clients[0]));
    }
    assert_eq!(alone.entries() - before, 3);
}

#[test]
fn what_is_captured_does_not_wait_for_an_open_transaction() {
    let (mut alone, clients) = start(6);
    alone.request_of(clients[0], &exec(INSERT));
    alone.request_of(clients[1], &exec("BEGIN IMMEDIATE"));
    for &client in &clients[2..] {
        alone.request_of(client, &exec(INSERT));
    }
    alone.settle();
    assert!(is_done(&mut alone, clients[0]));
    assert!(is_done(&mut alone, clients[1]));
    assert!(clients[2..].iter().all(|&client| !is_done(&mut alone, client)));
    alone.request_of(clients[1], &exec("COMMIT"));
    alone.settle();
    assert!(clients[1..].iter().all(|&client| is_done(&mut alone, client)));
}

#[test]
fn what_is_captured_waits_for_a_long_statement_for_a_moment_only() {
    let (mut alone, clients) = start(6);
    alone.request_of(clients[0], &exec(INSERT));
    alone.request_of(clients[1], &exec(INSERT));
    alone.holds_jobs = true;
    for &client in &clients[2..] {
        alone.request_of(client, &exec(INSERT));
    }
    alone.settle();
    alone.release_first_job();
    assert!(!is_done(&mut alone, clients[0]), "five more are there");
    // The second takes long.
    alone.now_ms += GROWTH_MS;
    alone.feed(Input::Tick);
    assert!(is_done(&mut alone, clients[0]));
    assert!(!is_done(&mut alone, clients[1]));
    alone.release_jobs();
    assert!(clients[1..].iter().all(|&client| is_done(&mut alone, client)));
}
