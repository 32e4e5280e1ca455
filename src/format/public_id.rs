//! What a log is called in public: a one-way function of its log id.
//!
//! The log id seeds checksums, and whoever writes records must not know it. So what is shown is SipHash-2-4 with 128
//! bits of output, keyed by the log id, of a constant: it tells logs apart and says nothing of the key.

use super::siphash::siphash_128;
use crate::position::LogId;

/// What is hashed.
const LABEL: &[u8] = b"sawmill log";

/// The public id of the log that has this log id.
pub(crate) fn public_id(log_id: &[u8; 16]) -> LogId {
    LogId::from_bytes(siphash_128(log_id, LABEL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_of_the_log_id_counts() {
        let own = public_id(&[7; 16]);
        for bit in 0..128 {
            let mut other = [7; 16];
            other[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(public_id(&other), own, "bit {bit}");
        }
    }
}
