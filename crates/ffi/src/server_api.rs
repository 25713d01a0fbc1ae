//! `dqlite_server_*`: a node with an embedded client. Exported so that programs load; starting is not built yet.

use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::ptr;
use std::sync::{Mutex, PoisonError};

use crate::connect::HostConnector;
use crate::error::{DQLITE_ERROR, DQLITE_MISUSE, DQLITE_OK};
use crate::guard::guard;
use crate::strings;
use crate::types::{dqlite_connect_func, dqlite_node_id};

/// A node that bootstraps or joins its cluster by itself and remembers its members.
///
/// Experimental, and not implemented yet: dqlite_server_start() fails. One thread at a time may use it.
#[derive(Debug)]
pub struct dqlite_server {
    settings: Mutex<Settings>,
}

/// Copies of what the host has said.
#[derive(Debug, Default)]
#[expect(dead_code, reason = "read by dqlite_server_start once it exists")]
struct Settings {
    path: CString,
    address: Option<CString>,
    bind_address: Option<CString>,
    auto_bootstrap: bool,
    auto_join: Vec<CString>,
    connect: Option<HostConnector>,
}

/// Runs `body` on the settings; NULL and panics give DQLITE_MISUSE and DQLITE_ERROR.
///
/// # Safety
///
/// `server` is NULL or comes from `dqlite_server_create` and is not destroyed during the call.
unsafe fn on_server(server: *const dqlite_server, body: impl FnOnce(&mut Settings) -> c_int) -> c_int {
    guard(DQLITE_ERROR, || {
        // SAFETY: as the caller promises.
        let server = unsafe { server.as_ref() };
        server.map_or(DQLITE_MISUSE, |server| {
            body(&mut server.settings.lock().unwrap_or_else(PoisonError::into_inner))
        })
    })
}

/// # Safety
///
/// `text` is NULL or a string.
unsafe fn copy(text: *const c_char) -> Option<CString> {
    // SAFETY: as the caller promises.
    unsafe { strings::borrow(text) }.map(CString::from)
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
        let Some(path) = (unsafe { copy(path) }) else { return DQLITE_MISUSE };
        let settings = Settings { path, ..Settings::default() };
        let created = Box::new(dqlite_server { settings: Mutex::new(settings) });
        // SAFETY: as above.
        unsafe { server.write(Box::into_raw(created)) };
        DQLITE_OK
    })
}

/// Sets the address by which others reach the server. Copied; ignored when the directory already names one.
/// cbindgen:prefix=DQLITE_API DQLITE_EXPERIMENTAL
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_server_set_address(
    server: *mut dqlite_server,
    address: *const c_char,
) -> c_int {
    let body = |settings: &mut Settings| {
        // SAFETY: the contract asks for NULL or a string.
        let Some(address) = (unsafe { copy(address) }) else { return DQLITE_MISUSE };
        settings.address = Some(address);
        DQLITE_OK
    };
    // SAFETY: the contract asks for NULL or a server.
    unsafe { on_server(server, body) }
}

/// Tells whether a server that is new starts a cluster of its own. One server of a cluster does; default off.
/// cbindgen:prefix=DQLITE_API DQLITE_EXPERIMENTAL
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_server_set_auto_bootstrap(server: *mut dqlite_server, on: bool) -> c_int {
    let body = |settings: &mut Settings| {
        settings.auto_bootstrap = on;
        DQLITE_OK
    };
    // SAFETY: the contract asks for NULL or a server.
    unsafe { on_server(server, body) }
}

/// Adds "n" addresses of servers through which a server that is new joins their cluster. Copied; ignored when the
/// directory already knows servers.
/// cbindgen:prefix=DQLITE_API DQLITE_EXPERIMENTAL
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_server_set_auto_join(
    server: *mut dqlite_server,
    addrs: *const *const c_char,
    n: c_uint,
) -> c_int {
    let body = |settings: &mut Settings| {
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
            let Some(address) = (unsafe { copy(address) }) else { return DQLITE_MISUSE };
            added.push(address);
        }
        settings.auto_join.append(&mut added);
        DQLITE_OK
    };
    // SAFETY: the contract asks for NULL or a server.
    unsafe { on_server(server, body) }
}

/// Sets the address to listen on, if it is not the one others use. Copied.
/// cbindgen:prefix=DQLITE_API DQLITE_EXPERIMENTAL
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_server_set_bind_address(
    server: *mut dqlite_server,
    addr: *const c_char,
) -> c_int {
    let body = |settings: &mut Settings| {
        // SAFETY: the contract asks for NULL or a string.
        let Some(address) = (unsafe { copy(addr) }) else { return DQLITE_MISUSE };
        settings.bind_address = Some(address);
        DQLITE_OK
    };
    // SAFETY: the contract asks for NULL or a server.
    unsafe { on_server(server, body) }
}

/// Lets the host make the connections to other servers; see dqlite_connect_func.
/// cbindgen:prefix=DQLITE_API DQLITE_EXPERIMENTAL
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_server_set_connect_func(
    server: *mut dqlite_server,
    f: dqlite_connect_func,
    arg: *mut c_void,
) -> c_int {
    let body = |settings: &mut Settings| {
        let Some(function) = f else { return DQLITE_MISUSE };
        settings.connect = Some(HostConnector::new(function, arg));
        DQLITE_OK
    };
    // SAFETY: the contract asks for NULL or a server.
    unsafe { on_server(server, body) }
}

/// Starts the server. Not implemented yet: returns DQLITE_ERROR and touches nothing.
/// cbindgen:prefix=DQLITE_API DQLITE_EXPERIMENTAL
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_server_start(server: *mut dqlite_server) -> c_int {
    // SAFETY: the contract asks for NULL or a server.
    unsafe { on_server(server, |_| DQLITE_ERROR) }
}

/// The id of the server's node; 0 before it has one, and for NULL.
/// cbindgen:prefix=DQLITE_API DQLITE_EXPERIMENTAL
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_server_get_id(server: *mut dqlite_server) -> dqlite_node_id {
    let _ = server;
    0
}

/// Prepares the shutdown of a running server; see dqlite_node_handover(). Returns DQLITE_ERROR: none can be running.
/// cbindgen:prefix=DQLITE_API DQLITE_EXPERIMENTAL
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_server_handover(server: *mut dqlite_server) -> c_int {
    // SAFETY: the contract asks for NULL or a server.
    unsafe { on_server(server, |_| DQLITE_ERROR) }
}

/// Stops a running server. Returns DQLITE_ERROR: none can be running.
/// cbindgen:prefix=DQLITE_API DQLITE_EXPERIMENTAL
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_server_stop(server: *mut dqlite_server) -> c_int {
    // SAFETY: the contract asks for NULL or a server.
    unsafe { on_server(server, |_| DQLITE_ERROR) }
}

/// Frees a server. NULL is allowed.
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
