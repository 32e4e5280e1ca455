//! Recovery decides what a shard holds after whatever happened to it: torn tail or damage?
//!
//! It reads and never writes. [`scan`] follows the chain of blocks from the checkpoint,
//! [`verdict`] judges the place where the chain ends. The rules, one row each, stand in
//! `docs/crash-safety.md`.

mod scan;
mod verdict;

pub(crate) use scan::{Scan, scan};
pub use verdict::Damage;
pub(crate) use verdict::{Verdict, beyond, judge};

#[cfg(test)]
mod tests;
