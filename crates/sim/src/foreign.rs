//! Directories of other clusters: a member that is replaced comes back with one, in place of an empty one.
//!
//! Its log has the indexes and terms of the cluster it is to join, and other content: nothing in the messages between nodes
//! could tell the two apart. As long as the node has it, it takes no part in anything; then it brings nothing of it.

use raft_glue::disk::{LogStore, MemoryDisk, bootstrap};
use raft_glue::{Configuration, Entry, EntryKind, HardState, LogIndex, NodeId, Persist, Role, Server, Term};

use crate::oracle::Violation;
use crate::random::Random;
use crate::world::World;

/// The only member of the other cluster; nobody here has this id.
const MEMBER: u64 = 900_000;

impl World {
    /// Whether replaced members come back with the directory of another cluster. Drawn apart, so that all else is as it
    /// would be without.
    pub(crate) fn has_foreign_directories(&self) -> bool {
        Random::new(self.scenario.seed ^ 0x0f0e_1614).percent(50)
    }

    /// A log as long as that of some node, of its term.
    pub(crate) fn fill_with_foreign_log(&mut self, node: usize) {
        let logs = self.machines.iter().filter_map(|machine| machine.process.as_ref());
        let known = logs.map(|process| process.core.replica()).map(|log| (log.term(), log.last_index()));
        let (term, last) = known.max().unwrap_or((Term(2), LogIndex(20)));
        let last = (last.0 + self.random.below(8)).saturating_sub(self.random.below(8)).max(2);
        let server = Server { id: NodeId(MEMBER), address: "10.0.1.1:9000".to_owned(), role: Role::Voter };
        let configuration = Configuration { servers: vec![server] };
        write_log(&self.machines[node].disk, &configuration, term, last.min(5000));
        self.machines[node].foreign = true;
        self.stats.count("directory of another cluster");
    }

    /// What is true of a node as long as it has the log of another cluster.
    pub(crate) fn check_foreign(&self, node: usize) -> Result<(), Violation> {
        let machine = &self.machines[node];
        let Some(process) = &machine.process else { return Ok(()) };
        let replica = process.core.replica();
        if replica.is_leader() || replica.commit_index().0 > 1 || replica.cluster().is_some() {
            let text = format!(
                "node {} has the log of another cluster and takes part: {replica:?}, identity {:?}",
                machine.id,
                replica.cluster()
            );
            return Err(Violation::new("who joins brings no log", text));
        }
        Ok(())
    }
}

/// Everything but the first entry is a command that no state machine understands.
fn write_log(disk: &MemoryDisk, configuration: &Configuration, term: Term, last: u64) {
    bootstrap(disk, configuration).expect("an empty disk without faults takes it");
    let (mut store, _) =
        LogStore::open(disk.clone(), Default::default()).expect("what was written can be loaded");
    let command = |index: u64| Entry {
        term,
        kind: EntryKind::Command,
        data: index.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes().to_vec().into(),
    };
    let step = Persist {
        hard_state: Some(HardState { term, vote: None }),
        first_index: LogIndex(2),
        entries: (2..=last).map(command).collect(),
        ..Persist::default()
    };
    store.persist(&[step]).expect("a disk without faults takes it");
    store.close().expect("a disk without faults takes it");
}
