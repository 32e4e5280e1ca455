//! Where readers read from: a shard that is open here, or the files of one that somebody else owns.

use std::fmt::Debug;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::restored::PutBack;
use crate::error::ReadError;
use crate::position::{Lsn, ShardId};
use crate::segment::{KnownBlocks, RandomReader, SegmentReader, StoreView};
use crate::shard::{Engine, Hint, KeyQuery, RecentLast, Target};
use crate::sys::Process;
use crate::write::Durability;

/// A shard to read from, whoever owns it.
pub(crate) trait Source: Send + Sync + Debug {
    fn id(&self) -> ShardId;

    /// The process that may read here: elsewhere the memory is not mapped, and locks may be held by nobody.
    fn process(&self) -> Process;

    /// An error in a fork of that process.
    fn check_process(&self) -> Result<(), ReadError> {
        if self.process().is_current() { Ok(()) } else { Err(ReadError::Forked) }
    }

    /// What the shard has now.
    fn view(&self) -> Arc<StoreView>;

    /// The same, after a read that found something else than it should: a log of somebody else may
    /// have changed meanwhile.
    fn view_now(&self) -> Arc<StoreView> {
        self.view()
    }

    /// Counts how often the log was truncated, at either end: raised once the view shows it.
    fn truncations(&self) -> Arc<AtomicU64>;

    /// How often it was put back from an older copy; `None` where that cannot be, since it is owned here.
    fn put_back(&self) -> Option<&PutBack> {
        None
    }

    /// All below it is durable.
    fn durable(&self) -> Lsn;

    /// All below it is written.
    fn written(&self) -> Lsn;

    /// Shows the block at `lsn`, or the one that continues the chain from there, if it is still in memory.
    fn recall(&self, lsn: Lsn, take: &mut dyn FnMut(&[u8])) {
        let _ = (lsn, take);
    }

    /// Makes what was accepted up to `lsn` written, or everything if `whole`; false if nothing was
    /// accepted there.
    fn flush(&self, lsn: Lsn, whole: bool) -> Result<bool, ReadError>;

    /// The end of all that was accepted, where no batch goes on behind it.
    fn accepted_end(&self) -> Lsn;

    /// Waits until all that was accepted below `end` is durable.
    fn make_durable(&self, end: Lsn) -> Result<(), ReadError>;

    /// What the key index knows of a key's places in a stretch, in order; and the stretch that it was not asked for.
    fn key_places(&self, asked: &KeyQuery<'_>) -> (Vec<Hint>, Range<Lsn>);

    /// What is known in memory of the last record of a key that was accepted. `None` where nothing is.
    fn recent_last(&self, key: &[u8]) -> Option<RecentLast> {
        let _ = key;
        None
    }

    fn block_bytes(&self) -> u32;

    /// What a scan reads at a time.
    fn read_bytes(&self) -> usize;

    /// A reader that holds any block, kept from an earlier use if there is one.
    fn lend_reader(&self) -> io::Result<SegmentReader>;

    fn give_back(&self, reader: SegmentReader);

    /// A reader of single places, kept from an earlier use if there is one.
    fn lend_random_reader(&self) -> io::Result<RandomReader>;

    fn give_back_random(&self, reader: RandomReader);

    /// The blocks whose headers were read.
    fn known_blocks(&self) -> &KnownBlocks;

    /// A reader of whole segments, kept from an earlier use if there is one.
    fn lend_scanner(&self) -> io::Result<SegmentReader> {
        SegmentReader::for_scan(self.block_bytes(), self.read_bytes())
    }

    /// It may be kept, or not.
    fn take_scanner_back(&self, reader: SegmentReader) {
        drop(reader);
    }
}

impl Source for Engine {
    fn id(&self) -> ShardId {
        self.id
    }

    fn process(&self) -> Process {
        self.process()
    }

    fn view(&self) -> Arc<StoreView> {
        self.view()
    }

    fn truncations(&self) -> Arc<AtomicU64> {
        self.truncations()
    }

    fn durable(&self) -> Lsn {
        self.durable()
    }

    fn written(&self) -> Lsn {
        self.written()
    }

    fn recall(&self, lsn: Lsn, take: &mut dyn FnMut(&[u8])) {
        self.recall(lsn, take);
    }

    fn flush(&self, lsn: Lsn, whole: bool) -> Result<bool, ReadError> {
        let written = self.written();
        if written > lsn && !whole {
            return Ok(true);
        }
        let Some(last) = self.last_target(Durability::Written) else { return Ok(false) };
        if last.lsn < lsn {
            return Ok(false);
        }
        let target = if whole { last } else { Target { lsn, ..last } };
        if written > target.lsn {
            return Ok(true);
        }
        self.ask_sync(&last);
        match self.wait(&target, None) {
            Some(Ok(())) => Ok(true),
            Some(Err(error)) => Err(error.into()),
            None => Err(ReadError::Closed),
        }
    }

    fn accepted_end(&self) -> Lsn {
        // All blocks of a batch are opened under this lock.
        let _whole = self.opener();
        self.accepted_end()
    }

    fn make_durable(&self, end: Lsn) -> Result<(), ReadError> {
        // What was cut off meanwhile is waited for by nobody.
        let Some(last) = self.last_target(Durability::Synced).filter(|_| self.durable() < end) else {
            return Ok(());
        };
        let target = Target { lsn: last.lsn.min(Lsn(end.0 - 1)), ..last };
        self.ask_sync(&last);
        match self.wait(&target, None) {
            Some(outcome) => Ok(outcome?),
            None => Err(ReadError::Closed),
        }
    }

    fn key_places(&self, asked: &KeyQuery<'_>) -> (Vec<Hint>, Range<Lsn>) {
        self.some_key_places(asked)
    }

    fn recent_last(&self, key: &[u8]) -> Option<RecentLast> {
        self.recent_last(key)
    }

    fn block_bytes(&self) -> u32 {
        self.block_bytes()
    }

    fn read_bytes(&self) -> usize {
        self.read_bytes()
    }

    fn lend_reader(&self) -> io::Result<SegmentReader> {
        self.lend_reader()
    }

    fn give_back(&self, reader: SegmentReader) {
        self.give_back(reader);
    }

    fn lend_random_reader(&self) -> io::Result<RandomReader> {
        self.lend_random_reader()
    }

    fn give_back_random(&self, reader: RandomReader) {
        self.give_back_random(reader);
    }

    fn known_blocks(&self) -> &KnownBlocks {
        self.known_blocks()
    }

    fn lend_scanner(&self) -> io::Result<SegmentReader> {
        self.lend_scanner()
    }

    fn take_scanner_back(&self, reader: SegmentReader) {
        self.take_scanner_back(reader);
    }
}
