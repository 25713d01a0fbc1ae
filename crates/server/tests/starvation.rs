//! What some clients run, and what another one feels of it.
//!
//! Each scenario keeps a node as busy as it can, while another client reads one row and writes one row over and over. The
//! machine may be busy with other things, so each has three attempts to stay below the bound; nothing explains a stall of
//! seconds. Without threads that replace occupied ones the probe never gets an answer.
#![allow(clippy::unwrap_used, reason = "a failure of a helper is a failure of the test")]

mod common;

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use common::raw::{RawClient, exec_sql, open_request, prepare, query_sql};
use common::{ENDLESS, ENDLESS_INSERT, TestNode};
use server::client::Client;
use wire_protocol::{Request, Response, Value};

/// Of a read of one row, and of a write of one row to a database that nobody else writes.
const P99: Duration = Duration::from_millis(100);
const STALL: Duration = Duration::from_secs(2);
const MEASURED: Duration = Duration::from_secs(3);
const ATTEMPTS: usize = 3;

/// Each test measures the processors.
static ALONE: Mutex<()> = Mutex::new(());

struct Probe(Client);

impl Probe {
    fn new(node: &TestNode) -> Self {
        let mut client = node.connect();
        client.open("probe").unwrap();
        client.exec_sql("CREATE TABLE p (id INTEGER PRIMARY KEY, v TEXT)", &[]).unwrap();
        client.exec_sql("INSERT INTO p VALUES (1, 'one')", &[]).unwrap();
        Self(client)
    }

    /// Sorted latencies of some seconds.
    fn latencies(&mut self) -> Vec<Duration> {
        let begun = Instant::now();
        let mut latencies = Vec::new();
        while begun.elapsed() < MEASURED {
            let started = Instant::now();
            let read = self.0.query_sql("SELECT v FROM p WHERE id = ?", &[Value::Integer(1)]).unwrap();
            latencies.push(started.elapsed());
            assert_eq!(read.rows.len(), 1);
            let started = Instant::now();
            self.0.exec_sql("INSERT INTO p (v) VALUES ('another')", &[]).unwrap();
            latencies.push(started.elapsed());
            std::thread::sleep(Duration::from_millis(1));
        }
        latencies.sort();
        latencies
    }

    fn is_served(&mut self, what: &str) {
        for attempt in 1..=ATTEMPTS {
            let latencies = self.latencies();
            let (p99, most) = (latencies[latencies.len() * 99 / 100], latencies[latencies.len() - 1]);
            println!("{what}: {} requests, p99 {p99:?}, most {most:?}", latencies.len());
            assert!(most < STALL, "{what}: {most:?}");
            if p99 < P99 {
                return;
            }
            assert!(attempt < ATTEMPTS, "{what}: p99 {p99:?} in the last of {ATTEMPTS} attempts");
        }
    }
}

fn client(node: &TestNode, number: usize) -> RawClient {
    let mut client = RawClient::connect(&node.address);
    let name = format!("long-{number}");
    assert_eq!(client.call(&open_request(name.as_bytes())), Response::Database { id: 0 });
    client
}

/// Clients with databases of their own that have sent these requests, and nothing of an answer is awaited.
fn busy(node: &TestNode, count: usize, request: &Request) -> Vec<RawClient> {
    let mut clients: Vec<RawClient> = (0..count).map(|number| client(node, number)).collect();
    for client in &mut clients {
        assert!(matches!(client.call(&exec_sql("CREATE TABLE t (n INTEGER)")), Response::Result { .. }));
    }
    clients.iter_mut().for_each(|client| client.request(request));
    clients
}

/// Processor time of this process so far.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap())
}

/// What clients have left behind ends within a second of the measurement; `slack` is for a busy machine.
fn comes_to_rest() {
    common::eventually("nobody's statements end", || {
        let before = processor_time();
        std::thread::sleep(Duration::from_millis(300));
        processor_time() - before < Duration::from_millis(100)
    });
}

#[test]
fn endless_reads_leave_reads_and_writes_of_others_alone() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for count in [12, 40] {
        let node = TestNode::start(1);
        let mut probe = Probe::new(&node);
        let clients = busy(&node, count, &query_sql(ENDLESS));
        probe.is_served(&format!("{count} endless reads"));
        drop(clients);
        comes_to_rest();
        probe.is_served("nothing");
    }
}

#[test]
fn endless_writes_to_other_databases_leave_reads_and_writes_of_others_alone() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let node = TestNode::start(1);
    let mut probe = Probe::new(&node);
    let clients = busy(&node, 12, &exec_sql(ENDLESS_INSERT));
    probe.is_served("12 endless writes");
    drop(clients);
    comes_to_rest();
}

/// As many table expressions, each of the one before, as take the compiler a quarter of a second.
fn long_to_compile() -> String {
    let mut sql = "WITH c0 AS (SELECT 1 AS a)".to_owned();
    for number in 1..800 {
        sql += &format!(", c{number} AS (SELECT * FROM c{})", number - 1);
    }
    sql + " SELECT * FROM c799"
}

/// Runs `requests` of each of `count` clients, one after the other, for as long as the probe looks.
fn again_and_again(count: usize, request: &Request, what: &str) {
    let node = TestNode::start(1);
    let mut probe = Probe::new(&node);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for number in 0..count {
            let mut client = client(&node, number);
            let done = &done;
            scope.spawn(move || {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    client.request(request);
                    client.frame();
                }
            });
        }
        let served = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| probe.is_served(what)));
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        if let Err(panic) = served {
            std::panic::resume_unwind(panic);
        }
    });
}

#[test]
fn long_compilations_leave_reads_and_writes_of_others_alone() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    again_and_again(12, &prepare(&long_to_compile()), "12 long compilations");
}

#[test]
fn large_random_blobs_leave_reads_and_writes_of_others_alone() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    again_and_again(2, &query_sql("SELECT length(randomblob(200000000))"), "2 large random blobs");
}
