//! What a read lease stands or falls with: answers that come late, and a TIMEOUT_NOW that comes when nobody thinks of it.
//!
//! A leader that can no longer be heard gets answers to what it sent before as if they were new, while the others elect
//! its successor. A lease that counted from the answer, or lasted longer than the patience of the voters, would let it
//! serve reads beside that successor. Partitions drawn at random seldom meet these few hundred milliseconds.

use wire_protocol::rpc;

use crate::scenario::{MILLISECOND, Nemesis};
use crate::world::{Event, World};

/// Sender and receiver of each.
type Links = Vec<(usize, usize)>;

impl World {
    /// Nobody hears the leader any more, and what they have answered reaches it late.
    pub(crate) fn answers_come_late(&mut self) {
        let leads = |node: &usize| {
            let process = self.machines[*node].process.as_ref();
            process.is_some_and(|process| process.core.replica().serving())
        };
        let Some(leader) = (0..self.machines.len()).find(leads) else { return };
        let timeout_us = self.election_timeout_us(leader);
        let (inbound, outbound) = self.links_of(leader);
        for &(from, to) in inbound.iter().chain(&outbound) {
            self.network.cut(from, to, self.now_us);
        }
        let late_us = self.random.below(timeout_us);
        self.plan(late_us, Event::Mend { links: inbound });
        let wait_us = timeout_us * 2 + self.random.around(timeout_us);
        self.plan(wait_us, Event::Mend { links: outbound });
    }

    /// A TIMEOUT_NOW is about to be sent: now and then it is late, and the leader that sent it is not told what follows.
    pub(crate) fn delay_timeout_now(&mut self, leader: usize, target: usize, message: &rpc::Message) {
        let is_late = matches!(message, rpc::Message::TimeoutNow(_))
            && self.is_hostile()
            && self.suffers(Nemesis::LateAnswers)
            && self.random.percent(50);
        if !is_late {
            return;
        }
        self.stats.count("TIMEOUT_NOW late");
        let timeout_us = self.election_timeout_us(leader);
        self.network.cut(leader, target, self.now_us);
        let late_us = self.random.below(timeout_us * 3);
        let (inbound, _) = self.links_of(leader);
        for &(from, to) in &inbound {
            // What was on its way before arrives; the cuts begin when the message is let go.
            self.plan(late_us, Event::Cut { from, to });
        }
        self.plan(late_us, Event::Mend { links: vec![(leader, target)] });
        let wait_us = late_us + timeout_us + self.random.around(timeout_us);
        self.plan(wait_us, Event::Mend { links: inbound });
    }

    fn election_timeout_us(&self, node: usize) -> u64 {
        let process = self.machines[node].process.as_ref();
        let announced = process.and_then(|process| process.core.replica().announcement().election_timeout_ms);
        announced.unwrap_or(1000) * MILLISECOND
    }

    /// The links to a node, and those from it.
    fn links_of(&self, node: usize) -> (Links, Links) {
        let others = || (0..self.machines.len()).filter(move |other| *other != node);
        (others().map(|other| (other, node)).collect(), others().map(|other| (node, other)).collect())
    }
}
