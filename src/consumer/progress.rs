//! How far a consumer has got, durably.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::device::Directory;
use crate::error::{ConsumerError, SharedIo};
use crate::format::{SlotKind, decode_progress, encode_progress};
use crate::position::{Position, ShardId};
use crate::segment::{ManifestError, ManifestFiles, is_name};
use crate::sync::lock;

/// The progress of one consumer: for each shard the last position that was committed.
#[derive(Debug)]
pub(crate) struct Progress {
    name: String,
    positions: Mutex<Vec<Option<Position>>>,
    dirty: AtomicBool,
    /// `None` once the log is closed: its directory may be somebody else's by then.
    files: Mutex<Option<ManifestFiles>>,
    /// A write failed: what the files hold shows at the next open.
    failed: Mutex<Option<SharedIo>>,
}

/// What a consumer's files are called.
fn prefix(name: &str) -> String {
    format!("consumer-{name}")
}

pub(super) fn check_name(name: &str) -> Result<(), ConsumerError> {
    if is_name(name) { Ok(()) } else { Err(ConsumerError::Name(name.to_owned())) }
}

impl Progress {
    /// What the consumer of this name had committed; nothing if it is new.
    pub(super) fn open(
        directory: &dyn Directory,
        name: &str,
        shards: u16,
    ) -> Result<Progress, ConsumerError> {
        let made = ManifestFiles::open_or_create(directory, &prefix(name), SlotKind::Progress, || {
            Ok(encode_progress(&[]))
        });
        let name_of = || name.to_owned();
        let (files, body) = made.map_err(|error| match error {
            ManifestError::Io(error) => ConsumerError::Io { name: name_of(), source: error.into() },
            ManifestError::TooNew => ConsumerError::TooNew { name: name_of() },
            ManifestError::Missing | ManifestError::Damaged(_) => ConsumerError::Damaged { name: name_of() },
        })?;
        let positions = decode_progress(&body);
        let mut positions = positions.map_err(|_| ConsumerError::Damaged { name: name.to_owned() })?;
        positions.resize(usize::from(shards), None);
        Ok(Progress {
            name: name.to_owned(),
            positions: Mutex::new(positions),
            dirty: AtomicBool::new(false),
            files: Mutex::new(Some(files)),
            failed: Mutex::new(None),
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn of(&self, shard: ShardId) -> Option<Position> {
        lock(&self.positions)[usize::from(shard.0)]
    }

    /// Notes a position, unless a later one was noted before.
    pub(super) fn commit(&self, position: Position) {
        let mut positions = lock(&self.positions);
        let own = &mut positions[usize::from(position.shard().0)];
        if own.is_none_or(|own| own < position) {
            *own = Some(position);
            drop(positions);
            self.dirty.store(true, Ordering::SeqCst);
        }
    }

    /// Makes what was committed durable for the last time: the log is being closed.
    pub(crate) fn end(&self) -> Result<(), ConsumerError> {
        let flushed = self.flush();
        lock(&self.files).take();
        flushed
    }

    /// Whether the log has been closed.
    pub(super) fn is_ended(&self) -> bool {
        lock(&self.files).is_none()
    }

    /// Makes what was committed durable.
    pub(crate) fn flush(&self) -> Result<(), ConsumerError> {
        let mut guard = lock(&self.files);
        let Some(files) = guard.as_mut() else { return Err(ConsumerError::Closed) };
        let told = |source: &SharedIo| ConsumerError::Io { name: self.name.clone(), source: source.clone() };
        if let Some(source) = &*lock(&self.failed) {
            return Err(told(source));
        }
        if !self.dirty.swap(false, Ordering::SeqCst) {
            return Ok(());
        }
        let body = encode_progress(&lock(&self.positions));
        // One copy at a time: if it tears, the other one is a little older, and some records come twice.
        files.write_one(&body).map_err(|error| {
            let source = SharedIo::new(error);
            *lock(&self.failed) = Some(source.clone());
            told(&source)
        })
    }
}
