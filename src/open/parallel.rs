//! The same for every shard, at the same time.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::OpenError;

/// Runs for every shard, in threads of their own where there are threads.
pub(super) fn in_parallel<T: Send>(
    shards: u16,
    threaded: bool,
    run: impl Fn(u16) -> Result<T, OpenError> + Sync,
) -> Result<Vec<T>, OpenError> {
    if !threaded || shards == 1 {
        return (0..shards).map(run).collect();
    }
    let next = AtomicU32::new(0);
    let results: Mutex<Vec<(u16, Result<T, OpenError>)>> = Mutex::new(Vec::new());
    let workers = crate::sys::cores().clamp(2, 16).min(usize::from(shards));
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let shard = next.fetch_add(1, Ordering::Relaxed);
                    let Ok(shard) = u16::try_from(shard) else { return };
                    if shard >= shards {
                        return;
                    }
                    let result = run(shard);
                    crate::sync::lock(&results).push((shard, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    results.sort_by_key(|(shard, _)| *shard);
    results.into_iter().map(|(_, result)| result).collect()
}
