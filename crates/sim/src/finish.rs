//! The end of a run: everything works again, so everything must work; then what is left is looked at.

use raft_glue::{LogIndex, Role};

use crate::found;
use crate::history;
use crate::oracle::Violation;
use crate::scenario::SECOND;
use crate::trace::mix;
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
        // The last one is the administrator.
        let count = self.scenario.clients;
        let before: Vec<u64> = self.clients[..count].iter().map(|client| client.committed).collect();
        let until_us = self.now_us + PROGRESS_US;
        while self.now_us < until_us {
            self.run_until(self.now_us + LOOK_US)?;
            let all = self.clients.iter().zip(&before).all(|(client, before)| client.committed > *before);
            let up = self.machines.iter().all(|machine| machine.process.is_some() && !machine.ruined);
            if all && up && !self.has_errand(count) && self.targets_are_met() {
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
        self.check_handovers()?;
        self.phase = Phase::Settling;
        self.retire(self.scenario.clients);
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
        let mut newest = None;
        for machine in machines.iter() {
            let Some(process) = &machine.process else { continue };
            let applied = process.core.replica().applied_index();
            if Some(applied) != index {
                continue;
            }
            oracle.applied(machine.id, applied, &process.vfs)?;
            for database in process.vfs.databases() {
                found::integrity(&process.vfs, database.name())?;
            }
            newest = Some(std::sync::Arc::clone(&process.vfs));
        }
        let vfs = newest.ok_or_else(|| Violation::new("convergence", "no node holds the newest state"))?;
        let lists = found::lists(&vfs)?;
        let hash = lists.values().flatten().fold(0, |hash, value| mix(hash, *value));
        self.note_world("end", [hash, lists.len() as u64], String::new);
        found::bank(&vfs)?;
        self.marks.check(&found::marks(&vfs)?)?;
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
