//! Directories of other clusters, copied ones and recovered ones.
#![allow(clippy::unwrap_used, reason = "a failure of a helper is a failure of the test")]

mod common;

use std::path::Path;

use common::{TestNode, eventually, image, leader_of, one, open_leader, start_three, wait_equal};
use server::client::Client;
use server::{NodeId, Role};
use wire_protocol::Value;

const FILE: &str = "cluster-identity";

/// The line that names the cluster.
fn identity(node: &TestNode) -> Option<String> {
    let text = std::fs::read_to_string(node.path().join(FILE)).ok()?;
    text.lines().find(|line| line.starts_with("cluster ")).map(str::to_owned)
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(to).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn fill(client: &mut Client, count: usize, text: &str) {
    client.exec_sql("CREATE TABLE IF NOT EXISTS t (a INTEGER PRIMARY KEY, b TEXT)", &[]).unwrap();
    for _ in 0..count {
        client.exec_sql("INSERT INTO t (b) VALUES (?)", &[Value::Text(text.to_owned().into())]).unwrap();
    }
}

fn count(client: &mut Client, text: &str) -> Value {
    one(client, &format!("SELECT count(*) FROM t WHERE b = '{text}'"))
}

fn aside(node: &TestNode) -> usize {
    let names = std::fs::read_dir(node.path()).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().starts_with("corrupt-")).count()
}

/// A directory of another cluster, with equal indexes and terms and other rows, joined; its rows took the place of those that
/// were acknowledged as soon as it led. The log that it brings is longer or shorter than that of the cluster.
#[test]
fn a_directory_of_another_cluster_brings_nothing_and_no_acknowledged_row_is_lost() {
    for theirs in [40, 5] {
        let mut other = TestNode::start(1);
        fill(&mut other.open(), theirs, "other");
        other.stop();
        let mut nodes = vec![TestNode::start(1), TestNode::start(2)];
        let mut joiner = TestNode::start(3);
        joiner.stop();
        copy(&other.path(), &joiner.path());
        joiner.restart();
        nodes.push(joiner);
        let mut client = nodes[0].open();
        fill(&mut client, 10, "mine");
        for node in &nodes[1..] {
            client.add(NodeId(node.id), &node.address).unwrap();
            client.assign(NodeId(node.id), Role::Voter).unwrap();
        }
        fill(&mut client, 10, "after");
        wait_equal(&nodes);
        assert!(aside(&nodes[2]) > 0, "its own log is moved aside, not deleted");
        eventually("all have one identity", || {
            identity(&nodes[0]).is_some() && nodes.iter().all(|node| identity(node) == identity(&nodes[0]))
        });
        client.transfer(NodeId(3)).unwrap();
        nodes[0].stop();
        let mut client = open_leader(&nodes);
        assert_eq!(count(&mut client, "other"), Value::Integer(0));
        assert_eq!(count(&mut client, "mine"), Value::Integer(10));
        assert_eq!(count(&mut client, "after"), Value::Integer(10));
    }
}

/// A member of another cluster that has this id there, too: nothing of its log is in doubt for itself.
#[test]
fn a_member_of_another_cluster_is_refused_and_add_says_so() {
    let others = start_three();
    eventually("the others have an identity", || others.iter().all(|node| identity(node).is_some()));
    let first = TestNode::start(1);
    let mut client = first.open();
    fill(&mut client, 5, "mine");
    eventually("the first has one", || identity(&first).is_some());
    let error = client.add(NodeId(3), &others[2].address).unwrap_err().to_string();
    assert!(error.contains("another cluster"), "{error}");
    assert_eq!(client.cluster().unwrap().len(), 1);
    assert_eq!(count(&mut client, "mine"), Value::Integer(5));
    client.add(NodeId(9), &common::unique_address()).unwrap();
    drop(others);
}

#[test]
fn members_learn_the_identity_and_keep_it_through_restarts_and_lost_files() {
    let mut nodes = start_three();
    eventually("all have one", || nodes.iter().all(|node| identity(node).is_some()));
    let known = identity(&nodes[0]);
    assert!(nodes.iter().all(|node| identity(node) == known));
    for lost in 0..3 {
        nodes[lost].stop();
        std::fs::remove_file(nodes[lost].path().join(FILE)).unwrap();
        nodes[lost].restart();
        let mut client = open_leader(&nodes);
        fill(&mut client, 3, "more");
        eventually("it learns it again", || identity(&nodes[lost]) == known);
    }
    wait_equal(&nodes);
}

/// Whoever copies the directory of a member by hand gets a member.
#[test]
fn a_copied_directory_of_the_same_cluster_is_used_as_it_is() {
    let mut nodes = start_three();
    let mut client = open_leader(&nodes);
    fill(&mut client, 20, "mine");
    wait_equal(&nodes);
    eventually("all have one", || nodes.iter().all(|node| identity(node).is_some()));
    let leader = common::position(&nodes, &client);
    let (from, to) = ((leader + 1) % 3, (leader + 2) % 3);
    nodes[from].stop();
    nodes[to].stop();
    copy(&nodes[from].path(), &nodes[to].path());
    nodes[from].restart();
    nodes[to].restart();
    let mut client = leader_of(&nodes);
    client.open("test").unwrap();
    fill(&mut client, 5, "after");
    wait_equal(&nodes);
    assert_eq!(aside(&nodes[to]), 0);
    assert_eq!(identity(&nodes[to]), identity(&nodes[from]));
    assert!(!image(&nodes[to]).is_empty());
}
