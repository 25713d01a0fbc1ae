//! What a connection compiles is checked here, before: how deep SQLite recurses, how many copies it makes, and what the
//! schema adds to both.
//!
//! What is known of a schema is shared by the connections of a database until the schema changes. SQLite compiles a kept
//! statement again when that happens, so a statement is checked again, too, when it is run and the version of the schema is
//! another one than when it was checked. Between that and the compilation another connection can still change the schema;
//! both bounds together stay below what the stack and some seconds of time can take.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use libsqlite3_sys as ffi;

use crate::connection::{Connection, Inner, Lifetime};
use crate::depth::{self, Token, Tokens};
use crate::error::SqlError;
use crate::expansion::{self, Query};
use crate::schema::{self, Change, Row, Schema};
use crate::statement::{ColumnValue, Interruptible, Statement, Step};

/// What a connection knows of the schema that its statements are compiled with.
#[derive(Default)]
pub(crate) struct Known {
    /// [`Inner::schema_version`] that it is of.
    version: Option<u64>,
    schema: Arc<Schema>,
    /// Units of what this connection has added since, in a transaction of its own.
    added_units: u64,
}

/// What the connections of one database share: a generation, a version of its schema, and what is known of that.
pub(crate) type Shared = Mutex<Option<(u64, u32, Arc<Schema>)>>;

/// What a statement that was run has done to the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    None,
    /// It may make paths longer by so many units.
    Adds(u64),
    /// What was known is no longer true.
    Changes,
}

/// Outcome of a check.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Checked {
    pub(crate) version: u64,
    pub(crate) effect: Effect,
}

fn refused(message: String) -> SqlError {
    SqlError { code: ffi::SQLITE_ERROR, message }
}

fn too_large() -> SqlError {
    refused(format!(
        "statement is too large: with the common table expressions, views and subqueries in place of their names it has \
         more than {} words",
        expansion::MAX_TOKENS
    ))
}

/// Whether one of the first words of a statement is one of these.
fn starts_with_one_of(sql: &[u8], words: &[&[u8]]) -> bool {
    !words.is_empty()
        && Tokens(sql).skip_while(|token| *token == Token::Mark(b';')).take(8).any(|token| match token {
            Token::Word(word) | Token::Quoted(word) => {
                let plain = schema::plain_name(word);
                words.iter().any(|other| plain.eq_ignore_ascii_case(other))
            }
            _ => false,
        })
}

/// The first statement of a text, so that each of many is looked at once. A short text is given back as it is; so is one that
/// creates a trigger, whose body has semicolons of its own.
fn first_statement(sql: &[u8]) -> &[u8] {
    if sql.len() <= depth::SHORT_TEXT_LEN {
        return sql;
    }
    let mut tokens = Tokens(sql);
    let (mut seen, mut creates) = (0, false);
    while let Some(token) = tokens.next() {
        match token {
            Token::Word(word) if seen == 0 => creates = word.eq_ignore_ascii_case(b"CREATE"),
            Token::Word(word) if creates && seen < 8 && word.eq_ignore_ascii_case(b"TRIGGER") => return sql,
            Token::Mark(b';') if seen > 0 => return &sql[..sql.len() - tokens.0.len()],
            Token::Mark(b';') => continue,
            _ => {}
        }
        seen += 1;
    }
    sql
}

impl Inner {
    /// Changes whenever a statement could mean something else than before.
    pub(crate) fn schema_version(&self) -> u64 {
        let changes = self.schema_changes.load(Ordering::Relaxed);
        (u64::from(changes) << 32) | u64::from(self.handle().generation.schema_version())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses what SQLite could compile neither within its stack nor within some seconds.
    pub(crate) fn check(self: &Arc<Self>, sql: &[u8]) -> Result<Checked, SqlError> {
        let sql = first_statement(sql);
        if sql.len() > depth::SHORT_TEXT_LEN && depth::units(sql) > depth::MAX_STATEMENT_UNITS {
            return Err(refused(
                "statement nests too deep: its subqueries, common table expressions or generated columns build on each \
                 other too often"
                    .into(),
            ));
        }
        let change = schema::change(sql);
        let others: &[&[u8]] = match &change {
            None => &[b"ATTACH"],
            Some(Change::Adds(row)) if schema::matters(row) => &[b"TEMP", b"TEMPORARY"],
            Some(_) => &[],
        };
        if !self.has_others.load(Ordering::Relaxed) && starts_with_one_of(sql, others) {
            self.has_others.store(true, Ordering::Relaxed);
            self.schema_changes.fetch_add(1, Ordering::Relaxed);
        }
        let version = self.schema_version();
        let (schema, added_units) = self.schema(version)?;
        if let Some(what) = schema.uses_broken(sql, change.as_ref()) {
            return Err(refused(format!(
                "statement cannot be compiled: it uses {what}, and the schema has views, triggers or foreign keys that \
                 build on each other too often; drop them first"
            )));
        }
        let most = schema.largest.saturating_mul(sql.len() as u64 / 2);
        if (most > expansion::MAX_TOKENS || !expansion::is_simple(sql))
            && !Query::parse(sql).is_bounded(&schema.relations)
        {
            return Err(too_large());
        }
        let effect = match &change {
            None | Some(Change::Drops | Change::DropsTable) => Effect::None,
            Some(Change::Renames) => Effect::Changes,
            Some(change) => self.check_change(&schema, added_units, change)?,
        };
        Ok(Checked { version, effect })
    }

    /// Checks what a statement adds to the schema.
    fn check_change(
        self: &Arc<Self>,
        schema: &Schema,
        added_units: u64,
        change: &Change,
    ) -> Result<Effect, SqlError> {
        let effect = match change {
            Change::Adds(row) if row.kind == b"view" => Effect::Changes,
            Change::Adds(row) if !schema::matters(row) => return Ok(Effect::None),
            Change::Adds(row) if row.kind == b"table" && schema::is_generated(&row.sql) => Effect::Changes,
            Change::Adds(row) => {
                let units = schema::units_of(row);
                let is_simple = row.kind == b"table" || expansion::is_simple(&row.sql);
                if is_simple && schema.units + added_units + units <= schema::MAX_UNITS {
                    return Ok(Effect::Adds(units));
                }
                Effect::Changes
            }
            _ => Effect::Changes,
        };
        let after = Schema::new(&Schema::with_change(self.rows()?, change));
        match after.broken.difference(&schema.broken).next() {
            None => Ok(effect),
            Some(name) => Err(refused(format!(
                "views, triggers, foreign keys or generated columns would build on each other too often: no statement \
                 that uses {} could be compiled",
                String::from_utf8_lossy(name)
            ))),
        }
    }

    /// What a statement has done to the schema is known from now on.
    pub(crate) fn changed(&self, effect: Effect) {
        if effect != Effect::None {
            self.has_changed.store(true, Ordering::Relaxed);
        }
        let changes = match effect {
            Effect::None => false,
            Effect::Changes => true,
            Effect::Adds(units) => {
                let mut known = self.known();
                known.added_units += units;
                known.schema.units + known.added_units > schema::MAX_UNITS
            }
        };
        if changes {
            self.schema_changes.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What the schema is at this version, and the units that were added since.
    fn schema(self: &Arc<Self>, version: u64) -> Result<(Arc<Schema>, u64), SqlError> {
        let known = self.known();
        if known.version == Some(version) {
            return Ok((Arc::clone(&known.schema), known.added_units));
        }
        drop(known);
        let schema = self.look_up()?;
        let mut known = self.known();
        *known = Known { version: Some(version), schema: Arc::clone(&schema), added_units: 0 };
        Ok((schema, 0))
    }

    fn look_up(self: &Arc<Self>) -> Result<Arc<Schema>, SqlError> {
        let handle = self.handle();
        let is_alone = self.has_others.load(Ordering::Relaxed) || self.has_own();
        let of = (handle.generation.id, handle.generation.schema_version());
        let shared = || handle.database.schema.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_alone
            && let Some((generation, version, schema)) = &*shared()
            && (*generation, *version) == of
        {
            return Ok(Arc::clone(schema));
        }
        let schema = Arc::new(Schema::new(&self.rows()?));
        if !is_alone {
            *shared() = Some((of.0, of.1, Arc::clone(&schema)));
        }
        Ok(schema)
    }

    fn main_state(&self) -> i32 {
        let entered = self.enter();
        // SAFETY: the connection is open and entered, the name is a C string.
        unsafe { ffi::sqlite3_txn_state(entered.db, c"main".as_ptr()) }
    }

    /// Whether the schema has changes that only this connection can see.
    fn has_own(&self) -> bool {
        if !self.has_changed.load(Ordering::Relaxed) {
            return false;
        }
        let writes = self.main_state() == ffi::SQLITE_TXN_WRITE;
        self.has_changed.store(writes, Ordering::Relaxed);
        writes
    }

    /// All definitions. A connection of its own reads them: this one must not begin a transaction by it, nor find out that
    /// its schema is old earlier than it does on any other VFS. What it has changed in a transaction only it can see.
    fn rows(self: &Arc<Self>) -> Result<Vec<Row>, SqlError> {
        let mut rows = if self.has_own() {
            self.rows_of("main")?
        } else {
            match Connection::open_existing(&self.registration, self.handle().database.name()) {
                Ok(other) => other.inner().rows_of("main")?,
                // The database is gone, and with it all that other connections could change.
                Err(error) if error.code & 0xff == ffi::SQLITE_CANTOPEN => self.rows_of("main")?,
                Err(error) => return Err(error),
            }
        };
        if self.has_others.load(Ordering::Relaxed) {
            let list = self.texts("SELECT name FROM pragma_database_list WHERE name <> 'main'", 1)?;
            for name in list.into_iter().flatten() {
                rows.extend(self.rows_of(&String::from_utf8_lossy(&name))?);
            }
        }
        Ok(rows)
    }

    fn rows_of(self: &Arc<Self>, schema: &str) -> Result<Vec<Row>, SqlError> {
        let quoted = schema.replace('"', "\"\"");
        let sql = format!(
            "SELECT type, name, tbl_name, sql FROM \"{quoted}\".sqlite_schema WHERE type IN ('table', 'view', 'trigger')"
        );
        let rows = self.texts(&sql, 4)?;
        Ok(rows
            .into_iter()
            .filter_map(|row| {
                let [kind, name, table, sql] = <[Vec<u8>; 4]>::try_from(row).ok()?;
                Some(Row { kind, name, table, sql })
            })
            .collect())
    }

    /// Rows of a statement of our own. A schema that SQLite cannot read is one that no statement is compiled with.
    fn texts(self: &Arc<Self>, sql: &str, columns: usize) -> Result<Vec<Vec<Vec<u8>>>, SqlError> {
        let unreadable = |error: &SqlError| {
            matches!(error.code & 0xff, ffi::SQLITE_CORRUPT | ffi::SQLITE_ERROR | ffi::SQLITE_NOTADB)
        };
        let prepared = Statement::prepare(self, sql.as_bytes(), Lifetime::Transient, Interruptible::No);
        let mut statement = match prepared {
            Ok(prepared) => prepared.statement.expect("the text holds a statement"),
            Err(error) if unreadable(&error) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut rows = Vec::new();
        loop {
            match statement.step() {
                Ok(Step::Done) => return Ok(rows),
                Err(error) if unreadable(&error) => return Ok(rows),
                Err(error) => return Err(error),
                Ok(Step::Row) => {}
            }
            rows.push(
                (0..columns)
                    .map(|column| match statement.column(column) {
                        ColumnValue::Text(text) | ColumnValue::Blob(text) => text.to_vec(),
                        _ => Vec::new(),
                    })
                    .collect(),
            );
        }
    }
}
