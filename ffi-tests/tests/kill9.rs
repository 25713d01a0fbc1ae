//! SIGKILL to random nodes of three under load: what a client was told is written stays written, once.
//!
//! `DQLITE_TESTS_KILLS` sets how many (12 without it), `DQLITE_TESTS_SEED` repeats the choices of an earlier run.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ffi_tests::Scratch;
use ffi_tests::cluster::{Cluster, eventually};
use ffi_tests::load::{DATABASE, Random, Record, SCHEMA, setting, stored_keys, write};
use ffi_tests::node::{Library, PATIENCE, node_program};
use wire_protocol::Value;

const WRITERS: i64 = 4;
/// Bytes of a row.
const ROW_LEN: usize = 200;
/// Snapshots are taken all the time, so that some kills hit one.
const OPTIONS: [&str; 2] = ["latency=10", "snapshot=256,256"];

/// Kills one node at a time, or now and then a second one, so that nobody has a majority for a moment.
fn kill_at_random(cluster: &mut Cluster, kills: u64, random: &mut Random) -> Result<(), String> {
    let mut done = 0;
    while done < kills {
        std::thread::sleep(Duration::from_millis(100 + random.below(500)));
        cluster.check_alive()?;
        let victims = if random.below(4) == 0 && kills - done > 1 { 2 } else { 1 };
        let first = random.below(3);
        let victims: Vec<usize> =
            (first..first + victims).map(|position| usize::try_from(position % 3).unwrap()).collect();
        for victim in &victims {
            cluster.nodes[*victim].kill();
        }
        done += victims.len() as u64;
        std::thread::sleep(Duration::from_millis(random.below(300)));
        for victim in &victims {
            cluster.nodes[*victim].start()?;
        }
    }
    Ok(())
}

#[test]
fn acknowledged_rows_survive_kills() {
    if node_program().is_none() {
        return;
    }
    let kills = setting("DQLITE_TESTS_KILLS", 12);
    let mut random = Random::seeded();
    println!("DQLITE_TESTS_KILLS={kills}");

    let directory = Scratch::new();
    let library = Library::ours();
    let mut cluster = Cluster::start(directory.path(), &[&library; 3], &OPTIONS).unwrap();
    let mut leader = cluster.leader().unwrap();
    leader.open(DATABASE).unwrap();
    leader.exec_sql(SCHEMA, &[]).unwrap();

    let addresses: Vec<String> = cluster.nodes.iter().map(|node| node.bind.clone()).collect();
    let stop = AtomicBool::new(false);
    let (records, killed) = std::thread::scope(|scope| {
        let (addresses, stop) = (&addresses, &stop);
        let writers: Vec<_> =
            (0..WRITERS).map(|writer| scope.spawn(move || write(addresses, writer, ROW_LEN, stop))).collect();
        let killed = kill_at_random(&mut cluster, kills, &mut random);
        stop.store(true, Ordering::Relaxed);
        let records: Vec<Record> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
        (records, killed)
    });
    killed.unwrap();

    let record = Record::of_all(&records);
    println!("{} rows acknowledged, {} unknown", record.acknowledged.len(), record.unknown.len());
    assert!(
        record.acknowledged.len() as u64 > kills,
        "hardly anything was written: the kills proved nothing"
    );
    for position in 0..cluster.nodes.len() {
        // A busy machine may depose whoever was made the leader.
        let stored = eventually(PATIENCE, || stored_keys(&mut cluster.lead(position)?)).unwrap();
        record.check(&stored).unwrap_or_else(|error| panic!("node {position}: {error}"));
    }
    cluster.equal_images(DATABASE).unwrap();
    let mut leader = cluster.leader().unwrap();
    leader.set_timeout(PATIENCE);
    leader.open(DATABASE).unwrap();
    let check = leader.query_sql("PRAGMA integrity_check", &[]).unwrap();
    assert_eq!(check.rows, [[Value::Text("ok".into())]]);
    cluster.check_alive().unwrap();
    cluster.stop().unwrap();
}
