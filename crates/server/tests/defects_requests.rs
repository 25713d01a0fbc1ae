//! Requests that hurt C dqlite 1.18.6: malformed, oversized, out of order. Each test says in its first lines what C
//! does. The table of all defects stands in the README of this folder.
#![allow(clippy::unwrap_used, reason = "a failure of a helper is a failure of the test")]

mod common;

use std::time::{Duration, Instant};

use common::raw::{
    CONNECT, EXEC_SQL, LEADER, OPEN, PREPARE, QUERY_SQL, RawClient, exec_sql, header, message, open_request,
    prepare, query_sql, text_field,
};
use common::{TestNode, one};
use wire_protocol::{Params, Protocol, Request, Response, Value};

const PARSE: u64 = 1005;
const NOT_FOUND: u64 = 12;

/// The node answers and has not been restarted.
fn assert_alive(node: &TestNode) {
    assert_eq!(one(&mut node.open(), "SELECT 5"), Value::Integer(5));
}

#[test]
fn describe_with_unknown_format_is_one_failure() {
    // C answers twice and aborts.
    let node = TestNode::start(1);
    let mut client = RawClient::connect(&node.address);
    for format in [1, 2, u64::MAX] {
        client.request(&Request::Describe { format, announcement: None });
        assert_eq!(client.failure(), (15, "bad format version".to_owned()));
    }
    let expected = Response::Metadata { failure_domain: 0, weight: 0, announcement: None };
    assert_eq!(client.call(&Request::Describe { format: 0, announcement: None }), expected);
}

#[test]
fn finalized_statement_ids_are_not_found_and_used_again() {
    // C follows a null pointer when the id is not the highest one.
    let node = TestNode::start(1);
    let mut client = RawClient::open(&node.address);
    for id in 0..3 {
        let prepared = client.call(&prepare("SELECT 1"));
        assert!(matches!(prepared, Response::Statement { statement, .. } if statement == id));
    }
    assert_eq!(client.call(&Request::Finalize { database: 0, statement: 1 }), Response::Empty);
    let not_found = (NOT_FOUND, "no statement with the given id".to_owned());
    for statement in [1, 3, u32::MAX] {
        for request in [
            Request::Exec { database: 0, statement, params: Params::none() },
            Request::Query { database: 0, statement, params: Params::none() },
            Request::Finalize { database: 0, statement },
        ] {
            client.request(&request);
            assert_eq!(client.failure(), not_found, "{request:?}");
        }
    }
    let again = client.call(&prepare("SELECT 2"));
    assert!(matches!(again, Response::Statement { statement: 1, .. }), "{again:?}");
    let rows = client.call(&Request::Query { database: 0, statement: 2, params: Params::none() });
    assert!(matches!(rows, Response::Rows(rows) if rows.rows == [[Value::Integer(1)]]));
}

#[test]
fn any_other_database_id_is_not_open() {
    // C takes the id for an index in some requests.
    let node = TestNode::start(1);
    let mut client = RawClient::open(&node.address);
    let statement = client.call(&prepare("SELECT 1"));
    assert!(matches!(statement, Response::Statement { statement: 0, .. }));
    let params = Params::none;
    for request in [
        Request::Exec { database: 1, statement: 0, params: params() },
        Request::Query { database: u32::MAX, statement: 0, params: params() },
        Request::Finalize { database: 7, statement: 0 },
        Request::ExecSql { database: u64::MAX, sql: "SELECT 1".into(), params: params() },
        Request::QuerySql { database: 1 << 32, sql: "SELECT 1".into(), params: params() },
    ] {
        client.request(&request);
        assert_eq!(client.failure(), (NOT_FOUND, "no database opened".to_owned()), "{request:?}");
    }
}

#[test]
fn bodies_over_the_limit_are_refused_and_the_limit_is_told() {
    // From 0x10000001 words on C's loop spins for ever: the whole node is dead.
    let node = TestNode::start(1);
    for words in [0x0fff_ffff, 0x1000_0000, 0x1000_0001, 0x1fff_ffff, 0x2000_0000, u32::MAX] {
        let mut client = RawClient::connect(&node.address);
        client.send(&message(LEADER, 0, &[0; 8]));
        client.send(&header(words, QUERY_SQL, 0));
        assert!(matches!(client.response(), Response::Server { .. }));
        let (code, text) = client.failure();
        assert_eq!(code, PARSE);
        assert!(text.contains("536870912"), "the limit is told: {text}");
        client.expect_closed();
        assert_alive(&node);
    }
}

#[test]
fn bodies_that_end_early_are_answered() {
    // C closes the connection without a word.
    let node = TestNode::start(1);
    let mut client = RawClient::open(&node.address);
    let no_nul = [b'x'; 16];
    let mut count_too_large = vec![0; 8];
    count_too_large.extend(text_field(b"SELECT ?"));
    count_too_large.extend([200, 1, 1, 1, 1, 1, 1, 1]);
    let cases: [(u8, u8, &[u8]); 7] = [
        (OPEN, 0, &no_nul),
        (OPEN, 0, &[0; 8]),
        (PREPARE, 0, &no_nul),
        (EXEC_SQL, 0, &no_nul),
        (QUERY_SQL, 0, &count_too_large),
        (QUERY_SQL, 1, &count_too_large),
        (12, 0, &[1; 8]),
    ];
    for (kind, schema, body) in cases {
        client.send(&message(kind, schema, body));
        let (code, text) = client.failure();
        assert_eq!(code, PARSE, "type {kind}: {text}");
        assert!(text.starts_with("malformed request"), "type {kind}: {text}");
    }
    assert!(matches!(client.call(&query_sql("SELECT 1")), Response::Rows(_)));
}

#[test]
fn blob_length_near_2_to_the_64_is_refused() {
    // The padding overflows in C: the size check passes and SQLite reads beyond the message.
    let node = TestNode::start(1);
    let mut client = RawClient::open(&node.address);
    for len in [u64::MAX, u64::MAX - 6, u64::MAX - 7, 1 << 63, 9] {
        for (kind, schema) in [(QUERY_SQL, 0), (EXEC_SQL, 0), (QUERY_SQL, 1), (EXEC_SQL, 1)] {
            let mut body = vec![0; 8];
            body.extend(text_field(b"SELECT hex(?)"));
            body.extend(if schema == 0 { [1, 4, 0, 0, 0, 0, 0, 0] } else { [1, 0, 0, 0, 4, 0, 0, 0] });
            body.extend(len.to_le_bytes());
            body.extend([0x41; 8]);
            client.send(&message(kind, schema, &body));
            assert_eq!(client.failure(), (1, "bind parameters".to_owned()));
        }
    }
}

#[test]
fn unknown_protocol_is_closed_and_nothing_else() {
    // As C: what speaks another protocol cannot read an answer in ours.
    let node = TestNode::start(1);
    for word in [0_u64, 2, u64::MAX, u64::from_le_bytes(*b"GET / HT")] {
        let mut client = RawClient::dial(&node.address);
        client.send(&word.to_le_bytes());
        client.expect_closed();
    }
    let mut legacy = RawClient::connect_as(&node.address, Protocol::Legacy);
    let expected = Response::ServerLegacy { address: node.address.clone() };
    assert_eq!(legacy.call(&Request::Leader), expected);
    assert_alive(&node);
}

#[test]
fn connect_behind_open_leaves_nothing_behind() {
    // C leaks the database and aborts when the node is destroyed.
    let mut node = TestNode::start_tcp(1, |_| {});
    node.open().exec_sql("CREATE TABLE t (n INTEGER)", &[]).unwrap();
    let mut client = RawClient::open(&node.address);
    assert!(matches!(client.call(&exec_sql("BEGIN; INSERT INTO t VALUES (1)")), Response::Result { .. }));
    let mut body = 99_u64.to_le_bytes().to_vec();
    body.extend(text_field(b"127.0.0.1:1"));
    client.send(&message(CONNECT, 0, &body));
    // The transaction goes with the session: the lane is free for others.
    let mut other = node.open();
    other.exec_sql("INSERT INTO t VALUES (2)", &[]).unwrap();
    assert_eq!(one(&mut other, "SELECT group_concat(n) FROM t"), common::text("2"));
    // The socket belongs to raft now, and what is no raft message ends it.
    client.send(&[0xff; 64]);
    client.expect_closed();
    node.stop();
    drop(node);
}

#[test]
fn connect_while_a_query_runs_ends_the_query() {
    // C takes requests one by one and never gets there before the query ends.
    let node = TestNode::start(1);
    let mut client = RawClient::open(&node.address);
    client.request(&query_sql(common::ENDLESS));
    let mut body = 99_u64.to_le_bytes().to_vec();
    body.extend(text_field(b"@nobody"));
    client.send(&message(CONNECT, 0, &body));
    drop(client);
    assert_alive(&node);
}

#[test]
fn second_open_is_refused_and_the_first_stays() {
    let node = TestNode::start(1);
    let mut client = RawClient::open(&node.address);
    for name in [&b"test"[..], b"other", b""] {
        client.request(&open_request(name));
        assert_eq!(client.failure(), (5, "a database for this connection is already open".to_owned()));
    }
    assert!(matches!(client.call(&query_sql("SELECT 1")), Response::Rows(_)));
}

#[test]
fn requests_in_flight_are_answered_in_order_also_behind_a_half_close() {
    let node = TestNode::start_tcp(1, |_| {});
    let mut client = RawClient::open(&node.address);
    client.request(&exec_sql("CREATE TABLE t (n INTEGER)"));
    for number in 0..300 {
        client.request(&exec_sql(&format!("INSERT INTO t VALUES ({number})")));
        client.request(&query_sql("SELECT count(*) FROM t"));
    }
    client.half_close();
    assert!(matches!(client.response(), Response::Result { .. }));
    for number in 1..=300 {
        assert!(matches!(client.response(), Response::Result { rows_affected: 1, .. }));
        let rows = client.response();
        assert!(matches!(rows, Response::Rows(rows) if rows.rows == [[Value::Integer(number)]]));
    }
    client.expect_closed();
}

#[test]
fn many_parts_do_not_wait_for_delayed_acknowledgements() {
    // Without TCP_NODELAY every part of a result costs C about 40 ms.
    let node = TestNode::start_tcp(1, |_| {});
    let mut client = RawClient::open(&node.address);
    let sql = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 200) \
               SELECT n, zeroblob(20000) FROM c";
    let begin = Instant::now();
    client.request(&query_sql(sql));
    let mut parts = 0;
    loop {
        parts += 1;
        match client.response() {
            Response::Rows(rows) if rows.end == wire_protocol::RowsEnd::Part => {}
            Response::Rows(_) => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(parts >= 100, "{parts} parts");
    let limit = Duration::from_millis(parts * 20);
    assert!(begin.elapsed() < limit, "{parts} parts in {:?}", begin.elapsed());
}
