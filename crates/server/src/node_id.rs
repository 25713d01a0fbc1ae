//! Node ids that nobody had to hand out.
//!
//! An id is the tail of SHA-1(address, clock). Its only uniqueness is that of the clock and the address, which is what
//! clusters have always been built on; go-dqlite's bootstrap id is the case ("1", 0).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use sha1::{Digest, Sha1};

/// The id that go-dqlite gives to the first node; like id 1 it may bootstrap a cluster.
pub const BOOTSTRAP_ID: u64 = 0x2dc1_7185_8c31_55be;

/// Last eight bytes, little endian, of SHA-1 over the address and the little-endian number.
#[must_use]
pub fn digest(address: &[u8], nanoseconds: u64) -> u64 {
    let mut hasher = Sha1::new();
    hasher.update(address);
    hasher.update(nanoseconds.to_le_bytes());
    let hash: [u8; 20] = hasher.finalize().into();
    let (_, tail) = hash.split_last_chunk().expect("a SHA-1 digest is longer than eight bytes");
    u64::from_le_bytes(*tail)
}

/// A new id for a node with this address. Never 0, and never twice the same number within a process.
#[must_use]
pub fn generate_node_id(address: &[u8]) -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let now = u64::try_from(now).unwrap_or(0);
    loop {
        // A clock that stands still or runs backwards must not give the same number again.
        let last = LAST.load(Ordering::Relaxed);
        let next = now.max(last.wrapping_add(1));
        if LAST.compare_exchange(last, next, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            continue;
        }
        match digest(address, next) {
            0 => {}
            id => return id,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_of_one_and_zero_is_the_bootstrap_id() {
        assert_eq!(digest(b"1", 0), BOOTSTRAP_ID);
    }

    #[test]
    fn ids_differ_from_call_to_call_and_thread_to_thread() {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                std::thread::spawn(|| {
                    (0..1000).map(|_| generate_node_id(b"127.0.0.1:9000")).collect::<Vec<_>>()
                })
            })
            .collect();
        let mut ids: Vec<u64> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 4000);
        assert!(!ids.contains(&0));
    }
}
