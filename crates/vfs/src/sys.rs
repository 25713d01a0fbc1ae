//! Calls to the operating system.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

/// Fills `buffer` from the kernel's generator; leaves zeros where that fails.
pub(crate) fn fill_random(buffer: &mut [u8]) {
    let mut done = 0;
    while done < buffer.len() {
        let rest = &mut buffer[done..];
        // SAFETY: the pointer and the length describe `rest`, which is writable.
        let count = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match usize::try_from(count) {
            Ok(count) if count > 0 => done += count,
            _ if std::io::Error::last_os_error().kind() == std::io::ErrorKind::Interrupted => {}
            _ => return,
        }
    }
}

/// Gives memory that is free, but kept by the C allocator for later, back to the system; of threads' own heaps not what
/// is free at their ends. Takes milliseconds for a large heap, in which other threads may wait for it. Only glibc can do
/// this; others keep little.
pub fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: has no requirements; it locks each part of the heap while it looks at it.
    unsafe {
        libc::malloc_trim(0)
    };
}

/// Bytes that SQLite holds in this process for everybody, the host included; 0 if it was told not to count.
#[must_use]
pub fn sqlite_memory_bytes() -> u64 {
    // SAFETY: may be called at any time, from any thread unless SQLite runs in single-thread mode.
    let bytes = unsafe { libsqlite3_sys::sqlite3_memory_used() };
    u64::try_from(bytes).unwrap_or(0)
}

/// Time since the machine was booted, suspension included. Through the C library: others look for the kernel's page of
/// functions themselves, and crash where that is hidden, as under valgrind.
#[must_use]
pub fn boot_time() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a place to write to. Linux has had this clock since 2.6.39, so it cannot fail.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) };
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// `WORDS` words on pages of their own, zero at first, that can be shared with C code by address.
pub(crate) struct ZeroedPages<const WORDS: usize>(NonNull<[AtomicU32; WORDS]>);

// SAFETY: the words are atomic and owned by this object alone.
unsafe impl<const WORDS: usize> Send for ZeroedPages<WORDS> {}
// SAFETY: as above.
unsafe impl<const WORDS: usize> Sync for ZeroedPages<WORDS> {}

impl<const WORDS: usize> ZeroedPages<WORDS> {
    /// Alignment that suits madvise on systems with pages of 4 KiB; elsewhere it refuses, which only costs memory.
    const LAYOUT: Layout = match Layout::new::<[AtomicU32; WORDS]>().align_to(4096) {
        Ok(layout) if layout.size() > 0 => layout,
        _ => panic!("a few pages are a possible layout"),
    };

    pub(crate) fn new() -> Self {
        // SAFETY: the layout is not empty.
        let memory = unsafe { alloc_zeroed(Self::LAYOUT) };
        let Some(memory) = NonNull::new(memory) else { handle_alloc_error(Self::LAYOUT) };
        Self(memory.cast())
    }

    pub(crate) fn words(&self) -> &[AtomicU32; WORDS] {
        // SAFETY: allocated in `new` with at least this layout; all zeros are atomics of value zero.
        unsafe { self.0.as_ref() }
    }

    /// Gives the memory back to the system if it can be; the words are zero until they are written again. Callers have
    /// no use for the values any more.
    pub(crate) fn clear(&self) {
        let start = self.0.as_ptr().cast();
        // SAFETY: the range is private memory of this allocation. Every access to it is atomic or C's, so that it may
        // change behind a reference.
        unsafe { libc::madvise(start, Self::LAYOUT.size(), libc::MADV_DONTNEED) };
    }
}

impl<const WORDS: usize> Drop for ZeroedPages<WORDS> {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout, and nobody can have a reference any more.
        unsafe { dealloc(self.0.as_ptr().cast(), Self::LAYOUT) };
    }
}
