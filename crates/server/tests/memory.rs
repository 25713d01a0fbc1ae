//! What a client's manners cost: forgotten transactions, half a request, answers that nobody reads, memory inside SQLite.
//! Budgets are small here, so that ends come soon; beside each client that misbehaves stands one that does not.
#![allow(clippy::unwrap_used, reason = "a failure of a helper is a failure of the test")]

mod common;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use common::raw::{EXEC_SQL, RawClient, exec_sql, header, query_sql, text_field};
use common::{TestNode, memory, one};
use server::Node;
use server::client::{Client, ClientError};
use wire_protocol::{Response, Value};

const NOMEM: u64 = 7;
const ABORT_ROLLBACK: u64 = 516;
const BUSY_SNAPSHOT: u64 = 517;
const MIB: u64 = 1024 * 1024;

/// What SQLite holds and what the process takes is that of all nodes of the process, so tests run one after another.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[track_caller]
fn code<T: std::fmt::Debug>(result: Result<T, ClientError>) -> u64 {
    match result {
        Err(ClientError::Failure { code, .. }) => code,
        other => panic!("{other:?}"),
    }
}

fn impatient_with_writers(node: &mut Node) {
    let options = node.options_mut().unwrap();
    options.live().set_idle_writer_ms(400);
    options.live().set_busy_timeout_ms(15_000);
}

#[test]
fn a_write_transaction_without_requests_is_rolled_back_once_somebody_waits() {
    let _alone = alone();
    let node = TestNode::start_with(1, impatient_with_writers);
    let mut idle = node.open();
    idle.exec_sql("CREATE TABLE t (n INTEGER)", &[]).unwrap();
    let mut other = node.open();
    // Nobody waits: it may take its time.
    idle.exec_sql("BEGIN IMMEDIATE", &[]).unwrap();
    idle.exec_sql("INSERT INTO t VALUES (1)", &[]).unwrap();
    std::thread::sleep(Duration::from_millis(1000));
    idle.exec_sql("COMMIT", &[]).unwrap();

    for last_words in ["INSERT INTO t VALUES (3)", "COMMIT", "SELECT 1"] {
        idle.exec_sql("BEGIN", &[]).unwrap();
        idle.exec_sql("INSERT INTO t VALUES (2)", &[]).unwrap();
        other.exec_sql("UPDATE t SET n = n + 10", &[]).unwrap();
        // Whatever comes next was meant for the transaction, so it is not run outside of it.
        let error = idle.exec_sql(last_words, &[]).unwrap_err();
        assert!(error.to_string().contains("rolled back"), "{error}");
        assert_eq!(code::<()>(Err(error)), ABORT_ROLLBACK);
        assert_eq!(code(idle.exec_sql("ROLLBACK", &[])), 1, "it is told once");
    }
    idle.exec_sql("INSERT INTO t VALUES (4)", &[]).unwrap();
    let result = other.query_sql("SELECT n FROM t ORDER BY n", &[]).unwrap();
    assert_eq!(result.rows, [[Value::Integer(4)], [Value::Integer(31)]]);
}

#[test]
fn a_write_transaction_with_requests_goes_on_however_long_others_wait() {
    let _alone = alone();
    let node = TestNode::start_with(1, impatient_with_writers);
    let mut busy = node.open();
    busy.exec_sql("CREATE TABLE t (n INTEGER)", &[]).unwrap();
    busy.exec_sql("BEGIN IMMEDIATE", &[]).unwrap();
    let mut other = node.open();
    let waiting = std::thread::spawn(move || other.exec_sql("INSERT INTO t VALUES (0)", &[]));
    let begin = Instant::now();
    let mut longest = Duration::ZERO;
    while begin.elapsed() < Duration::from_millis(1500) {
        let pause = Instant::now();
        std::thread::sleep(Duration::from_millis(20));
        longest = longest.max(pause.elapsed());
        let done = busy.exec_sql("INSERT INTO t VALUES (1)", &[]);
        // On a machine that leaves this thread alone for that long it is idle indeed.
        if longest < Duration::from_millis(300) {
            done.unwrap();
        }
    }
    if longest < Duration::from_millis(300) {
        busy.exec_sql("COMMIT", &[]).unwrap();
    }
    waiting.join().unwrap().unwrap();
}

fn impatient_with_readers(node: &mut Node) {
    let options = node.options_mut().unwrap();
    options.live().set_reader_bytes(4 * MIB);
    options.live().set_reader_age_ms(500);
}

fn large_table(client: &mut Client) {
    client.exec_sql("CREATE TABLE t (a INTEGER PRIMARY KEY, b)", &[]).unwrap();
    let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 200) \
                INSERT INTO t SELECT i, randomblob(3000) FROM n";
    client.exec_sql(fill, &[]).unwrap();
}

#[test]
fn a_forgotten_reader_ends_when_it_keeps_too_much_for_too_long_and_one_that_keeps_little_does_not() {
    let _alone = alone();
    let node = TestNode::start_with(1, impatient_with_readers);
    let mut writer = node.open();
    large_table(&mut writer);
    let mut forgotten = node.open();
    let mut backup = node.connect();
    backup.open("quiet").unwrap();
    backup.exec_sql("CREATE TABLE t (n)", &[]).unwrap();
    for reader in [&mut forgotten, &mut backup] {
        reader.exec_sql("BEGIN", &[]).unwrap();
        reader.query_sql("SELECT count(*) FROM t", &[]).unwrap();
    }
    // Written until it is ended: what it keeps is 4 MiB and what is written in half a second.
    let deadline = Instant::now() + common::TIMEOUT;
    let ended = loop {
        writer.exec_sql("UPDATE t SET b = randomblob(3000)", &[]).unwrap();
        match forgotten.query_sql("SELECT sum(length(b)) FROM t", &[]) {
            Ok(result) => assert_eq!(result.rows, [[Value::Integer(600_000)]]),
            Err(error) => break error,
        }
        assert!(Instant::now() < deadline, "it is never ended");
    };
    assert!(ended.to_string().contains("database is locked: "), "{ended}");
    assert_eq!(code::<()>(Err(ended)), BUSY_SNAPSHOT);
    assert_eq!(
        code(forgotten.query_sql("SELECT sum(length(b)) FROM t", &[])),
        BUSY_SNAPSHOT,
        "until it rolls back"
    );
    forgotten.exec_sql("ROLLBACK", &[]).unwrap();
    assert_eq!(one(&mut forgotten, "SELECT count(*) FROM t"), Value::Integer(200));
    assert_eq!(one(&mut backup, "SELECT count(*) FROM t"), Value::Integer(0));
    backup.exec_sql("COMMIT", &[]).unwrap();
}

fn small_budget(node: &mut Node) {
    node.options_mut().unwrap().live().set_client_memory_bytes(8 * MIB);
}

#[test]
fn unfinished_requests_count_as_they_arrive_and_the_largest_is_refused() {
    let _alone = alone();
    const BODY: usize = 3 * 1024 * 1024;
    let node = TestNode::start_with(1, small_budget);
    let mut honest = node.open();
    honest.exec_sql("CREATE TABLE t (n)", &[]).unwrap();
    // What is only announced costs nothing.
    let announcing: Vec<RawClient> = (0..50)
        .map(|_| {
            let mut client = RawClient::open(&node.address);
            client.send(&header(60 * 1024 * 1024, EXEC_SQL, 0));
            client
        })
        .collect();
    let mut body = 0_u64.to_le_bytes().to_vec();
    body.extend(text_field(b"INSERT INTO t VALUES (1) -- "));
    body.resize(BODY, b' ');
    let body_len = body.len();
    body[body_len - 8..].fill(0);
    let mut clients: Vec<RawClient> = (0..6).map(|_| RawClient::open(&node.address)).collect();
    for client in &mut clients {
        client.send(&header(u32::try_from(BODY / 8).unwrap(), EXEC_SQL, 0));
        client.send(&body[..BODY - 8]);
    }
    let mut refused = 0;
    for client in &mut clients {
        client.send(&body[BODY - 8..]);
        match client.response() {
            Response::Failure { code, message } => {
                assert_eq!(code, NOMEM, "{message:?}");
                refused += 1;
            }
            Response::Result { .. } => {}
            other => panic!("{other:?}"),
        }
        // Its connection goes on.
        assert!(matches!(client.call(&exec_sql("SELECT 1 WHERE 0")), Response::Result { .. }));
    }
    // 18 MiB stood against 8.
    assert!((3..6).contains(&refused), "{refused}");
    assert_eq!(one(&mut honest, "SELECT count(*) FROM t"), Value::Integer(6 - refused));
    drop(announcing);
}

#[test]
fn answers_that_nobody_reads_are_bounded_in_total() {
    let _alone = alone();
    let node = TestNode::start_with(1, small_budget);
    let mut honest = node.open();
    let before = memory("VmRSS");
    let mut silent: Vec<RawClient> = (0..40).map(|_| RawClient::open(&node.address)).collect();
    for client in &mut silent {
        client.request(&query_sql("SELECT zeroblob(3000000)"));
        assert_eq!(one(&mut honest, "SELECT 1"), Value::Integer(1));
    }
    let grown = memory("VmRSS").saturating_sub(before);
    assert!(grown < 60 * MIB, "{grown} bytes for 120 MB of answers and a budget of 8 MiB");
    // The last answer may be more than fits until the node looks at its account again, which it does each tick.
    std::thread::sleep(Duration::from_millis(500));
    // The smaller part is still there and whole; the others end behind whole messages, or within one.
    let whole = silent.iter_mut().filter_map(|client| {
        let frame =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| client.frame_or_end())).ok()??;
        (frame.kind == common::raw::ROWS).then_some(())
    });
    let whole = whole.count();
    assert!((1..=3).contains(&whole), "{whole}");
}

#[test]
fn temporary_tables_in_memory_count_and_their_client_is_told() {
    let _alone = alone();
    let node = TestNode::start_with(1, small_budget);
    let mut honest = node.open();
    let mut greedy = RawClient::open(&node.address);
    for sql in ["PRAGMA temp_store=MEMORY", "CREATE TEMP TABLE t (b)"] {
        greedy.request(&exec_sql(sql));
        greedy.response();
    }
    let deadline = Instant::now() + common::TIMEOUT;
    let told = loop {
        assert!(Instant::now() < deadline, "it is never ended");
        assert_eq!(one(&mut honest, "SELECT 1"), Value::Integer(1));
        // What it is told stands behind the answer to its last request, whether another one can be sent or not.
        let mut insert = BytesMut::new();
        exec_sql("INSERT INTO temp.t VALUES (zeroblob(300000))").encode(&mut insert);
        greedy.try_send(&insert);
        match greedy.response() {
            Response::Failure { code, message } => break (code, message),
            other => assert!(matches!(other, Response::Result { .. }), "{other:?}"),
        }
    };
    let (code, message) = told;
    assert_eq!(code, NOMEM);
    assert!(String::from_utf8_lossy(&message).contains("LIBDQLITE_CLIENT_MEMORY"), "{message:?}");
}

fn budget_for_sorters(node: &mut Node) {
    node.options_mut().unwrap().live().set_client_memory_bytes(32 * MIB);
}

#[test]
fn a_statement_that_fills_memory_while_it_runs_is_ended_and_told() {
    let _alone = alone();
    let node = TestNode::start_with(1, budget_for_sorters);
    let mut honest = node.open();
    let mut greedy = node.open();
    greedy.set_timeout(Duration::from_secs(60));
    greedy.exec_sql("PRAGMA temp_store=MEMORY", &[]).unwrap();
    // Without a bound it would sort gigabytes.
    let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 100000000) \
               SELECT i FROM n ORDER BY hex(zeroblob(100)) || i % 1000";
    let error = greedy.query_sql(sql, &[]).unwrap_err();
    assert!(error.to_string().contains("LIBDQLITE_CLIENT_MEMORY"), "{error}");
    assert_eq!(code::<()>(Err(error)), NOMEM);
    assert_eq!(one(&mut greedy, "SELECT 1"), Value::Integer(1), "the connection goes on");
    assert_eq!(one(&mut honest, "SELECT 1"), Value::Integer(1));
}

#[test]
fn what_many_connections_left_behind_is_given_back() {
    let _alone = alone();
    let node = TestNode::start(1);
    let mut honest = node.open();
    honest.exec_sql("CREATE TABLE t (n)", &[]).unwrap();
    let before = memory("VmRSS");
    let clients: Vec<Client> = (0..800).map(|_| node.open()).collect();
    let during = memory("VmRSS");
    assert!(during > before + 30 * MIB, "{before} {during}");
    drop(clients);
    common::eventually("most of the memory is given back", || {
        memory("VmRSS") < before + (during - before) / 3
    });
    assert_eq!(one(&mut honest, "SELECT count(*) FROM t"), Value::Integer(0));
}
