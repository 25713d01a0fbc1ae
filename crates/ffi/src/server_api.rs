//! `dqlite_server_*`: a node that looks after its membership. See `server::managed`.

use std::ffi::{OsStr, c_char, c_int, c_uint, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use server::ManagedServer;

use crate::connect::HostConnector;
use crate::error::{DQLITE_ERROR, DQLITE_MISUSE, DQLITE_OK};
use crate::guard::guard;
use crate::strings;
use crate::trace;
use crate::types::{dqlite_connect_func, dqlite_node_id};

/// A node that bootstraps or joins its cluster by itself and remembers its members.
///
/// Its directory holds the node's data and two files: server-info with its address and id, and node-store with the
/// members of its cluster, which is refreshed every 30 seconds. C dqlite reads and writes the same files.
///
/// Experimental. Functions on the same server may be called from several threads, except dqlite_server_destroy(); a call
/// may wait for another one that is still running.
#[derive(Debug)]
pub struct dqlite_server {
    server: Mutex<ManagedServer>,
    /// Can be read while a start is under way.
    id: Arc<AtomicU64>,
}

impl dqlite_server {
    fn lock(&self) -> MutexGuard<'_, ManagedServer> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs `body` on a server; NULL and panics give DQLITE_MISUSE and DQLITE_ERROR.
///
/// # Safety
///
/// `server` is NULL or comes from `dqlite_server_create` and is not destroyed during the call.
unsafe fn on_server(server: *const dqlite_server, body: impl FnOnce(&dqlite_server) -> c_int) -> c_int {
    guard(DQLITE_ERROR, || {
        // SAFETY: as the caller promises.
        let server = unsafe { server.as_ref() };
        server.map_or(DQLITE_MISUSE, body)
    })
}

/// A copy of an address; the number to return if there is none.
///
/// # Safety
///
/// `text` is NULL or a string.
unsafe fn copy(text: *const c_char) -> Result<String, c_int> {
    // SAFETY: as the caller promises.
    let text = unsafe { strings::borrow(text) }.ok_or(DQLITE_MISUSE)?;
    text.to_str().map(str::to_owned).map_err(|_| DQLITE_ERROR)
}

/// Hands a copy of an address to a setter.
///
/// # Safety
///
/// As for [`on_server`], and `address` is NULL or a string.
unsafe fn set_address(
    server: *const dqlite_server,
    address: *const c_char,
    set: impl FnOnce(&mut ManagedServer, String),
) -> c_int {
    // SAFETY: as the caller promises.
    let body = |server: &dqlite_server| match unsafe { copy(address) } {
        Ok(address) => {
            set(&mut server.lock(), address);
            DQLITE_OK
        }
        Err(code) => code,
    };
    // SAFETY: as the caller promises.
    unsafe { on_server(server, body) }
}

/// Creates a server whose data lives in the directory "path". The text is copied, the directory not looked at yet.
/// Give the server to dqlite_server_destroy() in the end.
/// cbindgen:prefix=DQLITE_API DQLITE_EXPERIMENTAL
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_server_create(path: *const c_char, server: *mut *mut dqlite_server) -> c_int {
    guard(DQLITE_ERROR, || {
        if server.is_null() {
            return DQLITE_MISUSE;
        }
        // SAFETY: not NULL, and the contract asks for a place to write to.
        unsafe { server.write(ptr::null_mut()) };
        // SAFETY: the contract asks for NULL or a string.
        let Some(path) = (unsafe { strings::borrow(path) }) else { return DQLITE_MISUSE };
        let managed = ManagedServer::new(PathBuf::from(OsStr::from_bytes(path.to_bytes())));
        let id = Arc::clone(managed.id());
        let created = Box::new(dqlite_server { server: Mutex::new(managed), id });
        // SAFETY: as above.
        unsafe { server.write(Box::into_raw(created)) };
        DQLITE_OK
    })
}

/// Sets the address by which others reach the server, a name or a literal. Copied; ignored when the directory already
/// names one. Set the bind address as well if this one is no literal.
/// cbindgen:prefix=DQLITE_API DQLITE_EXPERIMENTAL
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_server_set_address(
    server: *mut dqlite_server,
    address: *const c_char,
) -> c_int {
    // SAFETY: the contract asks for NULL or a server, and NULL or a string.
    unsafe { set_address(server, address, ManagedServer::set_address) }
}

/// Tells whether a server that is new starts a cluster of its own. One server of a cluster does; default off.
/// cbindgen:prefix=DQLITE_API DQLITE_EXPERIMENTAL
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_server_set_auto_bootstrap(server: *mut dqlite_server, on: bool) -> c_int {
    let body = |server: &dqlite_server| {
        server.lock().set_auto_bootstrap(on);
        DQLITE_OK
    };
    // SAFETY: the contract asks for NULL or a server.
    unsafe { on_server(server, body) }
}

/// Adds "n" addresses of servers through which a server that is new joins their cluster; its own may be among them.
/// Copied; ignored when the directory already knows servers.
/// cbindgen:prefix=DQLITE_API DQLITE_EXPERIMENTAL
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_server_set_auto_join(
    server: *mut dqlite_server,
    addrs: *const *const c_char,
    n: c_uint,
) -> c_int {
    let body = |server: &dqlite_server| {
        if addrs.is_null() && n > 0 {
            return DQLITE_MISUSE;
        }
        let mut added = Vec::new();
        for position in 0..n as usize {
            // SAFETY: the contract asks for `n` pointers.
            let place = unsafe { addrs.add(position) };
            // SAFETY: likewise.
            let address = unsafe { place.read() };
            // SAFETY: the contract asks for NULL or a string.
            match unsafe { copy(address) } {
                Ok(address) => added.push(address),
                Err(code) => return code,
            }
        }
        server.lock().add_auto_join(added);
        DQLITE_OK
    };
    // SAFETY: the contract asks for NULL or a server.
    unsafe { on_server(server, body) }
}

/// Sets the address to listen on, if it is not the one others use; see dqlite_node_set_bind_address(). Copied.
/// cbindgen:prefix=DQLITE_API DQLITE_EXPERIMENTAL
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_server_set_bind_address(
    server: *mut dqlite_server,
    addr: *const c_char,
) -> c_int {
    // SAFETY: the contract asks for NULL or a server, and NULL or a string.
    unsafe { set_address(server, addr, ManagedServer::set_bind_address) }
}

/// Lets the host make the connections to other servers; see dqlite_connect_func. It is called on threads of dqlite and on
/// the one that calls dqlite_server_start(). Without it, dqlite connects over TCP, by name too, in at most 5 seconds.
/// cbindgen:prefix=DQLITE_API DQLITE_EXPERIMENTAL
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_server_set_connect_func(
    server: *mut dqlite_server,
    f: dqlite_connect_func,
    arg: *mut c_void,
) -> c_int {
    let body = |server: &dqlite_server| {
        let Some(function) = f else { return DQLITE_MISUSE };
        server.lock().set_connect(Arc::new(HostConnector::new(function, arg)));
        DQLITE_OK
    };
    // SAFETY: the contract asks for NULL or a server.
    unsafe { on_server(server, body) }
}

/// Starts the server: its node, and its membership. A server that is new either bootstraps a cluster or joins one, as a
/// spare; one that is not goes on with what its directory holds.
///
/// Blocks until the server is a member and knows the leader. For up to 30 seconds it tries all servers it knows again
/// and again, so servers may be started in any order, but at the same time: each waits for the others.
///
/// Returns DQLITE_ERROR when the server runs already, when it shall both bootstrap and join or, being new, neither, when
/// no address was set, when a file is damaged, for all reasons dqlite_node_start() has, and when the time is over.
/// LIBDQLITE_TRACE shows the reason. The start can be repeated then.
/// cbindgen:prefix=DQLITE_API DQLITE_EXPERIMENTAL
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_server_start(server: *mut dqlite_server) -> c_int {
    let body = |server: &dqlite_server| {
        trace::enable_if_wanted();
        match server.lock().start() {
            Ok(()) => DQLITE_OK,
            Err(error) => {
                tracing::warn!(%error, "a server does not start");
                DQLITE_ERROR
            }
        }
    };
    // SAFETY: the contract asks for NULL or a server.
    unsafe { on_server(server, body) }
}

/// The id of the server's node; 0 before it has one, and for NULL. It stays when the server is stopped.
/// cbindgen:prefix=DQLITE_API DQLITE_EXPERIMENTAL
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_server_get_id(server: *mut dqlite_server) -> dqlite_node_id {
    guard(0, || {
        // SAFETY: the contract asks for NULL or a server.
        let server = unsafe { server.as_ref() };
        server.map_or(0, |server| server.id.load(Ordering::Relaxed))
    })
}

/// Prepares the planned stop of a running server; see dqlite_node_handover(). Returns DQLITE_ERROR when something had to
/// stay, and when the server is not running.
/// cbindgen:prefix=DQLITE_API DQLITE_EXPERIMENTAL
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_server_handover(server: *mut dqlite_server) -> c_int {
    let body = |server: &dqlite_server| {
        // Others may stop the server while this waits.
        let pending = server.lock().handover();
        let outcome = pending.map(|pending| pending.wait().map_err(|error| error.to_string()));
        match outcome {
            Ok(Ok(())) => DQLITE_OK,
            Ok(Err(reason)) => {
                tracing::info!(%reason, "a server keeps what it should hand over");
                DQLITE_ERROR
            }
            Err(_) => DQLITE_ERROR,
        }
    };
    // SAFETY: the contract asks for NULL or a server.
    unsafe { on_server(server, body) }
}

/// Stops a running server. It can be started again. Takes a second or two at most; see dqlite_connect_func for calls
/// that take longer. Returns DQLITE_ERROR when the server is not running.
/// cbindgen:prefix=DQLITE_API DQLITE_EXPERIMENTAL
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_server_stop(server: *mut dqlite_server) -> c_int {
    let body = |server: &dqlite_server| server.lock().stop().map_or(DQLITE_ERROR, |()| DQLITE_OK);
    // SAFETY: the contract asks for NULL or a server.
    unsafe { on_server(server, body) }
}

/// Frees a server; one that still runs is stopped first. NULL is allowed. No other call on it may be running.
/// cbindgen:prefix=DQLITE_API DQLITE_EXPERIMENTAL
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_server_destroy(server: *mut dqlite_server) {
    guard((), || {
        if !server.is_null() {
            // SAFETY: not NULL, so `dqlite_server_create` made it of a box, and the contract ends its life here.
            drop(unsafe { Box::from_raw(server) });
        }
    });
}
