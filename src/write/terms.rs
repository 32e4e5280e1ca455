//! What an append may depend on.

use crate::position::Position;

/// What must be so for an append to be accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Terms {
    /// The last record of the key.
    pub if_last: Option<Option<Position>>,
    /// Nothing with this id was appended lately.
    pub id: Option<u128>,
}

impl Terms {
    pub(crate) fn are_none(&self) -> bool {
        *self == Terms::default()
    }
}
