//! Why a log could not be opened.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Damage, Defect, SharedIo, Unavailable};
use crate::position::{Lsn, ShardId};
use crate::segment::ManifestError;

/// Why a log could not be opened.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The directory belongs to a log that is open, here or in another process.
    #[error("{} is open already, in {owner}; close it there first", path.display())]
    Locked {
        /// The log's directory.
        path: PathBuf,
        /// Who holds it.
        owner: String,
    },
    /// An option has a value that no log can have.
    #[error("option `{option}`: {reason}")]
    InvalidOption {
        /// The method of [`Options`](crate::Options).
        option: &'static str,
        /// What is wrong with the value.
        reason: String,
    },
    /// An option contradicts the log that is there. One that is not set never does.
    #[error(
        "option `{option}`: the log was made with {there}, which {asked} contradicts; leave the option out"
    )]
    Incompatible {
        /// The method of [`Options`](crate::Options).
        option: &'static str,
        /// What the log has.
        there: String,
        /// What was asked for.
        asked: String,
    },
    /// What was asked for explicitly is not available here.
    #[error("{what} is not available: {reason}")]
    Unsupported {
        /// What was asked for.
        what: &'static str,
        /// Why it is not available.
        reason: String,
        /// What the system said, if it was asked.
        source: Option<SharedIo>,
    },
    /// The directory holds something that is not a log; nothing in it was touched.
    #[error("{} holds `{found}`, which is no part of a log; give an empty or a new directory", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// The first name that does not belong there.
        found: String,
    },
    /// Where a shard of this log is, or would be made, lies something else: a shard of another log, or files of one
    /// whose own manifest is gone. Nothing in that folder was touched.
    #[error(
        "{} holds {found}, which is not of the log in {}; nothing there was changed: give this log other folders, put \
        back what is missing of the log that it belongs to, or move it away if nobody needs it",
        path.display(), log.display()
    )]
    NotOfThisLog {
        /// The folder.
        path: PathBuf,
        /// What was found there.
        found: String,
        /// The log's own directory.
        log: PathBuf,
    },
    /// There is no log, and none may be created: by [`Options::create`](crate::Options::create), or to be read alone
    /// ([`Log::open_read_only`](crate::Log::open_read_only)). Nothing was changed.
    #[error("there is no log in {} (is its file system mounted?), and none was made", path.display())]
    NoLog {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The log's own directory was moved, copied or restored while its shards lie elsewhere. If this is the copy that
    /// counts, say so with [`Options::relocated`](crate::Options::relocated). Nothing was changed.
    #[error("{} belongs to the log in {}, and {} is a copy of it or was moved: if it is to go on in its place, \
             open it once with `Options::relocated(true)`; nothing was changed (where it was stands in \
             `sawmill.owner.manifest.*`)", folder.display(), owner.display(), path.display())]
    Relocated {
        /// The directory that was opened.
        path: PathBuf,
        /// A shard's folder.
        folder: PathBuf,
        /// Where the log was when it was last opened.
        owner: PathBuf,
    },
    /// Something that was acknowledged is not there, or not as it was written. Nothing was changed.
    #[error("shard {shard} is damaged at LSN {lsn}: {cause}; nothing was changed")]
    Damaged {
        /// The shard.
        shard: ShardId,
        /// Where the readable part ends.
        lsn: Lsn,
        /// What betrays the damage.
        cause: Damage,
    },
    /// A manifest cannot be read in either copy. Nothing was changed.
    #[error("the manifest in {} is damaged in both copies ({first}; {second}); nothing was changed", path.display())]
    ManifestDamaged {
        /// The folder of the manifest.
        path: PathBuf,
        /// Defect of the first copy.
        first: Defect,
        /// Defect of the second copy.
        second: Defect,
    },
    /// A manifest is missing: neither copy is there. Nothing was changed.
    #[error(
        "the manifest in {} is missing, in both copies; nothing was changed: a shard's is rebuilt by `sawmill repair`, \
             and the log's own (`log.manifest.*`) put back from any backup of the log since slots were last moved",
        path.display()
    )]
    ManifestMissing {
        /// The folder of the manifest.
        path: PathBuf,
    },
    /// The two copies of the log's own manifest are of two logs: one was put there by mistake.
    /// Nothing was changed.
    #[error(
        "`log.manifest.0` and `log.manifest.1` in {} are of two logs; nothing was changed: move the one away that was \
             put there",
        path.display()
    )]
    OfTwoLogs {
        /// The log's own directory.
        path: PathBuf,
    },
    /// The log's own manifest (`log.manifest.*`) is from before slots were moved, as a shard knows: it was restored from
    /// an older backup. Records would not be found by their keys. Nothing was changed.
    #[error(
        "`log.manifest.*` in {} is older than the log: its map of slots is version {version}, and shard {shard} knows of \
             version {known}; nothing was changed: restore its newest copy",
        path.display()
    )]
    MapOlder {
        /// The log's own directory.
        path: PathBuf,
        /// Of the map that was found.
        version: u32,
        /// The shard that knows of a later one.
        shard: ShardId,
        /// The version that it knows of.
        known: u32,
    },
    /// A manifest that is lost in both copies cannot be rebuilt from the segment files. Nothing was changed.
    #[error("the manifest in {} cannot be rebuilt: {reason}; nothing was changed", path.display())]
    CannotRebuild {
        /// The folder of the manifest.
        path: PathBuf,
        /// What stands in the way.
        reason: String,
    },
    /// The log was written by a newer version of sawmill; nothing was touched.
    #[error("{} was written by a newer version of sawmill", path.display())]
    TooNew {
        /// The folder.
        path: PathBuf,
    },
    /// This process was forked from the one that opens the log ([`Options::open_async`](crate::Options::open_async)).
    #[error("{}", Unavailable::Forked)]
    Forked,
    /// A file or folder could not be used, or no thread could be made.
    #[error("{}: {operation} failed{}", path.display(), super::advice(source))]
    Io {
        /// What was tried, such as `reading the manifest`.
        operation: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: SharedIo,
    },
}

impl OpenError {
    /// What failed, and where.
    pub(crate) fn at(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
        let path = path.to_owned();
        move |error| OpenError::Io { operation, path, source: Arc::new(error) }
    }

    /// A shard's folder holds this shard, of this log or of another one, in place of its own, as one of its files says.
    pub(crate) fn other_shard(
        folder: &Path,
        log: &Path,
        is_of_log: bool,
        shard: u16,
        file: &str,
    ) -> OpenError {
        let found =
            format!("shard {shard} of {} log (by `{file}`)", if is_of_log { "this" } else { "another" });
        OpenError::NotOfThisLog { path: folder.to_owned(), found, log: log.to_owned() }
    }

    /// A manifest in this folder that is not available.
    pub(crate) fn manifest(path: &Path) -> impl FnOnce(ManifestError) -> OpenError {
        let path = path.to_owned();
        move |error| match error {
            ManifestError::Missing => OpenError::ManifestMissing { path },
            ManifestError::Damaged([first, second]) => OpenError::ManifestDamaged { path, first, second },
            ManifestError::TooNew => OpenError::TooNew { path },
            ManifestError::OfTwo => OpenError::OfTwoLogs { path },
            ManifestError::Io { operation, file, source } => {
                let path = file.map_or(path.clone(), |file| path.join(file));
                OpenError::Io { operation, path, source: Arc::new(source) }
            }
        }
    }
}
