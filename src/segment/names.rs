//! Which files are segments, by name, number and size.

use crate::format::GRANULE;

pub(crate) fn segment_name(file: u32) -> String {
    format!("{file:010}.seg")
}

/// `None` if the name is not a segment's.
pub(super) fn segment_number(name: &str) -> Option<u32> {
    let number = name.strip_suffix(".seg")?.parse().ok()?;
    (segment_name(number) == name).then_some(number)
}

/// Files are numbered in turn, and their numbers written down with the next change. A file whose number lies further
/// ahead is nobody's that the shard knows of, and would use up the numbers between.
const NUMBERS_AHEAD: u32 = 1 << 20;

/// No segment is larger: [`Options`](crate::Options) allow less.
const BYTES_MAX: u64 = 1 << 44;

/// Whether an unlisted file can be listed one day, by its number and size.
pub(super) fn can_be_listed(number: u32, bytes: u64, next_file: u32) -> bool {
    number > 0
        && number < next_file.saturating_add(NUMBERS_AHEAD).min(u32::MAX - NUMBERS_AHEAD)
        && bytes > 0
        && bytes <= BYTES_MAX
        && bytes % GRANULE == 0
}
