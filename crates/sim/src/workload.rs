//! Transactions as clients run them: requests one after the other, what they read, and how they ended.

use bytes::Bytes;
use wire_protocol::{Params, PrepareSchema, Request, Value};

use crate::history::{Ending, Operation};
use crate::marks::{Mark, Sight};
use crate::random::Random;
use crate::scenario::Workload;

/// Name of the database that holds the lists and the unique values.
pub(crate) const LISTS: &str = "lists";
/// Name of the database that holds the accounts.
pub(crate) const BANK: &str = "bank";
/// What all accounts together hold, always.
pub(crate) const BANK_TOTAL: i64 = 800;
/// Number of accounts.
pub(crate) const ACCOUNTS: u64 = 8;
/// "leadership lost": it may be committed.
pub(crate) const LEADERSHIP_LOST: u64 = 10506;
/// "not leader": it is certainly not committed.
pub(crate) const NOT_LEADER: u64 = 10250;

/// Appends to a list after which its key is not used any more.
const APPENDS_PER_KEY: u64 = 24;
/// Lists in use at a time.
const KEYS_AT_ONCE: u64 = 4;
/// Tables and columns that are created: VACUUM, every connection and every check of the marks take as long as there are.
const MAX_SCHEMA_CHANGES: u64 = 100;
/// Lists that a scan covers.
const KEYS_SCANNED: u64 = 24;

const APPEND: &str = "INSERT INTO lists (key, vals) VALUES (?, ?) ON CONFLICT (key) \
                      DO UPDATE SET vals = vals || ',' || excluded.vals";

/// Creates what a database needs. Every client asks for it when it has opened one.
pub(crate) fn create(database: &str) -> String {
    if database == LISTS {
        // Few lists fit a page, so that readers of several need several pages of one moment.
        return "CREATE TABLE IF NOT EXISTS lists
                (key INTEGER PRIMARY KEY, vals TEXT NOT NULL, pad BLOB DEFAULT (zeroblob(1200)));
                CREATE TABLE IF NOT EXISTS uniq (value INTEGER PRIMARY KEY, name TEXT UNIQUE, pad BLOB)"
            .to_owned();
    }
    let accounts: Vec<String> =
        (0..ACCOUNTS).map(|id| format!("({id}, {})", BANK_TOTAL.unsigned_abs() / ACCOUNTS)).collect();
    format!(
        "BEGIN IMMEDIATE;
         CREATE TABLE IF NOT EXISTS accounts (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL);
         CREATE TABLE IF NOT EXISTS ledger (id INTEGER PRIMARY KEY, source INTEGER, target INTEGER, amount INTEGER);
         INSERT OR IGNORE INTO accounts VALUES {};
         COMMIT",
        accounts.join(", ")
    )
}

/// What a step does to the fate of its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// If it fails nothing of the transaction is ever committed.
    Harmless,
    /// From the moment it is sent the transaction may be committed.
    Commit,
    /// Ends the transaction without committing it.
    Abandon,
}

/// How the rows of a step are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// Not at all.
    Nothing,
    /// As the list of a key.
    List(u64),
    /// As lists from this key on, all at one moment.
    Lists(u64),
    /// As what all accounts hold.
    Total,
}

/// What is sent.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    /// This.
    Request(Request),
    /// EXEC of the statement prepared last.
    ExecPrepared(Params),
    /// FINALIZE of the statement prepared last.
    Finalize,
}

/// One request of a transaction.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    /// What is sent.
    pub(crate) ask: Ask,
    /// What it means for the transaction.
    pub(crate) effect: Effect,
    /// What its rows mean.
    pub(crate) reading: Reading,
}

/// What a step changes, if it is committed.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// A value is appended to a list.
    Append(Operation),
    /// Something is there that was not there before. Whether it is new, or may have been there.
    Mark(Mark, Sight),
}

/// A transaction of a client.
#[derive(Clone, Debug)]
pub(crate) struct Transaction {
    /// Its requests.
    pub(crate) steps: Vec<Step>,
    /// The one being run.
    pub(crate) next: usize,
    /// What it read and appended so far.
    pub(crate) operations: Vec<Operation>,
    /// What it made so far.
    pub(crate) marks: Vec<(Mark, Sight)>,
    /// Changes by step.
    changes: Vec<(usize, Change)>,
    /// It holds a transaction open over several requests.
    pub(crate) explicit: bool,
    /// Its steps have nothing to do with each other.
    pub(crate) apart: bool,
    /// The statement prepared last.
    pub(crate) statement: Option<u32>,
    /// When its first request was sent.
    pub(crate) start_us: u64,
}

/// Makes transactions; knows which values and keys are used up.
#[derive(Debug, Default)]
pub(crate) struct Author {
    next_value: u64,
    appended: u64,
    schema_changes: u64,
}

impl Author {
    /// A new transaction.
    pub(crate) fn write(&mut self, workload: Workload, random: &mut Random) -> Transaction {
        match workload {
            Workload::Upsert => self.upsert(random),
            Workload::ListTransaction => self.list_transaction(random),
            Workload::ListReads => self.reads(random),
            Workload::Scan => self.scan(),
            Workload::Unique => self.unique(random),
            Workload::Schema => self.schema(random),
            Workload::BankTransfer => self.bank_transfer(random),
            Workload::BankAudit => {
                let mut transaction = Transaction::empty();
                transaction.apart = true;
                transaction.query("SELECT sum(balance) FROM accounts", &[], Reading::Total);
                transaction
            }
        }
    }

    fn fresh(&mut self) -> u64 {
        self.next_value += 1;
        self.next_value
    }

    fn key(&self, random: &mut Random) -> u64 {
        self.appended / APPENDS_PER_KEY + random.below(KEYS_AT_ONCE)
    }

    fn upsert(&mut self, random: &mut Random) -> Transaction {
        let mut transaction = Transaction::empty();
        if random.percent(25) {
            let (values, append) = self.append(random);
            transaction.push(Ask::Request(prepare(APPEND)), Effect::Harmless, Reading::Nothing);
            transaction.change(Change::Append(append));
            transaction.push(Ask::ExecPrepared(Params::new(&values)), Effect::Commit, Reading::Nothing);
            if random.percent(50) {
                transaction.push(Ask::Finalize, Effect::Harmless, Reading::Nothing);
            }
        } else if random.percent(10) {
            // Several at once, in one request.
            let mut sql = "BEGIN; ".to_owned();
            for _ in 0..random.between(1, 3) {
                let (values, append) = self.append(random);
                transaction.change(Change::Append(append));
                let [Value::Integer(key), Value::Text(text)] = &values else { continue };
                sql.push_str(&format!(
                    "INSERT INTO lists (key, vals) VALUES ({key}, '{}') ON CONFLICT (key) \
                     DO UPDATE SET vals = vals || ',' || excluded.vals; ",
                    String::from_utf8_lossy(text)
                ));
            }
            sql.push_str("COMMIT");
            transaction.exec(&sql, &[], Effect::Commit);
            transaction.explicit = true;
        } else if random.percent(10) {
            let (values, append) = self.append(random);
            transaction.change(Change::Append(append));
            let sql = format!("{APPEND} RETURNING key");
            transaction.push(Ask::Request(query_sql(&sql, &values)), Effect::Commit, Reading::Nothing);
        } else {
            self.append_step(&mut transaction, random, Effect::Commit);
        }
        transaction
    }

    fn list_transaction(&mut self, random: &mut Random) -> Transaction {
        let mut transaction = Transaction::empty();
        transaction.explicit = true;
        transaction.exec(if random.percent(70) { "BEGIN IMMEDIATE" } else { "BEGIN" }, &[], Effect::Harmless);
        for _ in 0..random.between(1, 4) {
            if random.percent(50) {
                self.read(&mut transaction, random);
            } else {
                self.append_step(&mut transaction, random, Effect::Harmless);
            }
        }
        if random.percent(90) {
            transaction.exec("COMMIT", &[], Effect::Commit);
        } else {
            transaction.exec("ROLLBACK", &[], Effect::Abandon);
        }
        transaction
    }

    fn reads(&self, random: &mut Random) -> Transaction {
        let mut transaction = Transaction::empty();
        if random.percent(50) {
            transaction.apart = true;
            for _ in 0..random.between(1, 3) {
                self.read(&mut transaction, random);
            }
            return transaction;
        }
        // All at one moment, while others write and the WAL is moved into the main file.
        transaction.explicit = true;
        transaction.exec("BEGIN", &[], Effect::Harmless);
        for _ in 0..random.between(2, 8) {
            self.read(&mut transaction, random);
        }
        transaction.exec("COMMIT", &[], Effect::Harmless);
        transaction
    }

    fn scan(&self) -> Transaction {
        let mut transaction = Transaction::empty();
        let first = (self.appended / APPENDS_PER_KEY).saturating_sub(KEYS_SCANNED);
        // Made long enough for a message for every few rows, so that others write while it goes on.
        let sql = "SELECT key, vals, zeroblob(12000) FROM lists WHERE key >= ? ORDER BY key";
        transaction.query(sql, &[integer(first)], Reading::Lists(first));
        transaction
    }

    /// Inserts a value that is new, or one that was used before and is refused if it is there.
    fn unique(&mut self, random: &mut Random) -> Transaction {
        let mut transaction = Transaction::empty();
        let used_before = self.next_value > 20 && random.percent(20);
        let (value, sight) = if used_before {
            (self.next_value - random.below(20), Sight::Maybe)
        } else {
            (self.fresh(), Sight::New)
        };
        let pad = match random.below(20) {
            0 => random.below(20_000),
            1..=4 => random.below(3_000),
            _ => random.below(100),
        };
        transaction.change(Change::Mark(Mark::Unique(value), sight));
        let name = text(&format!("name {value}"));
        transaction.exec(
            "INSERT INTO uniq (value, name, pad) VALUES (?, ?, zeroblob(?))",
            &[integer(value), name, integer(pad)],
            Effect::Commit,
        );
        transaction
    }

    fn schema(&mut self, random: &mut Random) -> Transaction {
        let mut transaction = Transaction::empty();
        let number = self.fresh();
        let kind = match random.below(10) {
            0..=4 if self.schema_changes >= MAX_SCHEMA_CHANGES => 5,
            kind => kind,
        };
        self.schema_changes += u64::from(kind <= 4);
        match kind {
            0..=2 => {
                transaction.change(Change::Mark(Mark::Table(number), Sight::New));
                let sql = format!("CREATE TABLE table_{number} (a INTEGER PRIMARY KEY, b TEXT)");
                transaction.exec(&sql, &[], Effect::Commit);
            }
            3 => {
                transaction.explicit = true;
                transaction.exec("BEGIN IMMEDIATE", &[], Effect::Harmless);
                transaction.change(Change::Mark(Mark::Table(number), Sight::New));
                let sql = format!("CREATE TABLE table_{number} (a INTEGER PRIMARY KEY, b TEXT)");
                transaction.exec(&sql, &[], Effect::Harmless);
                let sql = format!("INSERT INTO table_{number} (b) VALUES ('x'), ('y')");
                transaction.exec(&sql, &[], Effect::Harmless);
                let commits = random.percent(50);
                let (sql, effect) =
                    if commits { ("COMMIT", Effect::Commit) } else { ("ROLLBACK", Effect::Abandon) };
                transaction.exec(sql, &[], effect);
            }
            4 => {
                transaction.change(Change::Mark(Mark::Column(number), Sight::New));
                let sql = format!("ALTER TABLE uniq ADD COLUMN column_{number} TEXT DEFAULT 'd'");
                transaction.exec(&sql, &[], Effect::Commit);
            }
            5 | 6 => {
                let sql = "CREATE INDEX IF NOT EXISTS lists_by_value ON lists (vals)";
                transaction.exec(sql, &[], Effect::Commit);
            }
            7 => transaction.exec("DROP INDEX IF EXISTS lists_by_value", &[], Effect::Commit),
            8 => {
                let sql = "CREATE TEMP TABLE IF NOT EXISTS own (a); INSERT INTO own VALUES (1)";
                transaction.exec(sql, &[], Effect::Commit);
            }
            _ => transaction.exec("VACUUM", &[], Effect::Commit),
        }
        transaction
    }

    fn bank_transfer(&mut self, random: &mut Random) -> Transaction {
        let mut transaction = Transaction::empty();
        transaction.explicit = true;
        let number = self.fresh();
        let source = random.below(ACCOUNTS);
        let target = (source + random.between(1, ACCOUNTS - 1)) % ACCOUNTS;
        let amount = random.between(1, 50);
        let update = "UPDATE accounts SET balance = balance + ? WHERE id = ?";
        let signed = |amount: u64| Value::Integer(i64::try_from(amount).unwrap_or(0));
        let minus = Value::Integer(-i64::try_from(amount).unwrap_or(0));
        transaction.exec(if random.percent(70) { "BEGIN IMMEDIATE" } else { "BEGIN" }, &[], Effect::Harmless);
        if random.percent(50) {
            transaction.query("SELECT sum(balance) FROM accounts", &[], Reading::Total);
        }
        transaction.exec(update, &[minus, integer(source)], Effect::Harmless);
        transaction.exec(update, &[signed(amount), integer(target)], Effect::Harmless);
        transaction.change(Change::Mark(Mark::Transfer(number), Sight::New));
        let values = [integer(number), integer(source), integer(target), integer(amount)];
        transaction.exec("INSERT INTO ledger VALUES (?, ?, ?, ?)", &values, Effect::Harmless);
        transaction.exec("COMMIT", &[], Effect::Commit);
        transaction
    }

    /// Parameters of an append, and what it means.
    fn append(&mut self, random: &mut Random) -> ([Value; 2], Operation) {
        self.appended += 1;
        let (key, value) = (self.key(random), self.fresh());
        ([integer(key), text(&value.to_string())], Operation::Append { key, value })
    }

    fn append_step(&mut self, transaction: &mut Transaction, random: &mut Random, effect: Effect) {
        let (values, append) = self.append(random);
        transaction.change(Change::Append(append));
        transaction.exec(APPEND, &values, effect);
    }

    fn read(&self, transaction: &mut Transaction, random: &mut Random) {
        let key = self.key(random);
        transaction.query("SELECT vals FROM lists WHERE key = ?", &[integer(key)], Reading::List(key));
    }
}

impl Transaction {
    fn empty() -> Self {
        Self {
            steps: Vec::new(),
            next: 0,
            operations: Vec::new(),
            marks: Vec::new(),
            changes: Vec::new(),
            explicit: false,
            apart: false,
            statement: None,
            start_us: 0,
        }
    }

    /// The step that is added next makes this change.
    fn change(&mut self, change: Change) {
        self.changes.push((self.steps.len(), change));
    }

    fn push(&mut self, ask: Ask, effect: Effect, reading: Reading) {
        self.steps.push(Step { ask, effect, reading });
    }

    fn exec(&mut self, sql: &str, values: &[Value], effect: Effect) {
        self.push(Ask::Request(exec_sql(sql, values)), effect, Reading::Nothing);
    }

    fn query(&mut self, sql: &str, values: &[Value], reading: Reading) {
        self.push(Ask::Request(query_sql(sql, values)), Effect::Harmless, reading);
    }

    /// The step that is being run.
    pub(crate) fn step(&self) -> Option<&Step> {
        self.steps.get(self.next)
    }

    /// The request of the step that is being run.
    pub(crate) fn request(&self) -> Option<Request> {
        let statement = self.statement.unwrap_or_default();
        Some(match &self.step()?.ask {
            Ask::Request(request) => request.clone(),
            Ask::ExecPrepared(params) => Request::Exec { database: 0, statement, params: params.clone() },
            Ask::Finalize => Request::Finalize { database: 0, statement },
        })
    }

    /// Notes what the step being run changes.
    pub(crate) fn note_changes(&mut self) {
        for (_, change) in self.changes.iter().filter(|(step, _)| *step == self.next) {
            match change {
                Change::Append(append) => self.operations.push(append.clone()),
                Change::Mark(mark, sight) => self.marks.push((*mark, *sight)),
            }
        }
    }

    /// Whether a commit has succeeded already.
    fn is_committed(&self) -> bool {
        self.steps[..self.next.min(self.steps.len())].iter().any(|step| step.effect == Effect::Commit)
    }

    /// How it ends when the step being run fails with this code; without one nothing was heard any more. Without a step
    /// everything has succeeded.
    pub(crate) fn ending(&self, code: Option<u64>) -> Ending {
        let Some(step) = self.step() else {
            let abandoned = self.steps.iter().any(|step| step.effect == Effect::Abandon);
            return if abandoned { Ending::Refused } else { Ending::Committed };
        };
        match code {
            _ if self.is_committed() => Ending::Committed,
            _ if step.effect != Effect::Commit => Ending::Refused,
            None | Some(LEADERSHIP_LOST) => Ending::Unknown,
            Some(_) => Ending::Refused,
        }
    }
}

/// The numbers in a list as it is stored.
pub(crate) fn parse_list(value: &Value) -> Vec<u64> {
    let Value::Text(bytes) = value else { return Vec::new() };
    let text = String::from_utf8_lossy(bytes);
    text.split(',').filter_map(|number| number.parse().ok()).collect()
}

/// An integer parameter.
fn integer(value: u64) -> Value {
    Value::Integer(i64::try_from(value).unwrap_or(i64::MAX))
}

/// A text parameter.
fn text(value: &str) -> Value {
    Value::Text(Bytes::copy_from_slice(value.as_bytes()))
}

/// EXEC_SQL.
pub(crate) fn exec_sql(sql: &str, values: &[Value]) -> Request {
    Request::ExecSql { database: 0, sql: Bytes::copy_from_slice(sql.as_bytes()), params: Params::new(values) }
}

/// QUERY_SQL.
fn query_sql(sql: &str, values: &[Value]) -> Request {
    Request::QuerySql {
        database: 0,
        sql: Bytes::copy_from_slice(sql.as_bytes()),
        params: Params::new(values),
    }
}

/// PREPARE.
fn prepare(sql: &str) -> Request {
    Request::Prepare { database: 0, sql: Bytes::copy_from_slice(sql.as_bytes()), schema: PrepareSchema::V0 }
}
