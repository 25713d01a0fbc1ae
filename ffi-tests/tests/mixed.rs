//! Clusters of our library and C's.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use ffi_tests::Scratch;
use ffi_tests::cluster::{Cluster, eventually};
use ffi_tests::node::{Library, PATIENCE, node_program};
use server::client::Client;
use wire_protocol::Value;

const DATABASE: &str = "app.db";
/// Small snapshots, so that a node that is away for [`BEYOND_LOG`] rows needs one. Elections after 0.9 to 1.8 s, so that a
/// busy machine holds none that the test does not mean.
const OPTIONS: [&str; 2] = ["latency=60", "snapshot=32,48"];
/// Rows that are still in everybody's log.
const WITHIN_LOG: i64 = 12;
/// Rows enough for two snapshots.
const BEYOND_LOG: i64 = 200;

/// Writes rows and knows how many there have to be.
struct Writer {
    rows: i64,
}

impl Writer {
    fn write(&mut self, leader: &mut Client, count: i64) {
        for _ in 0..count {
            // Some more than a page, so that images grow and have something to differ in.
            let params = [Value::Integer(self.rows + 1), Value::Text(vec![b'x'; 700].into())];
            leader.exec_sql("INSERT INTO t(id, s) VALUES(?, ?)", &params).unwrap();
            self.rows += 1;
        }
    }

    fn check(&self, leader: &mut Client) {
        let found = leader.query_sql("SELECT COUNT(*), COALESCE(MAX(id), 0) FROM t", &[]).unwrap();
        assert_eq!(found.rows, [[Value::Integer(self.rows), Value::Integer(self.rows)]]);
    }
}

fn cluster(kinds: &[&Library]) -> (Scratch, Cluster, Writer) {
    let directory = Scratch::new();
    let cluster = Cluster::start(directory.path(), kinds, &OPTIONS).unwrap();
    let mut leader = cluster.leader().unwrap();
    leader.open(DATABASE).unwrap();
    leader.exec_sql("CREATE TABLE t(id INTEGER PRIMARY KEY, s TEXT)", &[]).unwrap();
    (directory, cluster, Writer { rows: 0 })
}

/// Makes a node the leader and opens the database there.
fn lead(cluster: &Cluster, position: usize) -> Client {
    let mut leader = cluster.lead(position).unwrap();
    leader.open(DATABASE).unwrap();
    if cluster.nodes[position].library.name == "C" {
        // C 1.11.1 prepares statements before it has applied its log, and then knows of no table.
        eventually(PATIENCE, || leader.query_sql("SELECT 1 FROM t", &[]).map_err(|error| error.to_string()))
            .unwrap();
    }
    leader
}

/// Every node leads in turn, by transfer; each sees what the others wrote, and all end with the same bytes.
fn every_node_leads(cluster: &mut Cluster, writer: &mut Writer) {
    for round in 0..2 {
        for position in 0..cluster.nodes.len() {
            let mut leader = lead(cluster, position);
            writer.check(&mut leader);
            writer.write(&mut leader, 5 + round);
        }
    }
    cluster.equal_images(DATABASE).unwrap();
    cluster.check_alive().unwrap();
}

/// The leader is killed; what it acknowledged is with its successor, and with itself when it is back.
fn leaders_are_killed(cluster: &mut Cluster, writer: &mut Writer) {
    for position in 0..cluster.nodes.len() {
        let mut leader = lead(cluster, position);
        writer.write(&mut leader, 5);
        cluster.nodes[position].kill();
        let successor = cluster.position(&cluster.leader().unwrap());
        let mut successor = lead(cluster, successor);
        writer.check(&mut successor);
        writer.write(&mut successor, 5);
        cluster.nodes[position].start().unwrap();
        writer.check(&mut lead(cluster, position));
    }
    cluster.equal_images(DATABASE).unwrap();
    cluster.check_alive().unwrap();
}

/// First and last index of what a node's closed segments hold.
fn closed_segments(cluster: &Cluster, position: usize) -> Vec<(u64, u64)> {
    let entries = std::fs::read_dir(&cluster.nodes[position].directory).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut found: Vec<(u64, u64)> = names
        .filter_map(|name| {
            let (first, last) = name.split_once('-')?;
            Some((first.parse().ok()?, last.parse().ok()?))
        })
        .collect();
    found.sort_unstable();
    found
}

/// A node that was stopped gets what it missed from a leader of the other kind: by log, then by snapshot.
fn away_nodes_catch_up(cluster: &mut Cluster, writer: &mut Writer, away: usize, leading: usize) {
    let (away_kind, leading_kind) = (cluster.nodes[away].library.name, cluster.nodes[leading].library.name);
    for rows in [WITHIN_LOG, BEYOND_LOG] {
        let mut leader = lead(cluster, leading);
        cluster.nodes[away].stop().unwrap();
        let last_known = closed_segments(cluster, away).last().unwrap().1;
        writer.write(&mut leader, rows);
        if rows == BEYOND_LOG {
            // Truncation follows the snapshot; only then is there no other way than a snapshot.
            eventually(PATIENCE, || match closed_segments(cluster, leading).first() {
                Some((first, _)) if *first > last_known + 1 => Ok(()),
                other => Err(format!("{leading_kind} still keeps {other:?}, the other knows {last_known}")),
            })
            .unwrap();
        }
        cluster.nodes[away].start().unwrap();
        cluster.equal_images(DATABASE).unwrap_or_else(|error| {
            panic!("{away_kind} caught up with {rows} rows of {leading_kind}: {error}")
        });
        assert_eq!(cluster.position(&cluster.leader().unwrap()), leading, "the leader was to stay");
        writer.check(&mut lead(cluster, away));
    }
    cluster.check_alive().unwrap();
}

fn smoke(ours: usize, c: usize) {
    if node_program().is_none() {
        return;
    }
    let Some(c_library) = Library::c() else { return };
    let our_library = Library::ours();
    let kinds: Vec<&Library> =
        std::iter::repeat_n(&our_library, ours).chain(std::iter::repeat_n(&c_library, c)).collect();
    let (_directory, mut cluster, mut writer) = cluster(&kinds);
    every_node_leads(&mut cluster, &mut writer);
    leaders_are_killed(&mut cluster, &mut writer);
    let (first_ours, last_c) = (0, kinds.len() - 1);
    away_nodes_catch_up(&mut cluster, &mut writer, last_c, first_ours);
    away_nodes_catch_up(&mut cluster, &mut writer, first_ours, last_c);
    every_node_leads(&mut cluster, &mut writer);
    cluster.stop().unwrap();
}

#[test]
fn two_of_ours_and_one_of_c() {
    smoke(2, 1);
}

#[test]
fn one_of_ours_and_two_of_c() {
    smoke(1, 2);
}
