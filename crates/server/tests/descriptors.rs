//! Alone in its process: clients that take all the descriptors they can get.
#![allow(clippy::unwrap_used, reason = "a failure of a helper is a failure of the test")]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use common::{TestNode, eventually, one};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use server::options::TrailingStrategy;
use wire_protocol::Value;

const ADDRESS: &str = "DESCRIPTORS_TEST_ADDRESS";

/// Not a test of its own: the other process of the next one. Holds 400 connections until its input ends.
#[test]
fn hold_connections() {
    let Ok(address) = std::env::var(ADDRESS) else { return };
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let mut held = Vec::new();
    for _ in 0..400 {
        let mut stream = TcpStream::connect(&address).unwrap();
        let _ = stream.write_all(&[1, 0, 0, 0, 0, 0, 0, 0]);
        held.push(stream);
    }
    println!("holding");
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

#[test]
fn the_log_and_the_clients_there_are_survive_a_flood_of_connections() {
    // C accepts until nothing is left: the next segment or snapshot cannot be created, and the node stops being one.
    if std::env::var(ADDRESS).is_ok() {
        return;
    }
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(256), ..limit }).unwrap();
    let mut node = TestNode::start_tcp(1, |node| {
        let options = node.options_mut().unwrap();
        options.set_snapshot_params(16, 16, TrailingStrategy::Static).unwrap();
    });
    let mut client = node.open();
    client.exec_sql("CREATE TABLE t (n INTEGER, b BLOB)", &[]).unwrap();
    let mut flood = Command::new(std::env::current_exe().unwrap())
        .args(["hold_connections", "--exact", "--nocapture"])
        .env(ADDRESS, &node.address)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(flood.stdout.take().unwrap()).lines();
    assert!(lines.by_ref().map_while(Result::ok).any(|line| line.contains("holding")));
    eventually("hardly any descriptor left", || std::fs::read_dir("/proc/self/fd").unwrap().count() >= 190);
    // Several segments and snapshots.
    for number in 0..150 {
        client.exec_sql("INSERT INTO t VALUES (?, randomblob(100000))", &[Value::Integer(number)]).unwrap();
    }
    let snapshots = std::fs::read_dir(node.path()).unwrap();
    let snapshots = snapshots
        .filter(|name| name.as_ref().unwrap().file_name().to_str().unwrap().starts_with("snapshot-"));
    assert!(snapshots.count() >= 2);
    drop(flood.stdin.take());
    assert!(flood.wait().unwrap().success());
    eventually("room for new clients", || node.connect().open("test").is_ok());
    assert_eq!(one(&mut node.open(), "SELECT count(*) FROM t"), Value::Integer(150));
    node.stop();
    node.restart();
    assert_eq!(one(&mut node.open(), "SELECT count(*) FROM t"), Value::Integer(150));
}
