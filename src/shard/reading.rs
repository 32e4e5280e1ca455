//! What readers of a shard find: its segments, blocks that are still in memory, buffers to read into.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use super::Engine;
use crate::position::Lsn;
use crate::segment::{KnownBlocks, RandomReader, SegmentReader, ShardStore, StoreView};
use crate::sync::lock;
use crate::write::Durability;

/// Buffers that are kept; more readers than that at once get new ones.
const READERS_KEPT: usize = 4;

/// Of those that read whole segments: of all that wait, one is soon the first to go on.
const SCANNERS_KEPT: usize = 1;

/// What readers touch.
#[derive(Debug)]
pub(super) struct Reading {
    view: RwLock<Arc<StoreView>>,
    /// How often the view has lost something: what a reader has read before that is not to be served any more.
    truncations: Arc<AtomicU64>,
    /// Readers' buffers, kept for the next lookup.
    readers: Mutex<Vec<SegmentReader>>,
    random_readers: Mutex<Vec<RandomReader>>,
    known_blocks: KnownBlocks,
    scanners: Mutex<Vec<SegmentReader>>,
    read_bytes: usize,
}

impl Reading {
    pub(super) fn new(store: &ShardStore, read_bytes: usize) -> Reading {
        let view = RwLock::new(Arc::new(store.view()));
        Reading {
            view,
            truncations: Arc::default(),
            readers: Mutex::default(),
            random_readers: Mutex::default(),
            known_blocks: KnownBlocks::default(),
            scanners: Mutex::default(),
            read_bytes,
        }
    }
}

impl Engine {
    pub(crate) fn view(&self) -> Arc<StoreView> {
        self.reading.view.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    pub(crate) fn publish_view(&self, store: &ShardStore) {
        let new = Arc::new(store.view());
        let mut view = self.reading.view.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let truncated = view.horizon != new.horizon || view.epochs != new.epochs;
        *view = new;
        if truncated {
            self.reading.truncations.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// The end of what was accepted, or of what is durable where nothing was since the open.
    pub(crate) fn accepted_end(&self) -> Lsn {
        let last = self.last_target(Durability::Written);
        last.map_or(Lsn::MIN, |last| Lsn(last.lsn.0 + 1)).max(self.durable())
    }

    pub(crate) fn truncations(&self) -> Arc<AtomicU64> {
        self.reading.truncations.clone()
    }

    /// Shows the block at `lsn`, or the one that continues the chain from there, if it is still in memory:
    /// for a short while, in which it cannot be opened anew.
    pub(crate) fn recall(&self, lsn: Lsn, take: &mut dyn FnMut(&[u8])) {
        // In a forked child the pool is not mapped.
        if !self.in_opening_process() {
            return;
        }
        if let Some(block) = self.pool.recall(lsn) {
            self.counters.memory_hits.fetch_add(1, Ordering::Relaxed);
            take(&block);
        }
    }

    /// A reader that holds any block; its buffer is kept for the next one.
    pub(crate) fn lend_reader(&self) -> io::Result<SegmentReader> {
        let kept = lock(&self.reading.readers).pop();
        kept.map_or_else(|| SegmentReader::new(self.pool.block_bytes() as usize * 2), Ok)
    }

    pub(crate) fn give_back(&self, mut reader: SegmentReader) {
        reader.forget();
        let mut readers = lock(&self.reading.readers);
        if readers.len() < READERS_KEPT {
            readers.push(reader);
        }
    }

    /// A reader of single places; it is kept for the next one.
    pub(crate) fn lend_random_reader(&self) -> io::Result<RandomReader> {
        let kept = lock(&self.reading.random_readers).pop();
        kept.map_or_else(RandomReader::new, Ok)
    }

    pub(crate) fn give_back_random(&self, mut reader: RandomReader) {
        reader.shrink();
        let mut readers = lock(&self.reading.random_readers);
        if readers.len() < READERS_KEPT {
            readers.push(reader);
        }
    }

    pub(crate) fn known_blocks(&self) -> &KnownBlocks {
        &self.reading.known_blocks
    }

    /// A reader of whole segments; one that waits has given it back for the next that goes on.
    pub(crate) fn lend_scanner(&self) -> io::Result<SegmentReader> {
        let kept = lock(&self.reading.scanners).pop();
        kept.map_or_else(|| SegmentReader::for_scan(self.block_bytes(), self.read_bytes()), Ok)
    }

    pub(crate) fn take_scanner_back(&self, mut reader: SegmentReader) {
        reader.forget();
        let mut scanners = lock(&self.reading.scanners);
        if scanners.len() < SCANNERS_KEPT {
            scanners.push(reader);
        }
    }

    /// What a scan reads at a time.
    pub(crate) fn read_bytes(&self) -> usize {
        self.reading.read_bytes.min(usize::try_from(self.segment_bytes()).unwrap_or(usize::MAX))
    }
}
