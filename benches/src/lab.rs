//! A cluster under load: nodes in processes of their own, on a network that may be late, and one measurement after the
//! other on it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ffi_tests::cluster::{Cluster, eventually};
use ffi_tests::node::{Library, Node, PATIENCE, new_address};
use wire_protocol::Value;

use crate::delay::{DelayedNetwork, Route};
use crate::generator::{Generator, Record, Target};
use crate::results::Sample;
use crate::usage::Usage;
use crate::workload::{Load, Workload};

const DATABASE: &str = "bench.db";
/// How long operations that were under way at the end may take.
const DRAIN: Duration = Duration::from_secs(10);

/// What a cluster is started with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    pub(crate) load: Load,
    pub(crate) nodes: usize,
    /// One way, between nodes and between clients and nodes.
    pub(crate) delay: Duration,
}

#[derive(Debug)]
pub(crate) struct Lab {
    cluster: Cluster,
    /// Of the nodes' data.
    directory: PathBuf,
    delay: Duration,
    workload: Box<dyn Workload>,
    // Dropped last: nodes that stop still talk.
    _network: Option<DelayedNetwork>,
}

impl Lab {
    /// Starts the nodes, each under `wrapper`, and sets the workload up.
    pub(crate) fn start(
        library: &Library,
        setting: Setting,
        directory: &Path,
        wrapper: &[String],
    ) -> Result<Self, String> {
        let mut nodes: Vec<Node> = (1..)
            .take(setting.nodes)
            .map(|id| Node::new(library, id, directory.join(format!("n{id}")), &[]))
            .collect();
        let mut routes = Vec::new();
        for node in &mut nodes {
            node.wrapper = wrapper.to_vec();
            if !setting.delay.is_zero() {
                // Others know it by an address where the late network listens.
                node.bind = new_address();
                routes.push(Route { listen: node.address.clone(), forward: node.bind.clone() });
            }
        }
        let network = match routes.as_slice() {
            [] => None,
            routes => Some(DelayedNetwork::start(routes, setting.delay)?),
        };
        let cluster = Cluster::start_nodes(nodes)?;
        let workload = setting.load.workload();
        let directory = directory.to_owned();
        let lab = Self { cluster, directory, delay: setting.delay, workload, _network: network };
        lab.set_up()?;
        Ok(lab)
    }

    fn set_up(&self) -> Result<(), String> {
        let mut leader = self.cluster.leader()?;
        leader.open(DATABASE).map_err(|error| format!("open {DATABASE}: {error}"))?;
        for sql in self.workload.set_up() {
            leader.exec_sql(&sql, &[]).map_err(|error| format!("{sql}: {error}"))?;
        }
        Ok(())
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        self.cluster.nodes.iter().filter_map(Node::pid).collect()
    }

    /// Id of the process that leads.
    pub(crate) fn leader_pid(&self) -> Result<u32, String> {
        let node = leading(&self.cluster.nodes)?;
        node.pid().ok_or_else(|| format!("node {} does not run", node.id))
    }

    /// Loads it with that many clients and returns what happened in `duration`, after the time to warm up.
    pub(crate) fn measure(
        &mut self,
        clients: usize,
        warm_up: Duration,
        duration: Duration,
    ) -> Result<Sample, String> {
        let pids = self.pids();
        let nodes = &self.cluster.nodes;
        let leader = || leading(nodes).map(|node| node.bind.clone());
        let target = Target { leader: &leader, database: DATABASE, delay: self.delay };
        let mut generator = Generator::connect(clients, target, self.workload.as_mut())?;
        generator.start()?;
        generator.run_until(Instant::now() + warm_up)?;
        let before = Used::now(&pids, &self.directory)?;
        let started = Instant::now();
        generator.begin_recording();
        generator.run_until(started + duration)?;
        let record = generator.end_recording();
        let elapsed = started.elapsed();
        let after = Used::now(&pids, &self.directory)?;
        generator.drain(DRAIN)?;
        drop(generator);
        self.cluster.check_alive()?;
        let mut sample = summarize(record, elapsed, after.nodes - before.nodes, after.load - before.load)?;
        if !self.is_sound()? {
            *sample.errors.entry("damaged database".to_owned()).or_default() += 1;
        }
        Ok(sample)
    }

    /// Whether SQLite finds the leader's database in order: fast and wrong is no result.
    fn is_sound(&self) -> Result<bool, String> {
        let mut leader = self.cluster.leader()?;
        let checked = leader
            .open(DATABASE)
            .and_then(|()| leader.query_sql("PRAGMA integrity_check", &[]))
            .map_err(|error| format!("integrity check: {error}"))?;
        Ok(checked.rows == [[Value::Text(Bytes::from_static(b"ok"))]])
    }

    /// Loads it for `duration` and returns the number of operations from first to last.
    pub(crate) fn count(&mut self, clients: usize, duration: Duration) -> Result<usize, String> {
        let nodes = &self.cluster.nodes;
        let leader = || leading(nodes).map(|node| node.bind.clone());
        let target = Target { leader: &leader, database: DATABASE, delay: self.delay };
        let mut generator = Generator::connect(clients, target, self.workload.as_mut())?;
        generator.start()?;
        generator.run_until(Instant::now() + duration)?;
        generator.drain(DRAIN)?;
        Ok(generator.completed())
    }

    pub(crate) fn stop(self) -> Result<(), String> {
        self.cluster.stop()
    }
}

/// The node that the others and itself call their leader.
fn leading(nodes: &[Node]) -> Result<&Node, String> {
    eventually(PATIENCE, || {
        for node in nodes.iter().filter(|node| node.is_running()) {
            let said = node.connect().and_then(|mut client| client.leader());
            match said {
                Ok((id, _)) if id.0 == node.id => return Ok(node),
                _ => {}
            }
        }
        Err("nobody leads".to_owned())
    })
}

struct Used {
    nodes: Usage,
    /// Of this process: clients and late network.
    load: Usage,
}

impl Used {
    fn now(pids: &[u32], directory: &Path) -> Result<Self, String> {
        let nodes =
            pids.iter().try_fold(Usage::default(), |sum, pid| Ok::<_, String>(sum + Usage::of(*pid)?))?;
        Ok(Self { nodes: nodes.with_device_of(directory)?, load: Usage::of(std::process::id())? })
    }
}

/// Also for a load without nodes.
pub(crate) fn summarize(
    mut record: Record,
    elapsed: Duration,
    nodes: Usage,
    load: Usage,
) -> Result<Sample, String> {
    let latencies = &mut record.latencies_us;
    latencies.sort_unstable();
    let last = latencies.len().checked_sub(1).ok_or("no operation ended")?;
    let writes = record.writes;
    Ok(Sample {
        operations: latencies.len(),
        seconds: elapsed.as_secs_f64(),
        p50_us: latencies[last / 2],
        p99_us: latencies[last * 99 / 100],
        max_us: record.max_us,
        errors: record.errors,
        cpu_s: nodes.cpu_s,
        written_bytes: nodes.written_bytes,
        device_bytes: nodes.device_bytes,
        load_cpu_s: load.cpu_s,
        max_wait_us: writes.max_us,
        mean_wait_us: writes.sum_us as f64 / writes.count.max(1) as f64,
        slowest_client: record.by_client.iter().min().copied().unwrap_or(0),
        fastest_client: record.by_client.iter().max().copied().unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crate::generator::Waits;

    use super::*;

    #[test]
    fn figures_come_from_the_whole_record() {
        let record = Record {
            latencies_us: (1..=100).rev().collect(),
            writes: Waits { count: 4, sum_us: 100, max_us: 70 },
            max_us: 300,
            errors: BTreeMap::from([("5".to_owned(), 7)]),
            by_client: vec![40, 60],
        };
        let used = Usage { cpu_s: 0.5, written_bytes: 2000.0, device_bytes: 3000.0 };
        let load = Usage { cpu_s: 0.1, ..Usage::default() };
        let sample = summarize(record, Duration::from_secs(2), used, load).unwrap();
        assert_eq!((sample.operations, sample.per_second()), (100, 50.0));
        assert_eq!((sample.p50_us, sample.p99_us, sample.max_us), (50, 99, 300));
        assert_eq!((sample.cpu_s_per_1000(), sample.bytes_per_operation()), (5.0, 20.0));
        assert_eq!(sample.device_bytes_per_operation(), 30.0);
        assert_eq!((sample.max_wait_us, sample.mean_wait_us), (70, 25.0));
        assert_eq!((sample.slowest_client, sample.fastest_client), (40, 60));
        assert_eq!(sample.errors.get("5"), Some(&7));
    }

    #[test]
    fn nothing_measured_is_an_error() {
        let nothing = (Usage::default(), Usage::default());
        assert!(summarize(Record::default(), Duration::from_secs(1), nothing.0, nothing.1).is_err());
    }
}
