//! One measurement: clients that insert one row a transaction into a new cluster, for some seconds.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use ffi_tests::cluster::Cluster;
use ffi_tests::node::{Library, Node};
use server::client::{Client, ClientError, Statement};
use wire_protocol::Value;

use crate::usage::Usage;

const DATABASE: &str = "bench.db";
const VALUE_LEN: usize = 100;
const WARM_UP: Duration = Duration::from_millis(500);
/// Before a refused statement is tried again.
const PAUSE: Duration = Duration::from_millis(1);

const WARMING_UP: u8 = 0;
const MEASURING: u8 = 1;
const OVER: u8 = 2;

/// What was measured.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// Acknowledged transactions a second.
    pub(crate) per_second: f64,
    /// Half of the transactions took no longer, first try to acknowledgement.
    pub(crate) p50: Duration,
    /// 99 of 100 took no longer.
    pub(crate) p99: Duration,
    /// Refused tries, by code.
    pub(crate) errors: BTreeMap<u64, usize>,
    /// Processor seconds of all nodes for 1000 transactions.
    pub(crate) cpu_s_per_1000: f64,
    /// Bytes all nodes wrote to disk for one transaction.
    pub(crate) bytes_per_transaction: f64,
}

#[derive(Debug, Default)]
struct Record {
    latencies: Vec<Duration>,
    errors: BTreeMap<u64, usize>,
}

/// Starts a cluster below `directory`, loads it, and stops it.
pub(crate) fn measure(
    library: &Library,
    nodes: usize,
    clients: usize,
    duration: Duration,
    directory: &Path,
) -> Result<Outcome, String> {
    let mut cluster = Cluster::start(directory, &vec![library; nodes], &[])?;
    let connect = || -> Result<Client, String> {
        let mut client = cluster.leader()?;
        client.open(DATABASE).map_err(|error| format!("open {DATABASE}: {error}"))?;
        Ok(client)
    };
    let mut first = connect()?;
    first
        .exec_sql("CREATE TABLE kv(k INTEGER PRIMARY KEY, v TEXT)", &[])
        .map_err(|error| format!("create the table: {error}"))?;
    let connections: Vec<Client> = (0..clients).map(|_| connect()).collect::<Result<_, _>>()?;

    let phase = AtomicU8::new(WARMING_UP);
    let ready = Barrier::new(clients + 1);
    let (records, elapsed, used) = std::thread::scope(|scope| {
        let (phase, ready) = (&phase, &ready);
        let threads: Vec<_> =
            connections.into_iter().map(|client| scope.spawn(|| insert(client, phase, ready))).collect();
        ready.wait();
        std::thread::sleep(WARM_UP);
        let before = used_by(&cluster.nodes);
        let started = Instant::now();
        phase.store(MEASURING, Ordering::Relaxed);
        std::thread::sleep(duration);
        phase.store(OVER, Ordering::Relaxed);
        let elapsed = started.elapsed();
        let after = used_by(&cluster.nodes);
        let records: Result<Vec<Record>, String> = threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| "a client panicked".to_owned())?)
            .collect();
        (records, elapsed, before.and_then(|before| Ok(after? - before)))
    });
    cluster.check_alive()?;
    cluster.stop()?;
    summarize(&records?, elapsed, used?)
}

fn used_by(nodes: &[Node]) -> Result<Usage, String> {
    let pids = nodes.iter().filter_map(Node::pid);
    pids.map(Usage::of).try_fold(Usage::default(), |sum, usage| Ok(sum + usage?))
}

/// Inserts until the measurement is over; keeps what ended while it ran.
fn insert(mut client: Client, phase: &AtomicU8, ready: &Barrier) -> Result<Record, String> {
    let prepared = client.prepare("INSERT INTO kv(v) VALUES(?)");
    ready.wait();
    let statement = prepared.map_err(|error| format!("prepare: {error}"))?;
    let params = [Value::Text(vec![b'x'; VALUE_LEN].into())];
    let mut record = Record::default();
    while phase.load(Ordering::Relaxed) != OVER {
        let started = Instant::now();
        let mut refused = BTreeMap::new();
        let done = insert_one(&mut client, statement, &params, phase, &mut refused)?;
        if phase.load(Ordering::Relaxed) == MEASURING {
            for (code, count) in refused {
                *record.errors.entry(code).or_default() += count;
            }
            if done {
                record.latencies.push(started.elapsed());
            }
        }
    }
    Ok(record)
}

/// Tries until it succeeds or the measurement is over. A refusal is counted; a broken connection ends everything.
fn insert_one(
    client: &mut Client,
    statement: Statement,
    params: &[Value],
    phase: &AtomicU8,
    refused: &mut BTreeMap<u64, usize>,
) -> Result<bool, String> {
    while phase.load(Ordering::Relaxed) != OVER {
        match client.exec(statement, params) {
            Ok(_) => return Ok(true),
            Err(ClientError::Failure { code, .. }) => {
                *refused.entry(code).or_default() += 1;
                std::thread::sleep(PAUSE);
            }
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(false)
}

fn summarize(records: &[Record], elapsed: Duration, used: Usage) -> Result<Outcome, String> {
    let mut latencies: Vec<Duration> = records.iter().flat_map(|record| &record.latencies).copied().collect();
    latencies.sort_unstable();
    let last = latencies.len().checked_sub(1).ok_or("no transaction was acknowledged")?;
    let mut errors = BTreeMap::new();
    for (code, count) in records.iter().flat_map(|record| &record.errors) {
        *errors.entry(*code).or_default() += count;
    }
    let transactions = latencies.len() as f64;
    Ok(Outcome {
        per_second: transactions / elapsed.as_secs_f64(),
        p50: latencies[last / 2],
        p99: latencies[last * 99 / 100],
        errors,
        cpu_s_per_1000: used.cpu_s / transactions * 1000.0,
        bytes_per_transaction: used.written_bytes / transactions,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_come_from_all_clients() {
        let record = |from: u64, to: u64, busy| Record {
            latencies: (from..to).map(Duration::from_millis).collect(),
            errors: BTreeMap::from([(5, busy)]),
        };
        let used = Usage { cpu_s: 0.5, written_bytes: 2000.0 };
        let outcome =
            summarize(&[record(51, 101, 3), record(1, 51, 4)], Duration::from_secs(2), used).unwrap();
        assert_eq!(outcome.per_second, 50.0);
        assert_eq!((outcome.p50, outcome.p99), (Duration::from_millis(50), Duration::from_millis(99)));
        assert_eq!(outcome.errors, BTreeMap::from([(5, 7)]));
        assert_eq!((outcome.cpu_s_per_1000, outcome.bytes_per_transaction), (5.0, 20.0));
    }

    #[test]
    fn nothing_measured_is_an_error() {
        assert!(summarize(&[Record::default()], Duration::from_secs(1), Usage::default()).is_err());
    }
}
