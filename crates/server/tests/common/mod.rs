//! Nodes in this process, on abstract sockets, and what tests ask of them.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub(crate) mod alone;
pub(crate) mod raw;

use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use server::client::{Client, ClientError, connect_leader};
use server::{Node, NodeId, Role};
use tempfile::TempDir;
use wire_protocol::Value;

/// Longest wait for anything.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(20);
/// Fast elections: a heartbeat each 90 ms, an election after 900 to 1800 ms.
const LATENCY_MS: u32 = 60;

/// Says, past the capture of the test runner, that a test does less than it should.
///
/// # Panics
///
/// Where everything is required.
pub(crate) fn skip(reason: &str) {
    // A line that cannot be written changes nothing.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {reason}");
    assert!(std::env::var_os("DQLITE_TESTS_REQUIRE_ALL").is_none(), "required, but: {reason}");
}

/// An address that nobody else uses.
pub(crate) fn unique_address() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("@server-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A node with a directory of its own that survives restarts.
pub(crate) struct TestNode {
    pub(crate) id: u64,
    pub(crate) address: String,
    // In this order: the node stops before its directory goes.
    pub(crate) node: Option<Node>,
    directory: TempDir,
    configure: fn(&mut Node),
}

impl TestNode {
    /// A running node; the one with id 1 is a cluster of its own.
    pub(crate) fn start(id: u64) -> Self {
        Self::start_with(id, |_| {})
    }

    /// A running node with settings.
    pub(crate) fn start_with(id: u64, configure: fn(&mut Node)) -> Self {
        Self::start_at(id, unique_address(), configure)
    }

    /// A running node on TCP.
    pub(crate) fn start_tcp(id: u64, configure: fn(&mut Node)) -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap().to_string();
        drop(free);
        Self::start_at(id, address, configure)
    }

    fn start_at(id: u64, address: String, configure: fn(&mut Node)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut node = Self { id, address, node: None, directory, configure };
        node.restart();
        node
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    /// Starts a node on the directory, which must not run.
    pub(crate) fn restart(&mut self) {
        assert!(self.node.is_none());
        let mut node = Node::create(self.id, self.address.clone(), self.path()).unwrap();
        node.options_mut().unwrap().set_network_latency_ms(LATENCY_MS).unwrap();
        (self.configure)(&mut node);
        node.bind(&self.address).unwrap();
        node.start().unwrap();
        self.node = Some(node);
    }

    /// Stops and destroys the node.
    pub(crate) fn stop(&mut self) {
        self.node.take().unwrap().stop().unwrap();
    }

    /// A connection to this very node.
    pub(crate) fn connect(&self) -> Client {
        Client::connect(&self.address, TIMEOUT).unwrap()
    }

    /// A connection with the database `test` open.
    pub(crate) fn open(&self) -> Client {
        let mut client = self.connect();
        client.open("test").unwrap();
        client
    }
}

/// Three voters.
pub(crate) fn start_three() -> Vec<TestNode> {
    start_three_with(|_| {})
}

/// Three voters with settings.
pub(crate) fn start_three_with(configure: fn(&mut Node)) -> Vec<TestNode> {
    let nodes: Vec<TestNode> = (1..=3).map(|id| TestNode::start_with(id, configure)).collect();
    let mut leader = nodes[0].connect();
    for node in &nodes[1..] {
        leader.add(NodeId(node.id), &node.address).unwrap();
        leader.assign(NodeId(node.id), Role::Voter).unwrap();
    }
    nodes
}

/// A connection to whoever leads the running ones of these nodes.
pub(crate) fn leader_of(nodes: &[TestNode]) -> Client {
    let addresses: Vec<&str> =
        nodes.iter().filter(|node| node.node.is_some()).map(|node| node.address.as_str()).collect();
    connect_leader(&addresses, TIMEOUT).unwrap()
}

/// Position of the node that this client is connected to.
pub(crate) fn position(nodes: &[TestNode], client: &Client) -> usize {
    nodes.iter().position(|node| node.address == client.address()).unwrap()
}

/// Repeats until it holds.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {TIMEOUT:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The committed image of `test` on this node; empty when it has none yet.
pub(crate) fn image(node: &TestNode) -> Vec<u8> {
    match node.connect().dump("test") {
        Ok(files) => files[0].1.clone(),
        Err(ClientError::Failure { .. }) => Vec::new(),
        Err(error) => panic!("{error}"),
    }
}

/// A connection to a leader that has opened the database. One that is about to step down has not.
pub(crate) fn open_leader(nodes: &[TestNode]) -> Client {
    let mut opened = None;
    eventually("a leader", || {
        let mut client = leader_of(nodes);
        let is_open = client.open("test").is_ok();
        opened = Some(client);
        is_open
    });
    opened.unwrap()
}

/// Waits until all running nodes hold the same image of `test`.
pub(crate) fn wait_equal(nodes: &[TestNode]) {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let images: Vec<(u64, Vec<u8>)> =
            nodes.iter().filter(|node| node.node.is_some()).map(|node| (node.id, image(node))).collect();
        let first = &images[0].1;
        if !first.is_empty() && images.iter().all(|(_, image)| image == first) {
            return;
        }
        if Instant::now() > deadline {
            panic!("not equal within {TIMEOUT:?}:{}", differences(&images));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Size of each image, and the pages in which it differs from the first.
fn differences(images: &[(u64, Vec<u8>)]) -> String {
    let first = &images[0].1;
    let mut lines = String::new();
    for (id, image) in images {
        let pairs = image.chunks(4096).zip(first.chunks(4096));
        let pages: Vec<usize> = pairs
            .enumerate()
            .filter(|(_, (left, right))| left != right)
            .map(|(index, _)| index + 1)
            .collect();
        lines += &format!("\n  node {id}: {} bytes, other pages {pages:?}", image.len());
    }
    lines
}

pub(crate) fn text(value: &str) -> Value {
    Value::Text(value.to_owned().into())
}

/// Settings: a writer that finds another one fails at once.
pub(crate) fn no_patience(node: &mut Node) {
    node.options_mut().unwrap().live().set_busy_timeout_ms(0);
}

/// A query that never ends by itself.
pub(crate) const ENDLESS: &str =
    "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT max(n) FROM c";

/// Inserts into `t (n)` for ever.
pub(crate) const ENDLESS_INSERT: &str = "INSERT INTO t (n) \
    WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT max(n) FROM c";

/// The one value of a one-row, one-column query.
pub(crate) fn one(client: &mut Client, sql: &str) -> Value {
    let result = client.query_sql(sql, &[]).unwrap();
    assert_eq!((result.rows.len(), result.columns.len()), (1, 1), "{sql}");
    result.rows[0][0].clone()
}

/// A line of `/proc/self/status`, in bytes.
pub(crate) fn memory(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

/// Sockets that are open in this process.
pub(crate) fn sockets() -> usize {
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap();
    let targets = descriptors.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
}
