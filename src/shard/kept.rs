//! What somebody still needs of a shard's log: truncation goes no further.

use crate::error::TruncateError;
use crate::position::Lsn;
use crate::sync::lock;

use super::Engine;

/// One who needs something.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    name: String,
    /// Everything from here on...
    oldest: Lsn,
    /// ... to here: what it reads must be whole, and while it is open it remembers what it wrote.
    newest: Lsn,
}

impl Engine {
    /// Lets no truncation touch what `name` needs.
    pub(crate) fn keep(&self, name: &str, oldest: Lsn, newest: Lsn) {
        let mut kept = lock(&self.kept);
        match kept.iter_mut().find(|kept| kept.name == name) {
            Some(own) => {
                own.oldest = oldest;
                own.newest = newest;
            }
            None => kept.push(Kept { name: name.to_owned(), oldest, newest }),
        }
    }

    /// It needs nothing any more.
    pub(crate) fn let_go(&self, name: &str) {
        lock(&self.kept).retain(|kept| kept.name != name);
    }

    /// The lowest LSN that somebody needs.
    pub(super) fn kept_from(&self) -> Option<Lsn> {
        lock(&self.kept).iter().map(|kept| kept.oldest).min()
    }

    /// Whether everything below `lsn` may go.
    pub(super) fn may_begin_at(&self, lsn: Lsn) -> Result<(), TruncateError> {
        let kept = lock(&self.kept);
        match kept.iter().find(|kept| kept.oldest < lsn) {
            None => Ok(()),
            Some(kept) => Err(self.needed(&kept.name, kept.oldest)),
        }
    }

    /// Whether everything from `cut` on may go.
    pub(super) fn may_end_at(&self, cut: Lsn) -> Result<(), TruncateError> {
        let kept = lock(&self.kept);
        match kept.iter().find(|kept| cut < kept.newest) {
            None => Ok(()),
            Some(kept) => Err(self.needed(&kept.name, kept.newest.min(self.durable()))),
        }
    }

    fn needed(&self, name: &str, lsn: Lsn) -> TruncateError {
        TruncateError::Needed { shard: self.id, lsn, tally: name.to_owned() }
    }
}
