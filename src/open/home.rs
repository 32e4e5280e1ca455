//! Which directory of a log a shard's folder belongs to that lies elsewhere: by `Options::directories`, or by a link or
//! a mount in its place.
//!
//! Two copies of a log's own directory name the same folders. Their locks keep two owners apart, and not one after the
//! other: each would go on from what the other did, with its own consumers and tallies. So each folder remembers where
//! the log's own directory was when it was last opened, and another one is refused until it is told to take its place.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::folders::Folder;
use crate::device::Directory;
use crate::error::OpenError;
use crate::format::SlotKind;
use crate::notice::Notices;
use crate::segment::{ManifestError, ManifestFiles};

const PREFIX: &str = "sawmill.owner";

/// What a folder remembers.
#[derive(Debug, PartialEq, Eq)]
struct Home {
    /// Of the log's own directory; 0 where numbers do not last.
    log_number: u64,
    /// Of the folder itself.
    folder_number: u64,
    /// Of the log's own directory.
    path: PathBuf,
}

impl Home {
    fn of(log: &dyn Directory, folder: &dyn Directory) -> Home {
        let (log_number, folder_number) = (log.lasting_number(), folder.lasting_number());
        Home { log_number, folder_number, path: log.path().to_owned() }
    }

    fn encode(&self) -> Vec<u8> {
        let numbers = [self.log_number.to_le_bytes(), self.folder_number.to_le_bytes()];
        [numbers.as_flattened(), self.path.as_os_str().as_bytes()].concat()
    }

    fn decode(body: &[u8]) -> Option<Home> {
        let (log_number, rest) = body.split_first_chunk()?;
        let (folder_number, path) = rest.split_first_chunk()?;
        Some(Home {
            log_number: u64::from_le_bytes(*log_number),
            folder_number: u64::from_le_bytes(*folder_number),
            path: OsStr::from_bytes(path).into(),
        })
    }

    /// Whether the log is where it was; or it was put back whole, with the folder itself.
    fn is_still(&self, now: &Home) -> bool {
        let same_log = self.log_number == now.log_number || self.folder_number != now.folder_number;
        self.path == now.path && same_log
    }
}

/// What the folder remembers; `None` if that is nothing yet.
fn remembered(folder: &dyn Directory) -> Result<Option<Home>, OpenError> {
    match ManifestFiles::peek(folder, PREFIX, SlotKind::Home) {
        Ok(body) => Ok(Home::decode(&body)),
        Err(error) if error.is_of_unfinished() => Ok(None),
        Err(error) => Err(OpenError::manifest(folder.path())(error)),
    }
}

/// An error if one of the folders belongs to another directory than this one. Nothing is changed.
pub(super) fn check_homes(log: &dyn Directory, folders: &[Folder]) -> Result<(), OpenError> {
    for folder in folders.iter().filter(|folder| folder.is_external()) {
        let directory = folder.directory.as_ref();
        let now = Home::of(log, directory);
        if let Some(then) = remembered(directory)?.filter(|then| !then.is_still(&now)) {
            let (path, folder) = (now.path, directory.path().to_owned());
            return Err(OpenError::Relocated { path, folder, owner: then.path });
        }
    }
    Ok(())
}

/// Lets the folders remember this directory. Where that cannot be written, as on a full disk, it is told.
pub(super) fn claim_homes(log: &dyn Directory, folders: &[Folder], notices: &Notices) {
    for folder in folders.iter().filter(|folder| folder.is_external()) {
        let directory = folder.directory.as_ref();
        if let Err(error) = claim(directory, &Home::of(log, directory)) {
            let path: &Path = directory.path();
            notices.warn(format!(
                "{}: that it belongs to {} could not be written: {}",
                path.display(),
                log.path().display(),
                OpenError::manifest(path)(error)
            ));
        }
    }
}

fn claim(folder: &dyn Directory, home: &Home) -> Result<(), ManifestError> {
    let wanted = home.encode();
    if ManifestFiles::peek(folder, PREFIX, SlotKind::Home).is_ok_and(|body| body == wanted) {
        return Ok(());
    }
    let made = ManifestFiles::open_or_create(folder, PREFIX, SlotKind::Home, || Ok(wanted.clone()));
    let (mut files, body) = made?;
    if body != wanted {
        files.write(&wanted)?;
    }
    Ok(())
}
