//! Clusters: replication, loss of a leader, membership, catching up.
#![allow(clippy::unwrap_used, reason = "a failure of a helper is a failure of the test")]

mod common;

use common::{eventually, one, open_leader, position, start_three, start_three_with, wait_equal};
use server::client::Client;
use server::options::TrailingStrategy;
use server::{NodeId, Role};
use wire_protocol::Value;

fn insert(client: &mut Client, numbers: std::ops::Range<i64>) {
    for number in numbers {
        client.exec_sql("INSERT INTO t VALUES (?)", &[Value::Integer(number)]).unwrap();
    }
}

#[test]
fn rows_reach_all_members() {
    let nodes = start_three();
    let mut client = open_leader(&nodes);
    let servers = client.cluster().unwrap();
    assert!(servers.iter().all(|server| server.role == Role::Voter));
    assert_eq!(servers.iter().map(|server| server.id.0).collect::<Vec<_>>(), [1, 2, 3]);
    client.exec_sql("CREATE TABLE t (n INTEGER)", &[]).unwrap();
    insert(&mut client, 0..50);
    wait_equal(&nodes);
    eventually("followers name the leader", || {
        nodes.iter().all(|node| node.connect().leader().unwrap().1 == client.address())
    });
    for node in nodes.iter().filter(|node| node.address != client.address()) {
        let mut follower = node.connect();
        let refused = follower.open("test").and_then(|()| follower.query_sql("SELECT 1", &[]).map(drop));
        assert_eq!(refused.unwrap_err().code(), Some(10250));
    }
}

#[test]
fn cluster_survives_its_leader_and_takes_it_back() {
    let mut nodes = start_three();
    let mut client = open_leader(&nodes);
    client.exec_sql("CREATE TABLE t (n INTEGER)", &[]).unwrap();
    for round in 0..3 {
        insert(&mut client, round * 20..round * 20 + 10);
        let leader = position(&nodes, &client);
        nodes[leader].stop();
        assert!(client.exec_sql("INSERT INTO t VALUES (0)", &[]).is_err());
        client = open_leader(&nodes);
        insert(&mut client, round * 20 + 10..round * 20 + 20);
        nodes[leader].restart();
        wait_equal(&nodes);
    }
    client = open_leader(&nodes);
    assert_eq!(one(&mut client, "SELECT count(DISTINCT n) FROM t"), Value::Integer(60));
}

#[test]
fn without_a_majority_nothing_is_acknowledged() {
    let mut nodes = start_three();
    let mut client = open_leader(&nodes);
    client.exec_sql("CREATE TABLE t (n INTEGER)", &[]).unwrap();
    let leader = position(&nodes, &client);
    for index in (0..3).filter(|index| *index != leader) {
        nodes[index].stop();
    }
    assert!(client.exec_sql("INSERT INTO t VALUES (1)", &[]).is_err());
    let mut reader = nodes[leader].connect();
    eventually("reads are refused", || {
        let read = reader.open("test").and_then(|()| reader.query_sql("SELECT count(*) FROM t", &[]));
        read.is_err_and(|error| error.code() == Some(10250))
    });
    for index in (0..3).filter(|index| *index != leader) {
        nodes[index].restart();
    }
    // The leader may have to step down and be elected again first.
    eventually("writes are accepted again", || {
        open_leader(&nodes).exec_sql("INSERT INTO t VALUES (2)", &[]).is_ok()
    });
    wait_equal(&nodes);
}

#[test]
fn leadership_can_be_handed_over() {
    let nodes = start_three();
    let mut client = open_leader(&nodes);
    client.exec_sql("CREATE TABLE t (n INTEGER)", &[]).unwrap();
    for _ in 0..4 {
        let target = (position(&nodes, &client) + 1) % 3;
        // A target that takes longer than an election timeout leaves the leader as it was.
        eventually("a transfer", || {
            let transferred = client.transfer(NodeId(nodes[target].id)).is_ok();
            client = open_leader(&nodes);
            transferred
        });
        assert_eq!(position(&nodes, &client), target);
        insert(&mut client, 0..5);
    }
    assert_eq!(one(&mut client, "SELECT count(*) FROM t"), Value::Integer(20));
    wait_equal(&nodes);
}

#[test]
fn members_change_roles_leave_and_come_back() {
    let nodes = start_three();
    let mut client = open_leader(&nodes);
    client.exec_sql("CREATE TABLE t (n INTEGER)", &[]).unwrap();
    let other = (position(&nodes, &client) + 1) % 3;
    let id = NodeId(nodes[other].id);
    for role in [Role::StandBy, Role::Spare, Role::StandBy, Role::Voter] {
        client.assign(id, role).unwrap();
        let servers = client.cluster().unwrap();
        assert_eq!(servers.iter().find(|server| server.id == id).unwrap().role, role);
        insert(&mut client, 0..5);
    }
    assert!(client.assign(id, Role::Voter).is_err(), "it is one already");
    client.remove(id).unwrap();
    assert_eq!(client.cluster().unwrap().len(), 2);
    insert(&mut client, 0..5);
    assert!(client.remove(id).is_err());
    client.add(id, &nodes[other].address).unwrap();
    client.assign(id, Role::Voter).unwrap();
    insert(&mut client, 0..5);
    wait_equal(&nodes);
}

#[test]
fn member_that_was_away_catches_up_by_snapshot() {
    let mut nodes = start_three_with(|node| {
        let options = node.options_mut().unwrap();
        options.set_snapshot_params(16, 16, TrailingStrategy::Static).unwrap();
    });
    let mut client = open_leader(&nodes);
    client.exec_sql("CREATE TABLE t (n INTEGER)", &[]).unwrap();
    let away = (position(&nodes, &client) + 1) % 3;
    nodes[away].stop();
    // Far more than what stays in the log behind a snapshot.
    insert(&mut client, 0..200);
    nodes[away].restart();
    wait_equal(&nodes);
    let mut client = open_leader(&nodes);
    insert(&mut client, 200..210);
    wait_equal(&nodes);
    // And it restarts from what it received.
    nodes[away].stop();
    nodes[away].restart();
    wait_equal(&nodes);
}

#[test]
fn of_128_clients_that_write_single_statements_nobody_sees_a_lock_error() {
    // C dqlite answers most of such requests with "database is locked".
    const CLIENTS: usize = 128;
    const WRITES: usize = 15;
    let nodes = start_three();
    let mut first = open_leader(&nodes);
    first.exec_sql("CREATE TABLE t (n INTEGER)", &[]).unwrap();
    let all_ready = std::sync::Barrier::new(CLIENTS);
    let write = |mut client: Client| {
        let statement = client.prepare("INSERT INTO t VALUES (?)").unwrap();
        all_ready.wait();
        let mut lock_errors = 0;
        for number in 0..WRITES as u64 {
            match client.exec(statement, &[Value::Integer(number.cast_signed())]) {
                Ok(_) => {}
                // SQLITE_BUSY and its extended codes.
                Err(error) if error.code().is_some_and(|code| code & 0xff == 5) => lock_errors += 1,
                Err(error) => panic!("{error}"),
            }
        }
        lock_errors
    };
    let connections: Vec<Client> = (0..CLIENTS).map(|_| open_leader(&nodes)).collect();
    let lock_errors: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = connections.into_iter().map(|client| scope.spawn(|| write(client))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(lock_errors, 0, "of {} writes", CLIENTS * WRITES);
    let stored = one(&mut first, "SELECT count(*) FROM t");
    assert_eq!(stored, Value::Integer(i64::try_from(CLIENTS * WRITES).unwrap()));
}
