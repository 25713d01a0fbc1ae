//! Turns the cores into a node: settings, addresses, connections, threads, and the life cycle around them.
#![forbid(unsafe_code)]

pub mod address;
pub mod connector;
pub mod core;
pub mod node_id;
pub mod options;

mod connection;
mod dialer;
mod disk_thread;
mod event_loop;
mod executor;
mod listener;
mod node;
mod snapshot_thread;
mod socket;
mod startup;
mod transport;
mod wake;

pub use connector::Connect;
pub use node::{Node, NodeError};
