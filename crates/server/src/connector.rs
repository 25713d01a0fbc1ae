//! Outgoing connections: who makes them, and what is said first on them.
//!
//! The host may supply its own connector (go-dqlite does, for TLS); otherwise [`TcpConnector`] is used. Both block, so
//! they are called on threads of their own.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use crossbeam_channel::RecvTimeoutError;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use wire_protocol::{NodeId, PeerAnnouncement, Protocol, Request};

use crate::address::{Address, DEFAULT_PORT};
use crate::threads;

/// Makes connections to other nodes.
pub trait Connect: Send + Sync {
    /// Blocks until connected or failed. The socket is a connected stream in blocking mode; it now belongs to the caller.
    ///
    /// Called from several threads at once, also with the node's own address.
    fn connect(&self, address: &str) -> io::Result<OwnedFd>;

    /// No connection is needed any more: calls under way, and later ones, had better fail soon. Who cannot do that does
    /// nothing; then a call may still be under way when its node is gone, see `crate::dialer`.
    fn cancel(&self) {}
}

/// Longest time [`TcpConnector`] spends on one address, all results of a name lookup together.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a call under way looks whether it was cancelled.
const CANCEL_INTERVAL: Duration = Duration::from_millis(50);

/// The connector of hosts that supply none: TCP to IPv4 and IPv6 literals and names, and abstract Unix sockets, which
/// only nodes of the same process accept.
#[derive(Debug)]
pub struct TcpConnector {
    timeout: Duration,
    cancelled: AtomicBool,
}

impl Default for TcpConnector {
    fn default() -> Self {
        Self::new(CONNECT_TIMEOUT)
    }
}

impl TcpConnector {
    /// A connector that gives up after `timeout`.
    #[must_use]
    pub fn new(timeout: Duration) -> Self {
        Self { timeout, cancelled: AtomicBool::new(false) }
    }
}

impl Connect for TcpConnector {
    fn connect(&self, address: &str) -> io::Result<OwnedFd> {
        let patience =
            Patience { deadline: Instant::now().checked_add(self.timeout), cancelled: &self.cancelled };
        match Address::parse(address) {
            Ok(Address::Abstract(name)) => {
                Ok(UnixStream::connect_addr(&UnixAddr::from_abstract_name(name)?)?.into())
            }
            Ok(Address::Inet(inet)) => connect_inet(inet, &patience),
            // Neither are names.
            Err(error) if address.starts_with(['@', '[']) => {
                Err(io::Error::new(io::ErrorKind::InvalidInput, error.to_string()))
            }
            Err(_) => connect_first(resolve(address, &patience)?, &patience),
        }
    }

    fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}

/// How long to wait, and for whom.
struct Patience<'a> {
    /// None lies beyond what the clock can tell.
    deadline: Option<Instant>,
    cancelled: &'a AtomicBool,
}

impl Patience<'_> {
    /// How long to wait before looking again.
    fn slice(&self) -> io::Result<Duration> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "the node is stopping"));
        }
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        match left {
            Some(Duration::ZERO) => Err(io::ErrorKind::TimedOut.into()),
            Some(left) => Ok(left.min(CANCEL_INTERVAL)),
            None => Ok(CANCEL_INTERVAL),
        }
    }
}

fn connect_first(candidates: Vec<SocketAddr>, patience: &Patience<'_>) -> io::Result<OwnedFd> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for candidate in candidates {
        match connect_inet(candidate, patience) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn connect_inet(address: SocketAddr, patience: &Patience<'_>) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) => {}
        // An interrupted attempt goes on like one of a non-blocking socket.
        Err(Errno::INPROGRESS | Errno::INTR) => loop {
            let slice = Timespec::try_from(patience.slice()?).map_err(|_| io::ErrorKind::InvalidInput)?;
            match rustix::event::poll(&mut [PollFd::new(&socket, PollFlags::OUT)], Some(&slice)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => break rustix::net::sockopt::socket_error(&socket)??,
                Err(error) => return Err(error.into()),
            }
        },
        Err(error) => return Err(error.into()),
    }
    rustix::io::ioctl_fionbio(&socket, false)?;
    Ok(socket)
}

/// Looks up `name` or `name:port`. The system's resolver may take as long as it likes, so it runs on a thread that is
/// left to itself when patience is over; it holds nothing of ours.
fn resolve(address: &str, patience: &Patience<'_>) -> io::Result<Vec<SocketAddr>> {
    let (sender, receiver) = crossbeam_channel::bounded(1);
    let address = address.to_owned();
    threads::spawn("dqlite-resolve", move || {
        let result = match address.contains(':') {
            true => address.to_socket_addrs(),
            false => (address.as_str(), DEFAULT_PORT).to_socket_addrs(),
        };
        // Nobody may be waiting any more.
        let _ = sender.send(result.map(Iterator::collect));
    })?;
    loop {
        match receiver.recv_timeout(patience.slice()?) {
            Ok(result) => return result,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(io::Error::other("the resolver's thread has ended"));
            }
        }
    }
}

/// Refuses what no node can live on: anything but a connected stream socket of a known family.
pub fn check_stream(socket: impl AsFd) -> io::Result<()> {
    let wrong = |what| io::Error::new(io::ErrorKind::InvalidInput, what);
    if rustix::net::sockopt::socket_type(&socket)? != SocketType::STREAM {
        return Err(wrong("not a stream socket"));
    }
    let family = rustix::net::sockopt::socket_domain(&socket)?;
    if ![AddressFamily::INET, AddressFamily::INET6, AddressFamily::UNIX].contains(&family) {
        return Err(wrong("neither a TCP nor a Unix socket"));
    }
    rustix::net::getpeername(&socket)?;
    Ok(())
}

/// What a node writes first on a raft stream it opened: the handshake, then a CONNECT request, in which it may say
/// something of itself that C nodes do not read. No answer follows; from here on the stream carries raft messages, in
/// this direction only.
#[must_use]
pub fn opening(id: NodeId, address: &str, announcement: Option<PeerAnnouncement>) -> Bytes {
    let mut bytes = BytesMut::new();
    Protocol::Current.encode(&mut bytes);
    Request::Connect { id, address: address.to_owned(), announcement }.encode(&mut bytes);
    bytes.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::BoundSocket;
    use std::net::TcpListener;

    #[test]
    fn the_opening_of_a_node_that_says_nothing_is_that_of_a_c_node() {
        let expected: Vec<u8> =
            [1_u64, 2 | (11 << 32), 1, u64::from(b'1')].iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(opening(NodeId(1), "1", None), expected);
    }

    #[test]
    fn what_a_node_says_of_itself_stands_behind_what_c_reads() {
        let announcement = PeerAnnouncement { election_timeout_ms: Some(3000), ..Default::default() };
        let bytes = opening(NodeId(2), "12345678", Some(announcement));
        assert_eq!(bytes.len(), 40 + 5 * 8);
        assert_eq!(bytes[8..12], 8_u32.to_le_bytes());
        let plain = opening(NodeId(2), "12345678", None);
        assert_eq!(bytes[12..40], plain[12..]);
    }

    #[test]
    fn connects_to_literals_and_names() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        for address in
            [format!("127.0.0.1:{port}"), format!("[127.0.0.1]:{port}"), format!("localhost:{port}")]
        {
            let socket = TcpConnector::default().connect(&address).unwrap();
            check_stream(&socket).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            assert_eq!(
                accepted.peer_addr().unwrap(),
                rustix::net::getsockname(&socket).unwrap().try_into().unwrap()
            );
        }
    }

    #[test]
    fn connects_to_ipv6() {
        let Ok(listener) = TcpListener::bind("[::1]:0") else {
            eprintln!("SKIPPED: no IPv6 loopback on this machine");
            assert!(std::env::var_os("DQLITE_TESTS_REQUIRE_ALL").is_none(), "required, but there is no IPv6");
            return;
        };
        let address = listener.local_addr().unwrap().to_string();
        let socket = TcpConnector::default().connect(&address).unwrap();
        let flags = rustix::io::fcntl_getfd(&socket).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        assert!(!rustix::fs::fcntl_getfl(&socket).unwrap().contains(rustix::fs::OFlags::NONBLOCK));
    }

    #[test]
    fn cancelled_calls_end_soon() {
        // A listener whose queue is full: the kernel leaves further attempts without an answer.
        let bound = BoundSocket::bind("127.0.0.1:0").unwrap();
        rustix::net::listen(&bound, 0).unwrap();
        let address: SocketAddr = rustix::net::getsockname(&bound).unwrap().try_into().unwrap();
        let impatient = TcpConnector::new(Duration::from_millis(200));
        let text = address.to_string();
        let mut queued = Vec::new();
        while let Ok(socket) = impatient.connect(&text) {
            queued.push(socket);
            assert!(queued.len() < 100, "the queue never fills");
        }
        let connector = std::sync::Arc::new(TcpConnector::new(Duration::from_secs(600)));
        let calling = std::sync::Arc::clone(&connector);
        let thread = std::thread::spawn(move || calling.connect(&text).unwrap_err());
        std::thread::sleep(Duration::from_millis(100));
        connector.cancel();
        assert!(thread.join().unwrap().to_string().contains("stopping"));
        assert!(connector.connect(&address.to_string()).is_err(), "nor do later ones begin");
    }

    #[test]
    fn connects_to_abstract_sockets() {
        let bound = BoundSocket::bind("@").unwrap();
        bound.listen().unwrap();
        check_stream(TcpConnector::default().connect(bound.address()).unwrap()).unwrap();
    }

    #[test]
    fn refused_connections_and_nonsense_are_errors() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        for address in [free.as_str(), "", ":", "[", "127.0.0.1:http x", "@no-such-name-anywhere"] {
            assert!(TcpConnector::default().connect(address).is_err(), "{address}");
        }
    }

    #[test]
    fn only_connected_streams_pass() {
        let (left, _right) = UnixStream::pair().unwrap();
        check_stream(&left).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(check_stream(&listener).is_err(), "not connected");
        let datagram = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(check_stream(&datagram).is_err());
        let null = std::fs::File::open("/dev/null").unwrap();
        assert!(check_stream(&null).is_err());
    }
}
