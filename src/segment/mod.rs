//! A shard's folder: its manifest, its segments, and how segments come and go.
//!
//! Every change of what the shard has goes through [`ShardStore`], one at a time, off the commit
//! path. The order of its steps is the order of `docs/crash-safety.md`: what a manifest names is
//! durable before the manifest, and the manifest before anything relies on it.

mod before_horizon;
mod change;
mod draft;
mod epochs;
mod files;
mod known_blocks;
mod manifest_error;
mod manifest_files;
mod names;
mod random_reader;
mod rebuild;
mod sequential_reader;
mod store;
mod unlisted;
mod view;

pub(crate) use change::{Marks, NewEpoch};
pub(crate) use draft::{Draft, Size};
pub(crate) use known_blocks::{KnownBlock, KnownBlocks};
pub(crate) use manifest_error::{ManifestError, of_file};
pub(crate) use manifest_files::{Copy, ManifestFiles, is_name, read_copy, write_copy};
pub(crate) use names::segment_name;
pub(crate) use random_reader::{RandomReader, Stretch};
pub(crate) use rebuild::{all_segments, is_manifest_lost, write_manifest};
pub(crate) use sequential_reader::{READ_BYTES, SegmentReader};
pub(crate) use store::ShardStore;
pub(crate) use unlisted::{look_at_all, newer_than};
pub(crate) use view::{Segment, StoreSnapshot, StoreView, continuations};

use std::path::{Path, PathBuf};

#[cfg(test)]
mod tests;

fn shard_folder(shard: u16) -> String {
    format!("shard-{shard:04}")
}

/// Where a shard of the log in `path` lies.
pub(crate) fn shard_path(path: &Path, directories: &[String], shard: u16) -> PathBuf {
    let home = match directories.len() {
        0 => path.to_owned(),
        count => PathBuf::from(&directories[usize::from(shard) % count]),
    };
    home.join(shard_folder(shard))
}
