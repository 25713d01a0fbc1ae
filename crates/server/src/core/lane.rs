//! The writer lane of one database: one writer at a time, the others in a fair queue with deadlines.
//!
//! The lane is held from the moment a writer is granted it until its write transaction has been captured or rolled
//! back, not until it is committed: the next writer runs while the first is being replicated.

use std::collections::VecDeque;

use super::ClientId;
use super::job::{RequestKind, Work};

/// Who writes and who waits.
#[derive(Debug, Default)]
pub(super) struct Lane {
    holder: Option<ClientId>,
    waiting: VecDeque<Waiter>,
}

/// A client whose next statement writes.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) client: ClientId,
    pub(super) kind: RequestKind,
    pub(super) work: Work,
    /// When it gets "database is locked" instead.
    pub(super) deadline_ms: u64,
}

impl Lane {
    /// Whether `client` may write now.
    pub(super) fn is_held_by(&self, client: ClientId) -> bool {
        self.holder == Some(client)
    }

    /// Whether a request that asks now would be granted at once, given that the window has room.
    pub(super) fn is_free(&self) -> bool {
        self.holder.is_none() && self.waiting.is_empty()
    }

    /// Who may write now.
    pub(super) fn holder(&self) -> Option<ClientId> {
        self.holder
    }

    /// How many wait.
    pub(super) fn waiting_len(&self) -> usize {
        self.waiting.len()
    }

    /// Joins the end of the queue.
    pub(super) fn wait(&mut self, waiter: Waiter) {
        self.waiting.push_back(waiter);
    }

    /// Whether the lane is free and somebody waits for it.
    pub(super) fn has_next(&self) -> bool {
        self.holder.is_none() && !self.waiting.is_empty()
    }

    /// Gives the free lane to the first in the queue.
    pub(super) fn grant_next(&mut self) -> Option<Waiter> {
        if self.holder.is_some() {
            return None;
        }
        let waiter = self.waiting.pop_front()?;
        self.holder = Some(waiter.client);
        Some(waiter)
    }

    /// Frees the lane if `client` holds it.
    pub(super) fn release(&mut self, client: ClientId) {
        if self.is_held_by(client) {
            self.holder = None;
        }
    }

    /// Takes `client` out of the queue.
    pub(super) fn withdraw(&mut self, client: ClientId) -> Option<Waiter> {
        let index = self.waiting.iter().position(|waiter| waiter.client == client)?;
        self.waiting.remove(index)
    }

    /// Takes out the first waiter whose deadline has come.
    pub(super) fn expire(&mut self, now_ms: u64) -> Option<Waiter> {
        let index = self.waiting.iter().position(|waiter| waiter.deadline_ms <= now_ms)?;
        self.waiting.remove(index)
    }

    /// The nearest deadline in the queue.
    pub(super) fn next_deadline_ms(&self) -> Option<u64> {
        self.waiting.iter().map(|waiter| waiter.deadline_ms).min()
    }

    /// Empties the lane: the generation it belonged to is over.
    pub(super) fn reset(&mut self) -> VecDeque<Waiter> {
        self.holder = None;
        std::mem::take(&mut self.waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiter(client: u64, deadline_ms: u64) -> Waiter {
        Waiter { client: ClientId(client), kind: RequestKind::Exec, work: Work::Continue, deadline_ms }
    }

    #[test]
    fn the_lane_goes_round_in_order_of_arrival() {
        let mut lane = Lane::default();
        assert!(lane.is_free());
        for client in 1..=3 {
            lane.wait(waiter(client, 100));
        }
        assert_eq!(lane.grant_next().unwrap().client, ClientId(1));
        assert!(lane.grant_next().is_none(), "held");
        lane.release(ClientId(2));
        assert!(lane.is_held_by(ClientId(1)), "only the holder can release");
        lane.release(ClientId(1));
        assert!(!lane.is_free(), "others wait");
        assert_eq!(lane.grant_next().unwrap().client, ClientId(2));
    }

    #[test]
    fn deadlines_and_withdrawals_leave_the_others_in_order() {
        let mut lane = Lane::default();
        lane.wait(waiter(1, 50));
        lane.wait(waiter(2, 10));
        lane.wait(waiter(3, 90));
        assert_eq!(lane.next_deadline_ms(), Some(10));
        assert!(lane.expire(9).is_none());
        assert_eq!(lane.expire(10).unwrap().client, ClientId(2));
        assert_eq!(lane.withdraw(ClientId(1)).unwrap().client, ClientId(1));
        assert_eq!(lane.reset().len(), 1);
        assert!(lane.is_free());
    }
}
