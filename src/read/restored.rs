//! A shard that is put back from an older copy while it is read beside its owner: in one reader the records of two histories
//! do not mix.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Source;
use crate::error::ReadError;
use crate::position::Lsn;
use crate::sync::lock;

/// How often a shard was seen to have been put back, and up to where it then was what had been read of it.
#[derive(Debug, Default)]
pub(crate) struct PutBack {
    times: AtomicUsize,
    kept: Mutex<Vec<Lsn>>,
}

impl PutBack {
    /// It was, and from `kept` on may have other records than before. Noted before anybody reads them.
    pub(crate) fn note(&self, kept: Lsn) {
        let mut all = lock(&self.kept);
        all.push(kept);
        self.times.store(all.len(), Ordering::SeqCst);
    }

    fn times(&self) -> usize {
        self.times.load(Ordering::SeqCst)
    }

    /// Up to where it is what it was so many times ago; `None` if it was not put back since.
    fn kept_since(&self, times: usize) -> Option<Lsn> {
        if self.times() == times {
            return None;
        }
        lock(&self.kept)[times..].iter().min().copied()
    }
}

/// Which history of its shard a reader reads.
#[derive(Debug)]
pub(super) struct History {
    /// How often the shard had been put back when this was looked at last.
    times: usize,
    is_over: bool,
    /// Of a shard that is owned here there is one alone, and nothing is asked.
    is_only: bool,
}

impl History {
    pub(super) fn of(source: &dyn Source) -> History {
        let put_back = source.put_back();
        History { times: put_back.map_or(0, PutBack::times), is_over: false, is_only: put_back.is_none() }
    }

    /// Whether the reader was told that its history is over: then it gives nothing any more.
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// Asked after a reader has read: whether the shard was put back since it last asked. Then what was looked up before is
    /// not to be believed.
    ///
    /// # Errors
    /// Once, where `reach`, up to where the reader has read or is to read, lies behind what was kept.
    #[inline]
    pub(super) fn check(&mut self, source: &dyn Source, reach: Lsn) -> Result<bool, ReadError> {
        if self.is_only { Ok(false) } else { self.look(source, reach) }
    }

    fn look(&mut self, source: &dyn Source, reach: Lsn) -> Result<bool, ReadError> {
        let Some(put_back) = source.put_back() else { return Ok(false) };
        let times = put_back.times();
        let Some(kept) = put_back.kept_since(self.times) else { return Ok(false) };
        self.times = times;
        if reach <= kept {
            return Ok(true);
        }
        self.is_over = true;
        Err(ReadError::OtherHistory { shard: source.id(), lsn: reach, kept })
    }
}
