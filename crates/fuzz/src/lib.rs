//! Hostile input against the real code: SQL, streams of clients and peers, messages, data directories.
//!
//! There are two kinds of targets. Those of [`targets`] run inside this process, take bytes and check one part of the
//! code; libFuzzer guides them by coverage. Those of [`attack`] attack whole nodes in processes of their own ([`sql`],
//! [`streams`]) and watch from outside: every node lives, another client is served in time, all replicas are equal.
#![forbid(unsafe_code)]

pub mod attack;
pub mod guided;
pub mod lab;
pub mod sql;
pub mod streams;
pub mod targets;
pub mod verdict;

/// What the command line program returns.
pub type Outcome<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;
