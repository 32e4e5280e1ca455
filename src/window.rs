//! Appends in flight, bounded and in order.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;

use crate::commit::Commit;
use crate::error::AppendError;
use crate::log::Log;
use crate::position::Position;
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
///     if let Some(position) = window.push(number.to_le_bytes())? {
///         // ... durable: say so to whoever asked ...
/// #       let _ = position;
///     }
/// }
/// for position in &mut window {
///     position?;
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use]
pub struct Window {
    log: Log,
    most: usize,
    flying: VecDeque<Commit>,
}

impl Window {
    pub(crate) fn new(log: Log, most: usize) -> Window {
        assert!(most > 0, "a window holds at least one append");
        // A window of a million need not take its memory before it is that full.
        Window { log, most, flying: VecDeque::with_capacity(most.min(4096)) }
    }

    /// Appends a record, and gives the position of the oldest one in flight if it is durable, for which it
    /// waits if the window is full. Waits for room in the log, too.
    ///
    /// # Errors
    /// Of this append, which was not accepted then, or of the oldest one
    /// ([`AppendError::ShardFailed`]), after which this one, too, is unknown.
    pub fn push<'a>(&mut self, write: impl Into<Write<'a>>) -> Result<Option<Position>, AppendError> {
        if self.flying.len() >= self.most {
            // Left where it is until this one is accepted, so that an error of this one loses no position.
            let _ = self.flying[0].wait_timeout(Duration::MAX);
        }
        self.flying.push_back(self.log.append(write).admitted().wait()?);
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
        if self.flying.len() >= self.most {
            std::future::poll_fn(|context| Pin::new(&mut self.flying[0]).poll(context).map(drop)).await;
        }
        let admitted = self.log.append(write).admitted();
        self.flying.push_back(admitted.await?);
        self.try_next().transpose()
    }

    /// The position of the oldest append in flight, or its error, if that is known now.
    pub fn try_next(&mut self) -> Option<Result<Position, AppendError>> {
        let result = self.flying.front()?.try_result()?;
        self.flying.pop_front();
        Some(result)
    }

    /// Appends in flight, durable ones that were not asked for included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.flying.len()
    }

    /// Whether nothing is in flight.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.flying.is_empty()
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
    pub fn over<'a, I>(self, writes: I) -> Over<I::IntoIter>
    where
        I: IntoIterator,
        I::Item: Into<Write<'a>>,
    {
        Over { window: self, writes: writes.into_iter(), refused: None }
    }
}

impl Iterator for Window {
    type Item = Result<Position, AppendError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.flying.pop_front().map(Commit::wait)
    }
}

impl Stream for Window {
    type Item = Result<Position, AppendError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(oldest) = self.flying.front_mut() else { return Poll::Ready(None) };
        let result = std::task::ready!(Pin::new(oldest).poll(context));
        self.flying.pop_front();
        Poll::Ready(Some(result))
    }
}

/// The positions of what an iterator gives, appended with so many in flight. By [`Window::over`].
///
/// Ends at the first record that is refused, with its error, after the positions of those before it.
#[derive(Debug)]
#[must_use = "iterators are lazy"]
pub struct Over<I> {
    window: Window,
    writes: I,
    refused: Option<AppendError>,
}

impl<'a, I> Iterator for Over<I>
where
    I: Iterator,
    I::Item: Into<Write<'a>>,
{
    type Item = Result<Position, AppendError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.refused.is_none() && self.window.len() < self.window.most {
            let Some(write) = self.writes.next() else { break };
            match self.window.log.append(write).admitted().wait() {
                Ok(commit) => self.window.flying.push_back(commit),
                Err(error) => self.refused = Some(error),
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
