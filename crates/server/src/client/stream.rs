//! The client's socket, and when a call on it has to be over.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::net::AddressFamily;

use crate::connector::check_stream;

/// When a call has to be over; `None` lies beyond what the clock can tell.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline(Option<Instant>);

impl Deadline {
    pub(super) fn after(timeout: Duration) -> Self {
        Self(Instant::now().checked_add(timeout))
    }

    pub(super) fn remaining(self) -> Option<Duration> {
        self.0.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    pub(super) fn is_over(self) -> bool {
        self.remaining() == Some(Duration::ZERO)
    }

    /// As the option of a socket, where zero would mean for ever.
    fn socket_timeout(self) -> io::Result<Option<Duration>> {
        match self.remaining() {
            Some(Duration::ZERO) => Err(io::ErrorKind::TimedOut.into()),
            other => Ok(other),
        }
    }
}

/// A connected socket; each call on it has a deadline.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        check_stream(&socket)?;
        if rustix::net::sockopt::socket_domain(&socket)? == AddressFamily::UNIX {
            return Ok(Self::Unix(socket.into()));
        }
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        Ok(Self::Tcp(stream))
    }

    pub(super) fn read_before(&mut self, deadline: Deadline, buffer: &mut [u8]) -> io::Result<usize> {
        retry(|| {
            let timeout = deadline.socket_timeout()?;
            match self {
                Self::Tcp(stream) => stream.set_read_timeout(timeout).and_then(|()| stream.read(buffer)),
                Self::Unix(stream) => stream.set_read_timeout(timeout).and_then(|()| stream.read(buffer)),
            }
        })
    }

    pub(super) fn write_before(&mut self, deadline: Deadline, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = retry(|| {
                let timeout = deadline.socket_timeout()?;
                match self {
                    Self::Tcp(stream) => stream.set_write_timeout(timeout).and_then(|()| stream.write(bytes)),
                    Self::Unix(stream) => {
                        stream.set_write_timeout(timeout).and_then(|()| stream.write(bytes))
                    }
                }
            })?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            bytes = &bytes[written..];
        }
        Ok(())
    }
}

/// Repeats what a signal interrupted, and calls the end of a socket's patience a time-out.
fn retry<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match attempt() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            other => return other,
        }
    }
}
