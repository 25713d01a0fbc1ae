//! One nonblocking stream socket, TCP or unix, and the queue of bytes on their way into it.
//!
//! Everything that is read or written on a socket goes through this file: `recv`, `send` and `sendmsg` with `MSG_NOSIGNAL`, never
//! `write`-like calls that would raise SIGPIPE in a host that does not ignore it.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use bytes::{Buf, Bytes};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, sockopt};

use crate::connector::check_stream;
use crate::registration::Readiness;

/// Chunks given to the kernel in one call.
const MAX_SLICES: usize = 64;
/// What one socket may send in one turn of the loop before others get their share.
const FLUSH_BUDGET: usize = 4 * 1024 * 1024;

/// Silence after which TCP asks whether the other side still lives, and how often it asks again. A client that is gone
/// may hold a transaction that others wait for.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(3);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_PROBES: u32 = 4;

/// How long sent bytes, or questions whether it lives, may stay unacknowledged before a connection counts as dead. With
/// the silence before the first question that makes eleven seconds.
pub(crate) const CLIENT_USER_TIMEOUT_MS: u32 = 10_000;
/// The same for a client whose receive window is closed: it may be alive and merely take its time over our rows. The
/// kernel cannot tell the two apart (it counts window probes in the same way), so patience must be longer here.
pub(crate) const SLOW_READER_USER_TIMEOUT_MS: u32 = 600_000;
/// The same for a peer: raft messages are small and frequent, and a fresh connection is cheap.
pub(crate) const PEER_USER_TIMEOUT_MS: u32 = 10_000;

/// A connected stream socket, nonblocking and close-on-exec.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    is_tcp: bool,
}

impl Socket {
    /// Takes a socket that this process accepted with the right flags.
    pub(crate) fn from_accepted(fd: OwnedFd, is_tcp: bool) -> Self {
        Self { fd, is_tcp }
    }

    /// Takes a descriptor from a connect function, which may be anything. What is not a connected stream socket of a
    /// known family is refused and closed.
    pub(crate) fn from_host(fd: OwnedFd) -> io::Result<Self> {
        check_stream(&fd)?;
        let is_tcp = sockopt::socket_domain(&fd)? != AddressFamily::UNIX;
        rustix::io::fcntl_setfd(&fd, rustix::io::fcntl_getfd(&fd)? | rustix::io::FdFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self { fd, is_tcp })
    }

    /// No Nagle delays, and dead peers are noticed within ten seconds or so. Unix sockets need neither.
    ///
    /// A kernel that refuses one of the options still gives a usable socket, so errors are not reported.
    pub(crate) fn tune(&self, user_timeout_ms: u32) {
        if !self.is_tcp {
            return;
        }
        let results = [
            sockopt::set_tcp_nodelay(&self.fd, true),
            sockopt::set_tcp_keepidle(&self.fd, KEEPALIVE_IDLE),
            sockopt::set_tcp_keepintvl(&self.fd, KEEPALIVE_INTERVAL),
            sockopt::set_tcp_keepcnt(&self.fd, KEEPALIVE_PROBES),
            sockopt::set_socket_keepalive(&self.fd, true),
        ];
        for error in results.into_iter().filter_map(Result::err) {
            tracing::debug!(%error, "socket option refused");
        }
        self.set_user_timeout(user_timeout_ms);
    }

    /// How long sent bytes may stay unacknowledged.
    pub(crate) fn set_user_timeout(&self, milliseconds: u32) {
        if self.is_tcp
            && let Err(error) = sockopt::set_tcp_user_timeout(&self.fd, milliseconds)
        {
            tracing::debug!(%error, "socket option refused");
        }
    }

    /// Reads what is there; 0 is the end of the stream.
    pub(crate) fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let (len, _) =
            rustix::io::retry_on_intr(|| rustix::net::recv(&self.fd, &mut *buffer, RecvFlags::empty()))?;
        Ok(len)
    }

    fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        let len = rustix::io::retry_on_intr(|| rustix::net::send(&self.fd, bytes, SendFlags::NOSIGNAL))?;
        Ok(len)
    }

    fn send_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let send = || {
            let mut nothing = SendAncillaryBuffer::default();
            rustix::net::sendmsg(&self.fd, slices, &mut nothing, SendFlags::NOSIGNAL)
        };
        Ok(rustix::io::retry_on_intr(send)?)
    }

    /// Ends the connection in both directions, whoever else holds a descriptor of it. One that has ended already stays so.
    pub(crate) fn shut_down(&self) {
        let _ = rustix::net::shutdown(&self.fd, rustix::net::Shutdown::Both);
    }

    /// For registration with the poll.
    pub(crate) fn raw(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whether there is something to read, by what the poll and the last read told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inlet {
    readable: bool,
    /// The poll has said that the other end sends no more: the end is there, behind what can be read.
    ending: bool,
}

impl Inlet {
    /// Of a socket that the poll has not spoken of.
    pub(crate) fn new() -> Self {
        Self { readable: true, ending: false }
    }

    /// Notes what the poll said.
    pub(crate) fn ready(&mut self, ready: Readiness) {
        self.readable |= ready.readable;
        self.ending |= ready.ending;
    }

    /// To be looked at again, whatever was told.
    pub(crate) fn look_again(&mut self) {
        self.readable = true;
    }

    /// Whether a read could bring anything now.
    pub(crate) fn is_readable(self) -> bool {
        self.readable
    }

    /// Reads what is there: `None` if that is nothing yet, 0 at the end of the stream.
    pub(crate) fn recv(&mut self, socket: &Socket, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match socket.recv(buffer) {
            Ok(len) => {
                // There was no more. What comes later is told by the poll, which has told of the end, too, if it was
                // there when the poll looked.
                self.readable = len == buffer.len() || self.ending;
                Ok(Some(len))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// How a flush ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flush {
    /// Everything is in the socket.
    Drained,
    /// The socket is full; an event follows when it is not.
    Blocked,
    /// The budget of this turn is used up; flush again.
    Unfinished,
}

/// Bytes on their way into a socket, in order.
#[derive(Debug, Default)]
pub(crate) struct SendQueue {
    chunks: VecDeque<Bytes>,
    len: usize,
}

impl SendQueue {
    /// Bytes not yet in the socket.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.len += bytes.len();
            self.chunks.push_back(bytes);
        }
    }

    /// Gives the socket as much as it takes, with as few calls as is sensible.
    ///
    /// Returns how many bytes went and why it ended. After an error the stream is broken.
    pub(crate) fn flush(&mut self, socket: &Socket) -> io::Result<(usize, Flush)> {
        let mut sent = 0;
        while !self.is_empty() {
            if sent >= FLUSH_BUDGET {
                return Ok((sent, Flush::Unfinished));
            }
            match self.send(socket) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(len) => {
                    self.advance(len);
                    sent += len;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok((sent, Flush::Blocked)),
                // The kernel is short of memory for a moment; the next turn tries again.
                Err(error) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => {
                    return Ok((sent, Flush::Unfinished));
                }
                Err(error) => return Err(error),
            }
        }
        // A queue that once was long must not keep its memory for the life of an idle connection.
        if self.chunks.capacity() > 64 {
            self.chunks = VecDeque::new();
        }
        Ok((sent, Flush::Drained))
    }

    fn send(&self, socket: &Socket) -> io::Result<usize> {
        if self.chunks.len() == 1 {
            return socket.send(&self.chunks[0]);
        }
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        for (slice, chunk) in slices.iter_mut().zip(&self.chunks) {
            *slice = IoSlice::new(chunk);
        }
        socket.send_vectored(&slices[..self.chunks.len().min(MAX_SLICES)])
    }

    fn advance(&mut self, mut len: usize) {
        self.len -= len;
        while len > 0 {
            let front = self.chunks.front_mut().expect("no more is sent than was queued");
            if len < front.len() {
                front.advance(len);
                return;
            }
            len -= front.len();
            self.chunks.pop_front();
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    /// Our end, and the other one as a plain blocking stream.
    pub(crate) fn pair() -> (Socket, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Socket::from_host(ours.into()).unwrap(), theirs)
    }

    #[test]
    fn chunks_arrive_in_order_whatever_their_sizes() {
        let (socket, mut peer) = pair();
        let mut queue = SendQueue::default();
        let mut expected = Vec::new();
        for round in 0..400_usize {
            let len = [1, 7, 300, 20_000, 0, 70_000][round % 6];
            let chunk = vec![u8::try_from(round % 251).unwrap(); len];
            expected.extend_from_slice(&chunk);
            queue.push(chunk.into());
        }
        let total = expected.len();
        assert_eq!(queue.len(), total);
        let reader = std::thread::spawn(move || {
            let mut received = vec![0; total];
            peer.read_exact(&mut received).unwrap();
            received
        });
        loop {
            match queue.flush(&socket).unwrap().1 {
                Flush::Drained => break,
                Flush::Blocked | Flush::Unfinished => std::thread::yield_now(),
            }
        }
        assert_eq!(reader.join().unwrap(), expected);
    }

    #[test]
    fn full_socket_blocks_and_broken_socket_is_an_error_without_a_signal() {
        let (socket, peer) = pair();
        let mut queue = SendQueue::default();
        queue.push(vec![1; 3 * 1024 * 1024].into());
        let (sent, flush) = queue.flush(&socket).unwrap();
        assert_eq!(flush, Flush::Blocked);
        assert_eq!(queue.len() + sent, 3 * 1024 * 1024);
        drop(peer);
        assert!(queue.flush(&socket).is_err());
    }

    #[test]
    fn descriptors_that_are_not_connected_streams_are_refused() {
        let null = std::fs::File::open("/dev/null").unwrap();
        assert!(Socket::from_host(null.into()).is_err());
        let datagram = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(Socket::from_host(datagram.into()).is_err());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(Socket::from_host(listener.into()).is_err());
    }
}
