//! Records that nobody waits for.

use crate::append::{Append, Route};
use crate::error::AppendError;
use crate::log::{Log, Shard};
use crate::position::Position;
use crate::shard::{AppendMode, Engine};
use crate::write::Durability;
use crate::write::Write;

impl Log {
    /// Appends a record and keeps no handle of it: the cheapest way to load in bulk. Gives the position that the
    /// record will have; blocks for room only.
    ///
    /// Unless the [`Write`] says otherwise the record is [`Durability::Buffered`], whatever
    /// [`Options::durability`](crate::Options::durability) is: written in the background within 10 ms and synced within 20,
    /// and lost if the process dies before. [`sync`](Log::sync) waits for all that was accepted before it, and tells of
    /// failures.
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
    /// See [`AppendError`]; whatever the error, the record was not accepted. [`AppendError::OwnThread`] where there is no
    /// room and this thread runs the log's own work.
    #[inline]
    pub fn post<'a>(&self, write: impl Into<Write<'a>>) -> Result<Position, AppendError> {
        let write = write.into();
        let (engine, route) = self.routed(&write.key);
        match at_once(engine, route, &write) {
            Some(position) => Ok(position),
            None => waited(|write| self.append(write), write),
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
        let route = self.route_by_hand([&*write.key]);
        match self.engine().ok().and_then(|engine| at_once(engine, route, &write)) {
            Some(position) => Ok(position),
            None => waited(|write| self.append(write), write),
        }
    }
}

fn durability(write: &Write<'_>) -> Durability {
    write.durability.unwrap_or(Durability::Buffered)
}

/// The quick way: no handle, hence nothing to count and nothing to move.
#[inline(always)]
fn at_once(engine: &Engine, route: Route, write: &Write<'_>) -> Option<Position> {
    if !write.is_plain() {
        return None;
    }
    let mode = AppendMode::without_lead(write.priority, durability(write)).at(route.turn());
    engine.accept(&write.key, &write.payload, mode).map(|placed| placed.position)
}

/// The slow way, which waits for room or tells why there is none.
#[cold]
fn waited<'a>(
    append: impl FnOnce(Write<'a>) -> Append<'a>,
    write: Write<'a>,
) -> Result<Position, AppendError> {
    let durability = durability(&write);
    append(write.durability(durability)).admitted().wait().map(|commit| commit.position())
}
