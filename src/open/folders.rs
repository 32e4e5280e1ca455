//! The shards' folders: where they lie, whose they are, what their file systems can do.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::device::{Capabilities, Device, Directory, Lock, WriteProbe, measure};
use crate::error::OpenError;
use crate::instance::{Locks, take_lock};
use crate::notice::Notices;
use crate::options::Layout;
use crate::segment::shard_path;

/// A shard's open folder.
#[derive(Debug)]
pub(super) struct Folder {
    pub directory: Arc<dyn Directory>,
    /// Of the folder itself, once it is locked.
    own_lock: Option<Arc<dyn Lock>>,
    is_external: bool,
    pub measured: Option<WriteProbe>,
}

impl Folder {
    /// What the file system of this folder can do, whatever that of the log's own directory can.
    pub(super) fn capabilities(&self) -> Capabilities {
        Capabilities { measured: self.measured, ..self.directory.capabilities() }
    }

    /// Whether it does not lie in the log's own directory, whatever its name says: there may be a link in its place, or
    /// another file system, which a copy of the log's own directory has, too.
    pub(super) fn is_external(&self) -> bool {
        self.is_external
    }

    /// What whoever writes in the folder must hold.
    pub(super) fn lock(&self, log: &Arc<dyn Lock>) -> Arc<dyn Lock> {
        match &self.own_lock {
            Some(own) => Arc::new(Locks(vec![log.clone(), own.clone()])),
            None => log.clone(),
        }
    }
}

/// Makes the directories that are to have shards, where they are not there.
pub(super) fn make_homes(layout: &Layout, device: &dyn Device) -> Result<(), OpenError> {
    for home in layout.directories.iter().map(Path::new) {
        match device.directory_to_read(home) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => device.directory(home),
            opened => opened,
        }
        .map_err(OpenError::at("opening the directory", home))?;
    }
    Ok(())
}

/// Opens the folder of each shard of the log in this directory, whose path is the one that it was given.
pub(super) fn open_folders(
    path: &Path,
    log: &dyn Directory,
    layout: &Layout,
    open: impl Fn(&Path) -> io::Result<Arc<dyn Directory>>,
) -> Result<Vec<Folder>, OpenError> {
    let open_one = |shard| {
        let place = shard_path(path, &layout.directories, shard);
        let directory = open(&place).map_err(OpenError::at("opening the shard's folder", &place))?;
        let own_place = shard_path(log.path(), &[], shard);
        let is_external = !layout.directories.is_empty()
            || directory.path() != own_place
            || directory.device_number() != log.device_number();
        Ok(Folder { directory, own_lock: None, is_external, measured: None })
    };
    (0..layout.shards).map(open_one).collect()
}

/// Locks each folder. The lock of the log's own directory is not enough, wherever they lie: that may be copied, or made
/// anew, and its lock with it, and a folder may be moved from one to the other under its owner.
pub(super) fn lock_folders(
    folders: &mut [Folder],
    device: &dyn Device,
    notices: &Notices,
    locks: &mut Vec<Arc<dyn Lock>>,
) -> Result<(), OpenError> {
    for folder in folders {
        let own = take_lock(folder.directory.as_ref(), device, notices)?;
        locks.push(own.clone());
        folder.own_lock = Some(own);
    }
    Ok(())
}

/// An error if `require` and some part of the log would not survive the machine's power.
pub(super) fn check_durable(
    require: bool,
    directory: &dyn Directory,
    folders: &[Folder],
) -> Result<(), OpenError> {
    let all = folders.iter().map(|folder| folder.directory.as_ref()).chain([directory]);
    for part in all.filter(|_| require) {
        let capabilities = part.capabilities();
        if !capabilities.durable {
            let reason = format!(
                "{:?}, where {} lies, loses everything with the machine's power",
                capabilities.file_system,
                part.path().display()
            );
            return Err(OpenError::Unsupported { what: "durability", reason, source: None });
        }
    }
    Ok(())
}

/// Measures a few writes on each file system that has shards.
pub(super) fn measure_all(device: &dyn Device, folders: &mut [Folder]) {
    let mut found = BTreeMap::new();
    for folder in folders {
        let directory = folder.directory.as_ref();
        let Ok(id) = directory.file_system_id() else { continue };
        folder.measured = *found.entry(id).or_insert_with(|| measure(device, directory).ok());
    }
}
