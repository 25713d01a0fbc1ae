//! Anything at all on the socket of a live node: it stays up, serves good clients, and keeps its memory.
//!
//! C dqlite 1.18.6 aborts, hangs or leaks on many of these bytes; `defects_requests.rs` has them one by one. Each run
//! prints its seed: `FUZZ_SEED=n cargo test --test defects_fuzz` repeats the bytes, though not their timing;
//! `FUZZ_SECONDS=n` makes it last.
#![allow(clippy::unwrap_used, reason = "a failure of a helper is a failure of the test")]

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::BytesMut;
use common::raw::{
    RawClient, exec_sql, exec_sql_with, header, message, open_request, prepare, query_sql, text_field,
};
use common::{ENDLESS, ENDLESS_INSERT, TestNode, eventually, memory, sockets, text};
use server::NodeId;
use server::client::{Client, ClientError};
use wire_protocol::rpc::{self, AppendEntriesResult, RequestVote, RequestVoteResult, TimeoutNow};
use wire_protocol::{LogIndex, Params, Request, Term, Value};

const MIB: u64 = 1 << 20;
const FUZZERS: u64 = 6;

/// A small generator of its own, so that a seed means the same for ever.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `bound`, which is not 0.
    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next().to_le_bytes()[0]).collect()
    }

    /// A number that tends to be on an edge.
    fn number(&mut self) -> u64 {
        let edges =
            [0, 1, 2, 3, 7, 8, 255, 1 << 31, u64::from(u32::MAX), 1 << 32, 1 << 62, 1 << 63, u64::MAX];
        match self.below(3) {
            0 => self.next(),
            1 => self.next() % 16,
            _ => *self.pick(&edges),
        }
    }
}

/// A conversation as a client might have it, one encoded message each.
fn conversation(random: &mut Random) -> Vec<Vec<u8>> {
    let values = [
        Value::Integer(1),
        Value::Float(0.5),
        text("some text"),
        Value::Blob(vec![7; 20].into()),
        Value::Null,
    ];
    let params = Params::new(&values);
    let id = || NodeId(2);
    let requests = [
        Request::Leader,
        Request::Client { id: 1 },
        open_request(b"test"),
        exec_sql("CREATE TABLE IF NOT EXISTS t (n INTEGER, a, b, c, d)"),
        prepare("INSERT INTO t VALUES (?, ?, ?, ?, ?)"),
        prepare("SELECT * FROM t LIMIT 100"),
        Request::Exec { database: 0, statement: 0, params },
        Request::Query { database: 0, statement: 1, params: Params::none() },
        exec_sql_with("BEGIN; INSERT INTO t (n, a) VALUES (?, ?); SAVEPOINT s; COMMIT", &values[..2]),
        query_sql("SELECT count(*), max(n), hex(a) FROM t, t AS u WHERE u.rowid < 5"),
        query_sql("INSERT INTO t (n) VALUES (1), (2) RETURNING n, a"),
        exec_sql("INSERT INTO t (n) VALUES (3) RETURNING n"),
        exec_sql("DELETE FROM t WHERE rowid % 3 = 0; PRAGMA user_version = 7; VACUUM"),
        exec_sql("BEGIN IMMEDIATE; PRAGMA delete_database; COMMIT"),
        query_sql(ENDLESS),
        Request::Interrupt,
        exec_sql(ENDLESS_INSERT),
        Request::Interrupt,
        Request::Finalize { database: 0, statement: 0 },
        Request::Dump { name: "test".into() },
        Request::Cluster { format: 1 },
        Request::Describe { format: 0, announcement: None },
        Request::Weight { weight: 3 },
        Request::Add { id: id(), address: "@fuzz-nobody".to_owned() },
        Request::Assign { id: id(), role: 1 },
        Request::Remove { id: id() },
        Request::Transfer { id: NodeId(0) },
    ];
    let mut messages = Vec::new();
    for request in requests {
        if random.below(4) > 0 {
            let mut encoded = BytesMut::new();
            request.encode(&mut encoded);
            messages.push(encoded.to_vec());
        }
    }
    messages
}

/// What a peer might say, but for what only a leader may: its word is law.
fn peer_talk(random: &mut Random) -> Vec<Vec<u8>> {
    let mut connect = random.number().to_le_bytes().to_vec();
    connect.extend(text_field(b"@fuzz-nobody"));
    let mut messages = vec![message(11, 0, &connect)];
    for _ in 0..random.below(8) {
        let term = Term(random.next() % 1000);
        let message = match random.below(5) {
            0 => rpc::Message::AppendEntriesResult(AppendEntriesResult {
                term,
                rejected: LogIndex(random.number()),
                last_log_index: LogIndex(random.number()),
                features: Some(random.number()),
            }),
            1 => rpc::Message::RequestVote(RequestVote {
                term,
                candidate_id: NodeId(random.number()),
                last_log_index: LogIndex(random.number()),
                last_log_term: Term(random.number()),
                disrupt_leader: random.below(2) == 0,
                pre_vote: random.below(2) == 0,
            }),
            2 => rpc::Message::RequestVoteResult(RequestVoteResult {
                term,
                vote_granted: random.below(2) == 0,
                pre_vote: Some(random.below(2) == 0),
            }),
            3 => rpc::Message::TimeoutNow(TimeoutNow {
                term,
                last_log_index: LogIndex(random.number()),
                last_log_term: Term(random.number()),
            }),
            _ => {
                messages.push(random.bytes(64));
                continue;
            }
        };
        let mut encoded = BytesMut::new();
        message.encode(&mut encoded);
        messages.push(encoded.to_vec());
    }
    messages
}

/// Damages a conversation in some places.
fn mutate(random: &mut Random, messages: &mut Vec<Vec<u8>>) {
    for _ in 0..random.below(10) {
        if messages.is_empty() {
            return;
        }
        let at = random.below(messages.len());
        let number = random.number().to_le_bytes();
        let mut raw = random.bytes(16);
        let message = &mut messages[at];
        match random.below(9) {
            0 => message.truncate(random.below(message.len() + 1)),
            1 => message.append(&mut raw),
            2 => {
                let copy = message.clone();
                messages.push(copy);
            }
            3 => {
                messages.remove(at);
            }
            4 => {
                let other = random.below(messages.len());
                messages.swap(at, other);
            }
            // A field of the header: words, type or schema.
            5 if message.len() >= 8 => {
                let byte = *random.pick(&[0, 1, 3, 4, 5]);
                message[byte] = *random.pick(&number);
            }
            // A word of the body.
            6 | 7 if message.len() >= 16 => {
                let word = 8 * (1 + random.below(message.len() / 8 - 1));
                message[word..word + 8].copy_from_slice(&number);
            }
            _ if !message.is_empty() => {
                let byte = random.below(message.len());
                message[byte] ^= 1 << random.below(8);
            }
            _ => {}
        }
    }
}

/// One connection full of nonsense.
fn attack(random: &mut Random, address: &str) {
    let mut bytes = Vec::new();
    let messages = match random.below(6) {
        0 => {
            let len = random.below(2000);
            vec![random.bytes(len)]
        }
        1 => (0..random.below(20))
            .map(|_| {
                let words = u8::try_from(random.below(40)).unwrap();
                let [kind, schema] =
                    [u8::try_from(random.below(22)).unwrap(), *random.pick(&[0, 0, 1, 2, 255])];
                let mut message = header(u32::from(words), kind, schema).to_vec();
                message.extend(random.bytes(8 * usize::from(words)));
                message
            })
            .collect(),
        2 => {
            let mut messages = peer_talk(random);
            mutate(random, &mut messages);
            messages
        }
        _ => {
            let mut messages = conversation(random);
            mutate(random, &mut messages);
            messages
        }
    };
    let greeting: u64 =
        if random.below(20) == 0 { random.next() } else { *random.pick(&[1, 0x8610_4dd7_6043_3fe5]) };
    bytes.extend(greeting.to_le_bytes());
    messages.iter().for_each(|message| bytes.extend(message));

    let mut client = RawClient::dial(address);
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let (now, later) = rest.split_at(1 + random.below(rest.len()));
        if !client.try_send(now) {
            return;
        }
        rest = later;
    }
    match random.below(4) {
        0 => {}
        1 => {
            client.half_close();
            client.drain(Duration::from_millis(20));
        }
        _ => client.drain(Duration::from_millis(u64::try_from(random.below(15)).unwrap() + 1)),
    }
}

/// Does honest work until told to stop; returns how many of its writes were acknowledged.
fn honest_client(node: &TestNode, stop: &AtomicBool) -> u64 {
    let open = || -> Result<Client, ClientError> {
        let mut client = node.connect();
        client.open("good")?;
        Ok(client)
    };
    let mut acknowledged = 0;
    let mut client = None;
    while !stop.load(Ordering::Relaxed) {
        let result = match client.as_mut() {
            Some(open) => work(open, acknowledged).map(|()| acknowledged += 1),
            None => open().map(|opened| client = Some(opened)),
        };
        match result {
            Ok(()) => {}
            // The peers among the attackers depose the leader now and then.
            Err(ClientError::Failure { code: 10250 | 10506 | 12, .. }) => {
                client = None;
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) => panic!("an honest client got: {error}"),
        }
    }
    acknowledged
}

fn work(client: &mut Client, round: u64) -> Result<(), ClientError> {
    client.exec_sql("CREATE TABLE IF NOT EXISTS g (n INTEGER PRIMARY KEY, v INTEGER)", &[])?;
    let key = [Value::Integer(i64::try_from(round % 50).unwrap())];
    client.exec_sql("INSERT INTO g VALUES (?, 1) ON CONFLICT (n) DO UPDATE SET v = v + 1", &key)?;
    let rows = client.query_sql("SELECT v > 0 FROM g WHERE n = ?", &key)?.rows;
    assert_eq!(rows, [[Value::Integer(1)]]);
    Ok(())
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

#[test]
fn any_bytes_leave_the_node_as_it_was() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = setting("FUZZ_SEED", now.as_secs());
    let duration = Duration::from_secs(setting("FUZZ_SECONDS", 8));
    println!("FUZZ_SEED={seed}");
    let mut node = TestNode::start_tcp(1, |_| {});
    let before = sockets();
    let stop = AtomicBool::new(false);
    let attacks = AtomicU64::new(0);
    let rss_early = AtomicU64::new(0);
    let acknowledged = std::thread::scope(|scope| {
        let honest = scope.spawn(|| honest_client(&node, &stop));
        for fuzzer in 0..FUZZERS {
            let mut random = Random(seed ^ (fuzzer << 56));
            let (node, stop, attacks) = (&node, &stop, &attacks);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    attack(&mut random, &node.address);
                    attacks.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let begin = Instant::now();
        while begin.elapsed() < duration && !honest.is_finished() {
            std::thread::sleep(Duration::from_millis(50));
            if begin.elapsed() > duration / 4 && rss_early.load(Ordering::Relaxed) == 0 {
                rss_early.store(memory("VmRSS"), Ordering::Relaxed);
            }
        }
        stop.store(true, Ordering::Relaxed);
        honest.join().unwrap()
    });
    let attacks = attacks.into_inner();
    let rss_early = rss_early.into_inner();
    let grown = memory("VmRSS").saturating_sub(rss_early);
    println!("{attacks} attacks, {acknowledged} rounds of honest work, memory {rss_early} + {grown} bytes");
    assert!(attacks > 100 && acknowledged > 0, "{attacks} attacks, {acknowledged} rounds");
    assert!(grown < 128 * MIB, "{grown} bytes");
    eventually("all connections are closed", || sockets() <= before + 2);

    let check = |node: &TestNode| {
        let mut client = None;
        eventually("a leader", || {
            let mut candidate = node.connect();
            let opened = candidate.open("good").is_ok();
            client = Some(candidate);
            opened
        });
        let mut client = client.unwrap();
        let rows = client.query_sql("SELECT sum(v) FROM g", &[]).unwrap().rows;
        let Value::Integer(sum) = rows[0][0] else { panic!("{rows:?}") };
        assert!(u64::try_from(sum).unwrap() >= acknowledged, "{sum} of {acknowledged} writes");
        assert_eq!(common::one(&mut client, "PRAGMA integrity_check"), text("ok"));
        client.exec_sql("INSERT INTO g VALUES (1000, 0) ON CONFLICT DO NOTHING", &[]).unwrap();
    };
    check(&node);
    node.stop();
    node.restart();
    check(&node);
}
