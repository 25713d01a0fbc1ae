//! Whether any order of what clients did explains all that they were told.
//!
//! Lists are judged by `adya`, which looks for the cycles that strict serializability forbids; sets, registers and accounts
//! by rules so simple that they need no proof.

use std::collections::{BTreeMap, BTreeSet};

use adya::{Opts, Valid, Workload};

use super::history::{Access, End, History, Timed};
use super::workload::{Stored, TOTAL};

/// What answers must agree with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// Every answer agrees with real time.
    Strict,
    /// Reads may be of a state that was the newest a while ago; writes are ordered all the same, and none is lost.
    ReadsMayBeOld,
}

/// How many findings are told.
const TOLD: usize = 10;

/// Judges a history, and what is stored in the end.
///
/// # Errors
///
/// What nothing explains.
pub fn judge(history: &History, stored: &Stored, strictness: Strictness) -> Result<(), String> {
    let mut findings = history.strange.clone();
    findings.extend(lists(history, strictness));
    let lost = history
        .appended
        .iter()
        .filter(|(key, value)| stored.lists.get(key).is_none_or(|list| !list.contains(value)));
    findings.extend(lost.map(|(key, value)| format!("list {key}: the acknowledged {value} is lost")));
    findings.extend(set(&history.set, &stored.set));
    findings.extend(registers(&history.registers, strictness));
    let wrong = history.totals.iter().chain([&stored.total]).filter(|total| **total != TOTAL).count();
    if wrong > 0 {
        findings.push(format!("{wrong} times the accounts held another total than {TOTAL}"));
    }
    if findings.is_empty() {
        return Ok(());
    }
    let count = findings.len();
    findings.truncate(TOLD);
    Err(format!("{count} findings:\n{}", findings.join("\n")))
}

/// Lists: no cycle that the model forbids.
fn lists(history: &History, strictness: Strictness) -> Vec<String> {
    let model = match strictness {
        Strictness::Strict => "strict-serializable",
        Strictness::ReadsMayBeOld => "serializable",
    };
    let parsed = match adya::History::from_json(history.lists()) {
        Ok(parsed) => parsed,
        Err(error) => return vec![format!("the history cannot be read: {error}")],
    };
    let options = Opts { models: vec![model.to_owned()], ..Opts::default() };
    let report = adya::check(&parsed, Workload::ListAppend, &options);
    match report.valid {
        Valid::True => Vec::new(),
        Valid::False => {
            let told = report.anomalies.iter().flat_map(|(kind, found)| {
                found.iter().take(2).map(move |anomaly| format!("lists, {kind}: {}", anomaly.explanation))
            });
            told.collect()
        }
        Valid::Unknown => vec![format!("lists: the checker is not sure: {:?}", report.anomaly_types)],
    }
}

/// A set: what was acknowledged is there, what was refused is not, and nothing else is.
fn set(added: &[Timed<i64>], stored: &BTreeSet<i64>) -> Vec<String> {
    let mut findings = Vec::new();
    let mut known = BTreeSet::new();
    for timed in added {
        known.insert(timed.what);
        let there = stored.contains(&timed.what);
        match timed.outcome {
            End::Ok if !there => {
                findings.push(format!("set: {} was acknowledged at {:?} and is lost", timed.what, timed.end));
            }
            End::Fail if there => {
                findings.push(format!("set: {} was refused at {:?} and is there", timed.what, timed.end));
            }
            _ => {}
        }
    }
    findings.extend(stored.difference(&known).map(|value| format!("set: nobody added {value}")));
    findings
}

/// Registers: a read gives a value whose write had begun, and that was not replaced for certain before the read began.
fn registers(accesses: &[Timed<Access>], strictness: Strictness) -> Vec<String> {
    let mut keys: BTreeMap<i64, (Vec<Write<'_>>, Vec<Read<'_>>)> = BTreeMap::new();
    for timed in accesses {
        match timed.what {
            Access::Write(key, value) => keys.entry(key).or_default().0.push((value, timed)),
            Access::Read(key, value) if timed.outcome == End::Ok => {
                keys.entry(key).or_default().1.push((value, timed));
            }
            Access::Read(..) => {}
        }
    }
    keys.iter().flat_map(|(key, (writes, reads))| register(*key, writes, reads, strictness)).collect()
}

type Write<'a> = (i64, &'a Timed<Access>);
type Read<'a> = (i64, &'a Timed<Access>);

fn register(key: i64, writes: &[Write<'_>], reads: &[Read<'_>], strictness: Strictness) -> Vec<String> {
    let mut findings = Vec::new();
    let by_value: BTreeMap<i64, &Timed<Access>> = writes.iter().copied().collect();
    for (value, read) in reads {
        // Every register begins with 0, which is older than any write.
        let source = by_value.get(value).copied();
        match source {
            None if *value != 0 => {
                findings.push(format!("register {key}: nobody wrote {value}, read at {:?}", read.end));
                continue;
            }
            Some(write) if write.outcome == End::Fail => {
                findings.push(format!("register {key}: {value} was refused, and read at {:?}", read.end));
            }
            Some(write) if write.start > read.end => {
                findings.push(format!("register {key}: {value} was read before it was written"));
            }
            _ => {}
        }
        if strictness == Strictness::ReadsMayBeOld {
            continue;
        }
        let replaced = writes.iter().find(|(_, other)| {
            let later = source.is_none_or(|write| write.outcome == End::Ok && write.end < other.start);
            other.outcome == End::Ok && other.end < read.start && later
        });
        if let Some((newer, write)) = replaced {
            findings.push(format!(
                "register {key}: a read from {:?} to {:?} gave {value}, although {newer} was acknowledged at {:?}",
                read.start, read.end, write.end
            ));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::history::Step;
    use super::*;

    fn timed<T>(start: u64, end: u64, outcome: End, what: T) -> Timed<T> {
        Timed { start: Duration::from_millis(start), end: Duration::from_millis(end), outcome, what }
    }

    fn sound() -> (History, Stored) {
        let mut history = History::new(Instant::now());
        history.invoke(1, &[Step::Append(1, 10)]);
        history.complete(1, End::Ok, &[Step::Append(1, 10)]);
        history.invoke(2, &[Step::Append(1, 11)]);
        history.complete(2, End::Ok, &[Step::Append(1, 11)]);
        history.invoke(3, &[Step::Read(1, None)]);
        history.complete(3, End::Ok, &[Step::Read(1, Some(vec![10, 11]))]);
        history.set = vec![
            timed(0, 1, End::Ok, 1),
            timed(2, 3, End::Unknown, 2),
            timed(4, 5, End::Fail, 3),
            timed(6, 7, End::Ok, 4),
        ];
        history.registers = vec![
            timed(0, 1, End::Ok, Access::Read(1, 0)),
            timed(2, 3, End::Ok, Access::Write(1, 5)),
            timed(4, 9, End::Ok, Access::Write(1, 6)),
            timed(5, 6, End::Ok, Access::Read(1, 5)),
            timed(10, 11, End::Ok, Access::Read(1, 6)),
        ];
        history.totals = vec![TOTAL];
        (history, Stored { set: [1, 4].into(), total: TOTAL, lists: [(1, vec![10, 11])].into() })
    }

    fn findings(change: impl FnOnce(&mut History, &mut Stored)) -> String {
        let (mut history, mut stored) = sound();
        change(&mut history, &mut stored);
        judge(&history, &stored, Strictness::Strict).err().unwrap_or_default()
    }

    #[test]
    fn a_history_without_fault_is_accepted() {
        assert_eq!(findings(|_, _| {}), "");
    }

    #[test]
    fn an_acknowledged_row_that_is_lost_is_found() {
        let found = findings(|_, stored| assert!(stored.set.remove(&4)));
        assert!(found.contains("4 was acknowledged"), "{found}");
    }

    #[test]
    fn a_refused_row_that_is_there_and_an_invented_one_are_found() {
        let found = findings(|_, stored| stored.set.extend([3, 9]));
        assert!(found.contains("3 was refused") && found.contains("nobody added 9"), "{found}");
    }

    #[test]
    fn an_acknowledged_append_that_is_lost_is_found() {
        let found = findings(|history, _| {
            history.invoke(4, &[Step::Append(1, 12)]);
            history.complete(4, End::Ok, &[Step::Append(1, 12)]);
        });
        assert!(found.contains("the acknowledged 12 is lost"), "{found}");
    }

    #[test]
    fn transactions_that_no_order_explains_are_found() {
        let found = findings(|history, stored| {
            history.invoke(4, &[Step::Read(2, None), Step::Append(3, 30)]);
            history.invoke(5, &[Step::Read(3, None), Step::Append(2, 20)]);
            history.complete(4, End::Ok, &[Step::Read(2, Some(vec![])), Step::Append(3, 30)]);
            history.complete(5, End::Ok, &[Step::Read(3, Some(vec![])), Step::Append(2, 20)]);
            history.invoke(6, &[Step::Read(2, None), Step::Read(3, None)]);
            history.complete(6, End::Ok, &[Step::Read(2, Some(vec![20])), Step::Read(3, Some(vec![30]))]);
            stored.lists.extend([(2, vec![20]), (3, vec![30])]);
        });
        assert!(found.contains("G2"), "{found}");
    }

    #[test]
    fn an_old_read_of_a_list_is_found() {
        let found = findings(|history, _| {
            history.invoke(7, &[Step::Read(1, None)]);
            history.complete(7, End::Ok, &[Step::Read(1, Some(vec![10]))]);
        });
        assert!(found.contains("realtime"), "{found}");
    }

    #[test]
    fn an_old_read_of_a_register_is_found() {
        let found = findings(|history, _| {
            history.registers.push(timed(12, 13, End::Ok, Access::Read(1, 5)));
        });
        assert!(found.contains("gave 5, although 6 was acknowledged"), "{found}");
        let initial = findings(|history, _| {
            history.registers.push(timed(12, 13, End::Ok, Access::Read(1, 0)));
        });
        assert!(initial.contains("gave 0"), "{initial}");
    }

    #[test]
    fn money_that_vanishes_is_found() {
        let found = findings(|history, _| history.totals.push(TOTAL - 1));
        assert!(found.contains("another total"), "{found}");
    }
}
