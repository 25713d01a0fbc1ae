//! SIGKILL to random nodes of three under load: what a client was told is written stays written, once.
//!
//! `DQLITE_TESTS_KILLS` sets how many (12 without it), `DQLITE_TESTS_SEED` repeats the choices of an earlier run.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ffi_tests::Scratch;
use ffi_tests::cluster::Cluster;
use ffi_tests::node::{Library, PATIENCE, node_program};
use server::client::{Client, connect_leader};
use wire_protocol::Value;

const DATABASE: &str = "app.db";
const WRITERS: i64 = 4;
/// Keys of one writer lie together.
const KEYS_PER_WRITER: i64 = 1 << 32;
/// SQLITE_BUSY.
const BUSY: u64 = 5;
/// Snapshots are taken all the time, so that some kills hit one.
const OPTIONS: [&str; 2] = ["latency=10", "snapshot=256,256"];

/// A small generator of numbers that look random; the same seed gives the same ones.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name}={value}")))
}

/// Keys a writer was told about, and keys it does not know the fate of.
#[derive(Default)]
struct Record {
    acknowledged: BTreeSet<i64>,
    unknown: BTreeSet<i64>,
}

/// Inserts one key after the other until told to stop, reconnecting after every error.
fn write(addresses: &[String], writer: i64, stop: &AtomicBool) -> Record {
    let mut record = Record::default();
    let mut leader: Option<Client> = None;
    let mut key = writer * KEYS_PER_WRITER;
    while !stop.load(Ordering::Relaxed) {
        let Some(client) = leader.as_mut() else {
            // Nobody may lead for a while; whoever tries again finds the stop sign first.
            leader = connect_leader(addresses, Duration::from_secs(1)).ok().and_then(|mut client| {
                client.open(DATABASE).ok()?;
                Some(client)
            });
            continue;
        };
        key += 1;
        let params = [Value::Integer(key), Value::Text(vec![b'x'; 200].into())];
        match client.exec_sql("INSERT INTO t(id, s) VALUES(?, ?)", &params) {
            Ok(_) => {
                record.acknowledged.insert(key);
            }
            Err(error) if error.code() == Some(BUSY) => {
                // C's answer to a second writer; nothing was written.
                key -= 1;
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(_) => {
                // Written or not: the next key is another one, so nothing is written twice.
                record.unknown.insert(key);
                leader = None;
            }
        }
    }
    record
}

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

fn stored_keys(client: &mut Client) -> BTreeSet<i64> {
    client.open(DATABASE).unwrap();
    let found = client.query_sql("SELECT id FROM t", &[]).unwrap();
    let key = |row: &Vec<Value>| match row[..] {
        [Value::Integer(key)] => key,
        _ => panic!("{row:?}"),
    };
    found.rows.iter().map(key).collect()
}

#[test]
fn acknowledged_rows_survive_kills() {
    if node_program().is_none() {
        return;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = setting("DQLITE_TESTS_SEED", u64::from(now.subsec_nanos())).max(1);
    let kills = setting("DQLITE_TESTS_KILLS", 12);
    println!("DQLITE_TESTS_SEED={seed} DQLITE_TESTS_KILLS={kills}");

    let directory = Scratch::new();
    let library = Library::ours();
    let mut cluster = Cluster::start(directory.path(), &[&library; 3], &OPTIONS).unwrap();
    let mut leader = cluster.leader().unwrap();
    leader.open(DATABASE).unwrap();
    leader.exec_sql("CREATE TABLE t(id INTEGER PRIMARY KEY, s TEXT)", &[]).unwrap();

    let addresses: Vec<String> = cluster.nodes.iter().map(|node| node.bind.clone()).collect();
    let stop = AtomicBool::new(false);
    let (records, killed) = std::thread::scope(|scope| {
        let (addresses, stop) = (&addresses, &stop);
        let writers: Vec<_> =
            (0..WRITERS).map(|writer| scope.spawn(move || write(addresses, writer, stop))).collect();
        let killed = kill_at_random(&mut cluster, kills, &mut Random(seed));
        stop.store(true, Ordering::Relaxed);
        let records: Vec<Record> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
        (records, killed)
    });
    killed.unwrap();

    let acknowledged: BTreeSet<i64> =
        records.iter().flat_map(|record| &record.acknowledged).copied().collect();
    let unknown: BTreeSet<i64> = records.iter().flat_map(|record| &record.unknown).copied().collect();
    println!("{} rows acknowledged, {} unknown", acknowledged.len(), unknown.len());
    assert!(acknowledged.len() as u64 > kills, "hardly anything was written: the kills proved nothing");
    for position in 0..cluster.nodes.len() {
        let stored = stored_keys(&mut cluster.lead(position).unwrap());
        let lost: Vec<&i64> = acknowledged.difference(&stored).collect();
        assert!(lost.is_empty(), "node {position} lost {} acknowledged rows: {lost:?}", lost.len());
        let invented: Vec<&i64> =
            stored.iter().filter(|key| !acknowledged.contains(key) && !unknown.contains(key)).collect();
        assert!(invented.is_empty(), "node {position} holds rows nobody wrote: {invented:?}");
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
