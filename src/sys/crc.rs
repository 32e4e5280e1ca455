//! CRC32C by the CPU's own instruction, in three lanes at any length.
//!
//! The instruction takes three cycles and can be begun in each one, so that three lanes side by side are three
//! times as fast as one. The `crc32c` crate joins its lanes by tables made for two lengths, 256 and 8,192
//! bytes; most records are shorter than that or end badly. Here lanes are as long as the input allows, and are
//! joined by a carry-less multiplication each (Gopal et al., "Fast CRC Computation for iSCSI Polynomial Using
//! CRC32 Instruction", Intel 2011), for which there is a constant for each length. What it brings stands in
//! `docs/experiments.md`.

/// Below this the join costs more than the lanes bring.
#[cfg(target_arch = "x86_64")]
const LANES_FROM: usize = 96;

/// Above this a copy in wide registers that is read again is as good as one of eight bytes a time, or better.
#[cfg(target_arch = "x86_64")]
const COPIED_BYTES: usize = 2048;

/// Above this the crate is as good.
const SHORT_BYTES: usize = if cfg!(target_arch = "x86_64") { 3 * 8 * LANE_WORDS_MAX } else { 512 };

/// Eight-byte words of a lane.
const LANE_WORDS_MAX: usize = 256;

/// The polynomial with its bits the other way round, as the instruction has them.
#[cfg(target_arch = "x86_64")]
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// As `crc32c::crc32c_append`.
#[inline]
pub(crate) fn crc32c_append(crc: u32, bytes: &[u8]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if bytes.len() <= SHORT_BYTES && std::arch::is_x86_feature_detected!("sse4.2") {
        if bytes.len() >= LANES_FROM && std::arch::is_x86_feature_detected!("pclmulqdq") {
            // SAFETY: the features were detected.
            return unsafe { three_lanes(crc, bytes) };
        }
        // SAFETY: the feature was detected.
        return unsafe { one_lane(crc, bytes) };
    }
    #[cfg(target_arch = "aarch64")]
    if bytes.len() < SHORT_BYTES && std::arch::is_aarch64_feature_detected!("crc") {
        // SAFETY: the feature was detected.
        return unsafe { one_lane(crc, bytes) };
    }
    crc32c::crc32c_append(crc, bytes)
}

/// Copies `from` to `to`, which is as long, and gives the checksum of `head` and of the copy behind it.
///
/// In one go: what is read for the checksum need not be found again in memory that the copy has just missed, and
/// is the same as what was copied, whatever becomes of `from` meanwhile.
#[inline]
pub(crate) fn crc32c_copy(crc: u32, head: &[u8], from: &[u8], to: &mut [u8]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if (LANES_FROM..=COPIED_BYTES).contains(&from.len())
        && std::arch::is_x86_feature_detected!("sse4.2")
        && std::arch::is_x86_feature_detected!("pclmulqdq")
    {
        // SAFETY: the features were detected.
        return unsafe { three_lanes_copied(one_lane(crc, head), from, to) };
    }
    to.copy_from_slice(from);
    crc32c_append(crc32c_append(crc, head), to)
}

/// What a checksum is multiplied by when so many words follow, `x^(64 n - 33)` modulo the polynomial: the
/// product of two bit-reversed numbers is shifted by one, and the instruction that reduces it adds 32.
#[cfg(target_arch = "x86_64")]
static BEHIND: [u32; 2 * LANE_WORDS_MAX + 1] = {
    let mut behind = [0; 2 * LANE_WORDS_MAX + 1];
    // x^31, the lowest bit.
    let mut power = 1u32;
    let mut words = 1;
    while words < behind.len() {
        behind[words] = power;
        let mut bit = 0;
        while bit < 64 {
            power = if power & 1 == 1 { power >> 1 ^ POLYNOMIAL } else { power >> 1 };
            bit += 1;
        }
        words += 1;
    }
    behind
};

/// # Safety
///
/// The CPU has SSE 4.2 and carry-less multiplication.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse4.2,pclmulqdq")]
#[allow(unused_unsafe, reason = "the intrinsics are safe here from Rust 1.87 on")]
unsafe fn three_lanes(crc: u32, bytes: &[u8]) -> u32 {
    use std::arch::x86_64::_mm_crc32_u64;
    let words = bytes.len() / (3 * 8);
    let (first, behind) = bytes.split_at(words * 8);
    let (second, behind) = behind.split_at(words * 8);
    let (third, rest) = behind.split_at(words * 8);
    let mut states = (u64::from(!crc), 0, 0);
    let lanes = first.chunks_exact(8).zip(second.chunks_exact(8)).zip(third.chunks_exact(8));
    for ((first, second), third) in lanes {
        // SAFETY: the feature is there, as the caller promises.
        unsafe {
            states.0 = _mm_crc32_u64(states.0, as_u64(first));
            states.1 = _mm_crc32_u64(states.1, as_u64(second));
            states.2 = _mm_crc32_u64(states.2, as_u64(third));
        }
    }
    // SAFETY: the features are there.
    unsafe { one_lane(joined(states, words), rest) }
}

/// As `three_lanes`, of a copy that is made meanwhile.
///
/// # Safety
///
/// The CPU has SSE 4.2 and carry-less multiplication.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse4.2,pclmulqdq")]
#[allow(unused_unsafe, reason = "the intrinsics are safe here from Rust 1.87 on")]
unsafe fn three_lanes_copied(crc: u32, from: &[u8], to: &mut [u8]) -> u32 {
    use std::arch::x86_64::_mm_crc32_u64;
    assert_eq!(from.len(), to.len(), "a copy is as long as what it is of");
    let words = from.len() / (3 * 8);
    let (first, behind) = from.split_at(words * 8);
    let (second, behind) = behind.split_at(words * 8);
    let (third, rest) = behind.split_at(words * 8);
    let (to_first, behind) = to.split_at_mut(words * 8);
    let (to_second, behind) = behind.split_at_mut(words * 8);
    let (to_third, to_rest) = behind.split_at_mut(words * 8);
    let mut states = (u64::from(!crc), 0, 0);
    let lanes = first.chunks_exact(8).zip(second.chunks_exact(8)).zip(third.chunks_exact(8));
    let copies =
        to_first.chunks_exact_mut(8).zip(to_second.chunks_exact_mut(8)).zip(to_third.chunks_exact_mut(8));
    for (((first, second), third), ((to_first, to_second), to_third)) in lanes.zip(copies) {
        let words = (as_u64(first), as_u64(second), as_u64(third));
        // SAFETY: the feature is there, as the caller promises.
        unsafe {
            states.0 = _mm_crc32_u64(states.0, words.0);
            states.1 = _mm_crc32_u64(states.1, words.1);
            states.2 = _mm_crc32_u64(states.2, words.2);
        }
        to_first.copy_from_slice(&words.0.to_le_bytes());
        to_second.copy_from_slice(&words.1.to_le_bytes());
        to_third.copy_from_slice(&words.2.to_le_bytes());
    }
    to_rest.copy_from_slice(rest);
    // SAFETY: the features are there.
    unsafe { one_lane(joined(states, words), to_rest) }
}

/// One checksum of three lanes of so many words each.
///
/// # Safety
///
/// The CPU has SSE 4.2 and carry-less multiplication.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse4.2,pclmulqdq")]
#[inline]
#[allow(unused_unsafe, reason = "the intrinsics are safe here from Rust 1.87 on")]
unsafe fn joined(states: (u64, u64, u64), words: usize) -> u32 {
    use std::arch::x86_64::{_mm_clmulepi64_si128, _mm_crc32_u64, _mm_cvtsi64_si128, _mm_cvtsi128_si64};
    let times = |state: u64, by: u32| {
        // SAFETY: the feature is there, as the caller promises.
        unsafe {
            let (state, by) = (_mm_cvtsi64_si128(state as i64), _mm_cvtsi64_si128(i64::from(by)));
            _mm_cvtsi128_si64(_mm_clmulepi64_si128::<0>(state, by)) as u64
        }
    };
    let joined = times(states.0, BEHIND[2 * words]) ^ times(states.1, BEHIND[words]);
    // SAFETY: as above.
    !(unsafe { _mm_crc32_u64(0, joined) } ^ states.2) as u32
}

/// # Safety
///
/// The CPU has SSE 4.2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse4.2")]
#[inline]
#[allow(unused_unsafe, reason = "the intrinsics are safe here from Rust 1.87 on")]
unsafe fn one_lane(crc: u32, bytes: &[u8]) -> u32 {
    use std::arch::x86_64::{_mm_crc32_u8, _mm_crc32_u32, _mm_crc32_u64};
    let words = bytes.chunks_exact(8);
    let mut rest = words.remainder();
    // SAFETY: the feature is there, as the caller promises.
    let state = words.fold(u64::from(!crc), |state, word| unsafe { _mm_crc32_u64(state, as_u64(word)) });
    let mut state = state as u32;
    if let Some((half, behind)) = rest.split_first_chunk() {
        // SAFETY: as above.
        state = unsafe { _mm_crc32_u32(state, u32::from_le_bytes(*half)) };
        rest = behind;
    }
    // SAFETY: as above.
    !rest.iter().fold(state, |state, &byte| unsafe { _mm_crc32_u8(state, byte) })
}

/// # Safety
///
/// The CPU has the CRC instructions.
#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "crc")]
#[allow(unused_unsafe, reason = "the intrinsics are safe here from Rust 1.87 on")]
unsafe fn one_lane(crc: u32, bytes: &[u8]) -> u32 {
    use std::arch::aarch64::{__crc32cb, __crc32cd};
    let words = bytes.chunks_exact(8);
    let rest = words.remainder();
    // SAFETY: the feature is there, as the caller promises.
    let state = words.fold(!crc, |state, word| unsafe { __crc32cd(state, as_u64(word)) });
    // SAFETY: as above.
    !rest.iter().fold(state, |state, &byte| unsafe { __crc32cb(state, byte) })
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline]
fn as_u64(word: &[u8]) -> u64 {
    u64::from_le_bytes(word.try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_of_any_length_say_what_the_crate_says() {
        let bytes: Vec<u8> = (0..SHORT_BYTES as u32 + 100).map(|index| (index * 37 % 251) as u8).collect();
        for length in 0..bytes.len() {
            for (seed, from) in [(0, 0), (0xdead_beef, 1)] {
                let bytes = &bytes[from.min(length)..length];
                let expected = crc32c::crc32c_append(seed, bytes);
                assert_eq!(crc32c_append(seed, bytes), expected, "{length}");
                let (head, body) = bytes.split_at(length.min(bytes.len()) % 13);
                let mut copy = vec![0; body.len()];
                assert_eq!(crc32c_copy(seed, head, body, &mut copy), expected, "{length}");
                assert_eq!(copy, body);
            }
        }
    }
}
