//! The data directory as a whole: writing and reading it, crashes, damage, and directories written by C dqlite.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

mod any_bytes;
mod archive;
mod crash;
mod damage;
mod fixture;
mod golden;
mod identity;
mod inspect;
mod manifest;
mod member;
mod offline;
mod store;
