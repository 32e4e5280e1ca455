//! SipHash-2-4: Aumasson and Bernstein, 2012, and their reference code.

/// The state of SipHash.
struct Sip([u64; 4]);

impl Sip {
    /// With what the variant of 128 bits adds to the second word, or zero.
    fn new(key: &[u8; 16], variant: u64) -> Sip {
        let (k0, k1) = (word(&key[..8]), word(&key[8..]));
        Sip([
            k0 ^ 0x736f_6d65_7073_6575,
            k1 ^ 0x646f_7261_6e64_6f6d ^ variant,
            k0 ^ 0x6c79_6765_6e65_7261,
            k1 ^ 0x7465_6462_7974_6573,
        ])
    }

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

    fn absorb(&mut self, bytes: &[u8]) {
        let words = bytes.chunks_exact(8);
        let last = word(words.remainder()) | (bytes.len() as u64) << 56;
        words.for_each(|bytes| self.word(word(bytes)));
        self.word(last);
    }

    fn output(&mut self, mark: usize, value: u64) -> u64 {
        self.0[mark] ^= value;
        self.rounds(4);
        self.0.iter().fold(0, |all, word| all ^ word)
    }
}

/// Up to eight bytes as a word.
fn word(bytes: &[u8]) -> u64 {
    match bytes.try_into() {
        Ok(bytes) => u64::from_le_bytes(bytes),
        Err(_) => bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte)),
    }
}

/// With 128 bits of output.
pub(super) fn siphash_128(key: &[u8; 16], bytes: &[u8]) -> [u8; 16] {
    let mut sip = Sip::new(key, 0xee);
    sip.absorb(bytes);
    let mut hash = [0; 16];
    hash[..8].copy_from_slice(&sip.output(2, 0xee).to_le_bytes());
    hash[8..].copy_from_slice(&sip.output(1, 0xdd).to_le_bytes());
    hash
}

/// With 64 bits of output.
pub(super) fn siphash_64(key: &[u8; 16], bytes: &[u8]) -> u64 {
    let mut sip = Sip::new(key, 0);
    sip.absorb(bytes);
    sip.output(2, 0xff)
}

/// The same, and 32 bits more, which follow from the state as the second half of 128 does.
pub(super) fn siphash_96(key: &[u8; 16], bytes: &[u8]) -> (u64, u32) {
    let mut sip = Sip::new(key, 0);
    sip.absorb(bytes);
    (sip.output(2, 0xff), sip.output(1, 0xdd) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of the reference code: the key 00 01 .. 0f, and as many of those bytes as the first column says.
    #[test]
    fn known_answers() {
        let key: [u8; 16] = std::array::from_fn(|index| index as u8);
        for (bytes, hash) in [
            (0, 0xa381_7f04_ba25_a8e6_6df6_7214_c755_0293_u128),
            (1, 0xda87_c1d8_6b99_af44_3476_5911_9b22_fc45),
        ] {
            assert_eq!(siphash_128(&key, &key[..bytes]), hash.to_be_bytes(), "of {bytes} bytes");
        }
        // The last one stands in the paper.
        for (bytes, hash) in
            [(0, 0x726f_db47_dd0e_0e31), (1, 0x74f8_39c5_93dc_67fd), (15, 0xa129_ca61_49be_45e5)]
        {
            assert_eq!(siphash_64(&key, &key[..bytes]), hash, "of {bytes} bytes");
            assert_eq!(siphash_96(&key, &key[..bytes]).0, hash, "of {bytes} bytes");
        }
    }
}
