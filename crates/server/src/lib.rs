//! Turns the cores (consensus, SQLite, wire protocol) into a node.
#![forbid(unsafe_code)]

pub mod address;
pub mod assembly;
pub mod client;
pub mod connector;
pub mod core;
pub mod inspect;
pub mod log_worker;
pub mod managed;
pub mod node;
pub mod node_id;
pub mod options;
pub mod snapshot_work;

pub mod client_memory;
mod clients;
mod clock;
mod connection;
mod crew;
mod dialer;
mod disk_thread;
mod error;
mod event_loop;
mod executor;
mod listener;
mod own_jobs;
mod peer_client;
mod pool;
mod registration;
mod snapshot_thread;
mod socket;
mod spin;
mod startup;
mod threads;
mod transport;
mod trim;
mod wake;

pub use connector::Connect;
pub use error::NodeError;
pub use managed::ManagedServer;
pub use node::{Node, PendingHandover, ViewSource};
pub use vfs::{Blocked, SignalMask};
pub use wake::ClusterView;
pub use wire_protocol::{Configuration, NodeId, Role, Server};
