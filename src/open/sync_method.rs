//! Which of two ways makes blocks durable on a device: synchronous writes, or a flush after the write.

use crate::committer::SyncMethod;
use crate::device::Capabilities;

/// How blocks are made durable: by synchronous writes where they are honoured, unless a sync of the file is
/// clearly faster on this device, as on some consumer drives.
pub(super) fn sync_method(capabilities: &Capabilities) -> SyncMethod {
    // At the depth of one that is measured here they are often alike, and with several in flight synchronous
    // writes win by far: only a clear answer counts (`docs/performance.md`).
    let sync_wins = capabilities.measured.is_some_and(|found| found.write_through > found.write_and_sync * 2);
    if capabilities.write_through && !sync_wins { SyncMethod::WriteThrough } else { SyncMethod::Flush }
}
