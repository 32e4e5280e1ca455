//! Slots: which one a key has, and moving them.

use super::Log;
use crate::error::MoveError;
use crate::moves::{self, Place};
use crate::position::ShardId;

impl Log {
    /// How many slots there are. Each key has one, for good; each slot is in one shard at a time.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.inner.router.slots()
    }

    /// The slot of a key.
    #[must_use]
    pub fn slot(&self, key: &(impl AsRef<[u8]> + ?Sized)) -> u32 {
        self.inner.router.slot(key.as_ref())
    }

    /// For messages of tests.
    #[cfg(test)]
    pub(crate) fn history_of_slot(&self, slot: u32) -> String {
        let map = self.inner.router.map();
        let shards = self.inner.engines.iter().map(|engine| {
            let view = engine.view();
            format!("shard {}: from {} {:?}", engine.id, view.horizon, view.epochs.rows())
        });
        format!("{:?} {:?}", map.history(slot), shards.collect::<Vec<_>>())
    }

    /// Moves slots to a shard: what is appended from now on under their keys goes there. What was appended before stays
    /// where it is, and is read by key as before, in its order: records of a key are never read in another order than they
    /// were appended in, whatever happens. Durable when this returns. A slot that is there already is not moved.
    ///
    /// It waits for the disk: in a task, off the runtime's threads (`spawn_blocking`). Once begun it goes on to its end: there is
    /// no taking it back, but by another move.
    ///
    /// Meanwhile appends to these slots wait, as if there were no room, for about three commits; others go on. Moves wait
    /// for each other. Conditions and ids ([`Write::if_last`](crate::Write::if_last), [`Write::id`](crate::Write::id))
    /// hold across it.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use sawmill::{Options, ShardId, Write};
    /// let log = Options::new().shards(2).open(dir.path())?;
    /// log.append(Write::new(b"made").key(b"order:9")).wait()?;
    /// let other = ShardId(1 - log.route(b"order:9").0);
    /// log.move_slots(&[log.slot(b"order:9")], other)?;
    /// let paid = log.append(Write::new(b"paid").key(b"order:9")).wait()?;
    /// assert_eq!(paid.shard(), other);
    /// assert_eq!(log.read_key(b"order:9", ..)?.count(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// See [`MoveError`].
    pub fn move_slots(&self, slots: &[u32], shard: ShardId) -> Result<(), MoveError> {
        self.may_write()?;
        let inner = &self.inner;
        let place = Place {
            engines: &inner.engines,
            router: &inner.router,
            file: &inner.map_file,
            device: &inner.device,
            directory: inner.directory.as_ref(),
            calls: &inner.calls,
            notices: &inner.notices,
        };
        moves::move_slots(&place, slots, shard)
    }
}
