//! Deterministic simulation of whole clusters.
//!
//! The real cores run here: [`server::core::Core`] with [`raft_glue::Replica`] inside, the log on a disk in memory, and
//! SQLite on [`vfs::Vfs`]. Time, network, disks and clients are simulated on one thread, and everything that is a matter
//! of chance is drawn from one number, the seed.

mod archive;
mod client;
mod clock;
mod drive;
mod errands;
mod finish;
mod foreign;
mod found;
pub mod history;
mod late;
mod machines;
mod manners;
mod marks;
mod nemesis;
mod network;
mod node;
mod oracle;
mod random;
mod roles;
mod scenario;
mod sockets;
mod stats;
mod strangers;
mod trace;
mod wires;
mod workload;
mod world;

pub use manners::Manners;
pub use oracle::Violation;
pub use random::Random;
pub use scenario::{MessageFaults, Nemesis, SECOND, Scenario, Workload};
pub use stats::Stats;
pub use trace::{Detail, Kept};
pub use world::{Report, World};
