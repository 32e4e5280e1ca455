//! Records that nobody waits for.

use crate::error::AppendError;
use crate::log::{Log, Shard};
use crate::options::Durability;
use crate::position::Position;
use crate::shard::Manner;
use crate::write::Write;

impl Log {
    /// Appends a record and keeps no handle of it: the cheapest way to load in bulk. Gives the position that the
    /// record will have; blocks for room only.
    ///
    /// Unless the [`Write`] says otherwise the record is [`Durability::Buffered`]: written in the background within
    /// 10 ms and synced within 20, and lost if the process dies before. [`sync`](Log::sync) waits for all that was
    /// accepted before it, and tells of failures.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let log = sawmill::Log::open(dir.path())?;
    /// for number in 0..10_000u32 {
    ///     log.post(&number.to_le_bytes())?;
    /// }
    /// log.sync().wait()?; // all of them are durable
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As of [`append`](Log::append); on an error the record was not accepted.
    #[inline]
    pub fn post<'a>(&self, write: impl Into<Write<'a>>) -> Result<Position, AppendError> {
        let write = write.into();
        let durability = write.durability.unwrap_or(Durability::Buffered);
        let manner = Manner::following(write.priority, durability);
        // No handle, hence nothing to count and nothing to move.
        match self.engine_for(&write.key).accept(&write.key, &write.payload, manner) {
            Some(placed) => Ok(placed.position),
            None => waited(self.append(write.durability(durability))),
        }
    }
}

impl Shard {
    /// Appends a record to this shard, whatever its key, and keeps no handle of it. As [`Log::post`] otherwise.
    ///
    /// # Errors
    /// As [`Log::post`].
    #[inline]
    pub fn post<'a>(&self, write: impl Into<Write<'a>>) -> Result<Position, AppendError> {
        let write = write.into();
        let durability = write.durability.unwrap_or(Durability::Buffered);
        let manner = Manner::following(write.priority, durability);
        let accepted = self.engine().ok().and_then(|it| it.accept(&write.key, &write.payload, manner));
        match accepted {
            Some(placed) => Ok(placed.position),
            None => waited(self.append(write.durability(durability))),
        }
    }
}

/// The slow way, which waits for room or tells why there is none.
#[cold]
fn waited(append: crate::Append<'_>) -> Result<Position, AppendError> {
    append.admitted().wait().map(|commit| commit.position())
}
