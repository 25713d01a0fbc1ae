//! A new configuration for a cluster that lost its majority: arrays of C into a checked [`Configuration`].

use std::ffi::{c_char, c_int};

use server::{Configuration, NodeId, Role, Server};

use crate::error::{DQLITE_NOMEM, Failure};
use crate::node::{dqlite_node, on_handle};
use crate::strings;
use crate::trace;
use crate::types::{dqlite_node_info, dqlite_node_info_ext};

/// Size of `dqlite_node_info_ext`, and the stride of an array of it, whatever its elements say.
const ENTRY_SIZE: u64 = 32;
const WORD: u64 = 8;
const ENTRY_WORDS: usize = 4;
/// More than any future form will need; what claims to be longer is not read.
const MAX_ENTRY_SIZE: u64 = 4096;

/// Of an array.
const NEGATIVE: &str = "the number of members is negative";

/// A fault of the caller.
#[derive(Debug, PartialEq, Eq)]
struct Misuse;

/// Adds a server if it can be one of this cluster.
fn push(configuration: &mut Configuration, id: u64, address: &str, role: u64) -> Result<(), Misuse> {
    let role = match role {
        0 => Role::Voter,
        1 => Role::StandBy,
        2 => Role::Spare,
        _ => return Err(Misuse),
    };
    let taken = |server: &Server| server.id.0 == id || server.address == address;
    if id == 0 || configuration.servers.iter().any(taken) {
        return Err(Misuse);
    }
    configuration.servers.push(Server { id: NodeId(id), address: address.to_owned(), role });
    Ok(())
}

/// # Safety
///
/// `address` is NULL or a string.
unsafe fn borrow_address<'a>(address: *const c_char) -> Result<&'a str, Misuse> {
    // SAFETY: as the caller promises.
    let address = unsafe { strings::borrow(address) };
    address.ok_or(Misuse)?.to_str().map_err(|_| Misuse)
}

/// # Safety
///
/// `infos` is NULL or points to `count` elements with NULL or strings in them.
unsafe fn from_infos(infos: *const dqlite_node_info, count: usize) -> Result<Configuration, Misuse> {
    if infos.is_null() {
        return Err(Misuse);
    }
    let mut configuration = Configuration::default();
    for position in 0..count {
        // SAFETY: the caller promises that many.
        let place = unsafe { infos.add(position) };
        // SAFETY: likewise.
        let info = unsafe { place.read() };
        // SAFETY: likewise.
        let address = unsafe { borrow_address(info.address) }?;
        push(&mut configuration, info.id, address, 0)?;
    }
    if configuration.servers.is_empty() { Err(Misuse) } else { Ok(configuration) }
}

/// # Safety
///
/// `infos` is NULL or points to `count` elements with NULL or strings in them; where an element says that it is longer
/// than [`ENTRY_SIZE`], memory of that length follows its start.
unsafe fn from_infos_ext(infos: *const dqlite_node_info_ext, count: usize) -> Result<Configuration, Misuse> {
    if infos.is_null() {
        return Err(Misuse);
    }
    let mut configuration = Configuration::default();
    for position in 0..count {
        // SAFETY: the caller promises that many.
        let place = unsafe { infos.add(position) };
        // SAFETY: likewise.
        let info = unsafe { place.read() };
        if info.size < ENTRY_SIZE || !info.size.is_multiple_of(WORD) || info.size > MAX_ENTRY_SIZE {
            return Err(Misuse);
        }
        let words = usize::try_from((info.size - ENTRY_SIZE) / WORD).map_err(|_| Misuse)?;
        for word in 0..words {
            // SAFETY: the caller promises memory of the size the element names.
            let place = unsafe { place.cast::<u64>().add(ENTRY_WORDS + word) };
            // SAFETY: likewise.
            if unsafe { place.read() } != 0 {
                return Err(Misuse);
            }
        }
        let address = usize::try_from(info.address).map_err(|_| Misuse)?;
        // SAFETY: the caller promises a string there.
        let address = unsafe { borrow_address(std::ptr::with_exposed_provenance(address)) }?;
        push(&mut configuration, info.id, address, info.dqlite_role)?;
    }
    if configuration.servers.is_empty() { Err(Misuse) } else { Ok(configuration) }
}

fn recover(handle: &dqlite_node, configuration: Result<Configuration, Misuse>) -> Result<(), Failure> {
    trace::enable_if_wanted();
    let configuration = configuration.map_err(|Misuse| {
        Failure::misuse("the members are none, or one has a wrong size, id, address or role, or occurs twice")
    })?;
    handle.with_node(|node| Ok(node.recover(configuration)?))
}

/// As dqlite_node_recover_ext(), with every node a voter. A negative "n_info" gives DQLITE_NOMEM.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_node_recover(
    n: *mut dqlite_node,
    infos: *mut dqlite_node_info,
    n_info: c_int,
) -> c_int {
    let body = |handle: &dqlite_node| {
        let negative = |_| Failure { code: DQLITE_NOMEM, text: NEGATIVE.into() };
        let count = usize::try_from(n_info).map_err(negative)?;
        // SAFETY: the contract asks for NULL or that many elements.
        recover(handle, unsafe { from_infos(infos, count) })
    };
    // SAFETY: the contract asks for NULL or a node.
    unsafe { on_handle(n, body) }
}

/// Gives a cluster that has lost its majority for ever a new list of members.
///
/// Stop all nodes; find the one with the most recent log with dqlite_node_describe_last_entry(); call this on it, not
/// started, with the members the cluster shall have; then replace the data directories of all other members by copies
/// of its directory, and start them. Nodes that are not in the list must never be started again.
///
/// What is replaced is copied to files of the directory before, named backup-N-..., which nobody reads or removes.
///
/// Array elements stand 32 bytes apart. Texts are copied. The node is not started, and any number of recoveries may
/// follow one another. The members must fit into one block of the log, about 160 of them.
///
/// Returns DQLITE_MISUSE, and changes nothing, when the array is NULL or empty, when an element has a wrong size, role,
/// id or address, when an id or address occurs twice, or when the node was stopped. Returns DQLITE_ERROR when the
/// directory is in use by a running node or cannot be read or written; dqlite_node_errmsg() says why. Damaged entries
/// and a full disk are such reasons; the directory is then as it was.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_node_recover_ext(
    n: *mut dqlite_node,
    infos: *mut dqlite_node_info_ext,
    n_info: c_int,
) -> c_int {
    let body = |handle: &dqlite_node| {
        let count = usize::try_from(n_info).map_err(|_| Failure::misuse(NEGATIVE))?;
        // SAFETY: the contract asks for NULL or that many elements.
        recover(handle, unsafe { from_infos_ext(infos, count) })
    };
    // SAFETY: the contract asks for NULL or a node.
    unsafe { on_handle(n, body) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(id: u64, address: &std::ffi::CStr, role: u64) -> dqlite_node_info_ext {
        let address = u64::try_from(address.as_ptr().expose_provenance()).unwrap();
        dqlite_node_info_ext { size: 32, id, address, dqlite_role: role }
    }

    fn parse(infos: &[dqlite_node_info_ext]) -> Result<Configuration, Misuse> {
        // SAFETY: a slice with strings in it.
        unsafe { from_infos_ext(infos.as_ptr(), infos.len()) }
    }

    #[test]
    fn order_and_roles_are_kept() {
        let configuration = parse(&[info(3, c"c", 2), info(1, c"a", 0), info(2, c"b", 1)]).unwrap();
        let found: Vec<_> =
            configuration.servers.iter().map(|s| (s.id.0, s.address.as_str(), s.role)).collect();
        assert_eq!(found, [(3, "c", Role::Spare), (1, "a", Role::Voter), (2, "b", Role::StandBy)]);
    }

    #[test]
    fn faults_of_the_caller_are_found() {
        let good = info(1, c"a", 0);
        for bad in [info(0, c"b", 0), info(1, c"b", 0), info(2, c"a", 0), info(2, c"b", 3)] {
            assert_eq!(parse(&[good, bad]), Err(Misuse), "{bad:?}");
        }
        for size in [0, 31, 33, 8192, u64::MAX - 7] {
            assert_eq!(parse(&[dqlite_node_info_ext { size, ..good }]), Err(Misuse), "{size}");
        }
        assert_eq!(parse(&[dqlite_node_info_ext { address: 0, ..good }]), Err(Misuse));
        assert_eq!(parse(&[]), Err(Misuse));
        // SAFETY: NULL is allowed.
        assert_eq!(unsafe { from_infos_ext(std::ptr::null(), 1) }, Err(Misuse));
    }

    #[test]
    fn longer_form_must_end_in_zeros() {
        #[repr(C)]
        struct Longer(dqlite_node_info_ext, u64);
        for (last, expected) in [(0, true), (1, false)] {
            let longer = Longer(dqlite_node_info_ext { size: 40, ..info(1, c"a", 0) }, last);
            // SAFETY: one element, as long as it says.
            let result = unsafe { from_infos_ext((&raw const longer).cast(), 1) };
            assert_eq!(result.is_ok(), expected);
            assert_eq!(longer.1, last);
        }
    }
}
