//! What clients do. `kine` stands in a file of its own.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use wire_protocol::Value;

use crate::kine::Kine;
use crate::random::{Random, Values};
use crate::session::{Answer, Call};

/// Rows of the kv table, and so the number of keys.
const KEYS: usize = 10_000;
const VALUE_LEN: usize = 1024;
const SMOKE_VALUE_LEN: usize = 100;
const STATEMENTS_PER_TRANSACTION: usize = 5;
const KEYS_PER_SET_UP: usize = 1000;

/// Names of the loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Load {
    /// `INSERT OR REPLACE` of 1 KiB under one of 10,000 keys.
    KvWrite,
    /// Half of that, half reads of one key.
    KvMixed,
    /// `BEGIN`, five times the write, `COMMIT`: seven requests.
    Transactions,
    /// What kine asks for on behalf of Kubernetes.
    Kine,
    /// Reads of one key.
    Reads,
    /// One `INSERT` of 100 bytes.
    Smoke,
}

impl Load {
    /// Those of `run`.
    pub(crate) const ALL: [Self; 5] =
        [Self::KvWrite, Self::KvMixed, Self::Transactions, Self::Kine, Self::Reads];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::KvWrite => "kv-write",
            Self::KvMixed => "kv-mixed",
            Self::Transactions => "transactions",
            Self::Kine => "kine",
            Self::Reads => "reads",
            Self::Smoke => "smoke",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|load| load.name() == name)
    }

    pub(crate) fn workload(self) -> Box<dyn Workload> {
        let kv = |reads_of_100, transaction| {
            Box::new(Kv { values: Values::new(), reads_of_100, transaction }) as Box<dyn Workload>
        };
        match self {
            Self::KvWrite => kv(0, false),
            Self::KvMixed => kv(50, false),
            Self::Transactions => kv(0, true),
            Self::Reads => kv(100, false),
            Self::Kine => Box::new(Kine::new()),
            Self::Smoke => Box::new(Smoke { value: Bytes::from_static(&[b'x'; SMOKE_VALUE_LEN]) }),
        }
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether an operation changes anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// It reads only.
    Read,
    /// It commits a transaction.
    Write,
}

/// What the connection beside the clients does next.
#[derive(Debug)]
pub(crate) enum Background {
    /// There is none.
    Absent,
    /// Nothing, for that long.
    Rest(Duration),
    /// Work that is not counted.
    Work(Vec<Call>),
}

/// The state that all clients of one cluster share.
pub(crate) trait Workload: fmt::Debug {
    /// Run one by one before anything else.
    fn set_up(&self) -> Vec<String>;

    /// What every connection prepares; calls name them by their place.
    fn statements(&self) -> &'static [&'static str];

    /// Puts the requests of one operation into `calls`.
    fn next(&mut self, random: &mut Random, calls: &mut Vec<Call>) -> Class;

    /// Whether operations begin with `BEGIN`, and so have to be rolled back when a later request is refused.
    fn is_transactional(&self) -> bool {
        false
    }

    /// Looks at an answer; an error says what is wrong with it.
    fn answered(&mut self, _call: &Call, _answer: &Answer) -> Result<(), &'static str> {
        Ok(())
    }

    /// Asked whenever the last answer was done with.
    fn background(&mut self) -> Background {
        Background::Absent
    }
}

/// One table of keys and values.
#[derive(Debug)]
struct Kv {
    values: Values,
    reads_of_100: usize,
    transaction: bool,
}

/// The table of the kv loads, also for plain SQLite.
pub(crate) fn kv_set_up() -> Vec<String> {
    let mut sql = vec!["CREATE TABLE kv(key TEXT PRIMARY KEY, value BLOB)".to_owned()];
    sql.extend((0..KEYS).step_by(KEYS_PER_SET_UP).map(|first| {
        format!(
            "WITH RECURSIVE number(n) AS (VALUES({first}) UNION ALL SELECT n + 1 FROM number \
             WHERE n + 1 < {}) INSERT INTO kv SELECT printf('key-%08d', n), randomblob({VALUE_LEN}) FROM number",
            first + KEYS_PER_SET_UP
        )
    }));
    sql
}

pub(crate) const KV_WRITE: &str = "INSERT OR REPLACE INTO kv(key, value) VALUES(?, ?)";
const KV_STATEMENTS: [&str; 4] = [KV_WRITE, "SELECT value FROM kv WHERE key = ?", "BEGIN", "COMMIT"];
const WRITE: usize = 0;
const READ: usize = 1;
const BEGIN: usize = 2;
const COMMIT: usize = 3;

/// Key and value of one write.
pub(crate) fn kv_pair(random: &mut Random, values: &Values) -> (String, Bytes) {
    (key(random), values.cut(random, VALUE_LEN))
}

fn key(random: &mut Random) -> String {
    format!("key-{:08}", random.below(KEYS))
}

impl Kv {
    fn write(&self, random: &mut Random) -> Call {
        let (key, value) = kv_pair(random, &self.values);
        Call::Exec(WRITE, vec![Value::Text(key.into()), Value::Blob(value)])
    }
}

impl Workload for Kv {
    fn set_up(&self) -> Vec<String> {
        kv_set_up()
    }

    fn statements(&self) -> &'static [&'static str] {
        &KV_STATEMENTS
    }

    fn next(&mut self, random: &mut Random, calls: &mut Vec<Call>) -> Class {
        if self.transaction {
            calls.push(Call::Exec(BEGIN, Vec::new()));
            calls.extend((0..STATEMENTS_PER_TRANSACTION).map(|_| self.write(random)));
            calls.push(Call::Exec(COMMIT, Vec::new()));
            return Class::Write;
        }
        if random.below(100) < self.reads_of_100 {
            calls.push(Call::Query(READ, vec![Value::Text(key(random).into())]));
            return Class::Read;
        }
        calls.push(self.write(random));
        Class::Write
    }

    fn is_transactional(&self) -> bool {
        self.transaction
    }

    fn answered(&mut self, _call: &Call, answer: &Answer) -> Result<(), &'static str> {
        match answer {
            Answer::Rows { frame, .. } if frame.body.len() < VALUE_LEN => Err("a read found nothing"),
            _ => Ok(()),
        }
    }
}

#[derive(Debug)]
struct Smoke {
    value: Bytes,
}

impl Workload for Smoke {
    fn set_up(&self) -> Vec<String> {
        vec!["CREATE TABLE kv(k INTEGER PRIMARY KEY, v TEXT)".to_owned()]
    }

    fn statements(&self) -> &'static [&'static str] {
        &["INSERT INTO kv(v) VALUES(?)"]
    }

    fn next(&mut self, _random: &mut Random, calls: &mut Vec<Call>) -> Class {
        calls.push(Call::Exec(0, vec![Value::Text(self.value.clone())]));
        Class::Write
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_loads() {
        for load in Load::ALL {
            assert_eq!(Load::named(load.name()), Some(load));
        }
        assert_eq!(Load::named("smoke"), None);
    }

    #[test]
    fn a_transaction_has_five_statements_between_begin_and_commit() {
        let mut calls = Vec::new();
        let class = Load::Transactions.workload().next(&mut Random::new(1), &mut calls);
        assert_eq!((class, calls.len()), (Class::Write, STATEMENTS_PER_TRANSACTION + 2));
        let places: Vec<usize> =
            calls.iter().map(|Call::Exec(place, _)| Call::Query(place, _) | *place).collect();
        assert_eq!(places, [BEGIN, WRITE, WRITE, WRITE, WRITE, WRITE, COMMIT]);
    }

    #[test]
    fn mixed_is_half_and_half() {
        let mut workload = Load::KvMixed.workload();
        let mut random = Random::new(3);
        let reads =
            (0..10_000).filter(|_| workload.next(&mut random, &mut Vec::new()) == Class::Read).count();
        assert!((4_800..5_200).contains(&reads), "{reads}");
    }
}
