//! The log on disk, in C dqlite's directory layout: same names, same bytes, both directions.
//!
//! [`LogStore`] is the one writer of a directory; everything else here is formats ([`Disk`] is the only way to bytes)
//! and the decisions of a start after a crash or after damage. See the `README.md` beside this file.
//!
//! Invariants:
//! - an open segment never holds an entry that belongs before the newest published snapshot's successor, since nothing
//!   in it says where it belongs;
//! - entries are acknowledged after their write was synced, and a segment receives nothing before its predecessor is
//!   durable;
//! - the names of two segments never change in one sync of the directory.

mod backup;
mod batch;
mod blocks;
mod bound;
mod bytes_of;
mod checksum;
mod error;
mod examine;
mod extent;
mod file_system;
mod files;
mod identity;
mod image;
mod inspect;
mod log;
mod manifest;
mod memory;
mod metadata;
mod names;
mod offline;
mod os;
mod payload;
mod read_only;
mod repair;
mod retention;
mod segment;
mod snapshot;
mod store;
mod survey;
mod writer;

pub use error::{DiskError, LoadError};
pub use file_system::{DirectoryEntry, Disk, File};
pub use inspect::{
    Inspection, MetadataFile, MetadataRecord, OtherFile, OtherKind, Problem, Segment, SegmentEnd, Severity,
    Snapshot, SnapshotContent, Standing, inspect,
};
pub use memory::{Fault, MemoryDisk, MemoryFile, MemoryLock, Shortage};
pub(crate) use names::{MAX_INDEX, MAX_TERM};
pub use offline::{bootstrap, check_metadata, describe_last_entry, recover};
pub use os::{OsDisk, OsFile, OsLock};
pub use payload::PayloadDatabase;
pub use read_only::{ReadOnly, ReadOnlyFile};
pub use retention::give_up_older_snapshots;
pub use snapshot::{LZ4_MAGIC, discard_snapshot, read_snapshot, write_snapshot};
pub use store::{LogOptions, LogStore, Space};
