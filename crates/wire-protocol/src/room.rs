//! Memory for bytes whose number a client or a peer decides. Where there is none that is an answer, not the end of the
//! process, which belongs to somebody else.

use bytes::{Bytes, BytesMut};

use crate::error::OutOfMemory;

/// Up to this length a buffer grows like any other: so little is always there, or nothing is.
const SMALL_LEN: usize = 64 * 1024;

/// Makes room for `additional` bytes. A buffer that has to grow grows to at most twice its length, for as many of the bytes
/// `expected` to follow as that allows: what was only announced is not reserved. Nothing changes on an error.
///
/// # Errors
/// When the allocator has no such block.
pub fn try_reserve(buffer: &mut BytesMut, additional: usize, expected: usize) -> Result<(), OutOfMemory> {
    let len = buffer.len();
    if buffer.capacity() - len >= additional {
        return Ok(());
    }
    let refused = || OutOfMemory { len: len.saturating_add(additional) };
    let needed = len.checked_add(additional).ok_or_else(refused)?;
    if needed <= SMALL_LEN {
        // May use the front of its block again.
        buffer.reserve(additional);
        return Ok(());
    }
    // A `BytesMut` can only grow or abort. Its block goes to a `Vec` and comes back, neither of which copies it, unless it is
    // shared with what was split off; then what is left in it is small.
    let mut block = Vec::from(std::mem::take(buffer));
    let reserved = block.try_reserve_exact(additional.max(expected.min(len)));
    let reserved = reserved.or_else(|_| block.try_reserve_exact(additional)).map_err(|_| refused());
    *buffer = BytesMut::from(Bytes::from(block));
    reserved
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_bounded_by_what_is_there_and_by_what_is_to_come() {
        let mut buffer = BytesMut::new();
        buffer.extend_from_slice(&[7; 100_000]);
        try_reserve(&mut buffer, 1, usize::MAX).unwrap();
        assert!((200_000..=201_000).contains(&buffer.capacity()), "{}", buffer.capacity());
        let mut buffer = BytesMut::from(&[7; 100_000][..]);
        try_reserve(&mut buffer, 1, 50).unwrap();
        assert!(buffer.capacity() <= 100_100, "{}", buffer.capacity());
        assert!(buffer.iter().all(|byte| *byte == 7));
    }

    #[test]
    fn what_cannot_be_had_is_an_error_and_changes_nothing() {
        for shared in [false, true] {
            let mut buffer = BytesMut::from(&[7; 100_000][..]);
            let front = shared.then(|| buffer.split_to(10));
            let before = buffer.clone();
            for additional in [isize::MAX as usize, usize::MAX, usize::MAX - 99_000] {
                let error = try_reserve(&mut buffer, additional, 0).unwrap_err();
                assert!(error.len > isize::MAX as usize);
                assert_eq!(buffer, before);
            }
            assert_eq!(front.map_or(10, |front| front.len()), 10);
        }
    }

    #[test]
    fn the_block_of_a_large_buffer_is_not_copied_when_it_only_has_to_have_room() {
        let mut buffer = BytesMut::with_capacity(1 << 20);
        buffer.extend_from_slice(&[1; 1 << 19]);
        let before = buffer.as_ptr();
        try_reserve(&mut buffer, 1 << 19, 0).unwrap();
        assert_eq!(buffer.as_ptr(), before);
    }
}
