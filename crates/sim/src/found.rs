//! What stands in the databases of a node at the end.

use std::collections::{BTreeMap, BTreeSet};

use vfs::{ColumnValue, Connection, DatabaseName, Statement, Step, Vfs};

use crate::marks::Mark;
use crate::oracle::Violation;
use crate::workload::{ACCOUNTS, BANK, BANK_TOTAL, LISTS};

fn failed(what: &str) -> impl Fn(vfs::SqlError) -> Violation + '_ {
    move |error| Violation::new("final state can be read", format!("{what}: {error}"))
}

/// Runs a query and gives its rows to `row`.
fn query(connection: &mut Connection, sql: &str, mut row: impl FnMut(&Statement)) -> Result<(), Violation> {
    let prepared = connection.prepare(sql.as_bytes()).map_err(failed(sql))?;
    let Some(mut statement) = prepared.statement else { return Ok(()) };
    while statement.step().map_err(failed(sql))? == Step::Row {
        row(&statement);
    }
    Ok(())
}

/// Opens a database that exists and was used.
fn open(vfs: &Vfs, name: &str) -> Result<Option<Connection>, Violation> {
    let name = DatabaseName::replicated(name.as_bytes())
        .map_err(|error| Violation::new("final state can be read", error.to_string()))?;
    // A database of one page has no table.
    if vfs.database(&name).is_none_or(|database| database.page_count() <= 1) {
        return Ok(None);
    }
    vfs.open(&name).map(Some).map_err(failed("open"))
}

fn number(value: ColumnValue<'_>) -> u64 {
    match value {
        ColumnValue::Integer(value) => u64::try_from(value).unwrap_or(u64::MAX),
        _ => u64::MAX,
    }
}

/// SQLite finds nothing wrong with the database.
pub(crate) fn integrity(vfs: &Vfs, name: &DatabaseName) -> Result<(), Violation> {
    let mut connection = vfs.open(name).map_err(failed("open"))?;
    let mut problems = Vec::new();
    query(&mut connection, "PRAGMA integrity_check", |row| match row.column(0) {
        ColumnValue::Text(b"ok") => {}
        other => problems.push(format!("{other:?}")),
    })?;
    if problems.is_empty() {
        return Ok(());
    }
    Err(Violation::new("integrity check", format!("database {name:?}: {}", problems.join(", "))))
}

/// All lists.
pub(crate) fn lists(vfs: &Vfs) -> Result<BTreeMap<u64, Vec<u64>>, Violation> {
    let mut lists = BTreeMap::new();
    let Some(mut connection) = open(vfs, LISTS)? else { return Ok(lists) };
    query(&mut connection, "SELECT key, vals FROM lists", |row| {
        if let ColumnValue::Text(values) = row.column(1) {
            let values = String::from_utf8_lossy(values);
            let values = values.split(',').filter_map(|value| value.parse().ok()).collect();
            lists.insert(number(row.column(0)), values);
        }
    })?;
    Ok(lists)
}

/// All marks.
pub(crate) fn marks(vfs: &Vfs) -> Result<BTreeSet<Mark>, Violation> {
    let mut marks = BTreeSet::new();
    if let Some(mut lists) = open(vfs, LISTS)? {
        query(&mut lists, "SELECT value FROM uniq", |row| {
            marks.insert(Mark::Unique(number(row.column(0))));
        })?;
        let tables = "SELECT CAST(substr(name, 7) AS INTEGER) FROM sqlite_master WHERE name LIKE 'table\\_%' ESCAPE '\\'";
        query(&mut lists, tables, |row| {
            marks.insert(Mark::Table(number(row.column(0))));
        })?;
        let columns = "SELECT CAST(substr(name, 8) AS INTEGER) FROM pragma_table_info('uniq') WHERE name LIKE 'column%'";
        query(&mut lists, columns, |row| {
            marks.insert(Mark::Column(number(row.column(0))));
        })?;
    }
    if let Some(mut bank) = open(vfs, BANK)? {
        query(&mut bank, "SELECT id FROM ledger", |row| {
            marks.insert(Mark::Transfer(number(row.column(0))));
        })?;
    }
    Ok(marks)
}

/// The accounts hold what the ledger says.
pub(crate) fn bank(vfs: &Vfs) -> Result<(), Violation> {
    let Some(mut bank) = open(vfs, BANK)? else { return Ok(()) };
    let mut balances = BTreeMap::new();
    query(&mut bank, "SELECT id, balance FROM accounts", |row| {
        if let ColumnValue::Integer(balance) = row.column(1) {
            balances.insert(number(row.column(0)), balance);
        }
    })?;
    if balances.is_empty() {
        return Ok(());
    }
    let mut expected: BTreeMap<u64, i64> =
        (0..ACCOUNTS).map(|id| (id, BANK_TOTAL / ACCOUNTS.cast_signed())).collect();
    query(&mut bank, "SELECT source, target, amount FROM ledger", |row| {
        if let ColumnValue::Integer(amount) = row.column(2) {
            *expected.entry(number(row.column(0))).or_default() -= amount;
            *expected.entry(number(row.column(1))).or_default() += amount;
        }
    })?;
    if balances == expected {
        return Ok(());
    }
    let text = format!("accounts hold {balances:?}, the ledger says {expected:?}");
    Err(Violation::new("money is neither made nor lost", text))
}
