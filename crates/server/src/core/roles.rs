//! Who should have which role: C dqlite's algorithm, as a function of what is known of the members.
//!
//! For a healthy cluster the choices are C's. They differ where C's would harm a cluster that is not:
//!
//! - a server never takes its own role away, whatever it hears of itself;
//! - a silent voter keeps its vote unless others are there to take its place: with two voters left of three, taking it
//!   away would tolerate no further failure, and the two could not go on with the third when it comes back;
//! - weights and failure domains are compared as what they are, 64-bit numbers, and all domains count.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use raft_glue::{NodeId, Role};

/// A silent voter may lose its vote if this many others, or as many as are wanted, answer.
const ENOUGH_VOTERS: i64 = 3;

/// How many of each are wanted; less than nothing means none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Targets {
    /// Voters.
    pub voters: i32,
    /// Stand-bys.
    pub stand_bys: i32,
}

/// What is known of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Identity.
    pub id: NodeId,
    /// Role in the configuration in force.
    pub role: Role,
    /// Whether it has been heard from.
    pub online: bool,
    /// Where it stands.
    pub failure_domain: u64,
    /// How reluctant it is.
    pub weight: u64,
    /// It is counted, but somebody else looks after its role for now. A voter that has gone silent is not left alone.
    pub left_alone: bool,
}

/// Servers of each failure domain.
type Tally = BTreeMap<u64, u32>;

/// The changes that bring `members` (in the order of the configuration) to the targets, in the order in which to make
/// them, one for each server at most. `own` is the leader, which is always online.
#[must_use]
pub fn plan(targets: Targets, own: NodeId, members: &[Member]) -> Vec<(NodeId, Role)> {
    let mut planner = Planner::new(own, members);
    planner.count_and_drop_silent(i64::from(targets.voters));
    planner.reach_voters(i64::from(targets.voters));
    planner.reach_stand_bys(i64::from(targets.stand_bys));
    let mut changes = planner.changes;
    changes.retain(|(id, role)| members.iter().any(|member| member.id == *id && member.role != *role));
    changes
}

/// Who could take the vote of `own`: the members but itself that are online and no voters, best first.
#[must_use]
pub fn substitutes(own: NodeId, members: &[Member]) -> Vec<NodeId> {
    let mut voters = Tally::new();
    for member in members.iter().filter(|member| member.id != own) {
        if member.online && member.role == Role::Voter {
            *voters.entry(member.failure_domain).or_default() += 1;
        }
    }
    let mut sorted = members.to_vec();
    sorted.sort_by(|left, right| preference(&voters, left, right));
    let fits = |member: &&Member| member.id != own && member.online && member.role != Role::Voter;
    sorted.iter().filter(fits).map(|member| member.id).collect()
}

struct Planner {
    own: NodeId,
    /// In the order the last sort has left, with the roles the steps so far have given.
    members: Vec<Member>,
    voters: i64,
    stand_bys: i64,
    voters_in: Tally,
    stand_bys_in: Tally,
    changes: Vec<(NodeId, Role)>,
}

impl Planner {
    fn new(own: NodeId, members: &[Member]) -> Self {
        let mut members = members.to_vec();
        for member in members.iter_mut().filter(|member| member.id == own) {
            member.online = true;
        }
        Self {
            own,
            members,
            voters: 0,
            stand_bys: 0,
            voters_in: Tally::new(),
            stand_bys_in: Tally::new(),
            changes: Vec::new(),
        }
    }

    fn set(&mut self, position: usize, role: Role) {
        let member = &mut self.members[position];
        member.role = role;
        let id = member.id;
        match self.changes.iter_mut().find(|(changed, _)| *changed == id) {
            Some((_, planned)) => *planned = role,
            None => self.changes.push((id, role)),
        }
    }

    fn count_and_drop_silent(&mut self, wanted: i64) {
        let online = |role: Role| {
            let of = |member: &&Member| member.online && member.role == role;
            i64::try_from(self.members.iter().filter(of).count()).unwrap_or(i64::MAX)
        };
        let answering = online(Role::Voter);
        let fits = |member: &&Member| member.online && member.role != Role::Voter && !member.left_alone;
        let fitting = i64::try_from(self.members.iter().filter(fits).count()).unwrap_or(i64::MAX);
        let voters_then = answering + fitting.min((wanted - answering).max(0));
        let enough = voters_then >= wanted.clamp(1, ENOUGH_VOTERS);
        for position in 0..self.members.len() {
            let Member { role, online, failure_domain, left_alone, .. } = self.members[position];
            match (role, online) {
                (Role::Voter, true) => {
                    self.voters += 1;
                    *self.voters_in.entry(failure_domain).or_default() += 1;
                }
                (Role::StandBy, true) => {
                    self.stand_bys += 1;
                    *self.stand_bys_in.entry(failure_domain).or_default() += 1;
                }
                (Role::Voter, false) if enough => self.set(position, Role::Spare),
                (Role::StandBy, false) if !left_alone => self.set(position, Role::Spare),
                _ => {}
            }
        }
    }

    fn reach_voters(&mut self, wanted: i64) {
        if self.voters < wanted {
            self.sort(Role::Voter, false);
            for position in 0..self.members.len() {
                let Member { role, online, failure_domain, left_alone, .. } = self.members[position];
                if self.voters >= wanted {
                    break;
                }
                if !online || role == Role::Voter || left_alone {
                    continue;
                }
                if role == Role::StandBy {
                    self.stand_bys -= 1;
                    leave(&mut self.stand_bys_in, failure_domain);
                }
                self.voters += 1;
                *self.voters_in.entry(failure_domain).or_default() += 1;
                self.set(position, Role::Voter);
            }
        }
        if self.voters > wanted {
            self.sort(Role::Voter, true);
            for position in 0..self.members.len() {
                let Member { id, role, online, failure_domain, left_alone, .. } = self.members[position];
                if self.voters <= wanted {
                    break;
                }
                if role != Role::Voter || !online || id == self.own || left_alone {
                    continue;
                }
                self.voters -= 1;
                leave(&mut self.voters_in, failure_domain);
                self.set(position, Role::Spare);
            }
        }
    }

    fn reach_stand_bys(&mut self, wanted: i64) {
        if self.stand_bys < wanted {
            self.sort(Role::StandBy, false);
            for position in 0..self.members.len() {
                let Member { role, online, failure_domain, left_alone, .. } = self.members[position];
                if self.stand_bys >= wanted {
                    break;
                }
                if !online || role != Role::Spare || left_alone {
                    continue;
                }
                self.stand_bys += 1;
                *self.stand_bys_in.entry(failure_domain).or_default() += 1;
                self.set(position, Role::StandBy);
            }
        }
        if self.stand_bys > wanted {
            self.sort(Role::StandBy, true);
            for position in 0..self.members.len() {
                let Member { role, failure_domain, left_alone, .. } = self.members[position];
                if self.stand_bys <= wanted.max(0) {
                    break;
                }
                if role != Role::StandBy || left_alone {
                    continue;
                }
                self.stand_bys -= 1;
                leave(&mut self.stand_bys_in, failure_domain);
                self.set(position, Role::Spare);
            }
        }
    }

    /// Brings the members into the order in which they are promoted to a role, or demoted from it. Ties keep the order of
    /// the sort before.
    fn sort(&mut self, role: Role, demotion: bool) {
        let tally = if role == Role::Voter { &self.voters_in } else { &self.stand_bys_in };
        self.members.sort_by(|left, right| {
            let order = preference(tally, left, right);
            if demotion { order.reverse() } else { order }
        });
    }
}

fn leave(tally: &mut Tally, domain: u64) {
    if let Some(count) = tally.get_mut(&domain) {
        *count = count.saturating_sub(1);
    }
}

/// Whom to promote first: from the domain with the fewest, of small weight, of a senior role.
fn preference(tally: &Tally, left: &Member, right: &Member) -> Ordering {
    let key = |member: &Member| {
        let there = tally.get(&member.failure_domain).copied().unwrap_or(0);
        let seniority = match member.role {
            Role::Voter => 0,
            Role::StandBy => 1,
            Role::Spare => 2,
        };
        (there, member.weight, seniority)
    };
    key(left).cmp(&key(right))
}

#[cfg(test)]
#[path = "roles_tests.rs"]
mod tests;
