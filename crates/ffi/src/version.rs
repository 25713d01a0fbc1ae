//! Versions, and ids for new nodes.

use std::ffi::{c_char, c_int};

use crate::guard::guard;
use crate::strings;
use crate::types::dqlite_node_id;

/// Major version of the interface.
pub const DQLITE_VERSION_MAJOR: c_int = 1;
/// Minor version of the interface.
pub const DQLITE_VERSION_MINOR: c_int = 18;
/// Release of the interface.
pub const DQLITE_VERSION_RELEASE: c_int = 6;
/// The three in one number.
pub const DQLITE_VERSION_NUMBER: c_int =
    DQLITE_VERSION_MAJOR * 100 * 100 + DQLITE_VERSION_MINOR * 100 + DQLITE_VERSION_RELEASE;

/// A pointer to text that never changes, hence free to be shared.
#[repr(transparent)]
#[derive(Debug)]
pub struct static_cstr(*const c_char);

// SAFETY: what it points to is a literal: nobody writes it and it is never freed.
unsafe impl Sync for static_cstr {}

const VERSION: &str = concat!("1.18.6@rs-", env!("CARGO_PKG_VERSION"), "\0");

// The text repeats the numbers, since `concat!` takes literals only.
const _: () = assert!(DQLITE_VERSION_NUMBER == 11806);

/// The version as text: `1.18.6@` and what identifies the build.
#[unsafe(no_mangle)]
pub static dqlite_version_string: static_cstr = static_cstr(VERSION.as_ptr().cast());

/// Version of the library at run time, to compare with the DQLITE_VERSION_NUMBER a program was compiled with.
#[unsafe(no_mangle)]
pub extern "C" fn dqlite_version_number() -> c_int {
    DQLITE_VERSION_NUMBER
}

/// Makes an id for a new node from its address and the clock.
///
/// Every call gives another id. Never 0, unless "address" is NULL. Safe to call from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_generate_node_id(address: *const c_char) -> dqlite_node_id {
    guard(0, || {
        // SAFETY: the contract asks for NULL or a string.
        let address = unsafe { strings::borrow(address) };
        address.map_or(0, |address| server::node_id::generate_node_id(address.to_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_text_starts_with_the_version_numbers() {
        // SAFETY: a literal with a NUL at its end.
        let text = unsafe { strings::borrow(dqlite_version_string.0) }.unwrap().to_str().unwrap();
        let numbers = format!("{DQLITE_VERSION_MAJOR}.{DQLITE_VERSION_MINOR}.{DQLITE_VERSION_RELEASE}@");
        assert_eq!(text.strip_prefix(&numbers), Some(concat!("rs-", env!("CARGO_PKG_VERSION"))));
    }

    #[test]
    fn node_ids_come_from_text_only() {
        // SAFETY: NULL is allowed.
        assert_eq!(unsafe { dqlite_generate_node_id(std::ptr::null()) }, 0);
        // SAFETY: a literal.
        assert_ne!(unsafe { dqlite_generate_node_id(c"127.0.0.1:9000".as_ptr()) }, 0);
    }
}
