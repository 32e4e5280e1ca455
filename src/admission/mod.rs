//! Admission: who waits for room, in which order, and who is refused.
//!
//! While nobody waits and nothing is wrong, an append looks at one word ([`Admission::is_clear`])
//! and goes on. Otherwise it queues. Room is taken by a waiter itself, in its own poll or `wait()`;
//! a wake-up is an offer, and one that is not taken within [`OFFER_NS`](offer::OFFER_NS) passes to the next, so a
//! future that is never polled again stops nobody.
//!
//! That holds for every state of a place in line, since a handle may be forgotten in any of them. One that was made
//! and not looked at since, or offered room, is out of line when its time is over; one that waits is offered
//! room as soon as there is any, by whoever sees that first, and at the latest by the shard's own thread, which looks
//! once in [`LOOK_NS`](offer::LOOK_NS) while somebody stands in line ([`Admission::due`]). A handle that is out of line
//! leaves nothing behind, and comes back to its old place if it is polled after all.
//!
//! Whoever has an offer stands in nobody's way: others go ahead meanwhile. If they were held until it
//! is awake, callers would take turns at one record a wake-up for as long as they keep coming (a lock
//! convoy; it cost a third of the rate). One that finds its room taken waits again, in its old place.
//!
//! | file | what is in it |
//! |---|---|
//! | [`waiting_line`] | who stands in line, whose turn it is, and who is offered room next |
//! | [`offer`] | how long an offer lasts, and how many are out at once |
//! | [`room`] | the blocks that each priority may take |
//! | [`retry_after`](mod@retry_after) | how long a refused caller is told to wait |
//! | [`overload`] | what is let in while records wait for too long |

mod offer;
mod overload;
mod retry_after;
mod room;
mod waiting_line;

pub use overload::Cause;
pub(crate) use overload::PRIORITIES as BY_PRIORITY;
pub(crate) use overload::{Controller, Counted, Gate, Interval, Learner, Limits, Passed, STEP_NS};
pub(crate) use retry_after::{retry_after, retry_within};
pub(crate) use room::{admits, blocks_max};
pub(crate) use waiting_line::{Admission, Call, Place};
