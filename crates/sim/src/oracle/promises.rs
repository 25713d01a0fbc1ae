//! What a node promises to others, it must be able to keep: whatever it says about its log, its vote and its term is on
//! its disk by then. And the configuration in force is the newest one in its log.

use raft_glue::{Configuration, Entry, EntryKind, LogIndex, NodeId, SnapshotMetadata, Term};
use wire_protocol::rpc::Message;

use super::{Oracle, Record, Violation};

impl Oracle {
    /// A node sends a message; this is its commit index at that moment.
    pub(crate) fn promises(
        &mut self,
        node: NodeId,
        to: NodeId,
        commit: LogIndex,
        message: &Message,
    ) -> Result<(), Violation> {
        const CHECK: &str = "promises are durable";
        let record = self.record(node);
        let durable = record.hard_state;
        let is_voted =
            |term, vote| durable.term > term || (durable.term == term && durable.vote == Some(vote));
        let is_kept = match message {
            Message::AppendEntries(append) => durable.term >= append.term,
            Message::AppendEntriesResult(result) => {
                result.rejected.0 > 0
                    || (durable.term >= result.term && record.durable_end() >= result.last_log_index.0)
            }
            Message::RequestVote(request) => request.pre_vote || is_voted(request.term, node),
            Message::RequestVoteResult(result) => {
                !result.vote_granted || result.pre_vote == Some(true) || is_voted(result.term, to)
            }
            Message::InstallSnapshot(_) | Message::TimeoutNow(_) => true,
        };
        if !is_kept {
            let text = format!(
                "node {node} has {durable:?} and entries up to {} on its disk, and says {message:?}",
                record.durable_end()
            );
            return Err(Violation::new(CHECK, text));
        }
        let votes = match message {
            Message::RequestVote(request) => !request.pre_vote,
            Message::RequestVoteResult(result) => result.vote_granted && result.pre_vote != Some(true),
            _ => false,
        };
        if votes && record.foreign {
            let text = format!("node {node} has the log of another cluster and says {message:?}");
            return Err(Violation::new("who joins brings no log", text));
        }
        let (until, damaged_in) = (record.no_vote_until, record.damaged_in);
        let term =
            record.issued.get(&commit.0).map_or(Term(0), |print| print.0).max(record.snapshot_term(commit));
        let waits = until.is_some_and(|until| commit < until && damaged_in.is_none_or(|at| term <= at));
        // Whatever the rule says that it follows: what it acknowledged and what was committed must be here again.
        let lacks = if votes { self.lacks(node) } else { None };
        if votes && (waits || lacks.is_some()) {
            return Err(Violation::new(
                "who lost something does not vote",
                format!(
                    "node {node} knows of commits up to {commit} of term {term}, may have lost some up to {until:?} in \
                     term {damaged_in:?}, lacks {lacks:?}, and says {message:?}"
                ),
            ));
        }
        Ok(())
    }

    /// A node has applied everything up to here, and has this configuration in force.
    pub(crate) fn stands(
        &mut self,
        node: NodeId,
        applied: LogIndex,
        configuration: &Configuration,
    ) -> Result<(), Violation> {
        let record = self.record(node);
        if applied.0 > record.durable_end() {
            let end = record.durable_end();
            let text = format!("node {node} has applied entry {applied}, its disk ends at {end}");
            return Err(Violation::new("nothing is applied before it is durable", text));
        }
        let newest = record.configurations.last_key_value();
        if newest.is_some_and(|(_, newest)| newest != configuration) {
            let text = format!("node {node} has {newest:?} in its log and {configuration:?} in force");
            return Err(Violation::new("the newest configuration is in force", text));
        }
        Ok(())
    }
}

impl Record {
    /// Last entry that is on the disk, in the log or in a snapshot.
    fn durable_end(&self) -> u64 {
        self.durable.last_key_value().map_or(0, |(last, _)| *last).max(self.snapshot)
    }

    /// Term of the snapshot if it is what is known of this index.
    fn snapshot_term(&self, index: LogIndex) -> Term {
        if index.0 == self.snapshot { self.snapshot_term } else { Term(0) }
    }

    /// A snapshot takes the place of the log.
    pub(super) fn configuration_of_snapshot(&mut self, snapshot: &SnapshotMetadata) {
        self.configurations.clear();
        self.configurations.insert(snapshot.configuration_index.0, snapshot.configuration.clone());
    }

    /// Entries take the place of all from the first one on.
    pub(super) fn configurations_in(&mut self, first: LogIndex, entries: &[Entry]) {
        self.configurations.split_off(&first.0);
        for (index, entry) in (first.0..).zip(entries) {
            if entry.kind == EntryKind::Configuration
                && let Ok(configuration) = Configuration::decode(&entry.data)
            {
                self.configurations.insert(index, configuration);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use raft_glue::{HardState, Loaded, Role, Server};
    use wire_protocol::rpc::{AppendEntriesResult, RequestVoteResult};

    use super::*;

    const NODE: NodeId = NodeId(1);

    fn configuration(role: Role) -> Configuration {
        Configuration { servers: vec![Server { id: NODE, address: "a".to_owned(), role }] }
    }

    /// A node whose log is one configuration and one barrier, of term 3, in which it voted for node 2.
    fn oracle(no_vote_until: Option<u64>) -> Oracle {
        let entry = |kind, data| Entry { term: Term(3), kind, data };
        let data = configuration(Role::Voter).encode();
        let loaded = Loaded {
            hard_state: HardState { term: Term(3), vote: Some(NodeId(2)) },
            first_index: LogIndex(1),
            entries: vec![
                entry(EntryKind::Configuration, data),
                entry(EntryKind::Barrier, vec![0; 8].into()),
            ],
            no_vote_until: no_vote_until.map(LogIndex),
            ..Loaded::default()
        };
        let mut oracle = Oracle::default();
        oracle.loaded(NODE, &loaded).unwrap();
        oracle
    }

    fn vote(term: u64) -> Message {
        let term = Term(term);
        Message::RequestVoteResult(RequestVoteResult { term, vote_granted: true, pre_vote: Some(false) })
    }

    fn success(last: u64) -> Message {
        Message::AppendEntriesResult(AppendEntriesResult {
            term: Term(3),
            rejected: LogIndex(0),
            last_log_index: LogIndex(last),
            features: Some(0),
        })
    }

    #[test]
    fn what_is_not_on_the_disk_cannot_be_promised() {
        let mut oracle = oracle(None);
        let mut says = |to, message| oracle.promises(NODE, NodeId(to), LogIndex(0), &message).is_ok();
        assert!(says(2, success(2)));
        assert!(!says(2, success(3)));
        assert!(says(2, vote(3)));
        assert!(!says(4, vote(3)));
        assert!(!says(2, vote(4)));
    }

    #[test]
    fn who_lost_something_votes_when_it_has_caught_up() {
        let mut oracle = oracle(Some(7));
        let mut says = |commit| oracle.promises(NODE, NodeId(2), LogIndex(commit), &vote(3)).is_ok();
        assert!(!says(6));
        assert!(says(7));
    }

    #[test]
    fn a_node_stands_on_its_log() {
        let mut oracle = oracle(None);
        let mut stands = |applied, role| oracle.stands(NODE, LogIndex(applied), &configuration(role)).is_ok();
        assert!(stands(2, Role::Voter));
        assert!(!stands(3, Role::Voter));
        assert!(!stands(2, Role::Spare));
    }
}
