//! How long a refused caller is told to wait before another try. How long an offer of room lasts: `offer.rs`.

use std::time::Duration;

/// Before anything was measured: a slow disk's bytes per second.
const RATE_UNKNOWN: u64 = 32 << 20;
/// Below this a caller would only spin; above it, it had better look again.
const DELAY_MIN: Duration = Duration::from_micros(100);
const DELAY_MAX: Duration = Duration::from_secs(10);

/// The time until `bytes` have drained at `rate` bytes per second, 0 being unknown, times `jitter`.
pub(crate) fn retry_after(bytes: u64, rate: u64, jitter: f64) -> Duration {
    let rate = if rate == 0 { RATE_UNKNOWN } else { rate };
    let nanos = bytes as f64 / rate as f64 * 1e9 * jitter;
    retry_within(Duration::from_nanos(nanos as u64))
}

/// A time to wait, within what makes sense.
pub(crate) fn retry_within(time: Duration) -> Duration {
    time.clamp(DELAY_MIN, DELAY_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halving_the_drain_rate_doubles_the_delay() {
        for rate in [20 << 20, 500 << 20, 4 << 30] {
            let (whole, half) = (retry_after(64 << 20, rate, 1.0), retry_after(64 << 20, rate / 2, 1.0));
            assert!(half.abs_diff(whole * 2) < Duration::from_micros(1), "{whole:?} and {half:?}");
        }
    }

    #[test]
    fn the_delay_stays_within_its_bounds() {
        assert_eq!(retry_after(0, 1 << 40, 1.5), DELAY_MIN);
        assert_eq!(retry_after(u64::MAX, 1, 0.5), DELAY_MAX);
        assert_eq!(retry_after(32 << 20, 0, 1.0), Duration::from_secs(1));
    }
}
