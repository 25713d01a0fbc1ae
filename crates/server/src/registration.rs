//! The poll of the loop: what is registered with it, under which tokens.
//!
//! Registration is edge-triggered for both directions; each socket remembers what it was told. Tokens are never reused,
//! so an event for an unknown one is late and ignored.

use std::io;
use std::os::fd::RawFd;

use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Interest, Poll, Registry, Token};

use crate::listener::Listener;
use crate::wake::Notifier;

/// Of the notifier.
pub(crate) const WAKE: u64 = 0;
/// Of the listening socket.
pub(crate) const LISTENER: u64 = 1;
const FIRST_SOCKET: u64 = 2;

/// Source of tokens.
#[derive(Debug)]
pub(crate) struct Tokens {
    next: u64,
}

impl Tokens {
    pub(crate) fn new() -> Self {
        Self { next: FIRST_SOCKET }
    }

    /// A token that was never given out.
    pub(crate) fn next(&mut self) -> u64 {
        let token = self.next;
        self.next += 1;
        token
    }
}

/// What the poll said of a socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Readiness {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// The other end sends no more.
    pub(crate) ending: bool,
    /// The socket is of no more use.
    pub(crate) gone: bool,
}

impl From<&Event> for Readiness {
    fn from(event: &Event) -> Self {
        // After an error or a hang-up both directions tell what is wrong when they are tried.
        let gone = event.is_error() || event.is_write_closed();
        let ending = event.is_read_closed() || gone;
        Self { readable: event.is_readable() || ending, writable: event.is_writable() || gone, ending, gone }
    }
}

fn token(number: u64) -> io::Result<Token> {
    usize::try_from(number).map(Token).map_err(io::Error::other)
}

/// Announces a socket to the poll, for everything: which of it is looked at is the socket's business.
pub(crate) fn register(registry: &Registry, fd: RawFd, number: u64) -> io::Result<()> {
    registry.register(&mut SourceFd(&fd), token(number)?, Interest::READABLE | Interest::WRITABLE)
}

/// Takes a socket back from the poll, before it is closed.
pub(crate) fn deregister(registry: &Registry, fd: RawFd) {
    if let Err(error) = registry.deregister(&mut SourceFd(&fd)) {
        tracing::debug!(%error, "deregistering a socket failed");
    }
}

/// The poll with what it wakes up for besides sockets.
pub(crate) fn new_poll(listener: &Listener) -> io::Result<(Poll, Notifier)> {
    let poll = Poll::new()?;
    let notifier = Notifier::new(poll.registry(), token(WAKE)?)?;
    register(poll.registry(), listener.raw(), LISTENER)?;
    Ok((poll, notifier))
}
