//! Running one step of an open for all shards in parallel.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::OpenError;

/// Runs for every shard: in this thread, and in others beside it where there are threads.
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
    let work = || {
        loop {
            let shard = next.fetch_add(1, Ordering::Relaxed);
            let Some(shard) = u16::try_from(shard).ok().filter(|shard| *shard < shards) else { return };
            let result = run(shard);
            crate::sync::lock(&results).push((shard, result));
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..workers {
            let thread = std::thread::Builder::new().name("sawmill-open".into());
            let begun = thread.spawn_scoped(scope, || {
                crate::sys::block_signals();
                work();
            });
            if begun.is_err() {
                break; // No thread is to be had: those that there are do it.
            }
        }
        work();
    });
    let mut results = results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    results.sort_by_key(|(shard, _)| *shard);
    results.into_iter().map(|(_, result)| result).collect()
}
