//! Signals that must not reach a host through this library: masks of single threads, never handlers of the process.
//!
//! The kernel sends `SIGXFSZ` to the thread whose write goes beyond the process's limit for the size of a file, and
//! `SIGPIPE` to the one that writes into a closed pipe; both end a process that expects neither. While they are blocked
//! the write returns `EFBIG` or `EPIPE`, which the caller handles anyway. Signals that are meant for the whole process go
//! to any thread that does not block them; a host whose main loop waits for `SIGTERM` in `pause` would sleep on if one of
//! our threads took it.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr;

/// What the kernel sends to the thread that caused it. Blocked, they would end the process without its handler.
const OF_FAULTS: [libc::c_int; 7] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGSYS, libc::SIGABRT];
/// What profilers send to every thread.
const OF_PROFILERS: [libc::c_int; 2] = [libc::SIGPROF, libc::SIGVTALRM];
/// What a failed write sends to the thread that made it.
const OF_WRITES: [libc::c_int; 2] = [libc::SIGXFSZ, libc::SIGPIPE];

/// A set of signals.
#[derive(Clone, Copy)]
pub struct SignalMask(libc::sigset_t);

impl std::fmt::Debug for SignalMask {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let blocked: Vec<libc::c_int> =
            (1..=libc::SIGRTMAX()).filter(|signal| self.contains(*signal)).collect();
        formatter.debug_tuple("SignalMask").field(&blocked).finish()
    }
}

impl SignalMask {
    fn empty() -> Self {
        let mut set = MaybeUninit::uninit();
        // SAFETY: a set to write to.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        // SAFETY: sigemptyset has initialised it; it cannot fail.
        Self(unsafe { set.assume_init() })
    }

    fn of(signals: &[libc::c_int]) -> Self {
        let mut set = Self::empty();
        for signal in signals {
            // SAFETY: an initialised set, and the number of a signal.
            unsafe { libc::sigaddset(&raw mut set.0, *signal) };
        }
        set
    }

    /// Everything but what faults and profilers send. The C library keeps those that it needs itself out of such a set.
    fn of_others() -> Self {
        let mut set = Self::empty();
        // SAFETY: an initialised set.
        unsafe { libc::sigfillset(&raw mut set.0) };
        for signal in OF_FAULTS.iter().chain(&OF_PROFILERS) {
            // SAFETY: an initialised set, and the number of a signal.
            unsafe { libc::sigdelset(&raw mut set.0, *signal) };
        }
        set
    }

    /// What the calling thread blocks.
    #[must_use]
    pub fn current() -> Self {
        let mut set = Self::empty();
        // SAFETY: without a new set nothing is changed, and the old one is written to `set`.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, ptr::null(), &raw mut set.0) };
        set
    }

    fn pending() -> Self {
        let mut set = Self::empty();
        // SAFETY: a set to write to.
        unsafe { libc::sigpending(&raw mut set.0) };
        set
    }

    fn contains(&self, signal: libc::c_int) -> bool {
        // SAFETY: an initialised set; a number that is no signal gives -1.
        unsafe { libc::sigismember(&raw const self.0, signal) == 1 }
    }

    /// Changes the mask of the calling thread; returns what it was.
    fn apply(self, how: libc::c_int) -> Self {
        let mut before = Self::empty();
        // SAFETY: two initialised sets and one of the three ways to use the first.
        unsafe { libc::pthread_sigmask(how, &raw const self.0, &raw mut before.0) };
        before
    }
}

/// A changed mask of the thread that made it, which gets its own back in the end.
#[derive(Debug)]
#[must_use = "dropped at once it changes nothing"]
pub struct Blocked {
    before: SignalMask,
    /// What was pending before, and is none of our business.
    pending_before: SignalMask,
    /// A mask belongs to its thread.
    _not_send: PhantomData<*const ()>,
}

impl Blocked {
    /// Blocks what failed writes send, for work on a thread of the host. One that came meanwhile is taken away in the end.
    pub fn of_writes() -> Self {
        let before = SignalMask::of(&OF_WRITES).apply(libc::SIG_BLOCK);
        Self { before, pending_before: SignalMask::pending(), _not_send: PhantomData }
    }

    /// Blocks all signals that no thread of this library has a use for. Threads that are started meanwhile inherit that
    /// from their first instruction on, and never get their maker's mask back.
    pub fn all() -> Self {
        let before = SignalMask::of_others().apply(libc::SIG_BLOCK);
        // Nothing is written meanwhile, so nothing has to be taken away.
        let pending_before = SignalMask::of(&OF_WRITES);
        Self { before, pending_before, _not_send: PhantomData }
    }

    /// Goes back to an earlier mask, for code of the host on a thread of this library: what it starts would inherit ours.
    pub fn restored(mask: SignalMask) -> Self {
        let before = mask.apply(libc::SIG_SETMASK);
        Self { before, pending_before: SignalMask::of(&OF_WRITES), _not_send: PhantomData }
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        let none = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        for signal in OF_WRITES {
            if !self.pending_before.contains(signal) && SignalMask::pending().contains(signal) {
                let set = SignalMask::of(&[signal]);
                // SAFETY: an initialised set, nothing to be told about the signal, and a time that is over at once.
                unsafe { libc::sigtimedwait(&raw const set.0, ptr::null_mut(), &raw const none) };
            }
        }
        self.before.apply(libc::SIG_SETMASK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raise(signal: libc::c_int) {
        // SAFETY: has no requirements; the signal is blocked.
        assert_eq!(unsafe { libc::raise(signal) }, 0);
    }

    #[test]
    fn what_a_write_sends_is_taken_away_and_the_mask_is_as_before() {
        let mask = |signal| SignalMask::current().contains(signal);
        assert!(!mask(libc::SIGXFSZ));
        {
            let _blocked = Blocked::of_writes();
            assert!(mask(libc::SIGXFSZ) && mask(libc::SIGPIPE) && !mask(libc::SIGTERM));
            // Unless it is taken away this ends the process.
            raise(libc::SIGXFSZ);
        }
        assert!(!mask(libc::SIGXFSZ));
        assert!(!SignalMask::pending().contains(libc::SIGXFSZ));
    }

    #[test]
    fn what_was_pending_before_stays_the_hosts() {
        let _host = SignalMask::of(&[libc::SIGPIPE]).apply(libc::SIG_BLOCK);
        raise(libc::SIGPIPE);
        drop(Blocked::of_writes());
        assert!(SignalMask::pending().contains(libc::SIGPIPE));
    }

    #[test]
    fn threads_inherit_the_mask_and_their_maker_gets_its_own_back() {
        let own = format!("{:?}", SignalMask::current());
        let thread = {
            let _blocked = Blocked::all();
            std::thread::spawn(|| {
                let mask = SignalMask::current();
                for signal in [libc::SIGTERM, libc::SIGXFSZ, libc::SIGPIPE, libc::SIGURG, libc::SIGCHLD] {
                    assert!(mask.contains(signal), "{signal}");
                }
                for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGPROF] {
                    assert!(!mask.contains(signal), "{signal}");
                }
            })
        };
        thread.join().unwrap();
        assert_eq!(format!("{:?}", SignalMask::current()), own);
    }
}
