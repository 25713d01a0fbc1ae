//! From raft-rs's Ready to outputs, and from "durable" back to what waited for it.

use raft::Storage as _;
use wire_protocol::{LogIndex, NodeId, Term, rpc};

use crate::entry::from_raft;
use crate::output::Output;
use crate::replica::{Held, Outstanding, Replica};
use crate::{Committed, HardState, Persist};

impl Replica {
    /// Takes one Ready of raft-rs apart. Returns whether there was anything.
    pub(crate) fn process_ready(&mut self) -> bool {
        if self.halted {
            return false;
        }
        self.send_pieces();
        if !self.raw.has_ready() {
            return self.flush_replies() || !self.outputs.is_empty();
        }
        let mut ready = self.raw.ready();
        let number = ready.number();
        let hard_state = ready.hs().map(|state| HardState {
            term: Term(state.term),
            vote: Some(NodeId(state.vote)).filter(|id| id.0 != 0),
        });
        let hard_state = hard_state.filter(|state| *state != self.written);
        self.written = hard_state.unwrap_or(self.written);
        let snapshot = if ready.snapshot().get_metadata().index == 0 {
            None
        } else {
            let snapshot =
                self.installing.clone().expect("snapshots are remembered when raft-rs accepts them");
            self.raw.mut_store().install(snapshot.metadata.clone());
            Some(snapshot)
        };
        let entries = ready.take_entries();
        let first_index =
            entries.first().map_or_else(|| self.stored_last().next(), |entry| LogIndex(entry.index));
        self.raw.mut_store().append(&entries);
        let messages = ready.take_messages();
        let mut held: Vec<Held> = ready.take_persisted_messages().into_iter().map(Held::Raft).collect();
        let committed = ready.take_committed_entries();
        self.raw.advance_append_async(ready);

        let replies = std::mem::take(&mut self.replies);
        held.extend(replies.into_iter().map(|(to, message)| Held::Translated(to, message)));
        let writes = hard_state.is_some() || snapshot.is_some() || !entries.is_empty();
        if writes {
            let entries = entries.iter().map(from_raft).collect();
            let snapshot = snapshot.clone();
            self.outputs.push_back(Output::Persist(Persist {
                number,
                hard_state,
                snapshot,
                first_index,
                entries,
            }));
        }
        // A new leader's appends carry a term that must be durable first; otherwise they need not wait for our disk.
        let term_waits = hard_state.is_some() || self.outstanding.iter().any(|earlier| earlier.hard_state);
        for message in messages {
            let to = NodeId(message.to);
            let Some(message) = self.outbound(message) else { continue };
            if term_waits {
                held.push(Held::Translated(to, message));
            } else {
                self.transmit(to, message);
            }
        }
        self.outstanding.push_back(Outstanding {
            number,
            writes,
            hard_state: hard_state.is_some(),
            snapshot,
            held,
        });
        for entry in committed {
            let index = LogIndex(entry.index);
            self.outputs.push_back(Output::Apply(Committed { index, entry: from_raft(&entry) }));
        }
        self.release(if planted::bug!(AcknowledgeBeforeDurable) { number } else { 0 });
        self.settle(Vec::new());
        true
    }

    pub(crate) fn stored_last(&self) -> LogIndex {
        LogIndex(self.raw.store().last_index().expect("the log in memory always answers"))
    }

    /// Answers made here leave with what raft-rs gives next; without that, with what is being written, or at once.
    pub(crate) fn flush_replies(&mut self) -> bool {
        let replies = std::mem::take(&mut self.replies);
        let any = !replies.is_empty();
        if let Some(last) = self.outstanding.back_mut() {
            last.held.extend(replies.into_iter().map(|(to, message)| Held::Translated(to, message)));
            return false;
        }
        for (to, message) in replies {
            self.transmit(to, message);
        }
        any
    }

    /// Everything up to `number` is durable, and so is what had nothing to write behind it.
    pub(crate) fn release(&mut self, number: u64) {
        let mut done = Vec::new();
        while self.outstanding.front().is_some_and(|front| front.number <= number || !front.writes) {
            done.extend(self.outstanding.pop_front());
        }
        let Some(last) = done.last() else { return };
        self.raw.on_persist_ready(last.number);
        for outstanding in done {
            if let Some(snapshot) = outstanding.snapshot {
                self.outputs.push_back(Output::Restore(snapshot));
            }
            for held in outstanding.held {
                match held {
                    Held::Translated(to, message) => self.transmit(to, message),
                    Held::Raft(message) => {
                        let to = NodeId(message.to);
                        if let Some(message) = self.outbound(message) {
                            self.transmit(to, message);
                        }
                    }
                }
            }
        }
    }

    /// Requests go to where the configuration has the peer, answers to where it says that it is: the log of one that lost
    /// something may end with a configuration from before everybody moved.
    pub(crate) fn transmit(&mut self, to: NodeId, message: rpc::Message) {
        let member = self.membership.newest().server(to).map(|server| &server.address);
        let announced = self.announced_address(to);
        let address = if is_answer(&message) { announced.or(member) } else { member.or(announced) };
        if let Some(address) = address {
            self.outputs.push_back(Output::Transmit { to, address: address.clone(), message });
        }
    }

    /// Where a peer says that it is.
    pub(crate) fn announced_address(&self, id: NodeId) -> Option<&String> {
        self.peers.get(&id).map(|peer| &peer.address).filter(|address| !address.is_empty())
    }
}

fn is_answer(message: &rpc::Message) -> bool {
    matches!(message, rpc::Message::AppendEntriesResult(_) | rpc::Message::RequestVoteResult(_))
}
