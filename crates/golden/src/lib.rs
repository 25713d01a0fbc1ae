//! Data directories that real releases of C dqlite wrote, for tests and the simulator. See the README of this crate.
//!
//! The archives are part of the project, so one that cannot be read is a panic, not an error.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use serde_json::Value;

/// The archive of 66 damaged directories.
pub const DAMAGE: &str = "damage";

/// Names and contents of all files of a directory.
pub type Files = BTreeMap<String, Vec<u8>>;

fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("archives").join(file)
}

fn or_panic<T, E: Display>(what: &str, result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| panic!("golden {what}: {error}"))
}

/// All archives of sound directories by name, sorted: all but [`DAMAGE`].
#[must_use]
pub fn names() -> Vec<String> {
    let entries = or_panic("archives", fs::read_dir(path("")));
    let name = |entry: std::io::Result<fs::DirEntry>| {
        let name = or_panic("archives", entry).file_name();
        name.to_str()?.strip_suffix(".tar.xz").filter(|name| *name != DAMAGE).map(str::to_owned)
    };
    let mut names: Vec<String> = entries.filter_map(name).collect();
    names.sort();
    assert!(names.len() > 4, "{} holds the archives", path("").display());
    names
}

/// What is said of an archive: how it was made, and what must come out.
#[must_use]
pub fn description(name: &str) -> Value {
    let content = or_panic(name, fs::read(path(&format!("{name}.json"))));
    or_panic(name, serde_json::from_slice(&content))
}

/// The directories of an archive by name; the name is empty for files at its top.
#[must_use]
pub fn unpack(name: &str) -> BTreeMap<String, Files> {
    let mut packed = BufReader::new(or_panic(name, fs::File::open(path(&format!("{name}.tar.xz")))));
    let mut unpacked = Vec::new();
    // Its error type says nothing by itself.
    let result = lzma_rs::xz_decompress(&mut packed, &mut unpacked);
    or_panic(name, result.map_err(|error| format!("{error:?}")));
    let mut directories: BTreeMap<String, Files> = BTreeMap::new();
    for entry in or_panic(name, tar::Archive::new(unpacked.as_slice()).entries()) {
        let mut entry = or_panic(name, entry);
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let path = or_panic(name, entry.path()).to_string_lossy().trim_start_matches("./").to_owned();
        let (directory, file) = path.rsplit_once('/').unwrap_or(("", &path));
        let mut content = Vec::new();
        or_panic(name, entry.read_to_end(&mut content));
        directories.entry(directory.to_owned()).or_default().insert(file.to_owned(), content);
    }
    directories
}

/// Writes files into a directory, which is made if need be.
pub fn write(files: &Files, directory: &Path) {
    or_panic("directory", fs::create_dir_all(directory));
    for (name, content) in files {
        or_panic(name, fs::write(directory.join(name), content));
    }
}
