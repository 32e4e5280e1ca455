//! What a shard has on disk, and every change to it.

use std::cmp::Reverse;
use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::before_horizon::LookBack;
use super::draft::{Draft, Size, is_want_of_room, zeros};
use super::files::OpenFiles;
use super::names::segment_name;
use super::unlisted::{Spare, Stray, Unlisted};
use super::view::{Segment, StoreView, open_segments, view_of};
use super::{ManifestError, ManifestFiles, Marks};
use crate::device::{Directory, File, Lock, PathState};
use crate::format::{EpochRow, EpochTable, GRANULE, SegmentRow, ShardManifest, SlotKind};
use crate::position::Lsn;

pub(super) const PREFIX: &str = "shard";

/// Spare files kept for reuse, as a multiple of the largest segment.
const SPARE_SEGMENTS: u64 = 2;

/// A shard's folder, and the only place that changes it.
#[derive(Debug)]
pub(crate) struct ShardStore {
    directory: Arc<dyn Directory>,
    slots: ManifestFiles,
    pub(super) manifest: ShardManifest,
    pub(super) segments: Vec<Arc<Segment>>,
    /// See [`StoreView`].
    bare_from: Lsn,
    files: Arc<OpenFiles>,
    /// No longer listed; a reader may still hold them.
    retired: Vec<Arc<Segment>>,
    /// Files that nothing lists.
    spares: Vec<Spare>,
    spare_bytes_max: u64,
    /// Files with a segment's name that are left alone, and their numbers too.
    strays: Vec<Stray>,
    /// The number of a file which shows that the manifest is older than the log.
    newer: Option<u32>,
    /// Files that a copy of the manifest may list on disk, and that is not so here: none of them is removed.
    perhaps_listed: Vec<u32>,
    /// The log is closed, and the folder may be somebody else's: nothing more is written.
    closed: bool,
    /// What makes the folder this process' own, once it is to be written to.
    lock: Option<Arc<dyn Lock>>,
    /// Why the folder is not this process' own any more: nothing more is written.
    lost: Option<String>,
}

impl ShardStore {
    /// Makes a shard in an empty folder, durably.
    pub(crate) fn create(
        directory: Arc<dyn Directory>,
        log_id: [u8; 16],
        shard: u16,
        nonce: u64,
    ) -> io::Result<()> {
        let mut epochs = EpochTable::default();
        epochs.push(EpochRow { epoch: 1, empty_from: 0, nonce, start: 0, cut: 0 });
        let manifest = ShardManifest {
            log_id,
            shard,
            next_epoch: 2,
            next_file: 1,
            map_version: 0,
            horizon: Lsn::MIN,
            checkpoint: Lsn::MIN,
            covered: Lsn::MIN,
            clean_end: Some(Lsn::MIN),
            timestamp: 0,
            epochs,
            segments: Vec::new(),
        };
        ManifestFiles::create(directory.as_ref(), PREFIX, SlotKind::Shard, &manifest.encode())?;
        directory.sync()
    }

    /// Reads the manifest and opens what it lists. Nothing is written. Of the files to which nothing is written any
    /// more at most `open_files_max` stay open.
    ///
    /// Beside it come the segments that are missing or shorter than they were made, and the name of the manifest's copy
    /// that is not what it should be, if one is not.
    pub(crate) fn open(
        directory: Arc<dyn Directory>,
        spare_bytes_max: u64,
        open_files_max: usize,
    ) -> Result<(ShardStore, Vec<SegmentRow>, Option<String>), ManifestError> {
        let (slots, body, stale_copy) = ManifestFiles::open(directory.as_ref(), PREFIX, SlotKind::Shard)?;
        let mut manifest =
            ShardManifest::decode(&body).map_err(|defect| ManifestError::Damaged([defect; 2]))?;
        let files = OpenFiles::new(directory.clone(), open_files_max);
        let settled = manifest.checkpoint;
        let (segments, missing) = open_segments(directory.as_ref(), &manifest, &[], &files, settled)?;
        let spare_bytes_max = spare_bytes_max * SPARE_SEGMENTS;
        let found = Unlisted::find(directory.as_ref(), &manifest, &files, spare_bytes_max)?;
        let Unlisted { spares, strays, newer } = found;
        // A crash between making a file and listing it leaves a number that the manifest has not counted: listed like
        // that, the manifest would be refused as damaged.
        let above = spares.iter().map(|spare| spare.number + 1).max();
        manifest.next_file = manifest.next_file.max(above.unwrap_or(0));
        let bare_from = LookBack::of(&manifest, &manifest, &segments).bare_from(manifest.horizon);
        let store = ShardStore {
            directory,
            slots,
            manifest,
            segments,
            bare_from,
            files,
            retired: Vec::new(),
            spares,
            spare_bytes_max,
            strays,
            newer,
            perhaps_listed: Vec::new(),
            closed: false,
            lock: None,
            lost: None,
        };
        Ok((store, missing, stale_copy))
    }

    pub(crate) fn manifest(&self) -> &ShardManifest {
        &self.manifest
    }

    /// The name of the copy that it was read from.
    pub(crate) fn manifest_name(&self) -> &str {
        self.slots.name()
    }

    pub(crate) fn directory(&self) -> &Arc<dyn Directory> {
        &self.directory
    }

    pub(crate) fn segments(&self) -> &[Arc<Segment>] {
        &self.segments
    }

    pub(crate) fn view(&self) -> StoreView {
        view_of(&self.manifest, &self.segments, self.bare_from)
    }

    /// Whether a file of this name in a shard's folder is a copy of its manifest.
    pub(crate) fn is_manifest(name: &str) -> bool {
        ManifestFiles::is_copy(PREFIX, name)
    }

    /// Files that look like segments, and are left alone.
    pub(crate) fn strays(&self) -> &[Stray] {
        &self.strays
    }

    /// The number of a file which shows that the manifest is older than the log.
    pub(crate) fn newer(&self) -> Option<u32> {
        self.newer
    }

    /// All segments, and the files that are left alone which are of this shard, too.
    pub(crate) fn all_segments(&self) -> Vec<Arc<Segment>> {
        self.segments.iter().chain(self.strays.iter().filter_map(Stray::segment)).cloned().collect()
    }

    /// From now on the folder is written to, for as long as it is this lock's.
    pub(crate) fn is_owned_by(&mut self, lock: Arc<dyn Lock>) {
        self.lock = Some(lock);
    }

    /// Makes sure that the folder and what is in it are still this process' own, and says what has become of their
    /// paths.
    ///
    /// # Errors
    /// Where they are not. That is for good.
    pub(crate) fn check_owned(&mut self) -> io::Result<PathState> {
        if self.lost.is_none() {
            match self.look_at_ownership() {
                Ok(Some(found)) => return Ok(found),
                Ok(None) => self.lost = Some("the folder was removed".to_owned()),
                Err(error) => self.lost = Some(error.to_string()),
            }
        }
        Err(self.lost().expect("just set"))
    }

    /// `None` where the folder is gone.
    fn look_at_ownership(&self) -> io::Result<Option<PathState>> {
        let log = self.lock.as_ref().map_or(Ok(PathState::Here), |lock| lock.check())?;
        let found = self.directory.whereabouts()?.max(log);
        if found == PathState::Removed {
            return Ok(None);
        }
        self.slots.check_names(self.directory.as_ref(), PREFIX)?;
        Ok(Some(found))
    }

    /// Why the folder is not this process' own any more.
    pub(crate) fn lost(&self) -> Option<io::Error> {
        self.lost.as_ref().map(|why| io::Error::other(why.clone()))
    }

    /// Whether anything may be changed.
    fn check_usable(&mut self) -> io::Result<()> {
        match (self.closed, self.slots.is_broken()) {
            (true, _) => Err(io::Error::other("the log is closed")),
            (_, true) => Err(io::Error::other("an earlier write of the manifest failed")),
            _ => self.check_owned().map(drop),
        }
    }

    /// Makes `next` the manifest, durably; on an error the old one stays in force here.
    pub(super) fn commit(&mut self, next: ShardManifest) -> io::Result<()> {
        self.check_usable()?;
        let body = next.checked().map_err(|defect| io::Error::new(io::ErrorKind::InvalidData, defect))?;
        if let Err(error) = self.slots.write(&body) {
            // One copy may hold the new state and the other the old one: only a reopen can tell, or the next write.
            if self.slots.is_in_doubt() {
                let new = next.segments.iter().filter(|row| !self.manifest.segments.contains(row));
                self.perhaps_listed.extend(new.map(|row| row.file));
                self.perhaps_listed.sort_unstable();
                self.perhaps_listed.dedup();
            }
            return Err(error);
        }
        self.perhaps_listed.clear();
        self.manifest = next;
        Ok(())
    }

    /// The present manifest with the marks renewed; an old pair is never wrong, so they only rise.
    pub(super) fn renewed(&self, marks: &Marks) -> ShardManifest {
        let mut next = self.manifest.clone();
        next.checkpoint = next.checkpoint.max(marks.checkpoint);
        next.covered = next.covered.max(marks.covered).max(next.checkpoint);
        next.timestamp = next.timestamp.max(marks.timestamp);
        next
    }

    /// Where the first block of the last epoch goes, whether there is one or not.
    pub(crate) fn last_epoch_start(&self) -> Lsn {
        self.manifest.epochs.last().map_or(Lsn::MIN, |last| Lsn(last.start))
    }

    /// The file of a new segment of at least `need` bytes, which is not listed yet.
    ///
    /// A spare that is large enough is taken first: its extents are written already. Where no file of that size can be
    /// made, as on a full disk, a smaller spare will do, and then as large a file as there is room for.
    pub(crate) fn draft(&mut self, size: Size, need: u64) -> io::Result<Draft> {
        // Before any file is touched: a copy on disk may list what is a spare here.
        self.check_usable()?;
        self.collect_retired();
        let Size { floor, least, bytes } = size.at_least(need);
        if let Some(spare) = self.take_spare(least..=bytes.saturating_mul(4)) {
            return spare;
        }
        let number = self.take_number()?;
        match self.make_file(number, bytes).map(|draft| Draft { floor, ..draft }) {
            Ok(draft) => {
                // Sizes grow: these would hardly be used again.
                self.remove_spares(|spare| spare.bytes < size.least);
                Ok(draft)
            }
            Err(error) => self
                .take_spare(need.max(GRANULE)..=u64::MAX)
                .unwrap_or_else(|| self.make_smaller_file(number, bytes, floor, error)),
        }
    }

    /// The largest spare of a size in the range, if there is one.
    fn take_spare(&mut self, sizes: RangeInclusive<u64>) -> Option<io::Result<Draft>> {
        loop {
            let fitting = self.spares.iter().enumerate().filter(|(_, spare)| sizes.contains(&spare.bytes));
            let (index, _) = fitting.max_by_key(|(_, spare)| spare.bytes)?;
            let Spare { number, bytes, id } = self.spares.swap_remove(index);
            let file = self.directory.open(&segment_name(number)).and_then(|file| match file.id()? == id {
                true => Ok(file),
                false => Err(io::Error::other("a spare segment was replaced by another file")),
            });
            let secured = file.as_ref().map_or(Ok(()), |file| file.secure(0..bytes));
            let draft =
                file.map(|file| Draft { number, bytes, floor: bytes, file, zeros: None, is_reserved: true });
            if (draft.is_err() || secured.is_err()) && !self.perhaps_listed.contains(&number) {
                // Of no use: give its space back.
                let _ = self.directory.remove_file(&segment_name(number), id);
            }
            if secured.is_ok() {
                return Some(draft);
            }
        }
    }

    /// A file of half the size, or half of that, where `error` says that there was no room for one of `bytes`.
    fn make_smaller_file(&self, number: u32, bytes: u64, floor: u64, error: io::Error) -> io::Result<Draft> {
        if !is_want_of_room(&error) || floor >= bytes {
            return Err(error);
        }
        // First the smallest: where there is no room at all, it is not looked for in vain again and again.
        self.discard(&self.make_file(number, floor)?);
        let mut bytes = bytes;
        while bytes / 2 > floor {
            bytes = (bytes / 2).next_multiple_of(GRANULE);
            match self.make_file(number, bytes) {
                Err(next) if is_want_of_room(&next) => {}
                made => return made,
            }
        }
        self.make_file(number, floor)
    }

    /// A number for a new file. Taken, whatever becomes of it: the next manifest says so.
    fn take_number(&mut self) -> io::Result<u32> {
        while self.strays.iter().any(|stray| stray.number() == self.manifest.next_file) {
            self.manifest.next_file += 1;
        }
        let number = self.manifest.next_file;
        self.manifest.next_file =
            number.checked_add(1).ok_or_else(|| io::Error::other("no segment's number is left"))?;
        Ok(number)
    }

    fn make_file(&self, number: u32, bytes: u64) -> io::Result<Draft> {
        let name = segment_name(number);
        let file = match self.directory.create(&name) {
            // Left by a crash between making and listing. With something in it, it is somebody else's.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let left = self.directory.open(&name)?;
                if left.bytes()? > 0 {
                    return Err(error);
                }
                self.directory.remove_file(&name, left.id()?)?;
                self.directory.create(&name)?
            }
            made => made?,
        };
        let taken = file.allocate(bytes).and_then(|is_reserved| {
            let fills = self.directory.capabilities().direct || !is_reserved;
            Ok((is_reserved, fills.then(zeros).transpose()?))
        });
        match taken {
            Ok((is_reserved, zeros)) => Ok(Draft { number, bytes, floor: bytes, file, zeros, is_reserved }),
            Err(error) => {
                let _ = self.remove_own(number, file.as_ref());
                Err(error)
            }
        }
    }

    /// Removes the name of a segment's file if it is this one's, and no copy of the manifest may list it.
    fn remove_own(&self, number: u32, file: &dyn File) -> io::Result<()> {
        if self.perhaps_listed.contains(&number) {
            return Ok(());
        }
        self.directory.remove_file(&segment_name(number), file.id()?)
    }

    /// Makes sure that what is appended from `from` on finds its space in the segments that are listed.
    pub(crate) fn secure(&self, from: Lsn) -> io::Result<()> {
        for segment in self.segments.iter().filter(|segment| segment.end() > from) {
            let SegmentRow { base, bytes, .. } = segment.row;
            segment.file.secure(from.0.max(base) - base..bytes)?;
        }
        Ok(())
    }

    /// Lists a draft behind the last segment, or at `from` if that is above it, and returns it.
    pub(crate) fn list(&mut self, draft: Draft, from: Lsn, marks: &Marks) -> io::Result<Arc<Segment>> {
        let Draft { number, bytes, file, .. } = draft;
        // Its name and size are durable before the manifest that lists it.
        let durable = file.sync().and_then(|()| self.directory.sync());
        if let Err(error) = durable {
            let _ = self.remove_own(number, file.as_ref());
            return Err(error);
        }
        let id = file.id()?;
        let base = self.segments.last().map_or(from, |last| last.end().max(from));
        let row = SegmentRow { base: base.0, bytes, file: number, reserved: 0 };
        let mut next = self.renewed(marks);
        next.segments.push(row);
        if let Err(error) = self.commit(next) {
            self.spares.push(Spare { number, bytes, id });
            return Err(error);
        }
        let segment = Arc::new(Segment::new(row, file));
        self.close_settled(marks.checkpoint);
        self.segments.push(segment.clone());
        Ok(segment)
    }

    /// Closes the files below `durable`: nothing is written there any more, nor waits for a sync.
    fn close_settled(&mut self, durable: Lsn) {
        let settled = self.segments.iter_mut().filter(|segment| segment.end() <= durable);
        for segment in settled.filter(|segment| segment.is_held_open()) {
            // One that cannot be told from others stays open.
            if let Ok(closed) = segment.closed(&self.files) {
                *segment = Arc::new(closed);
            }
        }
    }

    /// Gives back the space of a draft that could not be filled.
    pub(crate) fn discard(&self, draft: &Draft) {
        let _ = self.remove_own(draft.number, draft.file.as_ref());
    }

    /// Makes everything below `horizon` unreachable, durably, and frees the segments below it.
    ///
    /// Segments that recovery or the committer may still need stay: those that reach above the
    /// checkpoint, and from `active` on.
    pub(crate) fn truncate_before(&mut self, horizon: Lsn, active: Lsn, marks: &Marks) -> io::Result<()> {
        let mut next = self.renewed(marks);
        next.horizon = next.horizon.max(horizon);
        let look_back = LookBack::of(&self.manifest, &self.manifest, &self.segments);
        let bare_from = look_back.raised(self.bare_from, next.horizon);
        let keep_from = next.horizon.min(next.checkpoint).min(active);
        let freed = next.segments.iter().take_while(|row| row.end() <= keep_from).count();
        next.segments.drain(..freed);
        next.epochs.prune(next.horizon.min(next.checkpoint));
        if next != self.manifest {
            self.commit(next)?;
            self.bare_from = bare_from;
            self.retired.extend(self.segments.drain(..freed));
            self.collect_retired();
        }
        Ok(())
    }

    /// Turns segments that no reader holds any more into spares, and spares above the bound into
    /// free space.
    fn collect_retired(&mut self) {
        if self.slots.is_broken() {
            return; // What the copy on disk lists is not known: every file stays.
        }
        let (free, held): (Vec<_>, Vec<_>) = self.retired.drain(..).partition(Segment::is_free);
        self.retired = held;
        // One that cannot be told from others stays where it is: it is a spare after the next open.
        self.spares.extend(free.iter().filter_map(|segment| {
            let SegmentRow { file: number, bytes, .. } = segment.row;
            Some(Spare { number, bytes, id: segment.file.id().ok()? })
        }));
        let (mut kept, most) = (0, self.spare_bytes_max);
        self.spares.sort_unstable_by_key(|spare| (Reverse(spare.bytes), spare.number));
        self.remove_spares(|spare| {
            kept += spare.bytes;
            kept > most
        });
    }

    fn remove_spares(&mut self, mut is_one: impl FnMut(&Spare) -> bool) {
        let perhaps_listed = &self.perhaps_listed;
        let is_gone = |spare: &Spare| is_one(spare) && !perhaps_listed.contains(&spare.number);
        let (gone, kept) = self.spares.drain(..).partition(is_gone);
        self.spares = kept;
        for Spare { number, id, .. } in gone {
            // If it cannot be removed it is a spare again after the next open.
            let _ = self.directory.remove_file(&segment_name(number), id);
        }
    }

    /// Writes that the log was closed with everything durable up to `end`.
    pub(crate) fn close(&mut self, end: Lsn, marks: &Marks) -> io::Result<()> {
        let mut next = self.renewed(marks);
        next.clean_end = Some(end);
        let committed = self.commit(next);
        self.closed = true;
        committed
    }
}
