//! A drive held to a steady rate, by the kernel's own throttling of this process' writes (cgroups, as root).

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Until it is dropped, this process writes no faster.
pub struct Throttle {
    group: PathBuf,
    before: PathBuf,
}

impl Throttle {
    /// Holds writes of this process to the drive that `dir` is on to so many bytes a second; `None` where that cannot be
    /// had.
    pub fn begin(dir: &Path, bytes_per_second: u64) -> Option<Throttle> {
        let drive = drive_of(dir)?;
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        // Lines are `number:controllers:path`, cgroups(7); of version 2 without controllers.
        let in_group = |is_wanted: &dyn Fn(&str) -> bool| {
            own.lines().find_map(|line| {
                let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
                is_wanted(controllers).then(|| path.trim_start_matches('/').to_owned())
            })
        };
        let first = Path::new("/sys/fs/cgroup/blkio");
        if first.is_dir() {
            let before = first.join(in_group(&|names| names.split(',').any(|name| name == "blkio"))?);
            let limit = format!("{drive} {bytes_per_second}");
            return Throttle::enter(first, before, "blkio.throttle.write_bps_device", &limit);
        }
        let root = Path::new("/sys/fs/cgroup");
        fs::write(root.join("cgroup.subtree_control"), "+io").ok()?;
        let before = root.join(in_group(&str::is_empty)?);
        Throttle::enter(root, before, "io.max", &format!("{drive} wbps={bytes_per_second}"))
    }

    fn enter(root: &Path, before: PathBuf, file: &str, limit: &str) -> Option<Throttle> {
        let group = root.join(format!("sawmill-bench-{}", std::process::id()));
        fs::create_dir(&group).ok()?;
        let throttle = Throttle { group, before };
        fs::write(throttle.group.join(file), limit).ok()?;
        fs::write(throttle.group.join("cgroup.procs"), std::process::id().to_string()).ok()?;
        Some(throttle)
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        let _ = fs::write(self.before.join("cgroup.procs"), std::process::id().to_string());
        let _ = fs::remove_dir(&self.group);
    }
}

/// `MAJOR:MINOR` of the whole drive: a part of one cannot be throttled.
fn drive_of(dir: &Path) -> Option<String> {
    let device = fs::metadata(dir).ok()?.dev();
    let major = (device >> 8 & 0xfff) | (device >> 32 & !0xfff);
    let minor = (device & 0xff) | (device >> 12 & !0xff);
    let own = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    let whole = if own.join("partition").exists() { own.parent()?.to_owned() } else { own };
    Some(fs::read_to_string(whole.join("dev")).ok()?.trim().to_owned())
}
