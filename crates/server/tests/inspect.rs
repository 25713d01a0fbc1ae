//! `dqlite-inspect` on directories of C, on damaged ones, and on that of a running node.
#![allow(clippy::unwrap_used, reason = "a failure of a helper is a failure of the test")]

mod common;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{TestNode, one};
use golden::Files;
use raft_glue::disk::OsDisk;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;
use server::inspect::{self, Arguments, Dump};
use sha2::{Digest, Sha256};

fn read(directory: &Path) -> Files {
    let entries = fs::read_dir(directory).unwrap().map(Result::unwrap);
    entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
}

/// Exit code, standard output, standard error.
fn run(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_dqlite-inspect")).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn json(directory: &Path, options: &[&str]) -> (i32, Value) {
    let (code, out, errors) = run(&[&[directory.to_str().unwrap(), "--json"], options].concat());
    (code, serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out} {errors}")))
}

/// Rows and digest of a SELECT in the form of the archives.
fn digest(connection: &Connection, select: &str) -> (u64, String) {
    let mut statement = connection.prepare(select).unwrap();
    let columns = statement.column_count();
    let mut rows = statement.query([]).unwrap();
    let (mut count, mut text) = (0, String::new());
    while let Some(row) = rows.next().unwrap() {
        for column in 0..columns {
            text.push_str(if column > 0 { "|" } else { "" });
            let hex = |text: &mut String, bytes: &[u8]| {
                bytes.iter().for_each(|byte| write!(text, "{byte:02x}").unwrap());
            };
            match row.get_ref(column).unwrap() {
                ValueRef::Null => text.push('N'),
                ValueRef::Integer(value) => write!(text, "I{value}").unwrap(),
                ValueRef::Real(value) => write!(text, "F{:016x}", value.to_bits()).unwrap(),
                ValueRef::Text(value) => {
                    text.push('T');
                    hex(&mut text, value);
                }
                ValueRef::Blob(value) => {
                    text.push('B');
                    hex(&mut text, value);
                }
            }
        }
        text.push('\n');
        count += 1;
    }
    let sum = Sha256::digest(text.as_bytes());
    (count, sum.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Dumps a database and opens the file as any program would that must not write.
fn dump(directory: &Path, database: &str, file: PathBuf) -> Connection {
    let dump = Some(Dump { database: OsString::from(database), file: file.clone() });
    let arguments = Arguments { directory: directory.to_owned(), check: false, dump, json: false };
    let mut remarks = Vec::new();
    let code = inspect::run(&arguments, &mut Vec::new(), &mut remarks).unwrap();
    let remarks = String::from_utf8(remarks).unwrap();
    assert!(code == 0 && remarks.contains(" pages as of entry "), "{code} {remarks}");
    Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap()
}

#[test]
fn dumps_hold_the_rows_that_c_found() {
    let scratch = tempfile::tempdir().unwrap();
    let mut tables = 0;
    for name in golden::names() {
        let description = golden::description(&name);
        for (folder, files) in golden::unpack(&name) {
            let node = if folder.is_empty() { &description } else { &description["nodes"][&folder] };
            // As of the last entry: what a node finds that becomes the only voter.
            let alone = node.get("databases").or_else(|| node.get("after_recover_ext_as_single_voter"));
            let Some(expected) = alone.and_then(Value::as_object) else { continue };
            let directory = scratch.path().join(format!("{name}{folder}"));
            golden::write(&files, &directory);
            for (database, expected) in expected {
                let file = scratch.path().join(format!("{name}{folder}{database}.dump"));
                let connection = dump(&directory, database, file);
                for (table, expected) in expected.as_object().unwrap() {
                    let found = digest(&connection, expected["select"].as_str().unwrap());
                    let wanted =
                        (expected["rows"].as_u64().unwrap(), expected["sha256"].as_str().unwrap().to_owned());
                    assert_eq!(found, wanted, "{name}/{folder} {database} {table}");
                    tables += 1;
                }
            }
            assert!(read(&directory) == files, "{name}/{folder} was changed");
        }
    }
    assert!(tables >= 40, "{tables}");
}

#[test]
fn a_sound_directory_is_shown_in_both_forms() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path().join("two-dbs");
    let files = &golden::unpack("two-dbs")[""];
    golden::write(files, &directory);
    let (code, report) = json(&directory, &["--check"]);
    assert_eq!(code, 0);
    assert_eq!(
        (&report["term"], &report["vote"], &report["last_index"]),
        (&1.into(), &Value::Null, &97.into())
    );
    assert_eq!((&report["first_index"], &report["databases_as_of"]), (&33.into(), &97.into()));
    let databases = serde_json::json!([
        {"name": "app.db", "pages": 4, "integrity": []},
        {"name": "second", "pages": 2, "integrity": []},
        {"name": "untouched", "pages": 1, "integrity": []},
    ]);
    assert_eq!(report["databases"], databases);
    assert_eq!(report["problems"], serde_json::json!([]));
    let configuration =
        serde_json::json!({"index": 1, "servers": [{"id": 1, "address": "127.0.0.1:9101", "role": "voter"}]});
    assert_eq!(report["configuration"], configuration);
    assert_eq!(report["segments"].as_array().unwrap().len(), 3);
    assert_eq!(report["snapshots"][1]["loaded_at_start"], true);
    assert_eq!(report["snapshots"][1]["databases"][0]["main_bytes"], 16384);

    let (code, text, errors) = run(&[directory.to_str().unwrap()]);
    assert_eq!((code, errors.as_str()), (0, ""));
    let expected = "\
term 1, no vote
  metadata1: version 1, term 1, no vote
log from entry 33 to 97, last term 1
  0000000000000033-0000000000000064: entries 33 to 64 in 32 batches, term 1, 199304 bytes, checksums right
  0000000000000065-0000000000000096: entries 65 to 96 in 32 batches, term 1, 195200 bytes, checksums right
  0000000000000097-0000000000000097: entry 97 in 1 batch, term 1, 8288 bytes, checksums right
snapshots
  snapshot-1-64-2522319: up to entry 64 of term 1, 2411 compressed bytes, 3 databases, whole
  snapshot-1-96-2523208: up to entry 96 of term 1, 3207 compressed bytes, 3 databases, whole, loaded at start
configuration of entry 1
  1 127.0.0.1:9101 voter
databases as of entry 97
  app.db: 4 pages
  second: 2 pages
  untouched: 1 page
other files
  dqlite-lock: lock, 0 bytes
no problems
";
    assert_eq!(text, expected);
    assert!(read(&directory) == *files);
}

#[test]
fn problems_are_explained() {
    let scratch = tempfile::tempdir().unwrap();
    let cases = golden::unpack("damage");
    let place = |name: &str| {
        let directory = scratch.path().join(name);
        golden::write(&cases[name], &directory);
        directory
    };
    let directory = place("open-mid-batch-bad");
    let (code, text, _) = run(&[directory.to_str().unwrap(), "--check"]);
    assert_eq!(code, 1);
    for part in [
        "1. loss: load open segment open-1: entries batch 2 starting at byte 4184: data checksum mismatch",
        "file open-1, byte 4184, from entry 9 on",
        "a start is refused: no other voter has the entries from 9 on",
        "what to do: restore the directory from a backup, or move open-1 out of it to give up all entries from 9 on",
        "databases as of entry 8",
        "sound according to SQLite",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    // Entries are missing, which counts without --check, too.
    assert_eq!(run(&[directory.to_str().unwrap()]).0, 1);
    let file = scratch.path().join("partial");
    let (code, _, remarks) = run(&[directory.to_str().unwrap(), "--dump", "test", file.to_str().unwrap()]);
    assert_eq!(code, 1);
    assert!(remarks.contains("the log is damaged, so later entries are missing"), "{remarks}");

    // Nothing is missing, but something is wrong.
    let directory = place("snap-lz4-cut");
    assert_eq!(run(&[directory.to_str().unwrap()]).0, 0);
    let (code, report) = json(&directory, &["--check"]);
    assert_eq!((code, &report["problems"][0]["severity"]), (1, &"harmless".into()));
    assert_eq!(report["last_index"], 33);

    // The log is sound, its content is not.
    let directory = place("command-not-commit");
    let (code, text, _) = run(&[directory.to_str().unwrap()]);
    assert_eq!(code, 1);
    assert!(text.contains("cannot be applied: frames without a commit are not supported"), "{text}");

    // Every other case is survived, too, and nothing is changed.
    for (name, files) in &cases {
        let directory = place(name);
        let (report, _) = inspect::look(&OsDisk::for_reading(&directory).unwrap()).unwrap();
        assert!(!report.to_json().to_string().is_empty());
        assert!(read(&directory) == *files, "{name} was changed");
    }
    assert_eq!(cases.len(), 66);
}

#[test]
fn a_corrupt_database_is_found_by_sqlite() {
    let node = {
        let mut node = TestNode::start(1);
        let mut client = node.open();
        client.exec_sql("CREATE TABLE t (n INTEGER CHECK (n > 0))", &[]).unwrap();
        // Clients cannot write the schema or raw pages. A row that breaks a constraint is what they can leave behind.
        client.exec_sql("PRAGMA ignore_check_constraints=ON; INSERT INTO t VALUES (-1)", &[]).unwrap();
        node.stop();
        node
    };
    let (code, report) = json(&node.path(), &["--check"]);
    let integrity = report["databases"][0]["integrity"].as_array().unwrap();
    assert!(!integrity.is_empty() && code == 1, "{report}");
    assert_eq!(json(&node.path(), &[]).0, 0, "nobody asked");
}

#[test]
fn a_running_node_is_looked_at_and_not_disturbed() {
    let node = TestNode::start_with(1, |node| {
        let options = node.options_mut().unwrap();
        options.set_snapshot_params_raw(8, 16, 0).unwrap();
    });
    let mut client = node.open();
    client.exec_sql("CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER, b BLOB)", &[]).unwrap();
    let stop = AtomicBool::new(false);
    let looks = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut client = node.open();
            let mut written: i64 = 0;
            while !stop.load(Ordering::Relaxed) {
                written += 1;
                // The database stays small, however fast the machine is.
                let sql = "INSERT OR REPLACE INTO t VALUES (?1 % 64, ?1, randomblob(3000))";
                client.exec_sql(sql, &[wire_protocol::Value::Integer(written)]).unwrap();
            }
            written
        });
        let mut looks = 0;
        let mut known = 0;
        while looks < 8 {
            let file = node.path().parent().unwrap().join(format!("dump-{}-{looks}", std::process::id()));
            let connection = dump(&node.path(), "test", file.clone());
            let newest = "SELECT coalesce(max(n), 0) FROM t";
            let newest: i64 = connection.query_row(newest, [], |row| row.get(0)).unwrap();
            assert!(newest >= known, "{newest} after {known}");
            known = newest;
            fs::remove_file(file).unwrap();
            let (code, report) = json(&node.path(), &["--check"]);
            assert_eq!((code, &report["problems"]), (0, &serde_json::json!([])), "{report}");
            looks += 1;
        }
        stop.store(true, Ordering::Relaxed);
        assert!(writer.join().unwrap() > 0);
        looks
    });
    assert_eq!(looks, 8);
    let written = one(&mut client, "SELECT max(n) FROM t");
    let file = node.path().parent().unwrap().join(format!("dump-{}-last", std::process::id()));
    let connection = dump(&node.path(), "test", file.clone());
    fs::remove_file(file).unwrap();
    let newest: i64 = connection.query_row("SELECT max(n) FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(written, wire_protocol::Value::Integer(newest));
}

#[test]
fn nothing_is_written_into_the_directory_or_over_a_file() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path().join("two-dbs");
    golden::write(&golden::unpack("two-dbs")[""], &directory);
    let shown = directory.to_str().unwrap();
    let dump = |file: &Path, database: &str| run(&[shown, "--dump", database, file.to_str().unwrap()]);

    let (code, _, errors) = dump(&directory.join("x"), "app.db");
    assert!(code == 2 && errors.contains("lies in the data directory"), "{errors}");
    let link = scratch.path().join("link");
    std::os::unix::fs::symlink(&directory, &link).unwrap();
    let (code, _, errors) = dump(&link.join("x"), "app.db");
    assert!(code == 2 && errors.contains("lies in the data directory"), "{errors}");
    let existing = scratch.path().join("existing");
    fs::write(&existing, "mine").unwrap();
    let (code, _, errors) = dump(&existing, "app.db");
    assert!(code == 2 && errors.contains("File exists"), "{errors}");
    assert_eq!(fs::read(&existing).unwrap(), b"mine");
    let (code, _, errors) = dump(&scratch.path().join("y"), "nothing");
    assert!(code == 2 && errors.contains("there is no database nothing; there are"), "{errors}");
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 9);
}

#[test]
fn wrong_usage_is_told_apart_from_wrong_directories() {
    let (code, out, errors) = run(&["--help"]);
    assert_eq!((code, errors.as_str()), (0, ""));
    assert!(out.contains("Which entries are committed does not stand on disk"), "{out}");
    let (code, _, errors) = run(&["/tmp", "--fix"]);
    assert!(code == 2 && errors.contains("there is no option --fix"), "{errors}");
    let (code, _, errors) = run(&["/nonexistent"]);
    assert!(code == 2 && errors.contains("can't stat '/nonexistent'"), "{errors}");
    let empty = tempfile::tempdir().unwrap();
    let (code, out, _) = run(&[empty.path().to_str().unwrap(), "--check"]);
    assert!(code == 0 && out.contains("log without entries"), "{out}");
}
