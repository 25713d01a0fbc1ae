//! What clients do. `kine` stands in a file of its own.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use wire_protocol::Value;

use crate::kine::Kine;
use crate::random::{Random, Values};
use crate::session::{Answer, Call};

/// Rows of the kv table where a load does not let it grow.
const KEYS: usize = 10_000;
const KEY_LEN: usize = 32;
const VALUE_LEN: usize = 1024;
const SMOKE_VALUE_LEN: usize = 100;
const STATEMENTS_PER_TRANSACTION: usize = 5;
const KEYS_PER_SET_UP: usize = 1000;

/// Names of the loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Load {
    /// `INSERT OR REPLACE` of 1 KiB under a new random key, as go-dqlite's benchmark does.
    KvWrite,
    /// Half of that, half reads of one key.
    KvMixed,
    /// `BEGIN`, five times the write, `COMMIT`: seven requests.
    Transactions,
    /// What kine asks for on behalf of Kubernetes.
    Kine,
    /// Reads of one of 10,000 keys.
    Reads,
    /// `INSERT OR REPLACE` of 1 KiB under one of 10,000 keys: the table does not grow, hardly two writes share a page.
    KvReplace,
    /// One `INSERT` of 100 bytes.
    Smoke,
}

impl Load {
    /// Those of `run`.
    pub(crate) const ALL: [Self; 6] =
        [Self::KvWrite, Self::KvMixed, Self::Transactions, Self::Kine, Self::Reads, Self::KvReplace];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::KvWrite => "kv-write",
            Self::KvMixed => "kv-mixed",
            Self::Transactions => "transactions",
            Self::Kine => "kine",
            Self::Reads => "reads",
            Self::KvReplace => "kv-replace",
            Self::Smoke => "smoke",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|load| load.name() == name)
    }

    /// Whether the database is the bigger the faster a library is: then every measurement begins with an empty one.
    pub(crate) fn grows(self) -> bool {
        matches!(self, Self::KvWrite | Self::KvMixed | Self::Transactions | Self::Smoke)
    }

    pub(crate) fn workload(self) -> Box<dyn Workload> {
        let kv = Kv {
            writes: Writes::new(),
            known: Vec::new(),
            reads_of_100: match self {
                Self::Reads => 100,
                Self::KvMixed => 50,
                _ => 0,
            },
            transaction: self == Self::Transactions,
            fixed: matches!(self, Self::Reads | Self::KvReplace),
        };
        match self {
            Self::Kine => Box::new(Kine::new()),
            Self::Smoke => Box::new(Smoke { value: Bytes::from_static(&[b'x'; SMOKE_VALUE_LEN]) }),
            _ => Box::new(kv),
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

/// The table of the kv loads, also for plain SQLite.
pub(crate) const KV_TABLE: &str = "CREATE TABLE kv(key TEXT, value BLOB, UNIQUE(key))";
/// Its write.
pub(crate) const KV_WRITE: &str = "INSERT OR REPLACE INTO kv(key, value) VALUES(?, ?)";
const KV_STATEMENTS: [&str; 4] = [KV_WRITE, "SELECT value FROM kv WHERE key = ?", "BEGIN", "COMMIT"];
const WRITE: usize = 0;
const READ: usize = 1;
const BEGIN: usize = 2;
const COMMIT: usize = 3;

/// New keys and values for them.
#[derive(Debug)]
pub(crate) struct Writes(Values);

impl Writes {
    pub(crate) fn new() -> Self {
        Self(Values::new())
    }

    /// A key that nobody has used.
    pub(crate) fn key(random: &mut Random) -> Bytes {
        let letter = |_| {
            const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
            LETTERS[random.below(LETTERS.len())]
        };
        (0..KEY_LEN).map(letter).collect()
    }

    pub(crate) fn value(&self, random: &mut Random) -> Bytes {
        self.0.cut(random, VALUE_LEN)
    }
}

/// One table of keys and values.
#[derive(Debug)]
struct Kv {
    writes: Writes,
    /// Keys that were written, unless they are fixed.
    known: Vec<Bytes>,
    reads_of_100: usize,
    transaction: bool,
    /// Whether the table has [`KEYS`] keys from the beginning and no others.
    fixed: bool,
}

impl Kv {
    fn write(&self, random: &mut Random) -> Call {
        let key = if self.fixed { fixed_key(random) } else { Writes::key(random) };
        Call::Exec(WRITE, vec![Value::Text(key), Value::Blob(self.writes.value(random))])
    }

    /// A key that can be found, once there is one.
    fn some_key(&self, random: &mut Random) -> Option<Bytes> {
        if self.fixed {
            return Some(fixed_key(random));
        }
        (!self.known.is_empty()).then(|| self.known[random.below(self.known.len())].clone())
    }
}

fn fixed_key(random: &mut Random) -> Bytes {
    format!("key-{:08}", random.below(KEYS)).into()
}

impl Workload for Kv {
    fn set_up(&self) -> Vec<String> {
        let mut sql = vec![KV_TABLE.to_owned()];
        if self.fixed {
            sql.extend((0..KEYS).step_by(KEYS_PER_SET_UP).map(|first| {
                format!(
                    "WITH RECURSIVE number(n) AS (VALUES({first}) UNION ALL SELECT n + 1 FROM number \
                     WHERE n + 1 < {}) \
                     INSERT INTO kv SELECT printf('key-%08d', n), randomblob({VALUE_LEN}) FROM number",
                    first + KEYS_PER_SET_UP
                )
            }));
        }
        sql
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
        if random.below(100) < self.reads_of_100
            && let Some(key) = self.some_key(random)
        {
            calls.push(Call::Query(READ, vec![Value::Text(key)]));
            return Class::Read;
        }
        calls.push(self.write(random));
        Class::Write
    }

    fn is_transactional(&self) -> bool {
        self.transaction
    }

    fn answered(&mut self, call: &Call, answer: &Answer) -> Result<(), &'static str> {
        match (call, answer) {
            (_, Answer::Rows { frame, .. }) if frame.body.len() < VALUE_LEN => Err("a read found nothing"),
            (Call::Exec(WRITE, values), Answer::Done { .. }) if self.reads_of_100 > 0 => {
                if let Some(Value::Text(key)) = values.first() {
                    self.known.push(key.clone());
                }
                Ok(())
            }
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
            calls.iter().map(|(Call::Exec(place, _) | Call::Query(place, _))| *place).collect();
        assert_eq!(places, [BEGIN, WRITE, WRITE, WRITE, WRITE, WRITE, COMMIT]);
    }

    #[test]
    fn mixed_is_half_and_half() {
        let mut workload = Load::KvMixed.workload();
        let mut random = Random::new(3);
        // Until something was written there is nothing to read.
        let mut calls = Vec::new();
        assert_eq!(workload.next(&mut random, &mut calls), Class::Write);
        workload.answered(&calls[0], &Answer::Done { last_insert_id: 1 }).unwrap();
        let reads =
            (0..10_000).filter(|_| workload.next(&mut random, &mut Vec::new()) == Class::Read).count();
        assert!((4_800..5_200).contains(&reads), "{reads}");
    }
}
