//! The listening socket: who gets in.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::net::{Shutdown, SocketFlags};

use crate::address::{BoundSocket, is_same_process};
use crate::core::limits::RESERVED_DESCRIPTORS;
use crate::socket::Socket;

/// Connections accepted in one turn of the loop before others get their share.
const ACCEPT_BUDGET: usize = 64;
/// Pause after the process or the system ran out of descriptors or memory, milliseconds.
const PAUSE_MS: u64 = 100;

/// Accepts connections.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: OwnedFd,
    is_abstract: bool,
    /// There may be more to accept.
    ready: bool,
    /// No attempt before this time.
    paused_until_ms: Option<u64>,
}

impl Drop for Listener {
    /// To close the descriptor is not enough: a child that the host has forked holds the same socket, which would go on
    /// listening, keep the port, and take connections that nobody accepts.
    fn drop(&mut self) {
        // Fails for a socket that does not listen, which holds no port that matters.
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
    }
}

impl Listener {
    /// Takes a socket that listens already.
    pub(crate) fn new(bound: BoundSocket) -> io::Result<Self> {
        let is_abstract = bound.is_abstract();
        let socket = bound.into_socket();
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self { socket, is_abstract, ready: true, paused_until_ms: None })
    }

    /// For registration with the poll.
    pub(crate) fn raw(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Notes what the poll said.
    pub(crate) fn ready(&mut self) {
        self.ready = true;
    }

    /// When [`Self::accept`] is wanted without an event, if it is.
    pub(crate) fn deadline_ms(&self) -> Option<u64> {
        self.ready.then(|| self.paused_until_ms.unwrap_or(0))
    }

    /// Hands over what waits, within the budget of a turn.
    pub(crate) fn accept(&mut self, now_ms: u64, mut sink: impl FnMut(Socket)) {
        if !self.ready || self.paused_until_ms.is_some_and(|until| now_ms < until) {
            return;
        }
        self.paused_until_ms = None;
        let first_reserved = first_reserved_descriptor();
        for _ in 0..ACCEPT_BUDGET {
            match rustix::net::accept_with(&self.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(fd) if self.is_abstract && !is_same_process(&fd) => {
                    tracing::warn!("a connection from another process to an abstract socket was refused");
                }
                Ok(fd) if fd.as_raw_fd() >= first_reserved => {
                    tracing::warn!(
                        "a connection was refused: the process is about to run out of descriptors"
                    );
                }
                Ok(fd) => sink(Socket::from_accepted(fd, !self.is_abstract)),
                Err(Errno::WOULDBLOCK) => {
                    self.ready = false;
                    return;
                }
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                    // The connection stays in the backlog and no further event announces it.
                    tracing::warn!("no descriptor or memory for a new connection; trying again soon");
                    self.paused_until_ms = Some(now_ms + PAUSE_MS);
                    return;
                }
                // The connection was gone before it was accepted.
                Err(error) => tracing::debug!(%error, "accept"),
            }
        }
    }
}

/// Descriptors from here on are not given to connections, but left to the log, to peers and to the host. The kernel gives
/// out the lowest free number, so one this high means that the process has hardly any left.
fn first_reserved_descriptor() -> RawFd {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let limit = limit.and_then(|limit| RawFd::try_from(limit).ok()).unwrap_or(RawFd::MAX);
    limit - RESERVED_DESCRIPTORS.min(limit / 4)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixStream};

    use super::*;

    fn accept(listener: &mut Listener) -> Vec<Socket> {
        let mut accepted = Vec::new();
        for _ in 0..200 {
            listener.ready();
            listener.accept(0, |socket| accepted.push(socket));
            if !accepted.is_empty() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        accepted
    }

    #[test]
    fn accepts_within_its_budget_and_remembers_the_rest() {
        let bound = BoundSocket::bind("127.0.0.1:0").unwrap();
        bound.listen().unwrap();
        let address = rustix::net::getsockname(&bound).unwrap();
        let address = std::net::SocketAddr::try_from(address).unwrap();
        let mut listener = Listener::new(bound).unwrap();
        let clients: Vec<_> = (0..ACCEPT_BUDGET + 10).map(|_| TcpStream::connect(address).unwrap()).collect();
        let mut accepted = Vec::new();
        listener.accept(0, |socket| accepted.push(socket));
        assert_eq!(accepted.len(), ACCEPT_BUDGET);
        assert_eq!(listener.deadline_ms(), Some(0), "there is more");
        listener.accept(0, |socket| accepted.push(socket));
        assert_eq!(accepted.len(), clients.len());
        assert_eq!(listener.deadline_ms(), None);
        let flags = rustix::io::fcntl_getfd(&accepted[0]).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        assert!(rustix::fs::fcntl_getfl(&accepted[0]).unwrap().contains(rustix::fs::OFlags::NONBLOCK));
    }

    #[test]
    fn the_port_does_not_stay_with_other_descriptors_of_the_socket() {
        for address in ["127.0.0.1:0", "@"] {
            let bound = BoundSocket::bind(address).unwrap();
            bound.listen().unwrap();
            let listener = Listener::new(bound).unwrap();
            let name = rustix::net::getsockname(&listener.socket).unwrap();
            // As a forked child has one.
            let inherited = listener.socket.try_clone().unwrap();
            drop(listener);
            if let Ok(inet) = std::net::SocketAddr::try_from(name) {
                assert!(TcpStream::connect(inet).is_err());
                BoundSocket::bind(&inet.to_string()).unwrap().listen().unwrap();
            }
            assert!(rustix::net::accept(&inherited).is_err(), "it does not listen any more");
        }
    }

    #[test]
    fn own_process_may_use_an_abstract_socket() {
        let bound = BoundSocket::bind("@").unwrap();
        bound.listen().unwrap();
        let name = SocketAddr::from_abstract_name(&bound.address().as_bytes()[1..]).unwrap();
        let mut listener = Listener::new(bound).unwrap();
        let _client = UnixStream::connect_addr(&name).unwrap();
        assert_eq!(accept(&mut listener).len(), 1);
    }
}
