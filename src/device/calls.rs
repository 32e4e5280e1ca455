//! Since when blocking calls have been out, for who watches for a device that does not answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Device;
use crate::time::Nanos;

/// Blocking calls that are watched at once. With all places taken, older ones are.
const CALLS_MAX: usize = 16;

/// No call.
const NONE: u64 = Nanos::NEVER.0;

/// Blocking calls that are out: since when, in words that can be read whatever hangs.
#[derive(Debug)]
pub(crate) struct Calls {
    device: Arc<dyn Device>,
    since: [AtomicU64; CALLS_MAX],
}

/// A blocking call that is out until this is dropped.
#[must_use]
pub(crate) struct Call<'a>(Option<&'a AtomicU64>);

impl Calls {
    pub(crate) fn new(device: &Arc<dyn Device>) -> Calls {
        Calls { device: device.clone(), since: [const { AtomicU64::new(NONE) }; CALLS_MAX] }
    }

    /// A call goes out, or several that a healthy device answers at once.
    pub(crate) fn begin(&self) -> Call<'_> {
        let now = self.device.now();
        let take = |place: &&AtomicU64| {
            place.compare_exchange(NONE, now.0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        };
        Call(self.since.iter().find(take))
    }

    /// Since when the oldest one has been out.
    pub(crate) fn oldest_since(&self) -> Option<Nanos> {
        let since = self.since.iter().map(|place| place.load(Ordering::Relaxed)).min().unwrap_or(NONE);
        (since != NONE).then_some(Nanos(since))
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.0 {
            place.store(NONE, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::device::sim::SimMachine;

    #[test]
    fn the_oldest_call_that_is_out_is_told_whichever_come_back() {
        let device = SimMachine::new(1).device();
        let calls = Calls::new(&device);
        let oldest = || calls.oldest_since().map(|since| Duration::from_nanos(device.now() - since));
        assert_eq!(oldest(), None);
        let first = calls.begin();
        device.pause(Duration::from_secs(3));
        let later: Vec<_> = (0..CALLS_MAX + 3).map(|_| calls.begin()).collect();
        device.pause(Duration::from_secs(2));
        assert_eq!(oldest(), Some(Duration::from_secs(5)));
        drop(first);
        assert_eq!(oldest(), Some(Duration::from_secs(2)));
        drop(later);
        assert_eq!(oldest(), None, "also those for which there was no place");
    }
}
