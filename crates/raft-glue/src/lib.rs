//! Consensus without sockets or clock, and the log on disk.
#![forbid(unsafe_code)]

mod types;

pub use types::{Committed, HardState, InstalledSnapshot, Loaded, Persist, SnapshotMetadata};
pub use wire_protocol::{Configuration, Entry, EntryKind, LogIndex, NodeId, Role, Server, Term};
// ---- local stub
#[derive(Clone, Debug)]
pub struct ReadEntries { pub to: NodeId, pub first: LogIndex, pub last: LogIndex, pub max_bytes: usize }
#[derive(Debug)]
pub struct Replica;
#[derive(Debug, thiserror::Error)] #[error("replica")] pub struct ReplicaError;
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrailingStrategy { Static, Dynamic }
pub struct Config { pub id: NodeId, pub address: String, pub election_timeout_ms: u64, pub heartbeat_timeout_ms: u64, pub seed: u64, pub snapshot_threshold: u64, pub snapshot_trailing: u64, pub trailing_strategy: TrailingStrategy, pub max_catch_up_rounds: u32, pub max_catch_up_round_duration_ms: u64, pub log_cache_bytes: usize }
impl Replica { pub fn new(_: Config, _: Loaded, _: u64) -> Result<Self, ReplicaError> { Ok(Self) } }
pub mod disk {
    use super::*; use bytes::Bytes; use std::sync::Arc;
    #[derive(Debug, thiserror::Error)] #[error("disk {0}")] pub struct DiskError(pub String);
    #[derive(Debug, thiserror::Error)] #[error("load {0}")] pub struct LoadError(pub String);
    pub trait Disk: Send + Sync + 'static { }
    #[derive(Debug, Clone)] pub struct OsDisk { dir: Arc<std::path::PathBuf> }
    impl Disk for OsDisk {}
    #[derive(Debug)] pub struct Lock(#[allow(dead_code)] std::fs::File);
    impl OsDisk { pub fn open(dir: &std::path::Path) -> Result<Self, DiskError> { Ok(Self { dir: Arc::new(dir.to_owned()) }) }
      pub fn lock(&self) -> Result<Lock, DiskError> { let f = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(self.dir.join("dqlite-lock")).map_err(|e| DiskError(e.to_string()))?; rustix::fs::flock(&f, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|e| DiskError(e.to_string()))?; Ok(Lock(f)) } }
    #[derive(Clone, Debug)] pub struct Options { pub auto_recovery: bool, pub snapshot_compression: bool, pub block_size: usize, pub snapshot_trailing: u64 }
    pub fn load<D: Disk>(_: &D, _: &Options) -> Result<Loaded, LoadError> { Ok(Loaded::default()) }
    pub fn read_snapshot<D: Disk>(_: &D, _: &SnapshotMetadata) -> Result<Bytes, DiskError> { Ok(Bytes::new()) }
    pub fn bootstrap<D: Disk>(_: &D, _: &Options, _: NodeId, _: &str) -> Result<(), DiskError> { Ok(()) }
    pub fn recover<D: Disk>(_: &D, _: &Options, _: Configuration) -> Result<(), DiskError> { Ok(()) }
    pub fn describe_last_entry<D: Disk>(_: &D, _: &Options) -> Result<(LogIndex, Term), LoadError> { Ok((LogIndex(0), Term(0))) }
    #[derive(Debug)] pub struct LogStore<D> { _d: D }
    impl<D: Disk> LogStore<D> { pub fn open(d: D, _: Options, _: &Loaded) -> Result<Self, DiskError> { Ok(Self { _d: d }) }
      pub fn persist(&mut self, s: Vec<Persist>) -> Result<u64, DiskError> { Ok(s.iter().map(|s| s.number).max().unwrap_or(0)) }
      pub fn snapshot_taken(&mut self, _: &SnapshotMetadata) -> Result<(), DiskError> { Ok(()) }
      pub fn read_entries(&mut self, _: LogIndex, _: LogIndex, _: usize) -> Result<Vec<Entry>, DiskError> { Ok(vec![]) }
      pub fn close(&mut self) -> Result<(), DiskError> { Ok(()) } }
    pub fn write_snapshot<D: Disk>(_: &D, _: &SnapshotMetadata, _: bool, _: u64, p: &mut dyn Iterator<Item = Bytes>, _: u64) -> Result<(), DiskError> { p.for_each(drop); Ok(()) }
}
