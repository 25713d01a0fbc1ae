//! A sole voter without threads, sockets or files: the core, its SQL and its log on a disk in memory, step by step.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use raft_glue::NodeId;
use raft_glue::disk::{LogOptions, LogStore, MemoryDisk};
use server::assembly;
use server::core::{ClientId, Core, Input, Output};
use server::log_worker::{LogJob, LogOutcome, LogWorker};
use server::options::NodeOptions;
use server::snapshot_work;
use vfs::Vfs;
use wire_protocol::{FrameDecoder, Params, Protocol, Request, Response, Rows, Value};

pub(crate) const CLIENT: ClientId = ClientId(7);
const SEGMENT_SIZE: u64 = 64 * 1024;

/// A sole voter without threads.
pub(crate) struct Alone {
    pub(crate) disk: MemoryDisk,
    pub(crate) vfs: Arc<Vfs>,
    core: Option<Core>,
    pub(crate) worker: LogWorker<LogStore<MemoryDisk>>,
    inputs: VecDeque<Input>,
    replies: BTreeMap<ClientId, BytesMut>,
    pub(crate) now_ms: u64,
    /// The log found no space for something.
    pub(crate) waits: bool,
    pub(crate) snapshots: usize,
    /// Jobs run, but the core does not hear of it until they are released.
    pub(crate) holds_jobs: bool,
    held: Vec<Input>,
}

impl Alone {
    /// Loads the disk. Without `snapshot` the snapshot parameters are nobody's choice.
    pub(crate) fn start(disk: MemoryDisk, snapshot: Option<u32>) -> Self {
        let mut options = NodeOptions::default();
        if let Some(threshold) = snapshot {
            options.set_snapshot_params_raw(threshold, threshold.max(4), 0).unwrap();
        }
        let log_options = LogOptions { segment_size: SEGMENT_SIZE, ..assembly::log_options(&options) };
        let (log, loaded) = assembly::open_log_with(&disk, NodeId(1), "1", log_options).unwrap();
        let vfs = Arc::new(Vfs::register().unwrap());
        assembly::restore_databases(&disk, &vfs, &loaded).unwrap();
        let config = assembly::replica_config(NodeId(1), "1", &options, 1);
        let live = Arc::clone(options.live());
        let core = assembly::core(config, loaded, Arc::clone(&vfs), live, 0).unwrap();
        let mut alone = Self {
            disk,
            vfs,
            core: Some(core),
            worker: LogWorker::new(log),
            inputs: VecDeque::new(),
            replies: BTreeMap::new(),
            now_ms: 0,
            waits: false,
            snapshots: 0,
            holds_jobs: false,
            held: Vec::new(),
        };
        alone.settle();
        alone.connect(CLIENT);
        alone
    }

    pub(crate) fn connect(&mut self, client: ClientId) {
        self.feed(Input::ClientOpened { client, protocol: Protocol::Current });
    }

    /// Does everything that can be done.
    pub(crate) fn settle(&mut self) {
        self.waits = false;
        loop {
            let core = self.core.as_mut().unwrap();
            while let Some(input) = self.inputs.pop_front() {
                core.handle(input, self.now_ms);
            }
            while let Some(output) = core.poll_output(self.now_ms) {
                match output {
                    Output::Reply { client, bytes } => {
                        self.replies.entry(client).or_default().extend_from_slice(&bytes);
                    }
                    Output::Sql(job) if self.holds_jobs => self.held.push(Input::SqlDone(job.run())),
                    Output::Sql(job) => self.inputs.push_back(Input::SqlDone(job.run())),
                    Output::Disk(job) => self.worker.push(LogJob::Answered(job)),
                    Output::Snapshot(job) => {
                        let done = snapshot_work::run(&self.disk, job, true, self.now_ms, || true);
                        self.snapshots += 1;
                        self.inputs.push_back(Input::SnapshotDone(done));
                    }
                    Output::Failed(reason) => panic!("{reason}"),
                    _ => {}
                }
            }
            while !self.waits
                && let Some(outcome) = self.worker.run_next()
            {
                match outcome {
                    LogOutcome::Done(done) => self.inputs.push_back(Input::DiskDone(done)),
                    LogOutcome::Silent => {}
                    LogOutcome::NoSpace(_) => self.waits = true,
                }
            }
            if self.inputs.is_empty() {
                return;
            }
        }
    }

    pub(crate) fn feed(&mut self, input: Input) {
        self.inputs.push_back(input);
        self.settle();
    }

    pub(crate) fn request(&mut self, request: &Request) {
        self.request_of(CLIENT, request);
        self.settle();
    }

    /// Hands a request in, to be looked at with others when everything settles.
    pub(crate) fn request_of(&mut self, client: ClientId, request: &Request) {
        let mut bytes = BytesMut::new();
        request.encode(&mut bytes);
        let frame = FrameDecoder::new(1 << 20).decode(&mut bytes).unwrap().unwrap();
        self.inputs.push_back(Input::ClientFrame { client, frame });
    }

    /// The answer to the oldest request that has none, if it has left.
    pub(crate) fn answer(&mut self) -> Option<Response> {
        self.answer_of(CLIENT)
    }

    pub(crate) fn answer_of(&mut self, client: ClientId) -> Option<Response> {
        let replies = self.replies.entry(client).or_default();
        let frame = FrameDecoder::new(1 << 20).decode(replies).unwrap()?;
        Some(Response::decode(&frame).unwrap())
    }

    /// Entries in the log, the first included.
    pub(crate) fn entries(&self) -> u64 {
        self.core.as_ref().unwrap().replica().last_index().0
    }

    pub(crate) fn exec(&mut self, sql: &str) -> Result<(), u64> {
        let sql = Bytes::copy_from_slice(sql.as_bytes());
        self.request(&Request::ExecSql { database: 0, sql, params: Params::default() });
        match self.answer() {
            Some(Response::Result { .. }) => Ok(()),
            Some(Response::Failure { code, .. }) => Err(code),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn count(&mut self) -> i64 {
        let sql = Bytes::from_static(b"SELECT count(*) FROM t");
        self.request(&Request::QuerySql { database: 0, sql, params: Params::default() });
        match self.answer() {
            Some(Response::Rows(Rows { rows, .. })) => match rows[0][0] {
                Value::Integer(count) => count,
                ref other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn open(&mut self, name: &'static str) {
        self.open_of(CLIENT, name);
    }

    pub(crate) fn open_of(&mut self, client: ClientId, name: &'static str) {
        let name = Bytes::from_static(name.as_bytes());
        self.request_of(client, &Request::Open { name, flags: 0, vfs: Bytes::new() });
        self.settle();
        assert!(matches!(self.answer_of(client), Some(Response::Database { .. })));
    }

    /// Tells the core of the jobs that were held.
    pub(crate) fn release_jobs(&mut self) {
        self.holds_jobs = false;
        self.inputs.extend(self.held.drain(..));
        self.settle();
    }

    /// Tells the core of the first of them only.
    pub(crate) fn release_first_job(&mut self) {
        self.inputs.push_back(self.held.remove(0));
        self.settle();
    }

    /// Looks for space, as the disk thread does now and then.
    pub(crate) fn look_for_space(&mut self) {
        self.worker.push(LogJob::Tend);
        self.settle();
    }

    pub(crate) fn crash(mut self) -> MemoryDisk {
        self.core = None;
        self.disk.crash()
    }
}
