//! Setters. What each accepts is decided in `server::options`.

use std::ffi::{c_char, c_int, c_uint, c_ulonglong, c_void};
use std::ptr;
use std::sync::Arc;

use server::options::{LiveOptions, NodeOptions, OptionError};

use crate::connect::{ConnectFunction, HostConnector};
use crate::error::{DQLITE_ERROR, Failure};
use crate::guard::guard;
use crate::node::{dqlite_node, handle, on_handle};
use crate::strings;
use crate::types::dqlite_connect_func;

/// Of a setter that comes too late.
const STARTED: &str = "the node was started already";

/// A setting that is fixed once the node runs.
///
/// # Safety
///
/// As for [`handle`].
unsafe fn before_start(
    n: *mut dqlite_node,
    set: impl FnOnce(&mut NodeOptions) -> Result<(), OptionError>,
) -> c_int {
    let body = |handle: &dqlite_node| {
        handle.with_node(|node| match node.options_mut() {
            Ok(options) => Ok(set(options)?),
            Err(_) => Err(Failure::misuse(STARTED)),
        })
    };
    // SAFETY: as the caller promises.
    unsafe { on_handle(n, body) }
}

/// A setting that may change at any time. It takes no lock: a `start` or `stop` on another thread delays nobody.
///
/// # Safety
///
/// As for [`handle`].
unsafe fn at_any_time(n: *mut dqlite_node, set: impl FnOnce(&LiveOptions)) -> c_int {
    let body = |handle: &dqlite_node| {
        match handle.live() {
            Some(live) => {
                set(live);
                Ok(())
            }
            // Fails, and with the text of the creation.
            None => handle.with_node(|_| Ok(())),
        }
    };
    // SAFETY: as the caller promises.
    unsafe { on_handle(n, body) }
}

/// Takes the address the node will listen on: "IPv4", "IPv4:port", "IPv6", "[IPv6]:port" or "@name". Without a port
/// 8080 is meant. Names of hosts are not looked up.
///
/// "@name" is an abstract Unix socket that only this process may connect to; for "@" alone the system chooses a name,
/// which dqlite_node_get_bind_address() returns.
///
/// The socket is made and bound at once, and listens from dqlite_node_start() on. Call it before starting; a second
/// call replaces the first if it succeeds. The text is copied.
///
/// Returns DQLITE_ERROR when the address is malformed, taken or not of this machine, DQLITE_MISUSE when the node was
/// started or "address" is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_node_set_bind_address(n: *mut dqlite_node, address: *const c_char) -> c_int {
    let body = |handle: &dqlite_node| {
        // SAFETY: the contract asks for NULL or a string.
        let address = unsafe { strings::borrow(address) };
        let address = address.ok_or_else(|| Failure::misuse("the address is NULL"))?;
        let not_utf8 = |_| Failure { code: DQLITE_ERROR, text: "bind: the address is not UTF-8".into() };
        handle.set_bind_address(address.to_str().map_err(not_utf8)?)
    };
    // SAFETY: the contract asks for NULL or a node.
    unsafe { on_handle(n, body) }
}

/// The address the node is bound to, or NULL. An IP address is the text that was set (a port 0 stays 0), an abstract
/// one is the name in use.
///
/// The text belongs to the node and stays as it is until dqlite_node_destroy() or the next successful
/// dqlite_node_set_bind_address().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_node_get_bind_address(n: *mut dqlite_node) -> *const c_char {
    guard(ptr::null(), || {
        // SAFETY: the contract asks for NULL or a node.
        let handle = unsafe { handle(n) };
        handle.map_or(ptr::null(), dqlite_node::bind_address)
    })
}

/// Lets the host make the connections to other nodes, with TLS for example. See dqlite_connect_func for what "f" must
/// do. Without it, dqlite connects over TCP to "address:port" (8080 if no port is named) and waits at most 5 seconds.
///
/// "arg" is given to every call; it and "f" must stay usable until the node is destroyed, and until every call has
/// returned: one that takes longer than a second goes on behind dqlite_node_stop().
///
/// Returns DQLITE_MISUSE when the node was started or "f" is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_node_set_connect_func(
    n: *mut dqlite_node,
    f: dqlite_connect_func,
    arg: *mut c_void,
) -> c_int {
    let connect = |handle: &dqlite_node, function: ConnectFunction| {
        handle.with_node(|node| {
            if node.options_mut().is_err() {
                return Err(Failure::misuse(STARTED));
            }
            node.set_connect(Arc::new(HostConnector::new(function, arg)));
            Ok(())
        })
    };
    let body = |handle: &dqlite_node| {
        let function = f.ok_or_else(|| Failure::misuse("the connect function is NULL"))?;
        connect(handle, function)
    };
    // SAFETY: the contract asks for NULL or a node.
    unsafe { on_handle(n, body) }
}

/// As dqlite_node_set_network_latency_ms(), in nanoseconds; fractions of a millisecond are dropped, and less than one
/// is refused.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_node_set_network_latency(
    n: *mut dqlite_node,
    nanoseconds: c_ulonglong,
) -> c_int {
    // SAFETY: the contract asks for NULL or a node.
    unsafe { before_start(n, |options| options.set_network_latency_ns(nanoseconds)) }
}

/// Tells how long a message between two nodes takes at worst. Elections start after 15 times as long (and a random
/// part), heartbeats are sent at a tenth of that. Unless set, the two are 3000 and 500 milliseconds.
///
/// Use the same value on all nodes. Returns DQLITE_MISUSE for 0, for more than an hour, and when the node was started.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_node_set_network_latency_ms(
    n: *mut dqlite_node,
    milliseconds: c_uint,
) -> c_int {
    // SAFETY: the contract asks for NULL or a node.
    unsafe { before_start(n, |options| options.set_network_latency_ms(milliseconds)) }
}

/// Tells where the node stands, a rack or a zone for example, as a number of the host's choice. Clients and other nodes
/// can ask for it when they distribute roles. Default 0; may be changed at any time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_node_set_failure_domain(n: *mut dqlite_node, code: c_ulonglong) -> c_int {
    // SAFETY: the contract asks for NULL or a node.
    unsafe { at_any_time(n, |live| live.set_failure_domain(code)) }
}

/// As dqlite_node_set_snapshot_params_v2() with DQLITE_SNAPSHOT_TRAILING_STATIC.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_node_set_snapshot_params(
    n: *mut dqlite_node,
    snapshot_threshold: c_uint,
    snapshot_trailing: c_uint,
) -> c_int {
    // SAFETY: the contract asks for NULL or a node.
    unsafe {
        before_start(n, |options| options.set_snapshot_params_raw(snapshot_threshold, snapshot_trailing, 0))
    }
}

/// Tells when to take snapshots and how much of the log to keep behind them.
///
/// A snapshot is taken when "snapshot_threshold" entries (default 1024) were applied since the last one; then
/// "snapshot_trailing" entries (default 8192) stay in the log, so that nodes that were away for a while need no
/// snapshot. With DQLITE_SNAPSHOT_TRAILING_DYNAMIC fewer stay if a snapshot is smaller than they are.
///
/// Unless this is called, a snapshot also waits until the log since the last one is as large as the databases, at most
/// 1 GiB.
///
/// Returns DQLITE_MISUSE when trailing is less than 4 or less than the threshold, for other strategies, and when the
/// node was started.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_node_set_snapshot_params_v2(
    n: *mut dqlite_node,
    snapshot_threshold: c_uint,
    snapshot_trailing: c_uint,
    trailing_strategy: c_int,
) -> c_int {
    let set = |options: &mut NodeOptions| {
        options.set_snapshot_params_raw(snapshot_threshold, snapshot_trailing, trailing_strategy)
    };
    // SAFETY: the contract asks for NULL or a node.
    unsafe { before_start(n, set) }
}

/// Sets the size of the blocks in which the log is written: a power of two from 512 to 262144 bytes. Unless set, it is
/// what the file system of the data directory suggests.
///
/// Returns DQLITE_ERROR for other sizes, DQLITE_MISUSE when the node was started.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_node_set_block_size(n: *mut dqlite_node, size: usize) -> c_int {
    // SAFETY: the contract asks for NULL or a node.
    unsafe { before_start(n, |options| options.set_block_size(size)) }
}

/// Tells how many voters role management aims at; default 3. May be changed at any time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_node_set_target_voters(n: *mut dqlite_node, voters: c_int) -> c_int {
    // SAFETY: the contract asks for NULL or a node.
    unsafe { at_any_time(n, |live| live.set_target_voters(voters)) }
}

/// Tells how many stand-bys role management aims at; default 0. May be changed at any time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_node_set_target_standbys(n: *mut dqlite_node, standbys: c_int) -> c_int {
    // SAFETY: the contract asks for NULL or a node.
    unsafe { at_any_time(n, |live| live.set_target_standbys(standbys)) }
}

/// Tells how many threads read from databases at the same time; default 4. Used by the next dqlite_node_start(), within
/// reasonable bounds.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_node_set_pool_thread_count(
    n: *mut dqlite_node,
    thread_count: c_uint,
) -> c_int {
    // SAFETY: the contract asks for NULL or a node.
    unsafe { at_any_time(n, |live| live.set_pool_thread_count(thread_count)) }
}

/// Tells whether damaged files may be moved aside when the directory is loaded (the default), so that the node can
/// catch up from others. If not, loading fails and the files stay where they are. Used by the next start or recovery.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_node_set_auto_recovery(n: *mut dqlite_node, enabled: bool) -> c_int {
    // SAFETY: the contract asks for NULL or a node.
    unsafe { at_any_time(n, |live| live.set_auto_recovery(enabled)) }
}

/// Tells whether snapshots are compressed on disk (the default). Either kind can always be read. May be changed at any
/// time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_node_set_snapshot_compression(n: *mut dqlite_node, enabled: bool) -> c_int {
    // SAFETY: the contract asks for NULL or a node.
    unsafe { at_any_time(n, |live| live.set_snapshot_compression(enabled)) }
}

/// Tells how long a write waits, in milliseconds, while another connection writes to the same database, before it fails
/// with SQLITE_BUSY. 0 does not wait at all. Unless set it waits 5000 milliseconds. May be changed at any time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_node_set_busy_timeout(n: *mut dqlite_node, msecs: c_uint) -> c_int {
    // SAFETY: the contract asks for NULL or a node.
    unsafe { at_any_time(n, |live| live.set_busy_timeout_ms(msecs)) }
}

/// Lets this node, whenever it leads, give the members the roles that the targets for voters and stand-bys call for.
/// Enable it on all nodes, with the same targets. Off by default; may be enabled at any time and stays so.
///
/// Roles are looked at once a second. A member that was not heard from for 5 seconds (or an election timeout, if that is
/// longer) is offline: a stand-by, or else a spare, takes the place of an offline voter, preferably one from a failure
/// domain with few voters and of small weight. An offline voter that nobody can replace keeps its vote unless three
/// others answer. The leader never changes its own role, and no change is made that the voters answering could not
/// survive. A role that a client has assigned is left alone for 30 seconds.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_node_enable_role_management(n: *mut dqlite_node) -> c_int {
    // SAFETY: the contract asks for NULL or a node.
    unsafe { at_any_time(n, |live| live.set_role_management(true)) }
}

/// Asks for the disk mode of dqlite 1.13 to 1.18.2, for programs of that time.
///
/// Accepted without effect: databases stay in memory, and the log and snapshots on disk as always. Returns
/// DQLITE_MISUSE when the node was started.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_node_enable_disk_mode(n: *mut dqlite_node) -> c_int {
    // SAFETY: the contract asks for NULL or a node.
    unsafe { before_start(n, |_| Ok(())) }
}
