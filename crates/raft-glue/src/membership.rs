//! Which configuration is in force: the newest one in the log, committed or not.
//!
//! C-raft uses a configuration from the moment it is appended. Using it later next to C nodes could elect two leaders
//! that both commit, so it is the same here, and a truncated entry takes its configuration back.

use std::collections::BTreeSet;

use wire_protocol::{Configuration, LogIndex, NodeId, Role, Server, Term};

use crate::error::ChangeError;
use crate::plausible::MAX_SERVERS;

/// A configuration entry in the log.
#[derive(Clone, Debug)]
struct Appended {
    index: LogIndex,
    term: Term,
    configuration: Configuration,
}

/// The configurations of the log, oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Membership {
    /// Configuration of the snapshot; empty without one.
    base: Configuration,
    base_index: LogIndex,
    appended: Vec<Appended>,
}

impl Membership {
    pub(crate) fn new(base: Configuration, base_index: LogIndex) -> Self {
        Self { base, base_index, appended: Vec::new() }
    }

    /// The configuration in force.
    pub(crate) fn newest(&self) -> &Configuration {
        self.appended.last().map_or(&self.base, |newest| &newest.configuration)
    }

    pub(crate) fn newest_index(&self) -> LogIndex {
        self.appended.last().map_or(self.base_index, |newest| newest.index)
    }

    /// The configuration that the newest one replaced, if the log still tells.
    pub(crate) fn previous(&self) -> Option<&Configuration> {
        let before = self.appended.len().checked_sub(1)?;
        Some(before.checked_sub(1).map_or(&self.base, |position| &self.appended[position].configuration))
    }

    /// Whether the newest configuration takes our vote away, but is not known to be committed.
    ///
    /// Its entry may never get further than to us, while without us nobody can be elected in the one before: all nodes
    /// would be up and none could ever lead. So we may campaign, and need a majority of both configurations.
    pub(crate) fn vote_is_at_stake(&self, own: NodeId, commit: LogIndex) -> bool {
        let newest = self.newest();
        let others = |previous: &Configuration| {
            let before = previous.voters().map(|server| server.id).filter(|id| *id != own);
            before.collect::<BTreeSet<_>>() == newest.voters().map(|server| server.id).collect()
        };
        self.newest_index() > commit
            && !newest.is_voter(own)
            && self.previous().is_some_and(|previous| previous.is_voter(own) && others(previous))
    }

    /// The newest configuration that is known to be committed, and the index of its entry.
    pub(crate) fn committed(&self, commit: LogIndex) -> (&Configuration, LogIndex) {
        let committed = self.appended.iter().rev().find(|appended| appended.index <= commit);
        committed.map_or((&self.base, self.base_index), |found| (&found.configuration, found.index))
    }

    /// A configuration entry was appended.
    pub(crate) fn push(&mut self, index: LogIndex, term: Term, configuration: Configuration) {
        if index > self.newest_index() {
            self.appended.push(Appended { index, term, configuration });
        }
    }

    /// Takes back the configurations whose entries are not in the log any more.
    pub(crate) fn roll_back(&mut self, still_there: impl Fn(LogIndex, Term) -> bool) {
        while self.appended.last().is_some_and(|newest| !still_there(newest.index, newest.term)) {
            self.appended.pop();
        }
    }

    /// Forgets what was replaced before `index`, where everything is committed.
    pub(crate) fn compact(&mut self, index: LogIndex) {
        if let Some(position) = self.appended.iter().rposition(|appended| appended.index <= index) {
            let kept = self.appended.split_off(position + 1);
            let base = std::mem::replace(&mut self.appended, kept).pop().expect("position is inside");
            self.base = base.configuration;
            self.base_index = base.index;
        }
    }

    /// A snapshot of the leader replaces everything.
    pub(crate) fn install(&mut self, configuration: Configuration, index: LogIndex) {
        *self = Self::new(configuration, index);
    }
}

/// Voters and learners as raft-rs needs them.
///
/// We are always among them, if only as a learner without weight: raft-rs panics as a leader that it does not know,
/// and ignores snapshots that do not name it. The member being promoted gets the log although it is a spare.
pub(crate) fn to_conf_state(
    configuration: &Configuration,
    own: NodeId,
    promotee: Option<NodeId>,
) -> (BTreeSet<u64>, BTreeSet<u64>) {
    let voters: BTreeSet<u64> = configuration.voters().map(|server| server.id.0).collect();
    if voters.is_empty() {
        return (voters, BTreeSet::new());
    }
    let stand_bys = configuration.servers.iter().filter(|server| server.role == Role::StandBy);
    let mut learners: BTreeSet<u64> = stand_bys.map(|server| server.id.0).collect();
    learners.extend(promotee.map(|id| id.0));
    learners.insert(own.0);
    let learners = learners.difference(&voters).copied().collect();
    (voters, learners)
}

/// What a client may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Add(NodeId, String),
    Assign(NodeId, Role),
    Remove(NodeId),
}

impl Change {
    /// The configuration after this change, or why it cannot be.
    pub(crate) fn apply(&self, configuration: &Configuration) -> Result<Configuration, ChangeError> {
        let mut changed = configuration.clone();
        match self {
            Self::Add(id, address) => {
                if id.0 == 0 {
                    return Err(ChangeError::BadId);
                }
                if configuration.server(*id).is_some() {
                    return Err(ChangeError::DuplicateId);
                }
                if configuration.servers.iter().any(|server| server.address == *address) {
                    return Err(ChangeError::DuplicateAddress);
                }
                // The others would not take it.
                if configuration.servers.len() >= MAX_SERVERS {
                    return Err(ChangeError::TooManyServers);
                }
                changed.servers.push(Server { id: *id, address: address.clone(), role: Role::Spare });
            }
            Self::Assign(id, role) => {
                let server = changed.servers.iter_mut().find(|server| server.id == *id);
                let server = server.ok_or(ChangeError::NotFound)?;
                if server.role == *role {
                    return Err(ChangeError::BadRole);
                }
                server.role = *role;
                // Without a voter the cluster would be lost.
                if changed.voters().next().is_none() {
                    return Err(ChangeError::BadRole);
                }
            }
            Self::Remove(id) => {
                if configuration.server(*id).is_none() {
                    return Err(ChangeError::BadId);
                }
                changed.servers.retain(|server| server.id != *id);
                if changed.voters().next().is_none() {
                    return Err(ChangeError::BadId);
                }
            }
        }
        Ok(changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(members: &[(u64, Role)]) -> Configuration {
        let server = |&(id, role)| Server { id: NodeId(id), address: format!("address-{id}"), role };
        Configuration { servers: members.iter().map(server).collect() }
    }

    #[test]
    fn truncated_configurations_are_taken_back() {
        let first = configuration(&[(1, Role::Voter)]);
        let second = configuration(&[(1, Role::Voter), (2, Role::Spare)]);
        let third = configuration(&[(1, Role::Voter), (2, Role::Voter)]);
        let mut membership = Membership::default();
        membership.push(LogIndex(1), Term(1), first.clone());
        membership.push(LogIndex(5), Term(1), second.clone());
        membership.push(LogIndex(5), Term(1), first);
        membership.push(LogIndex(9), Term(2), third.clone());
        assert_eq!(membership.newest(), &third);
        assert_eq!(membership.committed(LogIndex(8)), (&second, LogIndex(5)));
        membership.roll_back(|index, _| index < LogIndex(9));
        assert_eq!(membership.newest(), &second);
        membership.compact(LogIndex(7));
        assert_eq!((membership.newest(), membership.newest_index()), (&second, LogIndex(5)));
        membership.roll_back(|_, _| false);
        assert_eq!(membership.newest(), &second, "what a snapshot covers stays");
    }

    #[test]
    fn we_are_in_every_configuration_that_has_voters() {
        let members = configuration(&[(1, Role::Voter), (2, Role::StandBy), (3, Role::Spare)]);
        let sets = |own, promotee| to_conf_state(&members, NodeId(own), promotee);
        assert_eq!(sets(1, None), ([1].into(), [2].into()));
        assert_eq!(sets(3, None), ([1].into(), [2, 3].into()));
        assert_eq!(sets(7, Some(NodeId(3))), ([1].into(), [2, 3, 7].into()));
        assert_eq!(to_conf_state(&Configuration::default(), NodeId(1), None), Default::default());
    }

    #[test]
    fn changes_are_checked_as_c_does_and_keep_a_voter() {
        let members = configuration(&[(1, Role::Voter), (2, Role::Spare)]);
        let refused = |change: Change| change.apply(&members).unwrap_err();
        assert_eq!(refused(Change::Add(NodeId(2), "x".to_owned())), ChangeError::DuplicateId);
        assert_eq!(refused(Change::Add(NodeId(3), "address-1".to_owned())), ChangeError::DuplicateAddress);
        assert_eq!(refused(Change::Add(NodeId(0), "x".to_owned())), ChangeError::BadId);
        assert_eq!(refused(Change::Assign(NodeId(3), Role::Voter)), ChangeError::NotFound);
        assert_eq!(refused(Change::Assign(NodeId(2), Role::Spare)), ChangeError::BadRole);
        assert_eq!(refused(Change::Assign(NodeId(1), Role::Spare)), ChangeError::BadRole);
        assert_eq!(refused(Change::Remove(NodeId(3))), ChangeError::BadId);
        assert_eq!(refused(Change::Remove(NodeId(1))), ChangeError::BadId);
        let changed = Change::Add(NodeId(3), "x".to_owned()).apply(&members).unwrap();
        assert_eq!(changed.server(NodeId(3)).unwrap().role, Role::Spare);
        assert_eq!(Change::Remove(NodeId(2)).apply(&members).unwrap(), configuration(&[(1, Role::Voter)]));
    }
}
