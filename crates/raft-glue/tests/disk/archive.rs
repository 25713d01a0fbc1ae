//! The directories written by C dqlite, unpacked into memory.

use golden::Files;
use raft_glue::disk::MemoryDisk;

/// A disk with these files.
pub(crate) fn disk(files: &Files) -> MemoryDisk {
    let disk = MemoryDisk::new(0);
    for (name, content) in files {
        disk.put(name, content);
    }
    disk
}
