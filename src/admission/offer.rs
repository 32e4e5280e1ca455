//! How long an offered place in line lasts, how many offers are out at once, and how often room is looked for.

/// An offer that is not taken within a millisecond passes on: far above a wake-up (some 60 us), far
/// below what a caller would call a stall. A new place has as long for the first look at it.
pub(super) const OFFER_NS: u64 = 1_000_000;

/// While somebody stands in line, room is looked for at least so often, whatever happens or does not.
pub(super) const LOOK_NS: u64 = 10_000_000;

/// Offers that are out at once. Waking one waiter after the other would drain a queue at one record a
/// wake-up, some tens of thousands a second; whoever takes its offer makes the next ones.
pub(super) const OFFERS_MAX: usize = 32;
