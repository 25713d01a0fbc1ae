//! What is known of the streams that peers have opened to us.
//!
//! What a dialler announces is true of its stream and ends with it: the next one to dial with the same id may be another
//! program, C's for instance. Messages are read as their own stream announced; what is to be known of a peer itself is
//! what its newest stream announced. That one has replaced all others from the moment it was opened, because a node dials
//! again only when it has given up, or lost, the stream before; so an older one that has not ended yet says nothing more
//! about the peer, even if the newer one ends first.

use std::collections::BTreeMap;

use wire_protocol::{NodeId, PeerAnnouncement};

/// Identity of an inbound stream, chosen by the caller; never used again while the replica lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

#[derive(Clone, Copy, Debug)]
struct Stream {
    from: NodeId,
    announcement: PeerAnnouncement,
}

/// All inbound streams whose diallers announced something, as many as there are sockets.
#[derive(Clone, Debug, Default)]
pub(crate) struct Streams {
    open: BTreeMap<StreamId, Stream>,
    /// The newest stream of each peer, whether or not it announced anything.
    newest: BTreeMap<NodeId, StreamId>,
}

impl Streams {
    /// A peer has opened a stream; this one counts from now on.
    pub(crate) fn opened(&mut self, id: StreamId, from: NodeId, announcement: Option<PeerAnnouncement>) {
        if let Some(announcement) = announcement {
            self.open.insert(id, Stream { from, announcement });
        }
        self.newest.insert(from, id);
    }

    /// A stream has ended. Returns whether it was the newest of its peer.
    pub(crate) fn ended(&mut self, id: StreamId, from: NodeId) -> bool {
        self.open.remove(&id);
        let newest = self.newest.get(&from) == Some(&id);
        if newest {
            self.newest.remove(&from);
        }
        newest
    }

    /// What the dialler of this stream announced, if it is open.
    pub(crate) fn of_stream(&self, id: StreamId, from: NodeId) -> Option<&PeerAnnouncement> {
        self.open.get(&id).filter(|stream| stream.from == from).map(|stream| &stream.announcement)
    }

    /// What this peer announced on its newest stream, if that is open.
    pub(crate) fn of_peer(&self, id: NodeId) -> Option<&PeerAnnouncement> {
        self.of_stream(*self.newest.get(&id)?, id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeId = NodeId(2);

    fn saying(election_timeout_ms: u64) -> Option<PeerAnnouncement> {
        Some(PeerAnnouncement {
            election_timeout_ms: Some(election_timeout_ms),
            ..PeerAnnouncement::default()
        })
    }

    fn known(streams: &Streams) -> Option<u64> {
        streams.of_peer(PEER)?.election_timeout_ms
    }

    #[test]
    fn the_newest_stream_counts_and_knowledge_ends_with_it() {
        let mut streams = Streams::default();
        streams.opened(StreamId(1), PEER, saying(100));
        streams.opened(StreamId(2), NodeId(3), saying(300));
        assert_eq!(known(&streams), Some(100));
        streams.opened(StreamId(5), PEER, saying(200));
        assert_eq!(known(&streams), Some(200));
        assert_eq!(streams.of_stream(StreamId(1), PEER), saying(100).as_ref(), "still read as announced");
        assert!(streams.ended(StreamId(5), PEER));
        assert_eq!(known(&streams), None, "an older stream does not count again");
        assert!(!streams.ended(StreamId(1), PEER));
        assert_eq!(streams.of_peer(NodeId(3)), saying(300).as_ref());
    }

    #[test]
    fn a_stream_without_announcement_replaces_one_that_had_it() {
        let mut streams = Streams::default();
        streams.opened(StreamId(1), PEER, saying(100));
        streams.opened(StreamId(2), PEER, None);
        assert_eq!(known(&streams), None, "the peer is C now");
        assert!(!streams.ended(StreamId(1), PEER));
        assert!(streams.ended(StreamId(2), PEER));
        assert!(streams.open.is_empty() && streams.newest.is_empty(), "nothing is kept");
    }

    #[test]
    fn a_stream_speaks_for_its_own_dialler_only() {
        let mut streams = Streams::default();
        streams.opened(StreamId(1), PEER, saying(100));
        assert_eq!(streams.of_stream(StreamId(1), NodeId(3)), None);
        assert_eq!(streams.of_peer(NodeId(3)), None);
    }
}
