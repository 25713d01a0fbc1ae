//! What has to be true again after every call into raft-rs: the configuration in force, our leadership, the election
//! timeout.

use raft::StateRole;
use raft::eraftpb::{ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2};
use wire_protocol::{Configuration, LogIndex, Term};

use crate::catch_up::Proof;
use crate::error::ChangeError;
use crate::lease::Lease;
use crate::membership::to_conf_state;
use crate::output::Output;
use crate::replica::{Leading, Replica};

impl Replica {
    /// After every call into raft-rs: configurations in force, leadership, the election timeout.
    pub(crate) fn settle(&mut self, appended: Vec<(LogIndex, Term, Configuration)>) {
        if self.halted {
            return;
        }
        let log = &self.raw.raft.raft_log;
        let still_there = |index: LogIndex, term: Term| log.match_term(index.0, term.0);
        if !planted::bug!(ConfigurationNotRolledBack) {
            self.membership.roll_back(still_there);
        }
        for (index, term, configuration) in appended {
            if still_there(index, term) {
                self.membership.push(index, term, configuration);
            }
        }
        self.observe_leadership();
        self.put_configuration_in_force();
        self.observe_requests();
        let span = self.config.election_ticks() as u64;
        let drawn = mix([self.config.seed, self.config.id.0, self.raw.raft.term, self.campaigns]) % span;
        self.raw.raft.set_randomized_election_timeout(usize::try_from(span + drawn).expect("ticks are few"));
    }

    /// Brings raft-rs to the configuration in force: one change after the other, as it never sees more than one server
    /// change between two steps that matter.
    pub(crate) fn put_configuration_in_force(&mut self) {
        let own = self.config.id.0;
        let (mut voters, mut learners) =
            to_conf_state(self.membership.newest(), self.config.id, self.requests.promotee());
        if voters.is_empty() {
            return;
        }
        let current = self.raw.raft.prs().conf().to_conf_state();
        let in_both = !current.voters_outgoing.is_empty();
        let both = self.membership.vote_is_at_stake(self.config.id, self.commit_index());
        if both && in_both {
            return;
        }
        if both {
            learners.remove(&own);
            voters.insert(own);
        }
        let mut changes = Vec::new();
        if in_both {
            changes.push(ConfChangeV2::default());
        }
        let mut single = |kind, id| changes.push(conf_change(kind, id));
        let learned = |id: &u64| current.learners.contains(id) || current.learners_next.contains(id);
        let added = voters.iter().filter(|id| !current.voters.contains(id));
        added.for_each(|id| single(ConfChangeType::AddNode, *id));
        let added = learners.iter().filter(|id| !learned(id));
        added.for_each(|id| single(ConfChangeType::AddLearnerNode, *id));
        let known = current.voters.iter().chain(&current.learners).chain(&current.learners_next);
        let removed = known.filter(|id| !voters.contains(id) && !learners.contains(id));
        removed.for_each(|id| single(ConfChangeType::RemoveNode, *id));
        if both {
            let mut change = conf_change(ConfChangeType::AddLearnerNode, own);
            change.set_transition(ConfChangeTransition::Explicit);
            changes.push(change);
        }
        for change in changes {
            if let Err(error) = self.raw.raft.apply_conf_change(&change) {
                self.fail(format!(
                    "configuration {:?} cannot be put in force: {error}",
                    self.membership.newest()
                ));
                return;
            }
        }
    }

    pub(crate) fn observe_leadership(&mut self) {
        let raft = &self.raw.raft;
        let term = raft.term;
        let leads = raft.state == StateRole::Leader;
        if self.leading.is_some_and(|leading| !leads || leading.term != term) {
            self.end_leadership();
        }
        if leads && self.leading.is_none() {
            let first_index = self.raw.raft.raft_log.last_index();
            self.leading = Some(Leading { term, first_index, since_ms: self.looked_ms });
            self.lease = Lease::default();
            for peer in self.peers.values_mut() {
                peer.heartbeat_credit = false;
                peer.contact_ms = None;
                peer.snapshot_since_ms = None;
                peer.pieces = None;
                peer.is_empty = false;
                peer.proof = Proof::default();
            }
            self.outputs.push_back(Output::BecameLeader { term: Term(term) });
        }
    }

    pub(crate) fn end_leadership(&mut self) {
        if self.leading.take().is_some() {
            self.lost_undelivered = true;
            self.outputs.push_back(Output::LostLeadership);
            self.peers.values_mut().for_each(|peer| peer.pieces = None);
            self.fail_changes(ChangeError::LeadershipLost);
        }
    }

    pub(crate) fn halt(&mut self) {
        self.end_leadership();
        self.halted = true;
        self.outstanding.clear();
        self.replies.clear();
        self.outputs.retain(|output| matches!(output, Output::LostLeadership | Output::RequestDone { .. }));
    }
}

fn conf_change(kind: ConfChangeType, id: u64) -> ConfChangeV2 {
    let mut single = ConfChangeSingle { node_id: id, ..ConfChangeSingle::default() };
    single.set_change_type(kind);
    let mut change = ConfChangeV2::default();
    change.set_changes(vec![single].into());
    change
}

/// Spreads its arguments evenly over all values (the finalizer of splitmix64, chained).
fn mix(values: [u64; 4]) -> u64 {
    values.iter().fold(0x9e37_79b9_7f4a_7c15, |state, value| {
        let mut mixed = (state ^ value).wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    })
}
