//! The checksum of every file: CRC-32, polynomial 0x04C11DB7, most significant bit first, initial value 0, no final
//! XOR. It is neither zlib's crc32 nor CRC-32C. The result of one call may be the initial value of the next.

use crc::{Algorithm, Crc, Table};

const ALGORITHM: Algorithm<u32> = Algorithm {
    width: 32,
    poly: 0x04c1_1db7,
    init: 0,
    refin: false,
    refout: false,
    xorout: 0,
    check: 0x89a1_897f,
    residue: 0,
};

/// Sixteen bytes a step; every byte of the log passes through here.
static CRC: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&ALGORITHM);

/// Checksum of `bytes`, continued from `initial` (0 to start).
pub(crate) fn checksum(initial: u32, bytes: &[u8]) -> u32 {
    let mut digest = CRC.digest_with_initial(initial);
    digest.update(bytes);
    digest.finalize()
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

    #[test]
    fn may_be_continued() {
        let bytes: Vec<u8> = (0..=255).collect();
        for cut in [0, 1, 7, 16, 100, 256] {
            assert_eq!(checksum(checksum(0, &bytes[..cut]), &bytes[cut..]), checksum(0, &bytes));
        }
    }
}
