//! Following one key.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;

use super::Record;
use super::follow::{Follow, FollowStop};
use super::key_history::KeyHistory;
use crate::error::ReadError;
use crate::position::Position;
use crate::shard::Engine;

/// The records of a key, and those that come, each once it is durable. By [`Log::follow_key`](crate::Log::follow_key).
///
/// It waits and ends as a [`Follow`] does.
#[derive(Debug)]
#[must_use = "iterators are lazy"]
pub struct FollowKey(Follow);

impl FollowKey {
    pub(crate) fn new(
        engines: &[Arc<Engine>],
        history: &KeyHistory,
        key: &[u8],
        behind: Option<Position>,
    ) -> Result<FollowKey, ReadError> {
        history.check_process()?;
        let (part, from) = history.resume(behind)?;
        Ok(FollowKey(Follow::of_key(engines, part.source.id(), key, part.stretch.version, from)?))
    }

    /// A handle that ends this reader.
    #[must_use]
    pub fn stop(&self) -> FollowStop {
        self.0.stop()
    }

    /// The next record, for which it waits at most `timeout`.
    ///
    /// `None` if it ended or the time was over; [`Iterator::next`] tells which.
    pub fn next_timeout(&mut self, timeout: Duration) -> Option<Result<Record, ReadError>> {
        self.0.next_timeout(timeout)
    }
}

impl Iterator for FollowKey {
    type Item = Result<Record, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }
}

impl Stream for FollowKey {
    type Item = Result<Record, ReadError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.0).poll_next(context)
    }
}
