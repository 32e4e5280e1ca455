//! What the directory is: a log with a manifest, nothing yet, or something else.

use std::io;
use std::path::Path;

use crate::device::{Device, Directory};
use crate::error::OpenError;
use crate::format::{LogManifest, SlotKind};
use crate::notice::Notices;
use crate::options::Layout;
use crate::router::even_slots;
use crate::segment::{ManifestError, ManifestFiles, ShardStore, shard_path};

/// Stands there, durably, while a log is being made: what is there without a manifest was never a log.
const CREATING: &str = "sawmill.creating";
const PREFIX: &str = "log";

/// A directory that holds something else is refused before anything is made in it.
pub(super) fn check_foreign(directory: &dyn Directory) -> Result<(), OpenError> {
    let path = directory.path();
    let names = directory.list().map_err(OpenError::at("listing the directory", path))?;
    if names.iter().any(|name| name.starts_with("log.manifest.")) {
        return Ok(());
    }
    let own =
        |name: &String| name.starts_with("sawmill.") || name.starts_with("shard-") || name == "lost+found";
    match names.into_iter().find(|name| !own(name)) {
        Some(found) => Err(OpenError::Foreign { path: path.to_owned(), found }),
        None => Ok(()),
    }
}

pub(super) fn open_manifest(
    path: &Path,
    wanted: &Layout,
    device: &dyn Device,
    directory: &dyn Directory,
    notices: &Notices,
) -> Result<LogManifest, OpenError> {
    let names = directory.list().map_err(OpenError::at("listing the directory", path))?;
    let creating = names.iter().any(|name| name == CREATING);
    let has_shards = names.iter().any(|name| name.starts_with("shard-"));
    let body = match ManifestFiles::open(directory, PREFIX, SlotKind::Log) {
        Ok((_, body, mended)) => {
            if mended {
                notices.warn(format!("{}: one copy of the manifest was not current", path.display()));
            }
            body
        }
        Err(ManifestError::Missing) if creating || !has_shards => {
            return create(path, wanted, device, directory).map_err(OpenError::at("making the log", path));
        }
        // The crash came between the two copies of the first manifest: there never was a log.
        Err(ManifestError::Damaged(_)) if creating => {
            return create(path, wanted, device, directory).map_err(OpenError::at("making the log", path));
        }
        Err(error) => return Err(OpenError::manifest(path)(error)),
    };
    if creating {
        directory
            .remove(CREATING)
            .and_then(|()| directory.sync())
            .map_err(OpenError::at("finishing the making of", path))?;
    }
    LogManifest::decode(&body)
        .map_err(|defect| OpenError::manifest(path)(ManifestError::Damaged([defect; 2])))
}

/// Makes a log. A crash at any step leaves a directory in which it is made anew.
fn create(
    path: &Path,
    layout: &Layout,
    device: &dyn Device,
    directory: &dyn Directory,
) -> io::Result<LogManifest> {
    let names = directory.list()?;
    if !names.iter().any(|name| name == CREATING) {
        directory.create(CREATING)?;
    }
    // Before the shards are touched: a manifest of an earlier attempt would speak for them.
    for name in names.iter().filter(|name| name.starts_with("log.manifest.")) {
        directory.remove(name)?;
    }
    // Also where the marker is there: whoever made it may have been killed before its name was durable, and
    // without it a half made manifest would look like damage.
    directory.sync()?;
    let mut log_id = [0; 16];
    device.random(&mut log_id)?;
    for shard in 0..layout.shards {
        let folder = device.directory(&shard_path(path, &layout.directories, shard))?;
        // Left by an earlier attempt.
        for name in folder.list()? {
            folder.remove(&name)?;
        }
        let mut nonce = [0; 8];
        device.random(&mut nonce)?;
        ShardStore::create(folder, log_id, shard, u64::from_le_bytes(nonce))?;
    }
    let manifest = LogManifest {
        log_id,
        shards: layout.shards,
        block_bytes: layout.block_bytes,
        segment_bytes: layout.segment_bytes,
        slots: even_slots(layout.shards),
        directories: layout.directories.clone(),
    };
    ManifestFiles::create(directory, PREFIX, SlotKind::Log, &manifest.encode())?;
    directory.sync()?;
    directory.remove(CREATING)?;
    directory.sync()?;
    Ok(manifest)
}
