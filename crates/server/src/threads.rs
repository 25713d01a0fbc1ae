//! How threads are started.

use std::io;
use std::thread::{Builder, JoinHandle};

use vfs::Blocked;

/// Starts a thread that no signal meant for the host reaches; see [`Blocked::all`].
pub(crate) fn spawn<T: Send + 'static>(
    name: impl Into<String>,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let _blocked = Blocked::all();
    Builder::new().name(name.into()).spawn(work)
}

/// As [`spawn`], for a thread that may call SQLite, with the stack it needs for that.
pub(crate) fn spawn_for_sql<T: Send + 'static>(
    name: impl Into<String>,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let _blocked = Blocked::all();
    Builder::new().name(name.into()).stack_size(vfs::STACK_LEN).spawn(work)
}
