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
    _vfs: Vfs,
}

fn leader() -> Leader {
    let vfs = Vfs::register().expect("SQLite takes a VFS");
    let database = vfs.get_or_create(&DatabaseName::new(b"leader").expect("a name"));
    let mut connection = vfs.open(database.name()).expect("it opens");
    connection.exec_simple(TABLE).expect("a new table");
    Leader { connection, database, _vfs: vfs }
}

/// Runs one write and returns what was captured of it.
fn write(leader: &mut Leader, key: i64) -> Transaction {
    let prepared = leader.connection.prepare(WRITE).expect("it is SQL");
    let mut statement = prepared.statement.expect("it is a statement");
    statement.bind_integer(1, key % KEYS).expect("it has two parameters");
    statement.bind_blob(2, &[7; 1024]).expect("it has two parameters");
    assert_eq!(statement.step().expect("nobody else writes"), Step::Done);
    drop(statement);
    let mut last = None;
    while let Some(transaction) = leader.database.poll_captured() {
        leader.database.commit(transaction.generation, transaction.sequence).expect("it is the oldest");
        last = Some(transaction);
    }
    last.expect("the write was captured")
}

fn maintain(database: &Database) {
    database.maintain_with(MAINTAIN).expect("nothing is wrong");
}

fn capture(criterion: &mut Criterion) {
    let mut leader = leader();
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

fn apply(criterion: &mut Criterion) {
    let mut leader = leader();
    let follower = leader._vfs.get_or_create(&DatabaseName::new(b"follower").expect("a name"));
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
                let mut pages = transaction.pages.iter().map(|(number, page)| (*number, page.as_ref()));
                follower.apply(&mut pages).expect("a leader's transaction");
                maintain(&follower);
            },
            // Applied in the order they were made in.
            BatchSize::PerIteration,
        );
    });
}

criterion_group!(benches, capture, apply);
criterion_main!(benches);
