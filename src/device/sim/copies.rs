//! Copies of all files, and a restore of one.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::SimMachine;
use super::disk::SimFile;
use crate::position::Lsn;

/// All folders, with the files in them.
#[derive(Clone, Debug)]
pub(crate) struct Copied(Vec<(PathBuf, BTreeMap<String, Vec<u8>>)>);

impl SimMachine {
    /// Copies all files, as they are read.
    pub(crate) fn copy_files(&self) -> Copied {
        let mut guard = self.world();
        let world = &mut *guard;
        let mut folders = Vec::new();
        for (path, folder) in &world.folders {
            let mut files = BTreeMap::new();
            for (name, number) in &folder.names {
                let file = world.files.get_mut(number).expect("a name is one of a file");
                file.edit(|bytes| _ = files.insert(name.clone(), bytes.clone()));
            }
            folders.push((path.clone(), files));
        }
        Copied(folders)
    }

    /// Has all folders hold what was copied and nothing else, durably: in the files of these names, or in new ones. Whoever
    /// has a file open that is no more keeps it.
    pub(crate) fn put_files_back(&self, copied: &Copied, in_place: bool) {
        let mut guard = self.world();
        let world = &mut *guard;
        world.check_alone();
        for (path, files) in &copied.0 {
            let folder = world.folders.get_mut(path).expect("no folder goes");
            let before = std::mem::take(&mut folder.names);
            for (name, bytes) in files {
                let number = before.get(name).copied().filter(|_| in_place).unwrap_or_else(|| {
                    world.next_number += 1;
                    world.next_number - 1
                });
                let mut file = SimFile::new(folder.device, folder.deaf);
                file.edit(|own| own.clone_from(bytes));
                world.files.insert(number, file);
                folder.names.insert(name.clone(), number);
            }
            folder.durable.clone_from(&folder.names);
        }
        (0..=u16::MAX).take(16).for_each(|shard| world.blocks.give_up_from(shard, Lsn::MIN));
    }
}
