//! The eight locks of a wal-index.
//!
//! A slot is free, held exclusively by one handle, or shared by some. Nothing ever waits: what cannot be had at once is
//! busy. The table knows counts only; each handle knows which slots it holds.

/// Locks of a wal-index.
pub(crate) const LOCKS: usize = 8;
pub(crate) const WRITE: usize = 0;
pub(crate) const CHECKPOINT: usize = 1;
/// READ(0), the slot of readers that ignore the WAL; READ(1) to READ(4) follow.
pub(crate) const READ0: usize = 3;

/// Bit of a slot in a handle's masks.
pub(crate) fn bit(slot: usize) -> u8 {
    1 << slot
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Free,
    Exclusive,
    Shared(u32),
}

/// State of all slots.
pub(crate) struct LockTable([Slot; LOCKS]);

impl LockTable {
    pub(crate) fn new() -> Self {
        Self([Slot::Free; LOCKS])
    }

    pub(crate) fn is_free(&self, slot: usize) -> bool {
        self.0[slot] == Slot::Free
    }

    /// Takes all slots of the range exclusively, or none.
    pub(crate) fn lock_exclusive(&mut self, first: usize, count: usize) -> bool {
        let range = &mut self.0[first..first + count];
        if range.iter().any(|slot| *slot != Slot::Free) {
            return false;
        }
        range.fill(Slot::Exclusive);
        true
    }

    /// Adds a sharer; returns how many there are now.
    pub(crate) fn lock_shared(&mut self, slot: usize) -> Option<u32> {
        let count = match self.0[slot] {
            Slot::Exclusive => return None,
            Slot::Free => 1,
            Slot::Shared(count) => count + 1,
        };
        self.0[slot] = Slot::Shared(count);
        Some(count)
    }

    /// Gives one exclusive hold back.
    pub(crate) fn unlock_exclusive(&mut self, slot: usize) {
        debug_assert_eq!(self.0[slot], Slot::Exclusive);
        self.0[slot] = Slot::Free;
    }

    /// Gives one share back.
    pub(crate) fn unlock_shared(&mut self, slot: usize) {
        match self.0[slot] {
            Slot::Shared(count) if count > 1 => self.0[slot] = Slot::Shared(count - 1),
            Slot::Shared(_) => self.0[slot] = Slot::Free,
            Slot::Free | Slot::Exclusive => debug_assert!(false, "unlock of a slot that is not shared"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_and_exclusive_exclude_each_other() {
        let mut locks = LockTable::new();
        assert_eq!(locks.lock_shared(3), Some(1));
        assert_eq!(locks.lock_shared(3), Some(2));
        assert!(!locks.lock_exclusive(2, 3));
        assert!(locks.is_free(2) && locks.is_free(4), "a range is taken whole or not at all");
        locks.unlock_shared(3);
        locks.unlock_shared(3);
        assert!(locks.lock_exclusive(2, 3));
        assert_eq!(locks.lock_shared(3), None);
        locks.unlock_exclusive(3);
        assert!(locks.is_free(3));
    }
}
