//! A data directory goes between C's library and ours, with snapshots, after clean stops, kills and recoveries.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use ffi_tests::cluster::{Cluster, eventually};
use ffi_tests::image::digest;
use ffi_tests::node::{Library, Node, PATIENCE, node_program};
use ffi_tests::{Scratch, skip};
use server::client::Client;
use server::{NodeId, Role};
use wire_protocol::Value;

const DATABASES: [&str; 2] = ["app.db", "second"];
/// Several snapshots for the rows of one stay.
const SNAPSHOTS: &str = "snapshot=32,48";
const ROUNDS: i64 = 40;

const SELECTS: [&str; 2] = [
    "SELECT +id, +name, +price, +qty, +data, +flag, +created FROM items ORDER BY id",
    "SELECT name, sql FROM sqlite_master ORDER BY name",
];

/// What a database holds, one row count and digest for each of [`SELECTS`].
type Digests = Vec<(usize, String)>;

/// How a node ends its stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Stop,
    Kill,
}

/// How a node begins its stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begin {
    /// With what is there.
    Start,
    /// `dqlite_node_recover_ext` with a new address comes before the start, in the same process.
    Recover,
    /// The same in a process of its own.
    RecoverFirst,
}

/// One library's time with the directory.
#[derive(Clone, Copy, Debug)]
struct Stay<'a> {
    library: &'a Library,
    options: &'a [&'a str],
    begin: Begin,
    end: End,
}

impl<'a> Stay<'a> {
    fn new(library: &'a Library) -> Self {
        Self { library, options: &[], begin: Begin::Start, end: End::Stop }
    }
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

fn digests(node: &Node) -> Digests {
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

/// Waits until the node leads alone, at the address it has now.
fn check_alone(node: &Node) -> Result<(), String> {
    let expected = [(NodeId(node.id), node.address.clone(), Role::Voter)];
    eventually(PATIENCE, || {
        let mut client = node.connect().map_err(|error| error.to_string())?;
        let servers = client.cluster().map_err(|error| error.to_string())?;
        let found: Vec<_> =
            servers.into_iter().map(|server| (server.id, server.address, server.role)).collect();
        let (leader, _) = client.leader().map_err(|error| error.to_string())?;
        if found == expected && leader.0 == node.id {
            return Ok(());
        }
        Err(format!("members are {found:?}, the leader is {leader}"))
    })
}

/// Runs the node on a library: it finds what the one before left, writes more, and ends. Returns what it leaves.
fn stay(node: &mut Node, stay: &Stay<'_>, number: i64, found: &Digests) -> Digests {
    let who = format!("stay {number}, {}, {:?}, {:?}", stay.library.name, stay.begin, stay.end);
    node.library = stay.library.clone();
    node.options = stay.options.iter().chain(&[SNAPSHOTS]).map(ToString::to_string).collect();
    match stay.begin {
        Begin::Start => {}
        Begin::Recover => {
            node.change_address();
            node.options.push("recover".to_owned());
        }
        Begin::RecoverFirst => {
            node.change_address();
            node.offline(&["recover"]).unwrap_or_else(|error| panic!("{who}: {error}"));
        }
    }
    node.start().unwrap_or_else(|error| panic!("{who}: {error}"));
    check_alone(node).unwrap_or_else(|error| panic!("{who}: {error}"));
    if number > 0 {
        assert_eq!(digests(node), *found, "{who}");
    }
    write(node, number);
    let left = digests(node);
    match stay.end {
        End::Stop => node.stop().unwrap(),
        End::Kill => node.kill(),
    }
    assert!(snapshots(node) > 0, "{who}: no snapshot was taken");
    left
}

/// One stay after the other in one directory.
fn tour(stays: &[Stay<'_>]) {
    let scratch = Scratch::new();
    let mut node = Node::new(stays[0].library, 1, scratch.path().join("n1"), &[]);
    let mut left = Vec::new();
    for (number, next) in (0..).zip(stays) {
        left = stay(&mut node, next, number, &left);
    }
    assert_eq!(left.len(), DATABASES.len() * SELECTS.len());
    assert!(left[0].0 > 100, "rows are there to be compared: {left:?}");
}

/// Both libraries, if both are there.
fn libraries() -> Option<(Library, Library)> {
    node_program()?;
    Some((Library::ours(), Library::c()?))
}

/// Ours, C, ours, C; and C, ours, C.
fn there_and_back(our_options: &[&str], end: End) {
    let Some((ours, c)) = libraries() else { return };
    let ours = Stay { options: our_options, end, ..Stay::new(&ours) };
    let c = Stay { end, ..Stay::new(&c) };
    std::thread::scope(|scope| {
        scope.spawn(|| tour(&[ours, c, ours, c]));
        scope.spawn(|| tour(&[c, ours, c]));
    });
}

fn has_compression_setting() -> bool {
    let has = !Library::ours().is_stand_in();
    if !has {
        skip("the library in place of ours has no setting for compression");
    }
    has
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
    if node_program().is_some() && has_compression_setting() {
        there_and_back(&["compression=0"], End::Stop);
        there_and_back(&["compression=0"], End::Kill);
    }
}

#[test]
fn after_recoveries() {
    let Some((ours, c)) = libraries() else { return };
    let options: [&[&str]; 2] =
        if has_compression_setting() { [&["compression=1"], &["compression=0"]] } else { [&[], &[]] };
    for (options, end) in options.into_iter().zip([End::Stop, End::Kill]) {
        let ours = Stay { options, end, ..Stay::new(&ours) };
        let c = Stay { end, ..Stay::new(&c) };
        tour(&[c, Stay { begin: Begin::Recover, ..ours }, Stay { begin: Begin::Recover, ..c }, ours, c]);
    }
    // What one library recovered is started by the other.
    let (ours, c) = (Stay::new(&ours), Stay::new(&c));
    recovered_by_the_other(&[c, ours, c]);
    recovered_by_the_other(&[ours, c, ours]);
}

/// Before each stay but the first, the library of the stay before recovers the directory.
fn recovered_by_the_other(stays: &[Stay<'_>]) {
    let scratch = Scratch::new();
    let mut node = Node::new(stays[0].library, 1, scratch.path().join("n1"), &[]);
    let mut left = Vec::new();
    for (number, next) in (0..).zip(stays) {
        if number > 0 {
            node.change_address();
            node.offline(&["recover"]).unwrap();
        }
        left = stay(&mut node, next, number, &left);
    }
    assert!(left[0].0 > 100, "rows are there to be compared: {left:?}");
}

/// Two of three nodes of C are lost: the third is recovered by ours, and goes back to C.
#[test]
fn the_survivor_of_a_cluster_of_c_is_recovered() {
    let Some((ours, c)) = libraries() else { return };
    let scratch = Scratch::new();
    for (round, end) in [End::Stop, End::Kill].into_iter().enumerate() {
        let directory = scratch.path().join(round.to_string());
        std::fs::create_dir(&directory).unwrap();
        let cluster = Cluster::start(&directory, &[&c; 3], &[SNAPSHOTS]).unwrap();
        let leader = cluster.position(&cluster.leader().unwrap());
        write(&cluster.nodes[leader], 0);
        let left = digests(&cluster.nodes[leader]);
        let mut nodes = cluster.nodes;
        for node in &mut nodes {
            match end {
                End::Stop => node.stop().unwrap(),
                End::Kill => node.kill(),
            }
        }
        // The leader has everything.
        let node = &mut nodes[leader];
        let recovered = Stay { begin: Begin::RecoverFirst, ..Stay::new(&ours) };
        let left = stay(node, &recovered, 1, &left);
        stay(node, &Stay::new(&c), 2, &left);
    }
}
