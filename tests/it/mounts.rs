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
        match try_make(kind, mib) {
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

fn try_make(kind: &str, mib: u64) -> Result<Mount, String> {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).map_err(|error| error.to_string())?;
    let (image, target) = (dir.path().join("image"), dir.path().join("mount"));
    std::fs::create_dir(&target).map_err(|error| error.to_string())?;
    let target = target.to_str().ok_or("a path in UTF-8")?;
    if kind == "tmpfs" {
        run("mount", &["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs", target])?;
        return Ok(Mount { dir });
    }
    let file = std::fs::File::create(&image).map_err(|error| error.to_string())?;
    file.set_len(mib << 20).map_err(|error| error.to_string())?;
    let image = image.to_str().ok_or("a path in UTF-8")?;
    run(&format!("mkfs.{kind}"), &["-q", image])?;
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
