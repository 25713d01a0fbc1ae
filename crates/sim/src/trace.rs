//! What happened, as a hash for all and as text for those who want to read it.
//!
//! Every event of a run goes through [`Trace::event`]. Equal hashes mean equal runs.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

/// Whether events are kept or printed besides being hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Hashed only.
    Hash,
    /// The last ones are kept.
    Keep(usize),
    /// All are printed.
    Print,
}

/// The last events, for whoever wants them after a panic.
#[derive(Clone, Debug, Default)]
pub struct Kept(Rc<RefCell<VecDeque<String>>>);

impl Kept {
    /// Takes them out, oldest first.
    #[must_use]
    pub fn take(&self) -> Vec<String> {
        self.0.take().into()
    }
}

/// The record of a run.
#[derive(Debug)]
pub(crate) struct Trace {
    detail: Detail,
    hash: u64,
    events: u64,
    kept: Kept,
}

impl Trace {
    /// An empty record.
    #[must_use]
    pub(crate) fn new(detail: Detail) -> Self {
        Self { detail, hash: 0xcbf2_9ce4_8422_2325, events: 0, kept: Kept::default() }
    }

    /// Notes an event: when (microseconds), where (0 for the world itself), what, and two numbers that say more. The
    /// text is made only for readers, so it must not matter.
    pub(crate) fn event(
        &mut self,
        now_us: u64,
        node: u64,
        what: &'static str,
        numbers: [u64; 2],
        text: impl FnOnce() -> String,
    ) {
        self.events += 1;
        let name = hash_bytes(0, what.as_bytes());
        for number in [now_us, node, name, numbers[0], numbers[1]] {
            self.hash = mix(self.hash, number);
        }
        if self.detail == Detail::Hash {
            return;
        }
        let place = if node == 0 { "world".to_owned() } else { format!("node {node}") };
        let seconds = now_us / 1_000_000;
        let micros = now_us % 1_000_000;
        let line = format!("{seconds:>4}.{micros:06} {place:<7} {what} {}", text());
        match self.detail {
            Detail::Keep(limit) => {
                let mut kept = self.kept.0.borrow_mut();
                if kept.len() >= limit {
                    kept.pop_front();
                }
                kept.push_back(line);
            }
            Detail::Print => println!("{line}"),
            Detail::Hash => {}
        }
    }

    /// Hash of everything so far.
    #[must_use]
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// Number of events so far.
    #[must_use]
    pub(crate) fn events(&self) -> u64 {
        self.events
    }

    /// The last events, now and later.
    #[must_use]
    pub(crate) fn kept(&self) -> Kept {
        self.kept.clone()
    }
}

/// Stirs a number into a hash.
#[must_use]
pub(crate) fn mix(hash: u64, number: u64) -> u64 {
    let mixed = (hash ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}

/// Hash of bytes; quick, not cryptographic.
#[must_use]
pub(crate) fn hash_bytes(seed: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut lanes = [seed, seed ^ 0x51, seed ^ 0xa2, seed ^ 0xf3];
    let (quads, single) = words.as_chunks::<4>();
    for quad in quads {
        for (lane, word) in lanes.iter_mut().zip(quad) {
            *lane = mix(*lane, u64::from_le_bytes(*word));
        }
    }
    let mut hash = lanes.iter().fold(bytes.len() as u64, |hash, lane| mix(hash, *lane));
    for word in single {
        hash = mix(hash, u64::from_le_bytes(*word));
    }
    for byte in rest {
        hash = mix(hash, u64::from(*byte));
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_and_every_event_matters() {
        let bytes: Vec<u8> = (0..100).collect();
        let hash = hash_bytes(1, &bytes);
        for place in 0..bytes.len() {
            let mut other = bytes.clone();
            other[place] ^= 1;
            assert_ne!(hash_bytes(1, &other), hash, "{place}");
        }
        let mut first = Trace::new(Detail::Hash);
        let mut second = Trace::new(Detail::Keep(1));
        for trace in [&mut first, &mut second] {
            trace.event(1, 1, "a", [1, 2], String::new);
            trace.event(2, 1, "b", [1, 2], || "text".to_owned());
        }
        assert_eq!(first.hash(), second.hash());
        assert_eq!(second.kept().take().len(), 1);
        first.event(3, 1, "c", [0, 0], String::new);
        assert_ne!(first.hash(), second.hash());
    }
}
