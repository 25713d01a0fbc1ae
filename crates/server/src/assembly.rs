//! From a data directory to a [`Core`], without threads, sockets or clock: load, bootstrap, restore, put together.

use std::sync::Arc;

use raft_glue::disk::{self, Disk, DiskError, LoadError, LogOptions, LogStore};
use raft_glue::{Config, Loaded, Replica, SnapshotRule, TrailingStrategy};
use vfs::Vfs;
use wire_protocol::{Configuration, NodeId, Role, Server};

use crate::core::{Core, CoreConfig, check_payload, restore_payload};
use crate::error::NodeError;
use crate::node_id::BOOTSTRAP_ID;
use crate::options::{self, LiveOptions, NodeOptions};

/// The other id that may start a cluster, besides go-dqlite's.
const FIRST_ID: u64 = 1;

/// Settings of the log that follow from those of a node.
#[must_use]
pub fn log_options(options: &NodeOptions) -> LogOptions {
    LogOptions {
        trailing: u64::from(options.snapshot_trailing()),
        auto_recovery: options.live().auto_recovery(),
        compression: options.live().snapshot_compression(),
        block_size: options.block_size(),
        ..LogOptions::default()
    }
}

/// Locks and loads the directory; a pristine one becomes the start of a cluster if the id allows that.
///
/// # Errors
///
/// When another node has the directory, or what is in it cannot be used.
pub fn open_log<D: Disk>(
    disk: &D,
    id: NodeId,
    address: &str,
    options: &NodeOptions,
) -> Result<(LogStore<D>, Loaded), NodeError> {
    open_log_with(disk, id, address, log_options(options))
}

/// [`open_log`] with settings of the log that no host can choose.
///
/// # Errors
///
/// As [`open_log`].
pub fn open_log_with<D: Disk>(
    disk: &D,
    id: NodeId,
    address: &str,
    options: LogOptions,
) -> Result<(LogStore<D>, Loaded), NodeError> {
    if [FIRST_ID, BOOTSTRAP_ID].contains(&id.0) {
        let server = Server { id, address: address.to_owned(), role: Role::Voter };
        disk::bootstrap(disk, &Configuration { servers: vec![server] }).map_err(|error| match error {
            DiskError::Locked => NodeError::Locked,
            error => NodeError::Bootstrap(error),
        })?;
    }
    LogStore::open(disk.clone(), options).map_err(|error| match error {
        LoadError::Disk(DiskError::Locked) => NodeError::Locked,
        error => NodeError::Load(error),
    })
}

/// Fills the databases from the newest snapshot, if there is one; what follows it comes out of the log.
///
/// # Errors
///
/// When the snapshot cannot be read or is no set of databases.
pub fn restore_databases<D: Disk>(disk: &D, vfs: &Vfs, loaded: &Loaded) -> Result<(), NodeError> {
    let Some(snapshot) = &loaded.snapshot else { return Ok(()) };
    let payload = disk::read_snapshot(disk, snapshot).map_err(|error| NodeError::Load(error.into()))?;
    restore_payload(vfs, &payload)
        .map_err(|reason| NodeError::Restore(format!("snapshot at index {}: {reason}", snapshot.index)))
}

/// Settings of the replica that follow from those of a node. The seed decides the election timeouts.
#[must_use]
pub fn replica_config(id: NodeId, address: &str, options: &NodeOptions, seed: u64) -> Config {
    Config {
        election_timeout_ms: options.election_timeout_ms(),
        heartbeat_timeout_ms: options.heartbeat_timeout_ms(),
        seed,
        snapshot_threshold: u64::from(options.snapshot_threshold()),
        snapshot_rule: match options.snapshot_params_are_set() {
            true => SnapshotRule::Threshold,
            false => SnapshotRule::BySize,
        },
        snapshot_trailing: u64::from(options.snapshot_trailing()),
        trailing_strategy: match options.trailing_strategy() {
            options::TrailingStrategy::Static => TrailingStrategy::Static,
            options::TrailingStrategy::Dynamic => TrailingStrategy::Dynamic,
        },
        snapshot_check: check_payload,
        ..Config::new(id, address)
    }
}

/// The sans-io node, its databases filled by [`restore_databases`] from the same `loaded`.
///
/// # Errors
///
/// When what was loaded contradicts itself.
pub fn core(
    config: Config,
    loaded: Loaded,
    vfs: Arc<Vfs>,
    live: Arc<LiveOptions>,
    now_ms: u64,
) -> Result<Core, NodeError> {
    let config = Config { no_vote_until: loaded.no_vote_until, damaged_in: loaded.damaged_in, ..config };
    let memory = live.memory_rules();
    let core_config = CoreConfig { id: config.id, address: config.address.clone(), memory };
    let replica = Replica::new(config, loaded, now_ms).map_err(NodeError::Replica)?;
    Ok(Core::new(core_config, replica, vfs, live))
}
