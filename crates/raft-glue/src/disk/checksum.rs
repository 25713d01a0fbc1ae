//! The checksum of every file: CRC-32, polynomial 0x04C11DB7, most significant bit first, initial value 0, no final
//! XOR. It is neither zlib's crc32 nor CRC-32C. The result of one call may be the initial value of the next.

use crc_fast::{CrcAlgorithm, Digest};

/// Checksum of `bytes`, continued from `initial` (0 to start). Every byte of the log passes through here, several times.
pub(crate) fn checksum(initial: u32, bytes: &[u8]) -> u32 {
    // CRC-32/MPEG-2 has this polynomial, this order of bits and no final XOR; it begins with another value.
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Mpeg2, u64::from(initial));
    digest.update(bytes);
    u32::try_from(digest.finalize()).expect("it has 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_values() {
        assert_eq!(checksum(0, b""), 0);
        assert_eq!(checksum(0, &[1]), 0x04c1_1db7);
        assert_eq!(checksum(0, b"123456789"), 0x89a1_897f);
        assert_eq!(checksum(0, &[0; 8]), 0);
    }

    /// What the definition says, bit by bit, for every length that the shortcuts of processors treat differently.
    #[test]
    fn long_and_short_inputs_agree_with_the_definition() {
        let bytes: Vec<u8> =
            (0..9000_u32).map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()[2]).collect();
        let mut expected = 0x89a1_897f_u32;
        for (at, byte) in bytes.iter().enumerate() {
            if at < 600 || at % 97 == 0 {
                assert_eq!(checksum(0x89a1_897f, &bytes[..at]), expected, "{at} bytes");
            }
            expected ^= u32::from(*byte) << 24;
            for _ in 0..8 {
                expected = (expected << 1) ^ if expected >> 31 == 1 { 0x04c1_1db7 } else { 0 };
            }
        }
    }

    #[test]
    fn may_be_continued() {
        let bytes: Vec<u8> = (0..=255).collect();
        for cut in [0, 1, 7, 8, 15, 16, 17, 100, 255, 256] {
            assert_eq!(checksum(checksum(0, &bytes[..cut]), &bytes[cut..]), checksum(0, &bytes));
        }
    }
}
