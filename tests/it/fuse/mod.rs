//! A file system of the tests' own, by FUSE: in memory, with a volatile cache that a power cut loses sector by
//! sector, and with a device that fails, stalls, fills up or writes less than it was asked to.
//!
//! The simulator does all of this faster and from a seed; here the real drivers meet it.

mod server;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{Errno, FileAttr, FileType, INodeNo, ReplyWrite};
use server::Server;
use tempfile::TempDir;

const SECTOR: usize = 512;
const NOW: Duration = Duration::ZERO;
/// Some request of a disk whose power has gone.
const DEAD: Errno = Errno::EIO;

/// What the device does wrong. By default nothing.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Writes move so many bytes at most.
    pub short: Option<usize>,
    /// Writes wait until [`Disk::unpin`].
    pub hold: bool,
    /// What `hold`, `writes_left` and `syncs_left` say is so of files with this text in their names alone.
    pub only: Option<&'static str>,
    /// So many more writes succeed, and then none.
    pub writes_left: Option<u64>,
    /// So many more syncs succeed, and then none: what was dirty is lost.
    pub syncs_left: Option<u64>,
    /// So many syncs are interrupted, before they have done anything.
    pub interrupted_syncs: u64,
    /// Syncs say that all is well and save nothing.
    pub lying_syncs: bool,
    /// All files together are this large at most.
    pub capacity: Option<u64>,
}

/// What a power cut leaves of the sectors and names that no sync covered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    All,
    Nothing,
    /// Each of them, or not.
    Some,
}

#[derive(Clone, Debug)]
enum Node {
    Folder { names: BTreeMap<OsString, u64>, durable: BTreeMap<OsString, u64> },
    File { current: Vec<u8>, durable: Vec<u8>, dirty: BTreeSet<usize> },
}

impl Node {
    fn file() -> Node {
        Node::File { current: Vec::new(), durable: Vec::new(), dirty: BTreeSet::new() }
    }

    fn folder() -> Node {
        Node::Folder { names: BTreeMap::new(), durable: BTreeMap::new() }
    }
}

#[derive(Debug)]
struct Held {
    inode: u64,
    offset: u64,
    bytes: Vec<u8>,
    reply: ReplyWrite,
}

#[derive(Debug)]
struct State {
    nodes: BTreeMap<u64, Node>,
    next: u64,
    dead: bool,
    /// What a power cut keeps whole: a sector of the device, one or more of ours.
    sector_bytes: usize,
    /// Files that are open, each as often as it is.
    open: usize,
    faults: Faults,
    held: Vec<Held>,
    /// Files that were synced, each time.
    synced: Vec<u64>,
    random: u64,
}

impl State {
    /// SplitMix64.
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn attributes(&self, inode: u64) -> Option<FileAttr> {
        let node = self.nodes.get(&inode)?;
        let (kind, size) = match node {
            Node::Folder { .. } => (FileType::Directory, 0),
            Node::File { current, .. } => (FileType::RegularFile, current.len() as u64),
        };
        Some(FileAttr {
            ino: INodeNo(inode),
            size,
            blocks: size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm: 0o755,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    fn child(&self, parent: u64, name: &OsStr) -> Option<u64> {
        match self.nodes.get(&parent)? {
            Node::Folder { names, .. } => names.get(name).copied(),
            Node::File { .. } => None,
        }
    }

    fn make(&mut self, parent: u64, name: &OsStr, node: Node) -> Result<FileAttr, Errno> {
        if self.dead {
            return Err(DEAD);
        }
        if self.child(parent, name).is_some() {
            return Err(Errno::EEXIST);
        }
        let inode = self.next;
        self.next += 1;
        let Some(Node::Folder { names, .. }) = self.nodes.get_mut(&parent) else {
            return Err(Errno::ENOTDIR);
        };
        names.insert(name.to_owned(), inode);
        self.nodes.insert(inode, node);
        Ok(self.attributes(inode).expect("just made"))
    }

    fn unlink(&mut self, parent: u64, name: &OsStr) -> Result<(), Errno> {
        match self.nodes.get_mut(&parent) {
            _ if self.dead => Err(DEAD),
            Some(Node::Folder { names, .. }) => names.remove(name).map(drop).ok_or(Errno::ENOENT),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn grow(&mut self, inode: u64, bytes: u64) -> Result<(), Errno> {
        let used: u64 = self
            .nodes
            .values()
            .map(|node| if let Node::File { current, .. } = node { current.len() as u64 } else { 0 })
            .sum();
        let capacity = self.faults.capacity.unwrap_or(u64::MAX);
        let Some(Node::File { current, .. }) = self.nodes.get_mut(&inode) else { return Err(Errno::ENOENT) };
        let more = bytes.saturating_sub(current.len() as u64);
        if more > 0 && used + more > capacity {
            return Err(Errno::ENOSPC);
        }
        if more > 0 {
            current.resize(bytes as usize, 0);
        }
        Ok(())
    }

    /// Whether a text is part of the file's name.
    fn is_named(&self, inode: u64, text: &str) -> bool {
        self.nodes.values().any(|node| match node {
            Node::Folder { names, .. } => {
                names.iter().any(|(name, of)| *of == inode && name.to_string_lossy().contains(text))
            }
            Node::File { .. } => false,
        })
    }

    fn syncs(&self, text: &str) -> usize {
        self.synced.iter().filter(|inode| self.is_named(**inode, text)).count()
    }

    /// Whether what is wrong with the device is wrong with this file.
    fn is_meant(&self, inode: u64) -> bool {
        self.faults.only.is_none_or(|text| self.is_named(inode, text))
    }

    fn write(&mut self, inode: u64, offset: u64, bytes: &[u8]) -> Result<usize, Errno> {
        if self.dead {
            return Err(DEAD);
        }
        let is_meant = self.is_meant(inode);
        if let Some(left) = self.faults.writes_left.as_mut().filter(|_| is_meant) {
            *left = left.checked_sub(1).ok_or(Errno::EIO)?;
        }
        let count = bytes.len().min(self.faults.short.unwrap_or(usize::MAX));
        self.grow(inode, offset + count as u64)?;
        let Some(Node::File { current, dirty, .. }) = self.nodes.get_mut(&inode) else {
            return Err(Errno::ENOENT);
        };
        let (start, end) = (offset as usize, offset as usize + count);
        current[start..end].copy_from_slice(&bytes[..count]);
        dirty.extend(start / SECTOR..end.div_ceil(SECTOR));
        Ok(count)
    }

    fn sync(&mut self, inode: u64) -> Result<(), Errno> {
        if self.dead {
            return Err(DEAD);
        }
        if let Some(left) = self.faults.interrupted_syncs.checked_sub(1) {
            self.faults.interrupted_syncs = left;
            return Err(Errno::EINTR);
        }
        let lies = self.faults.lying_syncs;
        let is_meant = self.is_meant(inode);
        let fails = match &mut self.faults.syncs_left {
            _ if !is_meant => false,
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        };
        match self.nodes.get_mut(&inode) {
            Some(Node::File { dirty, .. }) if fails => {
                dirty.clear();
                return Err(Errno::EIO);
            }
            _ if lies => {}
            Some(Node::File { current, durable, dirty }) => {
                durable.resize(current.len(), 0);
                for sector in std::mem::take(dirty) {
                    let range = sector * SECTOR..((sector + 1) * SECTOR).min(current.len());
                    durable[range.clone()].copy_from_slice(&current[range]);
                }
            }
            Some(Node::Folder { names, durable }) => durable.clone_from(names),
            None => return Err(Errno::ENOENT),
        }
        self.synced.push(inode);
        Ok(())
    }

    fn survives(&mut self, left: Left) -> bool {
        match left {
            Left::All => true,
            Left::Nothing => false,
            Left::Some => self.random() % 2 == 0,
        }
    }

    /// What a power cut leaves. This disk, which nobody reads any more, keeps names alone.
    fn after_cut(&mut self, left: Left) -> BTreeMap<u64, Node> {
        let husk = |(inode, node): (&u64, &Node)| match node {
            Node::Folder { .. } => (*inode, node.clone()),
            Node::File { .. } => (*inode, Node::file()),
        };
        let husks = self.nodes.iter().map(husk).collect();
        let mut nodes = std::mem::replace(&mut self.nodes, husks);
        for node in nodes.values_mut() {
            match node {
                Node::Folder { names, durable } => {
                    for (name, inode) in names.iter() {
                        if !durable.contains_key(name) && self.survives(left) {
                            durable.insert(name.clone(), *inode);
                        }
                    }
                    durable.retain(|name, _| names.contains_key(name) || !self.survives(left));
                    names.clone_from(durable);
                }
                Node::File { current, durable, dirty } => {
                    if current.len() > durable.len() && self.survives(left) {
                        durable.resize(current.len(), 0);
                    }
                    let (mut of, mut survives) = (usize::MAX, false);
                    for sector in std::mem::take(dirty) {
                        let range = sector * SECTOR..((sector + 1) * SECTOR).min(current.len());
                        if range.start / self.sector_bytes != of {
                            (of, survives) = (range.start / self.sector_bytes, self.survives(left));
                        }
                        if survives && range.end <= durable.len() {
                            durable[range.clone()].copy_from_slice(&current[range]);
                        }
                    }
                    set(current, durable);
                }
            }
        }
        nodes
    }
}

/// Makes one like the other. A large file is mostly nought on both sides, in memory that nobody has touched: it
/// stays so.
fn set(file: &mut Vec<u8>, to: &[u8]) {
    file.resize(to.len(), 0);
    for (part, to) in file.chunks_mut(4096).zip(to.chunks(4096)) {
        if part != to {
            part.copy_from_slice(to);
        }
    }
}

/// The disk, which outlives its mounts.
#[derive(Clone, Debug)]
pub struct Disk {
    state: Arc<Mutex<State>>,
    /// Told of writes that are held and of syncs.
    changed: Arc<Condvar>,
}

/// A disk that is mounted; unmounted when dropped.
pub struct Mounted {
    pub dir: TempDir,
    disk: Disk,
    session: Option<fuser::BackgroundSession>,
    /// Dropped, it calls the watchdog off.
    _watched: Sender<()>,
}

/// Far longer than any test here takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// Ends the connection of a mount after a while. Its server is in this very process: where a request waits for
/// an answer that never comes, the process could neither go on nor be killed.
fn watch(mount: &Path) -> Sender<()> {
    let connections = Path::new("/sys/fs/fuse/connections");
    let minor = std::fs::metadata(mount).map_or(0, |found| found.dev() & 0xff | found.dev() >> 12 & 0xfff00);
    let abort = connections.join(minor.to_string()).join("abort");
    let (sender, called_off) = channel();
    std::thread::spawn(move || {
        if called_off.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            if !abort.exists() {
                let _ = Command::new("mount").args(["-t", "fusectl", "none"]).arg(connections).status();
            }
            let aborted = std::fs::write(&abort, "1");
            eprintln!("a test on FUSE got nowhere; its connection was ended: {aborted:?}");
        }
    });
    sender
}

impl Disk {
    pub fn new(seed: u64) -> Disk {
        Disk::of(BTreeMap::from([(INodeNo::ROOT.0, Node::folder())]), 2, SECTOR, seed)
    }

    /// A disk with one file, `image`, which is there, of noughts: what a loop device takes for a disk.
    pub fn image(bytes: usize, sector_bytes: usize, seed: u64) -> Disk {
        let names = BTreeMap::from([(OsString::from("image"), 2)]);
        let root = Node::Folder { names: names.clone(), durable: names };
        let file = Node::File { current: vec![0; bytes], durable: vec![0; bytes], dirty: BTreeSet::new() };
        Disk::of(BTreeMap::from([(INodeNo::ROOT.0, root), (2, file)]), 3, sector_bytes, seed)
    }

    fn of(nodes: BTreeMap<u64, Node>, next: u64, sector_bytes: usize, random: u64) -> Disk {
        let faults = Faults::default();
        let (held, synced) = (Vec::new(), Vec::new());
        let state = State { nodes, next, dead: false, sector_bytes, open: 0, faults, held, synced, random };
        Disk { state: Arc::new(Mutex::new(state)), changed: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Waits until something is so of the disk.
    #[track_caller]
    fn wait_until(&self, is_so: impl Fn(&State) -> bool) {
        let (state, waited) = self
            .changed
            .wait_timeout_while(self.state(), PATIENCE / 2, |state| !is_so(state))
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        drop(state);
        assert!(!waited.timed_out(), "it never came to that");
    }

    /// Waits until so many writes are held.
    #[track_caller]
    pub fn wait_for_held(&self, writes: usize) {
        self.wait_until(|state| state.held.len() >= writes);
    }

    /// How often files with this text in their names were synced.
    pub fn syncs(&self, text: &str) -> usize {
        self.state().syncs(text)
    }

    /// Waits until they were synced so often.
    #[track_caller]
    pub fn wait_for_syncs(&self, text: &str, syncs: usize) {
        self.wait_until(|state| state.syncs(text) >= syncs);
    }

    /// Waits until nobody has a file of it open.
    #[track_caller]
    pub fn wait_until_closed(&self) {
        self.wait_until(|state| state.open == 0);
    }

    pub fn set_faults(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// How many writes wait.
    pub fn held(&self) -> usize {
        self.state().held.len()
    }

    /// Writes that wait are made, and later ones do not wait.
    pub fn unpin(&self) {
        let mut state = self.state();
        state.faults.hold = false;
        for held in std::mem::take(&mut state.held) {
            match state.write(held.inode, held.offset, &held.bytes) {
                Ok(count) => held.reply.written(count as u32),
                Err(error) => held.reply.error(error),
            }
        }
    }

    /// The power fails: every request fails from now on. Gives the disk as it is when the power is back.
    pub fn cut(&self) -> Disk {
        self.cut_leaving(Left::Some)
    }

    /// As [`Disk::cut`].
    pub fn cut_leaving(&self, left: Left) -> Disk {
        let mut state = self.state();
        state.dead = true;
        for held in std::mem::take(&mut state.held) {
            held.reply.error(DEAD);
        }
        let (nodes, next, random) = (state.after_cut(left), state.next, state.random());
        Disk::of(nodes, next, state.sector_bytes, random)
    }

    /// Mounts the disk; `None`, which is said, where that is not possible. With `SAWMILL_NO_SKIP` set, as in
    /// CI, it is a failure.
    pub fn mount(&self) -> Option<Mounted> {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary directory");
        match fuser::spawn_mount(Server(self.clone()), dir.path(), &fuser::Config::default()) {
            Ok(session) => {
                let _watched = watch(dir.path());
                Some(Mounted { dir, disk: self.clone(), session: Some(session), _watched })
            }
            Err(reason) => {
                assert!(std::env::var_os("SAWMILL_NO_SKIP").is_none(), "FUSE: {reason}");
                eprintln!("skipped, no FUSE file system of the test's own: {reason}");
                None
            }
        }
    }
}

impl Mounted {
    pub fn log(&self) -> std::path::PathBuf {
        self.dir.path().join("log")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.disk.unpin();
        // A ring that is gone holds its files for some tens of milliseconds more: unmounted lazily, which lets
        // the server's thread end when the last file is closed.
        let path = self.dir.path().to_str().expect("a path in UTF-8").to_owned();
        let _ = Command::new("umount").args(["-l", &path]).status();
        drop(self.session.take());
    }
}
