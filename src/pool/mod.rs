//! Memory of the append path: taken once at open, aligned, shared by producers without a lock.
//!
//! [`Region`](buffer::Region) is the memory, [`Pool`] cuts it into blocks that producers fill in parallel, and
//! [`SealedBytes`] is a block that nobody can change any more; readers may borrow it ([`Recalled`](loan::Recalled)).

mod block;
mod buffer;
mod hold;
mod loan;
#[cfg(all(test, sawmill_loom))]
mod models;
mod reservation;
mod slot;
#[cfg(all(test, not(sawmill_loom)))]
mod tests;

pub(crate) use block::{BlockPlace, Claim, Complete, Group, Pending, Sequence, Urgency};
pub(crate) use buffer::{AlignedBuffer, SealedBytes};
pub(crate) use hold::{Held, Peeked};
pub(crate) use reservation::{Pool, Reserved};

#[cfg(test)]
pub(crate) fn place(lsn: u64) -> BlockPlace {
    use crate::format::EpochSeed;
    use crate::position::Lsn;
    use crate::time::Nanos;
    let (lsn, seed) = (Lsn(lsn), EpochSeed::from_raw(0));
    BlockPlace { lsn, previous_end: lsn, capacity: 4096, epoch: 1, seed, opened_at: Nanos(lsn.0) }
}
