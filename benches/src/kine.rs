//! The load of a Kubernetes API server through kine: revisions of named values in one table that only grows at its end
//! and is compacted from behind.
//!
//! | share | operation |
//! | --- | --- |
//! | 38 % | newest revision of a name |
//! | 25 % | poll: everything since the newest revision that any poll has seen, as one poller serves all watches |
//! | 22 % | writes, each one `INSERT ... SELECT` from the newest revision: 90 % updates, 5 % creations, 5 % deletions |
//! | 5 % | list: newest revisions below a prefix, 50 names |
//! | 5 % | count below a prefix |
//! | 5 % | newest revision of all |

use std::time::Duration;

use wire_protocol::Value;

use crate::random::{Random, Values};
use crate::session::{Answer, Call, rows_of};
use crate::workload::{Background, Class, Workload};

const NAMES: usize = 1000;
const NAMESPACES: usize = 20;
const MIN_VALUE_LEN: usize = 500;
const MAX_VALUE_LEN: usize = 2048;
/// Revisions that a compaction leaves.
const KEPT_REVISIONS: i64 = 1000;
const COMPACTION_INTERVAL: Duration = Duration::from_millis(500);
const COMPACTION_BATCH: i64 = 500;

const STATEMENTS: [&str; 10] = [
    "SELECT id, name, created, deleted, create_revision, prev_revision, lease, value, old_value FROM kine \
     WHERE name = ? ORDER BY id DESC LIMIT 1",
    "SELECT id, name, created, deleted, create_revision, prev_revision, lease, value, old_value FROM kine \
     WHERE id > ? ORDER BY id LIMIT 500",
    "INSERT INTO kine(name, created, deleted, create_revision, prev_revision, lease, value, old_value) \
     SELECT name, 0, 0, CASE WHEN created THEN id ELSE create_revision END, id, 0, ?, value FROM kine \
     WHERE id = (SELECT MAX(id) FROM kine WHERE name = ?) AND deleted = 0",
    "INSERT INTO kine(name, created, deleted, create_revision, prev_revision, lease, value, old_value) \
     SELECT ?1, 1, 0, 0, COALESCE(MAX(id), 0), 0, ?2, NULL FROM kine WHERE name = ?1 \
     HAVING MAX(id) IS NULL OR deleted = 1",
    "INSERT INTO kine(name, created, deleted, create_revision, prev_revision, lease, value, old_value) \
     SELECT name, 0, 1, CASE WHEN created THEN id ELSE create_revision END, id, 0, NULL, value FROM kine \
     WHERE id = (SELECT MAX(id) FROM kine WHERE name = ?) AND deleted = 0",
    "SELECT id, name, create_revision, prev_revision, lease, value FROM kine JOIN \
     (SELECT MAX(id) AS newest FROM kine WHERE name >= ? AND name < ? GROUP BY name) ON id = newest \
     WHERE deleted = 0 ORDER BY name LIMIT 50",
    "SELECT COUNT(*) FROM (SELECT MAX(id), deleted FROM kine WHERE name >= ? AND name < ? GROUP BY name) \
     WHERE deleted = 0",
    "SELECT MAX(id) FROM kine",
    "DELETE FROM kine WHERE id IN (SELECT prev_revision FROM kine WHERE id > ? AND id <= ? AND prev_revision != 0)",
    "DELETE FROM kine WHERE id > ? AND id <= ? AND deleted = 1",
];
const GET: usize = 0;
const POLL: usize = 1;
const UPDATE: usize = 2;
const CREATE: usize = 3;
const DELETE: usize = 4;
const LIST: usize = 5;
const COUNT: usize = 6;
const NEWEST: usize = 7;
const COMPACT_OLD: usize = 8;
const COMPACT_DELETED: usize = 9;

#[derive(Debug)]
pub(crate) struct Kine {
    values: Values,
    /// Numbers of the names that exist.
    alive: Vec<usize>,
    next_name: usize,
    /// Highest revision known.
    newest: i64,
    /// Highest revision a poll has returned.
    polled: i64,
    compacted: i64,
    /// Up to where the compaction goes that is under way.
    target: i64,
}

impl Kine {
    pub(crate) fn new() -> Self {
        let first = i64::try_from(NAMES).expect("a small number");
        Self {
            values: Values::new(),
            alive: (0..NAMES).collect(),
            next_name: NAMES,
            newest: first,
            polled: first,
            compacted: 0,
            target: 0,
        }
    }

    fn some_name(&self, random: &mut Random) -> Value {
        text(name(self.alive[random.below(self.alive.len())]))
    }

    fn some_value(&self, random: &mut Random) -> Value {
        let len = MIN_VALUE_LEN + random.below(MAX_VALUE_LEN - MIN_VALUE_LEN + 1);
        Value::Blob(self.values.cut(random, len))
    }

    fn write(&mut self, random: &mut Random) -> Call {
        match random.below(20) {
            0 => {
                let number = self.next_name;
                self.next_name += 1;
                Call::Exec(CREATE, vec![text(name(number)), self.some_value(random)])
            }
            // Never the last one.
            1 if self.alive.len() > 1 => {
                let place = random.below(self.alive.len());
                let number = self.alive.swap_remove(place);
                Call::Exec(DELETE, vec![text(name(number))])
            }
            _ => Call::Exec(UPDATE, vec![self.some_value(random), self.some_name(random)]),
        }
    }
}

fn name(number: usize) -> String {
    format!("/registry/pods/ns{:02}/{number:08}", number % NAMESPACES)
}

fn number_of(name: &Value) -> Option<usize> {
    let Value::Text(name) = name else { return None };
    std::str::from_utf8(name).ok()?.rsplit('/').next()?.parse().ok()
}

/// The names of one namespace lie between these.
fn some_prefix(random: &mut Random) -> Vec<Value> {
    let namespace = random.below(NAMESPACES);
    let bound = |end| text(format!("/registry/pods/ns{namespace:02}{end}"));
    vec![bound('/'), bound('0')]
}

fn text(text: String) -> Value {
    Value::Text(text.into())
}

impl Workload for Kine {
    fn set_up(&self) -> Vec<String> {
        vec![
            "CREATE TABLE kine(id INTEGER PRIMARY KEY AUTOINCREMENT, name, created, deleted, create_revision, \
             prev_revision, lease, value BLOB, old_value BLOB)"
                .to_owned(),
            "CREATE INDEX kine_name ON kine(name, id DESC, deleted)".to_owned(),
            format!(
                "WITH RECURSIVE number(n) AS (VALUES(0) UNION ALL SELECT n + 1 FROM number WHERE n + 1 < {NAMES}) \
                 INSERT INTO kine(name, created, deleted, create_revision, prev_revision, lease, value, old_value) \
                 SELECT printf('/registry/pods/ns%02d/%08d', n % {NAMESPACES}, n), 1, 0, 0, 0, 0, \
                 randomblob({MIN_VALUE_LEN} + n * 7919 % {}), NULL FROM number",
                MAX_VALUE_LEN - MIN_VALUE_LEN + 1
            ),
        ]
    }

    fn statements(&self) -> &'static [&'static str] {
        &STATEMENTS
    }

    fn next(&mut self, random: &mut Random, calls: &mut Vec<Call>) -> Class {
        let share = random.below(100);
        calls.push(match share {
            0..38 => Call::Query(GET, vec![self.some_name(random)]),
            38..63 => Call::Query(POLL, vec![Value::Integer(self.polled)]),
            63..85 => self.write(random),
            85..90 => Call::Query(LIST, some_prefix(random)),
            90..95 => Call::Query(COUNT, some_prefix(random)),
            _ => Call::Query(NEWEST, Vec::new()),
        });
        if (63..85).contains(&share) { Class::Write } else { Class::Read }
    }

    fn answered(&mut self, call: &Call, answer: &Answer) -> Result<(), &'static str> {
        match (call, answer) {
            (Call::Exec(UPDATE..=DELETE, _), Answer::Done { last_insert_id }) => {
                self.newest = self.newest.max(last_insert_id.cast_signed());
                if let Call::Exec(CREATE, values) = call {
                    // Not before: somebody would look for it.
                    self.alive.extend(values.first().and_then(number_of));
                }
            }
            (Call::Query(POLL, _), Answer::Rows { frame, .. }) => {
                for row in rows_of(frame).map_err(|_| "a poll cannot be read")? {
                    let Some(Value::Integer(id)) = row.first() else {
                        return Err("a revision is no integer");
                    };
                    self.polled = self.polled.max(*id);
                    self.newest = self.newest.max(*id);
                }
            }
            // Nine columns and a row take more than that.
            (Call::Query(GET, _), Answer::Rows { frame, .. }) if frame.body.len() < 200 => {
                return Err("a name was not found");
            }
            _ => {}
        }
        Ok(())
    }

    fn background(&mut self) -> Background {
        if self.compacted >= self.target {
            let target = self.newest - KEPT_REVISIONS;
            if target <= self.target {
                return Background::Rest(COMPACTION_INTERVAL);
            }
            self.target = target;
            return Background::Rest(COMPACTION_INTERVAL);
        }
        let from = self.compacted;
        self.compacted = self.target.min(from + COMPACTION_BATCH);
        let range = vec![Value::Integer(from), Value::Integer(self.compacted)];
        Background::Work(vec![Call::Exec(COMPACT_OLD, range.clone()), Call::Exec(COMPACT_DELETED, range)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_those_of_the_table() {
        let mut kine = Kine::new();
        let mut random = Random::new(5);
        let mut counts = [0_usize; STATEMENTS.len()];
        for _ in 0..100_000 {
            let mut calls = Vec::new();
            kine.next(&mut random, &mut calls);
            let [Call::Exec(place, _) | Call::Query(place, _)] = calls[..] else {
                panic!("one request each")
            };
            counts[place] += 1;
        }
        let near = |count: usize, share: usize| count.abs_diff(share * 1000) < 1000;
        assert!(near(counts[GET], 38) && near(counts[POLL], 25), "{counts:?}");
        let writes = counts[UPDATE] + counts[CREATE] + counts[DELETE];
        assert!(near(writes, 22) && (counts[UPDATE] * 10).abs_diff(writes * 9) < writes, "{counts:?}");
        assert!(near(counts[LIST] + counts[COUNT] + counts[NEWEST], 15), "{counts:?}");
    }

    #[test]
    fn numbers_come_back_from_names() {
        assert_eq!(number_of(&text(name(1234))), Some(1234));
        assert_eq!(number_of(&Value::Null), None);
    }

    #[test]
    fn compaction_follows_in_batches_and_rests_between() {
        let mut kine = Kine::new();
        assert!(matches!(kine.background(), Background::Rest(_)));
        kine.newest = 2600;
        assert!(matches!(kine.background(), Background::Rest(_)));
        let mut batches = 0;
        while let Background::Work(calls) = kine.background() {
            assert_eq!(calls.len(), 2);
            batches += 1;
        }
        assert_eq!((batches, kine.compacted), (4, 1600));
    }
}
