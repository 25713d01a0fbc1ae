//! What a transaction costs on the leader, SQLite included, and what it costs on a follower.

use std::sync::Arc;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use vfs::{Connection, Database, DatabaseName, Step, Transaction, Vfs};

const TABLE: &[u8] = b"CREATE TABLE kv(key INTEGER PRIMARY KEY, value BLOB)";
const WRITE: &[u8] = b"INSERT OR REPLACE INTO kv VALUES(?, ?)";
/// Keys of the table, so that it stops growing.
const KEYS: i64 = 2000;
/// WAL frames after which pages move into the database, as a node does.
const MAINTAIN: u32 = 1000;

struct Leader {
    // Dropped in this order: connections before the VFS.
    connection: Connection,
    database: Arc<Database>,
    vfs: Vfs,
}

/// With the table, and what its making was captured as.
fn leader() -> (Leader, Transaction) {
    let vfs = Vfs::register().expect("SQLite takes a VFS");
    let database = vfs.get_or_create(&DatabaseName::new(b"leader").expect("a name"));
    let mut connection = vfs.open(database.name()).expect("it opens");
    connection.exec_simple(TABLE).expect("a new table");
    let leader = Leader { connection, database, vfs };
    let table = committed(&leader);
    (leader, table)
}

/// Commits what was captured, which is one transaction.
fn committed(leader: &Leader) -> Transaction {
    let transaction = leader.database.poll_captured().expect("something was written");
    leader.database.commit(transaction.generation, transaction.sequence).expect("it is the oldest");
    assert!(leader.database.poll_captured().is_none());
    transaction
}

/// Runs one write and returns what was captured of it.
fn write(leader: &mut Leader, key: i64) -> Transaction {
    let prepared = leader.connection.prepare(WRITE).expect("it is SQL");
    let mut statement = prepared.statement.expect("it is a statement");
    statement.bind_integer(1, key % KEYS).expect("it has two parameters");
    statement.bind_blob(2, vec![7; 1024].into()).expect("it has two parameters");
    assert_eq!(statement.step().expect("nobody else writes"), Step::Done);
    drop(statement);
    committed(leader)
}

fn maintain(database: &Database) {
    database.maintain_with(MAINTAIN).expect("nothing is wrong");
}

fn capture(criterion: &mut Criterion) {
    let (mut leader, _) = leader();
    let mut key = 0;
    criterion.bench_function("execute, capture and commit a write of 1 KiB", |bencher| {
        bencher.iter(|| {
            key += 1;
            let transaction = write(&mut leader, key);
            maintain(&leader.database);
            transaction.page_count
        });
    });
}

fn apply_to(follower: &Database, transaction: &Transaction) {
    let mut pages = transaction.pages.iter().map(|(number, page)| (*number, page.as_ref()));
    follower.apply(&mut pages).expect("a leader's transaction");
}

fn apply(criterion: &mut Criterion) {
    let (mut leader, table) = leader();
    let follower = leader.vfs.get_or_create(&DatabaseName::new(b"follower").expect("a name"));
    apply_to(&follower, &table);
    let mut key = 0;
    criterion.bench_function("apply it on a follower", |bencher| {
        bencher.iter_batched(
            || {
                key += 1;
                let transaction = write(&mut leader, key);
                maintain(&leader.database);
                transaction
            },
            |transaction| {
                apply_to(&follower, &transaction);
                maintain(&follower);
            },
            // Applied in the order they were made in.
            BatchSize::PerIteration,
        );
    });
}

criterion_group!(benches, capture, apply);
criterion_main!(benches);
