//! A network that is late: forwards TCP connections, every byte a fixed time after it came. One thread for all.
//!
//! `tc netem` would do the same in a network namespace, where the kernel has it. The time is the same for all bytes, so
//! one queue in order of arrival is in order of departure as well.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};

use crate::poller::{Poller, unless_blocked};

const READ_LEN: usize = 256 * 1024;
/// A direction that holds more is read no further until its receiver takes some.
const MAX_HELD_LEN: usize = 16 << 20;
const STOP: usize = 0;

/// Where connections come in and where they go.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) listen: String,
    pub(crate) forward: String,
}

/// Runs until it is dropped.
#[derive(Debug)]
pub(crate) struct DelayedNetwork {
    stop: Arc<AtomicBool>,
    wake: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl DelayedNetwork {
    pub(crate) fn start(routes: &[Route], delay: Duration) -> Result<Self, String> {
        let failed = |error: io::Error| format!("delayed network: {error}");
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| failed(error.into()))?;
        let stop = Arc::new(AtomicBool::new(false));
        let mut forwarder = Forwarder::new(delay).map_err(failed)?;
        forwarder.poller.add(&wake, STOP).map_err(failed)?;
        for route in routes {
            forwarder.listen(route).map_err(failed)?;
        }
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                if let Err(error) = forwarder.turn() {
                    eprintln!("delayed network: {error}");
                    return;
                }
            }
        });
        Ok(Self { stop, wake, thread: Some(thread) })
    }
}

impl Drop for DelayedNetwork {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Neither can fail in a way that matters: the thread ends, or has ended.
        let _ = rustix::io::write(&self.wake, &1_u64.to_le_bytes());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// One end of a forwarded connection.
#[derive(Debug)]
struct End {
    stream: TcpStream,
    peer: usize,
    /// Due, not yet written.
    output: VecDeque<u8>,
    /// Read from here and still on the way or in the peer's output.
    held: usize,
    /// Reading stopped at [`MAX_HELD_LEN`]; readiness will not be reported again.
    paused: bool,
    /// The peer has said all.
    finished: bool,
}

#[derive(Debug)]
struct Forwarder {
    delay: Duration,
    poller: Poller,
    listeners: BTreeMap<usize, (TcpListener, String)>,
    ends: BTreeMap<usize, End>,
    next_token: usize,
    /// When, to whom, what; an empty piece is the end of the stream.
    on_the_way: VecDeque<(Instant, usize, Vec<u8>)>,
    scratch: Vec<u8>,
}

impl Forwarder {
    fn new(delay: Duration) -> io::Result<Self> {
        Ok(Self {
            delay,
            poller: Poller::new()?,
            listeners: BTreeMap::new(),
            ends: BTreeMap::new(),
            next_token: STOP + 1,
            on_the_way: VecDeque::new(),
            scratch: vec![0; READ_LEN],
        })
    }

    fn listen(&mut self, route: &Route) -> io::Result<()> {
        let listener = TcpListener::bind(&route.listen)?;
        listener.set_nonblocking(true)?;
        let token = self.add(&listener)?;
        self.listeners.insert(token, (listener, route.forward.clone()));
        Ok(())
    }

    fn add(&mut self, socket: impl AsFd) -> io::Result<usize> {
        let token = self.next_token;
        self.next_token += 1;
        self.poller.add(socket, token)?;
        Ok(token)
    }

    fn turn(&mut self) -> io::Result<()> {
        let mut ready = Vec::new();
        self.poller.wait(self.on_the_way.front().map(|(due, ..)| *due), &mut ready)?;
        for token in ready {
            if self.listeners.contains_key(&token) {
                self.accept(token)?;
            } else {
                self.read(token);
                self.write(token);
            }
        }
        let now = Instant::now();
        while let Some((_, token, bytes)) = self.on_the_way.pop_front_if(|(due, ..)| *due <= now) {
            if let Some(end) = self.ends.get_mut(&token) {
                end.finished |= bytes.is_empty();
                end.output.extend(bytes);
            }
            self.write(token);
        }
        Ok(())
    }

    fn accept(&mut self, token: usize) -> io::Result<()> {
        while let Some((listener, forward)) = self.listeners.get(&token) {
            let incoming = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            // Nobody listens there: the caller sees its connection close.
            let Ok(outgoing) = TcpStream::connect(forward) else { continue };
            for stream in [&incoming, &outgoing] {
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
            }
            let (first, second) = (self.add(&incoming)?, self.add(&outgoing)?);
            for (stream, token, peer) in [(incoming, first, second), (outgoing, second, first)] {
                let end =
                    End { stream, peer, output: VecDeque::new(), held: 0, paused: false, finished: false };
                self.ends.insert(token, end);
            }
        }
        Ok(())
    }

    fn read(&mut self, token: usize) {
        while let Some(end) = self.ends.get_mut(&token) {
            if end.held > MAX_HELD_LEN {
                end.paused = true;
                return;
            }
            let read = match unless_blocked(end.stream.read(&mut self.scratch)) {
                Ok(Some(read)) => read,
                Ok(None) => return,
                // A broken stream ends as well.
                Err(_) => 0,
            };
            end.held += read;
            let due = Instant::now() + self.delay;
            self.on_the_way.push_back((due, end.peer, self.scratch[..read].to_vec()));
            // Not at a short read: the end of the stream may have been reported together with its last bytes.
            if read == 0 {
                return;
            }
        }
    }

    fn write(&mut self, token: usize) {
        let mut taken = 0;
        let Some(end) = self.ends.get_mut(&token) else { return };
        let peer = end.peer;
        let mut broken = false;
        while !end.output.is_empty() {
            let (front, _) = end.output.as_slices();
            match unless_blocked(end.stream.write(front)) {
                Ok(Some(written)) => {
                    end.output.drain(..written);
                    taken += written;
                }
                Ok(None) => break,
                Err(_) => {
                    broken = true;
                    break;
                }
            }
        }
        if broken {
            self.close(token, peer);
            return;
        }
        if end.finished && end.output.is_empty() {
            // It may be closed already.
            let _ = end.stream.shutdown(Shutdown::Write);
            let both = self.ends.get(&peer).is_none_or(|other| other.finished && other.output.is_empty());
            if both {
                self.close(token, peer);
                return;
            }
        }
        if let Some(source) = self.ends.get_mut(&peer) {
            source.held -= taken;
            if source.paused && source.held <= MAX_HELD_LEN {
                source.paused = false;
                self.read(peer);
            }
        }
    }

    fn close(&mut self, token: usize, peer: usize) {
        self.ends.remove(&token);
        self.ends.remove(&peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address() -> String {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
    }

    #[test]
    fn bytes_arrive_late_and_whole_and_the_end_after_them() {
        let (listen, forward) = (address(), address());
        let target = TcpListener::bind(&forward).unwrap();
        let delay = Duration::from_millis(20);
        let _network = DelayedNetwork::start(&[Route { listen: listen.clone(), forward }], delay).unwrap();
        let mut client = TcpStream::connect(listen).unwrap();
        let (mut server, _) = target.accept().unwrap();
        let sent: Vec<u8> = (0..=u8::MAX).cycle().take(1 << 20).collect();
        let started = Instant::now();
        let mut received = Vec::new();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                client.write_all(&sent).unwrap();
                client.shutdown(Shutdown::Write).unwrap();
            });
            server.read_to_end(&mut received).unwrap();
        });
        assert!(started.elapsed() >= delay, "{:?}", started.elapsed());
        assert!(received == sent, "other bytes arrived");
        server.write_all(b"answer").unwrap();
        drop(server);
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "answer");
    }
}
