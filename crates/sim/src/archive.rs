//! Data directories that real releases of C dqlite wrote, as the beginning of a cluster.

use golden::Files;
use raft_glue::disk::{MemoryDisk, recover};
use wire_protocol::Configuration;

/// Of one node, and small: releases 1.11 to 1.18, snapshots raw and compressed, with WAL parts and without, several
/// databases, deleted ones.
const ARCHIVES: [&str; 8] =
    ["deleted-db", "recovered", "snap-lz4", "snap-raw", "two-dbs", "typed-closed", "v1.16.7-wal", "v1.18.2"];

/// Number of directories to choose from.
pub(crate) const COUNT: u64 = ARCHIVES.len() as u64;

/// A directory by its number.
pub(crate) struct Archive {
    pub(crate) name: &'static str,
    files: Files,
}

impl Archive {
    /// Unpacks one.
    pub(crate) fn unpack(number: u64) -> Self {
        let place = usize::try_from(number).unwrap_or(0) % ARCHIVES.len();
        let name = ARCHIVES[place];
        let files = golden::unpack(name).remove("").unwrap_or_default();
        assert!(!files.is_empty(), "archive {name} holds the directory of one node");
        Self { name, files }
    }

    /// Fills an empty disk, and gives it to a cluster in the way that the manual gives: by a recovery with the same
    /// members on all nodes.
    pub(crate) fn fill(&self, disk: &MemoryDisk, configuration: &Configuration) {
        for (name, content) in &self.files {
            disk.put(name, content);
        }
        recover(disk, configuration).unwrap_or_else(|error| panic!("archive {}: {error}", self.name));
    }
}
