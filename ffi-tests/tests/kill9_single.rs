//! SIGKILL to a node that is alone, under load and while it starts: it always starts again, and what a client was told
//! is written stays written, once.
//!
//! `DQLITE_TESTS_SINGLE_KILLS` sets how many (200 without it), `DQLITE_TESTS_SEED` repeats the choices of an earlier run.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ffi_tests::Scratch;
use ffi_tests::load::{DATABASE, Random, Record, SCHEMA, setting, stored_keys, write};
use ffi_tests::node::{Library, Node, node_program};
use wire_protocol::Value;

const WRITERS: i64 = 3;
/// Long enough for several pages, so that entries differ in size.
const ROW_LENS: [usize; 4] = [10, 200, 5000, 60_000];
/// A snapshot every few entries, and hardly any entries behind it: most kills hit files that are being replaced.
const OPTIONS: [&str; 2] = ["latency=10", "snapshot=8,8"];

/// One life of the node: it is written to until it is killed.
fn live(node: &mut Node, life: i64, len: usize, after: Duration) -> Record {
    let addresses = [node.bind.clone()];
    let stop = AtomicBool::new(false);
    let records: Vec<Record> = std::thread::scope(|scope| {
        let (addresses, stop) = (&addresses, &stop);
        let writer = |number| scope.spawn(move || write(addresses, number, len, stop));
        let writers: Vec<_> = (0..WRITERS).map(|number| writer(life * WRITERS + number)).collect();
        std::thread::sleep(after);
        let alive = node.check_alive();
        node.kill();
        stop.store(true, Ordering::Relaxed);
        alive.unwrap();
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    Record::of_all(&records)
}

#[test]
fn acknowledged_rows_of_a_single_node_survive_kills() {
    if node_program().is_none() {
        return;
    }
    let kills = setting("DQLITE_TESTS_SINGLE_KILLS", 200);
    let mut random = Random::seeded();
    println!("DQLITE_TESTS_SINGLE_KILLS={kills}");

    let directory = Scratch::new();
    let mut node = Node::new(&Library::ours(), 1, directory.path().join("n1"), &OPTIONS);
    node.start().unwrap();
    let mut client = node.connect().unwrap();
    client.open(DATABASE).unwrap();
    client.exec_sql(SCHEMA, &[]).unwrap();
    let mut record = Record::default();
    let mut during_start = 0;
    let mut done = 0;
    while done < kills {
        let len = ROW_LENS[usize::try_from(random.below(4)).unwrap()];
        let after = Duration::from_millis(random.below(150));
        let written = live(&mut node, i64::try_from(done).unwrap(), len, after);
        record = Record::of_all([&record, &written]);
        done += 1;
        while random.below(4) == 0 && done < kills {
            node.kill_while_starting(Duration::from_micros(random.below(30_000))).unwrap();
            during_start += 1;
            done += 1;
        }
        node.start().unwrap_or_else(|error| panic!("after {done} kills: {error}"));
        let stored = stored_keys(&mut node.connect().unwrap()).unwrap();
        record.check(&stored).unwrap_or_else(|error| panic!("after {done} kills: {error}"));
    }
    println!(
        "{done} kills, {during_start} of them during a start; {} rows acknowledged, {} unknown",
        record.acknowledged.len(),
        record.unknown.len()
    );
    assert!(
        record.acknowledged.len() as u64 > kills,
        "hardly anything was written: the kills proved nothing"
    );
    let mut client = node.connect().unwrap();
    client.open(DATABASE).unwrap();
    let check = client.query_sql("PRAGMA integrity_check", &[]).unwrap();
    assert_eq!(check.rows, [[Value::Text("ok".into())]]);
    let names = std::fs::read_dir(&node.directory).unwrap();
    let aside = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let aside: Vec<String> = aside.filter(|name| name.starts_with("corrupt-")).collect();
    assert!(aside.is_empty(), "a kill looked like damage: {aside:?}");
    node.stop().unwrap();
}
