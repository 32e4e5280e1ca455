//! Whom an append is from, and how long it may wait to be accepted.

use std::time::Duration;

/// What admission is told of an append beside its priority.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Origin {
    /// 0 is nobody in particular.
    pub tenant: u64,
    /// From the call until it is accepted.
    pub deadline: Option<Duration>,
}
