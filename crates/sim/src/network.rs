//! The wires between nodes: streams that keep order, lose their content when they break, and can be cut.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::random::Random;
use crate::scenario::{MILLISECOND, SECOND};

/// A stream that got nothing through for this long breaks.
const USER_TIMEOUT_US: u64 = 10 * SECOND;
/// Messages that wait for a node that is down: the newest ones, as the real transport keeps them.
const KEPT_MESSAGES: usize = 3;
/// Messages that wait on a cut stream.
const MAX_HELD: usize = 256;

/// A raft message as bytes.
#[derive(Clone, Debug)]
pub(crate) struct Parcel {
    /// The encoded message.
    pub(crate) bytes: Bytes,
    /// Whether it carries a snapshot.
    pub(crate) snapshot: bool,
}

/// One direction between two nodes.
#[derive(Debug, Default)]
pub(crate) struct Link {
    /// Number of the stream; what belongs to an earlier one is lost.
    pub(crate) stream: u64,
    /// When the newest message arrives; later ones do not overtake it.
    last_arrival_us: u64,
    /// How many faults cut it at the moment.
    cuts: u32,
    cut_since_us: u64,
    /// What waits for the cut to end or for the node to come up.
    held: VecDeque<Parcel>,
}

/// What becomes of a message that is sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It arrives at this moment, in this stream.
    Arrives(u64, u64),
    /// It waits.
    Held,
    /// It is lost, and so is what waited before; the sender hears of it.
    Lost,
}

/// All links.
#[derive(Debug)]
pub(crate) struct Network {
    size: usize,
    links: Vec<Link>,
    latency_us: u64,
}

impl Network {
    /// Links between this many nodes.
    #[must_use]
    pub(crate) fn new(size: usize, latency_us: u64) -> Self {
        let links = (0..size * size).map(|_| Link::default()).collect();
        Self { size, links, latency_us }
    }

    /// The link from one node to another, by index.
    pub(crate) fn link(&mut self, from: usize, to: usize) -> &mut Link {
        &mut self.links[from * self.size + to]
    }

    /// Whether nothing cuts the way from one node to another.
    pub(crate) fn is_open(&self, from: usize, to: usize) -> bool {
        self.links[from * self.size + to].cuts == 0
    }

    /// How long a message of this size is on its way.
    pub(crate) fn latency(&self, len: usize, random: &mut Random) -> u64 {
        // 100 MB/s: a microsecond for each hundred bytes.
        self.latency_us / 2 + random.around(self.latency_us / 2) + len as u64 / 100
    }

    /// Sends a message in order.
    pub(crate) fn send(
        &mut self,
        from: usize,
        to: usize,
        parcel: &Parcel,
        up: bool,
        now_us: u64,
        random: &mut Random,
    ) -> Sent {
        let latency = self.latency(parcel.bytes.len(), random);
        let link = self.link(from, to);
        if link.cuts > 0 {
            if now_us - link.cut_since_us > USER_TIMEOUT_US || link.held.len() >= MAX_HELD {
                link.break_stream();
                return Sent::Lost;
            }
            link.held.push_back(parcel.clone());
            return Sent::Held;
        }
        if !up {
            link.held.push_back(parcel.clone());
            while link.held.len() > KEPT_MESSAGES {
                link.held.pop_front();
            }
            return Sent::Lost;
        }
        link.last_arrival_us = link.last_arrival_us.max(now_us + latency);
        Sent::Arrives(link.last_arrival_us, link.stream)
    }

    /// Cuts one direction. Cuts add up.
    pub(crate) fn cut(&mut self, from: usize, to: usize, now_us: u64) {
        let link = self.link(from, to);
        if link.cuts == 0 {
            link.cut_since_us = now_us;
        }
        link.cuts += 1;
    }

    /// Takes one cut back. Gives what waited, if nothing cuts it any more and the stream lives.
    pub(crate) fn mend(&mut self, from: usize, to: usize, now_us: u64) -> Vec<Parcel> {
        let link = self.link(from, to);
        link.cuts -= 1;
        if link.cuts > 0 {
            return Vec::new();
        }
        let broken = now_us - link.cut_since_us > USER_TIMEOUT_US;
        let held: Vec<Parcel> = link.held.drain(..).collect();
        if broken {
            link.break_stream();
            return Vec::new();
        }
        held
    }

    /// What waited for a node that is up again.
    pub(crate) fn take_held(&mut self, from: usize, to: usize) -> Vec<Parcel> {
        let link = self.link(from, to);
        if link.cuts > 0 { Vec::new() } else { link.held.drain(..).collect() }
    }

    /// A node is gone, and with it the streams to and from it.
    pub(crate) fn reset(&mut self, node: usize) {
        for other in 0..self.size {
            self.link(node, other).break_stream();
            self.link(other, node).break_stream();
        }
    }
}

impl Link {
    /// What is on the way is lost.
    pub(crate) fn break_stream(&mut self) {
        self.stream += 1;
        self.held.clear();
        self.last_arrival_us = 0;
    }
}

/// Wait before a connection is tried again.
#[must_use]
pub(crate) fn redial_us(random: &mut Random) -> u64 {
    random.between(100, 1000) * MILLISECOND
}
