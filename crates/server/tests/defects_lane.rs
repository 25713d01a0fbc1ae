//! Writers beside writers: the lane of a database, its queue and its deadlines. Each test says in its first lines what C
//! dqlite 1.18.6 does. The table of all defects stands in the README of this folder.
#![allow(clippy::unwrap_used, reason = "a failure of a helper is a failure of the test")]

mod common;

use std::time::{Duration, Instant};

use common::raw::{RawClient, exec_sql};
use common::{ENDLESS_INSERT, TestNode, no_patience, one, text};
use server::Node;
use server::client::{Client, ClientError};
use wire_protocol::{Response, Value};

const BUSY: (u64, &str) = (5, "database is locked");
const BUSY_SNAPSHOT: u64 = 517;

fn half_a_second(node: &mut Node) {
    node.options_mut().unwrap().live().set_busy_timeout_ms(500);
}

fn half_a_minute(node: &mut Node) {
    node.options_mut().unwrap().live().set_busy_timeout_ms(30_000);
}

fn assert_busy<T: std::fmt::Debug>(result: Result<T, ClientError>) {
    match result {
        Err(ClientError::Failure { code, message }) => assert_eq!((code, message.as_str()), BUSY),
        other => panic!("{other:?}"),
    }
}

fn elapsed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let begin = Instant::now();
    let result = work();
    (begin.elapsed(), result)
}

fn with_table(node: &TestNode) -> Client {
    let mut client = node.open();
    client.exec_sql("CREATE TABLE t (n INTEGER)", &[]).unwrap();
    client
}

#[test]
fn single_statements_of_128_clients_are_never_locked_out() {
    // With C's default busy timeout of 0 every writer that finds another one gets "database is locked".
    let node = TestNode::start(1);
    node.open().exec_sql("CREATE TABLE t (k INTEGER PRIMARY KEY, v INTEGER)", &[]).unwrap();
    const UPSERT: &str = "INSERT INTO t VALUES (?, 1) ON CONFLICT (k) DO UPDATE SET v = v + 1";
    let clients: Vec<_> = (0..128)
        .map(|number| {
            let mut client = node.open();
            std::thread::spawn(move || {
                let prepared = client.prepare(UPSERT).unwrap();
                for round in 0..12_i64 {
                    let key = [Value::Integer(round % 5)];
                    match (number + round) % 3 {
                        0 => drop(client.exec_sql(UPSERT, &key).unwrap()),
                        1 => drop(client.exec(prepared, &key).unwrap()),
                        _ => drop(client.query_sql(&format!("{UPSERT} RETURNING v"), &key).unwrap()),
                    }
                }
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    assert_eq!(one(&mut node.open(), "SELECT sum(v) FROM t"), Value::Integer(128 * 12));
}

#[test]
fn a_transaction_makes_others_wait_as_long_as_was_chosen() {
    // As C; but it reports the time-out of a QUERY_SQL as "nonempty statement tail".
    let node = TestNode::start_with(1, half_a_second);
    let mut other = with_table(&node);
    let mut holder = node.open();
    holder.exec_sql("BEGIN IMMEDIATE", &[]).unwrap();
    let insert = other.prepare("INSERT INTO t VALUES (1)").unwrap();
    type Call<'a> = &'a dyn Fn(&mut Client) -> Result<(), ClientError>;
    let calls: [Call<'_>; 5] = [
        &|client| client.exec_sql("INSERT INTO t VALUES (1)", &[]).map(drop),
        &|client| client.query_sql("INSERT INTO t VALUES (1) RETURNING n", &[]).map(drop),
        &|client| client.query_sql("WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x", &[]).map(drop),
        &|client| client.exec(insert, &[]).map(drop),
        &|client| client.query(insert, &[]).map(drop),
    ];
    for call in calls {
        let (waited, result) = elapsed(|| call(&mut other));
        assert_busy(result);
        assert!((400..5000).contains(&waited.as_millis()), "{waited:?}");
        // Readers wait for nobody.
        assert_eq!(one(&mut other, "SELECT count(*) FROM t"), Value::Integer(0));
    }
    let (waited, result) = elapsed(|| {
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| other.exec_sql("INSERT INTO t VALUES (2)", &[]));
            std::thread::sleep(Duration::from_millis(100));
            holder.exec_sql("COMMIT", &[]).unwrap();
            waiter.join().unwrap()
        })
    });
    result.unwrap();
    assert!(waited.as_millis() < 5000, "{waited:?}");
}

#[test]
fn a_busy_timeout_of_zero_fails_at_once() {
    // As C.
    let node = TestNode::start_with(1, no_patience);
    let mut other = with_table(&node);
    let mut holder = node.open();
    other.exec_sql("INSERT INTO t VALUES (0)", &[]).unwrap();
    holder.exec_sql("BEGIN; INSERT INTO t VALUES (1)", &[]).unwrap();
    for _ in 0..20 {
        let (waited, result) = elapsed(|| other.exec_sql("INSERT INTO t VALUES (2)", &[]));
        assert_busy(result);
        assert!(waited.as_millis() < 400, "{waited:?}");
    }
    assert_busy(other.query_sql("INSERT INTO t VALUES (2) RETURNING n", &[]));
    assert_busy(other.exec_sql("BEGIN IMMEDIATE", &[]));
    holder.exec_sql("COMMIT", &[]).unwrap();
    other.exec_sql("INSERT INTO t VALUES (2)", &[]).unwrap();
    assert_eq!(one(&mut holder, "SELECT count(*) FROM t"), Value::Integer(3));
}

#[test]
fn patience_is_five_seconds_unless_something_else_was_chosen() {
    // C's default is 0.
    let node = TestNode::start(1);
    let mut other = with_table(&node);
    let mut holder = node.open();
    holder.exec_sql("BEGIN IMMEDIATE", &[]).unwrap();
    let (waited, result) = elapsed(|| other.exec_sql("INSERT INTO t VALUES (1)", &[]));
    assert_busy(result);
    assert!((4900..10_000).contains(&waited.as_millis()), "{waited:?}");
}

#[test]
fn writers_are_served_in_order_of_arrival() {
    // As C.
    let node = TestNode::start_with(1, half_a_minute);
    let mut holder = with_table(&node);
    holder.exec_sql("BEGIN IMMEDIATE", &[]).unwrap();
    let mut waiters: Vec<RawClient> = (0..10).map(|_| RawClient::open(&node.address)).collect();
    for (number, waiter) in waiters.iter_mut().enumerate() {
        waiter.request(&exec_sql(&format!("INSERT INTO t VALUES ({number})")));
        std::thread::sleep(Duration::from_millis(20));
    }
    holder.exec_sql("COMMIT", &[]).unwrap();
    for waiter in &mut waiters {
        assert!(matches!(waiter.response(), Response::Result { .. }));
    }
    let order = one(&mut holder, "SELECT group_concat(n) FROM (SELECT n FROM t ORDER BY rowid)");
    assert_eq!(order, text("0,1,2,3,4,5,6,7,8,9"));
}

#[test]
fn an_upgrade_that_cannot_succeed_fails_at_once() {
    // In C it waits for the whole busy timeout, and then the snapshot is too old.
    let node = TestNode::start_with(1, half_a_minute);
    let mut reader = with_table(&node);
    let mut holder = node.open();
    reader.exec_sql("BEGIN", &[]).unwrap();
    assert_eq!(one(&mut reader, "SELECT count(*) FROM t"), Value::Integer(0));
    holder.exec_sql("BEGIN; INSERT INTO t VALUES (1)", &[]).unwrap();
    for sql in ["INSERT INTO t VALUES (2)", "/* hidden */ INSERT INTO t VALUES (2)"] {
        let (waited, result) = elapsed(|| reader.exec_sql(sql, &[]));
        assert_busy(result);
        assert!(waited.as_millis() < 5000, "{waited:?}");
    }
    // The transaction goes on reading, and both sides can finish.
    assert_eq!(one(&mut reader, "SELECT count(*) FROM t"), Value::Integer(0));
    holder.exec_sql("COMMIT", &[]).unwrap();
    let (waited, result) = elapsed(|| reader.exec_sql("INSERT INTO t VALUES (2)", &[]));
    assert_eq!(result.unwrap_err().code(), Some(BUSY_SNAPSHOT));
    assert!(waited.as_millis() < 5000, "{waited:?}");
    reader.exec_sql("ROLLBACK", &[]).unwrap();
    reader.exec_sql("INSERT INTO t VALUES (2)", &[]).unwrap();
    // A transaction that has not read yet has no snapshot that could be too old.
    reader.exec_sql("BEGIN", &[]).unwrap();
    holder.exec_sql("BEGIN IMMEDIATE", &[]).unwrap();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| reader.exec_sql("INSERT INTO t VALUES (3); COMMIT", &[]).unwrap());
        std::thread::sleep(Duration::from_millis(100));
        holder.exec_sql("INSERT INTO t VALUES (4); COMMIT", &[]).unwrap();
        waiter.join().unwrap();
    });
    assert_eq!(one(&mut holder, "SELECT group_concat(n) FROM t"), text("1,2,4,3"));
}

#[test]
fn lanes_of_databases_are_apart() {
    // As C.
    let node = TestNode::start(1);
    let mut holder = with_table(&node);
    holder.exec_sql("BEGIN IMMEDIATE", &[]).unwrap();
    let mut other = node.connect();
    other.open("other").unwrap();
    let (waited, result) = elapsed(|| other.exec_sql("CREATE TABLE t (n); INSERT INTO t VALUES (1)", &[]));
    result.unwrap();
    assert!(waited.as_millis() < 3000, "{waited:?}");
}

#[test]
fn a_write_without_an_owner_gives_the_lane_back() {
    // A TCP client that is gone looks like one that waits for its answer. C runs the statement to its end.
    let node = TestNode::start_tcp(1, half_a_minute);
    let mut other = with_table(&node);
    let mut writer = RawClient::open(&node.address);
    writer.request(&exec_sql(ENDLESS_INSERT));
    std::thread::sleep(Duration::from_millis(50));
    drop(writer);
    let (waited, result) = elapsed(|| other.exec_sql("INSERT INTO t VALUES (1)", &[]));
    result.unwrap();
    assert!(waited.as_millis() < 20_000, "{waited:?}");
    assert_eq!(one(&mut other, "SELECT count(*) FROM t"), Value::Integer(1));
}
