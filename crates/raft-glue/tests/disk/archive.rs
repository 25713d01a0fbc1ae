//! The directories written by C dqlite in `tests/golden`, unpacked into memory.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufReader, Read};
use std::path::PathBuf;

use raft_glue::disk::MemoryDisk;
use serde_json::Value;

/// Files of one directory.
pub(crate) type Files = Vec<(String, Vec<u8>)>;

fn path(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file)
}

/// The description that belongs to an archive.
pub(crate) fn description(name: &str) -> Value {
    serde_json::from_slice(&fs::read(path(&format!("{name}.json"))).unwrap()).unwrap()
}

/// All archives, without ending.
pub(crate) fn archives() -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(path(""))
        .unwrap()
        .filter_map(|entry| Some(entry.unwrap().file_name().to_str()?.strip_suffix(".tar.xz")?.to_owned()))
        .collect();
    names.sort();
    names
}

/// Directories of an archive by name; the name is empty for files at its top.
pub(crate) fn unpack(name: &str) -> BTreeMap<String, Files> {
    let mut packed = BufReader::new(fs::File::open(path(&format!("{name}.tar.xz"))).unwrap());
    let mut unpacked = Vec::new();
    lzma_rs::xz_decompress(&mut packed, &mut unpacked).unwrap();
    let mut directories: BTreeMap<String, Files> = BTreeMap::new();
    for entry in tar::Archive::new(unpacked.as_slice()).entries().unwrap() {
        let mut entry = entry.unwrap();
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let path = entry.path().unwrap().to_str().unwrap().trim_start_matches("./").to_owned();
        let (directory, file) = path.rsplit_once('/').unwrap_or(("", &path));
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        directories.entry(directory.to_owned()).or_default().push((file.to_owned(), content));
    }
    directories
}

/// A disk with these files.
pub(crate) fn disk(files: &Files) -> MemoryDisk {
    let disk = MemoryDisk::new(0);
    for (name, content) in files {
        disk.put(name, content);
    }
    disk
}
