//! What somebody still needs of a shard's log: truncation goes no further.

use crate::error::TruncateError;
use crate::position::Lsn;
use crate::sync::lock;

use crate::shard::Engine;

/// One who needs something.
#[derive(Clone, Debug)]
pub(in crate::shard) struct RetentionPin {
    name: String,
    /// Everything from here on...
    oldest: Lsn,
    /// ... to here: what it reads must be whole, and while it is open it remembers what it wrote.
    newest: Lsn,
}

impl Engine {
    /// Lets no truncation touch what `name` needs.
    pub(crate) fn pin(&self, name: &str, oldest: Lsn, newest: Lsn) {
        let mut pins = lock(&self.pins);
        match pins.iter_mut().find(|pin| pin.name == name) {
            Some(own) => {
                own.oldest = oldest;
                own.newest = newest;
            }
            None => pins.push(RetentionPin { name: name.to_owned(), oldest, newest }),
        }
    }

    /// It needs nothing any more.
    pub(crate) fn unpin(&self, name: &str) {
        lock(&self.pins).retain(|pin| pin.name != name);
    }

    /// The lowest LSN that somebody needs.
    pub(in crate::shard) fn pinned_from(&self) -> Option<Lsn> {
        lock(&self.pins).iter().map(|pin| pin.oldest).min()
    }

    /// Whether everything below `lsn` may go.
    pub(in crate::shard) fn may_begin_at(&self, lsn: Lsn) -> Result<(), TruncateError> {
        let pins = lock(&self.pins);
        match pins.iter().find(|pin| pin.oldest < lsn) {
            None => Ok(()),
            Some(pin) => Err(self.needed(&pin.name, pin.oldest)),
        }
    }

    /// Whether everything from `cut` on may go.
    pub(in crate::shard) fn may_end_at(&self, cut: Lsn) -> Result<(), TruncateError> {
        let pins = lock(&self.pins);
        match pins.iter().find(|pin| cut < pin.newest) {
            None => Ok(()),
            Some(pin) => Err(self.needed(&pin.name, pin.newest.min(self.durable()))),
        }
    }

    fn needed(&self, name: &str, lsn: Lsn) -> TruncateError {
        TruncateError::Needed { shard: self.id, lsn, tally: name.to_owned() }
    }
}
