//! The C interface of dqlite: `libdqlite.so.0` and `libdqlite.a`.
//!
//! No logic is here. A function checks its pointers, calls `server` once, and turns the result into a number. The doc
//! comments of exported items are the contract for C programs: `tests/header.rs` makes `include/dqlite.h` of them.
//!
//! Invariants: no panic leaves an exported function; NULL where an object or text is required gives `DQLITE_MISUSE`;
//! out-parameters are written on success only (`dqlite_node_create` says where it differs).
#![allow(non_camel_case_types, reason = "types carry their C names")]
#![allow(clippy::missing_safety_doc, reason = "the doc comment is the C contract and goes into the header")]
#![allow(rustdoc::broken_intra_doc_links, reason = "brackets in C documentation are brackets")]

mod connect;
mod error;
mod guard;
pub mod node;
pub mod recover;
pub mod server_api;
pub mod settings;
mod strings;
mod trace;
pub mod types;
pub mod version;
