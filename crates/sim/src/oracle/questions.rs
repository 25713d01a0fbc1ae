//! What nodes may ask each other over the client protocol. Any of them may be a C node, although the simulator has none:
//! a question that ends its process, or that it leaves without an answer, must not be asked.

use raft_glue::NodeId;
use wire_protocol::{Request, ServersFormat};

use super::{Oracle, Violation};

impl Oracle {
    /// A node asks another one. C nodes of every release answer these requests once: a format that they do not know has
    /// two answers in DESCRIBE, which trips an assertion, and a type that they do not know has none in 1.11.1.
    pub(crate) fn asks(node: NodeId, request: &Request) -> Result<(), Violation> {
        let answered = match request {
            Request::Leader | Request::Assign { .. } => true,
            Request::Cluster { format } => *format == ServersFormat::WithRoles.number(),
            Request::Describe { format, .. } => *format == 0,
            _ => false,
        };
        if answered {
            return Ok(());
        }
        let text = format!("node {node} asks {request:?}, which a C node may not survive");
        Err(Violation::new("questions are answered by C nodes", text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_describe_of_another_format_is_not_asked() {
        let describe = |format| Request::Describe { format, announcement: None };
        assert!(Oracle::asks(NodeId(1), &describe(0)).is_ok());
        assert!(Oracle::asks(NodeId(1), &describe(1)).is_err());
    }
}
