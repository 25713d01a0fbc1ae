//! Answers that C dqlite 1.18.6 gets wrong: rows, failures, names of databases, membership. Each test says in its first
//! lines what C does. The table of all defects stands in the README of this folder.
#![allow(clippy::unwrap_used, reason = "a failure of a helper is a failure of the test")]

mod common;

use common::raw::{
    QUERY_SQL, RawClient, exec_sql, exec_sql_with, message, open_request, prepare, query_sql, text_field,
};
use common::{TestNode, eventually, one, text};
use server::NodeId;
use server::options::TrailingStrategy;
use wire_protocol::{Params, PrepareSchema, Request, Response, Rows, RowsEnd, Value};

/// The rows of an answer in one part.
fn rows(response: Response) -> Rows {
    match response {
        Response::Rows(rows) => {
            assert_eq!(rows.end, RowsEnd::Done);
            rows
        }
        other => panic!("{other:?}"),
    }
}

fn run(client: &mut RawClient, sql: &str) {
    let response = client.call(&exec_sql(sql));
    assert!(matches!(response, Response::Result { .. }), "{sql}: {response:?}");
}

#[test]
fn values_that_do_not_fit_their_declared_type_are_sent_as_they_are() {
    // C aborts on a FLOAT or BLOB in a date column and on a FLOAT, TEXT or BLOB in a BOOLEAN column.
    let node = TestNode::start(1);
    let mut client = RawClient::open(&node.address);
    run(&mut client, "CREATE TABLE t (a DATETIME, b DATE, c TIMESTAMP, d BOOLEAN)");
    let blob = Value::Blob(b"\x01".as_slice().into());
    for value in [Value::Float(1.5), blob, text("no time"), Value::Integer(42)] {
        let insert = exec_sql_with("INSERT INTO t VALUES (?1, ?1, ?1, ?1)", std::slice::from_ref(&value));
        assert!(matches!(client.call(&insert), Response::Result { .. }));
        let row = rows(client.call(&query_sql("SELECT a, b, c, d FROM t"))).rows.remove(0);
        let expected = match value {
            Value::Text(text) => {
                let time = Value::Iso8601(text.clone());
                [time.clone(), time.clone(), time, Value::Text(text)]
            }
            Value::Integer(number) => {
                let time = Value::UnixTime(number);
                [time.clone(), time.clone(), time, Value::Boolean(number.unsigned_abs())]
            }
            value => [value.clone(), value.clone(), value.clone(), value],
        };
        assert_eq!(row, expected);
        run(&mut client, "DELETE FROM t");
    }
}

#[test]
fn null_is_null_in_every_column() {
    // C sends false for it in a BOOLEAN column and the empty string in a date column.
    let node = TestNode::start(1);
    let mut client = RawClient::open(&node.address);
    run(&mut client, "CREATE TABLE t (a DATETIME, b DATE, c TIMESTAMP, d BOOLEAN, e TEXT)");
    run(&mut client, "INSERT INTO t (e) VALUES (NULL)");
    let result = rows(client.call(&query_sql("SELECT * FROM t")));
    assert_eq!(result.rows, [[const { Value::Null }; 5]]);
}

#[test]
fn text_with_a_nul_arrives_whole() {
    // C cuts it at the NUL. The protocol's TEXT cannot hold one, so that it is sent as BLOB.
    let node = TestNode::start(1);
    let mut client = RawClient::open(&node.address);
    run(&mut client, "CREATE TABLE t (a TEXT, b DATETIME, c)");
    run(
        &mut client,
        "INSERT INTO t VALUES ('a' || char(0) || 'b', '2020-' || char(0), 'c' || char(0) || 'd')",
    );
    let blob = |bytes: &'static [u8]| Value::Blob(bytes.into());
    let result = rows(client.call(&query_sql("SELECT a, b, c, 'plain' FROM t")));
    assert_eq!(result.rows, [[blob(b"a\0b"), blob(b"2020-\0"), blob(b"c\0d"), text("plain")]]);
}

#[test]
fn blobs_are_padded_with_zeros() {
    // C's padding holds up to 7 bytes of earlier answers.
    let node = TestNode::start(1);
    let mut client = RawClient::open(&node.address);
    rows(client.call(&query_sql(&format!("SELECT '{}'", "secret!!".repeat(64)))));
    for len in 0..=17 {
        client.request(&query_sql(&format!("SELECT x'{}' AS b", "ff".repeat(len))));
        let frame = client.frame();
        let mut expected = vec![1, 0, 0, 0, 0, 0, 0, 0, b'b', 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0];
        expected.extend((len as u64).to_le_bytes());
        expected.extend(std::iter::repeat_n(0xff, len));
        expected.resize(expected.len().next_multiple_of(8), 0);
        expected.extend([0xff; 8]);
        assert_eq!(frame.body, expected);
    }
}

#[test]
fn wide_results_have_rows_and_an_end() {
    // When the column names fill a page C sends parts without rows for ever.
    let node = TestNode::start(1);
    let mut client = RawClient::open(&node.address);
    let long = "n".repeat(100_000);
    let wide = |columns: usize, name: &str| {
        let columns: Vec<String> = (0..columns).map(|column| format!("{column} AS {name}{column}")).collect();
        columns.join(", ")
    };
    for (columns, sql) in [
        (255, format!("SELECT {}", wide(255, "abcdefgh"))),
        (510, format!("SELECT {}", wide(510, "abc"))),
        (2000, format!("SELECT {} UNION ALL SELECT {}", wide(2000, "a"), wide(2000, "a"))),
        (1, format!("SELECT 1 AS {long} UNION ALL SELECT 2 UNION ALL SELECT 3")),
    ] {
        client.request(&query_sql(&sql));
        let mut found = 0;
        loop {
            let Response::Rows(part) = client.response() else { panic!("rows") };
            assert_eq!(part.columns.len(), columns);
            found += part.rows.len();
            if part.end == RowsEnd::Done {
                break;
            }
            assert!(!part.rows.is_empty(), "a part without rows");
        }
        assert_eq!(found, 1 + sql.matches("UNION ALL").count());
    }
}

#[test]
fn failure_of_a_query_is_nothing_but_a_failure() {
    // C leaves the column count, names and rows of the batch in front of the failure.
    let node = TestNode::start(1);
    let mut client = RawClient::open(&node.address);
    run(&mut client, "CREATE TABLE t (a INTEGER PRIMARY KEY, b)");
    run(&mut client, "INSERT INTO t VALUES (7, 1)");
    client.request(&query_sql("INSERT INTO t VALUES (7, 2)"));
    assert_eq!(client.failure(), (1555, "UNIQUE constraint failed: t.a".to_owned()));
    client.request(&query_sql("SELECT abs(-9223372036854775808) AS xx"));
    assert_eq!(client.failure(), (1, "integer overflow".to_owned()));
    // Behind some rows of the same part, and behind whole parts.
    let rows_before = "WITH RECURSIVE c(n) AS (SELECT -9223372036854775000 UNION ALL SELECT n - 1 FROM c LIMIT 809) \
                       SELECT abs(n) AS xx FROM c";
    client.request(&query_sql(rows_before));
    assert_eq!(client.failure(), (1, "integer overflow".to_owned()));
    client.request(&query_sql(&rows_before.replace("AS xx", "AS xx, zeroblob(1000)")));
    assert!(matches!(client.response(), Response::Rows(rows) if rows.end == RowsEnd::Part));
    loop {
        let frame = client.frame();
        if frame.kind == common::raw::FAILURE {
            let message = Response::decode_with(&frame, wire_protocol::ResponseContext::default()).unwrap();
            let Response::Failure { code, message } = message else { unreachable!("by its type") };
            assert_eq!((code, &message[..]), (1, &b"integer overflow"[..]));
            break;
        }
    }
    let id = client.call(&prepare("INSERT INTO t VALUES (?, ?) RETURNING a"));
    assert!(matches!(id, Response::Statement { statement: 0, params: 2, .. }));
    let params = Params::new(&[Value::Integer(7), Value::Null]);
    client.request(&Request::Query { database: 0, statement: 0, params });
    assert_eq!(client.failure(), (1555, "UNIQUE constraint failed: t.a".to_owned()));
}

#[test]
fn wrong_parameters_are_called_so() {
    // QUERY answers (10, "leader exec failed") in C.
    let node = TestNode::start(1);
    let mut client = RawClient::open(&node.address);
    let refused = (1, "bind parameters".to_owned());
    assert!(matches!(client.call(&prepare("SELECT ?")), Response::Statement { statement: 0, .. }));
    let surplus = || Params::new(&[Value::Integer(1), Value::Integer(2)]);
    client.request(&Request::Query { database: 0, statement: 0, params: surplus() });
    assert_eq!(client.failure(), refused);
    client.request(&Request::QuerySql { database: 0, sql: "SELECT ?".into(), params: surplus() });
    assert_eq!(client.failure(), refused);
    // Type 9 is for rows only, 7 is none at all.
    for kind in [0, 6, 7, 8, 9, 12, 255] {
        let mut body = vec![0; 8];
        body.extend(text_field(b"SELECT ?"));
        body.extend([1, kind, 0, 0, 0, 0, 0, 0]);
        body.extend([0; 8]);
        client.send(&message(QUERY_SQL, 0, &body));
        assert_eq!(client.failure(), refused, "type {kind}");
    }
    // The statement is as good as before, and missing values are NULL.
    let query = Request::Query { database: 0, statement: 0, params: Params::none() };
    assert_eq!(rows(client.call(&query)).rows, [[Value::Null]]);
}

#[test]
fn columns_of_a_query_are_those_of_its_rows() {
    // After a schema change C's first batch has the old column list.
    let node = TestNode::start(1);
    let mut client = RawClient::open(&node.address);
    run(&mut client, "CREATE TABLE t (a)");
    run(&mut client, "INSERT INTO t VALUES (1)");
    assert!(matches!(client.call(&prepare("SELECT * FROM t")), Response::Statement { .. }));
    let query = Request::Query { database: 0, statement: 0, params: Params::none() };
    assert_eq!(rows(client.call(&query)).columns, ["a"]);
    let mut other = node.open();
    other.exec_sql("ALTER TABLE t ADD COLUMN b DEFAULT 2", &[]).unwrap();
    let result = rows(client.call(&query));
    assert_eq!(result.columns, ["a", "b"]);
    assert_eq!(result.rows, [[Value::Integer(1), Value::Integer(2)]]);
    other.exec_sql("DROP TABLE t", &[]).unwrap();
    client.request(&query);
    assert_eq!(client.failure(), (1, "no such table: t".to_owned()));
}

#[test]
fn names_that_are_no_databases_are_refused() {
    // In C "" and ":memory:" stop the node at the next request or snapshot, file: reaches files of the host, "x-wal" is
    // mixed up with "x", a long name makes every later snapshot fail; the connection is closed without a word.
    let mut node = TestNode::start_with(1, |node| {
        node.options_mut().unwrap().set_snapshot_params(16, 16, TrailingStrategy::Static).unwrap();
    });
    let file = node.path().join("host.db");
    let uri = format!("file:{}?vfs=unix", file.display());
    let long = "n".repeat(505);
    let mut client = RawClient::connect(&node.address);
    for name in ["", ":memory:", "test-wal", "test-journal", "file:x?mode=memory", "file:test", &uri, &long] {
        client.request(&open_request(name.as_bytes()));
        let (code, text) = client.failure();
        assert_eq!(code, 14, "{name}: {text}");
        assert!(text.starts_with("cannot open database: "), "{name}: {text}");
    }
    assert!(!file.exists());
    assert_eq!(client.call(&open_request(&[b'n'; 504])), Response::Database { id: 0 });
    run(&mut client, "CREATE TABLE t (n)");
    for _ in 0..40 {
        run(&mut client, "INSERT INTO t VALUES (1)");
    }
    let snapshots = |node: &TestNode| {
        let names = std::fs::read_dir(node.path()).unwrap();
        names
            .filter(|name| name.as_ref().unwrap().file_name().to_str().unwrap().starts_with("snapshot-"))
            .count()
    };
    eventually("a snapshot", || snapshots(&node) >= 2);
    node.stop();
    node.restart();
    let mut again = node.connect();
    again.open(&"n".repeat(504)).unwrap();
    assert_eq!(one(&mut again, "SELECT count(*) FROM t"), Value::Integer(40));
}

#[test]
fn sql_reaches_neither_files_nor_other_databases() {
    // In C a name that is a parameter or an expression gets past the authorizer of ATTACH.
    let node = TestNode::start(1);
    node.open().exec_sql("CREATE TABLE secret (n)", &[]).unwrap();
    let file = node.path().join("host.db");
    let uri = format!("file:{}?vfs=unix", file.display());
    let mut client = node.connect();
    client.open("other").unwrap();
    for name in [uri.as_str(), "test", ":memory:", "", "file:test"] {
        for sql in ["ATTACH ? AS x", "ATTACH (SELECT ?) AS x", "ATTACH ? || '' AS x"] {
            let error = client.exec_sql(sql, &[text(name)]).unwrap_err();
            assert_eq!(error.code(), Some(23), "{sql} {name}: {error}");
        }
    }
    let error = client.exec_sql(&format!("ATTACH '{uri}' AS x"), &[]).unwrap_err();
    assert_eq!(error.code(), Some(23));
    let error = client.exec_sql("VACUUM INTO ?", &[text(file.to_str().unwrap())]).unwrap_err();
    assert_eq!(error.code(), Some(23));
    assert!(!file.exists());
    assert_eq!(client.query_sql("SELECT * FROM secret", &[]).unwrap_err().code(), Some(1));
}

#[test]
fn rollback_keeps_a_database_that_was_to_be_deleted() {
    // In C ROLLBACK behind PRAGMA delete_database deletes.
    let mut node = TestNode::start(1);
    let mut client = node.open();
    client.exec_sql("CREATE TABLE t (n); INSERT INTO t VALUES (1)", &[]).unwrap();
    client.exec_sql("BEGIN IMMEDIATE; PRAGMA delete_database; ROLLBACK", &[]).unwrap();
    assert_eq!(one(&mut client, "SELECT n FROM t"), Value::Integer(1));
    drop(client);
    node.stop();
    node.restart();
    let mut client = node.open();
    assert_eq!(one(&mut client, "SELECT n FROM t"), Value::Integer(1));
    client.exec_sql("BEGIN IMMEDIATE; PRAGMA delete_database; PRAGMA delete_database; COMMIT", &[]).unwrap();
    drop(client);
    eventually("the name is gone", || {
        node.connect().dump("test").is_err_and(|error| error.code() == Some(1002))
    });
    let mut client = node.open();
    assert_eq!(client.query_sql("SELECT n FROM t", &[]).unwrap_err().code(), Some(1));
    client.exec_sql("CREATE TABLE t (n)", &[]).unwrap();
    assert_eq!(one(&mut client, "SELECT count(*) FROM t"), Value::Integer(0));
}

#[test]
fn changes_of_the_cluster_that_cannot_be_are_refused() {
    // C aborts on ADD of id 0 and on REMOVE of the last member; ASSIGN of an unknown role makes a stand-by, and a lone
    // voter that is demoted loses its cluster.
    let node = TestNode::start(1);
    let mut client = RawClient::open(&node.address);
    client.request(&Request::Add { id: NodeId(0), address: "127.0.0.1:1".to_owned() });
    assert_eq!(client.failure(), (1, "server ID is not valid".to_owned()));
    client.request(&Request::Remove { id: NodeId(1) });
    let (code, _) = client.failure();
    assert_eq!(code, 1);
    for role in [3, 4, u64::MAX] {
        client.request(&Request::Assign { id: NodeId(1), role });
        assert_eq!(client.failure(), (1, "server role is not valid".to_owned()));
    }
    for role in [1, 2] {
        client.request(&Request::Assign { id: NodeId(1), role });
        let (code, _) = client.failure();
        assert_eq!(code, 1, "the only voter cannot become {role}");
    }
    client.request(&Request::Assign { id: NodeId(9), role: 0 });
    assert_eq!(client.failure(), (1, "Resource not found".to_owned()));
    client.request(&Request::Transfer { id: NodeId(0) });
    let (code, _) = client.failure();
    assert_eq!(code, 1);
    run(&mut client, "CREATE TABLE t (n)");
    let servers = node.connect().cluster().unwrap();
    assert_eq!(servers.len(), 1);
    assert_eq!(servers[0].role, server::Role::Voter);
}

#[test]
fn tails_of_a_text_are_judged_as_they_are() {
    // A busy writer through QUERY_SQL gets "nonempty statement tail" in C; here the text says what is wrong with it.
    let node = TestNode::start_with(1, common::no_patience);
    let mut client = RawClient::open(&node.address);
    run(&mut client, "CREATE TABLE t (n)");
    for sql in ["SELECT 1; SELECT 2", "SELECT 1; nonsense", "INSERT INTO t VALUES (1); SELECT 1"] {
        client.request(&query_sql(sql));
        assert_eq!(client.failure(), (1, "nonempty statement tail".to_owned()), "{sql}");
        client.request(&prepare(sql));
        assert_eq!(client.failure(), (1, "nonempty statement tail".to_owned()), "{sql}");
    }
    for sql in ["", " ", ";", "-- nothing", "/* nothing */ ;; "] {
        client.request(&query_sql(sql));
        assert_eq!(client.failure(), (0, "empty statement".to_owned()), "{sql}");
        run(&mut client, sql);
    }
    let schema = PrepareSchema::V1;
    let first = Request::Prepare { database: 0, sql: "SELECT 1 ; -- two\nSELECT 2".into(), schema };
    assert!(matches!(client.call(&first), Response::Statement { offset: Some(10), .. }));
    let mut writer = RawClient::open(&node.address);
    run(&mut writer, "BEGIN IMMEDIATE");
    client.request(&query_sql("INSERT INTO t VALUES (1) RETURNING n"));
    assert_eq!(client.failure(), (5, "database is locked".to_owned()));
    run(&mut writer, "ROLLBACK");
    assert_eq!(rows(client.call(&query_sql("SELECT count(*) FROM t"))).rows, [[Value::Integer(0)]]);
}
