//! Turns the cores into a node: settings, addresses, connections, and the life cycle around them.
#![forbid(unsafe_code)]

pub mod address;
pub mod connector;
pub mod node_id;
pub mod options;
