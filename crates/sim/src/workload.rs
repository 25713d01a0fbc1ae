//! Transactions as clients run them: requests one after the other, what they read, and how they ended.

use bytes::Bytes;
use wire_protocol::{Params, Request, Rows, Value};

use crate::history::{Ending, Operation};
use crate::random::Random;
use crate::scenario::Workload;

/// Name of the database that holds the lists.
pub(crate) const LISTS: &str = "lists";
/// Creates what the lists need. Every client tries until it is there.
pub(crate) const CREATE_LISTS: &str =
    "CREATE TABLE IF NOT EXISTS lists (key INTEGER PRIMARY KEY, vals TEXT NOT NULL)";
/// Appends to a list after which its key is not used any more.
const APPENDS_PER_KEY: u64 = 24;
/// Lists in use at a time.
const KEYS_AT_ONCE: u64 = 4;

/// What a step does to the fate of its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// If it fails nothing of the transaction is ever committed.
    Harmless,
    /// From the moment it is sent the transaction may be committed.
    Commit,
}

/// How the rows of a step are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// Not at all.
    Nothing,
    /// As the list of a key.
    List(u64),
}

/// One request of a transaction.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    /// What is sent.
    pub request: Request,
    /// What it means for the transaction.
    pub effect: Effect,
    /// What its rows mean.
    pub reading: Reading,
}

/// A transaction of a client.
#[derive(Clone, Debug)]
pub(crate) struct Transaction {
    /// Its requests.
    pub steps: Vec<Step>,
    /// The next one to send.
    pub next: usize,
    /// What it did to the lists so far.
    pub operations: Vec<Operation>,
    /// Operations that happen when their step succeeds, or may have happened when it is unclear.
    pub appends: Vec<(usize, Operation)>,
    /// Whether it holds a transaction open over several requests.
    pub explicit: bool,
    /// Its steps have nothing to do with each other.
    pub apart: bool,
    /// When its first request was sent.
    pub start_us: u64,
}

/// Makes transactions; knows which values and keys are used up.
#[derive(Debug, Default)]
pub(crate) struct Author {
    next_value: u64,
    appended: u64,
}

impl Author {
    /// A new transaction.
    pub(crate) fn write(&mut self, workload: Workload, random: &mut Random) -> Transaction {
        match workload {
            Workload::Upsert => {
                let mut transaction = Transaction::empty(false);
                self.append(&mut transaction, random, Effect::Commit);
                transaction
            }
            Workload::ListTransaction => self.list_transaction(random),
            Workload::ListReads => {
                let mut transaction = Transaction::empty(false);
                transaction.apart = true;
                for _ in 0..random.between(1, 3) {
                    self.read(&mut transaction, random);
                }
                transaction
            }
        }
    }

    fn list_transaction(&mut self, random: &mut Random) -> Transaction {
        let mut transaction = Transaction::empty(true);
        transaction.exec(if random.percent(70) { "BEGIN IMMEDIATE" } else { "BEGIN" }, &[], Effect::Harmless);
        for _ in 0..random.between(1, 4) {
            if random.percent(50) {
                self.read(&mut transaction, random);
            } else {
                self.append(&mut transaction, random, Effect::Harmless);
            }
        }
        transaction.exec("COMMIT", &[], Effect::Commit);
        transaction
    }

    fn key(&self, random: &mut Random) -> u64 {
        self.appended / APPENDS_PER_KEY + random.below(KEYS_AT_ONCE)
    }

    fn append(&mut self, transaction: &mut Transaction, random: &mut Random, effect: Effect) {
        self.next_value += 1;
        self.appended += 1;
        let (key, value) = (self.key(random), self.next_value);
        let sql = "INSERT INTO lists VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET vals = vals || ',' || excluded.vals";
        let values = [integer(key), text(&value.to_string())];
        transaction.appends.push((transaction.steps.len(), Operation::Append { key, value }));
        transaction.exec(sql, &values, effect);
    }

    fn read(&self, transaction: &mut Transaction, random: &mut Random) {
        let key = self.key(random);
        let request = query_sql("SELECT vals FROM lists WHERE key = ?", &[integer(key)]);
        transaction.steps.push(Step { request, effect: Effect::Harmless, reading: Reading::List(key) });
    }
}

impl Transaction {
    fn empty(explicit: bool) -> Self {
        Self {
            steps: Vec::new(),
            next: 0,
            operations: Vec::new(),
            appends: Vec::new(),
            explicit,
            apart: false,
            start_us: 0,
        }
    }

    fn exec(&mut self, sql: &str, values: &[Value], effect: Effect) {
        let reading = Reading::Nothing;
        self.steps.push(Step { request: exec_sql(sql, values), effect, reading });
    }

    /// The step that is being run.
    #[must_use]
    pub(crate) fn step(&self) -> Option<&Step> {
        self.steps.get(self.next)
    }

    /// Whether the step being run may commit the transaction.
    #[must_use]
    pub(crate) fn may_commit(&self) -> bool {
        self.step().is_some_and(|step| step.effect == Effect::Commit)
    }

    /// The step being run has succeeded.
    pub(crate) fn succeeded(&mut self, rows: Option<&Rows>) {
        self.note_append();
        if let (Some(Step { reading: Reading::List(key), .. }), Some(rows)) = (self.step(), rows) {
            let values = rows.rows.first().and_then(|row| row.first()).map_or_else(Vec::new, parse_list);
            self.operations.push(Operation::Read { key: *key, values });
        }
        self.next += 1;
    }

    /// Notes the append of the step being run.
    pub(crate) fn note_append(&mut self) {
        let next = self.next;
        let here = self.appends.iter().filter(|(step, _)| *step == next).map(|(_, append)| append.clone());
        self.operations.extend(here);
    }

    /// How it ends when the step being run fails with this code; without one nothing was heard any more.
    #[must_use]
    pub(crate) fn ending(&self, code: Option<u64>) -> Ending {
        match code {
            _ if !self.may_commit() => Ending::Refused,
            None | Some(LEADERSHIP_LOST) => Ending::Unknown,
            Some(_) => Ending::Refused,
        }
    }
}

/// "leadership lost": it may be committed.
pub(crate) const LEADERSHIP_LOST: u64 = 10506;
/// "not leader": it is certainly not committed.
pub(crate) const NOT_LEADER: u64 = 10250;

/// The numbers in a list as it is stored.
#[must_use]
pub(crate) fn parse_list(value: &Value) -> Vec<u64> {
    let Value::Text(bytes) = value else { return Vec::new() };
    let text = String::from_utf8_lossy(bytes);
    text.split(',').filter_map(|number| number.parse().ok()).collect()
}

/// An integer parameter.
#[must_use]
pub(crate) fn integer(value: u64) -> Value {
    Value::Integer(i64::try_from(value).unwrap_or(i64::MAX))
}

/// A text parameter.
#[must_use]
pub(crate) fn text(value: &str) -> Value {
    Value::Text(Bytes::copy_from_slice(value.as_bytes()))
}

/// EXEC_SQL.
#[must_use]
pub(crate) fn exec_sql(sql: &str, values: &[Value]) -> Request {
    Request::ExecSql { database: 0, sql: Bytes::copy_from_slice(sql.as_bytes()), params: Params::new(values) }
}

/// QUERY_SQL.
#[must_use]
pub(crate) fn query_sql(sql: &str, values: &[Value]) -> Request {
    Request::QuerySql {
        database: 0,
        sql: Bytes::copy_from_slice(sql.as_bytes()),
        params: Params::new(values),
    }
}
