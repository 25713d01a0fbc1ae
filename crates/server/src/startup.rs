//! From a data directory to a running node: lock, load, bootstrap, restore, and the threads.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::Sender;
use raft_glue::disk::{self, DiskError, LoadError, LogOptions, LogStore, OsDisk};
use raft_glue::{Config, Loaded, Replica, TrailingStrategy};
use vfs::Vfs;
use wire_protocol::{Configuration, NodeId, Role, Server};

use crate::address::BoundSocket;
use crate::connector::Connect;
use crate::core::{Core, CoreConfig, restore_payload};
use crate::dialer::Dialer;
use crate::disk_thread::DiskThread;
use crate::event_loop::{EventLoop, Parts, new_poll};
use crate::executor::{Executor, SqliteThread};
use crate::listener::Listener;
use crate::node::NodeError;
use crate::node_id::BOOTSTRAP_ID;
use crate::options::{self, NodeOptions};
use crate::snapshot_thread::SnapshotThread;
use crate::transport::Transport;
use crate::wake::Outbox;

/// The other id that may start a cluster, besides go-dqlite's.
const FIRST_ID: u64 = 1;

/// What a node is made of.
pub(crate) struct Plan<'a> {
    pub(crate) id: NodeId,
    pub(crate) address: &'a str,
    pub(crate) disk: &'a OsDisk,
    pub(crate) options: &'a NodeOptions,
    pub(crate) connect: Arc<dyn Connect>,
}

/// A directory that is locked and loaded, with its databases.
pub(crate) struct LoadedNode {
    log: LogStore<OsDisk>,
    loaded: Loaded,
    sqlite: SqliteThread,
    vfs: Arc<Vfs>,
}

impl LoadedNode {
    /// Gives up the directory again.
    pub(crate) fn discard(self) {
        let Self { log, vfs, sqlite, .. } = self;
        sqlite.call(move || drop(vfs));
        if let Err(error) = log.close() {
            tracing::warn!(%error, "closing the log failed");
        }
    }
}

impl Plan<'_> {
    /// Locks and loads the directory; a pristine one becomes the start of a cluster if the id allows that.
    pub(crate) fn load(&self) -> Result<LoadedNode, NodeError> {
        let (log, loaded) = self.open_log()?;
        let sqlite = SqliteThread::acquire().map_err(NodeError::Thread)?;
        let vfs = sqlite.call(Vfs::register).map_err(|error| NodeError::Sqlite(error.to_string()))?;
        if let Some(snapshot) = &loaded.snapshot {
            let payload =
                disk::read_snapshot(self.disk, snapshot).map_err(|error| NodeError::Load(error.into()))?;
            if let Err(reason) = restore_payload(&vfs, &payload) {
                let index = snapshot.index;
                sqlite.call(move || drop(vfs));
                return Err(NodeError::Restore(format!("snapshot at index {index}: {reason}")));
            }
        }
        Ok(LoadedNode { log, loaded, sqlite, vfs: Arc::new(vfs) })
    }

    fn open_log(&self) -> Result<(LogStore<OsDisk>, Loaded), NodeError> {
        if [FIRST_ID, BOOTSTRAP_ID].contains(&self.id.0) {
            let server = Server { id: self.id, address: self.address.to_owned(), role: Role::Voter };
            disk::bootstrap(self.disk, &Configuration { servers: vec![server] }).map_err(
                |error| match error {
                    DiskError::Locked => NodeError::Locked,
                    error => NodeError::Bootstrap(error),
                },
            )?;
        }
        LogStore::open(self.disk.clone(), self.log_options()).map_err(|error| match error {
            LoadError::Disk(DiskError::Locked) => NodeError::Locked,
            error => NodeError::Load(error),
        })
    }

    fn log_options(&self) -> LogOptions {
        LogOptions {
            trailing: u64::from(self.options.snapshot_trailing()),
            auto_recovery: self.options.live().auto_recovery(),
            compression: self.options.live().snapshot_compression(),
            block_size: self.options.block_size(),
            ..LogOptions::default()
        }
    }

    fn replica_config(&self, loaded: &Loaded) -> Config {
        let options = self.options;
        Config {
            election_timeout_ms: options.election_timeout_ms(),
            heartbeat_timeout_ms: options.heartbeat_timeout_ms(),
            seed: RandomState::new().build_hasher().finish(),
            snapshot_threshold: u64::from(options.snapshot_threshold()),
            snapshot_trailing: u64::from(options.snapshot_trailing()),
            trailing_strategy: match options.trailing_strategy() {
                options::TrailingStrategy::Static => TrailingStrategy::Static,
                options::TrailingStrategy::Dynamic => TrailingStrategy::Dynamic,
            },
            no_vote_until: loaded.no_vote_until,
            ..Config::new(self.id, self.address)
        }
    }

    /// Puts the node together and starts its threads, all but the loop's own.
    pub(crate) fn assemble(
        &self,
        node: LoadedNode,
        bound: BoundSocket,
        started: Sender<Result<(), String>>,
    ) -> Result<(EventLoop, Outbox), NodeError> {
        let LoadedNode { log, loaded, sqlite, vfs } = node;
        let origin = Instant::now();
        let config = self.replica_config(&loaded);
        let made_up_at = loaded.no_vote_until;
        // An acknowledgement may be as old as a heartbeat when it counts, and nobody else is elected before a whole
        // election timeout has passed since it was given.
        let lease_ms = config.election_timeout_ms - config.heartbeat_timeout_ms;
        let replica = Replica::new(config, loaded, 0).map_err(NodeError::Replica)?;
        let core_config = CoreConfig { id: self.id, address: self.address.to_owned(), lease_ms };
        let live = self.options.live();
        let core = Core::new(core_config, replica, Arc::clone(&vfs), Arc::clone(live));

        let listener = Listener::new(bound).map_err(NodeError::Thread)?;
        let (poll, notifier) = new_poll(&listener).map_err(NodeError::Thread)?;
        let registry = poll.registry().try_clone().map_err(NodeError::Thread)?;
        let (outbox, completions) = Outbox::new(notifier.clone());
        let dialer = Dialer::new(Arc::clone(&self.connect), outbox.clone());
        let transport = Transport::new(self.id, self.address.to_owned(), dialer, registry);
        let executor = Executor::start(&sqlite, live, &outbox).map_err(NodeError::Thread)?;
        let snapshots = match SnapshotThread::start(self.disk.clone(), Arc::clone(live), outbox.clone()) {
            Ok(snapshots) => snapshots,
            Err(error) => {
                executor.join();
                return Err(NodeError::Thread(error));
            }
        };
        let disk = match DiskThread::start(log, outbox.clone()) {
            Ok(disk) => disk,
            Err(error) => {
                executor.join();
                snapshots.join();
                return Err(NodeError::Thread(error));
            }
        };
        let parts = Parts {
            poll,
            notifier,
            completions,
            origin,
            core,
            vfs,
            sqlite,
            listener,
            transport,
            executor,
            disk,
            snapshots,
            made_up_at,
            started,
        };
        Ok((EventLoop::new(parts), outbox))
    }
}
