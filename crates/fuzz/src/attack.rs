//! Attacks on a [`Lab`]: several clients with hostile SQL, or connections full of hostile bytes.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use server::client::{Client, ClientError, connect_leader};

use crate::Outcome;
use crate::lab::{Honest, Lab, be_honest};
use crate::sql::{Grammar, Vocabulary};
use crate::streams;

/// Databases that are attacked.
const DATABASES: [&str; 2] = ["hostile", "evil"];
/// Texts of each attacker that are kept to be told when a node ends.
const KEPT_TEXTS: usize = 16;
/// How often a statement may go on for, until its client is gone.
const PATIENCE: Duration = Duration::from_millis(700);
/// Between two moves of leadership, so that what is stored meets each node as a leader.
const LEADERSHIP_INTERVAL: Duration = Duration::from_secs(7);

/// What kind of attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// SQL from [`Grammar`].
    Sql,
    /// Bytes from [`streams::hostile`].
    Streams,
}

/// How to attack.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// With what.
    pub kind: Kind,
    /// For how long, in all.
    pub duration: Duration,
    /// Source of all texts and bytes, not of their timing.
    pub seed: u64,
    /// Connections that attack at a time.
    pub attackers: u64,
}

/// How an attack went.
#[derive(Clone, Debug)]
pub struct Report {
    /// Texts or connections.
    pub attacks: u64,
    /// What another client has seen meanwhile.
    pub honest: Honest,
    /// Largest resident memory of a node at the end, bytes.
    pub memory: u64,
}

/// Attacks three nodes, then sees that they live, are equal, can be stopped and started, and are equal again.
///
/// # Errors
///
/// Says what does not hold. What was sent last is below `findings` then.
pub fn run(plan: Plan, findings: &Path) -> Outcome<Report> {
    let mut lab = Lab::start()?;
    let vocabulary = lab.vocabulary()?;
    let addresses = lab.addresses();
    let stop = AtomicBool::new(false);
    let attacks = AtomicU64::new(0);
    let recent: Vec<Mutex<VecDeque<String>>> = (0..plan.attackers).map(|_| Mutex::default()).collect();
    let outcome = std::thread::scope(|scope| {
        let honest = scope.spawn(|| be_honest(&addresses, || !stop.load(Ordering::Relaxed)));
        for (number, recent) in (0..).zip(&recent) {
            let (stop, attacks, addresses, vocabulary) = (&stop, &attacks, &addresses, &vocabulary);
            let seed = plan.seed ^ (number << 48);
            scope.spawn(move || match plan.kind {
                Kind::Sql => attack_with_sql(seed, addresses, vocabulary, recent, attacks, stop),
                Kind::Streams => attack_with_streams(seed, addresses, attacks, stop),
            });
        }
        let alive = watch(&mut lab, plan.duration, || honest.is_finished());
        stop.store(true, Ordering::Relaxed);
        let honest = honest.join().map_err(|_| "the client that is not hostile has panicked")?;
        alive?;
        honest
    });
    let outcome = outcome.and_then(|honest| {
        let memory = lab.memory()?.into_iter().max().unwrap_or(0);
        lab.check_alive()?;
        lab.check_equal(&DATABASES)?;
        lab.restart(&DATABASES)?;
        Ok(Report { attacks: attacks.load(Ordering::Relaxed), honest, memory })
    });
    if outcome.is_err() {
        keep(&recent, plan.seed, findings)?;
    }
    outcome
}

fn watch(lab: &mut Lab, duration: Duration, ended: impl Fn() -> bool) -> Outcome {
    let begin = Instant::now();
    let mut moved = begin;
    while begin.elapsed() < duration && !ended() {
        std::thread::sleep(Duration::from_millis(50));
        lab.check_alive()?;
        if moved.elapsed() > LEADERSHIP_INTERVAL {
            lab.move_leadership();
            moved = Instant::now();
        }
    }
    Ok(())
}

fn keep(recent: &[Mutex<VecDeque<String>>], seed: u64, findings: &Path) -> Outcome {
    std::fs::create_dir_all(findings)?;
    let mut text = String::new();
    for (number, recent) in recent.iter().enumerate() {
        let Ok(recent) = recent.lock() else { continue };
        for sql in recent.iter() {
            text += &format!("-- attacker {number}\n{sql}\n");
        }
    }
    let path = findings.join(format!("sql-{seed}.txt"));
    std::fs::write(&path, text)?;
    eprintln!("what was sent last, the oldest first: {}", path.display());
    Ok(())
}

fn attack_with_sql(
    seed: u64,
    addresses: &[String],
    vocabulary: &Vocabulary,
    recent: &Mutex<VecDeque<String>>,
    attacks: &AtomicU64,
    stop: &AtomicBool,
) {
    let mut client: Option<Client> = None;
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let mut random = Rng::with_seed(seed.wrapping_add(number));
        let sql = Grammar::new(random.u64(..), vocabulary).text();
        if let Ok(mut recent) = recent.lock() {
            recent.push_back(sql.clone());
            if recent.len() > KEPT_TEXTS {
                recent.pop_front();
            }
        }
        let Some(open) = client.as_mut() else {
            client = connect_leader(addresses, Duration::from_secs(2)).ok().and_then(|mut leader| {
                leader.open(DATABASES[random.usize(..DATABASES.len())]).ok()?;
                leader.set_timeout(PATIENCE);
                Some(leader)
            });
            continue;
        };
        let result = match random.u8(..3) {
            0 => open.exec_sql(&sql, &[]).map(drop),
            1 => open.query_sql(&sql, &[]).map(drop),
            _ => open.prepare(&sql).and_then(|statement| open.query(statement, &[])).map(drop),
        };
        attacks.fetch_add(1, Ordering::Relaxed);
        // A refusal is an answer; anything else leaves the connection in the middle of one.
        if !matches!(result, Ok(()) | Err(ClientError::Failure { .. })) || random.u8(..64) == 0 {
            client = None;
        }
    }
}

fn attack_with_streams(seed: u64, addresses: &[String], attacks: &AtomicU64, stop: &AtomicBool) {
    let mut random = Rng::with_seed(seed);
    while !stop.load(Ordering::Relaxed) {
        let bytes = streams::hostile(&mut random);
        let address = &addresses[random.usize(..addresses.len())];
        // A node that has ended is noticed by whoever watches it.
        drop(one_stream(&mut random, address, &bytes));
        attacks.fetch_add(1, Ordering::Relaxed);
    }
}

/// Sends the bytes in parts of any length, perhaps closes the sending half, and reads for a while or not at all.
fn one_stream(random: &mut Rng, address: &str, bytes: &[u8]) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(Duration::from_millis(random.u64(1..20))))?;
    let mut rest = bytes;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(random.usize(1..=rest.len()));
        stream.write_all(now)?;
        rest = later;
    }
    if random.bool() {
        stream.shutdown(Shutdown::Write)?;
    }
    if random.u8(..4) > 0 {
        let mut answer = [0; 4096];
        while stream.read(&mut answer)? > 0 {}
    }
    Ok(())
}
