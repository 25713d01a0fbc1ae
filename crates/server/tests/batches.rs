//! EXEC_SQL of a text with many statements.
#![allow(clippy::unwrap_used, reason = "a failure of a helper is a failure of the test")]

mod common;

use std::time::{Duration, Instant};

use common::TestNode;

/// SQLite used to copy all that was left of the text for each statement: four times the text took eleven times as long.
#[test]
fn time_of_a_batch_grows_with_its_length_and_not_with_its_square() {
    let node = TestNode::start(1);
    let mut client = node.open();
    client.exec_sql("CREATE TABLE t(a, b)", &[]).unwrap();
    let text = |statements: usize| {
        let row = "INSERT INTO t VALUES(1, 'some text that a program inserts');";
        format!("BEGIN;{}COMMIT", row.repeat(statements))
    };
    let mut time = |text: &str| {
        let started = Instant::now();
        client.exec_sql(text, &[]).unwrap();
        started.elapsed()
    };
    let (short_text, long_text) = (text(8_000), text(32_000));
    let (mut short, mut long) = (Duration::MAX, Duration::MAX);
    // The least of several, since others use the processors, too.
    for _ in 0..8 {
        short = short.min(time(&short_text));
        long = long.min(time(&long_text));
        if long < short * 7 {
            return;
        }
    }
    panic!("{short:?} for 8,000 statements, {long:?} for 32,000");
}
