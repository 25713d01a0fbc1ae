//! What clients may cost: descriptors and memory of the whole process. One test at a time, since that is what they
//! measure; each says in its first lines what C dqlite 1.18.6 does.
#![allow(clippy::unwrap_used, reason = "a failure of a helper is a failure of the test")]

mod common;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::raw::{
    CONNECT, EXEC, LEADER, OPEN, QUERY_SQL, RawClient, header, message, query_sql, text_field,
};
use common::{TestNode, eventually, memory, one, sockets};
use wire_protocol::{Request, Response, RowsEnd, Value};

const PARSE: u64 = 1005;
const MIB: u64 = 1 << 20;

fn alone() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The node answers.
fn assert_alive(node: &TestNode) {
    assert_eq!(one(&mut node.open(), "SELECT 5"), Value::Integer(5));
}

#[test]
fn body_of_zero_words_is_answered_and_the_connection_goes_on() {
    // C never reads such a connection again, not even its end: 20 of them closed by their clients kept 20 descriptors.
    let _alone = alone();
    let node = TestNode::start_tcp(1, |_| {});
    let before = sockets();
    for _ in 0..20 {
        let mut client = RawClient::connect(&node.address);
        for kind in [LEADER, OPEN, EXEC, QUERY_SQL, 200] {
            client.send(&header(0, kind, 0));
            let (code, text) = client.failure();
            assert_eq!(code, PARSE, "type {kind}: {text}");
        }
        assert!(matches!(client.call(&Request::Leader), Response::Server { .. }));
    }
    eventually("all sockets closed", || sockets() <= before);
    assert_alive(&node);
}

#[test]
fn malformed_connect_closes_the_connection() {
    // As C. It must not stay behind unread: the socket waits for what becomes of a CONNECT.
    let _alone = alone();
    let node = TestNode::start_tcp(1, |_| {});
    let before = sockets();
    for body in
        [vec![], vec![1; 8], [vec![1; 8], vec![0xff; 8]].concat(), [vec![1; 8], text_field(b"\xff")].concat()]
    {
        let mut client = RawClient::connect(&node.address);
        client.send(&message(CONNECT, 0, &body));
        let (code, _) = client.failure();
        assert_eq!(code, PARSE);
        client.expect_closed();
    }
    eventually("all sockets closed", || sockets() <= before);
}

#[test]
fn announced_sizes_cost_nothing() {
    // C reserves what a header announces, before any of it arrives.
    let _alone = alone();
    let node = TestNode::start(1);
    let before = memory("VmSize");
    let mut waiting: Vec<RawClient> = (0..50)
        .map(|_| {
            let mut client = RawClient::connect(&node.address);
            // Just below the limit of 512 MiB: 25 GiB in all, of which nothing but a few bytes is sent.
            client.send(&header(0x03ff_ffff, QUERY_SQL, 0));
            client.send(&[b'x'; 64]);
            client
        })
        .collect();
    assert_alive(&node);
    assert!(waiting.iter_mut().all(|client| client.is_silent(Duration::from_millis(5))));
    let grown = memory("VmSize").saturating_sub(before);
    assert!(grown < 1024 * MIB, "{grown} bytes");
}

#[test]
fn large_results_pass_through_in_parts() {
    // As C, but for rows of a write: one batch is in memory, whatever the result.
    let _alone = alone();
    let node = TestNode::start(1);
    let mut client = RawClient::open(&node.address);
    let before = memory("VmRSS");
    // 200 MiB.
    let sql = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 204800) \
               SELECT n, zeroblob(1000) FROM c";
    client.request(&query_sql(sql));
    let (mut rows, mut parts, mut most) = (0, 0_u64, 0);
    loop {
        let Response::Rows(part) = client.response() else { panic!("rows") };
        assert!(!part.rows.is_empty() || part.end == RowsEnd::Done, "a part without rows");
        rows += part.rows.len();
        parts += 1;
        if parts % 256 == 0 {
            most = most.max(memory("VmRSS"));
        }
        if part.end == RowsEnd::Done {
            break;
        }
    }
    assert_eq!(rows, 204_800);
    assert!(parts > 1000, "{parts}");
    let grown = most.saturating_sub(before);
    assert!(grown < 32 * MIB, "{grown} bytes");
}

#[test]
fn slow_readers_stop_nobody_and_hold_little() {
    // In C a reader that does not take its rows pins the WAL: it cannot be checkpointed and grows without bound.
    let _alone = alone();
    let node = TestNode::start_tcp(1, |_| {});
    let mut writer = node.open();
    writer.exec_sql("CREATE TABLE t (n INTEGER PRIMARY KEY, b BLOB)", &[]).unwrap();
    let fill = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 20000) \
                INSERT INTO t SELECT n, zeroblob(1000) FROM c";
    writer.exec_sql(fill, &[]).unwrap();
    let mut readers: Vec<RawClient> = (0..20)
        .map(|_| {
            let mut reader = RawClient::open(&node.address);
            reader.request(&query_sql("SELECT * FROM t"));
            reader
        })
        .collect();
    // 20 MiB for each of them, of which the sockets take a part.
    writer.exec_sql("UPDATE t SET n = n", &[]).unwrap();
    let before = memory("VmRSS");
    for round in 0..1000 {
        writer
            .exec_sql("UPDATE t SET b = zeroblob(1000) WHERE n = ?", &[Value::Integer(1 + round % 10)])
            .unwrap();
    }
    assert_eq!(one(&mut node.open(), "SELECT count(*) FROM t"), Value::Integer(20_000));
    let grown = memory("VmRSS").saturating_sub(before);
    assert!(grown < 64 * MIB, "{grown} bytes");
    // All that was asked for is still there.
    for reader in &mut readers[..3] {
        let mut rows = 0;
        loop {
            let Response::Rows(part) = reader.response() else { panic!("rows") };
            rows += part.rows.len();
            if part.end == RowsEnd::Done {
                break;
            }
        }
        assert_eq!(rows, 20_000);
    }
}

#[test]
fn dumps_that_nobody_reads_hold_little() {
    // C puts the whole database into the buffer of each of them, with 32 bits for its length.
    let _alone = alone();
    let node = TestNode::start_tcp(1, |_| {});
    let mut writer = node.open();
    writer.exec_sql("CREATE TABLE t (n INTEGER PRIMARY KEY, b BLOB)", &[]).unwrap();
    let fill = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 64) \
                INSERT INTO t SELECT n, zeroblob(1000000) FROM c";
    writer.exec_sql(fill, &[]).unwrap();
    let before = memory("VmRSS");
    let mut dumpers: Vec<RawClient> = (0..10).map(|_| RawClient::connect(&node.address)).collect();
    for dumper in &mut dumpers {
        dumper.request(&Request::Dump { name: "test".into() });
    }
    assert!(dumpers.iter_mut().all(|dumper| !dumper.is_silent(common::TIMEOUT)));
    writer.exec_sql("DELETE FROM t WHERE n > 1", &[]).unwrap();
    let grown = memory("VmRSS").saturating_sub(before);
    assert!(grown < 64 * MIB, "{grown} bytes");
    // What they asked for is the state at that time.
    let mut dumper = dumpers.remove(0);
    drop(dumpers);
    let Response::Files(files) = dumper.response() else { panic!("files") };
    assert!(files[0].1.len() > 64_000_000);
    assert!(files[1].1.is_empty());
}

#[test]
fn names_that_were_only_opened_cost_nothing() {
    // Each name opened keeps C a descriptor and a database until the node stops.
    let _alone = alone();
    let node = TestNode::start(1);
    let open = |name: String| {
        let mut client = node.connect();
        client.open(&name).unwrap();
        client
    };
    let mut kept = open("kept".to_owned());
    kept.exec_sql("CREATE TABLE t (n INTEGER)", &[]).unwrap();
    drop(open("warm up".to_owned()));
    let (sockets_before, memory_before) = (sockets(), memory("VmRSS"));
    for number in 0..5000 {
        let mut client = open(format!("{number}-{}", "x".repeat(400)));
        client.query_sql("SELECT * FROM sqlite_schema", &[]).unwrap();
    }
    eventually("all sockets closed", || sockets() <= sockets_before);
    let grown = memory("VmRSS").saturating_sub(memory_before);
    assert!(grown < 4 * MIB, "{grown} bytes");
    assert_eq!(one(&mut kept, "SELECT count(*) FROM t"), Value::Integer(0));
    let dumped = node.connect().dump(&format!("1-{}", "x".repeat(400)));
    assert_eq!(dumped.unwrap_err().code(), Some(1002), "the name is forgotten");
}

#[test]
fn buffers_of_a_connection_shrink_again() {
    // C's buffers grow to the largest message and stay so for the life of the connection.
    let _alone = alone();
    let node = TestNode::start(1);
    let mut clients: Vec<RawClient> = (0..32).map(|_| RawClient::open(&node.address)).collect();
    let before = memory("VmRSS");
    for client in &mut clients {
        let text = format!("SELECT length('{}') AS n", "x".repeat(16 << 20));
        let Response::Rows(rows) = client.call(&query_sql(&text)) else { panic!("rows") };
        assert_eq!(rows.rows, [[Value::Integer(16 << 20)]]);
    }
    for client in &mut clients {
        assert!(matches!(client.call(&Request::Leader), Response::Server { .. }));
    }
    // The allocator keeps what is free at the end of each thread's heap, however many clients there were, but nothing else:
    // without `trim.rs` that would be up to 250 MiB.
    eventually("buffers are given back", || memory("VmRSS").saturating_sub(before) < 192 * MIB);
}

#[test]
fn prepared_statements_are_limited() {
    // C keeps any number of them.
    let _alone = alone();
    let node = TestNode::start(1);
    let mut client = node.open();
    let mut kept = Vec::new();
    let error = loop {
        match client.prepare("SELECT 1") {
            Ok(statement) => kept.push(statement),
            Err(error) => break error,
        }
    };
    assert_eq!((kept.len(), error.code()), (16 * 1024, Some(7)));
    client.finalize(kept.pop().unwrap()).unwrap();
    let again = client.prepare("SELECT 2").unwrap();
    assert_eq!(client.query(again, &[]).unwrap().rows, [[Value::Integer(2)]]);
}
