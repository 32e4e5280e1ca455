//! How a log stands with what is offered to it, for whoever could offer less.

use super::{Log, Shard};
use crate::position::ShardId;
use crate::stats::Pressure;

impl Log {
    /// How the shard stands that is the slowest at the moment: for a server's own admission, a health check, a `Retry-After`.
    /// Costs some loads for each shard.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let log = sawmill::Log::open(dir.path())?;
    /// use std::time::Duration;
    /// let pressure = log.pressure();
    /// let [low, normal, _high] = pressure.admitted;
    /// if pressure.delay > Duration::from_millis(100) || normal < 0.5 {
    ///     println!("503 Service Unavailable\nRetry-After: {}", pressure.delay.as_secs() + 1);
    /// } else if low < 1.0 {
    ///     println!("shed what is not urgent");
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn pressure(&self) -> Pressure {
        let all = self.inner.engines.iter().map(|engine| engine.pressure());
        all.max_by_key(|own| (own.delay, own.shard)).expect("a log has a shard")
    }
}

impl Shard {
    /// As [`Log::pressure`], of this shard. Of one that does not exist, one that accepts nothing.
    #[must_use]
    pub fn pressure(&self) -> Pressure {
        let none = |shard: ShardId| Pressure {
            shard,
            delay: std::time::Duration::ZERO,
            fill: 1.0,
            admitted: [0.0; 3],
            drain_rate: 0,
        };
        self.engine().map_or_else(none, |engine| engine.pressure())
    }
}
