//! Temporary files: counted, bounded together, and found a place.
#![allow(clippy::unwrap_used, reason = "a failure of a helper is a failure of the test")]

mod common;

use common::*;
use libsqlite3_sys as ffi;
use vfs::{Options, Vfs};

const MIB: u64 = 1024 * 1024;

fn with_limit(limit_bytes: u64) -> Vfs {
    let mut options = Options::default();
    options.max_temporary_bytes = limit_bytes;
    Vfs::register_with(options).unwrap()
}

/// Sorts so many MiB, in a sorter that has to write them to files. SQLite writes the same rows to several files.
fn sort(mib: u64) -> String {
    format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {}) \
         SELECT count(*) FROM (SELECT randomblob(1000) AS b FROM n ORDER BY b LIMIT -1 OFFSET 1)",
        mib * 1024
    )
}

#[test]
fn what_needs_more_than_the_limit_fails_and_everything_is_given_back() {
    let vfs = with_limit(32 * MIB);
    let mut connection = vfs.open(&name("db")).unwrap();
    assert_eq!(rows(&mut connection, &sort(3)), [(3 * 1024 - 1).to_string()]);
    assert_eq!(vfs.temporary_bytes(), 0, "given back at the end");
    assert_eq!(fails(&mut connection, &sort(48)).code, ffi::SQLITE_FULL);
    assert_eq!(vfs.temporary_bytes(), 0);
    exec(&mut connection, "CREATE TABLE t(a); INSERT INTO t VALUES(zeroblob(40000000))");
    let error = fails(&mut connection, "VACUUM");
    assert_eq!(error.code & 0xff, ffi::SQLITE_FULL, "{error}");
    assert_eq!(rows(&mut connection, "SELECT length(a) FROM t"), ["40000000"]);
    exec(&mut connection, "DELETE FROM t; VACUUM");
    assert_eq!(vfs.temporary_bytes(), 0);
}

#[test]
fn the_limit_is_that_of_all_connections_together() {
    let vfs = with_limit(32 * MIB);
    let mut first = vfs.open(&name("db")).unwrap();
    let mut second = vfs.open(&name("db")).unwrap();
    exec(&mut first, "CREATE TEMP TABLE t(a); INSERT INTO temp.t VALUES(zeroblob(30000000))");
    assert!(vfs.temporary_bytes() > 25 * MIB, "{}", vfs.temporary_bytes());
    assert_eq!(fails(&mut second, &sort(3)).code, ffi::SQLITE_FULL);
    assert_eq!(rows(&mut first, "SELECT length(a) FROM temp.t"), ["30000000"], "what is there stays");
    drop(first);
    assert_eq!(vfs.temporary_bytes(), 0);
    assert_eq!(rows(&mut second, &sort(3)).len(), 1);
}
