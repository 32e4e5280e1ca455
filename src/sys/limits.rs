//! Limits that the kernel sets for this process: rlimits and CPU affinity.

/// The soft limit of a resource, `getrlimit(2)`; `None` where there is none.
fn soft_limit(resource: libc::__rlimit_resource_t) -> Option<u64> {
    let mut limits = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the limits outlive the call. Should it fail they are still what they were.
    unsafe { libc::getrlimit(resource, &raw mut limits) };
    Some(limits.rlim_cur).filter(|&most| most != libc::RLIM_INFINITY)
}

/// No file may be made longer by this process, `ulimit -f`: whoever tries gets a signal that ends the process.
pub(crate) fn file_bytes_max() -> Option<u64> {
    soft_limit(libc::RLIMIT_FSIZE)
}

/// Descriptors that this process may have, `ulimit -n`.
pub(crate) fn descriptors_max() -> Option<u64> {
    soft_limit(libc::RLIMIT_NOFILE)
}

/// The CPUs that the calling thread may run on, `sched_getaffinity(2)`; empty where the kernel has more than a set
/// holds.
pub(crate) fn cpus() -> Vec<usize> {
    let mut set = std::mem::MaybeUninit::<libc::cpu_set_t>::zeroed();
    // SAFETY: the set outlives the calls, and a zeroed one is valid, and empty.
    unsafe {
        libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), set.as_mut_ptr());
        let set = set.assume_init();
        (0..libc::CPU_SETSIZE as usize).filter(|&cpu| libc::CPU_ISSET(cpu, &set)).collect()
    }
}
