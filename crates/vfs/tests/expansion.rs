//! Statements that SQLite would copy parts of for ever while it compiles them, and schemas that make it recurse without
//! end: refused before, whichever way they come. What is in ordinary use passes.
#![allow(clippy::unwrap_used, reason = "a failure of a helper is a failure of the test")]

mod common;

use common::*;
use vfs::{Connection, Step};

/// Runs one statement to its end; an error is an answer, too.
fn answer(connection: &mut Connection, sql: &str) -> Result<usize, String> {
    let prepared = connection.prepare(sql.as_bytes()).map_err(|error| error.message)?;
    let mut statement = prepared.statement.unwrap();
    let mut count = 0;
    while statement.step().map_err(|error| error.message)? == Step::Row {
        count += 1;
    }
    Ok(count)
}

fn assert_refused(connection: &mut Connection, sql: &str) {
    let error = answer(connection, sql).unwrap_err();
    let ours = ["too large", "too often", "cannot be compiled"];
    assert!(ours.iter().any(|words| error.contains(words)), "{error}: {sql:.200}");
}

/// Gives `work` a thread like the server's.
fn on_a_large_stack(work: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().stack_size(vfs::STACK_LEN).spawn(work).unwrap().join().unwrap();
}

#[test]
fn views_that_double_are_refused_when_they_are_made_and_when_they_are_used() {
    let pair = pair();
    let mut connection = pair.open();
    exec(&mut connection, "CREATE TABLE t(a); INSERT INTO t VALUES(1); CREATE VIEW v0 AS SELECT a FROM t");
    let view = |n: usize| format!("CREATE VIEW v{n} AS SELECT x.a FROM v{} x, v{} y", n - 1, n - 1);
    let made = (1..60).take_while(|n| answer(&mut connection, &view(*n)).is_ok()).count();
    assert!((8..25).contains(&made), "{made}");
    assert_refused(&mut connection, &view(made + 1));
    assert_eq!(answer(&mut connection, "SELECT * FROM v5"), Ok(1));
    // The statement adds to what the schema has.
    assert_refused(&mut connection, &format!("SELECT 1 FROM v{made}{}", format!(", v{made}").repeat(30)));
    // Another connection knows it too, and what is dropped no longer counts.
    let mut other = pair.open();
    assert_refused(&mut other, &view(made + 1));
    exec(&mut connection, &format!("DROP VIEW v{made}"));
    assert_eq!(answer(&mut other, &view(made)), Ok(0));
}

#[test]
fn views_made_in_the_order_of_their_use_within_one_transaction_are_refused() {
    let pair = pair();
    let mut connection = pair.open();
    exec(&mut connection, "BEGIN; CREATE TABLE v0(a)");
    let views: Vec<_> = (1..60)
        .rev()
        .map(|n| format!("CREATE VIEW v{n} AS SELECT x.a FROM v{} x, v{} y", n - 1, n - 1))
        .collect();
    assert!(views.iter().any(|view| answer(&mut connection, view).is_err()));
    let _ = answer(&mut connection, "SELECT * FROM v59");
    exec(&mut connection, "ROLLBACK");
    // Compiled before any of them is there, run one after the other.
    let mut kept: Vec<_> =
        views.iter().map(|view| connection.prepare(view.as_bytes()).unwrap().statement.unwrap()).collect();
    let refused = kept.iter_mut().filter_map(|statement| statement.step().err()).count();
    assert!(refused >= 2, "{refused}");
    drop(kept);
    let _ = answer(&mut connection, "SELECT * FROM v59");
}

#[test]
fn temporary_views_and_attached_databases_count() {
    let pair = pair();
    let mut connection = pair.open();
    for schema in ["temp", "other"] {
        exec(&mut connection, &format!("CREATE TABLE IF NOT EXISTS {schema}0(a)"));
        if schema == "other" {
            exec(&mut connection, "ATTACH '' AS other");
        }
        let made = (1..60)
            .take_while(|n| {
                let view = format!(
                    "CREATE VIEW {schema}.{schema}{n} AS SELECT 1 FROM {schema}{0}, {schema}{0}",
                    n - 1
                );
                answer(&mut connection, &view).is_ok()
            })
            .count();
        assert!(made < 25, "{made}");
    }
}

#[test]
fn a_kept_statement_is_checked_again_when_the_schema_has_changed() {
    let pair = pair();
    let mut connection = pair.open();
    let mut other = pair.open();
    exec(&mut other, "CREATE TABLE t(a); CREATE VIEW v AS SELECT a FROM t; INSERT INTO t VALUES(1)");
    let uses = ", v".repeat(40);
    let sql = format!("SELECT count(*) FROM v{uses}");
    let mut kept = connection.prepare(sql.as_bytes()).unwrap().statement.unwrap();
    assert_eq!(kept.step().unwrap(), Step::Row);
    kept.reset().unwrap();
    let chain: String = (1..15).map(|n| format!(", c{n} AS (SELECT 1 FROM c{0}, c{0})", n - 1)).collect();
    exec(
        &mut other,
        &format!("DROP VIEW v; CREATE VIEW v AS WITH c0 AS (SELECT 1){chain} SELECT 1 AS a FROM c14"),
    );
    assert!(kept.step().unwrap_err().message.contains("too large"));
    exec(&mut other, "DROP VIEW v; CREATE VIEW v AS SELECT a FROM t");
    assert_eq!(kept.step().unwrap(), Step::Row);
}

#[test]
fn what_another_program_has_put_into_the_schema_can_be_seen_and_dropped_but_not_used() {
    on_a_large_stack(|| {
        let pair = pair();
        let mut foreign = pair.open();
        // Statements of the node itself are not checked, as those of another program are not.
        let tables: String = (0..2_500).map(|n| format!("CREATE TABLE t{n}(a);")).collect();
        let triggers: String = (1..2_500)
            .map(|n| {
                format!(
                    "CREATE TRIGGER r{n} AFTER INSERT ON t{} BEGIN INSERT INTO t{n} VALUES(1); END;",
                    n - 1
                )
            })
            .collect();
        let views: String =
            (1..40).map(|n| format!("CREATE VIEW v{n} AS SELECT 1 FROM v{0}, v{0};", n - 1)).collect();
        let all = format!(
            "BEGIN; CREATE TABLE g(a); CREATE VIEW v0 AS SELECT a FROM g; {tables}{triggers}{views}COMMIT"
        );
        foreign.exec_simple(all.as_bytes()).unwrap();
        drop(foreign);
        let mut connection = pair.open();
        for sql in [
            "INSERT INTO t0 VALUES(1)",
            "SELECT * FROM v39",
            "SELECT * FROM \"V39\"",
            "PRAGMA table_info(v39)",
            "SELECT * FROM pragma_table_info('v' || '39')",
            "ALTER TABLE g RENAME TO h",
            "PRAGMA table_list",
            "WITH c AS (SELECT * FROM v39) SELECT * FROM c",
            "EXPLAIN INSERT INTO t0 VALUES(1)",
        ] {
            assert_refused(&mut connection, sql);
        }
        assert_eq!(answer(&mut connection, "SELECT name FROM sqlite_schema WHERE name = 'v39'"), Ok(1));
        assert_eq!(answer(&mut connection, "INSERT INTO g VALUES(1)"), Ok(0));
        assert_eq!(answer(&mut connection, "INSERT INTO t2498 VALUES(1)"), Ok(0));
        assert_eq!(answer(&mut connection, "SELECT * FROM v3"), Ok(1));
        for n in (5..40).rev() {
            assert_eq!(answer(&mut connection, &format!("DROP VIEW v{n}")), Ok(0));
        }
        for n in (1..2_500).step_by(500) {
            assert_eq!(answer(&mut connection, &format!("DROP TRIGGER r{n}")), Ok(0));
        }
        assert_eq!(answer(&mut connection, "INSERT INTO t0 VALUES(1)"), Ok(0));
        assert_eq!(answer(&mut connection, "ALTER TABLE g RENAME TO h"), Ok(0));
    });
}

#[test]
fn triggers_foreign_keys_and_generated_columns_beyond_the_bound_are_refused_one_by_one() {
    on_a_large_stack(|| {
        let pair = pair();
        let mut connection = pair.open();
        let tables: String = (0..2_500).map(|n| format!("CREATE TABLE t{n}(a);")).collect();
        let trigger = |n: usize| {
            format!("CREATE TRIGGER r{n} AFTER INSERT ON t{} BEGIN INSERT INTO t{n} VALUES(1); END", n - 1)
        };
        exec(&mut connection, &format!("BEGIN; {tables}"));
        let triggers = (1..2_500).take_while(|n| answer(&mut connection, &trigger(*n)).is_ok()).count();
        assert!((1_000..2_400).contains(&triggers), "{triggers}");
        exec(&mut connection, "COMMIT");
        let other = common::pair();
        let mut second = other.open();
        let key = |n: usize| {
            format!("CREATE TABLE f{n}(a INTEGER PRIMARY KEY REFERENCES f{} ON DELETE CASCADE)", n - 1)
        };
        exec(&mut second, "BEGIN; CREATE TABLE f0(a INTEGER PRIMARY KEY)");
        let keys = (1..2_500).take_while(|n| answer(&mut second, &key(*n)).is_ok()).count();
        assert!((1_000..2_400).contains(&keys), "{keys}");
        exec(&mut second, "COMMIT");
        // Deeper than they may run, but they are compiled and the node stays alive.
        let _ = answer(&mut connection, "INSERT INTO t0 VALUES(1)");
        let _ = answer(&mut second, "DELETE FROM f0");
        exec(&mut connection, "CREATE TABLE g(c0)");
        let columns = (1..100)
            .take_while(|n| {
                let sql = format!("ALTER TABLE g ADD COLUMN c{n} AS (c{0}+c{0})", n - 1);
                answer(&mut connection, &sql).is_ok()
            })
            .count();
        assert!((8..25).contains(&columns), "{columns}");
        assert_eq!(answer(&mut connection, "SELECT * FROM g"), Ok(0));
    });
}

#[test]
fn looking_at_the_schema_begins_no_transaction() {
    let pair = pair();
    let mut connection = pair.open();
    let mut other = pair.open();
    exec(&mut connection, "CREATE TABLE t(a); BEGIN");
    exec(&mut other, "CREATE TABLE u(a)");
    let mut statement = connection.prepare(b"INSERT INTO t VALUES(1)").unwrap().statement.unwrap();
    assert_eq!(connection.transaction_state(), vfs::TransactionState::None);
    exec(&mut other, "INSERT INTO u VALUES(1)");
    assert_eq!(statement.step().unwrap(), Step::Done, "its snapshot is not older than this");
    drop(statement);
    exec(&mut connection, "COMMIT");
}

#[test]
fn statements_of_many_forms_pass() {
    let pair = pair();
    let mut connection = pair.open();
    exec(
        &mut connection,
        "CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT, c AS (a+1), d AS (c*2) STORED, FOREIGN KEY (b) REFERENCES u(b));
        CREATE TABLE u(b TEXT PRIMARY KEY) WITHOUT ROWID;
        CREATE VIEW v(x, y) AS SELECT t.a, u.b FROM t JOIN u USING (b) WHERE t.a IN (SELECT a FROM t) UNION SELECT 1, 'z';
        CREATE TRIGGER r INSTEAD OF INSERT ON v BEGIN INSERT INTO u VALUES(new.y); SELECT CASE WHEN 1 THEN 2 END; END;
        INSERT INTO v VALUES(1, 'q'); INSERT INTO u VALUES('z')",
    );
    for sql in [
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c WHERE x<5), d AS MATERIALIZED (SELECT * FROM c) \
         SELECT c.x, d.x FROM c, d WHERE c.x = d.x ORDER BY 1",
        "SELECT sum(a) OVER w, count(*) FILTER (WHERE a > 1) OVER (w ROWS 1 PRECEDING) FROM t WINDOW w AS (ORDER BY a)",
        "INSERT INTO t(a, b) SELECT x, y FROM v WHERE true ON CONFLICT(a) DO UPDATE SET b = excluded.b RETURNING a, b",
        "UPDATE t SET b = s.y FROM (SELECT * FROM v) AS s WHERE s.x = t.a",
        "DELETE FROM t WHERE a IN (WITH c AS (SELECT x FROM v) SELECT x FROM c) OR EXISTS (SELECT 1 FROM u WHERE u.b = t.b)",
        "SELECT * FROM (t NATURAL LEFT JOIN (u CROSS JOIN v)), json_each('[1]') AS j WHERE j.value IS DISTINCT FROM t.a",
        "EXPLAIN QUERY PLAN SELECT CAST(a AS DECIMAL(10, 2)), (SELECT max(x) FROM v) FROM t GROUP BY a HAVING b > 'a' LIMIT 1",
        "VALUES (1, 2), (3, 4)",
        "SELECT 1 UNION SELECT 2 EXCEPT SELECT 3 INTERSECT SELECT 1",
    ] {
        assert!(answer(&mut connection, sql).is_ok(), "{sql}: {:?}", answer(&mut connection, sql));
    }
    // Generated by a program: 20 steps, each of which uses the first ones and the one before.
    let steps: String = (2..20)
        .map(|n| {
            format!(
                ", s{n} AS (SELECT p.x, p.y, coalesce(p.x, q.x, 0) AS z{n} FROM s{} p LEFT JOIN s0 q ON q.x = p.x \
                 LEFT JOIN s1 r ON r.y = p.y WHERE p.x IS NOT NULL)",
                n - 1
            )
        })
        .collect();
    let sql =
        format!("WITH s0 AS (SELECT x, y FROM v), s1 AS (SELECT x, y FROM s0){steps} SELECT x, y FROM s19");
    assert!(answer(&mut connection, &sql).is_ok(), "{:?}", answer(&mut connection, &sql));
}
