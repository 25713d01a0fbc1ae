//! Types that cross the border, laid out as C has them.

use std::ffi::{c_char, c_int, c_ulonglong, c_void};
use std::mem::{offset_of, size_of};

/// Identity of a node: unique in its cluster for ever, never 0, never given to another node.
pub type dqlite_node_id = c_ulonglong;

/// A node as dqlite_node_recover() takes it: always a voter.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct dqlite_node_info {
    /// Identity of the node.
    pub id: dqlite_node_id,
    /// Its address as the cluster knows it.
    pub address: *const c_char,
}

/// A node as dqlite_node_recover_ext() takes it.
///
/// Set "size" to DQLITE_NODE_INFO_EXT_SZ_ORIG, or to the size of a longer, future form of this struct whose further
/// members are all zero.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct dqlite_node_info_ext {
    /// Size of this struct in bytes, a multiple of 8.
    pub size: u64,
    /// Identity of the node.
    pub id: u64,
    /// Its address: a pointer to a string, stored as an integer.
    pub address: u64,
    /// Its role: 0 voter, 1 stand-by, 2 spare.
    pub dqlite_role: u64,
}

/// Bytes with a length. No function uses it; it is there for programs that name it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct dqlite_buffer {
    /// First byte.
    pub base: *mut c_void,
    /// Number of bytes.
    pub len: usize,
}

/// Makes a connection to another node; see dqlite_node_set_connect_func().
///
/// "address" is what the cluster has recorded for the node, and is lent for the duration of the call. Blocks until the
/// connection stands, then stores its descriptor in "fd" and returns 0; any other value means failure, and "fd" is not
/// looked at.
///
/// The descriptor must be a connected stream socket in blocking mode: TCP, Unix, or one end of a socketpair. dqlite
/// owns it from then on and closes it. Set close-on-exec on it.
///
/// Called on threads of dqlite, several at a time, also for the node's own address. Nobody can end a call, so
/// dqlite_node_stop() waits one second for those that are still running and leaves longer ones behind: until they return,
/// the function, its argument and the library must stay, even if the node is destroyed. What such a call returns is closed.
/// The calling thread has the signal mask of the one that set the function.
pub type dqlite_connect_func =
    Option<unsafe extern "C" fn(arg: *mut c_void, address: *const c_char, fd: *mut c_int) -> c_int>;

const _: () = {
    assert!(size_of::<dqlite_node_info>() == 16);
    assert!(offset_of!(dqlite_node_info, address) == 8);
    assert!(size_of::<dqlite_node_info_ext>() == 32);
    assert!(offset_of!(dqlite_node_info_ext, id) == 8);
    assert!(offset_of!(dqlite_node_info_ext, address) == 16);
    assert!(offset_of!(dqlite_node_info_ext, dqlite_role) == 24);
    assert!(size_of::<dqlite_buffer>() == 16);
    assert!(size_of::<dqlite_connect_func>() == 8);
};
