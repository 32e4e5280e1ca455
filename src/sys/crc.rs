//! CRC32C of short inputs by the CPU's own instruction, one lane.
//!
//! The `crc32c` crate runs three lanes and combines them, whose set-up costs more than it brings below
//! about half a KiB, the size of most records (`docs/performance.md`).

/// From here on three lanes are faster.
const SHORT_BYTES: usize = 512;

/// As `crc32c::crc32c_append`.
#[inline]
pub(crate) fn crc32c_append(crc: u32, bytes: &[u8]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if bytes.len() < SHORT_BYTES && std::arch::is_x86_feature_detected!("sse4.2") {
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

/// # Safety
///
/// The CPU has SSE 4.2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse4.2")]
#[allow(unused_unsafe, reason = "the intrinsics are safe here from Rust 1.87 on")]
unsafe fn one_lane(crc: u32, bytes: &[u8]) -> u32 {
    use std::arch::x86_64::{_mm_crc32_u8, _mm_crc32_u64};
    let words = bytes.chunks_exact(8);
    let rest = words.remainder();
    // SAFETY: the feature is there, as the caller promises.
    let state = words.fold(u64::from(!crc), |state, word| unsafe { _mm_crc32_u64(state, as_u64(word)) });
    // SAFETY: as above.
    !rest.iter().fold(state as u32, |state, &byte| unsafe { _mm_crc32_u8(state, byte) })
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
    fn one_lane_says_what_three_say() {
        let bytes: Vec<u8> = (0..1_024u32).map(|index| (index * 37 % 251) as u8).collect();
        for length in 0..bytes.len() {
            for (seed, from) in [(0, 0), (0xdead_beef, 1)] {
                let bytes = &bytes[from.min(length)..length];
                assert_eq!(crc32c_append(seed, bytes), crc32c::crc32c_append(seed, bytes), "{length}");
            }
        }
    }
}
