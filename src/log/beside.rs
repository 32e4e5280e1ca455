//! A shard that is read beside its owner: what its files say. Its key index: `beside_index.rs`.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::beside_index::ForeignIndex;
use super::follow_reader::Ticker;
use super::reader::{Finding, ShardSummary};
use crate::device::{Directory, PathState};
use crate::error::{OpenError, ReadError};
use crate::format::{LogManifest, ShardPlace};
use crate::position::{Lsn, ShardId};
use crate::read::{PutBack, Source};
use crate::recovery::{self, Facts, Scan, Verdict};
use crate::segment::{
    KnownBlocks, ManifestError, READ_BYTES, RandomReader, SegmentReader, StoreSnapshot, StoreView,
    look_at_all, newer_than,
};
use crate::shard::{Hint, KeyQuery};
use crate::sync::lock;
use crate::sys::Process;

/// Whether a folder's manifest is that of this shard of this log.
pub(super) fn is_of(snapshot: &StoreSnapshot, log_id: [u8; 16], shard: ShardId) -> bool {
    snapshot.manifest.log_id == log_id && snapshot.manifest.shard == shard.0
}

/// A shard of somebody else's.
#[derive(Debug)]
pub(super) struct ForeignShard {
    id: ShardId,
    log_id: [u8; 16],
    directory: Arc<dyn Directory>,
    block_bytes: u32,
    segment_bytes: u64,
    state: Mutex<State>,
    /// How often the owner was seen to have truncated.
    truncations: Arc<AtomicU64>,
    put_back: PutBack,
    /// What is read into, kept for the next call: of a scan, and of a lookup.
    scanner: Mutex<Option<SegmentReader>>,
    reader: Mutex<Option<SegmentReader>>,
    random_reader: Mutex<Option<RandomReader>>,
    known_blocks: KnownBlocks,
    index: ForeignIndex,
    /// For the tasks that follow it.
    ticker: Arc<Ticker>,
}

#[derive(Debug)]
struct State {
    snapshot: StoreSnapshot,
    view: Arc<StoreView>,
    /// How far the chain of the last epoch was read.
    scan: Scan,
    /// All below it was known to be durable once.
    served: Lsn,
}

/// An error unless a folder still is where it was when it was opened. Where that is not known it is taken for so.
pub(super) fn check_place(directory: &dyn Directory) -> Result<(), ReadError> {
    match directory.whereabouts() {
        Ok(PathState::Moved | PathState::Removed) => Err(replaced(directory)),
        Ok(PathState::Here) | Err(_) => Ok(()),
    }
}

fn replaced(directory: &dyn Directory) -> ReadError {
    ReadError::Replaced { path: directory.path().to_owned() }
}

impl ForeignShard {
    pub(super) fn new(
        log: &LogManifest,
        id: ShardId,
        directory: Arc<dyn Directory>,
        snapshot: StoreSnapshot,
    ) -> ForeignShard {
        let view = Arc::new(snapshot.view());
        let scan = Scan::from(&snapshot.manifest);
        ForeignShard {
            id,
            log_id: log.log_id,
            index: ForeignIndex::new(directory.clone()),
            directory,
            block_bytes: log.block_bytes,
            segment_bytes: log.segment_bytes,
            truncations: Arc::default(),
            put_back: PutBack::default(),
            state: Mutex::new(State { snapshot, view, scan, served: Lsn::MIN }),
            scanner: Mutex::default(),
            reader: Mutex::default(),
            random_reader: Mutex::default(),
            known_blocks: KnownBlocks::default(),
            ticker: Arc::default(),
        }
    }

    pub(super) fn log_id(&self) -> &[u8; 16] {
        &self.log_id
    }

    pub(super) fn ticker(&self) -> Arc<Ticker> {
        self.ticker.clone()
    }

    /// The end of all that its files tell of, durable or not.
    pub(super) fn known_end(&self) -> Lsn {
        let state = lock(&self.state);
        let manifest = &state.snapshot.manifest;
        state.scan.end.max(manifest.covered).max(manifest.clean_end.unwrap_or_default())
    }

    /// A tally's anchor testifies that the record that ends there is durable, which blocks need not say yet.
    pub(super) fn note_durable_record(&self, end: Lsn) {
        lock(&self.state).scan.note_durable_record(end);
    }

    /// All below this place is durable.
    pub(super) fn note_durable(&self, end: ShardPlace) {
        let mut state = lock(&self.state);
        let is_present = state.snapshot.manifest.epochs.last().is_some_and(|row| row.epoch == end.epoch);
        if is_present {
            state.scan.note_covered(end.lsn);
        }
    }

    pub(super) fn source(self: &Arc<ForeignShard>) -> Arc<dyn Source> {
        self.clone()
    }

    fn io(&self, source: io::Error) -> ReadError {
        ReadError::Io { shard: self.id, source: Arc::new(source) }
    }

    fn unreadable(&self, error: ManifestError) -> ReadError {
        self.io(io::Error::other(OpenError::manifest(self.directory.path())(error)))
    }

    /// Reads the manifest again; what it cannot read stays as it was. Where nothing has changed, which is mostly, that
    /// is all, and else only what is new is opened.
    fn reload(&self, state: &mut State) -> Result<(), ReadError> {
        check_place(self.directory.as_ref())?;
        state.served = state.served.max(state.scan.durable);
        let renewed = state.snapshot.renewed(self.directory.as_ref(), state.served);
        let renewed = renewed.map_err(|error| self.unreadable(error))?;
        let Some((snapshot, kept)) = renewed else { return Ok(()) };
        if !is_of(&snapshot, self.log_id, self.id) {
            return Err(replaced(self.directory.as_ref()));
        }
        let view = Arc::new(snapshot.view());
        let before = std::mem::replace(&mut state.view, view);
        if let Some(kept) = kept {
            self.put_back.note(kept);
            state.served = kept;
        }
        if before.horizon != state.view.horizon || before.epochs != state.view.epochs {
            self.truncations.fetch_add(1, Ordering::SeqCst);
        }
        // In the same epoch the chain only goes on, unless it was not known as far as the checkpoint, or an older copy
        // was put in its place.
        let same = snapshot.manifest.epochs.last() == state.snapshot.manifest.epochs.last();
        let goes_on = snapshot.manifest.checkpoint >= state.snapshot.manifest.checkpoint;
        if !same || !goes_on || state.scan.end < snapshot.manifest.checkpoint {
            state.scan = Scan::from(&snapshot.manifest);
        }
        state
            .scan
            .note_covered(snapshot.manifest.covered.max(snapshot.manifest.clean_end.unwrap_or_default()));
        state.snapshot = snapshot;
        Ok(())
    }

    /// Looks how far the log has got.
    pub(super) fn refresh(&self) -> Result<(), ReadError> {
        let mut reader = self.lend_scanner().map_err(|error| self.io(error))?;
        let advanced = self.advance(&mut lock(&self.state), &mut reader);
        self.take_scanner_back(reader);
        advanced
    }

    /// Reads the manifest again, then on along the chain from where the last look ended.
    fn advance(&self, state: &mut State, reader: &mut SegmentReader) -> Result<(), ReadError> {
        self.reload(state)?;
        let row = *state.snapshot.manifest.epochs.last().expect("a manifest has an epoch");
        let identity = state.snapshot.manifest.identity(&row);
        state.scan.advance(reader, &state.snapshot.segments, &identity, self.block_bytes);
        Ok(())
    }

    pub(super) fn summary(&self, slots: u32) -> Result<ShardSummary, ReadError> {
        self.refresh()?;
        let state = lock(&self.state);
        let manifest = &state.snapshot.manifest;
        Ok(ShardSummary {
            shard: self.id,
            horizon: manifest.horizon,
            durable_lsn: state.scan.durable,
            end: state.scan.end,
            checkpoint: manifest.checkpoint,
            closed: manifest.clean_end.is_some(),
            epoch: manifest.epochs.last().map_or(0, |row| row.epoch),
            slots,
            segments: manifest.segments.len(),
            segment_bytes: manifest.segments.iter().map(|row| row.bytes).sum(),
            path: self.directory.path().to_owned(),
        })
    }

    /// Judges the end as an open would. The owner may go on meanwhile: an end that moves is none.
    pub(super) fn verify_end(&self) -> Result<Option<Finding>, ReadError> {
        let mut last = None;
        loop {
            let looks = look_at_all(self.directory.as_ref(), &self.log_id, self.id.0);
            let looks = looks.map_err(|error| self.unreadable(error))?;
            let mut reader = self.lend_scanner().map_err(|error| self.io(error))?;
            let mut state = lock(&self.state);
            self.advance(&mut state, &mut reader)?;
            let (snapshot, scan) = (&state.snapshot, &state.scan);
            let newer = newer_than(&snapshot.manifest, &looks);
            let (segments, missing) = (&snapshot.segments, &snapshot.missing);
            let facts = Facts::gather(&mut reader, segments, &snapshot.manifest, missing, newer, scan);
            let Verdict::Damaged { lsn, cause } = recovery::judge(&facts) else { return Ok(None) };
            if last == Some((scan.end, snapshot.manifest.next_file)) {
                return Ok(Some(Finding::End { shard: self.id, lsn, cause }));
            }
            last = Some((scan.end, snapshot.manifest.next_file));
        }
    }
}

impl Source for ForeignShard {
    fn id(&self) -> ShardId {
        self.id
    }

    /// Whoever reads: nothing is kept between two calls but what was read of the manifest.
    fn process(&self) -> Process {
        Process::current()
    }

    fn view(&self) -> Arc<StoreView> {
        lock(&self.state).view.clone()
    }

    fn view_now(&self) -> Arc<StoreView> {
        let mut state = lock(&self.state);
        // If it cannot be read now, what was known stands, and the damage is told as it was found.
        let _ = self.reload(&mut state);
        state.view.clone()
    }

    fn truncations(&self) -> Arc<AtomicU64> {
        self.truncations.clone()
    }

    fn put_back(&self) -> Option<&PutBack> {
        Some(&self.put_back)
    }

    fn durable(&self) -> Lsn {
        lock(&self.state).scan.durable
    }

    fn written(&self) -> Lsn {
        self.durable()
    }

    fn flush(&self, lsn: Lsn, _whole: bool) -> Result<bool, ReadError> {
        let state = lock(&self.state);
        match state.scan.durable {
            durable if lsn < durable => Ok(true),
            // Of a log that was closed all is known.
            _ if state.snapshot.manifest.clean_end.is_some() => Ok(false),
            durable => Err(ReadError::NotDurableYet { shard: self.id, lsn, durable }),
        }
    }

    fn accepted_end(&self) -> Lsn {
        self.durable()
    }

    fn make_durable(&self, _end: Lsn) -> Result<(), ReadError> {
        Ok(())
    }

    fn key_places(&self, asked: &KeyQuery<'_>) -> (Vec<Hint>, Range<Lsn>) {
        self.index.key_places(&self.view(), asked)
    }

    fn block_bytes(&self) -> u32 {
        self.block_bytes
    }

    fn read_bytes(&self) -> usize {
        READ_BYTES.min(usize::try_from(self.segment_bytes).unwrap_or(usize::MAX))
    }

    fn lend_reader(&self) -> io::Result<SegmentReader> {
        let kept = lock(&self.reader).take();
        kept.map_or_else(|| SegmentReader::new(self.block_bytes as usize * 2), Ok)
    }

    fn give_back(&self, reader: SegmentReader) {
        keep(&self.reader, reader);
    }

    fn lend_random_reader(&self) -> io::Result<RandomReader> {
        let kept = lock(&self.random_reader).take();
        kept.map_or_else(RandomReader::new, Ok)
    }

    fn give_back_random(&self, mut reader: RandomReader) {
        reader.shrink();
        *lock(&self.random_reader) = Some(reader);
    }

    fn known_blocks(&self) -> &KnownBlocks {
        &self.known_blocks
    }

    fn lend_scanner(&self) -> io::Result<SegmentReader> {
        let kept = lock(&self.scanner).take();
        kept.map_or_else(|| SegmentReader::for_scan(self.block_bytes, self.read_bytes()), Ok)
    }

    fn take_scanner_back(&self, reader: SegmentReader) {
        keep(&self.scanner, reader);
    }
}

/// Keeps a reader for whoever is next, who reads anew: the owner writes on meanwhile.
fn keep(place: &Mutex<Option<SegmentReader>>, mut reader: SegmentReader) {
    reader.forget();
    let before = lock(place).replace(reader);
    drop(before);
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use crate::device::sim::{Faults, SimMachine};
    use crate::format::SegmentRow;
    use crate::log::LogReader;
    use crate::simulation::Simulated;
    use crate::sync::lock;
    use crate::{Log, Lsn, Options, ShardId};

    /// Each look at the files opens what it does not know, and nothing else.
    #[test]
    fn what_is_known_is_not_opened_again() {
        let machine = Simulated::seed(1);
        let options =
            Options::new().shards(1).block_bytes(4096).segment_bytes(64 << 10).memory_bytes(1 << 20);
        let log = options.device(&machine).open("/log").unwrap();
        let append = |count| (0..count).for_each(|_| _ = log.append([1; 3_900]).wait().unwrap());
        append(200);
        let reader = LogReader::open_on(machine.device().as_ref(), Path::new("/log")).unwrap();
        let shard = &reader.shards[0];
        let now = || {
            let state = lock(&shard.state);
            (state.view.clone(), state.snapshot.segments.clone())
        };
        shard.refresh().unwrap();
        let (view, segments) = now();
        assert!(segments.len() > 10);
        shard.refresh().unwrap();
        assert!(Arc::ptr_eq(&now().0, &view), "nothing has changed");
        // Some are new, some are gone, and some of those are used again.
        let (mut rows, mut again) = (Vec::new(), 0);
        for _ in 0..20 {
            let before = now().1;
            rows.extend(before.iter().map(|segment| segment.row));
            log.shard(ShardId(0)).truncate_before(before[before.len() / 2].base()).unwrap();
            append(100);
            assert_eq!(reader.merged(..).unwrap().last().unwrap().unwrap().payload(), [1; 3_900]);
            for segment in &now().1 {
                let known = before.iter().find(|known| known.row == segment.row);
                assert!(known.is_none_or(|known| Arc::ptr_eq(known, segment)), "{:?}", segment.row);
                let is_other = |row: &&SegmentRow| row.file == segment.row.file && **row != segment.row;
                again += rows.iter().filter(is_other).count();
            }
        }
        assert!(again > 0, "no file was used again: this shows less than it says");
    }

    /// Of two copies of the manifest the newer one cannot be read for a while, and the other is not current: what was
    /// seen of the log stands.
    #[test]
    fn a_copy_that_cannot_be_read_takes_nothing_back() {
        let dir = tempfile::tempdir().unwrap();
        let log = Options::new().shards(1).open(dir.path()).unwrap();
        let copies = ["0", "1"].map(|copy| dir.path().join(format!("shard-0000/shard.manifest.{copy}")));
        let first = log.append(b"first").wait().unwrap();
        let kept = log.append(b"kept").wait().unwrap();
        let older = copies.each_ref().map(|copy| std::fs::read(copy).unwrap());
        log.shard(ShardId(0)).truncate_before(kept.lsn()).unwrap();
        let newer = copies.each_ref().map(|copy| std::fs::read(copy).unwrap());
        // As where the second write of the two had failed.
        std::fs::write(&copies[0], &older[0]).unwrap();
        let reader = crate::Log::open_read_only(dir.path()).unwrap();
        let seen = || (reader.summary().unwrap()[0].horizon, reader.shard(ShardId(0)).durable_lsn().unwrap());
        let before = seen();
        assert!(before.0 > first.lsn() && before.1 >= kept.lsn());
        let mut spoiled = newer[1].clone();
        spoiled[20] ^= 1;
        std::fs::write(&copies[1], spoiled).unwrap();
        assert_eq!(seen(), before);
        std::fs::write(&copies[1], &newer[1]).unwrap();
        assert_eq!(seen(), before);
        // Where both say so, an older copy was put in their place.
        copies.iter().zip(&older).for_each(|(copy, bytes)| std::fs::write(copy, bytes).unwrap());
        assert!(seen().0 < before.0);
        copies.iter().zip(&newer).for_each(|(copy, bytes)| std::fs::write(copy, bytes).unwrap());
        log.close().unwrap();
    }

    /// The copies differ where a truncation found no room. What it was to say is seen then, and taken back with the next
    /// change: nothing was put back.
    #[test]
    fn a_truncation_that_is_taken_back_is_no_other_history() {
        let mut taken_back = 0;
        for seed in 0..20 {
            let machine = SimMachine::new(seed);
            let options =
                Options::new().shards(1).block_bytes(4096).segment_bytes(64 << 10).memory_bytes(1 << 20);
            let open = || options.clone().device(&Simulated::of(&machine)).open("/log").unwrap();
            let fill = |log: &Log| -> Vec<Lsn> {
                (0..40).map(|_| log.append([1; 3_900]).wait().unwrap().lsn()).collect()
            };
            let log = open();
            fill(&log);
            log.close().unwrap();
            let log = open();
            let own = fill(&log);
            let reader = LogReader::open_on(machine.device().as_ref(), Path::new("/log")).unwrap();
            let shard = reader.shard(ShardId(0));
            let mut tail = shard.follow(Lsn::MIN).unwrap();
            (0..60).for_each(|_| _ = tail.next().unwrap().unwrap());
            machine.set_faults(Faults { shared: 500, ..Faults::default() });
            let is_cut = log.shard(ShardId(0)).truncate_before(own[10]).is_ok();
            machine.set_faults(Faults::default());
            shard.durable_lsn().unwrap();
            let was_seen = shard.seen_horizon() == own[10];
            // The manifest is written again for the next segment.
            fill(&log);
            shard.durable_lsn().unwrap();
            taken_back += u32::from(was_seen && !is_cut && shard.seen_horizon() == Lsn::MIN);
            let next = tail.next().unwrap();
            assert_eq!(next.unwrap().lsn(), own[20], "{seed}");
        }
        assert!(taken_back > 2, "{taken_back}");
    }
}
