//! The largest record that a log takes: what is asked for, or the default, as far as memory and segments allow it.

use super::defaults::RECORD_BYTES;
use crate::error::OpenError;
use crate::format::{BLOCK_HEADER_BYTES, RECORD_HEADER_BYTES};

/// Bytes of key and payload, with the option that they follow from.
pub(super) fn record_limit(
    asked: Option<u64>,
    blocks: u64,
    block_bytes: u64,
    segment_bytes: u64,
) -> Result<(u64, &'static str), OpenError> {
    let payload_bytes = block_bytes - u64::from(BLOCK_HEADER_BYTES + RECORD_HEADER_BYTES) - 8;
    // One block less than half of them, which is what `Low` may fill, and a quarter of a segment: so many whole
    // blocks an idle log has for every priority, and the next segment that is made has places for them.
    let by_memory = payload_bytes * (blocks / 2 - 1).max(1);
    let by_segment = (segment_bytes / 4 / block_bytes).max(1) * payload_bytes;
    let limits = [(by_memory, "memory_bytes"), (by_segment, "segment_bytes")];
    let (most, because_of) = limits.into_iter().min().expect("two limits");
    match asked {
        Some(asked) if asked > most || asked == 0 => {
            let reason = format!("{asked} is 0, or more than {because_of} allows, {most}");
            Err(OpenError::InvalidOption { option: "record_bytes", reason })
        }
        Some(asked) => Ok((asked, "record_bytes")),
        None if RECORD_BYTES <= most => Ok((RECORD_BYTES, "record_bytes")),
        None => Ok((most, because_of)),
    }
}
