//! Recovery decides what a shard holds after whatever happened to it: torn tail or damage?
//!
//! It reads and never writes. [`scan`](scan()) walks the chain of blocks from the checkpoint,
//! [`Facts`] are what is known of the place where it ends, and [`verdict`] judges them, as a table. The rules,
//! one row each, stand in `docs/crash-safety.md`.

mod facts;
mod salvage;
mod scan;
mod verdict;

pub(crate) use facts::{Facts, beyond};
pub(crate) use salvage::{Salvaged, Unsalvageable, salvage};
pub(crate) use scan::{Scan, scan};
pub use verdict::Damage;
pub(crate) use verdict::{Verdict, judge};

#[cfg(test)]
mod tests;
