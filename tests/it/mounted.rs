//! File systems of the tests' own, in loop images.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

/// A mounted file system, unmounted when dropped.
pub struct Mount {
    dir: TempDir,
}

impl Mount {
    /// Makes and mounts a file system (`ext2`, `ext4`, `xfs`, `btrfs`, `tmpfs`) of so many MiB.
    ///
    /// `None` where that is not possible (no root, no tools), which is said; with `SAWMILL_NO_SKIP` set,
    /// as in CI, it is a failure.
    pub fn make(kind: &str, mib: u64) -> Option<Mount> {
        Mount::with_inodes(kind, mib, None)
    }

    /// The same with no more than so many inodes, where they are counted (`ext4`, `tmpfs`).
    pub fn with_inodes(kind: &str, mib: u64, inodes: Option<u32>) -> Option<Mount> {
        match try_make(kind, mib, inodes) {
            Ok(mount) => Some(mount),
            Err(reason) => {
                assert!(std::env::var_os("SAWMILL_NO_SKIP").is_none(), "{kind}: {reason}");
                eprintln!("skipped, no {kind} of the test's own: {reason}");
                None
            }
        }
    }

    pub fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("mount")
    }

    /// Makes empty files until there is no inode, or no room, for another.
    pub fn use_up_inodes(&self) {
        let made = (0..100_000)
            .find_map(|index| std::fs::File::create(self.path().join(format!("empty-{index}"))).err());
        assert_eq!(made.expect("they run out").kind(), std::io::ErrorKind::StorageFull);
    }

    /// Takes all the room but so many bytes; the file has it.
    pub fn use_up_room(&self, but: u64) -> std::path::PathBuf {
        let (filler, spared) = (self.path().join("filler"), self.path().join("spared"));
        let file = std::fs::File::create(&filler).unwrap();
        if but > 0 {
            allocate(&std::fs::File::create(&spared).unwrap(), 0, but).unwrap();
        }
        let (mut bytes, mut at) = (1 << 30, 0);
        while bytes >= 4096 {
            match allocate(&file, at, bytes) {
                Ok(()) => at += bytes,
                Err(error) => {
                    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull, "{error}");
                    bytes /= 2;
                }
            }
        }
        let _ = std::fs::remove_file(spared);
        filler
    }
}

/// Takes the room of a stretch of a file (fallocate(2)), by writing to it where there is no other way.
pub fn allocate(file: &std::fs::File, offset: u64, bytes: u64) -> std::io::Result<()> {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::FileExt;
    // SAFETY: no memory is involved.
    if unsafe { libc::fallocate(file.as_raw_fd(), 0, offset as i64, bytes as i64) } == 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    if error.raw_os_error() != Some(libc::EOPNOTSUPP) {
        return Err(error);
    }
    let zeros = vec![0; 64 << 10];
    for at in (0..bytes).step_by(zeros.len()) {
        let length = (bytes - at).min(zeros.len() as u64) as usize;
        file.write_all_at(&zeros[..length], offset + at)?;
    }
    Ok(())
}

/// Runs a program to its end; its last words where it fails.
pub fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output =
        Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

fn try_make(kind: &str, mib: u64, inodes: Option<u32>) -> Result<Mount, String> {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).map_err(|error| error.to_string())?;
    let (image, target) = (dir.path().join("image"), dir.path().join("mount"));
    std::fs::create_dir(&target).map_err(|error| error.to_string())?;
    let target = target.to_str().ok_or("a path in UTF-8")?;
    if kind == "tmpfs" {
        let inodes = inodes.map_or_else(String::new, |inodes| format!(",nr_inodes={inodes}"));
        run("mount", &["-t", "tmpfs", "-o", &format!("size={mib}m{inodes}"), "tmpfs", target])?;
        return Ok(Mount { dir });
    }
    let file = std::fs::File::create(&image).map_err(|error| error.to_string())?;
    file.set_len(mib << 20).map_err(|error| error.to_string())?;
    let image = image.to_str().ok_or("a path in UTF-8")?;
    let inodes = inodes.map(|inodes| inodes.to_string());
    let inodes = inodes.iter().flat_map(|inodes| ["-N", inodes]);
    let arguments: Vec<&str> = ["-q"].into_iter().chain(inodes).chain([image]).collect();
    run(&format!("mkfs.{kind}"), &arguments)?;
    run("mount", &["-o", "loop", image, target])?;
    Ok(Mount { dir })
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: a ring that is gone holds its files for some tens of milliseconds more.
        if let Err(error) = run("umount", &["-l", self.path().to_str().unwrap_or_default()]) {
            eprintln!("{error}");
        }
    }
}

/// Whether a folder of the tests' own is on the file system that it should be.
pub fn fs_type(path: &Path) -> String {
    let output = Command::new("stat").args(["-f", "-c", "%T"]).arg(path).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}
