//! A disk that fills up: the core alone, on a disk in memory; and a whole node, on a small file system if that can be
//! mounted.
#![allow(clippy::unwrap_used, reason = "a failure of a helper is a failure of the test")]

mod common;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use raft_glue::NodeId;
use raft_glue::disk::{LogOptions, LogStore, MemoryDisk, Space};
use server::assembly;
use server::core::{ClientId, Core, Input, Output};
use server::log_worker::{LogJob, LogOutcome, LogWorker};
use server::options::NodeOptions;
use server::snapshot_work;
use vfs::Vfs;
use wire_protocol::{FrameDecoder, Params, Protocol, Request, Response, Rows, Value};

const CLIENT: ClientId = ClientId(7);
/// SQLITE_FULL.
const FULL: u64 = 13;
const SEGMENT_SIZE: u64 = 64 * 1024;

/// A sole voter without threads.
struct Alone {
    disk: MemoryDisk,
    core: Option<Core>,
    worker: LogWorker<LogStore<MemoryDisk>>,
    inputs: VecDeque<Input>,
    replies: BytesMut,
    now_ms: u64,
    /// The log found no space for something.
    waits: bool,
    snapshots: usize,
}

impl Alone {
    fn start(disk: MemoryDisk, snapshot: u32) -> Self {
        let mut options = NodeOptions::default();
        options.set_snapshot_params_raw(snapshot, snapshot.max(4), 0).unwrap();
        let log_options = LogOptions { segment_size: SEGMENT_SIZE, ..assembly::log_options(&options) };
        let (log, loaded) = assembly::open_log_with(&disk, NodeId(1), "1", log_options).unwrap();
        let vfs = Vfs::register().unwrap();
        assembly::restore_databases(&disk, &vfs, &loaded).unwrap();
        let config = assembly::replica_config(NodeId(1), "1", &options, 1);
        let live = Arc::clone(options.live());
        let core = assembly::core(config, loaded, Arc::new(vfs), live, 0).unwrap();
        let mut alone = Self {
            disk,
            core: Some(core),
            worker: LogWorker::new(log),
            inputs: VecDeque::new(),
            replies: BytesMut::new(),
            now_ms: 0,
            waits: false,
            snapshots: 0,
        };
        alone.settle();
        alone.feed(Input::ClientOpened { client: CLIENT, protocol: Protocol::Current });
        alone
    }

    /// Does everything that can be done.
    fn settle(&mut self) {
        self.waits = false;
        loop {
            let core = self.core.as_mut().unwrap();
            while let Some(input) = self.inputs.pop_front() {
                core.handle(input, self.now_ms);
            }
            while let Some(output) = core.poll_output(self.now_ms) {
                match output {
                    Output::Reply { bytes, .. } => self.replies.extend_from_slice(&bytes),
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

    fn feed(&mut self, input: Input) {
        self.inputs.push_back(input);
        self.settle();
    }

    fn request(&mut self, request: &Request) {
        let mut bytes = BytesMut::new();
        request.encode(&mut bytes);
        let frame = FrameDecoder::new(1 << 20).decode(&mut bytes).unwrap().unwrap();
        self.feed(Input::ClientFrame { client: CLIENT, frame });
    }

    /// The answer to the oldest request that has none, if it has left.
    fn answer(&mut self) -> Option<Response> {
        let frame = FrameDecoder::new(1 << 20).decode(&mut self.replies).unwrap()?;
        Some(Response::decode(&frame).unwrap())
    }

    fn exec(&mut self, sql: &str) -> Result<(), u64> {
        let sql = Bytes::copy_from_slice(sql.as_bytes());
        self.request(&Request::ExecSql { database: 0, sql, params: Params::default() });
        match self.answer() {
            Some(Response::Result { .. }) => Ok(()),
            Some(Response::Failure { code, .. }) => Err(code),
            other => panic!("{other:?}"),
        }
    }

    fn count(&mut self) -> i64 {
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

    fn open(&mut self, name: &'static str) {
        self.request(&Request::Open {
            name: Bytes::from_static(name.as_bytes()),
            flags: 0,
            vfs: Bytes::new(),
        });
        assert!(matches!(self.answer(), Some(Response::Database { .. })));
    }

    /// Looks for space, as the disk thread does now and then.
    fn look_for_space(&mut self) {
        self.worker.push(LogJob::Tend);
        self.settle();
    }

    fn crash(mut self) -> MemoryDisk {
        self.core = None;
        self.disk.crash()
    }
}

fn filled(snapshot: u32) -> (Alone, i64) {
    let mut alone = Alone::start(MemoryDisk::new(1), snapshot);
    alone.open("test");
    alone.exec("CREATE TABLE t (s TEXT)").unwrap();
    alone.look_for_space();
    alone.disk.set_capacity(Some(alone.disk.used() + 100_000));
    let mut rows = 0;
    let refused = loop {
        match alone.exec("INSERT INTO t VALUES (hex(randomblob(200)))") {
            Ok(()) => rows += 1,
            Err(code) => break code,
        }
        assert!(rows < 10_000, "never full");
    };
    assert_eq!(refused, FULL);
    assert!(!alone.waits, "nothing had to wait for space: the refusal came before that");
    (alone, rows)
}

#[test]
fn writes_are_refused_in_time_and_accepted_again_without_a_restart() {
    let (mut alone, mut rows) = filled(10_000);
    assert_eq!(alone.count(), rows, "reads go on, and no refused row is there");
    assert_eq!(alone.exec("DELETE FROM t"), Err(FULL));
    assert_eq!(alone.exec("BEGIN; INSERT INTO t VALUES ('x'); COMMIT"), Err(FULL));
    let _ = alone.exec("ROLLBACK");
    assert_eq!(alone.count(), rows);
    alone.look_for_space();
    assert_eq!(alone.worker.space(), Space::Low);
    assert_eq!(alone.exec("INSERT INTO t VALUES ('x')"), Err(FULL), "still");

    alone.disk.set_capacity(None);
    alone.look_for_space();
    for _ in 0..50 {
        alone.exec("INSERT INTO t VALUES (hex(randomblob(200)))").unwrap();
        rows += 1;
    }
    assert_eq!(alone.count(), rows);
    let mut alone = Alone::start(alone.crash(), 10_000);
    alone.open("test");
    assert_eq!(alone.count(), rows);
}

#[test]
fn a_database_that_is_new_is_refused_too() {
    let (mut alone, _) = filled(10_000);
    alone.feed(Input::ClientClosed { client: CLIENT });
    alone.feed(Input::ClientOpened { client: CLIENT, protocol: Protocol::Current });
    alone.open("other");
    assert_eq!(alone.exec("CREATE TABLE u (n INTEGER)"), Err(FULL));
    alone.disk.set_capacity(None);
    alone.look_for_space();
    alone.exec("CREATE TABLE u (n INTEGER)").unwrap();
}

#[test]
fn snapshots_make_room_as_long_as_they_can_and_a_full_disk_starts_again() {
    let (mut alone, rows) = filled(8);
    assert!(alone.snapshots > 4, "{}", alone.snapshots);
    let snapshots = |disk: &MemoryDisk| {
        disk.names().iter().filter(|name| name.starts_with("snapshot-") && name.ends_with(".meta")).count()
    };
    assert!(snapshots(&alone.disk) >= 1);
    assert_eq!(alone.count(), rows);
    let used = alone.disk.used();
    // The power fails; what was prepared is free for a start, which needs hardly any.
    let disk = alone.crash();
    disk.set_capacity(Some(used));
    let mut alone = Alone::start(disk, 8);
    alone.open("test");
    assert_eq!(alone.count(), rows);
    alone.disk.set_capacity(None);
    alone.look_for_space();
    alone.exec("INSERT INTO t VALUES ('x')").unwrap();
    assert_eq!(alone.count(), rows + 1);
}

/// A file system of its own, gone when dropped.
struct Small(tempfile::TempDir);

impl Small {
    /// `None` where mounting is not allowed.
    fn mount(size: &str) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let size = format!("size={size}");
        let status = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(directory.path())
            .output();
        status.is_ok_and(|output| output.status.success()).then(|| Self(directory))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Whatever still has it open does not matter to a test that ends.
        let _ = std::process::Command::new("umount").arg("-l").arg(self.0.path()).output();
    }
}

#[test]
fn a_node_on_a_full_file_system_recovers_by_itself() {
    let Some(small) = Small::mount("40m") else {
        println!("SKIPPED: no file system can be mounted here: a full disk is tried in memory only");
        return;
    };
    let directory = small.0.path().join("node");
    std::fs::create_dir(&directory).unwrap();
    let start = || {
        let address = common::unique_address();
        let mut node = server::Node::create(1, address.clone(), directory.clone()).unwrap();
        node.bind(&address).unwrap();
        node.start().unwrap();
        let mut client = server::client::Client::connect(&address, common::TIMEOUT).unwrap();
        client.open("test").unwrap();
        (node, client)
    };
    let (mut node, mut client) = start();
    client.exec_sql("CREATE TABLE t (s TEXT)", &[]).unwrap();
    // Room for one more segment besides the reserve.
    common::eventually("the reserve is there", || {
        let names = std::fs::read_dir(&directory).unwrap();
        names.filter(|name| name.as_ref().unwrap().file_name().to_str().unwrap().starts_with("open-")).count()
            == 3
    });
    let ballast = small.0.path().join("ballast");
    std::fs::write(&ballast, vec![1; 6 << 20]).unwrap();
    let mut rows = 0;
    let refused = loop {
        match client.exec_sql("INSERT INTO t VALUES (hex(randomblob(100000)))", &[]) {
            Ok(_) => rows += 1,
            Err(error) => break error,
        }
        assert!(rows < 1000, "never full");
    };
    assert_eq!(refused.code(), Some(FULL), "{refused}");
    assert!(rows > 10, "{rows}");
    let count = |client: &mut server::client::Client| match common::one(client, "SELECT count(*) FROM t") {
        Value::Integer(count) => count,
        other => panic!("{other:?}"),
    };
    assert_eq!(count(&mut client), rows);
    std::fs::remove_file(&ballast).unwrap();
    common::eventually("writes are accepted again", || {
        client.exec_sql("INSERT INTO t VALUES ('x')", &[]).is_ok()
    });
    rows += 1;
    node.stop().unwrap();
    let (mut node, mut client) = start();
    assert_eq!(count(&mut client), rows);
    node.stop().unwrap();
}
