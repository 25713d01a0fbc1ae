//! The read lease of a leader: until when nobody else can have been elected.
//!
//! Every append of ours carries an echo number, which is the moment that it is sent, by the leader's clock. A voter that
//! returns it has promised, when it took the append, to give neither vote nor pre-vote for its own election timeout from
//! then on; and it took it after it was sent. So a leader that counts from the sending knows how long the promise lasts,
//! however long the answer was on its way and however late it is read. While a majority of the voters, the leader's own
//! vote among them, is bound by promises, no other leader can be elected: what the leader has is the newest state there
//! is, and it answers reads from memory.
//!
//! - A promise counts for what the voter announced as its election timeout, less [`DRIFT_PERCENT`] for what two clocks may
//!   differ by, and [`ROUNDING_MS`]. Voters that have announced nothing (C nodes) promise nothing.
//! - A vote that a transfer asks for is given in spite of promises. So there is no lease while a transfer is pending; and
//!   once a TIMEOUT_NOW was sent, none until its target has acknowledged an entry behind it: only then is it certain that
//!   a late one does nothing, because the target obeys only if its log ends where the TIMEOUT_NOW says.
//! - What a voter promised is forgotten with the stream that it announced itself on.
//!
//! A sole voter always has the lease. A leader that is no voter never has it.

use std::collections::BTreeMap;

use wire_protocol::{Configuration, Features, LogIndex, NodeId, PeerAnnouncement};

/// By how many parts in a hundred of an election timeout the leader's clock and a voter's may differ: the limit for clock
/// faults within which reads are strictly serializable. A clock that is ten times as inaccurate as any computer's would
/// use a hundredth of it.
pub const DRIFT_PERCENT: u64 = 10;
/// What is lost because moments are whole milliseconds, one at either end.
const ROUNDING_MS: u64 = 2;

/// How long after its sending an append binds a voter that announced this election timeout, by the leader's clock.
#[must_use]
pub(crate) const fn length_ms(election_timeout_ms: u64) -> u64 {
    (election_timeout_ms
        - election_timeout_ms / 100 * DRIFT_PERCENT
        - election_timeout_ms % 100 * DRIFT_PERCENT / 100)
        .saturating_sub(ROUNDING_MS)
}

/// The echo number of an append that is sent now; never 0, which stands for none.
#[must_use]
pub(crate) const fn echo_number(now_ms: u64) -> u64 {
    now_ms + 1
}

/// What the voters have promised to the leader that we are. Belongs to one leadership.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lease {
    /// When the promise of each peer ends.
    promised_until_ms: BTreeMap<NodeId, u64>,
    /// Who may still obey a TIMEOUT_NOW, and the index behind which an acknowledged entry shows that it will not.
    late: BTreeMap<NodeId, LogIndex>,
}

impl Lease {
    /// A peer has returned an echo number on a stream whose dialler announced this.
    pub(crate) fn echoed(&mut self, from: NodeId, number: u64, announced: &PeerAnnouncement, now_ms: u64) {
        let Some(sent_ms) = number.checked_sub(1).filter(|sent_ms| *sent_ms <= now_ms) else { return };
        let Some(timeout_ms) = promised_ms(announced) else { return };
        let since_ms = if planted::bug!(LeaseFromAnswer) { now_ms } else { sent_ms };
        let timeout_ms = if planted::bug!(LeaseTooLong) { timeout_ms * 2 } else { timeout_ms };
        let until_ms = since_ms.saturating_add(length_ms(timeout_ms));
        let promised = self.promised_until_ms.entry(from).or_default();
        *promised = until_ms.max(*promised);
    }

    /// The newest stream of this peer has ended or was replaced.
    pub(crate) fn forget(&mut self, peer: NodeId) {
        self.promised_until_ms.remove(&peer);
    }

    /// A TIMEOUT_NOW is sent.
    pub(crate) fn timeout_now_sent(&mut self, to: NodeId, last: LogIndex) {
        if !planted::bug!(LeaseSurvivesTransfer) {
            self.late.insert(to, last);
        }
    }

    /// A peer is known to hold our log up to this index.
    pub(crate) fn acknowledged(&mut self, from: NodeId, matched: LogIndex) {
        if self.late.get(&from).is_some_and(|last| matched > *last) {
            self.late.remove(&from);
        }
    }

    /// Whether a TIMEOUT_NOW may come late.
    pub(crate) fn is_suspended(&self) -> bool {
        !self.late.is_empty()
    }

    /// Whether nobody else can have been elected up to now.
    pub(crate) fn is_valid(&self, own: NodeId, configuration: &Configuration, now_ms: u64) -> bool {
        let promised = |id| self.promised_until_ms.get(&id).is_some_and(|until_ms| now_ms < *until_ms);
        !self.is_suspended() && has_majority(own, configuration, promised)
    }
}

/// Whether a majority of the voters, us among them, would promise anything. `announced` is what a peer says of itself.
pub(crate) fn is_possible<'a>(
    own: NodeId,
    configuration: &Configuration,
    announced: impl Fn(NodeId) -> Option<&'a PeerAnnouncement>,
) -> bool {
    has_majority(own, configuration, |id| announced(id).and_then(promised_ms).is_some())
}

fn promised_ms(announced: &PeerAnnouncement) -> Option<u64> {
    announced.election_timeout_ms.filter(|_| announced.features.contains(Features::READ_LEASE))
}

fn has_majority(own: NodeId, configuration: &Configuration, promised: impl Fn(NodeId) -> bool) -> bool {
    let (mut voters, mut bound) = (0, 0);
    for voter in configuration.voters() {
        voters += 1;
        bound += usize::from(voter.id == own || promised(voter.id));
    }
    configuration.is_voter(own) && bound > voters / 2
}

#[cfg(test)]
mod tests {
    use wire_protocol::{Role, Server};

    use super::*;

    const OURS: PeerAnnouncement =
        PeerAnnouncement { features: Features::READ_LEASE, election_timeout_ms: Some(3000), cluster: None };

    fn voters(ids: &[u64]) -> Configuration {
        let server = |id: &u64| Server { id: NodeId(*id), address: String::new(), role: Role::Voter };
        Configuration { servers: ids.iter().map(server).collect() }
    }

    #[test]
    fn lengths_leave_room_for_drift_and_rounding() {
        for (timeout_ms, length) in
            [(3000, 2698), (150, 133), (15, 12), (1, 0), (0, 0), (u64::MAX, u64::MAX / 10 * 9)]
        {
            let found = length_ms(timeout_ms);
            assert!(found.abs_diff(length) < 20, "{timeout_ms}: {found}");
            assert!(found < timeout_ms.max(1), "{timeout_ms}: {found}");
        }
    }

    #[test]
    fn a_lease_counts_from_the_sending_and_not_from_the_answer() {
        let three = voters(&[1, 2, 3]);
        let mut lease = Lease::default();
        assert!(!lease.is_valid(NodeId(1), &three, 0));
        lease.echoed(NodeId(2), echo_number(1000), &OURS, 3500);
        let end_ms = 1000 + length_ms(3000);
        assert!(lease.is_valid(NodeId(1), &three, end_ms - 1));
        assert!(!lease.is_valid(NodeId(1), &three, end_ms));
        lease.echoed(NodeId(2), echo_number(900), &OURS, 3500);
        assert!(lease.is_valid(NodeId(1), &three, end_ms - 1), "an older echo takes nothing back");
    }

    #[test]
    fn numbers_that_were_never_sent_promise_nothing() {
        let two = voters(&[1, 2]);
        let mut lease = Lease::default();
        for number in [0, echo_number(1001), u64::MAX] {
            lease.echoed(NodeId(2), number, &OURS, 1000);
            assert!(!lease.is_valid(NodeId(1), &two, 1000), "{number}");
        }
    }

    #[test]
    fn only_what_is_announced_is_promised() {
        let two = voters(&[1, 2]);
        let mut lease = Lease::default();
        for announced in [
            PeerAnnouncement { features: Features::default(), ..OURS },
            PeerAnnouncement { election_timeout_ms: None, ..OURS },
        ] {
            lease.echoed(NodeId(2), echo_number(0), &announced, 0);
            assert!(!lease.is_valid(NodeId(1), &two, 0));
            assert!(!is_possible(NodeId(1), &two, |_| Some(&announced)));
        }
        assert!(is_possible(NodeId(1), &two, |_| Some(&OURS)));
        let short = PeerAnnouncement { election_timeout_ms: Some(100), ..OURS };
        lease.echoed(NodeId(2), echo_number(0), &short, 0);
        assert!(lease.is_valid(NodeId(1), &two, length_ms(100) - 1));
        assert!(!lease.is_valid(NodeId(1), &two, length_ms(100)));
    }

    #[test]
    fn a_majority_of_the_newest_configuration_is_needed_with_our_own_vote() {
        let mut lease = Lease::default();
        assert!(lease.is_valid(NodeId(1), &voters(&[1]), u64::MAX), "a sole voter");
        assert!(!lease.is_valid(NodeId(1), &voters(&[]), 0));
        lease.echoed(NodeId(2), echo_number(0), &OURS, 0);
        assert!(lease.is_valid(NodeId(1), &voters(&[1, 2, 3]), 0));
        assert!(!lease.is_valid(NodeId(1), &voters(&[1, 2, 3, 4]), 0), "one of four was added");
        assert!(!lease.is_valid(NodeId(1), &voters(&[2]), 0), "we are no voter");
        lease.forget(NodeId(2));
        assert!(!lease.is_valid(NodeId(1), &voters(&[1, 2, 3]), 0), "its stream has ended");
    }

    #[test]
    fn after_a_timeout_now_its_target_must_acknowledge_an_entry_behind_it() {
        let three = voters(&[1, 2, 3]);
        let mut lease = Lease::default();
        lease.echoed(NodeId(3), echo_number(0), &OURS, 0);
        lease.timeout_now_sent(NodeId(2), LogIndex(7));
        assert!(!lease.is_valid(NodeId(1), &three, 0));
        lease.acknowledged(NodeId(3), LogIndex(9));
        lease.acknowledged(NodeId(2), LogIndex(7));
        assert!(!lease.is_valid(NodeId(1), &three, 0), "it may come yet");
        lease.acknowledged(NodeId(2), LogIndex(8));
        assert!(lease.is_valid(NodeId(1), &three, 0));
    }
}
