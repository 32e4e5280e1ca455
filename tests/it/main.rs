//! The library as its users have it: the promises, and how it gets on with processes, machines, disks and file systems. Most
//! of it runs on every backend and place (`harness.rs`).

mod harness;

mod acknowledged_is_kept;
mod batch_is_whole;
mod batching;
mod consumers;
mod deadlines;
#[cfg(feature = "tokio-uring")]
mod driven;
mod errors;
mod failed_sync;
mod fallback;
mod faulty_disk;
mod file_systems;
mod folders;
mod forks;
mod full_disk;
mod fuse;
mod golden;
mod handles;
mod ingest;
mod keyed_batches;
mod kill_storm;
mod limits;
mod memory;
mod mounted;
mod one_file;
mod overload;
#[cfg(feature = "tracing")]
mod ownership;
#[cfg(feature = "tracing")]
mod panics;
mod paused;
mod positions;
mod power_cut;
mod process_hygiene;
mod process_limits;
mod queue;
mod queue_kills;
mod read_only;
mod reading;
mod rebuilt;
mod restored;
mod restored_beside;
mod restored_holds;
mod retention;
mod slots;
mod slow_owner;
mod stale_manifest;
mod stuck_device;
mod tasks;
mod terms;
mod timeouts;
mod truncation;
