//! From a data directory to a running node: lock, load, bootstrap, restore, and the threads.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use crossbeam_channel::Sender;
use raft_glue::Loaded;
use raft_glue::disk::{LogStore, OsDisk};
use vfs::Vfs;
use wire_protocol::NodeId;

use crate::address::BoundSocket;
use crate::assembly;
use crate::clock::Clock;
use crate::connector::Connect;
use crate::dialer::{Dialer, Purpose};
use crate::disk_thread::DiskThread;
use crate::error::NodeError;
use crate::event_loop::{EventLoop, Parts};
use crate::executor::Executor;
use crate::listener::Listener;
use crate::options::NodeOptions;
use crate::peer_client::PeerClients;
use crate::registration::new_poll;
use crate::snapshot_thread::SnapshotThread;
use crate::transport::Transport;
use crate::wake::Outbox;

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
    vfs: Arc<Vfs>,
}

impl LoadedNode {
    /// Gives up the directory again.
    pub(crate) fn discard(self) {
        let Self { log, vfs, .. } = self;
        vfs::turns::call(move || drop(vfs));
        if let Err(error) = log.close() {
            tracing::warn!(%error, "closing the log failed");
        }
    }
}

impl Plan<'_> {
    /// Locks and loads the directory; a pristine one becomes the start of a cluster if the id allows that.
    pub(crate) fn load(&self) -> Result<LoadedNode, NodeError> {
        let (log, loaded) = assembly::open_log(self.disk, self.id, self.address, self.options)?;
        let mut vfs_options = vfs::Options::default();
        vfs_options.max_temporary_bytes = self.options.live().memory_rules().limit_bytes;
        vfs_options.temporary_directory = Some(self.disk.path().to_owned());
        let vfs = vfs::turns::call(move || Vfs::register_with(vfs_options));
        let vfs = vfs.map_err(|error| NodeError::Sqlite(error.to_string()))?;
        if let Err(error) = assembly::restore_databases(self.disk, &vfs, &loaded) {
            vfs::turns::call(move || drop(vfs));
            return Err(error);
        }
        Ok(LoadedNode { log, loaded, vfs: Arc::new(vfs) })
    }

    /// Puts the node together and starts its threads, all but the loop's own.
    pub(crate) fn assemble(
        &self,
        node: LoadedNode,
        bound: BoundSocket,
        started: Sender<Result<(), String>>,
    ) -> Result<(EventLoop, Outbox), NodeError> {
        let LoadedNode { log, loaded, vfs } = node;
        let clock = Clock::start();
        let is_vote_withheld = loaded.no_vote_until.is_some();
        let seed = RandomState::new().build_hasher().finish();
        let config = assembly::replica_config(self.id, self.address, self.options, seed);
        let live = self.options.live();
        let core = assembly::core(config, loaded, Arc::clone(&vfs), Arc::clone(live), 0)?;

        let listener = Listener::new(bound).map_err(NodeError::Thread)?;
        let (poll, notifier) = new_poll(&listener).map_err(NodeError::Thread)?;
        let registry = poll.registry().try_clone().map_err(NodeError::Thread)?;
        let (outbox, completions) = Outbox::new(notifier.clone());
        let dialer = Dialer::new(Arc::clone(&self.connect), outbox.clone(), Purpose::Questions);
        let peer_clients = PeerClients::new(dialer, registry.try_clone().map_err(NodeError::Thread)?);
        let dialer = Dialer::new(Arc::clone(&self.connect), outbox.clone(), Purpose::Raft);
        let transport = Transport::new(self.id, self.address.to_owned(), dialer, registry);
        let executor = Executor::start(live, &outbox).map_err(NodeError::Thread)?;
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
            clock,
            core,
            vfs,
            listener,
            transport,
            peer_clients,
            executor,
            disk,
            snapshots,
            is_vote_withheld,
            started,
        };
        Ok((EventLoop::new(parts), outbox))
    }
}
