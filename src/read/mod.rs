//! Readers: by position, over a range, by key, by time, following, merged over shards.
//!
//! All but one walk blocks through one cursor (`cursor`) and stop at the durable LSN. A record by its position (`get`) is
//! given once it is written, whatever its durability, and is read by itself (`point`) unless something is wrong with it.
//! All give only what checks; none holds a lock of the append path or keeps a log open.

mod back;
mod batch;
mod cursor;
mod follow;
mod follow_key;
mod get;
mod key;
mod key_history;
mod key_range;
mod merged;
mod point;
mod range;
mod record;
mod restored;
mod seek_time;
mod source;
mod tail;
mod window;

pub use back::RangeBack;
pub use follow::{Follow, FollowStop};
pub use follow_key::FollowKey;
pub use key_history::{KeyRange, KeyRangeBack};
pub use merged::Merged;
pub use range::Range;
pub use record::Record;

pub(crate) use batch::{batch_of, find_cut};
pub(crate) use cursor::{Cursor, Step};
pub(crate) use follow::{Follower, NextRecord};
pub(crate) use get::{get, get_first, get_many};
pub(crate) use key::{ids_within, last_within};
pub(crate) use key_history::KeyHistory;
pub(crate) use merged::times;
pub(crate) use restored::PutBack;
pub(crate) use seek_time::seek;
pub(crate) use source::Source;
pub(crate) use tail::Tail;

#[cfg(test)]
mod tests;
