//! What a log is called in public: a one-way function of its log id.
//!
//! The log id seeds checksums, and whoever writes records must not know it. So what is shown is SipHash-2-4 with 128
//! bits of output, keyed by the log id, of a constant: it tells logs apart and says nothing of the key.

use crate::position::LogId;

/// What is hashed.
const LABEL: &[u8] = b"sawmill log";

/// The public id of the log that has this log id.
pub(crate) fn public_id(log_id: &[u8; 16]) -> LogId {
    LogId::from_bytes(siphash_128(log_id, LABEL))
}

/// The state of SipHash.
struct Sip([u64; 4]);

impl Sip {
    fn rounds(&mut self, count: usize) {
        let [v0, v1, v2, v3] = &mut self.0;
        for _ in 0..count {
            *v0 = v0.wrapping_add(*v1);
            *v2 = v2.wrapping_add(*v3);
            *v1 = v1.rotate_left(13) ^ *v0;
            *v3 = v3.rotate_left(16) ^ *v2;
            *v0 = v0.rotate_left(32);
            *v2 = v2.wrapping_add(*v1);
            *v0 = v0.wrapping_add(*v3);
            *v1 = v1.rotate_left(17) ^ *v2;
            *v3 = v3.rotate_left(21) ^ *v0;
            *v2 = v2.rotate_left(32);
        }
    }

    fn word(&mut self, word: u64) {
        self.0[3] ^= word;
        self.rounds(2);
        self.0[0] ^= word;
    }

    fn output(&mut self, mark: usize, value: u64) -> [u8; 8] {
        self.0[mark] ^= value;
        self.rounds(4);
        self.0.iter().fold(0, |all, word| all ^ word).to_le_bytes()
    }
}

/// SipHash-2-4 with 128 bits of output: Aumasson and Bernstein, 2012, and their reference code.
fn siphash_128(key: &[u8; 16], bytes: &[u8]) -> [u8; 16] {
    let word = |bytes: &[u8]| bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
    let (k0, k1) = (word(&key[..8]), word(&key[8..]));
    let mut sip = Sip([
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d ^ 0xee,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ]);
    let words = bytes.chunks_exact(8);
    let last = word(words.remainder()) | (bytes.len() as u64) << 56;
    words.for_each(|bytes| sip.word(word(bytes)));
    sip.word(last);
    let mut hash = [0; 16];
    hash[..8].copy_from_slice(&sip.output(2, 0xee));
    hash[8..].copy_from_slice(&sip.output(1, 0xdd));
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `vectors_sip128` of the reference code: the key 00 01 .. 0f, and as many of those bytes as the first column says.
    #[test]
    fn known_answers() {
        let key: [u8; 16] = std::array::from_fn(|index| index as u8);
        for (bytes, hash) in [
            (0, 0xa381_7f04_ba25_a8e6_6df6_7214_c755_0293_u128),
            (1, 0xda87_c1d8_6b99_af44_3476_5911_9b22_fc45),
        ] {
            assert_eq!(siphash_128(&key, &key[..bytes]), hash.to_be_bytes(), "of {bytes} bytes");
        }
    }

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
