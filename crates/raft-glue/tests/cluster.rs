//! Replicas among themselves, in good and in bad weather.

mod common;

use common::{Cluster, configuration};
use raft_glue::{ChangeError, LogIndex, NodeId, Role, StreamId};
use wire_protocol::rpc::{AppendEntriesResult, Message};

#[test]
fn a_sole_voter_leads_at_once_and_commits() {
    let mut cluster = Cluster::new(1, 1, 0);
    cluster.run(100);
    assert_eq!(cluster.leader(), Some(1));
    let index = cluster.propose(1, 1).unwrap();
    cluster.run(100);
    assert!(cluster.replica(1).serving());
    assert_eq!(cluster.replica(1).applied_index(), index);
    cluster.crash(1);
    cluster.start(1);
    cluster.run(100);
    assert!(cluster.replica(1).applied_index() > index);
}

#[test]
fn three_voters_elect_replicate_and_replace_a_dead_leader() {
    for seed in 0..20 {
        let mut cluster = Cluster::new(seed, 3, 0);
        cluster.run(15_000);
        let first = cluster.leader().expect("a leader");
        let index = cluster.propose(first, 3).unwrap();
        cluster.run(1_000);
        for id in 1..=3 {
            assert!(cluster.replica(id).applied_index() >= index, "seed {seed}");
            assert_eq!(cluster.replica(id).leader().unwrap().0, NodeId(first));
        }
        cluster.crash(first);
        cluster.run(20_000);
        let second = cluster.leader().expect("another leader");
        assert_ne!(first, second);
        cluster.propose(second, 3).unwrap();
        cluster.heal_and_check();
    }
}

#[test]
fn nodes_join_become_voters_and_leave() {
    let mut cluster = Cluster::new(3, 1, 2);
    cluster.run(500);
    for id in [2, 3] {
        let address = common::address(id);
        let request = cluster.request(1, |leader, request| leader.add(request, NodeId(id), address)).unwrap();
        cluster.run(500);
        assert_eq!(cluster.node(1).done.pop(), Some((request, Ok(()))));
        let request =
            cluster.request(1, |leader, request| leader.assign(request, NodeId(id), Role::Voter)).unwrap();
        cluster.run(2_000);
        assert_eq!(cluster.node(1).done.pop(), Some((request, Ok(()))));
    }
    let everybody = configuration(&[(1, Role::Voter), (2, Role::Voter), (3, Role::Voter)]);
    for id in 1..=3 {
        assert_eq!(*cluster.replica(id).configuration(), everybody);
    }
    let again = cluster.request(1, |leader, request| leader.add(request, NodeId(2), "x".to_owned()));
    assert_eq!(again, Err(ChangeError::DuplicateId));
    let request = cluster.request(1, |leader, request| leader.remove(request, NodeId(1))).unwrap();
    cluster.run(500);
    assert_eq!(cluster.node(1).done.pop(), Some((request, Ok(()))));
    assert!(!cluster.replica(1).is_leader(), "a leader that removed itself steps down");
    cluster.run(20_000);
    let next = cluster.leader().expect("one of the others leads");
    assert_ne!(next, 1);
    cluster.propose(next, 1).unwrap();
    cluster.run(1_000);
    let last = cluster.replica(next).last_index();
    let other = 5 - next;
    assert_eq!(cluster.replica(other).applied_index(), last);
}

/// The configurations of the time before it was a voter are no reason to step down.
#[test]
fn a_leader_that_replays_how_it_joined_goes_on_leading() {
    for seed in 0..10 {
        let mut cluster = Cluster::new(seed, 1, 2);
        cluster.run(500);
        for id in [2, 3] {
            let address = common::address(id);
            cluster.request(1, |leader, request| leader.add(request, NodeId(id), address)).unwrap();
            cluster.run(500);
            cluster.request(1, |leader, request| leader.assign(request, NodeId(id), Role::Voter)).unwrap();
            cluster.run(2_000);
        }
        for id in 1..=3 {
            cluster.crash(id);
        }
        for id in 2..=3 {
            cluster.start(id);
        }
        cluster.run(20_000);
        assert!(cluster.leader().is_some());
        assert!(!cluster.sent.contains_key("lost leadership"), "seed {seed}");
    }
}

#[test]
fn a_change_during_a_change_is_refused_and_a_dead_promotee_times_out() {
    let mut cluster = Cluster::new(4, 1, 1);
    cluster.run(500);
    cluster.request(1, |leader, request| leader.add(request, NodeId(2), common::address(2))).unwrap();
    cluster.run(500);
    cluster.crash(2);
    let request =
        cluster.request(1, |leader, request| leader.assign(request, NodeId(2), Role::Voter)).unwrap();
    let busy = cluster.request(1, |leader, request| leader.remove(request, NodeId(2)));
    assert_eq!(busy, Err(ChangeError::CantChange));
    cluster.run(60_000);
    assert_eq!(cluster.node(1).done.pop(), Some((request, Err(ChangeError::NoConnection))));
    assert!(cluster.propose(1, 1).is_some());
    cluster.request(1, |leader, request| leader.remove(request, NodeId(2))).unwrap();
}

#[test]
fn leadership_moves_by_request() {
    let mut cluster = Cluster::new(5, 3, 0);
    cluster.run(15_000);
    let from = cluster.leader().unwrap();
    let to = from % 3 + 1;
    let request =
        cluster.request(from, |leader, request| leader.transfer(request, Some(NodeId(to)), 0)).unwrap();
    assert!(cluster.replica(from).leader().is_none(), "no leader is reported while it moves");
    assert!(cluster.propose(from, 1).is_none());
    cluster.run(1_000);
    assert_eq!(cluster.leader(), Some(to));
    assert_eq!(cluster.node(from).done.pop(), Some((request, Ok(()))));
    let dead = to % 3 + 1;
    cluster.crash(dead);
    let request =
        cluster.request(to, |leader, request| leader.transfer(request, Some(NodeId(dead)), 0)).unwrap();
    cluster.run(10_000);
    assert_eq!(cluster.node(to).done.pop(), Some((request, Err(ChangeError::TransferFailed))));
    assert!(cluster.propose(to, 1).is_some(), "the old leader goes on");
    cluster.heal_and_check();
}

#[test]
fn a_node_that_was_away_catches_up_by_snapshot() {
    let mut cluster = Cluster::new(6, 3, 0);
    cluster.threshold = 16;
    cluster.trailing = 8;
    for id in 1..=3 {
        cluster.crash(id);
        cluster.start(id);
    }
    cluster.run(15_000);
    let leader = cluster.leader().unwrap();
    let away = leader % 3 + 1;
    cluster.crash(away);
    for _ in 0..100 {
        cluster.propose(leader, 2).unwrap();
        cluster.run(100);
    }
    cluster.start(away);
    cluster.heal_and_check();
    assert!(cluster.sent["snapshot"] > 0);
}

#[test]
fn a_log_that_is_not_in_memory_is_read_back_for_a_slow_peer() {
    let mut cluster = Cluster::new(7, 3, 0);
    for id in 1..=3 {
        cluster.node(id).log_cache_bytes = 2_000;
        cluster.crash(id);
        cluster.start(id);
    }
    cluster.run(15_000);
    let leader = cluster.leader().unwrap();
    let away = leader % 3 + 1;
    cluster.crash(away);
    for _ in 0..200 {
        cluster.propose(leader, 8).unwrap();
        cluster.run(100);
    }
    cluster.start(away);
    cluster.heal_and_check();
    assert!(cluster.sent["read_entries"] > 0);
    assert!(!cluster.sent.contains_key("snapshot"));
}

#[test]
fn a_deposed_leaders_configuration_is_taken_back() {
    let mut cluster = Cluster::new(8, 3, 0);
    cluster.run(15_000);
    let old = cluster.leader().unwrap();
    for id in (1..=3).filter(|id| *id != old) {
        cluster.cut.extend([(old, id), (id, old)]);
    }
    cluster.request(old, |leader, request| leader.add(request, NodeId(9), "nowhere".to_owned())).unwrap();
    assert_eq!(cluster.replica(old).configuration().servers.len(), 4);
    cluster.run(20_000);
    let result = cluster.node(old).done.pop().unwrap().1;
    assert_eq!(result, Err(ChangeError::LeadershipLost));
    cluster.heal_and_check();
    assert_eq!(cluster.replica(old).configuration().servers.len(), 3);
}

#[test]
fn a_leader_without_contact_knows_how_old_its_contact_is() {
    let mut cluster = Cluster::new(9, 3, 0);
    cluster.run(15_000);
    let leader = cluster.leader().unwrap();
    let now_ms = cluster.now_ms;
    assert!(cluster.replica(leader).hears_quorum(600, now_ms));
    for id in 1..=3 {
        cluster.cut.extend([(id, leader)]);
    }
    cluster.run(2_000);
    let now_ms = cluster.now_ms;
    assert!(!cluster.replica(leader).hears_quorum(1_999, now_ms));
    cluster.run(10_000);
    assert!(!cluster.replica(leader).is_leader(), "it steps down in the end");
}

/// raft-rs adds entries to an append that is still waiting to be sent. One without entries may stand anywhere: the peer
/// then took entries 8 and 9 for 10 and 11, in the same term, so that nobody ever noticed.
#[test]
fn entries_that_are_sent_again_stand_where_they_belong() {
    let mut cluster = Cluster::new(5, 3, 0);
    cluster.run(15_000);
    let leader = cluster.leader().expect("a leader");
    let slow = leader % 3 + 1;
    cluster.propose(leader, 1).unwrap();
    cluster.run(1_000);
    // The slow one gets what is proposed, and nobody hears of it.
    cluster.cut.push((slow, leader));
    cluster.propose(leader, 2).unwrap();
    let last = cluster.propose(leader, 3).unwrap();
    cluster.run(1_000);
    cluster.cut.clear();
    // All of this happens before anything is sent: it answers an old heartbeat, and is told what it may commit; the
    // connection to it breaks; something is proposed.
    let term = cluster.replica(leader).term();
    let last_log_index = LogIndex(last.0 - 2);
    let result = AppendEntriesResult { term, rejected: LogIndex(0), last_log_index, features: Some(0) };
    let now_ms = cluster.now_ms;
    let replica = cluster.replica(leader);
    let address = common::address(slow);
    replica.handle_message(
        StreamId(slow),
        NodeId(slow),
        &address,
        Message::AppendEntriesResult(result),
        now_ms,
    );
    replica.handle_unreachable(NodeId(slow), false);
    cluster.propose(leader, 4).unwrap();
    cluster.run(5_000);
    cluster.heal_and_check();
}

#[test]
fn seeds_repeat_exactly() {
    let run = |seed| {
        let mut cluster = Cluster::new(seed, 3, 0);
        for _ in 0..3_000 {
            cluster.chaos();
        }
        let nodes: Vec<_> = cluster.nodes.values().map(|node| (node.applied, node.state)).collect();
        (nodes, cluster.now_ms, cluster.sent.clone())
    };
    assert_eq!(run(11), run(11));
}

fn first_seed(default: u64) -> u64 {
    std::env::var("RAFT_FIRST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Faults of every kind, first safety, then healing and progress.
#[test]
fn bad_weather() {
    let seeds = std::env::var("RAFT_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    for seed in first_seed(0)..first_seed(0) + seeds {
        let mut cluster = Cluster::new(seed, 1 + seed % 5, 0);
        if seed % 2 == 1 {
            cluster.threshold = 20;
            cluster.trailing = 10 + seed % 20;
        }
        for id in cluster.running() {
            if seed % 3 == 0 {
                cluster.node(id).log_cache_bytes = 1_000;
            }
            cluster.crash(id);
            cluster.start(id);
        }
        for _ in 0..6_000 {
            cluster.chaos();
        }
        cluster.heal_and_check();
        println!("seed {seed}: {} entries, {:?}", cluster.commands.len(), cluster.sent);
    }
}

/// Members come and go while everything else goes wrong.
#[test]
fn membership_in_bad_weather() {
    let seeds = std::env::var("RAFT_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(40);
    for seed in first_seed(1_000)..first_seed(1_000) + seeds {
        let mut cluster = Cluster::new(seed, 3, 2);
        if seed % 2 == 1 {
            cluster.threshold = 20;
            cluster.trailing = 10;
        }
        let mut accepted = 0;
        for step in 0..8_000 {
            cluster.chaos();
            if step % 100 == 99
                && let Some(leader) = cluster.leader()
            {
                let id = NodeId(1 + cluster.random.below(5));
                let role = [Role::Voter, Role::StandBy, Role::Spare, Role::Voter]
                    [usize::try_from(cluster.random.below(4)).unwrap()];
                let kind = cluster.random.below(10);
                let result = cluster.request(leader, |replica, request| match kind {
                    0..=2 => replica.add(request, id, common::address(id.0)),
                    3 => replica.remove(request, id),
                    4 => replica.transfer(request, Some(id), 0),
                    _ => replica.assign(request, id, role),
                });
                accepted += u32::from(result.is_ok());
            }
        }
        cluster.heal_and_check();
        println!("seed {seed}: {accepted} changes, {} entries", cluster.commands.len());
        assert!(cluster.commands.keys().max() > Some(&LogIndex(10).0));
    }
}
