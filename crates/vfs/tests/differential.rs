//! The same random SQL on our VFS and on SQLite's own: same rows, same errors, same bytes, and a follower that is fed the
//! captured transactions has the leader's image after each of them.
//!
//! Now and then a commit is refused, which has to be like a rollback. Some runs lose their leadership now and then: what was not committed by then is gone from the leader, and the
//! reference is set back to the same point. `VFS_DIFFERENTIAL_SEEDS=200..10000` runs more seeds than the default,
//! `VFS_DIFFERENTIAL_SEED=17` runs one and prints its statements.

#![allow(clippy::unwrap_used, reason = "a failure of a helper is a failure of the test")]

mod common;

use std::collections::{HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::reference::{Reference, rewind};
use common::rng::Rng;
use common::sql::{Flavour, preamble, statement};
use common::*;
use vfs::{Connection, Database, Options, PAGE_SIZE, SqlError, Transaction, TransactionState, Veto, Vfs};

const CONNECTIONS: usize = 2;
const STATEMENTS: u64 = 120;

/// A captured transaction and the reference's image after it.
struct Pending {
    transaction: Transaction,
    image: Vec<u8>,
}

struct Run {
    seed: u64,
    verbose: bool,
    /// Deleted content is overwritten with zeros, so that even the bytes that mean nothing are the reference's.
    bytes: bool,
    rng: Rng,
    vfs: Vfs,
    leader: Arc<Database>,
    follower: Arc<Database>,
    ours: Vec<Connection>,
    theirs: Vec<Reference>,
    path: PathBuf,
    _directory: tempfile::TempDir,
    pending: VecDeque<Pending>,
    /// The reference's image at the leader's committed position.
    committed: Vec<u8>,
    transactions: u64,
    switches: u64,
    restarts: u64,
    vetoes: u64,
}

impl Run {
    fn new(seed: u64, verbose: bool) -> Self {
        // In memory where that is possible: the reference's files are written all the time.
        let memory = Path::new("/dev/shm");
        let directory =
            if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        let path = directory.path().join("reference");
        let mut options = Options::default();
        options.checkpoint_threshold = 1000;
        let vfs = Vfs::register_with(options).unwrap();
        let leader = vfs.get_or_create(&name("leader"));
        let follower = vfs.get_or_create(&name("follower"));
        let committed = Reference::open(&path).image();
        let mut run = Self {
            seed,
            verbose,
            bytes: seed.is_multiple_of(2),
            rng: Rng::new(seed),
            vfs,
            leader,
            follower,
            ours: Vec::new(),
            theirs: Vec::new(),
            path,
            _directory: directory,
            pending: VecDeque::new(),
            committed,
            transactions: 0,
            switches: 0,
            restarts: 0,
            vetoes: 0,
        };
        run.open();
        run
    }

    /// Opens all connections.
    fn open(&mut self) {
        self.ours = (0..CONNECTIONS).map(|_| self.vfs.open(self.leader.name()).unwrap()).collect();
        self.theirs = (0..CONNECTIONS).map(|_| Reference::open(&self.path)).collect();
        for connection in 0..CONNECTIONS {
            if self.bytes {
                self.execute(connection, "PRAGMA secure_delete=1");
            }
        }
    }

    fn run(&mut self) {
        let flavour = self.rng.pick(&[Flavour::Mixed, Flavour::Spills, Flavour::Schema]);
        let lossy = self.rng.once_in(2);
        for sql in preamble(&mut self.rng, flavour) {
            self.execute(0, &sql);
        }
        let mut last = 0;
        for _ in 0..STATEMENTS {
            // Mostly the same connection, or transactions would only stand in each other's way.
            if self.rng.once_in(8) {
                last = usize::try_from(self.rng.below(CONNECTIONS as u64)).unwrap();
            }
            let sql = statement(&mut self.rng, flavour);
            if self.bytes && sql.contains("secure_delete") {
                continue;
            }
            // A refused `PRAGMA auto_vacuum` still changes how the connection behaves, like any that fails.
            if self.rng.once_in(12) && !sql.contains("auto_vacuum") {
                self.refuse(last, &sql);
            } else {
                self.execute(last, &sql);
            }
            if self.rng.once_in(3) {
                let count = self.rng.below(self.pending.len() as u64 + 1);
                self.commit(count);
                self.maintain();
            }
            if lossy && self.rng.once_in(25) {
                self.lose();
            }
        }
        self.finish();
    }

    /// Runs a statement on both sides and takes what it committed.
    fn execute(&mut self, connection: usize, sql: &str) {
        if self.verbose {
            println!("{connection}: {sql}");
        }
        let ours = query(&mut self.ours[connection], sql);
        self.follow(connection, sql, &ours);
    }

    /// Runs a statement whose commit is refused. If it would have committed, it and its transaction are gone.
    fn refuse(&mut self, connection: usize, sql: &str) {
        if self.verbose {
            println!("{connection}: {sql} -- refused");
        }
        let veto = self.rng.pick(&[Veto::NotLeader, Veto::TransferPending, Veto::Abort, Veto::Full]);
        if self.rng.once_in(2) {
            self.leader.set_veto(Some(veto));
        } else {
            self.ours[connection].refuse_next_commit(veto);
        }
        let ours = query(&mut self.ours[connection], sql);
        self.leader.set_veto(None);
        self.ours[connection].clear_veto();
        if !ours.as_ref().is_err_and(|error| error.code == veto.code()) {
            return self.follow(connection, sql, &ours);
        }
        self.vetoes += 1;
        assert!(!self.ours[connection].in_transaction(), "seed {}: {sql}", self.seed);
        if self.theirs[connection].in_transaction() {
            self.theirs[connection].query("ROLLBACK").unwrap();
        }
        // The statement may have made our connection read the schema again. Some errors depend on how old a schema is.
        self.execute(connection, "PRAGMA writable_schema=RESET");
        assert!(self.leader.poll_captured().is_none(), "seed {}: {sql}", self.seed);
    }

    /// Runs on the reference what gave `ours` here, compares, and takes what was committed.
    fn follow(&mut self, connection: usize, sql: &str, ours: &Result<Vec<String>, SqlError>) {
        let theirs = self.theirs[connection].query(sql);
        assert_eq!(*ours, theirs, "seed {}: {sql}", self.seed);
        assert_eq!(
            self.ours[connection].in_transaction(),
            self.theirs[connection].in_transaction(),
            "seed {}: autocommit after {sql}",
            self.seed
        );
        self.leader.check().unwrap();
        while let Some(transaction) = self.leader.poll_captured() {
            assert!(transaction.end <= self.ours[connection].gate());
            self.pending.push_back(Pending { transaction, image: self.theirs[0].image() });
            self.transactions += 1;
        }
    }

    /// The log commits some transactions.
    fn commit(&mut self, count: u64) {
        for _ in 0..count {
            let Some(Pending { transaction, image }) = self.pending.pop_front() else { break };
            apply(&self.follower, &transaction);
            let position = self.leader.commit(transaction.generation, transaction.sequence).unwrap();
            assert_eq!(position, transaction.end);
            self.committed = image;
            self.compare();
        }
    }

    /// Leader, follower and reference agree on the committed state.
    fn compare(&self) {
        assert_same_image(&self.leader, &self.follower);
        let snapshot = self.leader.snapshot();
        assert_eq!(snapshot.page_count() as usize * PAGE_SIZE, self.committed.len(), "seed {}", self.seed);
        if !self.bytes {
            return;
        }
        let free = free_leaves(&self.committed);
        for (index, (page, expected)) in snapshot.pages().zip(self.committed.chunks(PAGE_SIZE)).enumerate() {
            if free.contains(&(index + 1)) {
                // What is left in a free page after a rollback to a savepoint depends on what the cache held.
                continue;
            }
            let same = if index == 0 {
                // The change counter and its copy depend on when a connection read page 1 last.
                page[..24] == expected[..24]
                    && page[28..92] == expected[28..92]
                    && page[96..] == expected[96..]
            } else {
                page[..] == *expected
            };
            assert!(same, "seed {}: page {} differs from the reference's", self.seed, index + 1);
        }
    }

    fn maintain(&mut self) {
        let idle = self.ours.iter().all(|ours| ours.transaction_state() == TransactionState::None);
        // A restart under a reader of the main file may give it BUSY_SNAPSHOT, which the reference would not.
        let threshold = if idle && self.rng.once_in(2) { 1 } else { 1000 };
        let before = self.leader.committed();
        self.restarts += u64::from(self.leader.maintain_with(threshold).unwrap().restarted);
        if self.rng.once_in(4) {
            self.follower.maintain_with(1).unwrap();
        }
        assert_eq!(self.leader.committed(), before);
        self.compare();
    }

    /// Leadership is lost: only what is committed stays.
    fn lose(&mut self) {
        let undone = self.pending.len();
        if self.verbose {
            println!("lost with {undone} speculative transactions");
        }
        self.leader.fence();
        // Nothing passes a fence.
        let commit = if self.ours[0].in_transaction() { "; COMMIT" } else { "" };
        let late = query(&mut self.ours[0], &format!("PRAGMA user_version=4711{commit}"));
        assert!(late.is_err(), "seed {}", self.seed);
        assert_eq!(self.leader.switch_generation(), undone);
        self.pending.clear();
        if self.rng.once_in(2) {
            self.round_trip();
        }
        self.compare();
        self.ours.clear();
        self.theirs.clear();
        rewind(&self.path, &self.committed);
        self.open();
        assert_eq!(rows(&mut self.ours[0], "PRAGMA integrity_check"), ["ok"], "seed {}", self.seed);
        self.switches += 1;
    }

    /// The leader's image goes out and comes back.
    fn round_trip(&mut self) {
        let snapshot = self.leader.snapshot();
        let pages: Vec<_> = snapshot.pages().collect();
        let database = if self.rng.once_in(2) { &self.leader } else { &self.follower };
        database.restore(snapshot.page_count(), &mut pages.iter().map(|page| &page[..])).unwrap();
    }

    fn finish(&mut self) {
        for connection in 0..CONNECTIONS {
            if self.ours[connection].in_transaction() {
                self.execute(connection, "ROLLBACK");
            }
        }
        self.commit(u64::MAX);
        self.compare();
        self.execute(0, "SELECT type, name, tbl_name, rootpage, sql FROM sqlite_schema");
        for table in 0..5 {
            self.execute(0, &format!("SELECT * FROM t{table} ORDER BY a"));
        }
        self.execute(0, "SELECT * FROM log");
        self.execute(0, "PRAGMA integrity_check");
        let mut reader = self.vfs.open(self.follower.name()).unwrap();
        assert_eq!(rows(&mut reader, "PRAGMA integrity_check"), ["ok"], "seed {}", self.seed);
        self.ours.clear();
        drop(reader);
        self.leader.maintain_with(1).unwrap();
        assert_eq!(self.leader.wal_frames(), 0, "seed {}: nobody is in the way of a restart", self.seed);
        self.compare();
    }
}

fn word(image: &[u8], offset: usize) -> usize {
    u32::from_be_bytes(image[offset..offset + 4].try_into().unwrap()) as usize
}

/// Numbers of the free pages that hold nothing.
fn free_leaves(image: &[u8]) -> HashSet<usize> {
    let mut free = HashSet::new();
    let mut trunk = word(image, 32);
    while trunk != 0 {
        let start = (trunk - 1) * PAGE_SIZE;
        free.extend((0..word(image, start + 4)).map(|leaf| word(image, start + 8 + 4 * leaf)));
        trunk = word(image, start);
    }
    free
}

#[test]
fn random_sql_has_the_same_effect_as_on_sqlites_own_vfs() {
    if let Ok(seed) = std::env::var("VFS_DIFFERENTIAL_SEED") {
        Run::new(seed.parse().unwrap(), true).run();
        return;
    }
    let range = std::env::var("VFS_DIFFERENTIAL_SEEDS").ok();
    let (first, end) = range.as_deref().map_or((0, 200), |range| {
        let (first, end) = range.split_once("..").unwrap();
        (first.parse().unwrap(), end.parse().unwrap())
    });
    let begin = Instant::now();
    let (mut transactions, mut switches, mut restarts, mut vetoes) = (0, 0, 0, 0);
    for seed in first..end {
        let shown = transactions.min(switches * 10).min(restarts * 10).min(vetoes * 10) > 50;
        // On a busy machine it takes longer to show something.
        let limit = if shown { Duration::from_secs(10) } else { Duration::from_secs(60) };
        if range.is_none() && begin.elapsed() > limit {
            break;
        }
        if range.is_some() {
            println!("seed {seed}");
        }
        let mut run = Run::new(seed, false);
        run.run();
        transactions += run.transactions;
        switches += run.switches;
        restarts += run.restarts;
        vetoes += run.vetoes;
    }
    println!("{transactions} transactions, {switches} switches, {restarts} restarts, {vetoes} vetoes");
    let least = transactions.min(switches * 10).min(restarts * 10).min(vetoes * 10);
    assert!(range.is_some() || least > 50, "the runs show nothing");
}
