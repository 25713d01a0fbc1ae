//! Nodes of another cluster: whom ADD and ASSIGN name is asked for its identity first, as far as it can be asked.
//!
//! The question is DESCRIBE with the announcement that begins our raft streams behind it. A node of ours answers with its
//! own announcement, in which its identity stands unless it has none or brings no log of its own; a C node answers
//! failure domain and weight, as it does to anybody. Whoever does not answer in time, or says anything else, is taken as
//! it is: hosts add nodes before they run.

use raft_glue::{ChangeError, ClusterId, Role};
use wire_protocol::{Request, Response};

use super::ask::{AskId, Asker};
use super::client::RequestState;
use super::cluster::Change;
use super::{ClientId, Core};

/// How long an answer may take, milliseconds, connecting included; a host that adds a node waits for it.
const ANSWER_MS: u64 = 500;

/// The identity in an answer.
fn identity_in(answer: &Response) -> Option<ClusterId> {
    match answer {
        Response::Metadata { announcement, .. } => announcement.and_then(|announcement| announcement.cluster),
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
        let request = Request::Describe { format: 0, announcement: Some(self.replica.announcement()) };
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
