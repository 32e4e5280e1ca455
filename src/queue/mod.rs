//! Durable queues: each record in one worker's hands at a time, until it is done.
//!
//! `state` decides, `rate` and `dead` are parts of it.

mod dead;
mod rate;
mod state;

#[cfg(test)]
mod tests;
