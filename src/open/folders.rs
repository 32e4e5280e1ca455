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
    /// Of the folder itself; `None` where the lock of the log's own directory is enough.
    own_lock: Option<Arc<dyn Lock>>,
    pub measured: Option<WriteProbe>,
}

impl Folder {
    /// What the file system of this folder can do, whatever that of the log's own directory can.
    pub(super) fn capabilities(&self) -> Capabilities {
        Capabilities { measured: self.measured, ..self.directory.capabilities() }
    }

    /// Whether it does not lie in the log's own directory.
    pub(super) fn is_external(&self) -> bool {
        self.own_lock.is_some()
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

/// Opens the folder of each shard.
pub(super) fn open_folders(
    path: &Path,
    layout: &Layout,
    open: impl Fn(&Path) -> io::Result<Arc<dyn Directory>>,
) -> Result<Vec<Folder>, OpenError> {
    let open_one = |shard| {
        let place = shard_path(path, &layout.directories, shard);
        let directory = open(&place).map_err(OpenError::at("opening the shard's folder", &place))?;
        Ok(Folder { directory, own_lock: None, measured: None })
    };
    (0..layout.shards).map(open_one).collect()
}

/// Locks each folder that does not lie in the log's own directory: that may be copied, or made anew, and its lock
/// with it.
pub(super) fn lock_folders(
    folders: &mut [Folder],
    layout: &Layout,
    device: &dyn Device,
    notices: &Notices,
    locks: &mut Vec<Arc<dyn Lock>>,
) -> Result<(), OpenError> {
    if layout.directories.is_empty() {
        return Ok(());
    }
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
