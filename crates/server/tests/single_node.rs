//! One node through its socket.
#![allow(clippy::unwrap_used, reason = "a failure of a helper is a failure of the test")]

mod common;

use std::time::{Duration, Instant};

use common::{TestNode, one, text};
use server::NodeId;
use server::options::TrailingStrategy;
use wire_protocol::{Params, Request, Value};

const INTERRUPTED: u64 = 9;

#[test]
fn sole_voter_leads_when_start_returns() {
    let node = TestNode::start(1);
    let mut client = node.connect();
    client.register(7).unwrap();
    assert_eq!(client.leader().unwrap(), (NodeId(1), node.address.clone()));
    let servers = client.cluster().unwrap();
    assert_eq!(servers.len(), 1);
    assert_eq!((servers[0].id, &servers[0].address), (NodeId(1), &node.address));
    client.weight(5).unwrap();
    assert_eq!(client.describe().unwrap(), (0, 5));
}

#[test]
fn node_that_may_not_bootstrap_waits_to_be_added() {
    let node = TestNode::start(2);
    let mut client = node.connect();
    assert_eq!(client.leader().unwrap(), (NodeId(0), String::new()));
    client.open("test").map_or_else(
        |error| assert_eq!(error.code(), Some(10250)),
        |()| {
            assert_eq!(client.exec_sql("CREATE TABLE t (n)", &[]).unwrap_err().code(), Some(10250));
        },
    );
}

#[test]
fn rows_come_back_as_they_were_written() {
    let node = TestNode::start(1);
    let mut client = node.open();
    client.exec_sql("CREATE TABLE t (i INTEGER, f FLOAT, s TEXT, b BLOB, n TEXT)", &[]).unwrap();
    let row = vec![
        Value::Integer(-5),
        Value::Float(2.5),
        text("h\u{e9}llo"),
        Value::Blob(vec![0, 1, 255].into()),
        Value::Null,
    ];
    let result = client.exec_sql("INSERT INTO t VALUES (?, ?, ?, ?, ?)", &row).unwrap();
    assert_eq!((result.last_insert_id, result.rows_affected), (1, 1));
    let result = client.query_sql("SELECT i, f, s, b, n FROM t", &[]).unwrap();
    assert_eq!(result.columns, ["i", "f", "s", "b", "n"]);
    assert_eq!(result.rows, [row]);

    let insert = client.prepare("INSERT INTO t (i) VALUES (?)").unwrap();
    assert_eq!(insert.params, 1);
    for number in 0..10 {
        client.exec(insert, &[Value::Integer(number)]).unwrap();
    }
    client.finalize(insert).unwrap();
    let query = client.prepare("SELECT count(*) FROM t WHERE i >= ?").unwrap();
    assert_eq!(client.query(query, &[Value::Integer(3)]).unwrap().rows, [[Value::Integer(7)]]);
}

#[test]
fn failing_sql_says_why_and_the_connection_goes_on() {
    let node = TestNode::start(1);
    let mut client = node.open();
    client.exec_sql("CREATE TABLE t (n INTEGER UNIQUE)", &[]).unwrap();
    client.exec_sql("INSERT INTO t VALUES (1)", &[]).unwrap();
    let error = client.exec_sql("INSERT INTO t VALUES (1)", &[]).unwrap_err();
    assert_eq!(error.code(), Some(2067));
    assert!(error.to_string().starts_with("UNIQUE constraint failed: t.n"), "{error}");
    let error = client.query_sql("SELECT * FROM missing", &[]).unwrap_err();
    assert_eq!(error.code(), Some(1));
    assert!(error.to_string().starts_with("no such table: missing"), "{error}");
    assert_eq!(client.exec_sql("NONSENSE", &[]).unwrap_err().code(), Some(1));
    assert_eq!(one(&mut client, "SELECT count(*) FROM t"), Value::Integer(1));
}

#[test]
fn transactions_of_two_clients_take_turns() {
    let node = TestNode::start(1);
    let mut first = node.open();
    let mut second = node.open();
    first.exec_sql("CREATE TABLE t (n INTEGER)", &[]).unwrap();
    first.exec_sql("BEGIN", &[]).unwrap();
    first.exec_sql("INSERT INTO t VALUES (1)", &[]).unwrap();
    assert_eq!(one(&mut second, "SELECT count(*) FROM t"), Value::Integer(0));
    let waiting = std::thread::spawn(move || {
        second.exec_sql("INSERT INTO t VALUES (2)", &[]).unwrap();
        one(&mut second, "SELECT count(*) FROM t")
    });
    std::thread::sleep(Duration::from_millis(100));
    first.exec_sql("INSERT INTO t VALUES (3)", &[]).unwrap();
    first.exec_sql("COMMIT", &[]).unwrap();
    assert_eq!(waiting.join().unwrap(), Value::Integer(3));

    first.exec_sql("BEGIN", &[]).unwrap();
    first.exec_sql("DELETE FROM t", &[]).unwrap();
    // Its transaction goes with the connection.
    drop(first);
    let mut third = node.open();
    third.exec_sql("INSERT INTO t VALUES (4)", &[]).unwrap();
    assert_eq!(one(&mut third, "SELECT count(*) FROM t"), Value::Integer(4));
}

#[test]
fn many_writers_at_once_lose_nothing() {
    let node = TestNode::start(1);
    node.open().exec_sql("CREATE TABLE t (n INTEGER)", &[]).unwrap();
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let mut client = node.open();
            std::thread::spawn(move || {
                for number in 0..25 {
                    client
                        .exec_sql("INSERT INTO t VALUES (?)", &[Value::Integer(writer * 100 + number)])
                        .unwrap();
                }
            })
        })
        .collect();
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    let mut client = node.open();
    assert_eq!(one(&mut client, "SELECT count(DISTINCT n) FROM t"), Value::Integer(200));
}

#[test]
fn long_results_arrive_whole() {
    let node = TestNode::start(1);
    let mut client = node.open();
    let sql = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 20000) \
               SELECT n, hex(zeroblob(100)) FROM c";
    let result = client.query_sql(sql, &[]).unwrap();
    assert_eq!(result.rows.len(), 20_000);
    assert!(result.rows.iter().zip(1..).all(|(row, number)| row[0] == Value::Integer(number)));
}

#[test]
fn interrupt_ends_a_query_at_once() {
    let node = TestNode::start(1);
    let mut client = node.open();
    let endless = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT max(n) FROM c";
    let request = Request::QuerySql { database: 0, sql: endless.to_owned().into(), params: Params::new(&[]) };
    client.send(&request).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let begin = Instant::now();
    client.interrupt().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    assert_eq!(one(&mut client, "SELECT 5"), Value::Integer(5));
    // Outside of a query there is nothing to end.
    client.interrupt().unwrap();
    let error = client.query_sql("SELECT * FROM missing", &[]).unwrap_err();
    assert_ne!(error.code(), Some(INTERRUPTED));
}

#[test]
fn data_survives_restarts() {
    let mut node = TestNode::start(1);
    node.open().exec_sql("CREATE TABLE t (n INTEGER)", &[]).unwrap();
    for round in 1..=3 {
        let mut client = node.open();
        client.exec_sql("INSERT INTO t VALUES (?)", &[Value::Integer(round)]).unwrap();
        assert_eq!(one(&mut client, "SELECT count(*) FROM t"), Value::Integer(round));
        let image = common::image(&node);
        node.stop();
        node.restart();
        assert_eq!(one(&mut node.open(), "SELECT count(*) FROM t"), Value::Integer(round));
        assert_eq!(common::image(&node), image);
    }
}

#[test]
fn snapshots_are_taken_and_loaded() {
    let mut node = TestNode::start_with(1, |node| {
        let options = node.options_mut().unwrap();
        options.set_snapshot_params(16, 16, TrailingStrategy::Static).unwrap();
    });
    let mut client = node.open();
    client.exec_sql("CREATE TABLE t (n INTEGER, b BLOB)", &[]).unwrap();
    for number in 0..60 {
        client.exec_sql("INSERT INTO t VALUES (?, randomblob(3000))", &[Value::Integer(number)]).unwrap();
    }
    let files = |node: &TestNode, prefix: &str| {
        std::fs::read_dir(node.path())
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().starts_with(prefix))
            .count()
    };
    common::eventually("a snapshot and its metadata", || files(&node, "snapshot-") >= 2);
    let image = common::image(&node);
    node.stop();
    assert_eq!(files(&node, "tmp-"), files(&node, "tmp-log-manifest"));
    node.restart();
    assert_eq!(common::image(&node), image);
    let mut client = node.open();
    assert_eq!(one(&mut client, "SELECT count(*) FROM t"), Value::Integer(60));
    assert_eq!(one(&mut client, "PRAGMA integrity_check"), text("ok"));
}

#[test]
fn dump_is_a_database_of_its_own() {
    let node = TestNode::start(1);
    let mut client = node.open();
    client.exec_sql("CREATE TABLE t (n INTEGER)", &[]).unwrap();
    let files = client.dump("test").unwrap();
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["test", "test-wal"]);
    assert!(files[0].1.starts_with(b"SQLite format 3\0"));
    assert_eq!(files[0].1.len() % 4096, 0);
    assert_eq!(client.dump("missing").unwrap_err().code(), Some(1002));
}
