//! Why what a folder should hold could not be read.

use std::io;
use std::path::Path;

use crate::format::Defect;

/// Why no manifest, or what it lists, could be read.
#[derive(Debug)]
pub(crate) enum ManifestError {
    /// There is no such file at all.
    Missing,
    /// Neither copy is valid; the defect of each.
    Damaged([Defect; 2]),
    /// Both copies are valid, and say what only two logs can say.
    OfTwo,
    /// Written by a newer version.
    TooNew,
    /// What the system said, what was tried then, and of which file, where it is of one.
    Io { operation: &'static str, file: Option<String>, source: io::Error },
}

impl ManifestError {
    /// An error of this copy of a manifest.
    pub(super) fn of(file: &str) -> impl FnOnce(io::Error) -> ManifestError {
        ManifestError::at("reading the manifest", file)
    }

    /// An error of this segment's file.
    pub(super) fn of_segment(file: &str) -> impl FnOnce(io::Error) -> ManifestError {
        ManifestError::at("opening a segment", file)
    }

    fn at(operation: &'static str, file: &str) -> impl FnOnce(io::Error) -> ManifestError {
        let file = Some(file.to_owned());
        move |source| ManifestError::Io { operation, file, source }
    }

    /// Nothing may have relied on the copies yet: none is there, or the second one was never written.
    pub(crate) fn is_of_unfinished(&self) -> bool {
        let never_written = |defect| matches!(defect, Defect::NoHeader | Defect::Short | Defect::Missing);
        match self {
            ManifestError::Missing => true,
            ManifestError::Damaged([_, second]) => never_written(*second),
            _ => false,
        }
    }

    /// What the system said of a file in this folder, which is named.
    pub(crate) fn of_file(folder: &Path, file: Option<String>, source: io::Error) -> io::Error {
        match file {
            Some(file) => of_file(&folder.join(file), &source),
            None => source,
        }
    }
}

impl From<io::Error> for ManifestError {
    fn from(source: io::Error) -> ManifestError {
        ManifestError::Io { operation: "reading the manifest", file: None, source }
    }
}

/// The same error, which names its file.
pub(crate) fn of_file(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
