//! The lock of a real folder, and what is known of who holds it.
//!
//! What is locked is the folder itself, by its own descriptor: a lock file can be deleted and made anew, and then be
//! locked by a second owner. The lock file is locked beside it: for versions that know no other lock, for file systems
//! where a folder cannot be locked (NFS), and because it names the owner.
//!
//! How long an open waits for a lock: `instance/lock.rs`.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::file::whereabouts;
use super::{FileId, Lock, LockError, PathState};
use crate::sys;

/// Takes the lock of an open folder if nobody has it.
pub(super) fn take(folder: &fs::File, path: &Path, name: &str) -> Result<Arc<dyn Lock>, LockError> {
    // A description of its own, which is not unlocked by whatever becomes of the folder's.
    let own = sys::open_at(folder.as_fd(), ".", libc::O_RDONLY | libc::O_DIRECTORY, 0);
    let of = |path: &Path| {
        let path = path.to_owned();
        move |source| LockError::Io { path, source }
    };
    let own = fs::File::from(own.map_err(of(path))?);
    let named = path.join(name);
    let folder_locked = match sys::try_lock(own.as_fd()) {
        // The lock file is not made anew: its owner lives, or something of it does.
        Ok(false) => return Err(held(&own, name)),
        Ok(true) => true,
        Err(error) if needs_a_file(&error) => false,
        Err(error) => return Err(of(path)(error)),
    };
    let path = path.to_owned();
    let file = match sys::open_at(own.as_fd(), name, libc::O_RDWR | libc::O_CREAT, 0o640) {
        // It is not there, and cannot be made: an open needs no room. The folder is locked all the same.
        Err(error) if folder_locked && sys::lacks_space(&error) => {
            return Ok(Arc::new(RealLock {
                folder: own,
                folder_locked,
                path,
                name: name.to_owned(),
                file: None,
            }));
        }
        file => fs::File::from(file.map_err(of(&named))?),
    };
    if !sys::try_lock(file.as_fd()).map_err(of(&named))? {
        return Err(held(&own, name));
    }
    let metadata = file.metadata().map_err(of(&named))?;
    // Who holds it, for the message of whoever comes next. Not needed for the lock. Always as long, and
    // never cut shorter first: that would wait for what a dead owner's slow device still writes back.
    let text = Owner::of_this_process().text();
    if sys::file_bytes_max().is_none_or(|most| text.len() as u64 <= most) {
        let _ = file.write_all_at(text.as_bytes(), 0);
    }
    let file = Some((file, (metadata.dev(), metadata.ino())));
    Ok(Arc::new(RealLock { folder: own, folder_locked, path, name: name.to_owned(), file }))
}

/// Whether a folder cannot be locked there, though a file may be: NFS makes it a lock of bytes, which needs a file that
/// is open for writing.
fn needs_a_file(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    matches!(
        code,
        Some(libc::EBADF | libc::EINVAL | libc::EISDIR | libc::EOPNOTSUPP | libc::ENOSYS | libc::ENOLCK)
    )
}

/// What is known of who holds the lock.
fn held(folder: &fs::File, name: &str) -> LockError {
    let mut text = String::new();
    let read = sys::open_at(folder.as_fd(), name, libc::O_RDONLY, 0)
        .and_then(|file| fs::File::from(file).read_to_string(&mut text));
    match (read, Owner::parse(&text)) {
        (Ok(_), Some(owner)) => owner.seen(&View::here()),
        (Err(error), _) if error.kind() == io::ErrorKind::NotFound => unnamed(folder, name),
        _ => LockError::Lingering(format!("a process that nothing names: `{name}` cannot be read")),
    }
}

/// What is known of who holds a folder whose lock file was removed.
fn unnamed(folder: &fs::File, name: &str) -> LockError {
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    let inode = folder.metadata().map_or(0, |metadata| metadata.ino());
    match holder(&locks, inode).filter(|&pid| started(pid).is_some()) {
        Some(pid) => LockError::Held(format!("process {pid}, whose `{name}` was removed")),
        None => LockError::Lingering(format!(
            "a process that cannot be seen from here (the lock is held, and `{name}`, which names who took it, was \
             removed): it may well live"
        )),
    }
}

/// Who took the lock of an inode, as far as `/proc/locks` says, proc(5); it tells no processes of other namespaces.
fn holder(locks: &str, inode: u64) -> Option<u32> {
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    locks.lines().map(words).find_map(|words| match &words[..] {
        [_, kind, _, _, pid, file, ..] if kind == "FLOCK" => {
            let is_its = file.rsplit(':').next()?.parse() == Ok(inode);
            if is_its { pid.parse().ok() } else { None }
        }
        _ => None,
    })
}

#[derive(Debug)]
struct RealLock {
    folder: fs::File,
    /// Else the file system locks files alone.
    folder_locked: bool,
    path: PathBuf,
    name: String,
    /// `None` where there was no room for one.
    file: Option<(fs::File, FileId)>,
}

impl Lock for RealLock {
    fn release(&self) {
        // Explicitly: a ring that knows the files keeps them open for tens of milliseconds after they
        // were closed, and the next open would meet its own ghost.
        if let Some((file, _)) = &self.file {
            let _ = sys::unlock(file.as_fd());
        }
        if self.folder_locked {
            let _ = sys::unlock(self.folder.as_fd());
        }
    }

    fn check(&self) -> io::Result<PathState> {
        let found = whereabouts(&self.folder, &self.path)?;
        if found == PathState::Removed {
            return Ok(found);
        }
        let Some((_, own)) = &self.file else { return Ok(found) };
        match sys::inode_at(self.folder.as_fd(), &self.name) {
            Ok(id) if id == *own => Ok(found),
            // Nobody else gets the folder's lock.
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.folder_locked => Ok(found),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Err(io::Error::other(format!(
                "{} is no longer the file that this process locked: somebody else may own the log by now",
                self.path.join(&self.name).display()
            ))),
        }
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let file = self.file.iter().map(|(file, _)| file.as_fd());
        [self.folder.as_fd()].into_iter().chain(file).collect()
    }
}

/// A process, told from a later one that got the same number.
#[derive(Debug, PartialEq, Eq)]
struct Owner {
    pid: u32,
    boot: String,
    /// Clock ticks from boot to the start of the process.
    started: u64,
    /// The pid namespace that the number is of; empty where that is not known.
    namespace: String,
}

/// What this process can see of others.
struct View {
    boot: String,
    namespace: String,
    /// `/proc` shows the processes of other users, too.
    sees_all: bool,
}

impl View {
    fn here() -> View {
        View { boot: boot_id(), namespace: pid_namespace(), sees_all: started(1).is_some() }
    }
}

impl Owner {
    fn of_this_process() -> Owner {
        let pid = std::process::id();
        Owner { pid, boot: boot_id(), started: started(pid).unwrap_or(0), namespace: pid_namespace() }
    }

    fn text(&self) -> String {
        let text = format!("{} {} {} {}", self.pid, self.boot, self.started, self.namespace);
        format!("{text:<79}\n")
    }

    fn parse(text: &str) -> Option<Owner> {
        let mut words = text.split_whitespace();
        let pid = words.next()?.parse().ok()?;
        let boot = words.next()?.to_owned();
        let started = words.next()?.parse().ok()?;
        // Versions before this one did not write it.
        let namespace = words.next().unwrap_or_default().to_owned();
        Some(Owner { pid, boot, started, namespace })
    }

    /// Why the lock is not to be had, as far as that can be known: it is held, and this is who took it last.
    fn seen(&self, view: &View) -> LockError {
        let Owner { pid, .. } = self;
        if self.boot != view.boot {
            return LockError::Lingering(format!(
                "a process that cannot be seen from here (the lock is held; `{pid}` of another machine or boot took \
                 it last): it may well live"
            ));
        }
        let found = started(*pid) == Some(self.started);
        if self.namespace != view.namespace && !(self.namespace.is_empty() && found) {
            return LockError::Lingering(format!(
                "a process that cannot be seen from here (the lock is held; process {pid}, perhaps of another pid \
                 namespace as containers have, took it last): it may well live"
            ));
        }
        match found {
            true => LockError::Held(format!("process {pid}")),
            false if !view.sees_all => LockError::Lingering(format!(
                "a process that cannot be seen from here (the lock is held; process {pid} took it last, and /proc \
                 shows no processes of other users): it may well live"
            )),
            false => LockError::Lingering(format!(
                "process {pid}, which has ended: its writes still land, or a process that it forked lives"
            )),
        }
    }
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// The number of this process' pid namespace, without blanks; empty without `/proc`.
fn pid_namespace() -> String {
    let link = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    link.to_string_lossy().chars().filter(char::is_ascii_digit).collect()
}

/// Field 22 of `/proc/PID/stat`, proc(5); `None` for a process that is gone or a zombie.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in field 2 may hold anything, so count from behind its closing bracket.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(error: &LockError) -> (&str, bool) {
        match error {
            LockError::Held(text) => (text, true),
            LockError::Lingering(text) => (text, false),
            LockError::Io { source, .. } => panic!("{source}"),
        }
    }

    #[test]
    fn an_owner_is_known_by_more_than_its_number() {
        let here = View::here();
        let own = Owner::of_this_process();
        assert!(text(&own.seen(&here)).1);
        assert_eq!(own.text().len(), 80);
        assert_eq!(Owner::parse(&own.text()), Some(Owner::of_this_process()));
        let later = Owner { started: own.started + 1, ..Owner::of_this_process() };
        assert!(text(&later.seen(&here)).0.contains("has ended"));
        assert_eq!(Owner::parse("garbage"), None);
    }

    #[test]
    fn one_that_cannot_be_seen_is_not_said_to_have_ended() {
        let here = View::here();
        let elsewhere = Owner { namespace: "1".into(), ..Owner::of_this_process() };
        let before = Owner { boot: "other".into(), ..Owner::of_this_process() };
        // By a number that no process has.
        let hidden = Owner { pid: u32::MAX, ..Owner::of_this_process() };
        let narrow = View { sees_all: false, ..View::here() };
        for (owner, view) in [(elsewhere, &here), (before, &here), (hidden, &narrow)] {
            let seen = owner.seen(view);
            let (text, lives) = text(&seen);
            assert!(!lives && text.contains("cannot be seen from here") && !text.contains("ended"), "{text}");
        }
    }

    #[test]
    fn the_kernels_table_names_a_holder() {
        let table = "1: POSIX  ADVISORY  WRITE 9 fe:00:77 0 EOF\n2: FLOCK  ADVISORY  WRITE 12 fe:00:77 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 13 fe:00:78 0 EOF\n3: FLOCK  ADVISORY  WRITE -1 fe:00:79 0 EOF\n";
        assert_eq!([77, 78, 79].map(|inode| holder(table, inode)), [Some(12), None, None]);
    }

    /// By an older version, which wrote no namespace.
    #[test]
    fn an_owner_without_a_namespace_may_be_of_any() {
        let Owner { pid, boot, started, .. } = Owner::of_this_process();
        let owner = Owner::parse(&format!("{pid} {boot} {started}")).unwrap();
        assert!(text(&owner.seen(&View::here())).1);
        let other = Owner::parse(&format!("{pid} {boot} {}", started + 1)).unwrap();
        assert!(text(&other.seen(&View::here())).0.contains("cannot be seen"));
    }
}
