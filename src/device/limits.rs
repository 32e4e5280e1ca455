//! What this process may have of the machine.

use std::fs;

use crate::sys;

/// Taken where the kernel does not say which groups the process is in: whatever is seen as their root.
const SEEN_AS_ROOT: &str = "0::/\n1:memory:/\n";

/// Memory that this process may use, in bytes: the machine's, or less if its control group says so, or one above it.
pub(crate) fn memory_limit() -> u64 {
    // A machine that says nothing is taken to have a gigabyte: the smallest that runs servers.
    let machine = Some(sys::physical_memory()).filter(|&bytes| bytes > 0).unwrap_or(1 << 30);
    group_limit(|path| fs::read_to_string(path).ok()).map_or(machine, |limit| limit.min(machine))
}

/// Files that this process may have open; `None` where that is not limited.
pub(crate) fn descriptors_max() -> Option<u64> {
    sys::descriptors_max()
}

/// The least limit of the control groups that the process is in, and of all above them (cgroups(7)).
fn group_limit(read: impl Fn(&str) -> Option<String>) -> Option<u64> {
    let groups = read("/proc/self/cgroup").unwrap_or_else(|| SEEN_AS_ROOT.to_owned());
    let mut least = None;
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let places: &[_] = match controllers {
            "" => &[("/sys/fs/cgroup", "memory.max"), ("/sys/fs/cgroup/unified", "memory.max")],
            names if names.split(',').any(|name| name == "memory") => {
                &[("/sys/fs/cgroup/memory", "memory.limit_in_bytes")]
            }
            _ => &[],
        };
        for (root, file) in places {
            // A group that is not seen, as from within a container, has no file here.
            let groups = std::iter::successors(Some(path.trim_end_matches('/')), |group| {
                group.rsplit_once('/').map(|(above, _)| above)
            });
            let limits =
                groups.filter_map(|group| read(&format!("{root}{group}/{file}"))?.trim().parse().ok());
            least = least.into_iter().chain(limits).min();
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The least limit on a machine with these files.
    fn limit(files: &[(&str, &str)]) -> Option<u64> {
        group_limit(|path| files.iter().find(|(name, _)| *name == path).map(|(_, text)| (*text).to_owned()))
    }

    #[test]
    fn the_least_limit_of_all_groups_above_counts() {
        let own = ("/proc/self/cgroup", "0::/system.slice/app.slice/app.service\n");
        let [slice, service] = ["system.slice", "system.slice/app.slice/app.service"]
            .map(|group| format!("/sys/fs/cgroup/{group}/memory.max"));
        assert_eq!(limit(&[own]), None);
        assert_eq!(limit(&[own, (&service, "max\n")]), None);
        assert_eq!(limit(&[own, (&service, "200\n"), (&slice, "max\n")]), Some(200));
        assert_eq!(limit(&[own, (&service, "200\n"), (&slice, "100\n")]), Some(100));
        assert_eq!(limit(&[own, (&service, "max\n"), (&slice, "100\n")]), Some(100));
        // A container sees its own group as the root.
        assert_eq!(limit(&[own, ("/sys/fs/cgroup/memory.max", "50\n")]), Some(50));
        assert_eq!(limit(&[("/sys/fs/cgroup/memory.max", "50\n")]), Some(50));
    }

    #[test]
    fn the_first_version_of_control_groups_counts_too() {
        let own = ("/proc/self/cgroup", "9:name=systemd:/\n4:cpu,memory:/docker/0123:4\n0::/\n");
        let [root, docker, container] = ["", "/docker", "/docker/0123:4"]
            .map(|group| format!("/sys/fs/cgroup/memory{group}/memory.limit_in_bytes"));
        let none = "9223372036854771712\n";
        assert_eq!(limit(&[own, (&root, none), (&container, "60000000\n")]), Some(60_000_000));
        assert_eq!(limit(&[own, (&root, none), (&docker, "70\n"), (&container, "60000000\n")]), Some(70));
        assert_eq!(limit(&[own, (&root, "80\n")]), Some(80), "seen from within");
        assert_eq!(limit(&[own, ("/sys/fs/cgroup/unified/memory.max", "90\n")]), Some(90), "both versions");
    }

    #[test]
    fn a_machine_has_memory() {
        assert!(memory_limit() > 1 << 20);
    }
}
