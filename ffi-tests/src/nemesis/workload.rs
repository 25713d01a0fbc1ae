//! Clients that append to lists, write registers, move money and add to a set, and note what they are told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use server::client::{Client, ClientError, connect_leader};
use wire_protocol::Value;

use super::availability::Log;
use super::history::{Access, End, History, Step, Timed};
use crate::load::Random;

/// Clients that run transactions.
pub const CLIENTS: u64 = 6;
/// Databases that are written.
pub const DATABASES: [&str; 2] = ["lists", "set"];
/// Sum of all accounts.
pub const TOTAL: i64 = 500;
const ACCOUNTS: u64 = 5;
/// Keys in use at a time; others take their place, so that lists stay short.
const KEYS: u64 = 4;
/// Longest list.
const MAX_LIST: u64 = 100;
/// Longest wait of a client for an answer, and for a leader.
const PATIENCE: Duration = Duration::from_millis(900);
/// The same of a probe, which wants to see each change soon.
const PROBE_PATIENCE: Duration = Duration::from_millis(300);
/// Pause between two transactions of a client, and two probes; keeps histories short enough to judge.
const PAUSE: Duration = Duration::from_millis(3);
const PROBE_PAUSE: Duration = Duration::from_millis(20);

const SCHEMA: &str = "CREATE TABLE list (k INTEGER PRIMARY KEY, v TEXT NOT NULL); \
    CREATE TABLE register (k INTEGER PRIMARY KEY, v INTEGER NOT NULL); \
    CREATE TABLE account (k INTEGER PRIMARY KEY, v INTEGER NOT NULL CHECK (v >= 0)); \
    INSERT INTO account VALUES (1, 100), (2, 100), (3, 100), (4, 100), (5, 100)";
const APPEND: &str = "INSERT INTO list VALUES (?1, ?2) ON CONFLICT (k) DO UPDATE SET v = v || ',' || ?2";
const READ: &str = "SELECT v FROM list WHERE k = ?1";

/// Values that are never used twice.
static NEXT_VALUE: AtomicU64 = AtomicU64::new(1);
/// A client that does not know how its transaction ended goes on as another process, as the checker wants it.
static NEXT_PROCESS: AtomicU64 = AtomicU64::new(1);

fn next_value() -> i64 {
    i64::try_from(NEXT_VALUE.fetch_add(1, Ordering::Relaxed)).unwrap_or(i64::MAX)
}

/// Makes the databases.
///
/// # Errors
///
/// When the leader refuses.
pub fn prepare(leader: &mut Client) -> Result<(), String> {
    let mut make = |name: &str, schema: &str| {
        leader.open(name)?;
        leader.exec_sql(schema, &[])
    };
    make("lists", SCHEMA).map_err(|error| error.to_string())?;
    let mut other =
        Client::connect(leader.address(), Duration::from_secs(10)).map_err(|error| error.to_string())?;
    other.open("set").map_err(|error| error.to_string())?;
    other.exec_sql("CREATE TABLE item (k INTEGER PRIMARY KEY)", &[]).map_err(|error| error.to_string())?;
    Ok(())
}

/// What is stored in the end.
#[derive(Clone, Debug, Default)]
pub struct Stored {
    /// Members of the set.
    pub set: BTreeSet<i64>,
    /// All lists.
    pub lists: BTreeMap<i64, Vec<i64>>,
    /// Sum of all accounts.
    pub total: i64,
}

/// Reads what is stored, at the leader.
///
/// # Errors
///
/// When it refuses.
pub fn stored(leader: &mut Client) -> Result<Stored, String> {
    let text = |error: ClientError| error.to_string();
    leader.set_timeout(Duration::from_secs(30));
    leader.open("lists").map_err(text)?;
    let rows = leader.query_sql("SELECT k, v FROM list", &[]).map_err(text)?.rows;
    let lists = rows.iter().filter_map(|row| match &row[..] {
        [Value::Integer(key), Value::Text(list)] => Some((*key, parse(list))),
        _ => None,
    });
    let lists = lists.collect();
    let total = match &leader.query_sql("SELECT sum(v) FROM account", &[]).map_err(text)?.rows[..] {
        [row] => integer(row),
        _ => 0,
    };
    let mut other = Client::connect(leader.address(), Duration::from_secs(30)).map_err(text)?;
    other.open("set").map_err(text)?;
    let rows = other.query_sql("SELECT k FROM item", &[]).map_err(text)?.rows;
    Ok(Stored { set: rows.iter().map(|row| integer(row)).collect(), lists, total })
}

fn integer(row: &[Value]) -> i64 {
    if let [Value::Integer(number)] = row { *number } else { 0 }
}

fn parse(list: &[u8]) -> Vec<i64> {
    String::from_utf8_lossy(list).split(',').filter_map(|number| number.parse().ok()).collect()
}

/// What an error of a statement that changes something means for it.
fn end_of(error: &ClientError) -> End {
    match error.code() {
        // Busy, no space, and "not the leader" of our nodes, which says that nothing was proposed.
        Some(5 | 13) => End::Fail,
        _ => End::Unknown,
    }
}

/// Whether an error may be explained by faults.
fn is_expected(error: &ClientError, with_c: bool) -> bool {
    // Busy, I/O error, no space, "not the leader", "leadership lost", C's "no leader" and a failed node; C 1.11.1 also says
    // 7, which is "not the leader" among the numbers of its raft library, untranslated.
    let ClientError::Failure { code, .. } = error else { return true };
    matches!(code & 0xff, 5 | 10 | 13) || matches!(code, 1 | 2 | 10250 | 10506) || (with_c && *code == 7)
}

/// One client until `stop`; `with_c` says that some of the nodes are C's.
pub fn run(
    random: &mut Random,
    addresses: &[String],
    with_c: bool,
    history: &Mutex<History>,
    stop: &AtomicBool,
) {
    let mut addresses = addresses.to_vec();
    let mut process = NEXT_PROCESS.fetch_add(1, Ordering::Relaxed);
    let mut client: Option<Client> = None;
    while !stop.load(Ordering::Relaxed) {
        let Some(open) = client.as_mut() else {
            let first = usize::try_from(random.below(addresses.len() as u64)).unwrap_or(0);
            addresses.swap(0, first);
            client = connect_leader(&addresses, PATIENCE).ok().and_then(|mut leader| {
                leader.open("lists").ok()?;
                Some(leader)
            });
            continue;
        };
        let result = match random.below(10) {
            0 => register_write(open, random, history),
            1 | 2 => register_read(open, random, history),
            3 => transfer(open, random),
            4 => audit(open, history),
            _ => lists(open, random, history, &mut process),
        };
        if let Err(error) = result {
            if !is_expected(&error, with_c)
                && let Ok(mut history) = history.lock()
            {
                let now = history.now();
                history.strange.push(format!("at {now:?} a client got: {error}"));
            }
            client = None;
        }
        std::thread::sleep(PAUSE);
    }
}

/// Adds to the set through one node as often as that node takes it, so that each change of the leader is seen at once.
pub fn probe(address: &str, history: &Mutex<History>, log: &Mutex<Log>, stop: &AtomicBool) {
    let mut client: Option<Client> = None;
    while !stop.load(Ordering::Relaxed) {
        let Some(open) = client.as_mut() else {
            client = Client::connect(address, PROBE_PATIENCE).ok().and_then(|mut client| {
                client.open("set").ok()?;
                Some(client)
            });
            std::thread::sleep(PROBE_PAUSE);
            continue;
        };
        let value = next_value();
        let Some(start) = now(history) else { return };
        let result = open.exec_sql("INSERT INTO item VALUES (?)", &[Value::Integer(value)]);
        let outcome = match &result {
            Ok(_) => End::Ok,
            Err(error) => end_of(error),
        };
        if let (Ok(mut history), Ok(mut log)) = (history.lock(), log.lock()) {
            let end = history.now();
            history.set.push(Timed { start, end, outcome, what: value });
            if outcome == End::Ok {
                log.acknowledged();
            }
        }
        if result.is_err() {
            client = None;
        }
        std::thread::sleep(PROBE_PAUSE);
    }
}

fn now(history: &Mutex<History>) -> Option<Duration> {
    history.lock().ok().map(|history| history.now())
}

/// Registers change with time as lists do.
fn key(random: &mut Random) -> i64 {
    let epoch = NEXT_VALUE.load(Ordering::Relaxed) / (KEYS * MAX_LIST);
    i64::try_from(epoch * KEYS + random.below(KEYS)).unwrap_or(0)
}

fn register_write(
    client: &mut Client,
    random: &mut Random,
    history: &Mutex<History>,
) -> Result<(), ClientError> {
    let (key, value) = (key(random), next_value());
    let Some(start) = now(history) else { return Ok(()) };
    let sql = "INSERT INTO register VALUES (?, ?) ON CONFLICT (k) DO UPDATE SET v = excluded.v";
    let result = client.exec_sql(sql, &[Value::Integer(key), Value::Integer(value)]);
    let outcome = result.as_ref().err().map_or(End::Ok, end_of);
    note(history, start, outcome, Access::Write(key, value));
    result.map(drop)
}

fn register_read(
    client: &mut Client,
    random: &mut Random,
    history: &Mutex<History>,
) -> Result<(), ClientError> {
    let key = key(random);
    let Some(start) = now(history) else { return Ok(()) };
    let rows = client.query_sql("SELECT v FROM register WHERE k = ?", &[Value::Integer(key)])?.rows;
    let value = rows.first().map_or(0, |row| integer(row));
    note(history, start, End::Ok, Access::Read(key, value));
    Ok(())
}

fn note(history: &Mutex<History>, start: Duration, outcome: End, what: Access) {
    if let Ok(mut history) = history.lock() {
        let end = history.now();
        history.registers.push(Timed { start, end, outcome, what });
    }
}

fn transfer(client: &mut Client, random: &mut Random) -> Result<(), ClientError> {
    let mut account = || Value::Integer(i64::try_from(random.below(ACCOUNTS)).unwrap_or(0) + 1);
    let (from, to) = (account(), account());
    client.exec_sql("BEGIN IMMEDIATE", &[])?;
    let rows = client.query_sql("SELECT v FROM account WHERE k = ?", std::slice::from_ref(&from))?.rows;
    if rows.first().is_none_or(|row| integer(row) == 0) {
        return client.exec_sql("ROLLBACK", &[]).map(drop);
    }
    client.exec_sql("UPDATE account SET v = v - 1 WHERE k = ?", &[from])?;
    client.exec_sql("UPDATE account SET v = v + 1 WHERE k = ?", &[to])?;
    client.exec_sql("COMMIT", &[]).map(drop)
}

fn audit(client: &mut Client, history: &Mutex<History>) -> Result<(), ClientError> {
    let rows = client.query_sql("SELECT sum(v) FROM account", &[])?.rows;
    if let (Some(row), Ok(mut history)) = (rows.first(), history.lock()) {
        history.totals.push(integer(row));
    }
    Ok(())
}

/// One transaction of lists, in one of the ways in which clients write them.
fn lists(
    client: &mut Client,
    random: &mut Random,
    history: &Mutex<History>,
    process: &mut u64,
) -> Result<(), ClientError> {
    let count = if random.below(2) == 0 { 1 } else { 1 + random.below(4) };
    let reads_only = random.below(4) == 0;
    let mut steps: Vec<Step> = (0..count)
        .map(|_| match reads_only || random.below(2) == 0 {
            true => Step::Read(key(random), None),
            false => Step::Append(key(random), next_value()),
        })
        .collect();
    if let Ok(mut history) = history.lock() {
        history.invoke(*process, &steps);
    }
    let writes = steps.iter().any(|step| matches!(step, Step::Append(..)));
    let (outcome, result) = if count == 1 {
        let result = step(client, &mut steps[0]);
        (outcome_of_last(&result, writes), result)
    } else {
        several(client, &mut steps, writes)
    };
    if outcome != End::Ok {
        // What was read by a transaction that has failed, or may have, proves nothing.
        steps.iter_mut().for_each(forget);
    }
    if let Ok(mut history) = history.lock() {
        history.complete(*process, outcome, &steps);
    }
    if outcome == End::Unknown {
        *process = NEXT_PROCESS.fetch_add(1, Ordering::Relaxed);
    }
    result
}

fn forget(step: &mut Step) {
    if let Step::Read(_, list) = step {
        *list = None;
    }
}

/// The outcome of the statement that commits. A transaction that only reads has no effect however it ends.
fn outcome_of_last(result: &Result<(), ClientError>, writes: bool) -> End {
    match result {
        Ok(()) => End::Ok,
        Err(_) if !writes => End::Fail,
        Err(error) => end_of(error),
    }
}

/// BEGIN, the steps, COMMIT, a request each.
fn several(client: &mut Client, steps: &mut [Step], writes: bool) -> (End, Result<(), ClientError>) {
    let begin = if writes { "BEGIN IMMEDIATE" } else { "BEGIN" };
    let mut inside = || {
        client.exec_sql(begin, &[])?;
        steps.iter_mut().try_for_each(|one| step(client, one))
    };
    if let Err(error) = inside() {
        // COMMIT was never sent, and goes unsent: the connection is closed.
        return (End::Fail, Err(error));
    }
    let result = client.exec_sql("COMMIT", &[]).map(drop);
    (outcome_of_last(&result, writes), result)
}

fn step(client: &mut Client, step: &mut Step) -> Result<(), ClientError> {
    match step {
        Step::Append(key, value) => {
            let value = Value::Text(value.to_string().into());
            client.exec_sql(APPEND, &[Value::Integer(*key), value]).map(drop)
        }
        Step::Read(key, list) => {
            let rows = client.query_sql(READ, &[Value::Integer(*key)])?.rows;
            *list = Some(match rows.first().map(Vec::as_slice) {
                Some([Value::Text(text)]) => parse(text),
                _ => Vec::new(),
            });
            Ok(())
        }
    }
}
