//! The key index: where the records of a key are, found without a scan.
//!
//! A *run* is a file that covers one stretch of a shard: the hash of each key in it, and the places of that key's
//! records. [`Builder`] gathers the entries of a stretch and writes them as a run, [`merge`] makes one run of several
//! that follow each other, and [`Run`] answers lookups. [`RecentKeys`] has the places of what was appended last, in
//! memory. All of it is derived from the log: whoever asks reads the record that is named, and believes that. A run that does not check is no error, it is as if it were not there.
//!
//! Nothing of that performs I/O: pages are read through [`Pages`] and written through [`Sink`]; [`files`] has both for
//! a shard's folder.

mod builder;
mod cache;
mod files;
#[cfg(any(test, feature = "simulation"))]
pub(crate) mod forged;
mod merge;
mod recent_keys;
mod run;
mod writer;

#[cfg(test)]
mod tests;

pub(crate) use builder::{Builder, Built};
pub(crate) use cache::PageCache;
pub(crate) use files::{FilePages, RunFile, list_runs, look_for_runs, write_run};
pub(crate) use merge::{can_merge, merge};
pub(crate) use recent_keys::{Filled, RecentEntry, RecentKeys};
pub(crate) use run::{Place, Places, Run};
pub(crate) use writer::Written;

use writer::RunWriter;

use std::io;
use std::sync::Arc;

use crate::format::Defect;
#[cfg(any(test, feature = "simulation"))]
use crate::format::IndexHeader;

/// Where the pages of a run are read.
pub(crate) trait Pages {
    /// A page, which has been checked against the run's header.
    ///
    /// # Errors
    /// The defect that it has, or [`Defect::Unreadable`].
    fn page(&self, number: u32) -> Result<Arc<[u8]>, Defect>;
}

impl<P: Pages + ?Sized> Pages for &P {
    fn page(&self, number: u32) -> Result<Arc<[u8]>, Defect> {
        (**self).page(number)
    }
}

/// Where the pages of a run are written: each once, those of keys and those of places in order.
pub(crate) trait Sink {
    fn put(&mut self, number: u32, page: &[u8]) -> io::Result<()>;
}

/// The bytes of a run that are in memory.
#[cfg(any(test, feature = "simulation"))]
#[derive(Debug)]
pub(crate) struct PagesInMemory<'a> {
    pub header: &'a IndexHeader,
    pub bytes: &'a [u8],
}

#[cfg(any(test, feature = "simulation"))]
impl Pages for PagesInMemory<'_> {
    fn page(&self, number: u32) -> Result<Arc<[u8]>, Defect> {
        let page = self.bytes.chunks_exact(crate::format::INDEX_PAGE_BYTES).nth(number as usize);
        let page = page.ok_or(Defect::Short)?;
        self.header.check_page(number, page)?;
        Ok(page.into())
    }
}
