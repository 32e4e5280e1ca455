//! What was opened, in a line for whoever listens.

use crate::committer::SyncMethod;
use crate::device::Capabilities;
use crate::instance::Instance;

pub(super) fn report(inner: &Instance, capabilities: &Capabilities) {
    let durable = if capabilities.durable {
        ""
    } else {
        "; NOT DURABLE: what is synced is lost with the machine's power"
    };
    let cache = match (capabilities.write_cache, capabilities.fua) {
        (Some(true), Some(true)) => ", a volatile write cache with FUA",
        (Some(true), _) => ", a volatile write cache without FUA",
        (Some(false), _) => ", no volatile write cache",
        (None, _) => "",
    };
    let measured = capabilities.measured.map_or_else(String::new, |found| {
        format!(
            " (4 KiB: {:?}, with fdatasync {:?}; {} of 100 writes by worker threads)",
            found.write_through, found.write_and_sync, found.worker_writes_percent,
        )
    });
    if capabilities.copy_on_write {
        inner.notices.warn(format!(
            "{}: each write goes to a new place, which is slow; a fresh folder would be made without (chattr +C)",
            inner.path.display(),
        ));
    }
    inner.notices.info(format!(
        "opened {}: {} shards, {}, {:?}, {}, {}{measured}{cache}{durable}",
        inner.path.display(),
        inner.config.shards,
        inner.backend,
        capabilities.file_system,
        if capabilities.direct { "O_DIRECT" } else { "without O_DIRECT (not to be had here, or not safe)" },
        match inner.committer.method {
            SyncMethod::WriteThrough => "synchronous writes (RWF_DSYNC)",
            SyncMethod::Flush => "writes and fdatasync",
        },
    ));
}
