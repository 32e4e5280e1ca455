//! What an operator should know: one line each, logged once and kept for `stats()`.

#[cfg(feature = "tracing")]
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use crate::sync::lock;

/// RetentionPin lines; more would be a log file of their own.
const KEPT_MAX: usize = 64;

/// The lines of one log.
#[derive(Debug, Default)]
pub(crate) struct Notices(Mutex<Vec<String>>);

/// Lets the application's subscriber have a line. What panics there ends there: the line may be told in the middle of
/// stopping a shard, or by a thread that everybody needs.
#[cfg(feature = "tracing")]
fn tell(line: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(line));
}

impl Notices {
    fn keep(&self, text: String) {
        let mut lines = lock(&self.0);
        if lines.len() < KEPT_MAX {
            lines.push(text);
        }
    }

    pub(crate) fn info(&self, text: String) {
        #[cfg(feature = "tracing")]
        tell(|| tracing::info!(target: "sawmill", "{text}"));
        self.keep(text);
    }

    pub(crate) fn warn(&self, text: String) {
        #[cfg(feature = "tracing")]
        tell(|| tracing::warn!(target: "sawmill", "{text}"));
        self.keep(text);
    }

    pub(crate) fn error(&self, text: String) {
        #[cfg(feature = "tracing")]
        tell(|| tracing::error!(target: "sawmill", "{text}"));
        self.keep(text);
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        lock(&self.0).clone()
    }
}
