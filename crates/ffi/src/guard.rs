//! The wall between Rust and C: no panic crosses it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use server::Blocked;

/// Runs `body`; if it panics, the C function returns `on_panic` and the host goes on.
///
/// Neither does a signal that a write of ours causes on the host's thread.
///
/// What the body was changing may be half changed. Behind every handle stands a node that checks its own state, and a
/// host that gets an error destroys it.
pub(crate) fn guard<T>(on_panic: T, body: impl FnOnce() -> T) -> T {
    let _blocked = Blocked::of_writes();
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(value) => value,
        Err(payload) => {
            // A payload is anything, also something whose drop panics.
            drop(catch_unwind(AssertUnwindSafe(|| drop(payload))));
            on_panic
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panic_becomes_the_given_value() {
        assert_eq!(guard(1, || 0), 0);
        assert_eq!(guard(1, || panic!("expected by the test")), 1);
    }
}
