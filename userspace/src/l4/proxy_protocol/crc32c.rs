//! CRC-32C (RFC 3309, appendix B.1): Castagnoli's polynomial, bits reflected.

/// The polynomial, reflected.
const POLYNOMIAL: u32 = 0x82f6_3b78;

const TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut remainder = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            let carry = if remainder & 1 == 1 { POLYNOMIAL } else { 0 };
            remainder = (remainder >> 1) ^ carry;
            bit += 1;
        }
        table[byte] = remainder;
        byte += 1;
    }
    table
}

/// The checksum of all parts, one after another.
pub(super) fn checksum<const PARTS: usize>(parts: [&[u8]; PARTS]) -> u32 {
    let bytes = parts.into_iter().flatten();
    !bytes.fold(!0, |sum, byte| (sum >> 8) ^ TABLE[usize::from(sum as u8 ^ byte)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_checksums() {
        assert_eq!(checksum([b"123456789"]), 0xe306_9283);
        // RFC 3720, B.4.
        assert_eq!(checksum([&[0; 32]]), 0x8a91_36aa);
        assert_eq!(checksum([&[0xff; 16], &[0xff; 16]]), 0x62a8_ab43);
    }
}
