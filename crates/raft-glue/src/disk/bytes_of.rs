//! Small helpers for bytes, words and sizes.

/// The little-endian word at `offset`, if the bytes reach that far.
pub(crate) fn word(bytes: &[u8], offset: usize) -> Option<u64> {
    let end = offset.checked_add(8)?;
    let field = bytes.get(offset..end)?;
    Some(u64::from_le_bytes(field.try_into().expect("the slice has eight bytes")))
}

/// The little-endian half word at `offset`, if the bytes reach that far.
pub(crate) fn half_word(bytes: &[u8], offset: usize) -> Option<u32> {
    let end = offset.checked_add(4)?;
    let field = bytes.get(offset..end)?;
    Some(u32::from_le_bytes(field.try_into().expect("the slice has four bytes")))
}

/// A size that cannot be addressed becomes one that no buffer has.
pub(crate) fn to_usize(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

/// Offset behind the last byte that is not zero.
pub(crate) fn used_len(bytes: &[u8]) -> usize {
    const CHUNK: usize = 4096;
    static ZEROS: [u8; CHUNK] = [0; CHUNK];
    let mut end = bytes.len();
    while end > 0 {
        let start = end.saturating_sub(CHUNK);
        let chunk = &bytes[start..end];
        if chunk != &ZEROS[..chunk.len()] {
            let last = chunk.iter().rposition(|byte| *byte != 0).expect("the chunk is not all zero");
            return start + last + 1;
        }
        end = start;
    }
    0
}

/// Whether all bytes are zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    used_len(bytes) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn used_length_ignores_the_zero_tail_only() {
        assert_eq!(used_len(&[]), 0);
        assert_eq!(used_len(&[0; 10_000]), 0);
        let mut bytes = vec![0; 10_000];
        bytes[0] = 1;
        assert_eq!(used_len(&bytes), 1);
        bytes[5_000] = 1;
        assert_eq!(used_len(&bytes), 5_001);
        bytes[9_999] = 1;
        assert_eq!(used_len(&bytes), 10_000);
    }

    #[test]
    fn reading_past_the_end_gives_nothing() {
        assert_eq!(word(&[0; 8], 1), None);
        assert_eq!(word(&[0; 8], usize::MAX), None);
        assert_eq!(half_word(&[1, 0, 0, 0, 2], 1), Some(0x0200_0000));
    }
}
