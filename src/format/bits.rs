//! Numbers of any width, one behind the other, the lowest bit first.

/// Most bits of one number: with those of the byte in front it still fits into a word.
const BITS_MAX: u32 = 57;

/// So many ones in a row are told from any number of them.
pub(super) const ONES_MAX: u32 = 32;

/// Puts numbers into zeroed bytes.
#[derive(Debug)]
pub(super) struct BitWriter {
    bytes: Vec<u8>,
    /// Bits that are taken.
    at: usize,
}

impl BitWriter {
    pub(super) fn new(bytes: usize) -> BitWriter {
        BitWriter { bytes: vec![0; bytes], at: 0 }
    }

    /// How many bits still fit.
    pub(super) fn room(&self) -> usize {
        self.bytes.len() * 8 - self.at
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn clear(&mut self) {
        self.bytes.fill(0);
        self.at = 0;
    }

    /// Puts the number there; there is room for it.
    pub(super) fn put(&mut self, value: u64, bits: u32) {
        assert!(bits <= BITS_MAX && value >> bits == 0 && bits as usize <= self.room());
        let (mut rest, mut left) = (value, bits);
        while left > 0 {
            let within = (self.at % 8) as u32;
            let taken = left.min(8 - within);
            self.bytes[self.at / 8] |= ((rest & ((1 << taken) - 1)) << within) as u8;
            rest >>= taken;
            left -= taken;
            self.at += taken as usize;
        }
    }

    /// So many ones, at most [`ONES_MAX`], and a zero behind fewer.
    pub(super) fn put_ones(&mut self, count: u32) {
        assert!(count <= ONES_MAX);
        self.put((1 << count) - 1, count + u32::from(count < ONES_MAX));
    }
}

/// The number at bit `at`; `None` if the bytes end before.
#[inline]
pub(super) fn number_at(bytes: &[u8], at: usize, bits: u32) -> Option<u64> {
    debug_assert!(bits <= BITS_MAX);
    if at.checked_add(bits as usize)? > bytes.len() * 8 {
        return None;
    }
    Some(word_at(bytes, at) & ((1 << bits) - 1))
}

/// What lies from bit `at` on, with zeros behind the end.
#[inline]
fn word_at(bytes: &[u8], at: usize) -> u64 {
    let rest = bytes.get(at / 8..).unwrap_or_default();
    let word = match rest.first_chunk() {
        Some(bytes) => u64::from_le_bytes(*bytes),
        None => rest.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte)),
    };
    word >> (at % 8)
}

/// Takes numbers from bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct BitReader {
    at: usize,
}

impl BitReader {
    pub(super) fn new() -> BitReader {
        BitReader { at: 0 }
    }

    #[inline]
    pub(super) fn take(&mut self, bytes: &[u8], bits: u32) -> Option<u64> {
        let number = number_at(bytes, self.at, bits)?;
        self.at += bits as usize;
        Some(number)
    }

    /// Ones up to the first zero, which is passed, or [`ONES_MAX`].
    #[inline]
    pub(super) fn take_ones(&mut self, bytes: &[u8]) -> Option<u32> {
        let ones = word_at(bytes, self.at).trailing_ones().min(ONES_MAX);
        self.take(bytes, ones + u32::from(ones < ONES_MAX))?;
        Some(ones)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        let mut writer = BitWriter::new(64);
        let numbers: Vec<(u64, u32)> = (0..28).map(|bits| ((0x5555_5555 >> (28 - bits)), bits)).collect();
        for (number, bits) in &numbers {
            let number = number & ((1 << bits) - 1);
            writer.put(number, *bits);
        }
        for ones in [0, 1, 31, 32] {
            writer.put_ones(ones);
        }
        let mut reader = BitReader::new();
        for (number, bits) in numbers {
            assert_eq!(reader.take(writer.bytes(), bits), Some(number & ((1 << bits) - 1)), "{bits} bits");
        }
        for ones in [0, 1, 31, 32] {
            assert_eq!(reader.take_ones(writer.bytes()), Some(ones));
        }
        assert_eq!(writer.room(), 67);
        assert_eq!(number_at(writer.bytes(), 512 - 40, 40), Some(0));
        assert_eq!(number_at(writer.bytes(), 512 - 40, 41), None);
        assert_eq!(number_at(writer.bytes(), usize::MAX, 2), None);
    }

    #[test]
    fn what_ends_early_is_no_number() {
        let mut reader = BitReader::new();
        assert_eq!(reader.take_ones(&[0xff]), None);
        assert_eq!(reader.take_ones(&[0xff, 0xff, 0xff, 0xff]), Some(32));
        assert_eq!(reader.take_ones(&[0xff, 0xff, 0xff, 0xff]), None);
        assert_eq!(BitReader::new().take_ones(&[]), None);
    }
}
