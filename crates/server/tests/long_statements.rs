//! A statement that takes long, on the thread that has the loop: somebody else has the loop then.
#![allow(clippy::unwrap_used, reason = "a failure of a helper is a failure of the test")]

mod common;

use std::time::{Duration, Instant};

use common::raw::{RawClient, exec_sql, query_sql};
use common::{ENDLESS, ENDLESS_INSERT, TestNode, one, open_leader, start_three};
use wire_protocol::{Request, Response, Value};

/// Nothing in front of an endless statement ever returns if the loop waits for it.
const PROMPT: Duration = Duration::from_secs(5);

/// Ends the statement; a write is answered first.
fn interrupt(client: &mut RawClient) {
    client.request(&Request::Interrupt);
    match client.response() {
        Response::Failure { code: 9, .. } => assert_eq!(client.response(), Response::Empty),
        Response::Empty => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn long_statements_take_turns_with_everything_else() {
    let node = TestNode::start(1);
    let mut client = node.open();
    client.exec_sql("CREATE TABLE t (n INTEGER)", &[]).unwrap();
    let mut other = node.connect();
    other.open("other").unwrap();
    other.exec_sql("CREATE TABLE t (n INTEGER)", &[]).unwrap();
    let mut long = RawClient::open(&node.address);
    for round in 0..10 {
        let begun = Instant::now();
        let statement = if round % 2 == 0 { exec_sql(ENDLESS_INSERT) } else { query_sql(ENDLESS) };
        long.request(&statement);
        // Each round ends with the loop at the other thread.
        for number in 0..20 {
            other.exec_sql("INSERT INTO t VALUES (?)", &[Value::Integer(number)]).unwrap();
            assert_eq!(one(&mut client, "SELECT count(*) FROM t"), Value::Integer(round));
        }
        assert!(begun.elapsed() < PROMPT, "{:?}", begun.elapsed());
        interrupt(&mut long);
        client.exec_sql("INSERT INTO t VALUES (1)", &[]).unwrap();
        // Sometimes both threads are there when the next one comes, sometimes not.
        std::thread::sleep(Duration::from_millis(20 * round.unsigned_abs()));
    }
    assert_eq!(one(&mut other, "SELECT count(*) FROM t"), Value::Integer(200));
}

#[test]
fn a_leader_stays_the_leader_while_it_runs_a_long_statement() {
    let nodes = start_three();
    let mut client = open_leader(&nodes);
    client.exec_sql("CREATE TABLE t (n INTEGER)", &[]).unwrap();
    let mut long = RawClient::open(client.address());
    long.request(&exec_sql(ENDLESS_INSERT));
    // Longer than an election timeout of these nodes takes.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(one(&mut client, "SELECT count(*) FROM t"), Value::Integer(0));
    interrupt(&mut long);
    client.exec_sql("INSERT INTO t VALUES (1)", &[]).unwrap();
}

#[test]
fn stop_interrupts_what_the_thread_runs_that_had_the_loop() {
    for statement in [exec_sql(ENDLESS_INSERT), query_sql(ENDLESS)] {
        for wait_ms in [0, 1, 2, 30] {
            let mut node = TestNode::start(1);
            node.open().exec_sql("CREATE TABLE t (n INTEGER)", &[]).unwrap();
            let mut long = RawClient::open(&node.address);
            long.request(&statement);
            std::thread::sleep(Duration::from_millis(wait_ms));
            let begun = Instant::now();
            node.stop();
            assert!(begun.elapsed() < PROMPT, "{:?}", begun.elapsed());
            long.expect_closed();
        }
    }
}
