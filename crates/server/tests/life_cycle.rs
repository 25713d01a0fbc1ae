//! Create, start, stop and what may be called when: results and texts of the C interface.
#![allow(clippy::unwrap_used, reason = "a failure of a helper is a failure of the test")]

mod common;

use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{TIMEOUT, TestNode, unique_address};
use server::address::BoundSocket;
use server::client::Client;
use server::{Configuration, Connect, Node, NodeId, Role, Server};

fn created(id: u64) -> (Node, tempfile::TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let address = unique_address();
    let node = Node::create(id, address.clone(), directory.path().to_owned()).unwrap();
    (node, directory, address)
}

fn configuration() -> Configuration {
    let server = Server { id: NodeId(1), address: "1".to_owned(), role: Role::Voter };
    Configuration { servers: vec![server] }
}

#[test]
fn create_refuses_directories_with_the_texts_of_c() {
    let text = |path: &str| Node::create(1, "1".to_owned(), path.into()).unwrap_err().to_string();
    assert_eq!(text("/nonexistent/x"), "raft_init(): io: directory '/nonexistent/x' does not exist");
    assert_eq!(text(""), "raft_init(): io: directory '' does not exist");
    assert_eq!(text(&"x".repeat(895)), "raft_uv_init(): directory path too long");
    let long = "x".repeat(800);
    assert_eq!(text(&long), format!("raft_init(): io: can't stat '{long}': name too long"));
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    assert_eq!(text(path), format!("raft_init(): io: path '{path}' is not a directory"));

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    std::fs::write(directory.path().join("metadata1"), [1; 40]).unwrap();
    assert!(
        text(path).starts_with("raft_init(): io: metadata1 has size 40 instead of 32; its vote is lost: ")
    );
    std::fs::write(directory.path().join("metadata1"), [9_u64.to_le_bytes(); 4].concat()).unwrap();
    assert!(text(path).starts_with(
        "raft_init(): io: decode content of metadata1: bad format version 9; its vote is lost: "
    ));
}

#[test]
fn calls_at_the_wrong_time_are_refused() {
    let (mut node, _directory, address) = created(1);
    assert_eq!(node.stop().unwrap_err().code(), 2, "before start");
    assert_eq!(node.start().unwrap_err().code(), 2, "without an address");
    node.bind(&address).unwrap();
    node.start().unwrap();

    let again = node.start().unwrap_err();
    assert_eq!((again.code(), again.to_string().as_str()), (1, "couldn't lock the raft directory"));
    assert_eq!(node.bind(&unique_address()).unwrap_err().code(), 2);
    assert!(node.options_mut().is_err());
    assert_eq!(node.recover(configuration()).unwrap_err().code(), 1);
    assert!(node.is_running());

    node.stop().unwrap();
    assert!(!node.is_running());
    assert_eq!(node.stop().unwrap_err().code(), 2);
    assert_eq!(node.start().unwrap_err().code(), 2);
    assert_eq!(node.bind(&unique_address()).unwrap_err().code(), 2);
    assert_eq!(node.recover(configuration()).unwrap_err().code(), 2);
    assert!(node.options_mut().is_err());
    assert_eq!(node.bind_address(), Some(address.as_str()));
}

#[test]
fn id_zero_is_refused_at_start() {
    let (mut node, _directory, address) = created(0);
    node.bind(&address).unwrap();
    assert_eq!(node.start().unwrap_err().code(), 2);
}

#[test]
fn node_that_was_never_started_frees_its_address() {
    let (mut node, _directory, address) = created(1);
    node.bind(&address).unwrap();
    assert!(BoundSocket::bind(&address).is_err());
    assert!(node.bind("@/no\u{e9}".repeat(40).as_str()).is_err(), "too long");
    assert_eq!(node.bind_address(), Some(address.as_str()), "the first stays in force");
    drop(node);
    BoundSocket::bind(&address).unwrap();
}

#[test]
fn second_node_on_a_port_fails_and_does_not_hang() {
    let (mut first, _first_directory, _) = created(1);
    let (mut second, _second_directory, _) = created(1);
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    first.bind(&port).unwrap();
    // Both are bound, as neither listens yet.
    second.bind(&port).unwrap();
    first.start().unwrap();
    let error = second.start().unwrap_err();
    assert_eq!(error.code(), 1);
    assert!(error.to_string().contains(&port), "{error}");
    Client::connect(&port, TIMEOUT).unwrap().leader().unwrap();
    first.stop().unwrap();
}

#[test]
fn directory_of_a_running_node_is_locked() {
    let first = TestNode::start(1);
    let mut second = Node::create(1, "1".to_owned(), first.path()).unwrap();
    let address = unique_address();
    second.bind(&address).unwrap();
    let error = second.start().unwrap_err();
    assert_eq!((error.code(), error.to_string().as_str()), (1, "couldn't lock the raft directory"));
    assert_eq!(second.recover(configuration()).unwrap_err().code(), 1);
    first.open().exec_sql("CREATE TABLE t (n INTEGER)", &[]).unwrap();
}

#[test]
fn files_of_a_first_start_are_those_of_c() {
    let mut node = TestNode::start(1);
    let names = |node: &TestNode| {
        let mut names: Vec<String> = std::fs::read_dir(node.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.starts_with("open-"))
            .collect();
        names.sort();
        names
    };
    // The second one holds the term of the first election, which C's sole voters do without; C deletes the manifest.
    let expected =
        ["0000000000000001-0000000000000001", "dqlite-lock", "metadata1", "metadata2", "tmp-log-manifest"];
    assert_eq!(names(&node), expected);
    for name in expected {
        let metadata = std::fs::metadata(node.path().join(name)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600, "{name}");
    }
    node.stop();
    // Whoever unpacks a node's files beside its own keeps them.
    std::fs::write(node.path().join("info.yaml"), "Address: x").unwrap();
    node.restart();
    node.stop();
    assert!(node.path().join("info.yaml").exists());
}

#[test]
fn first_start_that_was_interrupted_is_completed() {
    let mut node = TestNode::start(1);
    node.stop();
    for name in std::fs::read_dir(node.path()).unwrap() {
        let path = name.unwrap().path();
        if path.file_name().unwrap() != "metadata1" {
            std::fs::remove_file(path).unwrap();
        }
    }
    node.restart();
    node.open().exec_sql("CREATE TABLE t (n INTEGER)", &[]).unwrap();
}

#[test]
fn describe_and_recover_work_on_a_foreign_directory() {
    let mut node = TestNode::start(7_000);
    node.stop();
    let mut visitor = Node::create(1, "1".to_owned(), node.path()).unwrap();
    assert_eq!(visitor.describe_last_entry().unwrap(), (0, 0));
    drop(visitor);

    let mut first = TestNode::start(1);
    first.open().exec_sql("CREATE TABLE t (n INTEGER)", &[]).unwrap();
    first.stop();
    visitor = Node::create(1, "1".to_owned(), first.path()).unwrap();
    let (index, term) = visitor.describe_last_entry().unwrap();
    assert!(index >= 2 && term >= 1, "{index} {term}");
    let servers = vec![Server { id: NodeId(1), address: first.address.clone(), role: Role::Voter }];
    visitor.recover(Configuration { servers }).unwrap();
    assert_eq!(visitor.describe_last_entry().unwrap().0, index + 1);
    drop(visitor);
    first.restart();
    first.open().exec_sql("INSERT INTO t VALUES (1)", &[]).unwrap();
}

#[test]
fn stop_ends_running_queries_and_closes_connections_without_an_answer() {
    let mut node = TestNode::start(1);
    let mut clients: Vec<Client> = (0..6).map(|_| node.open()).collect();
    let endless = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT max(n) FROM c";
    let threads: Vec<_> = clients
        .drain(..)
        .map(|mut client| std::thread::spawn(move || client.query_sql(endless, &[]).unwrap_err()))
        .collect();
    let idle = node.connect();
    std::thread::sleep(Duration::from_millis(200));
    let begin = Instant::now();
    node.stop();
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    for thread in threads {
        let error = thread.join().unwrap();
        assert!(error.to_string().contains("closed the connection"), "{error}");
    }
    let mut idle = idle;
    assert!(idle.leader().is_err());
}

/// Blocks until told otherwise.
struct Blocking {
    called: AtomicBool,
    release: AtomicBool,
}

impl Connect for Blocking {
    fn connect(&self, _address: &str) -> std::io::Result<OwnedFd> {
        self.called.store(true, Ordering::SeqCst);
        while !self.release.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        Err(std::io::ErrorKind::ConnectionRefused.into())
    }
}

#[test]
fn blocking_connect_function_delays_nothing_but_the_stop() {
    let (mut node, _directory, address) = created(1);
    let connect = Arc::new(Blocking { called: AtomicBool::new(false), release: AtomicBool::new(false) });
    node.set_connect(Arc::<Blocking>::clone(&connect));
    node.bind(&address).unwrap();
    node.start().unwrap();
    let mut client = Client::connect(&address, TIMEOUT).unwrap();
    client.add(NodeId(2), "@nobody").unwrap();
    // A spare gets nothing.
    client.assign(NodeId(2), Role::StandBy).unwrap();
    common::eventually("a connection attempt", || connect.called.load(Ordering::SeqCst));
    client.open("test").unwrap();
    client.exec_sql("CREATE TABLE t (n INTEGER)", &[]).unwrap();

    let stopping = std::thread::spawn(move || node.stop());
    std::thread::sleep(Duration::from_millis(100));
    assert!(!stopping.is_finished(), "the host may free its function once stop has returned");
    connect.release.store(true, Ordering::SeqCst);
    stopping.join().unwrap().unwrap();
}
