//! A shard whose manifest is lost: what is in its folder, and a manifest in place of the old one.

use std::io;
use std::sync::Arc;

use super::files::OpenFiles;
use super::names::{can_be_listed, segment_name, segment_number};
use super::store::PREFIX;
use super::view::Segment;
use super::{ManifestError, ManifestFiles, of_file};
use crate::device::Directory;
use crate::format::{GRANULE, SegmentRow, ShardManifest, SlotKind};

/// Whether neither copy of the shard's manifest is one. One that the system would not read may be.
pub(crate) fn is_manifest_lost(directory: &dyn Directory) -> Result<bool, ManifestError> {
    match ManifestFiles::peek(directory, PREFIX, SlotKind::Shard) {
        Ok(body) => Ok(ShardManifest::decode(&body).is_err()),
        Err(ManifestError::Missing | ManifestError::Damaged(_)) => Ok(true),
        Err(error) => Err(error),
    }
}

/// All files that may be segments, each as if it began at LSN 0, so many of them open at a time. They are read past the
/// cache, and what is read is on disk.
pub(crate) fn all_segments(
    directory: &Arc<dyn Directory>,
    open_files_max: usize,
) -> io::Result<Vec<Arc<Segment>>> {
    directory.sync()?;
    let files = OpenFiles::new(directory.clone(), open_files_max);
    let mut segments = Vec::new();
    for number in directory.list()?.iter().filter_map(|name| segment_number(name)) {
        let name = segment_name(number);
        let found = one_segment(directory.as_ref(), &name, number, &files);
        segments.extend(found.map_err(|error| of_file(&directory.path().join(name), &error))?);
    }
    Ok(segments)
}

fn one_segment(
    directory: &dyn Directory,
    name: &str,
    number: u32,
    files: &Arc<OpenFiles>,
) -> io::Result<Option<Arc<Segment>>> {
    let file = directory.open(name)?;
    let bytes = file.bytes()? / GRANULE * GRANULE;
    // However far ahead its number is: nobody knows how many there were.
    if !can_be_listed(number, bytes, number) {
        return Ok(None);
    }
    file.sync()?;
    file.forget_cache()?;
    let row = SegmentRow { base: 0, bytes, file: number, reserved: 0 };
    Ok(Some(Arc::new(Segment::new(row, file).closed(files)?)))
}

/// Writes a manifest where there is none that counts, durably. A crash leaves one that is whole, or none.
pub(crate) fn write_manifest(directory: &dyn Directory, manifest: &ShardManifest) -> io::Result<()> {
    let body = manifest.checked().map_err(|defect| io::Error::new(io::ErrorKind::InvalidData, defect))?;
    match ManifestFiles::remove(directory, PREFIX) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    ManifestFiles::create(directory, PREFIX, SlotKind::Shard, &body)?;
    directory.sync()
}
