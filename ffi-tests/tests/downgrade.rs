//! A data directory goes from our library to C's and back, with snapshots, after clean stops and after kills.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use ffi_tests::image::digest;
use ffi_tests::node::{Library, Node, node_program};
use ffi_tests::{Scratch, skip};
use server::client::Client;
use wire_protocol::Value;

const DATABASES: [&str; 2] = ["app.db", "second"];
/// Several snapshots for the rows of one stay.
const SNAPSHOTS: &str = "snapshot=32,48";
const ROUNDS: i64 = 40;

const SELECTS: [&str; 2] = [
    "SELECT +id, +name, +price, +qty, +data, +flag, +created FROM items ORDER BY id",
    "SELECT name, sql FROM sqlite_master ORDER BY name",
];

/// How a node ends its stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Stop,
    Kill,
}

fn open(node: &Node, database: &str) -> Client {
    let mut client = node.connect().unwrap();
    client.open(database).unwrap();
    client
}

fn exec(client: &mut Client, sql: &str, params: &[Value]) {
    client.exec_sql(sql, params).unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// Rows of all types, changed and deleted again, single and in transactions, in both databases.
fn write(node: &Node, stay: i64) {
    for database in DATABASES {
        let client = &mut open(node, database);
        exec(
            client,
            "CREATE TABLE IF NOT EXISTS items(id INTEGER PRIMARY KEY, name TEXT, price REAL, qty INT, data BLOB, \
             flag BOOLEAN, created DATETIME); CREATE INDEX IF NOT EXISTS items_name ON items(name)",
            &[],
        );
        for round in 0..ROUNDS {
            let id = stay * ROUNDS + round;
            let params = [
                Value::Integer(id),
                Value::Text(format!("item {id} \u{2713}").into()),
                if round % 5 == 0 { Value::Null } else { Value::Float(id as f64 / 7.0) },
                Value::Integer(i64::MIN + id),
                Value::Blob(
                    vec![u8::try_from(id % 251).unwrap(); usize::try_from(id * 37 % 9000).unwrap()].into(),
                ),
                Value::Boolean(u64::from(round % 2 == 0)),
                Value::Text("2024-02-29 12:00:00".into()),
            ];
            exec(client, "INSERT INTO items VALUES(?, ?, ?, ?, ?, ?, ?)", &params);
            if round % 8 == 7 {
                exec(client, "BEGIN", &[]);
                exec(client, "UPDATE items SET qty = qty + 1 WHERE id % 3 = 0", &[]);
                exec(client, "DELETE FROM items WHERE id % 11 = 4", &[]);
                exec(client, "COMMIT", &[]);
            }
        }
    }
}

fn digests(node: &Node) -> Vec<(usize, String)> {
    let of = |database: &&str| {
        let mut client = open(node, database);
        SELECTS.map(|select| digest(&mut client, select).unwrap())
    };
    DATABASES.iter().flat_map(of).collect()
}

fn snapshots(node: &Node) -> usize {
    let names = std::fs::read_dir(&node.directory).unwrap();
    names
        .filter(|entry| {
            let name = entry.as_ref().unwrap().file_name().into_string().unwrap();
            name.starts_with("snapshot-") && name.ends_with(".meta")
        })
        .count()
}

/// Runs the node on a library: it finds what the one before left, writes more, and ends. Returns what it leaves.
fn stay(
    node: &mut Node,
    library: &Library,
    number: i64,
    found: &[(usize, String)],
    end: End,
) -> Vec<(usize, String)> {
    let who = format!("stay {number}, {}", library.name);
    node.library = library.clone();
    node.start().unwrap_or_else(|error| panic!("{who}: {error}"));
    if number > 0 {
        assert_eq!(digests(node), found, "{who}");
    }
    write(node, number);
    let left = digests(node);
    match end {
        End::Stop => node.stop().unwrap(),
        End::Kill => node.kill(),
    }
    assert!(snapshots(node) > 0, "{who}: no snapshot was taken");
    left
}

/// Ours, C, ours, C.
fn there_and_back(our_options: &[&str], end: End) {
    if node_program().is_none() {
        return;
    }
    let Some(c) = Library::c() else { return };
    let ours = Library::ours();
    let scratch = Scratch::new();
    let mut node = Node::new(&ours, 1, scratch.path().join("n1"), &[]);
    let mut left = Vec::new();
    for (number, library) in (0..).zip([&ours, &c, &ours, &c]) {
        let options = if library == &ours { our_options } else { &[] };
        node.options = options.iter().chain(&[SNAPSHOTS]).map(ToString::to_string).collect();
        left = stay(&mut node, library, number, &left, end);
    }
    assert_eq!(left.len(), DATABASES.len() * SELECTS.len());
    assert!(left[0].0 > 100, "rows are there to be compared: {left:?}");
}

#[test]
fn after_clean_stops() {
    there_and_back(&[], End::Stop);
}

#[test]
fn after_kills() {
    there_and_back(&[], End::Kill);
}

#[test]
fn with_snapshots_that_are_not_compressed() {
    if Library::ours().is_stand_in() {
        skip("the library in place of ours has no setting for compression");
        return;
    }
    there_and_back(&["compression=0"], End::Stop);
    there_and_back(&["compression=0"], End::Kill);
}
