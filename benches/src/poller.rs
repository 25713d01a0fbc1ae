//! Waits for sockets and for a moment, to the microsecond: what epoll alone rounds to milliseconds a timer descriptor does.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

const TIMER: u64 = u64::MAX;
const EVENTS: usize = 256;

/// Edge-triggered: who is woken reads and writes until it would block.
#[derive(Debug)]
pub(crate) struct Poller {
    epoll: OwnedFd,
    timer: OwnedFd,
    armed: Option<Instant>,
}

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &timer, EventData::new_u64(TIMER), EventFlags::IN | EventFlags::ET)?;
        Ok(Self { epoll, timer, armed: None })
    }

    /// Reports the socket as `token` whenever there is more to read or to write. Closing it takes it out.
    pub(crate) fn add(&self, socket: impl AsFd, token: usize) -> io::Result<()> {
        let interest = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        Ok(epoll::add(&self.epoll, socket, EventData::new_u64(token as u64), interest)?)
    }

    /// Puts the tokens of the sockets that are ready into `ready`; returns at `until` at the latest.
    pub(crate) fn wait(&mut self, until: Option<Instant>, ready: &mut Vec<usize>) -> io::Result<()> {
        ready.clear();
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let at_once = left.is_some_and(|left| left.is_zero());
        if let Some(left) = left
            && !at_once
            && self.armed != until
        {
            self.arm(left)?;
            self.armed = until;
        }
        let none = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut space = [const { MaybeUninit::<Event>::uninit() }; EVENTS];
        let events = match epoll::wait(&self.epoll, &mut space[..], at_once.then_some(&none)) {
            Ok((events, _)) => events,
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        for event in events {
            // Copied out: the struct is packed.
            match { event.data }.u64() {
                TIMER => self.armed = None,
                token => ready.push(usize::try_from(token).expect("it was a usize")),
            }
        }
        Ok(())
    }

    fn arm(&self, left: Duration) -> io::Result<()> {
        let value = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }
}

/// What a non-blocking call did, a would-block being nothing.
pub(crate) fn unless_blocked(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_at_the_moment_and_not_before() {
        let mut poller = Poller::new().unwrap();
        let mut ready = Vec::new();
        for wait in [Duration::from_micros(300), Duration::from_millis(3), Duration::ZERO] {
            let until = Instant::now() + wait;
            while Instant::now() < until {
                poller.wait(Some(until), &mut ready).unwrap();
                assert!(ready.is_empty());
            }
            assert!(Instant::now() < until + Duration::from_secs(5));
        }
    }
}
