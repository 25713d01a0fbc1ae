//! Snapshots: when to take one, sending the newest to a peer that lacks too much, and becoming what a received one holds.

use bytes::Bytes;
use raft::SnapshotStatus;
use wire_protocol::{LogIndex, NodeId, Term, rpc};

use crate::config::{MAX_LOG_ENTRIES, SnapshotRule, longest_log};
use crate::output::Output;
use crate::{Replica, SnapshotMetadata};

/// C: how long an INSTALL_SNAPSHOT may take, from the read of the file to the peer's answer.
const INSTALL_SNAPSHOT_TIMEOUT_MS: u64 = 30_000;

impl Replica {
    /// Whether it is time for a snapshot of everything applied so far. The caller then writes it and reports with
    /// [`Self::handle_snapshot_taken`] or [`Self::handle_snapshot_failed`].
    ///
    /// `state_bytes` tells the size of the state; it is asked only if the answer depends on it.
    pub fn begin_snapshot(&mut self, state_bytes: impl FnOnce() -> u64) -> Option<SnapshotMetadata> {
        let log = &self.raw.raft.raft_log;
        let too_high = planted::bug!(SnapshotIndexTooHigh) && log.persisted > log.applied;
        let applied = log.applied + u64::from(too_high);
        let due =
            self.snapshot_index().max(self.snapshot_attempt).saturating_add(self.config.snapshot_threshold);
        if self.halted
            || !self.identity.takes_part()
            || self.snapshot_running
            || self.installing.is_some()
            || applied < due
        {
            return None;
        }
        if self.config.snapshot_rule == SnapshotRule::BySize
            && applied - self.snapshot_index() < MAX_LOG_ENTRIES
            && self.applied_bytes < longest_log(state_bytes())
        {
            return None;
        }
        let term = Term(log.term(applied).expect("applied entries that no snapshot covers are in the log"));
        let (configuration, configuration_index) = self.membership.committed(LogIndex(applied));
        let metadata = SnapshotMetadata {
            index: LogIndex(applied),
            term,
            configuration: configuration.clone(),
            configuration_index,
        };
        self.snapshot_running = true;
        Some(metadata)
    }

    /// The snapshot is durable and older entries are gone from the disk; or it was given up, because a newer one of the leader
    /// is there.
    pub fn handle_snapshot_taken(&mut self, metadata: &SnapshotMetadata) {
        self.snapshot_running = false;
        let installing = self.installing.as_ref().map_or(LogIndex(0), |snapshot| snapshot.metadata.index);
        if metadata.index.0 <= self.snapshot_index().max(installing.0) {
            // One of the leader has come meanwhile.
            return;
        }
        self.membership.compact(metadata.index);
        let trailing = self.config.snapshot_trailing;
        self.raw.mut_store().compact(metadata.clone(), trailing);
        let applied = self.raw.raft.raft_log.applied;
        self.applied_bytes = self.raw.store().data_bytes(metadata.index.0 + 1, applied);
    }

    /// The snapshot was not written. The next attempt comes after another threshold of entries.
    pub fn handle_snapshot_failed(&mut self) {
        self.snapshot_running = false;
        self.snapshot_attempt = self.raw.raft.raft_log.applied;
    }

    /// What kept a snapshot from being written is over: the next attempt need not wait.
    pub fn retry_snapshot(&mut self) {
        self.snapshot_attempt = self.snapshot_attempt.min(self.snapshot_index());
    }

    fn snapshot_index(&self) -> u64 {
        self.raw.store().snapshot_metadata().map_or(0, |snapshot| snapshot.index.0)
    }

    /// The content of the snapshot for a peer, or why there is none.
    pub fn handle_snapshot_read(&mut self, to: NodeId, metadata: &SnapshotMetadata, data: Result<Bytes, ()>) {
        if self.halted {
            return;
        }
        let wanted = self.leading.is_some()
            && self.raw.raft.prs().get(to.0).is_some_and(|progress| {
                progress.state == raft::ProgressState::Snapshot
                    && progress.pending_snapshot == metadata.index.0
            });
        match data {
            Ok(data) if wanted => {
                let message = rpc::Message::InstallSnapshot(rpc::InstallSnapshot {
                    term: Term(self.raw.raft.term),
                    last_index: metadata.index,
                    last_term: metadata.term,
                    configuration: metadata.configuration.clone(),
                    configuration_index: metadata.configuration_index,
                    data,
                });
                self.transmit(to, message);
            }
            Err(()) if wanted => self.snapshot_failed(to),
            _ => {}
        }
        self.settle(Vec::new());
    }

    /// Starts sending the newest snapshot to a peer whose progress waits for it.
    pub(crate) fn send_snapshot(&mut self, to: NodeId) {
        let Some(metadata) = self.raw.store().snapshot_metadata().cloned() else { return };
        if let Some(progress) = self.raw.raft.mut_prs().get_mut(to.0) {
            progress.pending_snapshot = metadata.index.0;
        }
        let now_ms = self.now_ms;
        self.peers.entry(to).or_default().snapshot_since_ms = Some(now_ms);
        self.outputs.push_back(Output::ReadSnapshot { to, metadata });
    }

    pub(crate) fn snapshot_failed(&mut self, to: NodeId) {
        if let Some(peer) = self.peers.get_mut(&to) {
            peer.snapshot_since_ms = None;
        }
        self.raw.report_snapshot(to.0, SnapshotStatus::Failure);
    }

    /// Gives up what has been on its way for too long.
    pub(crate) fn expire_snapshots(&mut self) {
        let limit_ms = self.now_ms.saturating_sub(INSTALL_SNAPSHOT_TIMEOUT_MS);
        let expired: Vec<NodeId> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.snapshot_since_ms.is_some_and(|since| since < limit_ms))
            .map(|(id, _)| *id)
            .collect();
        for id in expired {
            self.snapshot_failed(id);
        }
    }

    /// The state machine holds the snapshot at this index.
    pub fn handle_restored(&mut self, index: LogIndex) {
        if self.halted || self.installing.as_ref().is_none_or(|snapshot| snapshot.metadata.index != index) {
            return;
        }
        self.installing = None;
        self.snapshot_attempt = index.0;
        self.applied_bytes = 0;
        self.raw.advance_apply_to(index.0);
        self.answer_waiting();
        self.settle(Vec::new());
    }
}

#[cfg(test)]
mod tests {
    use wire_protocol::{Configuration, Entry, EntryKind, Role, Server};

    use super::*;
    use crate::streams::StreamId;
    use crate::{Config, HardState, Loaded};

    const LEADER: NodeId = NodeId(2);

    /// What is in force afterwards, whether the own one is done before or after that of the leader is durable.
    #[test]
    fn an_own_snapshot_does_not_replace_a_newer_one_of_the_leader() {
        for is_durable in [false, true] {
            let server = |id| Server { id: NodeId(id), address: format!("a{id}"), role: Role::Voter };
            let configuration = Configuration { servers: vec![server(1), server(2)] };
            let first = Entry { term: Term(1), kind: EntryKind::Configuration, data: configuration.encode() };
            let loaded = Loaded {
                hard_state: HardState { term: Term(1), vote: None },
                first_index: LogIndex(1),
                entries: vec![first],
                ..Loaded::default()
            };
            let config = Config { snapshot_threshold: 1, ..Config::new(NodeId(1), "a1") };
            let mut replica = Replica::new(config, loaded, 0).unwrap();
            replica.handle_applied(LogIndex(1));
            let own = replica.begin_snapshot(|| 0).unwrap();
            let install = rpc::InstallSnapshot {
                term: Term(2),
                last_index: LogIndex(9),
                last_term: Term(2),
                configuration,
                configuration_index: LogIndex(1),
                data: Bytes::new(),
            };
            let message = rpc::Message::InstallSnapshot(install);
            replica.handle_message(StreamId(2), LEADER, "a2", message, 1);
            let poll = |replica: &mut Replica| {
                while let Some(output) = replica.poll_output(1) {
                    match output {
                        Output::Persist(step) => replica.handle_persisted(step.number),
                        Output::Restore(snapshot) => replica.handle_restored(snapshot.metadata.index),
                        _ => {}
                    }
                }
            };
            if is_durable {
                poll(&mut replica);
            }
            replica.handle_snapshot_taken(&own);
            poll(&mut replica);
            assert_eq!(replica.snapshot_index(), 9, "{is_durable}");
            assert!(!replica.snapshot_running);
        }
    }
}
