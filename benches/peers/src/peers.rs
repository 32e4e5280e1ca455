//! Each peer behind the same call: append one payload, durable on return.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};

type Error = Box<dyn std::error::Error>;

/// A log as its users use it.
pub trait Peer: Sync {
    /// Appends, and returns once the payload survives a power cut.
    fn append(&self, payload: &[u8]) -> Result<(), Error>;
}

/// How a peer is opened in a directory.
pub type Open = fn(&Path) -> Result<Box<dyn Peer>, Error>;

/// The name and the way to open each.
pub fn all() -> Vec<(&'static str, Open)> {
    vec![
        ("sawmill", sawmill),
        ("by hand", by_hand),
        ("okaywal", okaywal),
        ("raft-engine", raft_engine),
        ("wal-db", wal_db),
        ("fjall", fjall),
        ("walrus", walrus),
        #[cfg(feature = "rocksdb")]
        ("rocksdb", rocksdb),
    ]
}

impl Peer for sawmill::Log {
    fn append(&self, payload: &[u8]) -> Result<(), Error> {
        self.append(payload).wait()?;
        Ok(())
    }
}

fn sawmill(dir: &Path) -> Result<Box<dyn Peer>, Error> {
    Ok(Box::new(sawmill::Options::new().shards(1).open(dir)?))
}

/// What a careful programmer writes with std alone: callers put records into a shared buffer, one of them
/// writes and syncs what has gathered, and the others wait for it. Into a file whose blocks are there.
struct ByHand {
    file: File,
    state: Mutex<Gathered>,
    changed: Condvar,
}

#[derive(Default)]
struct Gathered {
    buffer: Vec<u8>,
    /// The batch that is gathered now; all below are durable or being written.
    batch: u64,
    durable: u64,
    busy: bool,
    end: u64,
    failed: bool,
}

const FILE_BYTES: u64 = 1 << 30;

fn by_hand(dir: &Path) -> Result<Box<dyn Peer>, Error> {
    let mut file = File::create(dir.join("log"))?;
    let zeros = vec![0u8; 1 << 20];
    for _ in 0..FILE_BYTES >> 20 {
        file.write_all(&zeros)?;
    }
    file.sync_all()?;
    let state = Mutex::new(Gathered { batch: 1, ..Gathered::default() });
    Ok(Box::new(ByHand { file, state, changed: Condvar::new() }))
}

impl Peer for ByHand {
    fn append(&self, payload: &[u8]) -> Result<(), Error> {
        let mut state = self.state.lock().map_err(|_| "poisoned")?;
        let crc = crc32c::crc32c(payload);
        state.buffer.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        state.buffer.extend_from_slice(&crc.to_le_bytes());
        state.buffer.extend_from_slice(payload);
        let own = state.batch;
        loop {
            if state.failed {
                return Err("a sync failed".into());
            }
            if state.durable >= own {
                return Ok(());
            }
            if state.busy {
                state = self.changed.wait(state).map_err(|_| "poisoned")?;
                continue;
            }
            state.busy = true;
            let (bytes, batch) = (std::mem::take(&mut state.buffer), state.batch);
            state.batch += 1;
            let at = if state.end + bytes.len() as u64 > FILE_BYTES { 0 } else { state.end };
            state.end = at + bytes.len() as u64;
            drop(state);
            let done = self.file.write_all_at(&bytes, at).and_then(|()| self.file.sync_data());
            state = self.state.lock().map_err(|_| "poisoned")?;
            state.busy = false;
            state.failed |= done.is_err();
            state.durable = batch;
            if state.buffer.is_empty() {
                state.buffer = bytes;
                state.buffer.clear();
            }
            self.changed.notify_all();
        }
    }
}

#[derive(Debug)]
struct Forget;

impl okaywal::LogManager for Forget {
    fn recover(&mut self, _: &mut okaywal::Entry<'_>) -> std::io::Result<()> {
        Ok(())
    }

    fn checkpoint_to(
        &mut self,
        _: okaywal::EntryId,
        _: &mut okaywal::SegmentReader,
        _: &okaywal::WriteAheadLog,
    ) -> std::io::Result<()> {
        Ok(())
    }
}

struct Okaywal(okaywal::WriteAheadLog);

fn okaywal(dir: &Path) -> Result<Box<dyn Peer>, Error> {
    Ok(Box::new(Okaywal(okaywal::WriteAheadLog::recover(dir, Forget)?)))
}

impl Peer for Okaywal {
    fn append(&self, payload: &[u8]) -> Result<(), Error> {
        let mut entry = self.0.begin_entry()?;
        entry.write_chunk(payload)?;
        entry.commit()?;
        Ok(())
    }
}

struct RaftEngine {
    engine: raft_engine::Engine,
    next: AtomicU64,
}

fn raft_engine(dir: &Path) -> Result<Box<dyn Peer>, Error> {
    let dir = dir.to_str().ok_or("a path in UTF-8")?.to_owned();
    let engine = raft_engine::Engine::open(raft_engine::Config { dir, ..Default::default() })?;
    Ok(Box::new(RaftEngine { engine, next: AtomicU64::new(0) }))
}

impl Peer for RaftEngine {
    fn append(&self, payload: &[u8]) -> Result<(), Error> {
        // A few keys, so that its table in memory stays small.
        let key = self.next.fetch_add(1, Ordering::Relaxed) % 1024;
        let mut batch = raft_engine::LogBatch::with_capacity(1);
        batch.put(1, key.to_le_bytes().to_vec(), payload.to_vec())?;
        self.engine.write(&mut batch, true)?;
        Ok(())
    }
}

struct WalDb(wal_db::Wal);

fn wal_db(dir: &Path) -> Result<Box<dyn Peer>, Error> {
    Ok(Box::new(WalDb(wal_db::Wal::open(dir.join("log"))?)))
}

impl Peer for WalDb {
    fn append(&self, payload: &[u8]) -> Result<(), Error> {
        let _lsn = self.0.append_and_sync(payload)?;
        Ok(())
    }
}

struct Fjall {
    database: fjall::Database,
    items: fjall::Keyspace,
    next: AtomicU64,
}

fn fjall(dir: &Path) -> Result<Box<dyn Peer>, Error> {
    let database = fjall::Database::builder(dir).open()?;
    let items = database.keyspace("items", fjall::KeyspaceCreateOptions::default)?;
    Ok(Box::new(Fjall { database, items, next: AtomicU64::new(0) }))
}

impl Peer for Fjall {
    fn append(&self, payload: &[u8]) -> Result<(), Error> {
        let key = self.next.fetch_add(1, Ordering::Relaxed);
        self.items.insert(key.to_be_bytes(), payload)?;
        self.database.persist(fjall::PersistMode::SyncData)?;
        Ok(())
    }
}

struct Walrus(walrus_rust::Walrus);

fn walrus(dir: &Path) -> Result<Box<dyn Peer>, Error> {
    // SAFETY: no other thread of this process runs yet that reads the environment.
    unsafe {
        std::env::set_var("WALRUS_DATA_DIR", dir);
        // It says each write otherwise.
        std::env::set_var("WALRUS_QUIET", "1");
    }
    walrus_rust::enable_fd_backend();
    Ok(Box::new(Walrus(walrus_rust::Walrus::with_consistency_and_schedule(
        walrus_rust::ReadConsistency::AtLeastOnce { persist_every: 1000 },
        walrus_rust::FsyncSchedule::SyncEach,
    )?)))
}

impl Peer for Walrus {
    fn append(&self, payload: &[u8]) -> Result<(), Error> {
        self.0.append_for_topic("log", payload)?;
        Ok(())
    }
}

#[cfg(feature = "rocksdb")]
struct Rocks {
    database: rocksdb::DB,
    next: AtomicU64,
}

#[cfg(feature = "rocksdb")]
fn rocksdb(dir: &Path) -> Result<Box<dyn Peer>, Error> {
    Ok(Box::new(Rocks { database: rocksdb::DB::open_default(dir)?, next: AtomicU64::new(0) }))
}

#[cfg(feature = "rocksdb")]
impl Peer for Rocks {
    fn append(&self, payload: &[u8]) -> Result<(), Error> {
        let mut options = rocksdb::WriteOptions::default();
        options.set_sync(true);
        // A few keys, so that what is not the log costs little; the table in memory is still written.
        let key = self.next.fetch_add(1, Ordering::Relaxed) % 1024;
        self.database.put_opt(key.to_le_bytes(), payload, &options)?;
        Ok(())
    }
}
