//! Addresses as dqlite writes them, and the listening socket made from one.
//!
//! | form | meaning |
//! |---|---|
//! | `@name` | abstract Unix socket; `@` alone lets the kernel choose the name |
//! | `[host]:port` | IPv6 (or IPv4) literal; the port is required, empty means 0 |
//! | contains a dot | IPv4 literal, optionally `:port` after the first colon |
//! | anything else | IPv6 (or IPv4) literal, port 8080 |
//!
//! Literals are read as `getaddrinfo` with `AI_NUMERICHOST | AI_NUMERICSERV` reads them, odd IPv4 spellings included:
//! hosts have been configured with what it accepts. Names are never looked up here.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Port of an address that names none.
pub const DEFAULT_PORT: u16 = 8080;
/// Longest abstract name, without the `@`. Linux takes one byte more, C dqlite never did.
pub const MAX_ABSTRACT_NAME_LEN: usize = 106;
/// Connections the kernel queues before they are accepted.
pub const LISTEN_BACKLOG: i32 = 128;

/// Why an address cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// It does not follow the syntax.
    #[error("invalid address {0:?}")]
    Invalid(String),
    /// The system refused it.
    #[error("{op} {address:?}")]
    Io {
        /// The call that failed.
        op: &'static str,
        /// The address as given.
        address: String,
        /// What the system said.
        source: io::Error,
    },
}

/// An address after parsing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// Name in the abstract namespace; empty when the kernel shall choose one.
    Abstract(Vec<u8>),
    /// TCP.
    Inet(SocketAddr),
}

impl Address {
    /// Reads an address by the rules on top of this file.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let invalid = || AddressError::Invalid(text.to_owned());
        if let Some(name) = text.strip_prefix('@') {
            if name.len() > MAX_ABSTRACT_NAME_LEN {
                return Err(invalid());
            }
            return Ok(Self::Abstract(name.as_bytes().to_vec()));
        }
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, rest) = rest.split_once(']').ok_or_else(invalid)?;
            (host, Some(rest.strip_prefix(':').ok_or_else(invalid)?))
        } else if text.contains('.') {
            text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)))
        } else {
            (text, None)
        };
        let port = match port {
            None => DEFAULT_PORT,
            Some(port) => parse_port(port).ok_or_else(invalid)?,
        };
        parse_host(host, port).map(Self::Inet).ok_or_else(invalid)
    }
}

/// A decimal number, possibly with a plus sign or empty (0). libc takes larger ones without their upper bits, and so a port
/// that nobody meant; here they are refused.
fn parse_port(text: &str) -> Option<u16> {
    let digits = text.strip_prefix('+').unwrap_or(text);
    if digits.is_empty() {
        return text.is_empty().then_some(0);
    }
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

fn parse_host(host: &str, port: u16) -> Option<SocketAddr> {
    if let Some(address) = parse_ipv4(host) {
        return Some(SocketAddr::new(IpAddr::V4(address), port));
    }
    let (literal, scope) =
        host.split_once('%').map_or((host, None), |(literal, scope)| (literal, Some(scope)));
    let address: Ipv6Addr = literal.parse().ok()?;
    let scope = match scope {
        None => 0,
        Some(scope) => parse_scope(scope, &address)?,
    };
    Some(SocketAddr::V6(SocketAddrV6::new(address, port, 0, scope)))
}

/// One to four numbers, each decimal, octal (`0`) or hexadecimal (`0x`); the last fills what is left of the address.
fn parse_ipv4(text: &str) -> Option<Ipv4Addr> {
    let parts: Vec<&str> = text.split('.').collect();
    let (last, leading) = parts.split_last()?;
    if leading.len() > 3 {
        return None;
    }
    let mut address: u32 = 0;
    let mut free_bits: u32 = 32;
    for part in leading {
        free_bits -= 8;
        address |= u32::from(u8::try_from(parse_ipv4_part(part)?).ok()?) << free_bits;
    }
    let last = parse_ipv4_part(last)?;
    if u64::from(last) >> free_bits != 0 {
        return None;
    }
    Some(Ipv4Addr::from(address | last))
}

fn parse_ipv4_part(text: &str) -> Option<u32> {
    let (digits, radix) =
        if let Some(hexadecimal) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
            (hexadecimal, 16)
        } else if text.len() > 1 && text.starts_with('0') {
            (&text[1..], 8)
        } else {
            (text, 10)
        };
    // `from_str_radix` would take a sign.
    if !digits.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return None;
    }
    u32::from_str_radix(digits, radix).ok()
}

/// The interface of a link-local address, by name or number; others take numbers only.
fn parse_scope(scope: &str, address: &Ipv6Addr) -> Option<u32> {
    if address.is_unicast_link_local() || (address.segments()[0] & 0xff0f) == 0xff02 {
        let socket =
            rustix::net::socket_with(AddressFamily::INET6, SocketType::DGRAM, SocketFlags::CLOEXEC, None);
        if let Some(index) =
            socket.ok().and_then(|socket| rustix::net::netdevice::name_to_index(&socket, scope).ok())
        {
            return Some(index);
        }
    }
    if !scope.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    scope.parse().ok()
}

/// A socket that is bound and does not listen yet. Dropping it frees the address.
#[derive(Debug)]
pub struct BoundSocket {
    socket: OwnedFd,
    address: String,
    is_abstract: bool,
}

impl BoundSocket {
    /// Parses the address, makes a close-on-exec stream socket and binds it.
    pub fn bind(address: &str) -> Result<Self, AddressError> {
        let parsed = Address::parse(address)?;
        let failed = |op| {
            move |source: rustix::io::Errno| AddressError::Io {
                op,
                address: address.to_owned(),
                source: source.into(),
            }
        };
        let make = |family| rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None);
        match parsed {
            Address::Inet(inet) => {
                let family = if inet.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
                let socket = make(family).map_err(failed("socket"))?;
                // A restarted host must get its port back while old connections linger.
                rustix::net::sockopt::set_socket_reuseaddr(&socket, true).map_err(failed("setsockopt"))?;
                rustix::net::bind(&socket, &inet).map_err(failed("bind"))?;
                Ok(Self { socket, address: address.to_owned(), is_abstract: false })
            }
            Address::Abstract(name) => {
                let unix = if name.is_empty() {
                    SocketAddrUnix::new_unnamed()
                } else {
                    SocketAddrUnix::new_abstract_name(&name).map_err(failed("bind"))?
                };
                let socket = make(AddressFamily::UNIX).map_err(failed("socket"))?;
                rustix::net::bind(&socket, &unix).map_err(failed("bind"))?;
                let bound = rustix::net::getsockname(&socket)
                    .and_then(SocketAddrUnix::try_from)
                    .map_err(failed("getsockname"))?;
                let name = bound.abstract_name().unwrap_or_default();
                let name =
                    std::str::from_utf8(name).map_err(|_| AddressError::Invalid(address.to_owned()))?;
                Ok(Self { socket, address: format!("@{name}"), is_abstract: true })
            }
        }
    }

    /// The address as the host gave it; the name the kernel chose when it was asked to.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Whether connections must come from this process, see [`is_same_process`].
    #[must_use]
    pub fn is_abstract(&self) -> bool {
        self.is_abstract
    }

    /// Starts to listen. Fails when another socket listens on the same port.
    pub fn listen(&self) -> io::Result<()> {
        Ok(rustix::net::listen(&self.socket, LISTEN_BACKLOG)?)
    }

    /// The socket itself, in blocking mode.
    #[must_use]
    pub fn into_socket(self) -> OwnedFd {
        self.socket
    }
}

impl AsFd for BoundSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Whether the other end of an accepted Unix connection belongs to this process, whichever thread it is.
///
/// Abstract sockets have no file permissions; this rule keeps other users of the machine out.
#[must_use]
pub fn is_same_process(connection: impl AsFd) -> bool {
    rustix::net::sockopt::socket_peercred(connection)
        .is_ok_and(|credentials| credentials.pid == rustix::process::getpid())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener, UnixStream};

    fn inet(text: &str) -> String {
        match Address::parse(text) {
            Ok(Address::Inet(address)) => address.to_string(),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn accepted_forms() {
        for (text, meaning) in [
            ("127.0.0.1:9100", "127.0.0.1:9100"),
            ("127.0.0.1", "127.0.0.1:8080"),
            ("127.0.0.1:", "127.0.0.1:0"),
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("127.0.0.1:65535", "127.0.0.1:65535"),
            ("127.0.0.1:+9114", "127.0.0.1:9114"),
            ("127.0.0.1:09115", "127.0.0.1:9115"),
            ("::1", "[::1]:8080"),
            ("[::1]:9102", "[::1]:9102"),
            ("[::1]:", "[::1]:0"),
            ("[127.0.0.1]:9104", "127.0.0.1:9104"),
            ("1", "0.0.0.1:8080"),
            ("2130706433", "127.0.0.1:8080"),
            ("0.0.0.0:9107", "0.0.0.0:9107"),
            ("::", "[::]:8080"),
            ("[::]:9108", "[::]:9108"),
            ("127.1:9109", "127.0.0.1:9109"),
            ("0x7f.1:9", "127.0.0.1:9"),
            ("0177.0.0.01:9", "127.0.0.1:9"),
            ("1.2.3.4:9110", "1.2.3.4:9110"),
            ("[::ffff:127.0.0.1]:1", "[::ffff:127.0.0.1]:1"),
            ("fe80::1%4", "[fe80::1%4]:8080"),
            ("fe80::1%lo", "[fe80::1%1]:8080"),
            ("[2001:db8::1%7]:1", "[2001:db8::1%7]:1"),
            // The whole text is one IPv6 literal; only bind refuses it.
            ("::1:9105", "[::1:9105]:8080"),
        ] {
            assert_eq!(inet(text), meaning, "{text}");
        }
    }

    #[test]
    fn refused_forms() {
        for text in [
            "",
            "[::1]",
            "[::1",
            "[]:9103",
            "[::1]9:1",
            ":9106",
            "127.0.0.1:http",
            "127.0.0.1:65536",
            "127.0.0.1:99999",
            "127.0.0.1:18446744073709551617",
            "[::1]:65536",
            "127.0.0.1:-1",
            "127.0.0.1:+",
            "127.0.0.1:++1",
            "127.0.0.1:0x50",
            "127.0.0.1:9112 ",
            " 127.0.0.1:9113",
            "localhost",
            "localhost:9101",
            "local.host:80",
            "::ffff:127.0.0.1",
            "1.2.3.4.5:1",
            "256.0.0.1:1",
            "1.2.3.256:1",
            "1.2.65536:1",
            "4294967296",
            "1..2:1",
            "+1.2.3.4:1",
            "0x.1:1",
            "08.1:1",
            "2001:db8::1%lo",
            "fe80::1%",
            "fe80::1%no-such-interface",
        ] {
            assert!(matches!(Address::parse(text), Err(AddressError::Invalid(_))), "{text}");
        }
    }

    #[test]
    fn abstract_names() {
        assert_eq!(Address::parse("@").unwrap(), Address::Abstract(Vec::new()));
        assert_eq!(Address::parse("@abc def").unwrap(), Address::Abstract(b"abc def".to_vec()));
        assert!(Address::parse(&format!("@{}", "x".repeat(106))).is_ok());
        assert!(Address::parse(&format!("@{}", "x".repeat(107))).is_err());
    }

    #[test]
    fn addresses_that_are_not_ours_cannot_be_bound() {
        for text in ["1", "::1:9105", "1.2.3.4:9110"] {
            assert!(matches!(BoundSocket::bind(text), Err(AddressError::Io { op: "bind", .. })), "{text}");
        }
    }

    #[test]
    fn tcp_socket_listens_only_when_told_to_and_keeps_the_text() {
        let bound = BoundSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(bound.address(), "127.0.0.1:0");
        assert!(!bound.is_abstract());
        let flags = rustix::io::fcntl_getfd(&bound).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        let port = match rustix::net::getsockname(&bound).unwrap().try_into() {
            Ok(SocketAddr::V4(address)) => address.port(),
            other => panic!("{other:?}"),
        };
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
        bound.listen().unwrap();
        TcpStream::connect(("127.0.0.1", port)).unwrap();
    }

    #[test]
    fn two_sockets_may_bind_a_port_but_only_one_may_listen() {
        let first = BoundSocket::bind("127.0.0.1:0").unwrap();
        let address: SocketAddr = rustix::net::getsockname(&first).unwrap().try_into().unwrap();
        let second = BoundSocket::bind(&address.to_string()).unwrap();
        first.listen().unwrap();
        assert!(second.listen().is_err());
        assert!(BoundSocket::bind(&address.to_string()).is_err(), "somebody listens there now");
    }

    #[test]
    fn dropping_the_socket_frees_the_address() {
        let first = BoundSocket::bind("@").unwrap();
        let address = first.address().to_owned();
        assert!(BoundSocket::bind(&address).is_err());
        drop(first);
        BoundSocket::bind(&address).unwrap();
    }

    #[test]
    fn kernel_chooses_a_name_and_peers_of_this_process_are_recognised() {
        let bound = BoundSocket::bind("@").unwrap();
        let address = bound.address().to_owned();
        assert_eq!(address.len(), 6, "{address}");
        assert!(bound.is_abstract());
        bound.listen().unwrap();
        let listener = UnixListener::from(bound.into_socket());
        let name = UnixAddr::from_abstract_name(&address.as_bytes()[1..]).unwrap();
        let client = std::thread::spawn(move || UnixStream::connect_addr(&name).unwrap());
        let (accepted, _) = listener.accept().unwrap();
        assert!(is_same_process(&accepted));
        drop(client.join().unwrap());
    }

    #[test]
    fn tcp_connections_have_no_process() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(!is_same_process(&client));
    }
}
