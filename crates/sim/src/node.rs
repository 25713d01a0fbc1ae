//! One simulated machine: its disk, which outlives it, and the process that runs on it, which may not.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use raft_glue::disk::{LogOptions, LogStore, MemoryDisk};
use raft_glue::{Config, Loaded, LogIndex, NodeId, StreamId};
use server::assembly;
use server::core::{Core, Input, SnapshotJob, SqlDone, SqlJob};
use server::log_worker::LogWorker;
use server::options::{LiveOptions, NodeOptions, TrailingStrategy};
use vfs::Vfs;

use crate::clock::{Clock, Surroundings};
use crate::manners::Excesses;
use crate::random::Random;
use crate::scenario::Scenario;

/// A machine.
#[derive(Debug)]
pub(crate) struct Machine {
    /// Identity of its node.
    pub(crate) id: NodeId,
    /// Address of its node.
    pub(crate) address: String,
    /// Its data directory.
    pub(crate) disk: MemoryDisk,
    /// The process, if it runs.
    pub(crate) process: Option<Process>,
    /// How many processes there were; events of earlier ones are void.
    pub(crate) epoch: u64,
    /// It does nothing before this moment.
    pub(crate) paused_until_us: u64,
    /// Everything takes this many times as long, before the given moment.
    pub(crate) slow: Slowness,
    /// The same for its disk.
    pub(crate) slow_disk: Slowness,
    /// Deviation of the wall clock, milliseconds.
    pub(crate) wall_ms: i64,
    /// Power fails after this many more operations of the disk.
    pub(crate) fails_in_write: Option<u64>,
    /// A start is under way.
    pub(crate) starting: bool,
    /// Its disk was damaged, and it has yet to apply everything up to this index.
    pub(crate) damaged: Option<u64>,
    /// Its directory is beyond repair.
    pub(crate) ruined: bool,
    /// An operation of its disk was made to fail, or will be.
    pub(crate) faulted: bool,
    /// What its directory held some time ago.
    pub(crate) older: BTreeMap<String, Vec<u8>>,
    /// Its disk holds the log of another cluster.
    pub(crate) foreign: bool,
}

/// How slow something is, and until when.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Slowness {
    /// How many times as long.
    pub(crate) factor: u64,
    /// Until when, microseconds.
    pub(crate) until_us: u64,
}

impl Slowness {
    /// How long something takes that usually takes `usual_us`.
    #[must_use]
    pub(crate) fn apply(&self, usual_us: u64, now_us: u64) -> u64 {
        if now_us < self.until_us { usual_us * self.factor } else { usual_us }
    }
}

/// A running node: the real core and what the real loop has around it.
#[derive(Debug)]
pub(crate) struct Process {
    /// The sans-io node.
    pub(crate) core: Core,
    /// Its databases.
    pub(crate) vfs: Arc<Vfs>,
    /// Of its readers.
    pub(crate) excesses: Excesses,
    /// Time and chance as SQLite sees them.
    pub(crate) surroundings: Arc<Surroundings>,
    /// The log.
    pub(crate) worker: LogWorker<LogStore<MemoryDisk>>,
    /// The disk is doing something.
    pub(crate) disk_busy: bool,
    /// When the loop hears of what the disk did last, microseconds.
    pub(crate) disk_told_us: u64,
    /// The steady clock.
    pub(crate) clock: Clock,
    /// For the next turn of the loop.
    pub(crate) inputs: VecDeque<Input>,
    /// The newest stream of each other machine, and who dialled it.
    pub(crate) streams: BTreeMap<usize, (StreamId, NodeId)>,
    /// When the next turn is, if there is one.
    pub(crate) turn_at_us: Option<u64>,
    /// When the next tick is, milliseconds of its own clock.
    pub(crate) next_tick_ms: u64,
    /// The log must hear when what it lost is made up for.
    pub(crate) is_vote_withheld: bool,
    /// Index of which the log says that it would be enough.
    pub(crate) no_vote_until: LogIndex,
    /// SQL under way, before and after it ran.
    pub(crate) jobs: BTreeMap<u64, Sql>,
    /// Snapshots under way.
    pub(crate) snapshots: VecDeque<SnapshotJob>,
    /// Whether the snapshots written are compressed.
    pub(crate) compression: bool,
    /// Settings that its host may change.
    pub(crate) live: Arc<LiveOptions>,
    /// Newest index whose image was looked at.
    pub(crate) observed: LogIndex,
    /// It has reported a failure.
    pub(crate) failed: bool,
    next_job: u64,
}

/// SQL on an executor.
#[derive(Debug)]
pub(crate) enum Sql {
    /// Waits.
    Waiting(SqlJob),
    /// Has run; the loop has yet to hear of it.
    Done(SqlDone),
}

impl Machine {
    /// A machine with an empty disk.
    #[must_use]
    pub(crate) fn new(id: NodeId, seed: u64) -> Self {
        Self {
            id,
            address: format!("10.0.0.{}:9000", id.0),
            disk: MemoryDisk::new(seed),
            process: None,
            epoch: 0,
            paused_until_us: 0,
            slow: Slowness::default(),
            slow_disk: Slowness::default(),
            wall_ms: 0,
            fails_in_write: None,
            starting: false,
            damaged: None,
            ruined: false,
            faulted: false,
            older: BTreeMap::new(),
            foreign: false,
        }
    }

    /// Starts the process. Gives what was loaded, before anything is done with it.
    ///
    /// # Errors
    ///
    /// Says why the node does not start.
    pub(crate) fn start(
        &mut self,
        scenario: &Scenario,
        now_us: u64,
        random: &mut Random,
        inspect: impl FnOnce(&Loaded) -> Result<(), String>,
    ) -> Result<(), StartError> {
        self.epoch += 1;
        let options = node_options(scenario);
        let log_options =
            LogOptions { segment_size: scenario.segment_size, ..assembly::log_options(&options) };
        let refused = |error: &dyn std::fmt::Display| StartError::Refused(error.to_string());
        let (log, loaded) = assembly::open_log_with(&self.disk, self.id, &self.address, log_options)
            .map_err(|error| refused(&error))?;
        inspect(&loaded).map_err(StartError::Wrong)?;
        let surroundings = Arc::new(Surroundings::new(random.number(), self.wall_ms));
        surroundings.set_now_us(now_us);
        let mut vfs_options = vfs::Options::default();
        vfs_options.environment = Arc::<Surroundings>::clone(&surroundings);
        vfs_options.checkpoint_threshold = scenario.checkpoint_threshold;
        let vfs = Vfs::register_with(vfs_options).map_err(|error| refused(&error))?;
        assembly::restore_databases(&self.disk, &vfs, &loaded).map_err(|error| refused(&error))?;
        let vfs = Arc::new(vfs);
        let no_vote_until = loaded.no_vote_until.unwrap_or_default();
        let is_vote_withheld = loaded.no_vote_until.is_some();
        let config = assembly::replica_config(self.id, &self.address, &options, random.number());
        let config = Config { log_cache_bytes: scenario.log_cache_bytes, ..config };
        let core = assembly::core(config, loaded, Arc::clone(&vfs), Arc::clone(options.live()), 0)
            .map_err(|error| refused(&error))?;
        self.process = Some(Process {
            core,
            vfs,
            excesses: Excesses::default(),
            surroundings,
            worker: LogWorker::new(log),
            disk_busy: false,
            disk_told_us: 0,
            clock: Clock::new(now_us, scenario.clock_drift, random),
            inputs: VecDeque::new(),
            streams: BTreeMap::new(),
            turn_at_us: None,
            next_tick_ms: 0,
            is_vote_withheld,
            no_vote_until,
            jobs: BTreeMap::new(),
            snapshots: VecDeque::new(),
            compression: scenario.compression,
            live: Arc::clone(options.live()),
            observed: LogIndex(0),
            failed: false,
            next_job: 0,
        });
        Ok(())
    }

    /// Ends the process at once.
    pub(crate) fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            // What uses SQLite goes before the VFS.
            let Process { core, jobs, inputs, .. } = process;
            drop((core, jobs, inputs));
        }
        self.epoch += 1;
        self.fails_in_write = None;
    }

    /// The power is gone: the process ends and the disk forgets.
    pub(crate) fn lose_power(&mut self, random: &mut Random) {
        self.kill();
        self.disk = self.disk.crash_with(random.number());
    }
}

impl Process {
    /// Gives a job a number.
    pub(crate) fn keep_job(&mut self, job: SqlJob) -> u64 {
        self.next_job += 1;
        self.jobs.insert(self.next_job, Sql::Waiting(job));
        self.next_job
    }
}

/// Why a node does not start.
#[derive(Debug)]
pub(crate) enum StartError {
    /// The node says so, which is right if its directory is damaged.
    Refused(String),
    /// What it loaded is not what it had.
    Wrong(String),
}

/// Settings of every node, as a host would make them.
fn node_options(scenario: &Scenario) -> NodeOptions {
    let mut options = NodeOptions::default();
    if let Some(latency_ms) = scenario.network_latency_ms {
        options.set_network_latency_ms(latency_ms).expect("a latency of some milliseconds is allowed");
    }
    options
        .set_snapshot_params(
            scenario.snapshot_threshold,
            scenario.snapshot_trailing,
            TrailingStrategy::Static,
        )
        .expect("as many entries trail as trigger a snapshot");
    options.live().set_auto_recovery(scenario.auto_recovery);
    options.live().set_snapshot_compression(scenario.compression);
    if let Some((voters, stand_bys)) = scenario.role_targets {
        options.live().set_target_voters(voters);
        options.live().set_target_standbys(stand_bys);
        options.live().set_role_management(true);
    }
    crate::manners::configure(options.live(), scenario.manners);
    if let Some(timeout_ms) = scenario.busy_timeout_ms {
        options.live().set_busy_timeout_ms(timeout_ms);
    }
    options
}
