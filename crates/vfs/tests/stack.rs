//! What clients can make SQLite recurse, driven to its limits on a thread with the stack that the server gives.
//! The stack is filled with a pattern before, and what is left of it is counted afterwards.
#![allow(clippy::unwrap_used, reason = "a failure of a helper is a failure of the test")]

mod common;

use bytes::Bytes;
use common::*;
use vfs::{Connection, Step};

/// A byte that nothing fills a stack with.
const PATTERN: u64 = 0xa5c3_5a3c_a5c3_5a3c;

/// Runs `work` with a fresh connection on a thread of [`vfs::STACK_LEN`] and gives the bytes of stack it touched.
fn stack_of(work: impl FnOnce(&mut Connection) + Send + 'static) -> usize {
    let thread = std::thread::Builder::new().stack_size(vfs::STACK_LEN).spawn(move || {
        let pair = pair();
        let mut connection = pair.open();
        let painted = paint(vfs::STACK_LEN - (512 << 10));
        work(&mut connection);
        drop(connection);
        untouched(&painted)
    });
    thread.unwrap().join().unwrap()
}

/// Lowest address of the stack that was filled, and how much.
struct Painted {
    low: usize,
    words: usize,
}

#[inline(never)]
fn paint(len: usize) -> Painted {
    let words = len / 8;
    let mark = 0_u64;
    let low = (std::ptr::from_ref(&mark).addr() & !7) - len;
    let low_pointer = std::ptr::from_ref(&mark).cast_mut().with_addr(low);
    for word in (0..words - 1024).rev() {
        // SAFETY: memory of this thread's stack below all frames in use; nothing lives there.
        unsafe { low_pointer.wrapping_add(word).write_volatile(PATTERN) };
    }
    Painted { low, words }
}

/// Bytes between the top of what was filled and the lowest word that was written to since; 0 for less than a page or two.
#[inline(never)]
fn untouched(painted: &Painted) -> usize {
    let mark = 0_u64;
    let low = std::ptr::from_ref(&mark).with_addr(painted.low);
    for word in 0..painted.words - 1024 {
        // SAFETY: part of this thread's stack, filled before.
        if unsafe { low.wrapping_add(word).read_volatile() } != PATTERN {
            return (painted.words - word) * 8;
        }
    }
    0
}

/// Runs one statement to its end; an error is an answer, too.
fn answer(connection: &mut Connection, sql: &str) -> Result<usize, String> {
    answer_with(connection, sql, &[])
}

fn answer_with(connection: &mut Connection, sql: &str, texts: &[&str]) -> Result<usize, String> {
    let prepared = connection.prepare(sql.as_bytes()).map_err(|error| error.message)?;
    let mut statement = prepared.statement.unwrap();
    for (index, text) in texts.iter().enumerate() {
        statement
            .bind_text(index + 1, Bytes::copy_from_slice(text.as_bytes()))
            .map_err(|error| error.message)?;
    }
    let mut count = 0;
    while statement.step().map_err(|error| error.message)? == Step::Row {
        count += 1;
    }
    Ok(count)
}

fn chain(links: usize, link: impl Fn(usize) -> String) -> String {
    let links: String = (1..links).map(|number| format!(",c{number} AS ({})", link(number - 1))).collect();
    let last = links.matches(" AS (").count();
    format!("WITH c0 AS (SELECT 1 AS a){links} SELECT * FROM c{last}")
}

fn assert_half(what: &str, used: usize) {
    println!("{what}: {} KiB of stack", used >> 10);
    assert!(used <= vfs::STACK_LEN / 2, "{what}: {} of {} bytes of stack", used, vfs::STACK_LEN);
}

#[test]
fn patterns_of_like_and_glob_up_to_the_limit() {
    for (operator, piece) in [("LIKE", "%a"), ("GLOB", "*a")] {
        let used = stack_of(move |connection| {
            let sql = format!("SELECT ? {operator} ?");
            let (value, pattern) = ("a".repeat(24_999) + "b", piece.repeat(24_999) + "b");
            assert_eq!(answer_with(connection, &sql, &[&value, &pattern]), Ok(1), "C answers, so do we");
            let longer = piece.repeat(30_000);
            assert!(answer_with(connection, &sql, &[&value, &longer]).is_err());
        });
        assert_half(operator, used);
        assert!(used > 1 << 20, "the case that exhausted a stack of 2 MiB");
    }
}

/// The longest of such statements that is answered, found by halving; longer ones get a clean error.
fn longest(connection: &mut Connection, limit: usize, sql: &dyn Fn(usize) -> String) -> usize {
    let (mut good, mut bad) = (1, limit);
    assert!(answer(connection, &sql(good)).is_ok(), "{:?}", answer(connection, &sql(good)));
    assert!(answer(connection, &sql(bad)).is_err(), "{limit} must be refused");
    while bad - good > good / 16 + 1 {
        let middle = usize::midpoint(good, bad);
        if answer(connection, &sql(middle)).is_ok() { good = middle } else { bad = middle }
    }
    good
}

type Text = Box<dyn Fn(usize) -> String + Send>;

#[test]
fn recursion_in_one_statement_is_bounded_before_it_is_compiled() {
    let operators = |count: usize| "+1".repeat(count);
    let cases: Vec<(&str, usize, usize, Text)> = vec![
        ("chained ctes", 20_000, 500, Box::new(|n| chain(n, |c| format!("SELECT * FROM c{c}")))),
        (
            "chained unions",
            20_000,
            300,
            Box::new(|n| chain(n, |c| format!("SELECT a FROM c{c} UNION SELECT 2"))),
        ),
        (
            "ctes that grow one expression",
            200,
            5,
            Box::new(move |n| chain(n, |c| format!("SELECT a{} AS a FROM c{c}", operators(900)))),
        ),
        (
            "generated columns",
            200,
            5,
            Box::new(move |n| {
                let columns: String =
                    (1..n).map(|c| format!(",c{c} AS (c{}{})", c - 1, operators(900))).collect();
                format!("CREATE TABLE IF NOT EXISTS g{n}(c0{columns})")
            }),
        ),
        ("an expression", 5_000, 900, Box::new(move |n| format!("SELECT 1{}", operators(n)))),
        ("a compound", 5_000, 450, Box::new(|n| format!("SELECT 1{}", " UNION SELECT 2".repeat(n)))),
        (
            "nested subqueries",
            20_000,
            10,
            Box::new(|n| format!("{}SELECT 1 AS a{}", "SELECT a FROM (".repeat(n), ")".repeat(n))),
        ),
        (
            "nested scalar subqueries",
            20_000,
            10,
            Box::new(|n| format!("SELECT {}1{}", "(SELECT ".repeat(n), ")".repeat(n))),
        ),
        (
            "nested window functions",
            20_000,
            5,
            Box::new(|n| {
                format!("{}SELECT 1 AS a{}", "SELECT sum(a) OVER () AS a FROM (".repeat(n), ")".repeat(n))
            }),
        ),
        ("parentheses", 20_000, 20, Box::new(|n| format!("SELECT {}1{}", "(".repeat(n), ")".repeat(n)))),
        (
            "joins in parentheses",
            20_000,
            10,
            Box::new(|n| format!("SELECT 1 FROM {}(SELECT 1){}", "(".repeat(n), ")".repeat(n))),
        ),
    ];
    for (what, refused, answered, sql) in cases {
        let used = stack_of(move |connection| {
            let longest = longest(connection, refused, &*sql);
            println!("{what}: up to {longest}");
            assert!(longest >= answered, "{what}: {longest} is less than ordinary use");
        });
        assert_half(what, used);
    }
}

#[test]
fn generated_columns_that_build_on_each_other_can_be_read() {
    let used = stack_of(|connection| {
        let columns: String = (1..7).map(|c| format!(",c{c} AS (c{}{})", c - 1, "+1".repeat(900))).collect();
        assert!(answer(connection, &format!("CREATE TABLE g(c0{columns})")).is_ok());
        let chain: String = (1..700).map(|c| format!(",c{c} AS (c{}+1)", c - 1)).collect();
        assert!(answer(connection, &format!("CREATE TABLE h(c0{chain})")).is_ok());
        assert_eq!(answer(connection, "SELECT * FROM g, h"), Ok(0));
        assert_eq!(answer(connection, "INSERT INTO g VALUES(1)"), Ok(0));
        assert_eq!(answer(connection, "SELECT c6 FROM g WHERE c6 > 1"), Ok(1));
    });
    assert_half("generated columns", used);
}

#[test]
fn triggers_and_cascades_a_thousand_deep_are_run() {
    let used = stack_of(|connection| {
        let mut sql = String::from("BEGIN; CREATE TABLE t0(a); CREATE TABLE f0(a INTEGER PRIMARY KEY);");
        for n in 1..1_000 {
            let before = n - 1;
            sql += &format!(
                "CREATE TABLE t{n}(a);
                CREATE TRIGGER r{n} AFTER INSERT ON t{before} BEGIN INSERT INTO t{n} VALUES(new.a); END;
                CREATE TABLE f{n}(a INTEGER PRIMARY KEY REFERENCES f{before} ON DELETE CASCADE);"
            );
        }
        exec(connection, &(sql + "COMMIT"));
        assert_eq!(answer(connection, "INSERT INTO t0 VALUES(1)"), Ok(0));
        assert_eq!(answer(connection, "SELECT * FROM t999"), Ok(1));
        assert_eq!(answer(connection, "DELETE FROM f0"), Ok(0));
        assert_eq!(answer(connection, "ALTER TABLE t0 RENAME COLUMN a TO b"), Ok(0));
    });
    assert_half("triggers and cascades", used);
}

#[test]
fn values_that_nest_are_answered() {
    let used = stack_of(|connection| {
        let nested = |n: usize| "[".repeat(n) + &"]".repeat(n);
        for n in [900, 100_000] {
            let _ = answer_with(connection, "SELECT json(?)", &[&nested(n)]);
            let _ = answer_with(connection, "SELECT count(*) FROM json_tree(?)", &[&nested(n)]);
        }
        let object = |n: usize| "{\"a\":".repeat(n) + "1" + &"}".repeat(n);
        for n in [900, 100_000] {
            let _ = answer_with(connection, "SELECT json_patch(?, ?)", &[&object(n), &object(n)]);
        }
        for module in ["fts3", "fts4", "fts5"] {
            if answer(connection, &format!("CREATE VIRTUAL TABLE {module} USING {module}(x)")).is_err() {
                continue;
            }
            let sql = format!("SELECT * FROM {module} WHERE {module} MATCH ?");
            for query in [
                "(".repeat(2_000) + "a" + &")".repeat(2_000),
                "a NOT ".repeat(2_000) + "a",
                "a OR ".repeat(9_000) + "a",
            ] {
                let _ = answer_with(connection, &sql, &[&query]);
            }
        }
        assert_eq!(answer(connection, "SELECT 1"), Ok(1));
    });
    assert_half("values that nest", used);
}

#[test]
fn large_inserts_stay() {
    let used = stack_of(|connection| {
        exec(connection, "CREATE TABLE t(a, b)");
        let rows = format!("INSERT INTO t VALUES (0, 'x'){}", ", (1+1, 'text (with; marks')".repeat(50_000));
        assert_eq!(answer(connection, &rows), Ok(0));
        let list = format!("SELECT * FROM t WHERE a IN (1{})", ", 2".repeat(50_000));
        assert_eq!(answer(connection, &list), Ok(50_000));
    });
    assert_half("large inserts", used);
}
