//! What the directory is: a log with a manifest, nothing yet, or something else.
//!
//! Before a shard's folder is touched, `sawmill.creating` says durably which log is being made, and it is gone,
//! durably, before that log is opened for the first time. So what carries the id that stands there, and no other thing,
//! is the leftover of an interrupted making, in which nothing was ever acknowledged.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::build::not_current;
use super::folders::{Folder, check_durable, lock_folders, make_homes, open_folders};
use crate::device::{Device, Directory, Lock};
use crate::error::OpenError;
use crate::format::{Defect, LogManifest, ShardManifest, SlotKind, SlotMap};
use crate::notice::Notices;
use crate::options::Layout;
use crate::segment::{Copy, ManifestError, ManifestFiles, ShardStore, read_copy, shard_path, write_copy};

const CREATING: &str = "sawmill.creating";
const PREFIX: &str = "log";

type LogId = [u8; 16];

/// A directory that holds something else is refused before anything is made in it.
pub(super) fn check_foreign(directory: &dyn Directory) -> Result<(), OpenError> {
    let path = directory.path();
    let names = directory.list().map_err(OpenError::at("listing the directory", path))?;
    if names.iter().any(|name| name.starts_with("log.manifest.")) {
        return Ok(());
    }
    if names.iter().any(|name| is_part(name)) {
        return Err(OpenError::ManifestMissing { path: path.to_owned() });
    }
    let own =
        |name: &String| name.starts_with("sawmill.") || name.starts_with("shard-") || name == "lost+found";
    match names.into_iter().find(|name| !own(name)) {
        Some(found) => Err(OpenError::Foreign { path: path.to_owned(), found }),
        None => Ok(()),
    }
}

/// Whether it is what a consumer, a queue or a tally keeps in its log's own directory: that is made in a log alone.
fn is_part(name: &str) -> bool {
    let prefix = ManifestFiles::prefix_of(name);
    prefix.is_some_and(|own| ["consumer-", "queue-", "tally-"].iter().any(|kind| own.starts_with(kind)))
}

/// Whether there are parts of a log that was made, whatever became of its manifest.
pub(crate) fn has_parts(names: &[String]) -> bool {
    let has = |start: &str| names.iter().any(|name| name.starts_with(start));
    has("shard-") && !has(CREATING) || names.iter().any(|name| is_part(name))
}

/// An error unless the directory holds a log, finished or begun.
pub(super) fn check_there(directory: &dyn Directory) -> Result<(), OpenError> {
    let path = directory.path();
    let names = directory.list().map_err(OpenError::at("listing the directory", path))?;
    let has = |start: &str| names.iter().any(|name| name.starts_with(start));
    match () {
        () if has("log.manifest.") => Ok(()),
        () if has_parts(&names) => Err(OpenError::ManifestMissing { path: path.to_owned() }),
        () => Err(OpenError::NoLog { path: path.to_owned() }),
    }
}

/// What a log's own directory says.
pub(super) enum Found {
    Log(Box<(LogManifest, ManifestFiles)>),
    /// No log was ever finished here. One with this id may have been begun.
    Nothing(Option<LogId>),
}

pub(super) fn find_log(
    path: &Path,
    directory: &dyn Directory,
    notices: &Notices,
) -> Result<Found, OpenError> {
    let names = directory.list().map_err(OpenError::at("listing the directory", path))?;
    let creating = names.iter().any(|name| name == CREATING);
    let (files, body) = match ManifestFiles::open(directory, PREFIX, SlotKind::Log) {
        Ok((files, body, stale_copy)) => {
            if let Some(copy) = stale_copy {
                notices.warn(not_current(&path.join(copy)));
            }
            (files, body)
        }
        Err(ManifestError::Missing) => {
            let begun = if creating { read_intent(path, directory)? } else { None };
            return Ok(Found::Nothing(begun));
        }
        Err(error) => {
            // The crash came between the two copies of the first manifest: there never was a log.
            if let (ManifestError::Damaged(_), true) = (&error, creating) {
                if let Some(begun) = read_intent(path, directory)? {
                    return Ok(Found::Nothing(Some(begun)));
                }
            }
            return Err(OpenError::manifest(path)(error));
        }
    };
    if creating {
        directory
            .remove(CREATING)
            .and_then(|()| directory.sync())
            .map_err(OpenError::at("finishing the making of the log", path))?;
    }
    let manifest = LogManifest::decode(&body)
        .map_err(|defect| OpenError::manifest(path)(ManifestError::Damaged([defect; 2])))?;
    Ok(Found::Log(Box::new((manifest, files))))
}

/// Which log is being made; `None` if that was not written in full, and so nothing else was.
fn read_intent(path: &Path, directory: &dyn Directory) -> Result<Option<LogId>, OpenError> {
    // Its name, too, may not be durable yet.
    let copy = directory
        .sync()
        .and_then(|()| read_copy(directory, CREATING, SlotKind::Log, true))
        .map_err(OpenError::at("reading what was begun", &path.join(CREATING)))?;
    match copy {
        Copy::Body(body) => Ok(LogManifest::decode(&body).ok().map(|begun| begun.log_id)),
        Copy::Damaged(Defect::Version) => Err(OpenError::TooNew { path: path.to_owned() }),
        Copy::Damaged(_) | Copy::Empty => Ok(None),
    }
}

/// An error if something stands in the way of a log of this layout. Nothing is made or changed.
pub(super) fn check_places(
    device: &dyn Device,
    path: &Path,
    layout: &Layout,
    begun: Option<&LogId>,
) -> Result<(), OpenError> {
    for home in &layout.directories {
        let home = Path::new(home);
        device.check_place(home).map_err(OpenError::at("opening the directory", home))?;
    }
    let mut places: Vec<_> =
        (0..layout.shards).map(|shard| shard_path(path, &layout.directories, shard)).collect();
    // Also those of a log that had more shards, or none elsewhere.
    let own = device.directory_to_read(path).ok();
    if let Some(directory) = &own {
        let names = directory.list().map_err(OpenError::at("listing the directory", path))?;
        places.extend(names.iter().filter(|name| name.starts_with("shard-")).map(|name| path.join(name)));
    }
    for place in places {
        match device.directory_to_read(&place) {
            Ok(folder) => match leftovers(path, folder.as_ref(), begun) {
                // A shard that lies in its own log's directory, whose manifest is gone.
                Err(OpenError::NotOfThisLog { .. })
                    if own.as_ref().is_some_and(|own| lost(own.as_ref(), &folder)) =>
                {
                    return Err(OpenError::ManifestMissing { path: path.to_owned() });
                }
                left => drop(left?),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(OpenError::at("opening the shard's folder", &place)(error)),
        }
    }
    Ok(())
}

/// Whether a folder with a shard lies in this directory, in which no log is being made.
fn lost(own: &dyn Directory, folder: &Arc<dyn Directory>) -> bool {
    let has = |directory: &dyn Directory, is_one: &dyn Fn(&String) -> bool| {
        directory.list().is_ok_and(|names| names.iter().any(is_one))
    };
    let is_here = folder.path().parent() == Some(own.path());
    is_here
        && !has(own, &|name| name == CREATING)
        && has(folder.as_ref(), &|name| ShardStore::is_manifest(name))
}

/// The names in a shard's folder that an interrupted making of this very log has left there; an error if there is
/// anything else.
fn leftovers(log: &Path, folder: &dyn Directory, begun: Option<&LogId>) -> Result<Vec<String>, OpenError> {
    let path = folder.path();
    let refuse =
        |found: String| Err(OpenError::NotOfThisLog { path: path.to_owned(), found, log: log.to_owned() });
    let mut left = folder.list().map_err(OpenError::at("listing the shard's folder", path))?;
    left.retain(|name| !name.starts_with("sawmill.") && name != "lost+found");
    for name in &left {
        let Some(log_id) = begun.filter(|_| ShardStore::is_manifest(name)) else {
            return refuse(format!("`{name}`"));
        };
        let copy = read_copy(folder, name, SlotKind::Shard, false);
        match copy.map_err(OpenError::at("reading what was begun", &path.join(name)))? {
            Copy::Empty => {}
            Copy::Body(body) if ShardManifest::decode(&body).is_ok_and(|found| found.is_new(log_id)) => {}
            Copy::Body(_) => return refuse(format!("`{name}` of another log")),
            Copy::Damaged(defect) => return refuse(format!("`{name}`, which is damaged ({defect})")),
        }
    }
    Ok(left)
}

/// Makes a log. A crash at any step leaves a directory in which it is made anew.
pub(super) fn create(
    layout: &Layout,
    device: &dyn Device,
    directory: &dyn Directory,
    begun: Option<LogId>,
    durable: bool,
    notices: &Notices,
    locks: &mut Vec<Arc<dyn Lock>>,
) -> Result<(LogManifest, ManifestFiles, Vec<Folder>), OpenError> {
    let path = directory.path();
    check_places(device, path, layout, begun.as_ref())?;
    let making = || OpenError::at("making the log (what was made is taken up by the next open)", path);
    let log_id = match begun {
        Some(begun) => begun,
        None => draw_id(device).map_err(making())?,
    };
    let manifest = LogManifest {
        log_id,
        shards: layout.shards,
        block_bytes: layout.block_bytes,
        segment_bytes: layout.segment_bytes,
        map: SlotMap::even(layout.shards),
        directories: layout.directories.clone(),
    };
    begin(directory, begun.is_some(), &manifest).map_err(making())?;
    make_homes(layout, device)?;
    let mut folders = open_folders(path, directory, layout, |place| device.directory(place))?;
    check_durable(durable, directory, &folders)?;
    lock_folders(&mut folders, device, notices, locks)?;
    for (shard, folder) in (0..).zip(&folders) {
        // Looked at again: now nobody else makes one there.
        let left = leftovers(path, folder.directory.as_ref(), Some(&log_id))?;
        make_shard(device, folder, &left, log_id, shard).map_err(making())?;
    }
    let files = finish(directory, &manifest).map_err(making())?;
    Ok((manifest, files, folders))
}

fn draw_id(device: &dyn Device) -> io::Result<LogId> {
    let mut log_id = [0; 16];
    device.random(&mut log_id)?;
    Ok(log_id)
}

/// Says, durably, which log is going to be made.
fn begin(directory: &dyn Directory, begun: bool, manifest: &LogManifest) -> io::Result<()> {
    let names = directory.list()?;
    if !begun {
        if names.iter().any(|name| name == CREATING) {
            directory.remove(CREATING)?;
        }
        write_copy(directory, CREATING, SlotKind::Log, &manifest.encode())?;
    }
    // Half made by an earlier attempt.
    for name in names.iter().filter(|name| name.starts_with("log.manifest.")) {
        directory.remove(name)?;
    }
    directory.sync()
}

fn make_shard(
    device: &dyn Device,
    folder: &Folder,
    left: &[String],
    log_id: LogId,
    shard: u16,
) -> io::Result<()> {
    for name in left {
        folder.directory.remove(name)?;
    }
    let mut nonce = [0; 8];
    device.random(&mut nonce)?;
    ShardStore::create(folder.directory.clone(), log_id, shard, u64::from_le_bytes(nonce))
}

fn finish(directory: &dyn Directory, manifest: &LogManifest) -> io::Result<ManifestFiles> {
    let body = manifest.checked().map_err(|defect| io::Error::new(io::ErrorKind::InvalidData, defect))?;
    let files = ManifestFiles::create(directory, PREFIX, SlotKind::Log, &body)?;
    directory.sync()?;
    directory.remove(CREATING)?;
    directory.sync()?;
    Ok(files)
}
