//! The life of a node: create, start, stop, destroy, and what it says about itself.

use std::ffi::{CString, OsStr, c_char, c_int};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use server::Node;
use server::options::LiveOptions;

use crate::error::{DQLITE_ERROR, DQLITE_MISUSE, DQLITE_OK, Failure};
use crate::guard::guard;
use crate::strings::{self, ErrorText};
use crate::trace;
use crate::types::dqlite_node_id;

/// A dqlite node: one member of a cluster, with its data directory, its socket and its threads.
///
/// Functions on the same node may be called from several threads, except dqlite_node_destroy(); a call may wait for
/// another one that is still running. Different nodes have nothing in common.
pub struct dqlite_node {
    /// `None` when creation failed: then there is only the text.
    node: Mutex<Option<Node>>,
    /// Set outside the lock, so that it is never waited for.
    live: Option<Arc<LiveOptions>>,
    /// What `get_bind_address` has given out.
    bind_address: Mutex<Option<CString>>,
    error: ErrorText,
}

/// Of a handle whose creation failed; the text that it has says more.
const NOT_CREATED: &str = "the node could not be created";

/// Hosts share a handle between threads without telling the compiler.
const _: () = {
    const fn shared_between_threads<T: Send + Sync>() {}
    shared_between_threads::<dqlite_node>();
};

/// A poisoned lock guards a node whose own state still says what it is; the host must be able to stop and destroy it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl dqlite_node {
    fn new(mut node: Option<Node>) -> Self {
        let live =
            node.as_mut().and_then(|node| node.options_mut().ok()).map(|options| options.live().clone());
        Self { node: Mutex::new(node), live, bind_address: Mutex::new(None), error: ErrorText::new() }
    }

    /// Runs `body` on the node behind the handle. Without a node the text says why it could not be created.
    pub(crate) fn with_node<T>(
        &self,
        body: impl FnOnce(&mut Node) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        lock(&self.node).as_mut().map_or_else(|| Err(Failure::misuse(NOT_CREATED)), body)
    }

    pub(crate) fn live(&self) -> Option<&LiveOptions> {
        self.live.as_deref()
    }

    pub(crate) fn record(&self, text: &str) {
        self.error.set(text);
    }

    pub(crate) fn set_bind_address(&self, address: &str) -> Result<(), Failure> {
        self.with_node(|node| {
            node.bind(address)?;
            let bound = node.bind_address().map(CString::new);
            let Some(Ok(bound)) = bound else { return Err(Failure::misuse("the address contains a NUL")) };
            *lock(&self.bind_address) = Some(bound);
            Ok(())
        })
    }

    pub(crate) fn bind_address(&self) -> *const c_char {
        lock(&self.bind_address).as_ref().map_or(ptr::null(), |address| address.as_ptr())
    }
}

/// Borrows a handle for the duration of one call. Never mutably: other threads may be inside another call.
///
/// # Safety
///
/// `n` is NULL or comes from `dqlite_node_create` and is not destroyed during the call.
pub(crate) unsafe fn handle<'a>(n: *const dqlite_node) -> Option<&'a dqlite_node> {
    // SAFETY: as the caller promises.
    unsafe { n.as_ref() }
}

/// Runs `body` on a handle; NULL and panics give DQLITE_MISUSE and DQLITE_ERROR. The text of a failure stays with the
/// handle.
///
/// # Safety
///
/// As for [`handle`].
pub(crate) unsafe fn on_handle(
    n: *const dqlite_node,
    body: impl FnOnce(&dqlite_node) -> Result<(), Failure>,
) -> c_int {
    // SAFETY: as the caller promises.
    let Some(node) = (unsafe { handle(n) }) else { return DQLITE_MISUSE };
    let failure = match guard(None, || Some(body(node))) {
        Some(Ok(())) => return DQLITE_OK,
        Some(Err(failure)) => failure,
        None => Failure { code: DQLITE_ERROR, text: "a rule of the library was broken (a panic)".into() },
    };
    if failure.text != NOT_CREATED {
        node.record(&failure.text);
    }
    failure.code
}

/// Creates a node.
///
/// "id" must be unique in the cluster and is never used again for another node. Only a node with id 1 or
/// 0x2dc171858c3155be (go-dqlite's) starts a new cluster when its directory is empty; others wait to be added to one.
///
/// "address" is how other nodes and clients reach it. "data_dir" must exist and be writable; the log, snapshots and a
/// lock file live there, other files in it are left alone. Both texts are copied.
///
/// Nothing runs and no port is taken yet: continue with dqlite_node_set_bind_address() and dqlite_node_start().
///
/// Returns 0 and stores the node in "n". On DQLITE_ERROR a handle is stored as well, good for dqlite_node_errmsg() and
/// dqlite_node_destroy() only. On DQLITE_MISUSE (a NULL argument) NULL is stored, if "n" is not NULL itself. Whatever
/// was stored must be given to dqlite_node_destroy().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_node_create(
    id: dqlite_node_id,
    address: *const c_char,
    data_dir: *const c_char,
    n: *mut *mut dqlite_node,
) -> c_int {
    guard(DQLITE_ERROR, || {
        if n.is_null() {
            return DQLITE_MISUSE;
        }
        // SAFETY: not NULL, and the contract asks for a place to write to.
        unsafe { n.write(ptr::null_mut()) };
        // SAFETY: the contract asks for NULL or a string.
        let address = unsafe { strings::borrow(address) };
        // SAFETY: likewise.
        let data_dir = unsafe { strings::borrow(data_dir) };
        let (Some(address), Some(data_dir)) = (address, data_dir) else { return DQLITE_MISUSE };
        let data_dir = PathBuf::from(OsStr::from_bytes(data_dir.to_bytes()));
        let (handle, result) = match address.to_str() {
            Ok(address) => match Node::create(id, address.to_owned(), data_dir) {
                Ok(node) => (dqlite_node::new(Some(node)), DQLITE_OK),
                Err(error) => {
                    let handle = dqlite_node::new(None);
                    handle.record(&error.to_string());
                    (handle, error.code())
                }
            },
            Err(_) => {
                let handle = dqlite_node::new(None);
                handle.record("the address is not UTF-8");
                (handle, DQLITE_ERROR)
            }
        };
        // SAFETY: as above.
        unsafe { n.write(Box::into_raw(Box::new(handle))) };
        result
    })
}

/// Frees a node and everything it holds: memory, descriptors, its address. NULL is allowed.
///
/// Stop the node first; one that still runs is stopped here. No other call on the node may be running, and neither the
/// node nor texts that came from it may be used afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_node_destroy(n: *mut dqlite_node) {
    guard((), || {
        if n.is_null() {
            return;
        }
        // SAFETY: not NULL, so `dqlite_node_create` made it of a box, and the contract ends its life here.
        let handle = unsafe { Box::from_raw(n) };
        // Nobody could read a text.
        let _ = handle.with_node(|node| if node.is_running() { Ok(node.stop()?) } else { Ok(()) });
    });
}

/// Starts the node: loads its directory, listens on the bind address, and takes part in the cluster.
///
/// Blocks until everything on disk is loaded and connections are served. If the node is the only voter of its cluster
/// it leads by then; otherwise clients find the leader by asking.
///
/// If the environment variable LIBDQLITE_TRACE is set, the library reports on stderr from here on: a number from 1
/// (everything) to 5 is the lowest level.
///
/// Returns DQLITE_ERROR with a text for dqlite_node_errmsg() when the directory is locked by a running node (this one
/// included), cannot be loaded, or when the address is taken; destroy the node then. Returns DQLITE_MISUSE when no bind
/// address was set, when the id is 0, or when the node was started before and stopped: make a new one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_node_start(n: *mut dqlite_node) -> c_int {
    // SAFETY: the contract asks for NULL or a node.
    unsafe {
        on_handle(n, |handle| {
            trace::enable_if_wanted();
            handle.with_node(|node| Ok(node.start()?))
        })
    }
}

/// Prepares the planned stop of a node: passes its leadership on to the voter that has most of the log, and its vote to
/// a member that has none and answers. The node becomes a spare and keeps running; stop it next.
///
/// Blocks until that is done, or until it is certain that it cannot be: at most two election timeouts (50 seconds at
/// most) and 10 seconds, 16 seconds with default settings. dqlite_node_stop() ends it early. A node that has neither
/// leadership nor a vote has nothing to pass on, and the call returns at once.
///
/// Returns DQLITE_ERROR with a text for dqlite_node_errmsg() when something had to stay: there is no other node, or all
/// others are voters already (leadership has moved then, if any of them answers), or too few of them answer. The node
/// can be stopped in any case. Returns DQLITE_MISUSE when the node is not running.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_node_handover(n: *mut dqlite_node) -> c_int {
    let body = |handle: &dqlite_node| {
        let begun = handle.with_node(|node| Ok(node.handover()?))?;
        // The lock is free again: others may stop the node meanwhile.
        Ok(begun.wait()?)
    };
    // SAFETY: the contract asks for NULL or a node.
    unsafe { on_handle(n, body) }
}

/// Stops the node: closes all connections without an answer, writes down what is under way, ends its threads.
///
/// Blocks until all of that is done. A call of a host's connect function is waited for one second; one that takes longer
/// goes on behind the stop, see dqlite_connect_func. Returns DQLITE_MISUSE when the node is not running, also to the later of two callers. A stopped node can only be asked for
/// its texts and be destroyed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_node_stop(n: *mut dqlite_node) -> c_int {
    // SAFETY: the contract asks for NULL or a node.
    unsafe { on_handle(n, |handle| handle.with_node(|node| Ok(node.stop()?))) }
}

/// Index and term of the last entry in the log of a node that is not running, 0 and 0 for an empty directory.
///
/// Of several nodes that lost their cluster, the one with the highest term, then the highest index, is the one to call
/// dqlite_node_recover_ext() on. Changes nothing in the directory. Blocks while it reads the log.
///
/// Returns DQLITE_ERROR when the directory cannot be read, DQLITE_MISUSE when the node is running or a pointer is NULL;
/// nothing is stored then.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_node_describe_last_entry(
    n: *mut dqlite_node,
    last_entry_index: *mut u64,
    last_entry_term: *mut u64,
) -> c_int {
    let body = |handle: &dqlite_node| {
        if last_entry_index.is_null() || last_entry_term.is_null() {
            return Err(Failure::misuse("no place for the index or the term"));
        }
        handle.with_node(|node| {
            if node.is_running() {
                return Err(Failure::misuse("the node is running"));
            }
            let (index, term) = node.describe_last_entry()?;
            // SAFETY: not NULL, and the contract asks for a place to write to.
            unsafe { last_entry_index.write(index) };
            // SAFETY: likewise.
            unsafe { last_entry_term.write(term) };
            Ok(())
        })
    };
    // SAFETY: the contract asks for NULL or a node.
    unsafe { on_handle(n, body) }
}

/// What went wrong last, as text of at most 299 bytes; empty if nothing did.
///
/// Every function that fails on a node leaves a text there; success does not clear it. The pointer is the same until
/// dqlite_node_destroy(), the text behind it changes with the next failure: copy it, and not while another thread uses
/// the node. For NULL a text says so.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_node_errmsg(n: *mut dqlite_node) -> *const c_char {
    // SAFETY: the contract asks for NULL or a node.
    let handle = unsafe { handle(n) };
    handle.map_or(c"node is NULL".as_ptr(), |handle| handle.error.as_ptr())
}
