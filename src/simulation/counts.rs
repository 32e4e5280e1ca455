//! What happened over many histories.

/// Counts, by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts(std::collections::BTreeMap<&'static str, u64>);

#[cfg(test)]
/// All that must happen in a few thousand histories: a fault that is never hit, or a row of the
/// verdict table that never speaks, is a test that does not exist.
const EVERYTHING: [&str; 92] = [
    "appends",
    "batches",
    "refusals",
    "given up at their deadline",
    "operations",
    "opens",
    "opens interrupted",
    "clean closes",
    "kills",
    "power cuts",
    "torn in flight",
    "failed shards",
    "write errors",
    "sync errors",
    "shards stopped by another's flush",
    "shards stopped by a blocking call's flush",
    "no space",
    "blocking calls that failed",
    "of them syncs",
    "files that lost what another's flush took along",
    "reads that failed",
    "short transfers",
    "stuck operations",
    "seen stuck",
    "dead owners whose writes landed late",
    "opens that failed",
    "records cut off (row 6)",
    "spread over directories",
    "file systems that differ",
    "disks that set no space aside",
    "batches of unknown outcome",
    "segments",
    "truncations before",
    "truncations after one that found no room",
    "truncations after",
    "markers",
    "consumed",
    "batches left pending",
    "followed",
    "followers told of truncation",
    "read back",
    "merged",
    "read beside",
    "verified beside",
    "sought by time",
    "sought beside the owner",
    "read by key",
    "read by key, indexed",
    "read by key beside the owner",
    "followed by key",
    "followed by key beside the owner",
    "followers of keys told of truncation",
    "bounds that were cut off",
    "last records",
    "appended under terms",
    "conditions that did not hold",
    "duplicates",
    "duplicates from before a reopen",
    "ids that were forgotten",
    "batches under terms",
    "batches of several keys",
    "batches of several keys over several blocks",
    "batches for several shards",
    "last records that are not durable",
    "reads in the middle of a batch",
    "followed in the middle of a batch",
    "consumed in the middle of a batch",
    "read beside in the middle of a batch",
    "void blocks",
    "interrupted copies",
    "lost writes",
    "misdirected writes",
    "rotten sectors",
    "unreadable sectors",
    "vanished segments",
    "stale manifests",
    "manifests of the same life put back",
    // Row 1 speaks where P lies below V, that is where a manifest is written while a batch is open:
    // too rare to be demanded. `recovery/tests.rs` has each row by itself.
    "verdict: segment (row 2)",
    "verdict: testimony (row 3)",
    "verdict: stale manifest (row 4)",
    "verdict: older manifest (row 4)",
    "verdict: unreadable (row 5)",
    "damage found by a reader",
    "losses in the unattested tail",
    "damage without effect",
    "manifests rebuilt",
    "gaps in rebuilt manifests",
    "files known to be truncated",
    "given up records that came back",
    "logs put back from a copy",
    "followers told that their log was put back",
    "followed on in a log that was put back",
];

impl Counts {
    pub(crate) fn count(&mut self, what: &'static str) {
        self.add(what, 1);
    }

    pub(crate) fn add(&mut self, what: &'static str, times: u64) {
        *self.0.entry(what).or_default() += times;
    }

    #[cfg(test)]
    pub(crate) fn merge(&mut self, other: &Counts) {
        for (what, times) in &other.0 {
            self.add(what, *times);
        }
    }

    #[cfg(test)]
    /// The names of what never happened.
    pub(crate) fn missing(&self) -> Vec<&'static str> {
        EVERYTHING.into_iter().filter(|what| self.0.get(what).copied().unwrap_or(0) == 0).collect()
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (what, times) in &self.0 {
            writeln!(f, "{times:>12} {what}")?;
        }
        Ok(())
    }
}
