//! A manifest's two copies.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::draft::is_want_of_room;
use super::manifest_error::{ManifestError, of_file};
use crate::device::{Directory, File};
use crate::format::{
    Defect, GRANULE, SLOT_HEADER_BYTES, SlotKind, decode_slot, encode_slot, round_to_granule, slot_bytes,
};
use crate::pool::AlignedBuffer;

/// Room for 2,600 segments or 2,000 epochs at once; it grows beyond that.
const SLOT_BYTES: u64 = 64 << 10;

/// A write of a copy takes a millisecond or so; this is far more.
const PEEKS_MAX: u32 = 200;

/// The two files of a manifest. The higher valid sequence number counts; the lower or invalid copy
/// is overwritten first, and durable before the other is touched.
#[derive(Debug)]
pub(crate) struct ManifestFiles {
    kind: SlotKind,
    files: [Arc<dyn File>; 2],
    /// Where they were, for messages.
    paths: [PathBuf; 2],
    sequence: u64,
    /// The copy to overwrite first.
    lower: usize,
    capacity: u64,
    state: State,
}

/// What a write that failed has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Sound,
    /// One copy may hold what was to be written, in full or in part, and the other has what was there before: there was
    /// no room. The lower one, or what there is of it, is written again before the other is touched.
    InDoubt,
    /// What the copies hold shows at the next open: nothing more is written.
    Broken,
}

/// What a look at the copies has found.
#[derive(Debug)]
pub(super) struct Seen {
    pub sequence: u64,
    pub body: Vec<u8>,
    pub name: String,
    /// The other copy was valid, too. If not, it may be the newer one.
    pub of_both: bool,
}

fn names(prefix: &str) -> [String; 2] {
    [format!("{prefix}.manifest.0"), format!("{prefix}.manifest.1")]
}

impl ManifestFiles {
    /// Makes both copies, durable but for their names, which the caller's folder sync makes so.
    pub(crate) fn create(
        directory: &dyn Directory,
        prefix: &str,
        kind: SlotKind,
        body: &[u8],
    ) -> io::Result<ManifestFiles> {
        let paths = names(prefix).map(|name| directory.path().join(name));
        let make = |copy: usize| {
            directory.create(&names(prefix)[copy]).map_err(|error| of_file(&paths[copy], &error))
        };
        let files = [make(0)?, make(1)?];
        let mut manifest =
            ManifestFiles { kind, files, paths, sequence: 0, lower: 0, capacity: 0, state: State::Sound };
        manifest.write(body)?;
        Ok(manifest)
    }

    /// The copies that are there, or new ones of the `body` that is asked for then.
    ///
    /// The second copy is written once the first is durable, and nothing may rely on them before both are: where
    /// both are invalid and the second was never written, there was a crash while they were made.
    pub(crate) fn open_or_create(
        directory: &dyn Directory,
        prefix: &str,
        kind: SlotKind,
        body: impl FnOnce() -> io::Result<Vec<u8>>,
    ) -> Result<(ManifestFiles, Vec<u8>), ManifestError> {
        match ManifestFiles::open(directory, prefix, kind) {
            Ok((files, body, _)) => return Ok((files, body)),
            Err(ManifestError::Missing) => {}
            Err(error) if error.is_of_unfinished() => ManifestFiles::remove(directory, prefix)?,
            Err(error) => return Err(error),
        }
        let body = body()?;
        let files = ManifestFiles::create(directory, prefix, kind, &body)?;
        directory.sync()?;
        Ok((files, body))
    }

    /// What the copies are called of which a file of this name is one.
    pub(crate) fn prefix_of(name: &str) -> Option<&str> {
        name.strip_suffix(".manifest.0").or_else(|| name.strip_suffix(".manifest.1"))
    }

    /// An error unless both names are still those of these files: written to others' would be in vain.
    pub(crate) fn check_names(&self, directory: &dyn Directory, prefix: &str) -> io::Result<()> {
        for (name, file) in names(prefix).iter().zip(&self.files) {
            let told = |what: &str| {
                let path = directory.path().join(name);
                io::Error::other(format!("{} was {what}", path.display()))
            };
            match directory.id_of(name) {
                Ok(id) if id == file.id()? => {}
                Ok(_) => return Err(told("replaced by another file")),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(told("removed")),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether any of the copies is there, whatever is in it.
    pub(crate) fn is_there(directory: &dyn Directory, prefix: &str) -> bool {
        names(prefix).iter().any(|name| directory.id_of(name).is_ok())
    }

    /// Whether a file of this name is one of the copies.
    pub(crate) fn is_copy(prefix: &str, name: &str) -> bool {
        names(prefix).iter().any(|copy| copy == name)
    }

    /// Takes both copies away. That one is missing is no error, unless both are.
    pub(crate) fn remove(directory: &dyn Directory, prefix: &str) -> io::Result<()> {
        let is_missing = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
        let named = |name: &String, error| of_file(&directory.path().join(name), &error);
        match names(prefix).map(|name| directory.remove(&name).map_err(|error| named(&name, error))) {
            [Err(error), other] | [other, Err(error)] if is_missing(&error) => other,
            [first, second] => first.and(second),
        }
    }

    /// The bodies of the copies that can be read and check, whatever is wrong with the other one: for who must
    /// know what either of them asks for, and not which one counts.
    ///
    /// # Errors
    /// Where there is no such copy and one could not be read, which says nothing of what it asks for.
    pub(crate) fn valid(directory: &dyn Directory, prefix: &str, kind: SlotKind) -> io::Result<Vec<Vec<u8>>> {
        let (mut bodies, mut unread) = (Vec::new(), None);
        for name in names(prefix) {
            match directory.open(&name).and_then(|file| read_slot(file.as_ref())) {
                Ok(slot) => bodies.extend(decode_slot(kind, &slot).ok().map(|(_, body)| body.to_vec())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => unread = Some(of_file(&directory.path().join(&name), &error)),
            }
        }
        match unread {
            Some(error) if bodies.is_empty() => Err(error),
            _ => Ok(bodies),
        }
    }

    /// Reads the valid copy; with it the name of the other one, if that is not what it should be.
    ///
    /// Both are synced and read past the cache first: what a dead owner failed to sync must not be
    /// taken for what the disk has.
    pub(crate) fn open(
        directory: &dyn Directory,
        prefix: &str,
        kind: SlotKind,
    ) -> Result<(ManifestFiles, Vec<u8>, Option<String>), ManifestError> {
        let mut found = Vec::new();
        for name in names(prefix) {
            match directory.open(&name) {
                Ok(file) => found.push(Some(file)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => found.push(None),
                Err(error) => return Err(ManifestError::of(&name)(error)),
            }
        }
        // Told before anything is made: an empty copy left by a crash here would look like damage.
        if found.iter().all(Option::is_none) {
            return Err(ManifestError::Missing);
        }
        let is_missing = [found[0].is_none(), found[1].is_none()];
        let mut files = Vec::new();
        for (name, file) in names(prefix).iter().zip(found) {
            files.push(match file {
                Some(file) => file,
                None => directory.create(name).map_err(ManifestError::of(name))?,
            });
        }
        // The names, too: whoever made them may have been killed before they were durable, and a power
        // cut would take back what relies on them from now on.
        directory.sync()?;
        let files: [Arc<dyn File>; 2] = files.try_into().expect("one file a name");
        let names = names(prefix);
        for (name, file) in names.iter().zip(&files) {
            file.sync().and_then(|()| file.forget_cache()).map_err(ManifestError::of(name))?;
        }
        let read = |copy: usize| -> Result<Result<(u64, Vec<u8>), Defect>, ManifestError> {
            let bytes = read_slot(files[copy].as_ref()).map_err(ManifestError::of(&names[copy]))?;
            Ok(decode_slot(kind, &bytes).map(|(sequence, body)| (sequence, body.to_vec())))
        };
        let copies = [read(0), read(1)];
        let copies = match copies {
            // The copy that cannot be read may be the newer one.
            [Err(error), _] | [_, Err(error)] if kind.copies_differ() => return Err(error),
            copies => copies,
        };
        let copies = copies.map(|copy| copy.unwrap_or(Err(Defect::Unreadable)));
        if copies.iter().any(|copy| matches!(copy, Err(Defect::Version))) {
            return Err(ManifestError::TooNew);
        }
        let rank = |copy: &Result<(u64, Vec<u8>), Defect>| copy.as_ref().map_or(0, |(sequence, _)| *sequence);
        let lower = usize::from(rank(&copies[0]) > rank(&copies[1]));
        let copies_diverge = match (&copies[0], &copies[1]) {
            (Err(first), Err(second)) => {
                let told = |index: usize, found| if is_missing[index] { Defect::Missing } else { found };
                return Err(ManifestError::Damaged([told(0, *first), told(1, *second)]));
            }
            (Ok((_, first)), Ok((_, second))) if kind.are_of_two(first, second) => {
                return Err(ManifestError::OfTwo);
            }
            (Ok((first, _)), Ok((second, _))) => first.abs_diff(*second) > 1,
            _ => true,
        };
        let stale = copies_diverge.then(|| names[lower].clone());
        let capacity = files[lower].bytes()?.min(files[1 - lower].bytes()?);
        let [first, second] = copies;
        let (sequence, body) = if lower == 1 { first } else { second }.expect("the higher copy is valid");
        let paths = names.map(|name| directory.path().join(name));
        let opened = ManifestFiles { kind, files, paths, sequence, lower, capacity, state: State::Sound };
        // Where there is no room for all of it, what is lacking may never be needed: whoever writes is told.
        let _ = opened.secure(capacity);
        Ok((opened, body, stale))
    }

    /// The body of the valid copy, read beside whoever owns it.
    pub(crate) fn peek(
        directory: &dyn Directory,
        prefix: &str,
        kind: SlotKind,
    ) -> Result<Vec<u8>, ManifestError> {
        ManifestFiles::look(directory, prefix, kind).map(|seen| seen.body)
    }

    /// The valid copy that counts, read beside whoever owns it.
    ///
    /// The owner overwrites one copy after the other, so both can be caught half written in turn, and
    /// are then looked at again.
    pub(super) fn look(
        directory: &dyn Directory,
        prefix: &str,
        kind: SlotKind,
    ) -> Result<Seen, ManifestError> {
        let mut defects = [Defect::Short; 2];
        let mut unread = None;
        for _ in 0..PEEKS_MAX {
            let (mut found, mut valid, mut counts) = (None, 0, String::new());
            unread = None;
            let mut missing = 0;
            for (name, defect) in names(prefix).iter().zip(&mut defects) {
                let slot = match directory.open(name).and_then(|file| read_slot(file.as_ref())) {
                    Ok(slot) => slot,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        missing += 1;
                        *defect = Defect::Missing;
                        continue;
                    }
                    Err(error) if !kind.copies_differ() => {
                        unread = Some(ManifestError::of(name)(error));
                        continue;
                    }
                    // As in `open`: it may be the newer one.
                    Err(error) => return Err(ManifestError::of(name)(error)),
                };
                match decode_slot(kind, &slot) {
                    Ok((sequence, body)) => {
                        valid += 1;
                        let is_other = |(_, other): &(u64, Vec<u8>)| kind.are_of_two(other, body);
                        if found.as_ref().is_some_and(is_other) {
                            return Err(ManifestError::OfTwo);
                        }
                        if found.as_ref().is_none_or(|(best, _)| sequence > *best) {
                            found = Some((sequence, body.to_vec()));
                            counts.clone_from(name);
                        }
                    }
                    Err(Defect::Version) => return Err(ManifestError::TooNew),
                    Err(found) => *defect = found,
                }
            }
            match found {
                Some((sequence, body)) => {
                    return Ok(Seen { sequence, body, name: counts, of_both: valid == 2 });
                }
                None if missing == 2 => return Err(ManifestError::Missing),
                None => std::thread::yield_now(),
            }
        }
        // What the system would not read may be sound: its reason is told, and no damage.
        Err(unread.unwrap_or(ManifestError::Damaged(defects)))
    }

    /// Makes sure that the first `bytes` of both copies have space of their own: they may be a copy that left out what
    /// was zero, or share it with a snapshot, which may have been made a moment ago.
    fn secure(&self, bytes: u64) -> io::Result<()> {
        let secure = |copy: usize| {
            self.files[copy].secure(0..bytes).map_err(|error| of_file(&self.paths[copy], &error))
        };
        secure(0).and_then(|()| secure(1))
    }

    /// Takes the room that a body of this size needs; an error leaves everything as it was.
    fn reserve(&mut self, body_bytes: usize) -> io::Result<()> {
        let needed = (SLOT_HEADER_BYTES + body_bytes) as u64;
        if needed > self.capacity {
            let capacity = needed.next_power_of_two().max(SLOT_BYTES);
            for (file, path) in self.files.iter().zip(&self.paths) {
                take_space(file.as_ref(), capacity).map_err(|error| of_file(path, &error))?;
            }
            self.capacity = capacity;
        }
        self.secure(round_to_granule(needed))
    }

    /// The name of the copy that counts.
    pub(super) fn name(&self) -> &str {
        let name = self.paths[1 - self.lower].file_name().and_then(|name| name.to_str());
        name.unwrap_or_default()
    }

    /// Whether a write failed in such a way that no other may follow.
    pub(crate) fn is_broken(&self) -> bool {
        self.state == State::Broken
    }

    /// Whether a write failed for want of room, and what it was to say may be what counts on disk. Another may follow.
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.state == State::InDoubt
    }

    /// Writes both copies, one after the other, each durable before the next step.
    ///
    /// # Errors
    /// After any the copies may differ. See [`is_broken`](ManifestFiles::is_broken).
    pub(crate) fn write(&mut self, body: &[u8]) -> io::Result<()> {
        self.prepare(body)?;
        self.write_lower(body)?;
        self.state = State::InDoubt;
        self.write_lower(body)?;
        self.state = State::Sound;
        Ok(())
    }

    /// Writes the lower copy alone, durably: if that tears, the other one counts.
    ///
    /// # Errors
    /// As [`write`](ManifestFiles::write).
    pub(crate) fn write_one(&mut self, body: &[u8]) -> io::Result<()> {
        self.prepare(body)?;
        self.write_lower(body)
    }

    /// Takes the room for a body, and sees whether one may be written. An error leaves everything as it was.
    pub(crate) fn prepare(&mut self, body: &[u8]) -> io::Result<()> {
        match self.is_broken() {
            true => Err(io::Error::other("an earlier write of the manifest failed")),
            false => self.reserve(body.len()),
        }
    }

    fn write_lower(&mut self, body: &[u8]) -> io::Result<()> {
        let slot = encode_slot(self.kind, self.sequence + 1, body);
        let mut bytes = AlignedBuffer::zeroed(round_to_granule(slot.len() as u64) as usize)?;
        bytes[..slot.len()].copy_from_slice(&slot);
        let file = &self.files[self.lower];
        let told = |error: &io::Error| Err(of_file(&self.paths[self.lower], error));
        let written = file.write_at(&bytes, 0, false);
        if let Some(error) = written.as_ref().err().filter(|error| is_want_of_room(error)) {
            self.state = State::InDoubt;
            return told(error);
        }
        if let Err(error) = written.and_then(|()| file.sync()) {
            self.state = State::Broken;
            return told(&error);
        }
        self.sequence += 1;
        self.lower = 1 - self.lower;
        Ok(())
    }
}

/// Letters, digits, `.`, `-` and `_`, so that it can stand in a file's name anywhere: what users name things.
pub(crate) fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
}

/// Makes the file at least so long, with space behind all of it.
fn take_space(file: &dyn File, bytes: u64) -> io::Result<()> {
    if file.allocate(bytes)? {
        return Ok(());
    }
    // Whatever there is was written, and not by others: behind its end it grows by what is written.
    let start = file.bytes()?.next_multiple_of(GRANULE);
    if start < bytes {
        let zeros = AlignedBuffer::zeroed((bytes - start) as usize)?;
        file.write_at(&zeros, start, false)?;
        file.sync()?;
    }
    Ok(())
}

/// What one file holds of a slot.
#[derive(Debug)]
pub(crate) enum Copy {
    /// Nothing was ever written to it.
    Empty,
    Body(Vec<u8>),
    Damaged(Defect),
}

/// Reads one copy of a slot. What is not on disk for certain is made so first, so that a dead owner's failed sync is
/// not believed; where the folder was opened to read that is not possible, nor is anything relied upon there.
pub(crate) fn read_copy(
    directory: &dyn Directory,
    name: &str,
    kind: SlotKind,
    settle: bool,
) -> io::Result<Copy> {
    let file = directory.open(name)?;
    if settle {
        file.sync()?;
        file.forget_cache()?;
    }
    let bytes = read_slot(file.as_ref())?;
    Ok(match decode_slot(kind, &bytes) {
        Ok((_, body)) => Copy::Body(body.to_vec()),
        Err(_) if bytes.iter().all(|&byte| byte == 0) => Copy::Empty,
        Err(defect) => Copy::Damaged(defect),
    })
}

/// Makes a file that holds a slot in one copy, durable but for its name.
pub(crate) fn write_copy(
    directory: &dyn Directory,
    name: &str,
    kind: SlotKind,
    body: &[u8],
) -> io::Result<()> {
    let file = directory.create(name)?;
    let slot = encode_slot(kind, 0, body);
    let mut bytes = AlignedBuffer::zeroed(round_to_granule(slot.len() as u64) as usize)?;
    bytes[..slot.len()].copy_from_slice(&slot);
    file.write_at(&bytes, 0, false)?;
    file.sync()
}

/// What a file holds of a slot: as much as the slot's own header asks for, whether it is right or not.
fn read_slot(file: &dyn File) -> io::Result<AlignedBuffer> {
    // A manifest is at most a few MiB; a file of another size is read as far as that.
    let most = file.bytes()?.min(64 << 20).next_multiple_of(GRANULE).max(GRANULE);
    let mut buffer = AlignedBuffer::zeroed(GRANULE as usize)?;
    file.read_at(&mut buffer, 0)?;
    let bytes = round_to_granule(slot_bytes(&buffer)).min(most);
    if bytes > GRANULE {
        buffer = AlignedBuffer::zeroed(bytes as usize)?;
        file.read_at(&mut buffer, 0)?;
    }
    Ok(buffer)
}
