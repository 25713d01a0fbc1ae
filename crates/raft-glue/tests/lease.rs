//! Whether the read lease of a leader may be valid when another leader has committed: it never is.

#![allow(clippy::unwrap_used, reason = "a failure of a helper is a failure of the test")]

mod common;

use common::Cluster;
use raft_glue::NodeId;

fn exchange(cluster: &mut Cluster, a: u64, b: u64) {
    for _ in 0..60 {
        cluster.persist(a);
        cluster.persist(b);
        cluster.deliver(a, b);
        cluster.deliver(b, a);
    }
}

fn isolate(cluster: &mut Cluster, id: u64) {
    for other in 1..=3 {
        if other != id {
            cluster.cut.push((id, other));
            cluster.cut.push((other, id));
        }
    }
}

/// What is asked before SQL runs.
fn would_serve_reads(cluster: &mut Cluster, id: u64) -> bool {
    let now_ms = cluster.now_ms;
    cluster.replica(id).may_read(now_ms)
}

#[test]
fn lease_is_given_up_with_a_transfer() {
    let mut cluster = Cluster::new(5, 3, 0);
    cluster.run(15_000);
    let old = cluster.leader().unwrap();
    let to = old % 3 + 1;
    let third = to % 3 + 1;
    assert!(would_serve_reads(&mut cluster, old));
    cluster.request(old, |leader, request| leader.transfer(request, Some(NodeId(to)), 0)).unwrap();
    for _ in 0..10 {
        cluster.deliver(old, to);
    }
    isolate(&mut cluster, old);
    exchange(&mut cluster, to, third);
    assert!(cluster.replica(to).is_leader());
    let index = cluster.propose(to, 1).unwrap();
    exchange(&mut cluster, to, third);
    assert!(
        cluster.replica(to).serving() && cluster.replica(to).applied_index() >= index,
        "the new leader has committed and answered"
    );
    let mut stale_ms = 0;
    let begin = cluster.now_ms;
    while would_serve_reads(&mut cluster, old) && cluster.now_ms - begin < 10_000 {
        cluster.tick_all(100);
        exchange(&mut cluster, to, third);
        stale_ms = cluster.now_ms - begin;
    }
    assert_eq!(
        stale_ms, 0,
        "the old leader goes on serving reads for so many ms after another one has committed"
    );
}

#[test]
fn a_voter_that_restarts_does_not_break_the_lease() {
    let mut worst = 0;
    for seed in 0..30 {
        let mut cluster = Cluster::new(seed, 3, 0);
        cluster.run(15_000);
        let old = cluster.leader().unwrap();
        let b = old % 3 + 1;
        let c = b % 3 + 1;
        // The leader and C cannot talk, for long.
        cluster.cut.push((old, c));
        cluster.cut.push((c, old));
        cluster.run(4_000);
        assert_eq!(cluster.leader(), Some(old), "B keeps it");
        assert!(would_serve_reads(&mut cluster, old));
        // B restarts at once. What C says meanwhile waits in its transport, and the leader's stream to B is made again a
        // little later.
        cluster.cut.push((old, b));
        cluster.cut.push((b, old));
        cluster.crash(b);
        assert!(would_serve_reads(&mut cluster, old), "the end of the stream does not reach it");
        cluster.tick_all(200);
        cluster.start(b);
        let reconnect = cluster.now_ms + 800;
        let mut stale_from = None;
        while cluster.now_ms < reconnect {
            cluster.tick_all(50);
            exchange(&mut cluster, b, c);
            if cluster.replica(c).serving() {
                if stale_from.is_none() {
                    cluster.propose(c, 1).unwrap();
                    exchange(&mut cluster, b, c);
                }
                if would_serve_reads(&mut cluster, old) {
                    let from = *stale_from.get_or_insert(cluster.now_ms);
                    worst = worst.max(cluster.now_ms - from + 50);
                }
            }
        }
        assert!(stale_from.is_none(), "seed {seed}: two nodes serve at once");
    }
    assert_eq!(worst, 0, "two nodes would serve reads at once for so many ms");
}

/// Runs until the leader's lease is over. Returns how long that took.
fn until_lease_ends(cluster: &mut Cluster, leader: u64) -> u64 {
    let begin_ms = cluster.now_ms;
    while would_serve_reads(cluster, leader) {
        cluster.tick_all(10);
        assert!(cluster.now_ms - begin_ms < 10_000, "it never ends");
    }
    cluster.now_ms - begin_ms
}

#[test]
fn the_lease_ends_before_anybody_else_is_elected() {
    for seed in 0..20 {
        let mut cluster = Cluster::new(seed, 3, 0);
        cluster.run(15_000);
        let old = cluster.leader().unwrap();
        let (to, third) = (old % 3 + 1, (old + 1) % 3 + 1);
        isolate(&mut cluster, old);
        let mut ended_ms = None;
        let mut elected = false;
        for _ in 0..1_500 {
            cluster.tick_all(10);
            exchange(&mut cluster, to, third);
            elected |= cluster.replica(to).is_leader() || cluster.replica(third).is_leader();
            let valid = would_serve_reads(&mut cluster, old);
            assert!(!(elected && valid), "seed {seed}: elected while the lease lasts");
            if !valid {
                ended_ms.get_or_insert(cluster.now_ms);
            }
        }
        assert!(elected, "seed {seed}: somebody is elected in the end");
        assert!(ended_ms.is_some());
    }
}

#[test]
fn a_transfer_that_comes_to_nothing_gives_the_lease_back_once_its_target_has_acknowledged_more() {
    let mut cluster = Cluster::new(3, 3, 0);
    cluster.run(15_000);
    let old = cluster.leader().unwrap();
    let to = old % 3 + 1;
    cluster.cut.push((old, to));
    cluster.request(old, |leader, request| leader.transfer(request, Some(NodeId(to)), 0)).unwrap();
    assert!(!would_serve_reads(&mut cluster, old), "from the beginning of the transfer on");
    cluster.run(5_000);
    assert!(cluster.replica(old).is_leader(), "it was given up");
    assert!(!would_serve_reads(&mut cluster, old), "the TIMEOUT_NOW may come late");
    assert!(!cluster.replica(old).lease_is_possible(), "nobody should wait for heartbeats");
    let index = cluster.replica(old).confirm_leadership().unwrap();
    cluster.pump(old);
    cluster.run(1_000);
    assert!(cluster.replica(old).applied_index() >= index, "the third node and the leader have committed it");
    assert!(!would_serve_reads(&mut cluster, old), "its target has not acknowledged it");
    cluster.cut.clear();
    cluster.run(2_000);
    assert!(would_serve_reads(&mut cluster, old) && cluster.replica(old).lease_is_possible());
}

#[test]
fn a_leader_keeps_its_lease_by_heartbeats_alone() {
    let mut cluster = Cluster::new(4, 3, 0);
    cluster.run(15_000);
    let leader = cluster.leader().unwrap();
    for _ in 0..100 {
        cluster.run(100);
        assert!(would_serve_reads(&mut cluster, leader));
    }
    assert!(cluster.replica(leader).lease_is_possible());
    for id in (1..=3).filter(|id| *id != leader) {
        cluster.crash(id);
    }
    assert!(!would_serve_reads(&mut cluster, leader), "what was promised ends with the streams");
    assert!(!cluster.replica(leader).lease_is_possible());
    assert_eq!(until_lease_ends(&mut cluster, leader), 0);
}
