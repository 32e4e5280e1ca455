//! How much of the room is for whom: the blocks that each priority may take, and when there is enough to offer.

use crate::write::Priority;

/// Blocks that records of a priority may take, of so many.
pub(crate) fn blocks_max(priority: Priority, blocks: u32) -> u32 {
    match priority {
        Priority::Low => blocks / 2,
        Priority::Normal => blocks - blocks / 8,
        Priority::High => blocks,
    }
}

/// Whether there is enough room to offer it to waiters of a priority that may have `blocks_max` blocks, with so many in use
/// of all.
///
/// Not as soon as there is any: callers that wait cost a wake-up each, so that a queue once formed is let go only when
/// there is room for many of them to go on without another one.
pub(crate) fn admits(blocks_max: u32, in_use: u32, blocks: u32) -> bool {
    in_use + (blocks / 8).min(blocks_max / 4) < blocks_max
}
