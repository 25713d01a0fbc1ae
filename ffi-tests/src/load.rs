//! Writers that know what they were told, for tests that end nodes at random moments.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use server::client::{Client, connect_leader};
use wire_protocol::Value;

/// The database that is written to.
pub const DATABASE: &str = "app.db";
/// Makes its table.
pub const SCHEMA: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, s TEXT)";
/// Keys of one writer lie together.
const KEYS_PER_WRITER: i64 = 1 << 32;
/// One attempt to find the leader; a writer that is told to stop meanwhile stops behind it.
const ATTEMPT: Duration = Duration::from_millis(250);
/// SQLITE_BUSY.
const BUSY: u64 = 5;

/// A small generator of numbers that look random; the same seed gives the same ones.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// From `DQLITE_TESTS_SEED`, or from the clock; prints which.
    #[must_use]
    pub fn seeded() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.subsec_nanos());
        let seed = setting("DQLITE_TESTS_SEED", u64::from(now)).max(1);
        println!("DQLITE_TESTS_SEED={seed}");
        Self(seed)
    }

    /// Another generator, for a part with this number; equal seeds and numbers give equal parts.
    #[must_use]
    pub fn fork(&self, part: u64) -> Self {
        let mut fork = Self((self.0 ^ (part + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)).max(1));
        fork.below(2);
        fork
    }

    /// A number from 0 to `bound` - 1.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// A number from the environment.
///
/// # Panics
///
/// When the variable holds something else.
#[must_use]
pub fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name}={value}")))
}

/// Keys a writer was told about, and keys it does not know the fate of.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// Told that they are written.
    pub acknowledged: BTreeSet<i64>,
    /// Written or not.
    pub unknown: BTreeSet<i64>,
}

impl Record {
    /// What several writers know together.
    #[must_use]
    pub fn of_all<'a>(records: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut all = Self::default();
        for record in records {
            all.acknowledged.extend(&record.acknowledged);
            all.unknown.extend(&record.unknown);
        }
        all
    }

    /// Whether what is stored can be the outcome.
    pub fn check(&self, stored: &BTreeSet<i64>) -> Result<(), String> {
        let lost: Vec<&i64> = self.acknowledged.difference(stored).collect();
        if !lost.is_empty() {
            return Err(format!("{} acknowledged rows are lost: {lost:?}", lost.len()));
        }
        let is_known = |key: &&i64| self.acknowledged.contains(key) || self.unknown.contains(key);
        let invented: Vec<&i64> = stored.iter().filter(|key| !is_known(key)).collect();
        if !invented.is_empty() {
            return Err(format!("there are rows nobody wrote: {invented:?}"));
        }
        Ok(())
    }
}

/// Inserts one key after the other until told to stop, reconnecting after every error; `len` is that of a row.
pub fn write(addresses: &[String], writer: i64, len: usize, stop: &AtomicBool) -> Record {
    let mut record = Record::default();
    let mut leader: Option<Client> = None;
    let mut key = writer * KEYS_PER_WRITER;
    while !stop.load(Ordering::Relaxed) {
        let Some(client) = leader.as_mut() else {
            // Nobody may lead for a while; whoever tries again finds the stop sign first.
            leader = connect_leader(addresses, ATTEMPT).ok().and_then(|mut client| {
                client.open(DATABASE).ok()?;
                Some(client)
            });
            continue;
        };
        key += 1;
        let params = [Value::Integer(key), Value::Text(vec![b'x'; len].into())];
        match client.exec_sql("INSERT INTO t(id, s) VALUES(?, ?)", &params) {
            Ok(_) => {
                record.acknowledged.insert(key);
            }
            Err(error) if error.code() == Some(BUSY) => {
                // C's answer to a second writer; nothing was written.
                key -= 1;
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(_) => {
                // Written or not: the next key is another one, so nothing is written twice.
                record.unknown.insert(key);
                leader = None;
            }
        }
    }
    record
}

/// All keys in the table.
pub fn stored_keys(client: &mut Client) -> Result<BTreeSet<i64>, String> {
    client.open(DATABASE).map_err(|error| error.to_string())?;
    let found = client.query_sql("SELECT id FROM t", &[]).map_err(|error| error.to_string())?;
    let key = |row: &Vec<Value>| match row[..] {
        [Value::Integer(key)] => Ok(key),
        _ => Err(format!("a row of {row:?}")),
    };
    found.rows.iter().map(key).collect()
}
