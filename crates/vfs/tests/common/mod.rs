//! Helpers of the integration tests.
#![allow(dead_code, missing_docs, unreachable_pub, reason = "each test program uses a part of this")]
#![allow(clippy::unwrap_used, reason = "a failure of a helper is a failure of the test")]

pub mod raw;
pub mod reference;
pub mod rng;
pub mod sql;

use std::sync::Arc;

use vfs::{ColumnValue, Connection, Database, DatabaseName, PageNumber, SqlError, Step, Transaction, Vfs};

pub fn name(text: &str) -> DatabaseName {
    DatabaseName::new(text.as_bytes()).unwrap()
}

/// Rows as text, columns separated by `|`.
pub fn query(connection: &mut Connection, sql: &str) -> Result<Vec<String>, SqlError> {
    let mut rows = Vec::new();
    let mut rest = sql.as_bytes();
    while !rest.is_empty() {
        let prepared = connection.prepare(rest)?;
        rest = &rest[prepared.consumed.max(1).min(rest.len())..];
        let Some(mut statement) = prepared.statement else { continue };
        while statement.step()? == Step::Row {
            let columns: Vec<String> = (0..statement.column_count())
                .map(|column| match statement.column(column) {
                    ColumnValue::Integer(value) => value.to_string(),
                    ColumnValue::Float(value) => value.to_string(),
                    ColumnValue::Text(value) => String::from_utf8_lossy(value).into_owned(),
                    ColumnValue::Blob(value) => blob_text(value),
                    ColumnValue::Null => "NULL".to_owned(),
                })
                .collect();
            rows.push(columns.join("|"));
        }
    }
    Ok(rows)
}

/// Length and a sum of a blob.
pub fn blob_text(bytes: &[u8]) -> String {
    let sum = bytes.iter().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    format!("blob {} {sum:x}", bytes.len())
}

#[track_caller]
pub fn exec(connection: &mut Connection, sql: &str) {
    if let Err(error) = connection.exec_simple(sql.as_bytes()) {
        panic!("{sql}: {error}");
    }
}

#[track_caller]
pub fn fails(connection: &mut Connection, sql: &str) -> SqlError {
    match query(connection, sql) {
        Ok(rows) => panic!("{sql} gave {rows:?}"),
        Err(error) => error,
    }
}

#[track_caller]
pub fn rows(connection: &mut Connection, sql: &str) -> Vec<String> {
    query(connection, sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
}

pub fn apply(follower: &Database, transaction: &Transaction) {
    let mut pages = transaction.pages.iter().map(|(number, page)| (*number, page.as_ref()));
    if let Err(error) = follower.apply(&mut pages) {
        panic!(
            "{error}: {} pages become {}, {:?}",
            follower.page_count(),
            transaction.page_count,
            self::pages(transaction)
        );
    }
}

/// Commits everything captured and applies it to a follower.
pub fn replicate(leader: &Database, follower: &Database) -> usize {
    let mut count = 0;
    while let Some(transaction) = leader.poll_captured() {
        apply(follower, &transaction);
        let position = leader.commit(transaction.generation, transaction.sequence).unwrap();
        assert_eq!(position, transaction.end);
        count += 1;
    }
    leader.check().unwrap();
    count
}

/// Commits everything captured.
pub fn commit_all(database: &Database) -> Vec<Transaction> {
    let mut transactions = Vec::new();
    while let Some(transaction) = database.poll_captured() {
        database.commit(transaction.generation, transaction.sequence).unwrap();
        transactions.push(transaction);
    }
    transactions
}

#[track_caller]
pub fn assert_same_image(left: &Database, right: &Database) {
    let (left, right) = (left.snapshot(), right.snapshot());
    assert_eq!(left.page_count(), right.page_count());
    for number in 1..=left.page_count() {
        assert!(left.page(number) == right.page(number), "page {number} differs");
    }
}

pub fn pages(transaction: &Transaction) -> Vec<u32> {
    transaction.pages.iter().map(|(PageNumber(number), _)| *number).collect()
}

pub struct Pair {
    pub vfs: Vfs,
    pub leader: Arc<Database>,
    pub follower: Arc<Database>,
}

pub fn pair() -> Pair {
    let vfs = Vfs::register().unwrap();
    let leader = vfs.get_or_create(&name("leader"));
    let follower = vfs.get_or_create(&name("follower"));
    Pair { vfs, leader, follower }
}

impl Pair {
    pub fn open(&self) -> Connection {
        self.vfs.open(self.leader.name()).unwrap()
    }

    pub fn open_follower(&self) -> Connection {
        self.vfs.open(self.follower.name()).unwrap()
    }
}
