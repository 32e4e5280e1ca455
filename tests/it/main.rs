//! The promises, one file each, on every backend and place.

mod harness;

mod acknowledged_is_kept;
mod batch_is_whole;
mod handles;
mod limits;
mod overload;
mod reading;
mod truncation;
