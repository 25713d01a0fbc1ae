//! What clients did and saw, and whether one order of transactions explains it.
//!
//! The list-append model of Elle: each write appends a unique value to the list of a key, each read returns a whole
//! list, so the order of writes to a key can be read off the longest list. From that follow the dependencies between
//! transactions: a value comes after the one it was appended to (ww), a read after the value it saw last (wr) and
//! before the value appended next (rw). A transaction that ended before another began comes first (real time), whether they
//! read or write. A cycle means that no order explains the history.

use std::collections::BTreeMap;

/// Index of a transaction in a [`History`].
pub type TransactionId = usize;

/// How a transaction ended for its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The client was told that it is committed.
    Committed,
    /// The client was told that it is certainly not.
    Refused,
    /// The client does not know.
    Unknown,
}

/// One micro-operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Append `value` to the list of `key`; values are unique in the history.
    Append {
        /// Which list.
        key: u64,
        /// What.
        value: u64,
    },
    /// The whole list of `key` as it was seen.
    Read {
        /// Which list.
        key: u64,
        /// Its values.
        values: Vec<u64>,
    },
}

/// One transaction of one client.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// When the client sent it.
    pub start_us: u64,
    /// When the client had the answer.
    pub end_us: u64,
    /// How it ended.
    pub ending: Ending,
    /// What it did, in order.
    pub operations: Vec<Operation>,
}

/// Everything that clients did with lists.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// In order of completion.
    pub transactions: Vec<Transaction>,
}

/// Why a history cannot be explained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Anomaly {
    /// A committed append is missing from the final list.
    LostAppend {
        /// Whose.
        transaction: TransactionId,
        /// What.
        value: u64,
    },
    /// An append that was refused is there all the same.
    RefusedAppend {
        /// Whose.
        transaction: TransactionId,
        /// What.
        value: u64,
    },
    /// A value stands twice in a list.
    Duplicate {
        /// Which list.
        key: u64,
        /// What.
        value: u64,
    },
    /// A read saw something that is no prefix of the final list: undone or reordered values.
    ImpossibleRead {
        /// Whose.
        transaction: TransactionId,
        /// Which list.
        key: u64,
        /// What it was in the end.
        list: Vec<u64>,
    },
    /// Some appends of a transaction are there and some are not.
    Torn {
        /// Whose.
        transaction: TransactionId,
    },
    /// Transactions that must each come before the next, and the last before the first.
    Cycle(Vec<TransactionId>),
}

/// Checks a history against the lists as they are at the end.
///
/// # Errors
///
/// The first anomaly found.
pub fn check(history: &History, lists: &BTreeMap<u64, Vec<u64>>) -> Result<(), Anomaly> {
    let positions = positions(lists)?;
    check_appends(history, &positions)?;
    let graph = dependencies(history, lists, &positions)?;
    match cycle(&graph) {
        Some(cycle) => Err(Anomaly::Cycle(cycle)),
        None => Ok(()),
    }
}

/// Where each value stands: its key and its place in the list.
fn positions(lists: &BTreeMap<u64, Vec<u64>>) -> Result<BTreeMap<u64, (u64, usize)>, Anomaly> {
    let mut positions = BTreeMap::new();
    for (&key, values) in lists {
        for (place, &value) in values.iter().enumerate() {
            if positions.insert(value, (key, place)).is_some() {
                return Err(Anomaly::Duplicate { key, value });
            }
        }
    }
    Ok(positions)
}

fn check_appends(history: &History, positions: &BTreeMap<u64, (u64, usize)>) -> Result<(), Anomaly> {
    for (transaction, record) in history.transactions.iter().enumerate() {
        let mut found = 0;
        let mut missing = 0;
        for operation in &record.operations {
            let Operation::Append { value, .. } = *operation else { continue };
            let present = positions.contains_key(&value);
            match (record.ending, present) {
                (Ending::Committed, false) => return Err(Anomaly::LostAppend { transaction, value }),
                (Ending::Refused, true) => return Err(Anomaly::RefusedAppend { transaction, value }),
                (_, true) => found += 1,
                (_, false) => missing += 1,
            }
        }
        if found > 0 && missing > 0 {
            return Err(Anomaly::Torn { transaction });
        }
    }
    Ok(())
}

/// Successors of each transaction.
fn dependencies(
    history: &History,
    lists: &BTreeMap<u64, Vec<u64>>,
    positions: &BTreeMap<u64, (u64, usize)>,
) -> Result<Vec<Vec<TransactionId>>, Anomaly> {
    let transactions = &history.transactions;
    let mut writer: BTreeMap<u64, TransactionId> = BTreeMap::new();
    for (id, record) in transactions.iter().enumerate() {
        for operation in &record.operations {
            if let Operation::Append { value, .. } = operation {
                writer.insert(*value, id);
            }
        }
    }
    let mut graph = vec![Vec::new(); transactions.len()];
    let mut edge = |from: TransactionId, to: TransactionId| {
        if from != to {
            graph[from].push(to);
        }
    };
    for values in lists.values() {
        for pair in values.windows(2) {
            if let (Some(&from), Some(&to)) = (writer.get(&pair[0]), writer.get(&pair[1])) {
                edge(from, to);
            }
        }
    }
    for (id, record) in transactions.iter().enumerate() {
        if record.ending == Ending::Refused {
            continue;
        }
        // Within a transaction that was never committed only the final lists tell what happened.
        let own: Vec<u64> = record
            .operations
            .iter()
            .filter_map(|operation| match operation {
                Operation::Append { value, .. } if !positions.contains_key(value) => Some(*value),
                _ => None,
            })
            .collect();
        for operation in &record.operations {
            let Operation::Read { key, values } = operation else { continue };
            let list = lists.get(key).map_or(&[][..], Vec::as_slice);
            let seen: Vec<u64> = values.iter().copied().filter(|value| !own.contains(value)).collect();
            if !list.starts_with(&seen) {
                return Err(Anomaly::ImpossibleRead { transaction: id, key: *key, list: list.to_vec() });
            }
            if let Some(from) = seen.last().and_then(|value| writer.get(value)) {
                edge(*from, id);
            }
            // Its own appends follow in the list; what it precedes is the first value of somebody else.
            let next = list[seen.len()..].iter().filter_map(|value| writer.get(value)).find(|&&to| to != id);
            if let Some(&to) = next {
                edge(id, to);
            }
        }
    }
    real_time(transactions, positions, &mut graph);
    Ok(graph)
}

/// Whether a transaction wrote something that is there.
fn wrote(record: &Transaction, positions: &BTreeMap<u64, (u64, usize)>) -> bool {
    record.operations.iter().any(
        |operation| matches!(operation, Operation::Append { value, .. } if positions.contains_key(value)),
    )
}

/// Whether there is a moment at which a transaction happened: it wrote something that is there, or read and was answered.
fn happened(record: &Transaction, positions: &BTreeMap<u64, (u64, usize)>) -> bool {
    record.ending != Ending::Refused || wrote(record, positions)
}

/// Joins each transaction to those that began after it ended, leaving out what follows from others: only to those that
/// began before any of the already joined ones ended.
fn real_time(
    transactions: &[Transaction],
    positions: &BTreeMap<u64, (u64, usize)>,
    graph: &mut [Vec<TransactionId>],
) {
    let mut by_start: Vec<TransactionId> =
        (0..transactions.len()).filter(|&id| happened(&transactions[id], positions)).collect();
    by_start.sort_by_key(|&id| transactions[id].start_us);
    for (id, record) in transactions.iter().enumerate() {
        if record.ending != Ending::Committed {
            continue;
        }
        let first = by_start.partition_point(|&other| transactions[other].start_us <= record.end_us);
        let mut horizon = u64::MAX;
        for &other in &by_start[first..] {
            let next = &transactions[other];
            if next.start_us > horizon {
                break;
            }
            graph[id].push(other);
            if next.ending == Ending::Committed {
                horizon = horizon.min(next.end_us);
            }
        }
    }
}

/// Depth-first search for a cycle, without recursion.
fn cycle(graph: &[Vec<TransactionId>]) -> Option<Vec<TransactionId>> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        Open,
        Done,
    }
    let mut marks = vec![Mark::New; graph.len()];
    for root in 0..graph.len() {
        if marks[root] != Mark::New {
            continue;
        }
        let mut path: Vec<(TransactionId, usize)> = vec![(root, 0)];
        marks[root] = Mark::Open;
        while let Some((node, next)) = path.last_mut() {
            let node = *node;
            let Some(&successor) = graph[node].get(*next) else {
                marks[node] = Mark::Done;
                path.pop();
                continue;
            };
            *next += 1;
            match marks[successor] {
                Mark::New => {
                    marks[successor] = Mark::Open;
                    path.push((successor, 0));
                }
                Mark::Open => {
                    let from = path.iter().position(|&(id, _)| id == successor).unwrap_or(0);
                    return Some(path[from..].iter().map(|&(id, _)| id).collect());
                }
                Mark::Done => {}
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transaction(start_us: u64, end_us: u64, ending: Ending, operations: Vec<Operation>) -> Transaction {
        Transaction { start_us, end_us, ending, operations }
    }

    fn append(key: u64, value: u64) -> Operation {
        Operation::Append { key, value }
    }

    fn read(key: u64, values: &[u64]) -> Operation {
        Operation::Read { key, values: values.to_vec() }
    }

    fn run(transactions: Vec<Transaction>, lists: &[(u64, &[u64])]) -> Result<(), Anomaly> {
        let lists = lists.iter().map(|&(key, values)| (key, values.to_vec())).collect();
        check(&History { transactions }, &lists)
    }

    use Ending::{Committed, Refused, Unknown};

    #[test]
    fn a_serial_history_is_fine() {
        let history = vec![
            transaction(0, 1, Committed, vec![append(1, 10)]),
            transaction(2, 3, Committed, vec![read(1, &[10]), append(1, 11)]),
            transaction(4, 5, Committed, vec![read(1, &[10, 11])]),
        ];
        assert_eq!(run(history, &[(1, &[10, 11])]), Ok(()));
    }

    #[test]
    fn a_lost_append_is_found() {
        let history = vec![transaction(0, 1, Committed, vec![append(1, 10)])];
        assert_eq!(run(history, &[(1, &[])]), Err(Anomaly::LostAppend { transaction: 0, value: 10 }));
    }

    #[test]
    fn a_refused_append_that_happened_is_found() {
        let history = vec![transaction(0, 1, Refused, vec![append(1, 10)])];
        assert_eq!(run(history, &[(1, &[10])]), Err(Anomaly::RefusedAppend { transaction: 0, value: 10 }));
    }

    #[test]
    fn an_unknown_append_may_have_happened_or_not_but_not_in_part() {
        let history = vec![transaction(0, 1, Unknown, vec![append(1, 10), append(2, 20)])];
        assert_eq!(run(history.clone(), &[]), Ok(()));
        assert_eq!(run(history.clone(), &[(1, &[10]), (2, &[20])]), Ok(()));
        assert_eq!(run(history, &[(1, &[10])]), Err(Anomaly::Torn { transaction: 0 }));
    }

    #[test]
    fn a_read_of_undone_state_is_found() {
        let history = vec![
            transaction(0, 1, Unknown, vec![append(1, 10)]),
            transaction(2, 3, Committed, vec![read(1, &[10])]),
        ];
        assert_eq!(
            run(history, &[(1, &[])]),
            Err(Anomaly::ImpossibleRead { transaction: 1, key: 1, list: Vec::new() })
        );
    }

    #[test]
    fn a_value_that_stands_twice_is_found() {
        assert_eq!(run(vec![], &[(1, &[10, 10])]), Err(Anomaly::Duplicate { key: 1, value: 10 }));
    }

    #[test]
    fn write_skew_is_a_cycle() {
        // Each read the list the other appended to, before it did.
        let history = vec![
            transaction(0, 10, Committed, vec![read(1, &[]), append(2, 20)]),
            transaction(0, 10, Committed, vec![read(2, &[]), append(1, 10)]),
        ];
        assert!(matches!(run(history, &[(1, &[10]), (2, &[20])]), Err(Anomaly::Cycle(_))));
    }

    #[test]
    fn a_long_fork_is_a_cycle() {
        let history = vec![
            transaction(0, 10, Committed, vec![append(1, 10)]),
            transaction(0, 10, Committed, vec![append(2, 20)]),
            transaction(0, 10, Committed, vec![read(1, &[10]), read(2, &[])]),
            transaction(0, 10, Committed, vec![read(1, &[]), read(2, &[20])]),
        ];
        assert!(matches!(run(history, &[(1, &[10]), (2, &[20])]), Err(Anomaly::Cycle(_))));
    }

    #[test]
    fn writes_out_of_real_time_order_are_a_cycle() {
        let history = vec![
            transaction(0, 1, Committed, vec![append(1, 10)]),
            transaction(5, 6, Committed, vec![append(1, 11)]),
        ];
        assert!(matches!(run(history, &[(1, &[11, 10])]), Err(Anomaly::Cycle(_))));
    }

    #[test]
    fn real_time_order_holds_across_others() {
        let mut history = vec![transaction(0, 1, Committed, vec![append(1, 10)])];
        for n in 1..20 {
            history.push(transaction(n * 10, n * 10 + 15, Committed, vec![append(2, 100 + n)]));
        }
        history.push(transaction(500, 501, Committed, vec![append(1, 11)]));
        let others: Vec<u64> = (1..20).map(|n| 100 + n).collect();
        assert!(matches!(run(history.clone(), &[(1, &[11, 10]), (2, &others)]), Err(Anomaly::Cycle(_))));
        assert_eq!(run(history, &[(1, &[10, 11]), (2, &others)]), Ok(()));
    }

    #[test]
    fn a_read_that_began_behind_a_write_sees_it() {
        let history = |start_us| {
            let mut history = vec![transaction(0, 150, Committed, vec![append(1, 10)])];
            history.extend((1..9).map(|n| transaction(n * 10, n * 10 + 15, Committed, vec![append(2, n)])));
            history.push(transaction(start_us, start_us + 1, Committed, vec![read(1, &[])]));
            history
        };
        let lists: [(u64, &[u64]); 2] = [(1, &[10]), (2, &[1, 2, 3, 4, 5, 6, 7, 8])];
        assert_eq!(run(history(150), &lists), Ok(()));
        assert!(matches!(run(history(151), &lists), Err(Anomaly::Cycle(_))));
    }

    #[test]
    fn a_read_does_not_go_back_behind_an_earlier_one() {
        let history = |start_us| {
            vec![
                transaction(0, 100, Committed, vec![append(1, 10)]),
                transaction(10, 20, Committed, vec![read(1, &[10])]),
                transaction(start_us, 30, Committed, vec![read(1, &[])]),
            ]
        };
        assert_eq!(run(history(15), &[(1, &[10])]), Ok(()));
        assert!(matches!(run(history(21), &[(1, &[10])]), Err(Anomaly::Cycle(_))));
        let reordered = vec![
            transaction(0, 9, Committed, vec![append(1, 10)]),
            transaction(0, 9, Committed, vec![append(1, 11)]),
            transaction(5, 6, Committed, vec![read(1, &[11])]),
        ];
        assert_eq!(
            run(reordered, &[(1, &[10, 11])]),
            Err(Anomaly::ImpossibleRead { transaction: 2, key: 1, list: vec![10, 11] })
        );
    }
}
