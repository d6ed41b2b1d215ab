//! Hashes that are the same in every version of the program.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

/// Of names, for ids, where nobody must be kept from making two alike: FNV-1a, 64 bits (<https://datatracker.ietf.org/doc/html/draft-eastlake-fnv>).
pub fn fnv1a(bytes: impl IntoIterator<Item = u8>) -> u64 {
    let next = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, next)
}

/// Of contents: SHA-256, in hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documents_own_examples() {
        assert_eq!(fnv1a(*b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(*b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(*b"foobar"), 0x8594_4171_f739_67e8);
    }
}
