//! Role management and handover with real nodes.
#![allow(clippy::unwrap_used, reason = "a failure of a helper is a failure of the test")]

mod common;

use std::time::{Duration, Instant};

use common::{TIMEOUT, TestNode, eventually, leader_of, position};
use server::client::{Client, connect_leader};
use server::{Node, NodeId, Role};
use wire_protocol::Value;

/// Longest wait for the roles that are wanted: several rounds, silences and promotions, on a machine that does other
/// things as well.
const PATIENCE: Duration = Duration::from_secs(90);

fn live(node: &mut Node) -> &server::options::LiveOptions {
    node.options_mut().unwrap().live()
}

fn managed(node: &mut Node, voters: i32, stand_bys: i32) {
    let live = live(node);
    live.set_target_voters(voters);
    live.set_target_standbys(stand_bys);
    live.set_role_management(true);
}

fn three_and_one(node: &mut Node) {
    managed(node, 3, 1);
}

/// Nodes that manage roles by themselves; the first is the cluster, the others are added as spares.
fn start(count: u64, configure: fn(&mut Node)) -> Vec<TestNode> {
    let nodes: Vec<TestNode> = (1..=count).map(|id| TestNode::start_with(id, configure)).collect();
    for node in &nodes[1..] {
        join(&nodes, node.id, &node.address);
    }
    nodes
}

/// Adds a member, whatever role management is doing at the moment.
fn join(nodes: &[TestNode], id: u64, address: &str) {
    eventually("the member is added", || {
        let mut leader = leader_of(nodes);
        let there = |client: &mut Client| {
            client.cluster().is_ok_and(|servers| servers.iter().any(|server| server.id.0 == id))
        };
        leader.add(NodeId(id), address).is_ok() || there(&mut leader)
    });
}

/// Roles in the order of the configuration, as the leader has them: `V`, `B`, `S`.
fn roles(nodes: &[TestNode]) -> Option<Vec<(u64, Role)>> {
    let addresses: Vec<&str> =
        nodes.iter().filter(|node| node.node.is_some()).map(|node| node.address.as_str()).collect();
    let servers = connect_leader(&addresses, TIMEOUT).ok()?.cluster().ok()?;
    Some(servers.iter().map(|server| (server.id.0, server.role)).collect())
}

fn of(roles: &[(u64, Role)], role: Role) -> Vec<u64> {
    roles.iter().filter(|(_, other)| *other == role).map(|(id, _)| *id).collect()
}

/// Waits until the roles are as wanted, and returns them.
fn wait_for(nodes: &[TestNode], what: &str, holds: impl Fn(&[(u64, Role)]) -> bool) -> Vec<(u64, Role)> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = roles(nodes);
        if let Some(found) = found.as_ref().filter(|found| holds(found)) {
            return found.clone();
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}; the last was {found:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn counts(voters: usize, stand_bys: usize) -> impl Fn(&[(u64, Role)]) -> bool {
    move |roles| of(roles, Role::Voter).len() == voters && of(roles, Role::StandBy).len() == stand_bys
}

fn write(nodes: &[TestNode], number: i64) {
    eventually("a write", || {
        let mut client = leader_of(nodes);
        let create = "CREATE TABLE IF NOT EXISTS t (n INTEGER)";
        client.open("test").and_then(|()| client.exec_sql(create, &[])).is_ok()
            && client.exec_sql("INSERT INTO t VALUES (?)", &[Value::Integer(number)]).is_ok()
    });
}

#[test]
fn a_lone_node_stays_the_voter_it_is() {
    let mut nodes = start(1, |node| managed(node, 0, 0));
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(roles(&nodes).unwrap(), [(1, Role::Voter)]);
    write(&nodes, 1);
    let begun = Instant::now();
    let error = nodes[0].node.as_ref().unwrap().handover().unwrap().wait().unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(10), "there is nobody to wait for");
    assert!(error.to_string().contains("no other node that answers can take the vote"), "{error}");
    write(&nodes, 2);
    nodes[0].stop();
}

#[test]
fn members_are_promoted_and_replaced_when_they_are_lost() {
    let mut nodes = start(5, three_and_one);
    let before = wait_for(&nodes, "three voters, a stand-by and a spare", counts(3, 1));
    write(&nodes, 1);
    let leader = position(&nodes, &leader_of(&nodes));
    let lost = *of(&before, Role::Voter).iter().find(|id| **id != nodes[leader].id).unwrap();
    let stand_by = of(&before, Role::StandBy)[0];
    let spare = of(&before, Role::Spare)[0];
    let index = nodes.iter().position(|node| node.id == lost).unwrap();
    nodes[index].stop();
    let after =
        wait_for(&nodes, "the stand-by votes, the spare stands by, the lost one is a spare", |roles| {
            counts(3, 1)(roles) && of(roles, Role::Spare) == [lost]
        });
    assert!(of(&after, Role::Voter).contains(&stand_by), "{before:?} {after:?}");
    assert_eq!(of(&after, Role::StandBy), [spare]);
    write(&nodes, 2);
    // It comes back as what it is, and so it stays: nobody else is missing.
    nodes[index].restart();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(of(&roles(&nodes).unwrap(), Role::Spare), [lost]);
}

#[test]
fn two_voters_of_three_keep_the_third_until_somebody_can_replace_it() {
    let mut nodes = start(3, |node| managed(node, 3, 0));
    wait_for(&nodes, "three voters", counts(3, 0));
    let leader = position(&nodes, &leader_of(&nodes));
    let lost = (leader + 1) % 3;
    nodes[lost].stop();
    std::thread::sleep(Duration::from_secs(8));
    assert_eq!(of(&roles(&nodes).unwrap(), Role::Voter).len(), 3);
    nodes.push(TestNode::start_with(4, |node| managed(node, 3, 0)));
    let address = nodes[3].address.clone();
    join(&nodes, 4, &address);
    let id = nodes[lost].id;
    wait_for(&nodes, "the new one votes in place of the lost one", |roles| {
        counts(3, 0)(roles) && of(roles, Role::Spare) == [id]
    });
    write(&nodes, 1);
}

#[test]
fn failure_domains_and_weights_decide_who_votes() {
    // Six nodes in three domains; two in each, of which one is heavy. The first is where it all begins.
    let nodes = start(7, |node| managed(node, 1, 0));
    let domain = |id: u64| id % 3;
    for node in &nodes {
        let handle = node.node.as_ref().unwrap();
        handle.live().set_failure_domain(domain(node.id));
        handle.live().set_weight(u64::from(node.id < 5) * 10);
    }
    // They know by now where they are; only now are more voters wanted.
    std::thread::sleep(Duration::from_secs(3));
    for node in &nodes {
        let live = node.node.as_ref().unwrap().live();
        live.set_target_voters(3);
        live.set_target_standbys(2);
    }
    let found = wait_for(&nodes, "three voters, two stand-bys", counts(3, 2));
    let mut voters = of(&found, Role::Voter);
    voters.sort_unstable();
    // Node 1 is in domain 1; of domain 2 the light one is 5, of domain 0 it is 6.
    assert_eq!(voters, [1, 5, 6], "{found:?}");
    // Among stand-bys no domain has one yet: the light 7 comes first, then one of another domain than 7's.
    let stand_bys = of(&found, Role::StandBy);
    assert!(stand_bys.contains(&7) && stand_bys.iter().any(|id| domain(*id) != domain(7)), "{found:?}");
    // A leader that is heavier than others stays what it is; fewer voters are wanted, the heaviest other one goes.
    nodes[5].node.as_ref().unwrap().live().set_weight(100);
    std::thread::sleep(Duration::from_secs(3));
    for node in &nodes {
        node.node.as_ref().unwrap().live().set_target_voters(2);
    }
    let found = wait_for(&nodes, "two voters", |roles| of(roles, Role::Voter).len() == 2);
    assert_eq!(of(&found, Role::Voter), [1, 5], "{found:?}");
}

#[test]
fn what_a_client_decides_stands_for_a_while() {
    let nodes = start(4, |node| managed(node, 3, 0));
    let found = wait_for(&nodes, "three voters", counts(3, 0));
    let spare = of(&found, Role::Spare)[0];
    // A client wants another stand-by than role management, which wants none.
    eventually("the client assigns", || leader_of(&nodes).assign(NodeId(spare), Role::StandBy).is_ok());
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(of(&roles(&nodes).unwrap(), Role::StandBy), [spare]);
    wait_for(&nodes, "role management has its way in the end", counts(3, 0));
}

#[test]
fn each_member_in_turn_leaves_gracefully_without_a_failed_write() {
    let mut nodes = start(4, |node| managed(node, 3, 0));
    wait_for(&nodes, "three voters", counts(3, 0));
    write(&nodes, 0);
    let addresses: Vec<String> = nodes.iter().map(|node| node.address.clone()).collect();
    let (stop, stopped) = crossbeam_channel::bounded::<()>(0);
    let writer = std::thread::spawn(move || {
        let mut written = 0_u32;
        let open = || {
            let mut client = connect_leader(&addresses, PATIENCE).unwrap();
            client.open("test").map(|()| client)
        };
        let mut client = open().unwrap();
        while stopped.try_recv() != Err(crossbeam_channel::TryRecvError::Disconnected) {
            let insert = |client: &mut Client| {
                client.exec_sql("INSERT INTO t VALUES (?)", &[Value::Integer(i64::from(written))])
            };
            if let Err(first) = insert(&mut client) {
                // One retry, with the leader of that moment.
                let again = open().and_then(|mut other| insert(&mut other).map(|_| other));
                client = again.unwrap_or_else(|second| panic!("after {first}: {second}"));
            }
            written += 1;
            std::thread::sleep(Duration::from_millis(2));
        }
        written
    });
    for index in 0..nodes.len() {
        let node = nodes[index].node.as_ref().unwrap();
        let id = nodes[index].id;
        // All others may be voters at this moment; then the vote stays, and only leadership moves.
        let outcome = node.handover().unwrap().wait();
        if let Err(error) = &outcome {
            assert!(error.to_string().contains("it does not lead"), "{error}");
        }
        let found = roles(&nodes).unwrap();
        if outcome.is_ok() {
            assert!(!of(&found, Role::Voter).contains(&id), "{found:?}");
            assert_eq!(of(&found, Role::Voter).len(), 3, "{found:?}");
        }
        nodes[index].stop();
        std::thread::sleep(Duration::from_millis(500));
        nodes[index].restart();
        wait_for(&nodes, "three voters", counts(3, 0));
    }
    drop(stop);
    assert!(writer.join().unwrap() > 0);
}

#[test]
fn handover_ends_in_bounded_time_whatever_the_cluster_is_like() {
    let mut nodes: Vec<TestNode> = (1..=3).map(|id| TestNode::start_with(id, |_| {})).collect();
    // A spare that belongs to no cluster yet.
    let error = nodes[2].node.as_ref().unwrap().handover().unwrap().wait().unwrap_err();
    assert!(error.to_string().contains("not a member"), "{error}");
    for id in [2, 3] {
        let address = nodes[id - 1].address.clone();
        join(&nodes[..1], nodes[id - 1].id, &address);
    }
    let assign = |nodes: &[TestNode], id: u64, role: Role| {
        eventually("a role", || {
            let mut leader = leader_of(nodes);
            leader.assign(NodeId(id), role).is_ok()
                || roles(nodes).is_some_and(|roles| roles.contains(&(id, role)))
        });
    };
    // The only voter has a spare to take over, which needs the log first.
    write(&nodes, 1);
    nodes[0].node.as_ref().unwrap().handover().unwrap().wait().unwrap();
    let found = roles(&nodes).unwrap();
    assert_eq!(found[0], (1, Role::Spare), "{found:?}");
    assert_eq!(of(&found, Role::Voter).len(), 1, "{found:?}");
    // It has nothing left to hand over, and learns so from the others.
    nodes[0].node.as_ref().unwrap().handover().unwrap().wait().unwrap();

    // All are voters: leadership goes, the vote cannot.
    for id in 1..=3 {
        assign(&nodes, id, Role::Voter);
    }
    let leader = position(&nodes, &leader_of(&nodes));
    let error = nodes[leader].node.as_ref().unwrap().handover().unwrap().wait().unwrap_err();
    assert!(error.to_string().contains("it does not lead"), "{error}");
    assert_ne!(position(&nodes, &leader_of(&nodes)), leader);

    // Without a quorum.
    let left = (leader + 1) % 3;
    for index in (0..3).filter(|index| *index != left) {
        nodes[index].stop();
    }
    let begun = Instant::now();
    let error = nodes[left].node.as_ref().unwrap().handover().unwrap().wait().unwrap_err();
    // Election timeouts of 900 ms, twice, and ten seconds; and some time for a busy machine.
    assert!(begun.elapsed() < Duration::from_millis(11_800) + TIMEOUT, "{:?}", begun.elapsed());
    assert!(
        ["not done after", "no other node that answers"].iter().any(|part| error.to_string().contains(part)),
        "{error}"
    );
    // Two at once, and a stop that does not wait for them.
    let pending =
        [nodes[left].node.as_ref().unwrap().handover(), nodes[left].node.as_ref().unwrap().handover()];
    let begun = Instant::now();
    nodes[left].stop();
    for handover in pending {
        assert!(handover.unwrap().wait().unwrap_err().to_string().contains("stop"));
    }
    assert!(begun.elapsed() < TIMEOUT);
}
