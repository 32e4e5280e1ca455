//! Appends in flight, bounded and in order.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::iter::Fuse;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;

use crate::append::Commit;
use crate::error::AppendError;
use crate::log::Log;
use crate::position::Position;
use crate::shard::{AppendMode, Placed};
use crate::write::Write;

/// Keeps so many appends in flight, and gives their positions in order, each once it is durable. By
/// [`Log::window`].
///
/// As an iterator (or a [`Stream`]) it waits for the oldest append in flight, and ends when there is none: that
/// is how a window is emptied. Dropping it takes nothing back; what becomes of the appends in flight is then
/// not told.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let log = sawmill::Log::open(dir.path())?;
/// let mut window = log.window(1024);
/// for number in 0..5_000u32 {
///     // Waits for the oldest one if 1,024 are in flight.
///     if let Some(position) = window.push(&number.to_le_bytes())? {
///         // ... durable: say so to whoever asked ...
/// #       let _ = position;
///     }
/// }
/// for position in &mut window {
///     position?;
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub struct Window {
    log: Log,
    most: usize,
    /// The oldest, once somebody has waited for it.
    oldest: Option<Commit>,
    /// The others. The log keeps their shards alive, so that no record costs a handle's two counts.
    flying: VecDeque<Placed>,
}

impl Window {
    pub(crate) fn new(log: Log, most: usize) -> Window {
        assert!(most > 0, "a window holds at least one append");
        // A window of a million need not take its memory before it is that full.
        Window { log, most, oldest: None, flying: VecDeque::with_capacity(most.min(4096)) }
    }

    /// The oldest append in flight, as a handle that can be waited for.
    fn oldest(&mut self) -> Option<&mut Commit> {
        if self.oldest.is_none() {
            let placed = self.flying.pop_front()?;
            self.oldest = Some(Commit::new(self.log.hold(placed.position.shard()), &placed));
        }
        self.oldest.as_mut()
    }

    /// Accepts a record at once, if there is room and nobody waits for it.
    #[inline]
    fn accept(&mut self, write: &Write<'_>) -> bool {
        if !write.is_plain() {
            return false;
        }
        let durability = write.durability.unwrap_or_else(|| self.log.durability());
        let (engine, route) = self.log.routed(&write.key);
        let mode = AppendMode::without_lead(write.priority, durability).at(route.turn());
        let placed = engine.accept(&write.key, &write.payload, mode);
        self.flying.extend(placed);
        placed.is_some()
    }

    /// Accepts a record, for which it waits for room if it must.
    #[inline]
    fn admit(&mut self, write: Write<'_>) -> Result<(), AppendError> {
        if !self.accept(&write) {
            let commit = self.log.append(write).admitted().wait()?;
            self.flying.push_back(commit.placed());
        }
        Ok(())
    }

    /// Appends a record, and gives the position of the oldest one in flight if it is durable, for which it
    /// waits if the window is full. Waits for room in the log, too.
    ///
    /// # Errors
    /// Of this append, which was not accepted then, or of the oldest one
    /// ([`AppendError::ShardFailed`]), after which this one, too, is unknown. [`AppendError::OwnThread`] where
    /// the window is full and this thread drives the log itself: nothing was appended.
    pub fn push<'a>(&mut self, write: impl Into<Write<'a>>) -> Result<Option<Position>, AppendError> {
        if self.len() >= self.most && !self.is_known() {
            // Left where it is until this one is accepted, so that an error of this one loses no position.
            let waited = self.oldest().and_then(|oldest| oldest.wait_timeout(Duration::MAX));
            if let Some(Err(AppendError::OwnThread)) = waited {
                return Err(AppendError::OwnThread);
            }
        }
        self.admit(write.into())?;
        self.try_next().transpose()
    }

    /// The same for tasks.
    ///
    /// # Errors
    /// As [`push`](Window::push).
    ///
    /// # Cancellation
    /// A future that is dropped before it is ready has appended nothing, and no position is lost.
    pub async fn push_async<'a>(
        &mut self,
        write: impl Into<Write<'a>>,
    ) -> Result<Option<Position>, AppendError> {
        if self.len() >= self.most && !self.is_known() {
            if let Some(oldest) = self.oldest() {
                std::future::poll_fn(|context| Pin::new(&mut *oldest).poll(context).map(drop)).await;
            }
        }
        let write = write.into();
        if !self.accept(&write) {
            let commit = self.log.append(write).admitted().await?;
            self.flying.push_back(commit.placed());
        }
        self.try_next().transpose()
    }

    /// What became of the oldest is known.
    #[inline]
    fn is_known(&self) -> bool {
        self.look().is_some()
    }

    #[inline]
    fn look(&self) -> Option<Result<Position, AppendError>> {
        if let Some(oldest) = &self.oldest {
            return oldest.try_result();
        }
        let placed = self.flying.front()?;
        let outcome =
            self.log.engine_of(placed.position.shard()).outcome(&placed.target)?.map_err(AppendError::from);
        Some(outcome.map(|()| placed.position))
    }

    /// The position of the oldest append in flight, or its error, if that is known now.
    pub fn try_next(&mut self) -> Option<Result<Position, AppendError>> {
        let result = self.look()?;
        if self.oldest.take().is_none() {
            self.flying.pop_front();
        }
        Some(result)
    }

    /// Appends in flight, durable ones that were not asked for included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.flying.len() + usize::from(self.oldest.is_some())
    }

    /// Whether nothing is in flight.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends everything that an iterator gives, and gives the positions in its order.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let log = sawmill::Log::open(dir.path())?;
    /// let lines = ["one", "two", "three"];
    /// let positions: Result<Vec<_>, _> = log.window(64).over(lines).collect();
    /// assert_eq!(positions?.len(), 3);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn over<'a, I>(self, writes: I) -> WindowIter<I::IntoIter>
    where
        I: IntoIterator,
        I::Item: Into<Write<'a>>,
    {
        WindowIter { window: self, writes: writes.into_iter().fuse(), refused: None }
    }
}

impl Iterator for Window {
    type Item = Result<Position, AppendError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(known) = self.try_next() {
            return Some(known);
        }
        self.oldest()?;
        self.oldest.take().map(Commit::wait)
    }
}

impl Stream for Window {
    type Item = Result<Position, AppendError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(known) = self.try_next() {
            return Poll::Ready(Some(known));
        }
        let Some(oldest) = self.oldest() else { return Poll::Ready(None) };
        let result = std::task::ready!(Pin::new(oldest).poll(context));
        self.oldest = None;
        Poll::Ready(Some(result))
    }
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Window")
            .field("most", &self.most)
            .field("in_flight", &self.len())
            .finish_non_exhaustive()
    }
}

/// The positions of what an iterator gives, appended with so many in flight. By [`Window::over`].
///
/// Ends at the first record that is refused, with its error, after the positions of those before it.
#[derive(Debug)]
#[must_use = "iterators are lazy"]
pub struct WindowIter<I> {
    window: Window,
    /// Not asked again after its end: what it gives then is not what was to be appended.
    writes: Fuse<I>,
    refused: Option<AppendError>,
}

impl<'a, I> Iterator for WindowIter<I>
where
    I: Iterator,
    I::Item: Into<Write<'a>>,
{
    type Item = Result<Position, AppendError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.refused.is_none() && self.window.len() < self.window.most {
            let Some(write) = self.writes.next() else { break };
            if let Err(error) = self.window.admit(write.into()) {
                self.refused = Some(error);
            }
        }
        match self.window.next() {
            None => {
                let error = self.refused.take()?;
                // Nothing more comes behind it.
                self.window.most = 0;
                Some(Err(error))
            }
            position => position,
        }
    }
}
