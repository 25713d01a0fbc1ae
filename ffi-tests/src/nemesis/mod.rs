//! Real processes in network namespaces of their own, faults of all kinds, and a judge who knows nothing of the code.
//!
//! Clients note what they asked, when, and what they were told ([`history`]). Meanwhile [`faults`] kill, stop and cut off
//! nodes, fill their disks, damage their files and change the members. In the end [`judge`] says whether any order of what
//! happened explains every answer and agrees with real time, and [`availability`] how long nobody was served although a
//! majority of the nodes ran and could talk.

pub mod availability;
pub mod faults;
pub mod history;
pub mod judge;
pub mod network;
pub mod workload;

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::Scratch;
use crate::cluster::{Cluster, eventually};
use crate::load::Random;
use crate::node::{Library, Node, PATIENCE};

use availability::{Availability, Log};
use history::History;
use judge::Strictness;
use network::Network;

/// One-way latency that the nodes are tuned for, milliseconds.
const LATENCY_MS: u64 = 100;
/// Election timeout that follows from it.
pub const ELECTION_TIMEOUT: Duration = Duration::from_millis(15 * LATENCY_MS);
/// Room of each node's file system.
const DISK_MIB: u64 = 256;
/// Port of each node.
const PORT: u16 = 9100;

/// Whose libraries the nodes load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// All three ours.
    Ours,
    /// Two of ours, one of C's.
    OneOfC,
    /// One of ours, two of C's.
    TwoOfC,
}

impl Kind {
    /// The kind of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "ours" => Some(Self::Ours),
            "one-of-c" => Some(Self::OneOfC),
            "two-of-c" => Some(Self::TwoOfC),
            _ => None,
        }
    }

    /// Its libraries, in the order of the nodes; `None`, with a word to people, where C's is missing.
    fn libraries(self) -> Option<[Library; 3]> {
        let ours = Library::ours();
        Some(match self {
            Self::Ours => [ours.clone(), ours.clone(), ours],
            Self::OneOfC => [ours.clone(), ours, Library::c()?],
            Self::TwoOfC => [ours, Library::c()?, Library::c()?],
        })
    }

    /// What its answers must agree with. A leader of C serves reads without asking anybody whether it still leads.
    fn strictness(self) -> Strictness {
        match self {
            Self::Ours => Strictness::Strict,
            Self::OneOfC | Self::TwoOfC => Strictness::ReadsMayBeOld,
        }
    }
}

/// A run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Of which cluster.
    pub kind: Kind,
    /// How long faults go on.
    pub duration: Duration,
}

/// How it went.
#[derive(Debug)]
pub struct Report {
    /// Transactions that were answered.
    pub acknowledged: usize,
    /// Faults by name, with their number.
    pub faults: Vec<(&'static str, usize)>,
    /// How long nobody was served.
    pub availability: Availability,
}

/// Runs three nodes under faults and judges what their clients were told; `None` where C's library is missing.
///
/// Needs a network namespace and a mount namespace of its own, and the rights of root in them.
///
/// # Errors
///
/// What cannot be explained, a node that ended by itself, or nodes that differ in the end. The history is kept.
pub fn run(plan: Plan, random: &mut Random) -> Result<Option<Report>, String> {
    let Some(libraries) = plan.kind.libraries() else { return Ok(None) };
    let scratch = Scratch::new();
    let network = Network::build(libraries.len())?;
    let mut cluster = start(&scratch, &network, &libraries)?;
    let addresses: Vec<String> = cluster.nodes.iter().map(|node| node.bind.clone()).collect();
    workload::prepare(&mut cluster.leader()?)?;

    let begin = Instant::now();
    let history = Mutex::new(History::new(begin));
    let log = Mutex::new(Log::new(begin));
    let stop = AtomicBool::new(false);
    let faults = std::thread::scope(|scope| {
        let (addresses, history, log, stop) = (&addresses, &history, &log, &stop);
        for client in 0..workload::CLIENTS {
            let mut random = random.fork(client);
            scope
                .spawn(move || workload::run(&mut random, addresses, plan.kind != Kind::Ours, history, stop));
        }
        for address in addresses {
            scope.spawn(move || workload::probe(address, history, log, stop));
        }
        let struck = faults::strike(&mut cluster, &network, &scratch, plan, random, log);
        // From here on nobody asks, so nobody is served.
        if let Ok(mut log) = log.lock() {
            log.state("the end", false);
        }
        stop.store(true, Ordering::Relaxed);
        struck
    });
    let history = history.into_inner().map_err(|_| "a client panicked")?;
    let verdict = faults.and_then(|faults| {
        let stored = eventually(PATIENCE, || workload::stored(&mut cluster.leader()?))?;
        judge::judge(&history, &stored, plan.kind.strictness())?;
        for name in workload::DATABASES {
            cluster.equal_images(name)?;
        }
        cluster.check_alive()?;
        Ok(faults)
    });
    match verdict {
        Ok(faults) => {
            let log = log.into_inner().map_err(|_| "a client panicked")?;
            cluster.stop()?;
            let acknowledged = history.acknowledged();
            Ok(Some(Report { acknowledged, faults, availability: log.judge() }))
        }
        Err(reason) => {
            let kept = std::env::temp_dir().join(format!("nemesis-{}.jsonl", std::process::id()));
            std::fs::write(&kept, history.lists()).map_err(|error| error.to_string())?;
            Err(format!("{reason}\nhistory of the lists: {}", kept.display()))
        }
    }
}

fn start(scratch: &Scratch, network: &Network, libraries: &[Library]) -> Result<Cluster, String> {
    let latency = format!("latency={LATENCY_MS}");
    let mut nodes = Vec::new();
    for (position, library) in libraries.iter().enumerate() {
        let root = file_system(scratch.path(), position);
        network::mount(&root, DISK_MIB)?;
        // Without patience a second writer is refused at once; C 1.11.1 knows no other way.
        let mut options = vec![latency.as_str(), "snapshot=512,512"];
        if library.name != "C" {
            options.push("busy=5000");
        }
        let id = u64::try_from(position).map_err(|error| error.to_string())? + 1;
        let mut node = Node::new(library, id, root.join("data"), &options);
        node.address = format!("{}:{PORT}", network.address(position));
        node.bind.clone_from(&node.address);
        node.wrapper = network.wrapper(position);
        nodes.push(node);
    }
    Cluster::start_nodes(nodes)
}

/// Root of the file system of a node.
fn file_system(scratch: &Path, position: usize) -> std::path::PathBuf {
    scratch.join(format!("disk-{position}"))
}
