//! Runs as files of a shard's folder.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, OnceLock};

use super::{PageCache, Pages, Run, Sink, Written};
use crate::device::{Directory, File, FileId};
use crate::format::{Defect, INDEX_PAGE_BYTES};
use crate::pool::AlignedBuffer;

/// Written at once, of each kind of page.
const CHUNK_BYTES: usize = 64 << 10;

/// Pages of places, of blocks and of keys.
const KINDS: usize = 3;

fn run_name(number: u32) -> String {
    format!("{number:010}.idx")
}

/// `None` if the name is not a run's.
fn run_number(name: &str) -> Option<u32> {
    let number = name.strip_suffix(".idx")?.parse().ok()?;
    (run_name(number) == name).then_some(number)
}

/// A run in its file.
#[derive(Clone, Debug)]
pub(crate) struct RunFile {
    pub number: u32,
    id: FileId,
    pub run: Arc<Run>,
}

impl RunFile {
    /// Removes the file, if the name is still its own. One that stays is found at the next open.
    pub(crate) fn remove(&self, directory: &dyn Directory) {
        let _ = directory.remove_file(&run_name(self.number), self.id);
    }
}

/// The runs in a shard's folder that can be believed, by their first pages, and the highest number that any of them has.
/// Files with a run's name that are none are removed.
pub(crate) fn list_runs(
    directory: &dyn Directory,
    log_id: &[u8; 16],
    shard: u16,
) -> io::Result<(Vec<RunFile>, u32)> {
    let (mut runs, mut highest) = (Vec::new(), 0);
    let mut page = AlignedBuffer::zeroed(INDEX_PAGE_BYTES)?;
    for number in directory.list()?.iter().filter_map(|name| run_number(name)) {
        let name = run_name(number);
        let file = match directory.open_again(&name) {
            Ok(file) => file,
            // Somebody has removed it, or this process may open no more files.
            Err(_) => continue,
        };
        let id = file.id()?;
        match read_run(file.as_ref(), &mut page, log_id, shard) {
            Ok(run) => {
                highest = highest.max(number);
                runs.push(RunFile { number, id, run: Arc::new(run) });
            }
            Err(Defect::Unreadable) => {}
            Err(_) => drop(directory.remove_file(&name, id)),
        }
    }
    Ok((runs, highest))
}

/// The runs in a shard's folder, which is somebody else's, by their numbers, and how many names there are in it. Of those
/// that are `known`, by their numbers as well, none is opened again, unless another file has its name by now. One that has
/// its inode, too, shows once a page is read.
pub(crate) fn look_for_runs(
    directory: &dyn Directory,
    log_id: &[u8; 16],
    shard: u16,
    known: &[RunFile],
) -> io::Result<(Vec<RunFile>, usize)> {
    let names = directory.list()?;
    let mut page = AlignedBuffer::zeroed(INDEX_PAGE_BYTES)?;
    let mut run = |number| {
        let name = run_name(number);
        if let Ok(index) = known.binary_search_by_key(&number, |run| run.number) {
            if directory.id_of(&name).is_ok_and(|id| id == known[index].id) {
                return Some(known[index].clone());
            }
        }
        // What is gone by now, cannot be read or is not written yet may be there the next time.
        let file = directory.open_again(&name).ok()?;
        let run = read_run(file.as_ref(), &mut page, log_id, shard).ok()?;
        Some(RunFile { number, id: file.id().ok()?, run: Arc::new(run) })
    };
    let mut numbers: Vec<u32> = names.iter().filter_map(|name| run_number(name)).collect();
    numbers.sort_unstable();
    Ok((numbers.into_iter().filter_map(&mut run).collect(), names.len()))
}

fn read_run(file: &dyn File, page: &mut AlignedBuffer, log_id: &[u8; 16], shard: u16) -> Result<Run, Defect> {
    let bytes = file.bytes().map_err(|_| Defect::Unreadable)?;
    match file.read_at(&mut page[..INDEX_PAGE_BYTES], 0) {
        Ok(INDEX_PAGE_BYTES) => Run::decode(&page[..INDEX_PAGE_BYTES], bytes, log_id, shard),
        Ok(_) => Err(Defect::Short),
        Err(_) => Err(Defect::Unreadable),
    }
}

/// The pages of a run, those that were read before out of the cache.
#[derive(Debug)]
pub(crate) struct FilePages {
    directory: Arc<dyn Directory>,
    run: RunFile,
    /// `None` for who reads all of it once.
    cache: Option<Arc<PageCache>>,
    file: OnceLock<Arc<dyn File>>,
}

impl FilePages {
    pub(crate) fn new(
        directory: &Arc<dyn Directory>,
        run: &RunFile,
        cache: Option<&Arc<PageCache>>,
    ) -> FilePages {
        let (directory, run, cache) = (directory.clone(), run.clone(), cache.cloned());
        FilePages { directory, run, cache, file: OnceLock::new() }
    }

    /// The file, opened when it is first needed: there may be thousands of runs.
    fn file(&self) -> Result<&Arc<dyn File>, Defect> {
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        let opened = self.directory.open_again(&run_name(self.run.number));
        let file = opened.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Defect::Missing,
            _ => Defect::Unreadable,
        })?;
        if file.id().map_err(|_| Defect::Unreadable)? != self.run.id {
            return Err(Defect::Foreign);
        }
        Ok(self.file.get_or_init(|| file))
    }

    fn read(&self, number: u32) -> Result<Arc<[u8]>, Defect> {
        let mut page = AlignedBuffer::zeroed(INDEX_PAGE_BYTES).map_err(|_| Defect::Unreadable)?;
        let offset = u64::from(number) * INDEX_PAGE_BYTES as u64;
        match self.file()?.read_at(&mut page[..INDEX_PAGE_BYTES], offset) {
            Ok(INDEX_PAGE_BYTES) => {}
            Ok(_) => return Err(Defect::Short),
            Err(_) => return Err(Defect::Unreadable),
        }
        self.run.run.header.check_page(number, &page[..INDEX_PAGE_BYTES])?;
        Ok(page[..INDEX_PAGE_BYTES].into())
    }
}

impl Pages for FilePages {
    fn page(&self, number: u32) -> Result<Arc<[u8]>, Defect> {
        let Some(cache) = &self.cache else { return self.read(number) };
        let name = (self.run.run.header.nonce, number);
        if let Some(page) = cache.get(name) {
            return Ok(page);
        }
        let page = self.read(number)?;
        cache.put(name, &page);
        Ok(page)
    }
}

/// Pages that lie behind each other and are written at once.
struct Chunk {
    bytes: AlignedBuffer,
    first: u32,
    pages: u32,
}

/// Writes a run's pages to a file.
struct FileSink<'a> {
    file: &'a dyn File,
    chunks: Vec<Chunk>,
}

impl FileSink<'_> {
    fn new(file: &dyn File) -> io::Result<FileSink<'_>> {
        let chunk = || Ok(Chunk { bytes: AlignedBuffer::zeroed(CHUNK_BYTES)?, first: 0, pages: 0 });
        let chunks = (0..KINDS).map(|_| chunk()).collect::<io::Result<Vec<_>>>()?;
        Ok(FileSink { file, chunks })
    }

    fn flush(file: &dyn File, chunk: &mut Chunk) -> io::Result<()> {
        let pages = std::mem::take(&mut chunk.pages) as usize;
        if pages == 0 {
            return Ok(());
        }
        let offset = u64::from(chunk.first) * INDEX_PAGE_BYTES as u64;
        file.write_at(&chunk.bytes[..pages * INDEX_PAGE_BYTES], offset, false)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.chunks.iter_mut().try_for_each(|chunk| FileSink::flush(self.file, chunk))
    }
}

impl Sink for FileSink<'_> {
    fn put(&mut self, number: u32, page: &[u8]) -> io::Result<()> {
        let goes_on = |chunk: &Chunk| chunk.pages > 0 && chunk.first + chunk.pages == number;
        let empty = |chunk: &Chunk| chunk.pages == 0;
        let index = self.chunks.iter().position(goes_on).or_else(|| self.chunks.iter().position(empty));
        let chunk = &mut self.chunks[index.unwrap_or(0)];
        if index.is_none() {
            FileSink::flush(self.file, chunk)?;
        }
        if chunk.pages == 0 {
            chunk.first = number;
        }
        chunk.bytes[chunk.pages as usize * INDEX_PAGE_BYTES..][..INDEX_PAGE_BYTES].copy_from_slice(page);
        chunk.pages += 1;
        if chunk.pages as usize * INDEX_PAGE_BYTES == CHUNK_BYTES {
            FileSink::flush(self.file, chunk)?;
        }
        Ok(())
    }
}

/// A new file with the name of a run: with this number, or with the lowest that is free where some file has that. None of
/// the runs that are `known` has it, whether their files are there or not.
fn create(directory: &dyn Directory, number: u32, known: &[RunFile]) -> io::Result<(u32, Arc<dyn File>)> {
    let is_known = |number: u32| known.iter().any(|run| run.number == number);
    if !is_known(number) {
        match directory.create(&run_name(number)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            created => return created.map(|file| (number, file)),
        }
    }
    let names = directory.list()?;
    let taken: BTreeSet<u32> = names.iter().filter_map(|name| run_number(name)).collect();
    let number = (1..=u32::MAX).find(|number| !taken.contains(number) && !is_known(*number));
    let number = number.ok_or_else(|| io::Error::other("there is no number for another run"))?;
    directory.create(&run_name(number)).map(|file| (number, file))
}

/// Writes a run into a new file, of this number if that is free, its first page last. Nothing is synced: what a power cut
/// leaves of it checks or does not.
///
/// # Errors
/// Where that fails; the file is gone again, if it can be removed.
pub(crate) fn write_run(
    directory: &dyn Directory,
    number: u32,
    known: &[RunFile],
    write: impl FnOnce(&mut dyn Sink) -> io::Result<Written>,
) -> io::Result<RunFile> {
    let (number, file) = create(directory, number, known)?;
    let name = run_name(number);
    let id = file.id()?;
    let mut sink = FileSink::new(file.as_ref())?;
    let written = write(&mut sink).and_then(|written| {
        sink.finish()?;
        let mut page = AlignedBuffer::zeroed(INDEX_PAGE_BYTES)?;
        page[..INDEX_PAGE_BYTES].copy_from_slice(&written.first_page);
        file.write_at(&page[..INDEX_PAGE_BYTES], 0, false)?;
        Ok(RunFile { number, id, run: Arc::new(written.run) })
    });
    if written.is_err() {
        let _ = directory.remove_file(&name, id);
    }
    written
}
