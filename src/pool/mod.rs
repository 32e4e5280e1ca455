//! Memory of the append path: taken once at open, aligned, shared by producers without a lock.
//!
//! [`Region`] is the memory, [`Pool`] cuts it into blocks that producers fill in parallel, and
//! [`SealedBytes`] is a block that nobody can change any more; readers may borrow it ([`Recalled`]).

mod buffer;
mod loan;
mod reservation;

pub(crate) use buffer::{AlignedBuffer, SealedBytes};
pub(crate) use reservation::{BlockPlace, Claim, Complete, Group, Pending, Pool, Reserved, Urgency};
