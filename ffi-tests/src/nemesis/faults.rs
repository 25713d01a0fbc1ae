//! What goes wrong, one thing after the other.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use server::{NodeId, Role};

use super::availability::Log;
use super::network::Network;
use super::{DISK_MIB, ELECTION_TIMEOUT, Kind, Plan, file_system};
use crate::cluster::{Cluster, eventually};
use crate::load::Random;
use crate::node::PATIENCE;
use crate::{Scratch, run};

/// A kind of fault. All but the last few leave two nodes that run and can talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Kill,
    Stop,
    CleanStop,
    Isolate,
    CutBetween,
    OneWay,
    DiskFull,
    Damage,
    Transfer,
    Demote,
    Replace,
    KillTwo,
    IsolateTwo,
}

impl Fault {
    const ALL: [Self; 13] = [
        Self::Kill,
        Self::Stop,
        Self::CleanStop,
        Self::Isolate,
        Self::CutBetween,
        Self::OneWay,
        Self::DiskFull,
        Self::Damage,
        Self::Transfer,
        Self::Demote,
        Self::Replace,
        Self::KillTwo,
        Self::IsolateTwo,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill -9",
            Self::Stop => "SIGSTOP",
            Self::CleanStop => "clean stop",
            Self::Isolate => "partition",
            Self::CutBetween => "cut between two",
            Self::OneWay => "one-way cut",
            Self::DiskFull => "disk full",
            Self::Damage => "damaged file",
            Self::Transfer => "transfer",
            Self::Demote => "role taken and given back",
            Self::Replace => "member removed and added",
            Self::KillTwo => "kill -9 of two",
            Self::IsolateTwo => "two partitioned",
        }
    }

    fn leaves_majority(self) -> bool {
        !matches!(self, Self::KillTwo | Self::IsolateTwo)
    }

    /// C's nodes do not start with damaged files, and are not asked to live without space.
    fn suits(self, kind: Kind) -> bool {
        kind == Kind::Ours || !matches!(self, Self::Damage | Self::DiskFull)
    }
}

/// Strikes until the time of the plan is over, and heals everything. Gives the number of faults by name.
pub(super) fn strike(
    cluster: &mut Cluster,
    network: &Network,
    scratch: &Scratch,
    plan: Plan,
    random: &mut Random,
    log: &Mutex<Log>,
) -> Result<Vec<(&'static str, usize)>, String> {
    let begin = Instant::now();
    let mut counts = BTreeMap::new();
    pause(ELECTION_TIMEOUT);
    while begin.elapsed() < plan.duration {
        let choice = usize::try_from(random.below(Fault::ALL.len() as u64)).unwrap_or(0);
        let fault = Fault::ALL[choice];
        if !fault.suits(plan.kind) {
            continue;
        }
        *counts.entry(fault.name()).or_default() += 1;
        note(log, fault.name(), fault.leaves_majority());
        let mut strike = Strike { cluster, network, scratch: scratch.path(), random };
        strike.one(fault).map_err(|error| format!("{}: {error}", fault.name()))?;
        note(log, "the end of it", true);
        // What was behind has to catch up before another node fails, or there is no healthy majority.
        pause(ELECTION_TIMEOUT * 2);
        cluster.check_alive()?;
    }
    Ok(counts.into_iter().collect())
}

fn note(log: &Mutex<Log>, name: &'static str, healthy: bool) {
    if let Ok(mut log) = log.lock() {
        log.state(name, healthy);
    }
}

fn pause(time: Duration) {
    std::thread::sleep(time);
}

struct Strike<'a> {
    cluster: &'a mut Cluster,
    network: &'a Network,
    scratch: &'a Path,
    random: &'a mut Random,
}

impl Strike<'_> {
    /// Strikes and heals.
    fn one(&mut self, fault: Fault) -> Result<(), String> {
        let victim = self.victim();
        let other = (victim + 1) % self.cluster.nodes.len();
        match fault {
            Fault::Kill => {
                self.cluster.nodes[victim].kill();
                self.a_while();
                self.start(victim)
            }
            Fault::Stop => {
                self.signal(victim, "-STOP")?;
                self.a_while();
                self.signal(victim, "-CONT")
            }
            Fault::CleanStop => {
                self.cluster.nodes[victim].stop()?;
                self.a_while();
                self.start(victim)
            }
            Fault::Isolate => {
                self.network.set_connected(victim, false)?;
                self.a_while();
                self.network.set_connected(victim, true)
            }
            Fault::CutBetween => {
                self.network.cut(victim, other)?;
                self.network.cut(other, victim)?;
                self.a_while();
                self.network.mend(victim, other)?;
                self.network.mend(other, victim)
            }
            Fault::OneWay => {
                self.network.cut(victim, other)?;
                self.a_while();
                self.network.mend(victim, other)
            }
            Fault::DiskFull => self.fill_disk(victim),
            Fault::Damage => self.damage(victim),
            Fault::Transfer => {
                let id = NodeId(self.cluster.nodes[victim].id);
                // Whoever leads may refuse it for many good reasons.
                drop(self.cluster.leader().map(|mut leader| leader.transfer(id)));
                Ok(())
            }
            Fault::Demote => self.demote(victim),
            Fault::Replace => self.replace(victim),
            Fault::KillTwo => {
                self.cluster.nodes[victim].kill();
                self.cluster.nodes[other].kill();
                pause(Duration::from_millis(self.random.below(1000)));
                self.start(victim)?;
                self.start(other)
            }
            Fault::IsolateTwo => {
                self.network.set_connected(victim, false)?;
                self.network.set_connected(other, false)?;
                self.a_while();
                self.network.set_connected(victim, true)?;
                self.network.set_connected(other, true)
            }
        }
    }

    /// The leader as often as not: it is the one whose fault is felt.
    fn victim(&mut self) -> usize {
        let any = usize::try_from(self.random.below(self.cluster.nodes.len() as u64)).unwrap_or(0);
        match self.cluster.leader() {
            Ok(leader) if self.random.below(2) == 0 => self.cluster.position(&leader),
            _ => any,
        }
    }

    /// From nothing to a bit more than an election takes.
    fn a_while(&mut self) {
        let most = u64::try_from(ELECTION_TIMEOUT.as_millis()).unwrap_or(0) * 4;
        pause(Duration::from_millis(self.random.below(most)));
    }

    fn start(&mut self, node: usize) -> Result<(), String> {
        self.cluster.nodes[node].start().map(drop)
    }

    fn signal(&self, node: usize, signal: &str) -> Result<(), String> {
        let pid = self.cluster.nodes[node].pid().ok_or("the node does not run")?;
        run(Command::new("kill").args([signal, &pid.to_string()])).map(drop)
    }

    fn fill_disk(&mut self, node: usize) -> Result<(), String> {
        let ballast = file_system(self.scratch, node).join("ballast");
        let mut file = File::create(&ballast).map_err(|error| error.to_string())?;
        let block = vec![0; 1 << 20];
        for _ in 0..DISK_MIB {
            if file.write_all(&block).is_err() {
                break;
            }
        }
        drop(file);
        self.a_while();
        fs::remove_file(&ballast).map_err(|error| error.to_string())
    }

    /// A byte of the log changes while the node does not run. Only files whose content has a sum are touched.
    fn damage(&mut self, node: usize) -> Result<(), String> {
        self.cluster.nodes[node].kill();
        let directory = self.cluster.nodes[node].directory.clone();
        let entries = fs::read_dir(&directory).map_err(|error| error.to_string())?;
        let mut files: Vec<_> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                let name =
                    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
                name.starts_with("open-") || name.bytes().next().is_some_and(|byte| byte.is_ascii_digit())
            })
            .collect();
        files.sort();
        if let Some(path) =
            files.get(usize::try_from(self.random.below(files.len().max(1) as u64)).unwrap_or(0))
        {
            let mut content = fs::read(path).map_err(|error| error.to_string())?;
            let used = content.iter().rposition(|byte| *byte != 0).unwrap_or(0);
            if used > 0 {
                let at = usize::try_from(self.random.below(used as u64)).unwrap_or(0);
                content[at] ^= 0x40;
                fs::write(path, content).map_err(|error| error.to_string())?;
            }
        }
        self.start(node)?;
        // It neither votes nor leads until it has caught up, so it does not count for a while.
        pause(ELECTION_TIMEOUT * 3);
        Ok(())
    }

    /// A member gives its vote away, unless it leads, and has it back.
    fn demote(&self, node: usize) -> Result<(), String> {
        let id = NodeId(self.cluster.nodes[node].id);
        let mut leader = self.cluster.leader()?;
        if self.cluster.position(&leader) == node || leader.assign(id, Role::StandBy).is_err() {
            return Ok(());
        }
        pause(ELECTION_TIMEOUT);
        self.make_voter(node)
    }

    /// A member is removed, loses its data, and joins again.
    fn replace(&mut self, node: usize) -> Result<(), String> {
        let id = NodeId(self.cluster.nodes[node].id);
        let mut leader = self.cluster.leader()?;
        if self.cluster.position(&leader) == node || leader.remove(id).is_err() {
            return Ok(());
        }
        self.cluster.nodes[node].kill();
        let directory = self.cluster.nodes[node].directory.clone();
        fs::remove_dir_all(&directory).map_err(|error| error.to_string())?;
        // The ids 1 and go-dqlite's begin clusters of their own where they find nothing.
        self.cluster.nodes[node].id += 100;
        self.start(node)?;
        self.make_voter(node)
    }

    fn make_voter(&self, node: usize) -> Result<(), String> {
        let (id, address) = (NodeId(self.cluster.nodes[node].id), self.cluster.nodes[node].address.clone());
        eventually(PATIENCE, || {
            let mut leader = self.cluster.leader()?;
            let known = leader.cluster().map_err(|error| error.to_string())?;
            match known.iter().find(|server| server.id == id).map(|server| server.role) {
                Some(Role::Voter) => Ok(()),
                Some(_) => leader.assign(id, Role::Voter).map_err(|error| error.to_string()),
                None => leader
                    .add(id, &address)
                    .map_err(|error| error.to_string())
                    .and_then(|()| Err("added".to_owned())),
            }
        })
    }
}
