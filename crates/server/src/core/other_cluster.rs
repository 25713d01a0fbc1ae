//! Nodes of another cluster: whom ADD and ASSIGN name is asked for its identity first, as far as it can be asked.
//!
//! The question is DESCRIBE with a format that no C node knows, which answers with a FAILURE; a node of ours answers with
//! its identity in the two words of METADATA, lower half first, or 0 if it has none or brings no log of its own. Whoever
//! does not answer in time, or says anything else, is taken as it is: hosts add nodes before they run.

use raft_glue::{ChangeError, ClusterId, Role};
use wire_protocol::{Request, Response};

use super::ask::{AskId, Asker};
use super::client::RequestState;
use super::cluster::Change;
use super::{ClientId, Core};

/// Format of DESCRIBE that asks for the identity of the cluster, chosen at random: "identity" would be a word too.
pub(super) const DESCRIBE_CLUSTER: u64 = 0x5c1d_7e9a_04b3_26f1;
/// How long an answer may take, milliseconds, connecting included; a host that adds a node waits for it.
const ANSWER_MS: u64 = 500;

/// What a node answers that has this identity.
pub(super) fn identity_answer(cluster: Option<ClusterId>) -> Response {
    let number = cluster.map_or(0, ClusterId::get);
    let half = |bits: u128| u64::try_from(bits & u128::from(u64::MAX)).expect("64 bits");
    Response::Metadata { failure_domain: half(number), weight: half(number >> 64) }
}

/// The identity in an answer.
fn identity_in(answer: &Response) -> Option<ClusterId> {
    match answer {
        Response::Metadata { failure_domain, weight } => {
            ClusterId::new(u128::from(*weight) << 64 | u128::from(*failure_domain))
        }
        _ => None,
    }
}

impl Core {
    /// Does what a client asked for, unless the node that it names belongs to another cluster and says so.
    pub(super) fn change_checked(&mut self, client: ClientId, change: Change, now_ms: u64) {
        let known = match &change {
            Change::Add(id, address) => Some((*id, address.clone())),
            Change::Assign(id, Role::Voter | Role::StandBy) => {
                self.replica.configuration().server(*id).map(|server| (*id, server.address.clone()))
            }
            _ => None,
        };
        let asked = known.filter(|(id, _)| *id != self.config.id && self.replica.cluster().is_some());
        let Some((id, address)) = asked else { return self.change(client, change, now_ms) };
        if let Some(state) = self.clients.get_mut(&client) {
            state.request = RequestState::Cluster;
        }
        let request = Request::Describe { format: DESCRIBE_CLUSTER };
        let ask = self.ask(Asker::Identity(id, client), address, request, ANSWER_MS);
        self.changes_asked.insert(ask, change);
    }

    /// The node has answered, or has not.
    pub(super) fn identity_answered(
        &mut self,
        ask: AskId,
        client: ClientId,
        result: &Result<Response, String>,
        now_ms: u64,
    ) {
        let Some(change) = self.changes_asked.remove(&ask) else { return };
        if !matches!(self.clients.get(&client).map(|state| &state.request), Some(RequestState::Cluster)) {
            return;
        }
        let theirs = result.as_ref().ok().and_then(identity_in);
        if theirs.is_some_and(|theirs| self.replica.cluster().is_some_and(|own| own != theirs)) {
            self.refuse_change(client, &ChangeError::OtherCluster, now_ms);
        } else if self.check_leading(client, now_ms) {
            self.change(client, change, now_ms);
        }
        self.close_if_dead(client);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_answered_in_two_words_and_anything_else_is_none() {
        let cluster = ClusterId::new(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10);
        let answer = identity_answer(cluster);
        assert_eq!(
            answer,
            Response::Metadata { failure_domain: 0x090a_0b0c_0d0e_0f10, weight: 0x0102_0304_0506_0708 }
        );
        assert_eq!(identity_in(&answer), cluster);
        assert_eq!(identity_in(&identity_answer(None)), None);
        assert_eq!(identity_in(&Response::failure(1001, "bad format version")), None, "a C node");
    }
}
