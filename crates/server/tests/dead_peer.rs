//! A client whose machine vanishes, without a word, while it holds a transaction.
//!
//! Runs in a network namespace of its own, where an address can be taken away from a living connection: from then on
//! nothing the node sends arrives, and nothing comes back.
#![allow(clippy::unwrap_used, reason = "a failure of a helper is a failure of the test")]

mod common;

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{TIMEOUT, TestNode, skip};
use server::client::Client;
use socket2::{Domain, Socket, Type};

const INSIDE: &str = "DQLITE_TEST_INSIDE_A_NAMESPACE";
const TEST: &str = "a_vanished_client_frees_its_lock_within_seconds";
const VANISHING: &str = "10.77.0.1";
/// Eleven seconds is what sockets are set to; the rest is for a busy machine. Without keep-alive it is for ever, with the
/// system's own settings two hours.
const LIMIT: Duration = Duration::from_secs(25);

fn ip(arguments: &str) -> bool {
    let status = Command::new("ip").args(arguments.split(' ')).status();
    status.is_ok_and(|status| status.success())
}

#[test]
fn a_vanished_client_frees_its_lock_within_seconds() {
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    let possible = Command::new("unshare").args(["-n", "ip", "link", "set", "lo", "up"]).output();
    if !possible.is_ok_and(|output| output.status.success()) {
        return skip("network namespaces cannot be made here (no root, no unshare or no ip)");
    }
    let mut command = Command::new("unshare");
    command.arg("-n").arg(std::env::current_exe().unwrap()).args(["--exact", TEST, "--nocapture"]);
    let output = command.env(INSIDE, "1").output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 passed"), "{said}");
}

fn inside() {
    assert!(ip("link set lo up") && ip(&format!("addr add {VANISHING}/32 dev lo")));
    let node = TestNode::start_tcp(1, |_| {});
    let address: SocketAddr = node.address.parse().unwrap();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(VANISHING.parse().unwrap(), 0).into()).unwrap();
    socket.connect(&address.into()).unwrap();
    let mut vanishing = Client::over(socket.into(), &node.address, TIMEOUT).unwrap();
    vanishing.open("test").unwrap();
    vanishing.exec_sql("CREATE TABLE t (n INTEGER)", &[]).unwrap();
    vanishing.exec_sql("BEGIN IMMEDIATE", &[]).unwrap();
    let mut other = node.open();
    other.set_timeout(LIMIT);
    assert!(ip(&format!("addr del {VANISHING}/32 dev lo")));
    let begun = Instant::now();
    let mut refused = 0;
    while let Err(error) = other.exec_sql("INSERT INTO t VALUES (1)", &[]) {
        assert_eq!(error.code(), Some(5), "{error}");
        assert!(begun.elapsed() < LIMIT, "the lock is still held after {:?}", begun.elapsed());
        refused += 1;
    }
    assert!(refused > 0, "the lock was held at first");
    println!("free after {:?}", begun.elapsed());
    drop(vanishing);
}
