//! Moments of the monotonic clock, in which the engine reckons its own time.

use std::ops::{Add, Sub};
use std::time::Duration;

/// A moment on the clock that never goes back ([`Device::now`](crate::device::Device::now)), in nanoseconds since some
/// beginning of its own. It is no time of day: that is what records carry, a plain number, and the two do not mix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Nanos(pub u64);

impl Nanos {
    /// No moment: later than all.
    pub(crate) const NEVER: Nanos = Nanos(u64::MAX);
}

/// So many nanoseconds, or as many as can be said.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Add<u64> for Nanos {
    type Output = Nanos;

    /// So many nanoseconds later, or never.
    fn add(self, nanoseconds: u64) -> Nanos {
        Nanos(self.0.saturating_add(nanoseconds))
    }
}

impl Sub for Nanos {
    type Output = u64;

    /// Nanoseconds since an earlier moment; 0 if it is none.
    fn sub(self, earlier: Nanos) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_do_not_wrap_around() {
        assert_eq!((Nanos(3) - Nanos(5), Nanos(5) - Nanos(3)), (0, 2));
        assert_eq!((nanos(Duration::from_micros(3)), nanos(Duration::MAX)), (3_000, u64::MAX));
        assert_eq!((Nanos(3) + 2, Nanos(3) + u64::MAX), (Nanos(5), Nanos::NEVER));
    }
}
