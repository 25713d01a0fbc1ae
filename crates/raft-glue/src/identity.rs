//! Which cluster this node belongs to: the one owner of that state, and the rules.
//!
//! # States
//!
//! What is known of the cluster:
//!
//! | State | Meaning | Announced |
//! | --- | --- | --- |
//! | unbound | no identity; every upgrade from C begins here | none |
//! | binding `I` | `I` is on its way to the disk, bound to a committed entry | none |
//! | bound `I` | `I` is durable | `I` |
//!
//! Whose log it is:
//!
//! | State | Meaning |
//! | --- | --- |
//! | member | the log is this node's own, or it is empty |
//! | visitor | the node started with a log whose configuration does not contain it: perhaps that of another cluster |
//! | moving | the log is being moved aside |
//!
//! A node is a visitor if neither the newest configuration of its log names it nor, as long as the newest one may still
//! be taken back, the one before. So nothing that a visitor ever acknowledged counts any more: a configuration without it
//! is committed. That is decided at the start and never later, since the log of a node that joins has no configuration
//! with it for a while. A visitor neither votes nor stands, announces no identity, and takes no snapshot.
//!
//! # Transitions
//!
//! | From | When | To |
//! | --- | --- | --- |
//! | start | a file that fits the log | bound |
//! | unbound | member; follows a leader that announces `I`, has appended what it sent and knows it to be committed | binding `I` |
//! | unbound | leads, has committed something of its term, and a voter or stand-by that answers it announces `I` | binding `I` |
//! | unbound | the same, and every other voter has answered it in this leadership on a stream that announces no identity (for stand-bys this is waited for, but not for ever) | binding a new one |
//! | binding | durable | bound; all streams are dialled anew |
//! | binding | the entry is gone, or no space | unbound; tried again when more is committed |
//! | visitor | append or snapshot of a leader that announces our own identity | member |
//! | visitor | append or snapshot of any other leader, C included | moving |
//! | moving | log and snapshots have other names, durably | member and unbound, with an empty log |
//!
//! Two leaders cannot both assign: an answer in a term leaves behind what the voter had to write before, in order, so a
//! voter that assigned or learned an identity earlier announces it by the time it answers a later leader. A C voter
//! announces nothing, so a mixed cluster has no new identity; one that it has stays in force among nodes of ours.
//!
//! That holds for voters. A leader that assigned an identity, of which nobody heard before it lost leadership and was made
//! a spare or removed by its successor, is not asked when that one assigns another: it is refused when it comes back, and
//! has to be removed, emptied and added again.
//!
//! # What is checked of each message
//!
//! | We | Their stream | |
//! | --- | --- | --- |
//! | bound `I` | announces another one | refused: not processed; a request gets a rejection, so that a leader learns of us |
//! | anything else | anything else | processed; an absent identity never blocks a node |
//! | moving | | not processed; answered with no when the log is aside |

use wire_protocol::{ClusterId, LogIndex};

/// What to do with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// As raft says.
    Process,
    /// It is of another cluster.
    Refuse,
    /// Our log is of another cluster: it has to be moved aside first.
    MoveAside,
    /// There is no log to process it with now.
    Ignore,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Knowledge {
    Unbound,
    Binding(ClusterId),
    Bound(ClusterId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Member,
    Visitor,
    Moving,
}

/// Another member of the configuration, as its leader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Other {
    pub(crate) is_voter: bool,
    /// It has answered in this leadership.
    pub(crate) answered: bool,
    /// Its newest stream says something of itself, which no C node does.
    pub(crate) announces: bool,
    pub(crate) cluster: Option<ClusterId>,
}

/// See the head of the file.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    knowledge: Knowledge,
    standing: Standing,
    /// Binding to this entry or one before it failed.
    failed_at: LogIndex,
    /// Members of this leader contradict each other, which was said.
    warned: bool,
}

impl Identity {
    /// What a start finds: the identity that fits the log, and whether the log belongs to this node.
    pub(crate) fn new(cluster: Option<ClusterId>, is_visitor: bool) -> Self {
        Self {
            knowledge: cluster.map_or(Knowledge::Unbound, Knowledge::Bound),
            standing: if is_visitor { Standing::Visitor } else { Standing::Member },
            failed_at: LogIndex(0),
            warned: false,
        }
    }

    fn bound(&self) -> Option<ClusterId> {
        match self.knowledge {
            Knowledge::Bound(cluster) => Some(cluster),
            Knowledge::Unbound | Knowledge::Binding(_) => None,
        }
    }

    /// What we say of ourselves. A visitor brings nothing, so it is of no cluster.
    pub(crate) fn announced(&self) -> Option<ClusterId> {
        self.bound().filter(|_| self.standing == Standing::Member)
    }

    /// Whether votes, candidacies and snapshots are possible as far as this goes.
    pub(crate) fn takes_part(&self) -> bool {
        self.standing == Standing::Member || planted::bug!(VisitorVotes)
    }

    /// Whether the log is being moved aside.
    pub(crate) fn is_moving(&self) -> bool {
        self.standing == Standing::Moving
    }

    /// What to do with a message on a stream that announced `theirs`; `leads` if it is the request of a leader.
    pub(crate) fn judge(&self, theirs: Option<ClusterId>, leads: bool) -> Verdict {
        match (self.standing, self.bound(), theirs) {
            (Standing::Moving, _, _) => Verdict::Ignore,
            (Standing::Visitor, Some(own), Some(theirs)) if own == theirs => Verdict::Process,
            (Standing::Visitor, _, _) if leads && !planted::bug!(ForeignLogKept) => Verdict::MoveAside,
            (Standing::Member, Some(own), Some(theirs))
                if own != theirs && !planted::bug!(IdentityIgnored) =>
            {
                Verdict::Refuse
            }
            _ => Verdict::Process,
        }
    }

    /// A leader's request is about to be processed. Returns whether what we announce changes with it.
    pub(crate) fn joined(&mut self) -> bool {
        let was_visitor = std::mem::replace(&mut self.standing, Standing::Member) == Standing::Visitor;
        was_visitor && self.bound().is_some()
    }

    /// The log is about to be moved aside.
    pub(crate) fn moving(&mut self) {
        self.standing = Standing::Moving;
    }

    /// The log is aside and nothing is left of it; or that was not possible, and another request will try again.
    pub(crate) fn moved(&mut self, done: bool) {
        if done {
            *self = Self::new(None, false);
        } else {
            self.standing = Standing::Visitor;
        }
    }

    /// A follower has appended what a leader sent that announces `theirs`; everything up to `commit` is committed and
    /// durable. Returns what has to be made durable.
    pub(crate) fn followed(&mut self, theirs: Option<ClusterId>, commit: LogIndex) -> Option<ClusterId> {
        self.bind(theirs?, commit)
    }

    /// We lead these others, and everything up to `commit`, with an entry of this leadership, is committed and durable. Says
    /// what has to be made durable; `new` is a fresh identity, and `patient` whether there is time to wait for stand-bys.
    pub(crate) fn led(
        &mut self,
        others: &[Other],
        new: ClusterId,
        commit: LogIndex,
        patient: bool,
    ) -> Option<ClusterId> {
        if self.knowledge != Knowledge::Unbound {
            return None;
        }
        let answering = others.iter().filter(|other| other.answered);
        let mut known: Vec<ClusterId> = answering.filter_map(|other| other.cluster).collect();
        known.sort();
        known.dedup();
        match known[..] {
            [] => {}
            [cluster] => return self.bind(cluster, commit),
            _ => {
                if !std::mem::replace(&mut self.warned, true) {
                    tracing::error!("members of this cluster belong to different clusters: {known:?}");
                }
                return None;
            }
        }
        let says_none = |other: &Other| other.answered && other.announces;
        let waits = others.iter().any(|other| !says_none(other) && (other.is_voter || patient));
        if waits && !planted::bug!(IdentityAssignedEarly) {
            return None;
        }
        self.bind(new, commit)
    }

    fn bind(&mut self, cluster: ClusterId, commit: LogIndex) -> Option<ClusterId> {
        let possible = self.knowledge == Knowledge::Unbound
            && self.standing == Standing::Member
            && commit > self.failed_at;
        possible.then(|| {
            self.knowledge = Knowledge::Binding(cluster);
            cluster
        })
    }

    /// The identity that was to be bound to the entry at `index` is durable, or could not be bound. Returns whether what we
    /// announce changes with it.
    pub(crate) fn written(&mut self, cluster: ClusterId, index: LogIndex, done: bool) -> bool {
        if self.knowledge != Knowledge::Binding(cluster) {
            return false;
        }
        if done {
            self.knowledge = Knowledge::Bound(cluster);
        } else {
            self.knowledge = Knowledge::Unbound;
            self.failed_at = index;
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: LogIndex = LogIndex(1);

    fn id(number: u128) -> ClusterId {
        ClusterId::new(number).unwrap()
    }

    fn other(answered: bool, announces: bool, cluster: Option<u128>) -> Other {
        Other { is_voter: true, answered, announces, cluster: cluster.map(id) }
    }

    fn unbound() -> Identity {
        Identity::new(None, false)
    }

    fn bound(number: u128) -> Identity {
        Identity::new(Some(id(number)), false)
    }

    #[test]
    fn different_identities_are_refused_and_an_absent_one_blocks_nobody() {
        for leads in [false, true] {
            assert_eq!(bound(1).judge(Some(id(2)), leads), Verdict::Refuse);
            assert_eq!(bound(1).judge(Some(id(1)), leads), Verdict::Process);
            assert_eq!(bound(1).judge(None, leads), Verdict::Process);
            assert_eq!(unbound().judge(Some(id(2)), leads), Verdict::Process);
            assert_eq!(unbound().judge(None, leads), Verdict::Process);
        }
    }

    #[test]
    fn a_visitor_brings_no_log_unless_it_is_that_of_the_leader() {
        for own in [None, Some(id(1))] {
            let mut visitor = Identity::new(own, true);
            assert!(!visitor.takes_part() && visitor.announced().is_none());
            for theirs in [None, Some(id(2))] {
                assert_eq!(visitor.judge(theirs, true), Verdict::MoveAside);
                assert_eq!(
                    visitor.judge(theirs, false),
                    Verdict::Process,
                    "no leader, no harm: it gets no vote"
                );
            }
            visitor.moving();
            assert_eq!(visitor.judge(own, true), Verdict::Ignore);
            visitor.moved(false);
            assert_eq!(visitor.judge(None, true), Verdict::MoveAside);
            visitor.moving();
            visitor.moved(true);
            assert!(visitor.takes_part() && visitor.announced().is_none());
            assert_eq!(visitor.followed(Some(id(2)), ONE), Some(id(2)));
        }
        let mut returning = Identity::new(Some(id(1)), true);
        assert_eq!(returning.judge(Some(id(1)), true), Verdict::Process);
        assert!(returning.joined(), "it announces itself from now on");
        assert_eq!(returning.announced(), Some(id(1)));
    }

    #[test]
    fn an_identity_counts_when_it_is_durable() {
        let mut identity = unbound();
        assert_eq!(identity.followed(None, ONE), None);
        assert_eq!(identity.followed(Some(id(3)), ONE), Some(id(3)));
        assert_eq!(identity.announced(), None);
        assert_eq!(identity.judge(Some(id(4)), true), Verdict::Process);
        assert_eq!(identity.followed(Some(id(4)), LogIndex(9)), None, "one at a time");
        assert!(!identity.written(id(3), ONE, false));
        assert_eq!(identity.followed(Some(id(3)), ONE), None, "the same entry would fail again");
        assert_eq!(identity.followed(Some(id(3)), LogIndex(2)), Some(id(3)));
        assert!(identity.written(id(3), LogIndex(2), true));
        assert_eq!(identity.announced(), Some(id(3)));
        assert_eq!(identity.followed(Some(id(4)), LogIndex(9)), None, "for good");
    }

    #[test]
    fn a_leader_assigns_once_every_voter_says_that_it_has_none() {
        let assigns =
            |others: &[Other], patient| unbound().led(others, id(7), ONE, patient).map(ClusterId::get);
        assert_eq!(assigns(&[], true), Some(7), "a cluster of one node");
        assert_eq!(assigns(&[other(true, true, None), other(true, true, None)], true), Some(7));
        assert_eq!(assigns(&[other(true, true, None), other(false, true, None)], false), None, "not heard");
        assert_eq!(assigns(&[other(true, true, None), other(true, false, None)], false), None, "a C voter");
        assert_eq!(assigns(&[other(true, true, Some(5)), other(false, false, None)], true), Some(5));
        assert_eq!(assigns(&[other(true, true, Some(5)), other(true, true, Some(6))], false), None);
        assert_eq!(assigns(&[other(false, true, Some(5))], false), None, "who does not answer is not asked");
        let stand_by = Other { is_voter: false, ..other(false, false, None) };
        assert_eq!(assigns(&[stand_by], true), None);
        assert_eq!(assigns(&[stand_by], false), Some(7));
        assert_eq!(bound(1).led(&[], id(7), ONE, false), None);
    }
}
