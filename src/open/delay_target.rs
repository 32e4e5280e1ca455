//! How long records may wait for a device before their shard is overloaded, where nobody has set it.

use std::time::Duration;

use crate::committer::SyncMethod;
use crate::device::Capabilities;

/// Below the least a thread that is woken late would look like a queue; above the most nobody would call it quick.
const DELAY_TARGET_MIN: Duration = Duration::from_millis(2);
const DELAY_TARGET_MAX: Duration = Duration::from_millis(20);
/// Where nothing was measured.
const DELAY_TARGET: Duration = Duration::from_millis(10);

/// How long records may wait before they go to the device: unless it was set, twice what a commit took.
pub(super) fn delay_target(
    set: Option<Duration>,
    capabilities: &Capabilities,
    method: SyncMethod,
) -> Duration {
    let commit = capabilities.measured.map(|found| match method {
        SyncMethod::WriteThrough => found.write_through,
        SyncMethod::Flush => found.write_and_sync,
    });
    let default = commit.map_or(DELAY_TARGET, |commit| commit * 2);
    set.unwrap_or(default.clamp(DELAY_TARGET_MIN, DELAY_TARGET_MAX))
}
