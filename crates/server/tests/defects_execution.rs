//! How statements run: rows of writes, interrupts, departed clients, long queries beside everything else. Each test says
//! in its first lines what C dqlite 1.18.6 does. The table of all defects stands in the README of this folder.
#![allow(clippy::unwrap_used, reason = "a failure of a helper is a failure of the test")]

mod common;

use std::time::{Duration, Instant};

use common::raw::{LEADER, RawClient, exec_sql, exec_sql_with, message, prepare, query_sql};
use common::{ENDLESS, ENDLESS_INSERT, TestNode, eventually, one};
use wire_protocol::{Params, Request, Response, RowsEnd, Value};

const INTERRUPTED: u64 = 9;
/// Far more than anything here takes that does not wait for something endless.
const PROMPT: Duration = Duration::from_secs(3);

fn run(client: &mut RawClient, sql: &str) {
    let response = client.call(&exec_sql(sql));
    assert!(matches!(response, Response::Result { .. }), "{sql}: {response:?}");
}

fn count(client: &mut RawClient) -> Value {
    match client.call(&query_sql("SELECT count(*) FROM t")) {
        Response::Rows(rows) => rows.rows[0][0].clone(),
        other => panic!("{other:?}"),
    }
}

/// A node with an empty table `t`, and a client.
fn node_with_table() -> (TestNode, RawClient) {
    let node = TestNode::start(1);
    let mut client = RawClient::open(&node.address);
    run(&mut client, "CREATE TABLE t (n INTEGER UNIQUE)");
    (node, client)
}

fn prompt<T>(work: impl FnOnce() -> T) -> T {
    let begin = Instant::now();
    let result = work();
    assert!(begin.elapsed() < PROMPT, "{:?}", begin.elapsed());
    result
}

#[test]
fn exec_of_a_write_that_yields_rows_has_no_effect() {
    // C reports the error and commits all the same when the statement is reset: the WRITE lock stays taken, the node aborts
    // when the connection is closed or applies nothing any more.
    let (node, mut client) = node_with_table();
    let mut other = node.open();
    let refused = (1, "rows yielded when none expected for EXEC request".to_owned());
    assert!(matches!(
        client.call(&prepare("INSERT INTO t VALUES (?) RETURNING n")),
        Response::Statement { statement: 0, .. }
    ));
    for round in 0..3 {
        client.request(&exec_sql("INSERT INTO t VALUES (1) RETURNING n"));
        assert_eq!(client.failure(), refused);
        let params = Params::new(&[Value::Integer(2)]);
        client.request(&Request::Exec { database: 0, statement: 0, params });
        assert_eq!(client.failure(), refused);
        assert_eq!(count(&mut client), Value::Integer(round));
        other.exec_sql("INSERT INTO t VALUES (?)", &[Value::Integer(100 + round)]).unwrap();
    }
    // In a transaction everything else of it stays.
    run(&mut client, "BEGIN; INSERT INTO t VALUES (10)");
    client.request(&exec_sql("INSERT INTO t VALUES (11), (12) RETURNING n"));
    assert_eq!(client.failure(), refused);
    run(&mut client, "INSERT INTO t VALUES (13); COMMIT");
    let left = one(&mut other, "SELECT group_concat(n) FROM (SELECT n FROM t WHERE n < 100 ORDER BY n)");
    assert_eq!(left, common::text("10,13"));
    // One that yields no row is a write like any other.
    run(&mut client, "DELETE FROM t WHERE n = 9999 RETURNING n");
    // The session with such a failure behind it can be closed.
    client.request(&exec_sql("INSERT INTO t VALUES (1) RETURNING n"));
    assert_eq!(client.failure(), refused);
    drop(client);
    other.exec_sql("INSERT INTO t VALUES (1)", &[]).unwrap();
}

#[test]
fn rows_of_a_write_arrive_when_it_is_committed() {
    // C sends them before the write is replicated.
    let (_node, mut client) = node_with_table();
    client.request(&query_sql(
        "INSERT INTO t WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 20000) \
         SELECT n FROM c RETURNING n, hex(zeroblob(10))",
    ));
    let mut rows = 0;
    loop {
        let Response::Rows(part) = client.response() else { panic!("rows") };
        rows += part.rows.len();
        if part.end == RowsEnd::Done {
            break;
        }
    }
    assert_eq!(rows, 20_000);
    assert_eq!(count(&mut client), Value::Integer(20_000));
    // A failure in the middle takes all of it back, and nothing but the failure arrives.
    client.request(&query_sql(
        "INSERT INTO t WITH RECURSIVE c(n) AS (SELECT 50000 UNION ALL SELECT n - 1 FROM c WHERE n > 1) \
         SELECT n FROM c RETURNING n",
    ));
    assert_eq!(client.failure(), (2067, "UNIQUE constraint failed: t.n".to_owned()));
    assert_eq!(count(&mut client), Value::Integer(20_000));
}

#[test]
fn interrupt_ends_a_query_and_is_answered_once() {
    // C reads it when the query is over. An attempt to act on it would stop the whole node until the step has ended.
    let (node, mut client) = node_with_table();
    let mut other = node.open();
    for round in 0..5_u64 {
        client.request(&query_sql(ENDLESS));
        std::thread::sleep(Duration::from_millis(20 * round));
        prompt(|| other.exec_sql("INSERT INTO t VALUES (NULL)", &[]).unwrap());
        prompt(|| assert_eq!(client.call(&Request::Interrupt), Response::Empty));
        assert_eq!(count(&mut client), Value::Integer(1 + i64::try_from(round).unwrap()));
    }
    assert!(client.is_silent(Duration::from_millis(50)));
}

#[test]
fn interrupt_ends_a_stream_of_rows() {
    // C sends all remaining rows first.
    let (_node, mut client) = node_with_table();
    let endless = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT n FROM c";
    for _ in 0..10 {
        client.request(&query_sql(endless));
        assert!(matches!(client.response(), Response::Rows(rows) if rows.end == RowsEnd::Part));
        client.request(&Request::Interrupt);
        let mut parts = 0;
        loop {
            match client.response() {
                Response::Rows(rows) => assert_eq!(rows.end, RowsEnd::Part),
                Response::Empty => break,
                other => panic!("{other:?}"),
            }
            parts += 1;
            assert!(parts < 1000, "the stream goes on");
        }
        assert_eq!(count(&mut client), Value::Integer(0));
    }
}

#[test]
fn interrupt_ends_a_write_and_leaves_nothing_of_it() {
    // C reads it when the write is over.
    let (node, mut client) = node_with_table();
    let mut other = node.open();
    client.request(&exec_sql(ENDLESS_INSERT));
    std::thread::sleep(Duration::from_millis(100));
    client.request(&Request::Interrupt);
    assert_eq!(prompt(|| client.failure()), (INTERRUPTED, "interrupted".to_owned()));
    assert_eq!(client.response(), Response::Empty);
    prompt(|| other.exec_sql("INSERT INTO t VALUES (1)", &[]).unwrap());
    assert_eq!(count(&mut client), Value::Integer(1));
}

#[test]
fn interrupt_ends_the_waiting_for_the_lane() {
    // C reads it when the wait is over.
    let (node, mut client) = node_with_table();
    let mut holder = node.open();
    holder.exec_sql("BEGIN IMMEDIATE", &[]).unwrap();
    run(&mut client, "SELECT 1 WHERE 0");
    for request in [
        exec_sql("INSERT INTO t VALUES (1)"),
        exec_sql("/* not seen to be a write */ INSERT INTO t VALUES (1)"),
        exec_sql("SELECT 1 WHERE 0; INSERT INTO t VALUES (1)"),
    ] {
        client.request(&request);
        std::thread::sleep(Duration::from_millis(50));
        client.request(&Request::Interrupt);
        assert_eq!(prompt(|| client.failure()), (INTERRUPTED, "interrupted".to_owned()));
        assert_eq!(client.response(), Response::Empty);
    }
    client.request(&query_sql("INSERT INTO t VALUES (1) RETURNING n"));
    std::thread::sleep(Duration::from_millis(50));
    prompt(|| assert_eq!(client.call(&Request::Interrupt), Response::Empty));
    holder.exec_sql("COMMIT", &[]).unwrap();
    assert_eq!(count(&mut client), Value::Integer(0));
    run(&mut client, "INSERT INTO t VALUES (1)");
}

#[test]
fn interrupt_of_a_committing_write_tells_the_truth() {
    // During replication C answers "leader exec failed" and commits.
    let (_node, mut client) = node_with_table();
    let (mut done, mut undone) = (0, 0);
    for number in 0..300 {
        client.request(&exec_sql_with("INSERT INTO t VALUES (?)", &[Value::Integer(number)]));
        std::thread::sleep(Duration::from_micros(u64::try_from(number % 20).unwrap() * 50));
        client.request(&Request::Interrupt);
        match client.response() {
            Response::Result { rows_affected: 1, .. } => done += 1,
            Response::Failure { code: INTERRUPTED, .. } => undone += 1,
            other => panic!("{other:?}"),
        }
        assert_eq!(client.response(), Response::Empty);
        assert_eq!(count(&mut client), Value::Integer(done));
    }
    assert_eq!(done + undone, 300);
}

/// Both kinds of sockets tell of a departure in different ways.
fn on_both(test: impl Fn(TestNode)) {
    test(TestNode::start(1));
    test(TestNode::start_tcp(1, |_| {}));
}

#[test]
fn departure_inside_a_transaction_frees_the_lane_at_once() {
    // As C, but also while all readers are busy.
    on_both(|node| {
        let mut other = node.open();
        other.exec_sql("CREATE TABLE t (n INTEGER)", &[]).unwrap();
        let mut busy: Vec<RawClient> = (0..8).map(|_| RawClient::open(&node.address)).collect();
        busy.iter_mut().for_each(|client| client.request(&query_sql(ENDLESS)));
        for _ in 0..3 {
            let mut holder = RawClient::open(&node.address);
            run(&mut holder, "BEGIN IMMEDIATE; INSERT INTO t VALUES (1)");
            drop(holder);
            prompt(|| other.exec_sql("INSERT INTO t VALUES (2)", &[]).unwrap());
        }
        drop(busy);
        prompt(|| assert_eq!(one(&mut other, "SELECT count(*) FROM t"), Value::Integer(3)));
    });
}

#[test]
fn departure_ends_reads_writes_and_waits() {
    // C notices when the statement is over; a SELECT that sends nothing keeps a core busy for ever.
    on_both(|node| {
        let mut other = node.open();
        other.exec_sql("CREATE TABLE t (n INTEGER)", &[]).unwrap();
        let threads = 4;
        for _ in 0..threads {
            let mut reader = RawClient::open(&node.address);
            reader.request(&query_sql(ENDLESS));
        }
        let mut streaming = RawClient::open(&node.address);
        streaming.request(&query_sql(
            "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT n FROM c",
        ));
        drop(streaming);
        // More requests than are read ahead stand between the query and the end of the stream.
        let mut talker = RawClient::open(&node.address);
        talker.request(&query_sql(ENDLESS));
        talker.send(&message(LEADER, 0, &[0; 8]).repeat(500));
        drop(talker);
        // A reader of the pool becomes free for this one.
        prompt(|| assert_eq!(one(&mut other, "SELECT 5"), Value::Integer(5)));
    });
    let node = TestNode::start(1);
    let mut other = node.open();
    other.exec_sql("CREATE TABLE t (n INTEGER)", &[]).unwrap();
    let mut writer = RawClient::open(&node.address);
    writer.request(&exec_sql(ENDLESS_INSERT));
    std::thread::sleep(Duration::from_millis(50));
    let mut waiter = RawClient::open(&node.address);
    waiter.request(&exec_sql("INSERT INTO t VALUES (1)"));
    std::thread::sleep(Duration::from_millis(50));
    drop(waiter);
    drop(writer);
    prompt(|| other.exec_sql("INSERT INTO t VALUES (2)", &[]).unwrap());
    assert_eq!(one(&mut other, "SELECT group_concat(n) FROM t"), common::text("2"));
}

#[test]
fn a_client_that_sends_no_more_gets_all_its_answers() {
    // As C. What it waits for too long is ended with a failure: it may be gone altogether.
    let node = TestNode::start_tcp(1, |_| {});
    let mut client = RawClient::open(&node.address);
    run(&mut client, "CREATE TABLE t (n INTEGER)");
    client.request(&query_sql(ENDLESS));
    client.request(&exec_sql("INSERT INTO t VALUES (1)"));
    client.request(&query_sql(ENDLESS));
    client.request(&query_sql("SELECT count(*) FROM t"));
    client.half_close();
    assert_eq!(client.failure(), (INTERRUPTED, "interrupted".to_owned()));
    assert!(matches!(client.response(), Response::Result { rows_affected: 1, .. }));
    assert_eq!(client.failure(), (INTERRUPTED, "interrupted".to_owned()));
    assert!(matches!(client.response(), Response::Rows(rows) if rows.rows == [[Value::Integer(1)]]));
    client.expect_closed();
}

#[test]
fn long_queries_leave_room_for_everything_else() {
    // Four of them take all of C's threads, which raft needs to prepare segments; nobody else gets anywhere.
    let node = TestNode::start(1);
    let mut writer = node.open();
    writer.exec_sql("CREATE TABLE t (n INTEGER)", &[]).unwrap();
    let mut busy: Vec<RawClient> = (0..8).map(|_| RawClient::open(&node.address)).collect();
    busy.iter_mut().for_each(|client| client.request(&query_sql(ENDLESS)));
    std::thread::sleep(Duration::from_millis(50));
    prompt(|| {
        for number in 0..50 {
            writer.exec_sql("INSERT INTO t VALUES (?)", &[Value::Integer(number)]).unwrap();
        }
    });
    // What does not read rows goes on: opening, preparing, transactions, membership, DUMP.
    prompt(|| {
        let mut fresh = node.open();
        let insert = fresh.prepare("INSERT INTO t VALUES (?)").unwrap();
        fresh.exec_sql("BEGIN IMMEDIATE", &[]).unwrap();
        fresh.exec(insert, &[Value::Integer(50)]).unwrap();
        assert_eq!(one(&mut fresh, "SELECT count(*) FROM t"), Value::Integer(51));
        fresh.exec_sql("COMMIT", &[]).unwrap();
        fresh.finalize(insert).unwrap();
        assert_eq!(fresh.leader().unwrap().1, node.address);
        assert_eq!(fresh.dump("test").unwrap().len(), 2);
    });
    drop(busy);
    eventually("readers are free again", || one(&mut writer, "SELECT count(*) FROM t") == Value::Integer(51));
}

#[test]
fn more_queries_than_queues_hold_stop_nobody() {
    // Any number of queued requests is harmless for C too, but there nothing gets past four endless ones.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    let mut node = TestNode::start(1);
    let mut writer = node.open();
    writer.exec_sql("CREATE TABLE t (n INTEGER)", &[]).unwrap();
    let mut busy: Vec<RawClient> = (0..1200).map(|_| RawClient::open(&node.address)).collect();
    busy.iter_mut().for_each(|client| client.request(&query_sql(ENDLESS)));
    prompt(|| writer.exec_sql("INSERT INTO t VALUES (1)", &[]).unwrap());
    prompt(|| node.open().prepare("SELECT 1").unwrap());
    prompt(|| assert_eq!(busy[0].call(&Request::Interrupt), Response::Empty));
    prompt(|| assert_eq!(busy[1100].call(&Request::Interrupt), Response::Empty));
    drop(busy.split_off(600));
    prompt(|| writer.exec_sql("INSERT INTO t VALUES (2)", &[]).unwrap());
    prompt(|| node.stop());
}

#[test]
fn stop_does_not_wait_for_statements() {
    let mut node = TestNode::start(1);
    node.open().exec_sql("CREATE TABLE t (n INTEGER)", &[]).unwrap();
    let mut busy: Vec<RawClient> = (0..8).map(|_| RawClient::open(&node.address)).collect();
    busy.iter_mut().for_each(|client| client.request(&query_sql(ENDLESS)));
    let mut writer = RawClient::open(&node.address);
    writer.request(&exec_sql(ENDLESS_INSERT));
    let mut waiter = RawClient::open(&node.address);
    waiter.request(&exec_sql("INSERT INTO t VALUES (1)"));
    std::thread::sleep(Duration::from_millis(100));
    prompt(|| node.stop());
    for client in busy.iter_mut().chain([&mut writer, &mut waiter]) {
        client.expect_closed();
    }
    node.restart();
    assert_eq!(one(&mut node.open(), "SELECT count(*) FROM t"), Value::Integer(0));
}
