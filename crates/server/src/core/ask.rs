//! Questions to other nodes, over the client protocol that any node speaks: what it says of itself, and who shall have
//! which role. One connection for each node carries them; the driver keeps it and answers every question, if only with
//! the reason why there is no answer.

use raft_glue::NodeId;
use wire_protocol::{Request, Response};

use super::{ClientId, Core, Output};

/// Identity of a question; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AskId(pub u64);

/// Who wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asker {
    Roles(NodeId),
    /// In this stage of the handover; answers that come later are of no interest.
    Handover(NodeId, u64),
    /// For the request of this client.
    Identity(NodeId, ClientId),
}

impl Core {
    /// Asks a node; the answer goes to `asker`.
    pub(super) fn ask(&mut self, asker: Asker, address: String, request: Request, timeout_ms: u64) -> AskId {
        let (Asker::Roles(to) | Asker::Handover(to, _) | Asker::Identity(to, _)) = asker;
        let ask = AskId(self.next_ask);
        self.next_ask += 1;
        self.asks.insert(ask, asker);
        self.outputs.push_back(Output::AskPeer { ask, to, address, request, timeout_ms });
        ask
    }

    pub(super) fn peer_answered(&mut self, ask: AskId, result: Result<Response, String>, now_ms: u64) {
        match self.asks.remove(&ask) {
            Some(Asker::Roles(from)) => self.member_described(from, &result, now_ms),
            Some(Asker::Handover(from, stage)) => self.handover_answered(from, stage, result, now_ms),
            Some(Asker::Identity(_, client)) => self.identity_answered(ask, client, &result, now_ms),
            None => {}
        }
    }
}
