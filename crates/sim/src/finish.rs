//! The end of a run: everything works again, so everything must work; then what is left is looked at.

use std::collections::BTreeMap;

use raft_glue::{LogIndex, Role};
use vfs::{ColumnValue, Connection, DatabaseName, Step, Vfs};

use crate::history;
use crate::oracle::Violation;
use crate::scenario::SECOND;
use crate::trace::mix;
use crate::workload::LISTS;
use crate::world::{Event, Phase, World};

/// After the last fault every client commits something within this time.
const PROGRESS_US: u64 = 90 * SECOND;
/// After the last request all nodes are equal within this time.
const SETTLE_US: u64 = 60 * SECOND;
/// How often is looked.
const LOOK_US: u64 = SECOND / 2;

impl World {
    /// Ends all faults.
    pub(crate) fn heal(&mut self) {
        self.note_world("healed", [0, 0], String::new);
        self.phase = Phase::Healed;
        for node in 0..self.machines.len() {
            self.space_returns(node);
            let machine = &mut self.machines[node];
            machine.disk.heal();
            machine.fails_in_write = None;
            machine.paused_until_us = machine.paused_until_us.min(self.now_us);
            machine.slow.until_us = 0;
            machine.slow_disk.until_us = 0;
            let failed = machine.process.as_ref().is_some_and(|process| process.failed);
            if failed {
                self.kill(node);
            }
            self.plan(SECOND, Event::Start { node });
            self.wake(node);
        }
    }

    /// Every client commits something, or there is a reason to ask why not.
    pub(crate) fn demand_progress(&mut self) -> Result<(), Violation> {
        let before: Vec<u64> = self.clients.iter().map(|client| client.committed).collect();
        let until_us = self.now_us + PROGRESS_US;
        while self.now_us < until_us {
            self.run_until(self.now_us + LOOK_US)?;
            let all = self.clients.iter().zip(&before).all(|(client, before)| client.committed > *before);
            if all {
                return Ok(());
            }
        }
        let idle: Vec<usize> =
            (0..before.len()).filter(|&client| self.clients[client].committed <= before[client]).collect();
        let text = format!("clients {idle:?} committed nothing in 90 s without faults; {}", self.describe());
        Err(Violation::new("progress", text))
    }

    fn describe(&self) -> String {
        let nodes = self.machines.iter().map(|machine| match &machine.process {
            None => format!("node {} is down", machine.id),
            Some(process) => format!("{:?}", process.core.replica()),
        });
        nodes.collect::<Vec<_>>().join("; ")
    }

    /// Clients end; nodes become equal.
    pub(crate) fn settle(&mut self) -> Result<(), Violation> {
        self.phase = Phase::Settling;
        let until_us = self.now_us + SETTLE_US;
        while self.now_us < until_us {
            self.run_until(self.now_us + LOOK_US)?;
            let retired = self.clients.iter().all(|client| client.retired);
            if retired && self.common_index().is_some() {
                return Ok(());
            }
        }
        let text = format!("nodes did not become equal in 60 s without load; {}", self.describe());
        Err(Violation::new("convergence", text))
    }

    /// The index that all voters and stand-bys have applied, if it is the same and nothing is behind it.
    fn common_index(&self) -> Option<LogIndex> {
        let leader = self
            .machines
            .iter()
            .filter_map(|machine| machine.process.as_ref())
            .find(|process| process.core.replica().is_leader())?;
        let replica = leader.core.replica();
        let index = replica.last_index();
        let members = replica.configuration();
        let equal = members.servers.iter().filter(|server| server.role != Role::Spare).all(|server| {
            self.machines.iter().find(|machine| machine.id == server.id).is_some_and(|machine| {
                machine
                    .process
                    .as_ref()
                    .is_some_and(|process| process.core.replica().applied_index() == index)
            })
        });
        equal.then_some(index)
    }

    /// What is left is what clients were told.
    pub(crate) fn final_checks(&mut self) -> Result<(), Violation> {
        let index = self.common_index();
        let Self { machines, oracle, .. } = self;
        let mut lists = None;
        for machine in machines.iter() {
            let Some(process) = &machine.process else { continue };
            let applied = process.core.replica().applied_index();
            if Some(applied) != index {
                continue;
            }
            oracle.applied(machine.id, applied, &process.vfs)?;
            for database in process.vfs.databases() {
                check_integrity(&process.vfs, database.name())?;
            }
            lists = Some(read_lists(&process.vfs)?);
        }
        let lists = lists.ok_or_else(|| Violation::new("convergence", "no node holds the newest state"))?;
        let hash = lists.values().flatten().fold(0, |hash, value| mix(hash, *value));
        self.note_world("end", [hash, lists.len() as u64], String::new);
        history::check(&self.history, &lists).map_err(|anomaly| self.explain(&anomaly))
    }

    fn explain(&self, anomaly: &history::Anomaly) -> Violation {
        use history::Anomaly;
        let concerned: Vec<usize> = match anomaly {
            Anomaly::LostAppend { transaction, .. }
            | Anomaly::RefusedAppend { transaction, .. }
            | Anomaly::ImpossibleRead { transaction, .. }
            | Anomaly::Torn { transaction } => vec![*transaction],
            Anomaly::Cycle(transactions) => transactions.clone(),
            Anomaly::Duplicate { .. } => Vec::new(),
        };
        let mut text = format!("{anomaly:?}");
        for number in concerned {
            text.push_str(&format!("; transaction {number}: {:?}", self.history.transactions[number]));
        }
        Violation::new("history", text)
    }
}

fn sql_failed(what: &str) -> impl Fn(vfs::SqlError) -> Violation + '_ {
    move |error| Violation::new("final state can be read", format!("{what}: {error}"))
}

/// Runs a query on a node's own databases and gives its rows to `row`.
fn query(
    connection: &mut Connection,
    sql: &str,
    mut row: impl FnMut(&vfs::Statement),
) -> Result<(), Violation> {
    let prepared = connection.prepare(sql.as_bytes()).map_err(sql_failed(sql))?;
    let Some(mut statement) = prepared.statement else { return Ok(()) };
    while statement.step().map_err(sql_failed(sql))? == Step::Row {
        row(&statement);
    }
    Ok(())
}

fn check_integrity(vfs: &Vfs, name: &DatabaseName) -> Result<(), Violation> {
    let mut connection = vfs.open(name).map_err(sql_failed("open"))?;
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

fn read_lists(vfs: &Vfs) -> Result<BTreeMap<u64, Vec<u64>>, Violation> {
    let name = DatabaseName::replicated(LISTS.as_bytes())
        .map_err(|error| Violation::new("final state can be read", error.to_string()))?;
    let mut connection = vfs.open(&name).map_err(sql_failed("open"))?;
    let mut lists = BTreeMap::new();
    query(&mut connection, "SELECT key, vals FROM lists", |row| {
        if let (ColumnValue::Integer(key), ColumnValue::Text(values)) = (row.column(0), row.column(1)) {
            let values = String::from_utf8_lossy(values);
            let values = values.split(',').filter_map(|value| value.parse().ok()).collect();
            lists.insert(u64::try_from(key).unwrap_or(u64::MAX), values);
        }
    })?;
    Ok(lists)
}
