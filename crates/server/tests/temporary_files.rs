//! A process without a directory for temporary files, such as a container with a read-only root: SQLite's own choice fails,
//! so they lie in the data directory. Needs root, for a mount namespace.
#![allow(clippy::unwrap_used, reason = "a failure of a helper is a failure of the test")]

mod common;

use std::path::Path;
use std::process::Command;

use common::{TIMEOUT, one, skip, unique_address};
use server::Node;
use server::client::Client;
use wire_protocol::Value;

/// Tells the second process of this test where its data lies.
const DIRECTORY: &str = "DQLITE_TEST_DATA_DIRECTORY";
const CANTOPEN: i32 = 14;

#[test]
fn sorting_and_vacuum_work_without_a_writable_temporary_directory() {
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        return sort_and_vacuum(Path::new(&directory));
    }
    let is_allowed =
        Command::new("unshare").args(["-m", "true"]).status().is_ok_and(|status| status.success());
    if !is_allowed {
        return skip("no mount namespace");
    }
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    // What SQLite's `unix` tries, the working directory last. The data and this program may lie below one of them.
    let script = format!(
        "for d in /tmp /var/tmp /usr/tmp; do if [ -d $d ]; then mount --bind $d $d; mount -o remount,bind,ro $d; fi; \
         done; mount --bind \"${DIRECTORY}\" \"${DIRECTORY}\"; mount -o remount,bind,rw \"${DIRECTORY}\"; cd /proc; \
         exec \"$@\""
    );
    let test = "sorting_and_vacuum_work_without_a_writable_temporary_directory";
    let output = Command::new("unshare")
        .args(["-m", "sh", "-ec", &script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(DIRECTORY, directory.path())
        .env_remove("TMPDIR")
        .env_remove("SQLITE_TMPDIR")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("1 passed"), "{text}");
}

fn sort_and_vacuum(directory: &Path) {
    // Without a directory of the host it does not work here, so this test shows something.
    let vfs = vfs::Vfs::register().unwrap();
    let mut connection = vfs.open(&vfs::DatabaseName::new(b"db").unwrap()).unwrap();
    connection.exec_simple(b"CREATE TABLE t(a); INSERT INTO t VALUES(zeroblob(10000))").unwrap();
    let refused = connection.exec_simple(b"CREATE TEMP TABLE u AS SELECT zeroblob(20000000)").unwrap_err();
    assert!([CANTOPEN, 10].contains(&(refused.code & 0xff)), "{refused}");

    let address = unique_address();
    let mut node = Node::create(1, address.clone(), directory.to_owned()).unwrap();
    node.bind(&address).unwrap();
    node.start().unwrap();
    let mut client = Client::connect(&address, TIMEOUT).unwrap();
    client.open("test").unwrap();
    client.exec_sql("CREATE TABLE t (a, b)", &[]).unwrap();
    let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 20000) \
                INSERT INTO t SELECT i, randomblob(500) FROM n";
    client.exec_sql(fill, &[]).unwrap();
    let sorted = "SELECT count(*) FROM (SELECT a FROM t ORDER BY b LIMIT -1 OFFSET 1)";
    assert_eq!(one(&mut client, sorted), Value::Integer(19_999));
    client.exec_sql("VACUUM", &[]).unwrap();
    client.exec_sql("CREATE TEMP TABLE u AS SELECT zeroblob(20000000) AS z", &[]).unwrap();
    assert_eq!(one(&mut client, "SELECT length(z) FROM temp.u"), Value::Integer(20_000_000));
    let names = || {
        let entries = std::fs::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect::<Vec<_>>()
    };
    assert!(!names().iter().any(|name| name.starts_with("tmp-sqlite")), "{:?}", names());
    node.stop().unwrap();

    // What a crash has left goes at the next start.
    std::fs::write(directory.join("tmp-sqlite-1-1"), b"left behind").unwrap();
    let mut node = Node::create(1, address.clone(), directory.to_owned()).unwrap();
    node.bind(&address).unwrap();
    node.start().unwrap();
    assert!(!names().iter().any(|name| name.starts_with("tmp-sqlite")), "{:?}", names());
    node.stop().unwrap();
}
