//! Random SQL over a handful of names. Many statements fail, which is wanted: errors are compared as well.

use super::rng::Rng;

const TABLES: [&str; 5] = ["t0", "t1", "t2", "t3", "t4"];
const SAVEPOINTS: [&str; 3] = ["s0", "s1", "s2"];
const CONFLICTS: [&str; 6] = ["", "OR REPLACE", "OR IGNORE", "OR FAIL", "OR ABORT", "OR ROLLBACK"];

/// What a run is about; the weights of the statements follow from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// A bit of everything.
    Mixed,
    /// Long transactions, small caches, savepoints.
    Spills,
    /// Many changes of the schema.
    Schema,
}

/// The next statement.
pub fn statement(rng: &mut Rng, flavour: Flavour) -> String {
    let roll = rng.below(100);
    match flavour {
        Flavour::Mixed => match roll {
            0..12 => schema(rng),
            12..45 => change(rng, 40),
            45..60 => query(rng),
            60..85 => transaction(rng),
            85..92 => pragma(rng),
            92..95 => vacuum(rng),
            _ => bulk(rng, 120),
        },
        Flavour::Spills => match roll {
            0..6 => schema(rng),
            6..30 => change(rng, 20),
            30..55 => bulk(rng, 400),
            55..62 => query(rng),
            62..90 => transaction(rng),
            90..98 => pragma(rng),
            _ => vacuum(rng),
        },
        Flavour::Schema => match roll {
            0..45 => schema(rng),
            45..70 => change(rng, 40),
            70..80 => query(rng),
            80..96 => transaction(rng),
            _ => pragma(rng),
        },
    }
}

/// Statements that every run begins with.
pub fn preamble(rng: &mut Rng, flavour: Flavour) -> Vec<String> {
    let mut statements = Vec::new();
    if rng.once_in(3) {
        statements.push(format!("PRAGMA auto_vacuum={}", rng.below(3)));
        statements.push("VACUUM".to_owned());
    }
    if flavour == Flavour::Spills {
        statements.push(format!("PRAGMA cache_size={}", rng.below(20) + 1));
    }
    statements.push("CREATE TABLE log(id INTEGER PRIMARY KEY AUTOINCREMENT, what, a)".to_owned());
    for table in &TABLES[..2] {
        statements.push(format!("CREATE TABLE {table}(a INTEGER PRIMARY KEY, b, c)"));
    }
    statements.push("CREATE INDEX i0 ON t0(b)".to_owned());
    statements
}

fn key(rng: &mut Rng) -> u64 {
    rng.below(60)
}

/// An expression that gives the same value everywhere, from a number to some pages.
fn value(rng: &mut Rng) -> String {
    match rng.below(10) {
        0 => "NULL".to_owned(),
        1 | 2 => key(rng).to_string(),
        3 => format!("{}.25", rng.below(1000)),
        4 | 5 => format!("printf('%.*c', {}, 'x')", rng.below(300)),
        6 => format!("printf('%.*c', {}, 'y')", rng.below(9000)),
        7 => format!("zeroblob({})", rng.below(200)),
        8 => format!("zeroblob({})", rng.below(60_000)),
        _ => format!("CAST(printf('%.*c', {}, 'z') AS BLOB)", rng.below(20_000)),
    }
}

fn schema(rng: &mut Rng) -> String {
    let table = rng.pick(&TABLES);
    let other = rng.pick(&TABLES);
    match rng.below(16) {
        0 => format!("CREATE TABLE {table}(a INTEGER PRIMARY KEY, b, c)"),
        1 => format!(
            "CREATE TABLE IF NOT EXISTS {table}(a INTEGER PRIMARY KEY, b UNIQUE, c CHECK(c IS NOT 13))"
        ),
        2 => format!("CREATE TABLE {table}(a INT, b, c, PRIMARY KEY(a, b)) WITHOUT ROWID"),
        3 => format!(
            "CREATE TABLE {table}(a INTEGER PRIMARY KEY, b REFERENCES {other}(a) {}, c)",
            rng.pick(&["ON DELETE CASCADE", "ON DELETE SET NULL", "", "DEFERRABLE INITIALLY DEFERRED"])
        ),
        4 | 5 => format!("DROP TABLE {table}"),
        6 | 7 => format!("CREATE INDEX i{} ON {table}(b, c)", rng.below(4)),
        8 => format!("CREATE UNIQUE INDEX i{} ON {table}(c)", rng.below(4)),
        9 => format!("DROP INDEX i{}", rng.below(4)),
        10 => format!("ALTER TABLE {table} ADD COLUMN d{} DEFAULT 5", rng.below(3)),
        11 => format!("ALTER TABLE {table} RENAME TO {other}"),
        12 => format!(
            "CREATE TRIGGER g{} AFTER {} ON {table} BEGIN INSERT INTO log(what, a) VALUES('{table}', 1); END",
            rng.below(4),
            rng.pick(&["INSERT", "UPDATE", "DELETE"])
        ),
        13 => format!(
            "CREATE TRIGGER g{} BEFORE INSERT ON {table} WHEN new.b = 7 BEGIN SELECT RAISE({}); END",
            rng.below(4),
            rng.pick(&["ABORT, 'seven'", "FAIL, 'seven'", "IGNORE", "ROLLBACK, 'seven'"])
        ),
        14 => format!("DROP TRIGGER g{}", rng.below(4)),
        _ => format!("CREATE TEMP TABLE p{} AS SELECT * FROM {table}", rng.below(2)),
    }
}

fn change(rng: &mut Rng, rows: u64) -> String {
    let table = rng.pick(&TABLES);
    match rng.below(14) {
        0..5 => format!(
            "INSERT {} INTO {table}(a, b, c) VALUES({}, {}, {})",
            rng.pick(&CONFLICTS),
            key(rng),
            value(rng),
            value(rng)
        ),
        // Meets existing keys in the middle, so that some rows are in when it fails.
        5 => format!(
            "WITH RECURSIVE n(i) AS (SELECT {} UNION ALL SELECT i + 1 FROM n LIMIT {}) \
             INSERT {} INTO {table}(a, b, c) SELECT i, i % 11, {} FROM n",
            key(rng),
            rng.below(rows) + 1,
            rng.pick(&CONFLICTS),
            value(rng)
        ),
        6 | 7 => format!(
            "UPDATE {} {table} SET b = {} WHERE a % {} = 0",
            rng.pick(&CONFLICTS),
            value(rng),
            rng.below(9) + 1
        ),
        8 => format!("UPDATE {table} SET a = a + {} WHERE a > {}", rng.below(5), key(rng)),
        9 | 10 => format!("DELETE FROM {table} WHERE a % {} = 1", rng.below(9) + 1),
        11 => format!("DELETE FROM {table}"),
        12 => format!(
            "INSERT INTO {table}(a, b, c) VALUES({}, {}, 1) ON CONFLICT(a) DO UPDATE SET c = excluded.b RETURNING a, c",
            key(rng),
            key(rng)
        ),
        _ => format!("INSERT INTO temp.p{} SELECT a, b, c FROM {table}", rng.below(2)),
    }
}

/// Many pages at once.
fn bulk(rng: &mut Rng, rows: u64) -> String {
    let table = rng.pick(&TABLES);
    if rng.once_in(4) {
        return format!("UPDATE {table} SET c = zeroblob({})", rng.below(5000));
    }
    format!(
        "WITH RECURSIVE n(i) AS (SELECT {} UNION ALL SELECT i + 1 FROM n LIMIT {}) \
         INSERT {} INTO {table}(a, b, c) SELECT i, printf('%.*c', {}, 'b'), i FROM n",
        key(rng) + 100,
        rng.below(rows) + 1,
        rng.pick(&CONFLICTS),
        rng.below(3000)
    )
}

fn query(rng: &mut Rng) -> String {
    let table = rng.pick(&TABLES);
    match rng.below(10) {
        0 => format!("SELECT count(*), sum(length(b)), sum(length(c)) FROM {table}"),
        1 => format!("SELECT * FROM {table} WHERE b = {}", key(rng)),
        2 => format!("SELECT * FROM {table} ORDER BY c, a LIMIT 20"),
        3 => format!("SELECT x.a, y.a FROM {table} x JOIN t0 y ON x.b = y.b ORDER BY 1, 2 LIMIT 30"),
        4 => "SELECT type, name, tbl_name, rootpage, sql FROM sqlite_schema".to_owned(),
        5 => "PRAGMA page_count; PRAGMA freelist_count; PRAGMA schema_version".to_owned(),
        6 => "PRAGMA integrity_check".to_owned(),
        7 => "PRAGMA foreign_key_check".to_owned(),
        8 => format!("SELECT * FROM log WHERE id % {} = 0", rng.below(5) + 1),
        _ => format!("SELECT count(*) FROM temp.p{}", rng.below(2)),
    }
}

fn transaction(rng: &mut Rng) -> String {
    let savepoint = rng.pick(&SAVEPOINTS);
    match rng.below(12) {
        0 | 1 => "BEGIN".to_owned(),
        2 => "BEGIN IMMEDIATE".to_owned(),
        3..5 => format!("SAVEPOINT {savepoint}"),
        5..7 => format!("ROLLBACK TO {savepoint}"),
        7 => format!("RELEASE {savepoint}"),
        8..11 => "COMMIT".to_owned(),
        _ => "ROLLBACK".to_owned(),
    }
}

fn pragma(rng: &mut Rng) -> String {
    match rng.below(9) {
        0 | 1 => format!("PRAGMA cache_size={}", rng.below(30) + 1),
        2 => format!("PRAGMA cache_spill={}", rng.pick(&["1", "5", "0"])),
        3 => format!("PRAGMA user_version={}", rng.below(1000)),
        4 => format!("PRAGMA incremental_vacuum({})", rng.below(20)),
        5 => format!("PRAGMA foreign_keys={}", rng.below(2)),
        6 => format!("PRAGMA secure_delete={}", rng.below(2)),
        7 => "ANALYZE".to_owned(),
        _ => "REINDEX".to_owned(),
    }
}

fn vacuum(rng: &mut Rng) -> String {
    if rng.once_in(4) { format!("PRAGMA auto_vacuum={}", rng.below(3)) } else { "VACUUM".to_owned() }
}
