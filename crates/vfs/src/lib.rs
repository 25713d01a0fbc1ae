//! SQLite beneath a replicated database: all calls of SQLite's C functions and all callbacks for it are in this crate.
//!
//! A [`Vfs`] holds the databases of one node in memory. [`Connection`]s run SQL on them. What SQLite commits is captured
//! as a [`Transaction`] and stays speculative until the caller says that the log committed it; transactions of other
//! nodes are applied without SQLite. The crate knows nothing of sockets, consensus or files.
//!
//! See the README for the invariants and a map of the modules.

mod apply;
mod authorizer;
mod capture;
mod checkpoint;
mod connection;
mod database;
mod delete;
mod depth;
mod error;
mod expansion;
mod files;
mod first_page;
mod functions;
mod generation;
mod handle;
mod limits;
mod locks;
mod name;
mod options;
mod page;
mod register;
mod schema;
mod schema_check;
mod shim;
mod signals;
#[cfg(test)]
mod size_tests;
mod snapshot;
mod statement;
mod surface;
mod sys;
mod temporary;
mod threading;
pub mod turns;
mod view;
mod wal;
mod wal_index;
mod watch;

pub use connection::{Connection, InterruptHandle, Lifetime, TransactionState};
pub use database::{Database, Maintenance, Transaction, check_first_page};
pub use error::{ApplyError, Error, SQLITE_IOERR_LEADERSHIP_LOST, SQLITE_IOERR_NOT_LEADER, SqlError, Veto};
pub use limits::STACK_LEN;
pub use name::{DatabaseName, MAX_NAME_LEN, NameError};
pub use options::{Environment, Options, SystemEnvironment};
pub use page::{PAGE_SIZE, Page, PageNumber, Position};
pub use register::Vfs;
pub use signals::{Blocked, SignalMask};
pub use snapshot::{DatabaseSnapshot, overlay_wal};
pub use statement::{ColumnValue, Prepared, Statement, Step};
pub use sys::{boot_time, sqlite_memory_bytes, trim_memory};
pub use threading::{ThreadingMode, threading_mode};
pub use view::{ReaderHold, ReaderId};
