//! Which numbers of peers are believed.
//!
//! Whoever reaches the port can say any number, and a term that was believed is durable and stays: one heartbeat of the
//! highest term there is would end a cluster for good, since nobody could ever stand in a higher one. So a term counts
//! only with room above it: it may lie [`HEADROOM`] above this node's own, which no honest cluster reaches (a thousand
//! elections a second take 50 days), and from which [`MAX_TERM`] is 2^31 such steps away. There is no absolute limit below
//! that. The last index of a snapshot is measured against the end of the log in the same way.
//!
//! A node without a log has nothing to measure by. It believes what it is told first, up to [`MAX_UNMEASURED`].

use wire_protocol::{LogIndex, Term, rpc};

use crate::disk::{MAX_INDEX, MAX_TERM};

/// How far a term or the end of a snapshot may lie above what this node has.
pub(crate) const HEADROOM: u64 = 1 << 32;
/// The highest term, and the highest last index of a snapshot, that a node without a log believes.
pub(crate) const MAX_UNMEASURED: u64 = (1 << 62) - 1;
/// The most servers of a configuration. To put one in force takes time in proportion to the square of their number, 30 ms
/// for this one. A leader refuses to add more.
pub(crate) const MAX_SERVERS: usize = 1024;

const _: () = assert!(MAX_UNMEASURED < MAX_INDEX && MAX_INDEX < MAX_TERM, "what is believed can be stored");
const _: () = assert!(MAX_TERM < u64::MAX - HEADROOM, "sums do not overflow");

/// What peers' numbers are measured by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measure {
    pub(crate) term: Term,
    pub(crate) last_index: LogIndex,
}

impl Measure {
    fn limit(self, own: u64) -> u64 {
        let measured = own.saturating_add(HEADROOM);
        let believed = if self.last_index.0 == 0 { measured.max(MAX_UNMEASURED) } else { measured };
        if planted::bug!(TermsWithoutHeadroom) { MAX_UNMEASURED } else { believed }
    }

    /// The highest term that is believed.
    pub(crate) fn highest_term(self) -> Term {
        Term(self.limit(self.term.0).min(MAX_TERM))
    }

    /// Where a snapshot may end at most.
    pub(crate) fn highest_index(self) -> LogIndex {
        LogIndex(self.limit(self.last_index.0).min(MAX_INDEX))
    }

    /// Whether this message says a number that no member of this cluster can have reached.
    pub(crate) fn is_exceeded_by(self, message: &rpc::Message) -> bool {
        let (term, index) = match message {
            rpc::Message::AppendEntries(append) => (append.term, LogIndex(0)),
            rpc::Message::AppendEntriesResult(result) => (result.term, LogIndex(0)),
            rpc::Message::RequestVote(request) => (request.term, LogIndex(0)),
            rpc::Message::RequestVoteResult(result) => (result.term, LogIndex(0)),
            rpc::Message::InstallSnapshot(install) => (install.term, install.last_index),
            rpc::Message::TimeoutNow(timeout) => (timeout.term, LogIndex(0)),
        };
        term > self.highest_term() || index > self.highest_index()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measure(term: u64, last_index: u64) -> Measure {
        Measure { term: Term(term), last_index: LogIndex(last_index) }
    }

    #[test]
    fn what_is_believed_lies_in_reach_of_what_there_is() {
        let some = measure(7, 100);
        assert_eq!(some.highest_term(), Term(7 + HEADROOM));
        assert_eq!(some.highest_index(), LogIndex(100 + HEADROOM));
        let none = measure(0, 0);
        assert_eq!(none.highest_term(), Term(MAX_UNMEASURED));
        assert_eq!(none.highest_index(), LogIndex(MAX_UNMEASURED));
        assert_eq!(measure(1 << 62, 0).highest_term(), Term((1 << 62) + HEADROOM), "never below its own");
    }

    #[test]
    fn what_is_believed_can_be_stored() {
        for own in [1 << 62, MAX_TERM - 1, MAX_TERM, u64::MAX] {
            assert!(measure(own, own).highest_term().0 <= MAX_TERM, "{own}");
            assert!(measure(own, own).highest_index().0 <= MAX_INDEX, "{own}");
        }
    }
}
