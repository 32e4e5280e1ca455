//! What is asked of an append: how durable it is to be, and who is refused first.

/// How far an append must have got before its [`Commit`](crate::Commit) says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Durability {
    /// Accepted into memory. Lost if the process crashes; a clean close writes it. Written in the background within 10 ms,
    /// and synced within 20.
    Buffered,
    /// Written to the device. Survives a crash of the process, but not of the kernel or a power cut. Synced in the
    /// background.
    Written,
    /// Durable: survives a crash of the kernel and a power cut, as far as the device honours a completed flush.
    #[default]
    Synced,
}

/// Which records are refused first when a shard fills up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Priority {
    /// Accepted up to half of the shard's memory.
    Low,
    /// Accepted up to seven eighths of it.
    #[default]
    Normal,
    /// Accepted while there is any.
    High,
}
