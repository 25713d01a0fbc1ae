//! Data directories that real releases of C dqlite wrote, as the beginning of a cluster.

use std::io::{Cursor, Read};

use raft_glue::disk::{MemoryDisk, recover};
use wire_protocol::Configuration;

/// Releases 1.11 to 1.18, snapshots raw and compressed, with WAL parts and without, several databases, deleted ones.
const ARCHIVES: [(&str, &[u8]); 8] = [
    ("deleted-db", include_bytes!("../../raft-glue/tests/golden/deleted-db.tar.xz")),
    ("recovered", include_bytes!("../../raft-glue/tests/golden/recovered.tar.xz")),
    ("snap-lz4", include_bytes!("../../raft-glue/tests/golden/snap-lz4.tar.xz")),
    ("snap-raw", include_bytes!("../../raft-glue/tests/golden/snap-raw.tar.xz")),
    ("two-dbs", include_bytes!("../../raft-glue/tests/golden/two-dbs.tar.xz")),
    ("typed-closed", include_bytes!("../../raft-glue/tests/golden/typed-closed.tar.xz")),
    ("v1.16.7-wal", include_bytes!("../../raft-glue/tests/golden/v1.16.7-wal.tar.xz")),
    ("v1.18.2", include_bytes!("../../raft-glue/tests/golden/v1.18.2.tar.xz")),
];

/// Number of directories to choose from.
pub(crate) const COUNT: u64 = ARCHIVES.len() as u64;

type Files = Vec<(String, Vec<u8>)>;

/// A directory by its number.
pub(crate) struct Archive {
    pub(crate) name: &'static str,
    files: Files,
}

impl Archive {
    /// Unpacks one.
    pub(crate) fn unpack(number: u64) -> Self {
        let place = usize::try_from(number).unwrap_or(0) % ARCHIVES.len();
        let (name, packed) = ARCHIVES[place];
        Self { name, files: files(packed).unwrap_or_else(|error| panic!("archive {name}: {error}")) }
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

fn files(packed: &[u8]) -> Result<Files, Box<dyn std::error::Error>> {
    let mut unpacked = Vec::new();
    lzma_rs::xz_decompress(&mut Cursor::new(packed), &mut unpacked)?;
    let mut files = Vec::new();
    for entry in tar::Archive::new(unpacked.as_slice()).entries()? {
        let mut entry = entry?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let path = entry.path()?.into_owned();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        files.push((name.to_owned(), content));
    }
    Ok(files)
}
