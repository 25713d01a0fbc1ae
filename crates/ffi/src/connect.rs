//! A connect function of the host as a connector of the server.

use std::ffi::{CString, c_char, c_int, c_void};
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use server::connector::Connect;
use server::{Blocked, SignalMask};

pub(crate) type ConnectFunction = unsafe extern "C" fn(*mut c_void, *const c_char, *mut c_int) -> c_int;

#[derive(Debug)]
pub(crate) struct HostConnector {
    function: ConnectFunction,
    argument: *mut c_void,
    /// Of the host's thread. Ours blocks nearly everything, which a program that the function starts would inherit.
    mask: SignalMask,
}

// SAFETY: the contract of `dqlite_connect_func` says that it is called on any thread, with the argument as it is.
unsafe impl Send for HostConnector {}
// SAFETY: the same contract says that calls run concurrently.
unsafe impl Sync for HostConnector {}

impl HostConnector {
    pub(crate) fn new(function: ConnectFunction, argument: *mut c_void) -> Self {
        Self { function, argument, mask: SignalMask::current() }
    }
}

impl Connect for HostConnector {
    fn connect(&self, address: &str) -> io::Result<OwnedFd> {
        let address = CString::new(address)?;
        let mut fd: c_int = -1;
        let restored = Blocked::restored(self.mask);
        // SAFETY: the host gave function and argument for this; the address and the place for the descriptor live until
        // it returns.
        let result = unsafe { (self.function)(self.argument, address.as_ptr(), &raw mut fd) };
        drop(restored);
        if result != 0 {
            return Err(io::Error::other(format!("the host's connect function returned {result}")));
        }
        // A descriptor that is not open would be somebody else's by the time it is closed.
        // SAFETY: F_GETFD takes any number.
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } == -1 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: open, and the contract passes ownership to us.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::IntoRawFd;
    use std::os::unix::net::UnixStream;

    unsafe extern "C" fn answer(argument: *mut c_void, _address: *const c_char, fd: *mut c_int) -> c_int {
        // SAFETY: the tests pass a pair.
        let (result, descriptor) = unsafe { argument.cast::<(c_int, c_int)>().read() };
        // SAFETY: the caller lends a place.
        unsafe { fd.write(descriptor) };
        result
    }

    fn connect(mut pair: (c_int, c_int)) -> io::Result<OwnedFd> {
        HostConnector::new(answer, (&raw mut pair).cast()).connect("1")
    }

    #[test]
    fn failures_and_dead_descriptors_are_errors() {
        assert!(connect((16, 0)).is_err(), "the descriptor of a failure is not touched");
        assert!(connect((0, -1)).is_err());
        assert!(connect((0, 1_000_000)).is_err());
    }

    #[test]
    fn descriptor_is_taken_over() {
        let (given, mut other) = UnixStream::pair().unwrap();
        drop(connect((0, given.into_raw_fd())).unwrap());
        assert_eq!(other.read(&mut [0]).unwrap(), 0, "end of file, since nobody holds the other end");
    }
}
