//! Judging the place where the chain ends: a table of facts, and nothing else.

use super::Facts;
use crate::format::Defect;
use crate::position::Lsn;

/// What a shard's log is found to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Everything below `cut` is kept; what follows was never acknowledged.
    Tail { cut: Lsn },
    /// Something that was acknowledged is not there, or not as it was written.
    Damaged { lsn: Lsn, cause: Damage },
}

/// What betrays the damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// The manifest says that more was durable.
    #[error("the manifest says that the log was durable up to {0}")]
    Manifest(Lsn),
    /// The log was closed with its end elsewhere.
    #[error("the log was closed with its end at {0}")]
    CleanEnd(Lsn),
    /// A segment is missing, or shorter than it was made.
    #[error("segment file {file:010}.seg is missing or too short")]
    Segment {
        /// The number in the file's name.
        file: u32,
    },
    /// A block says that more was durable when it was sealed.
    #[error("a block testifies that the log was durable up to {0}")]
    Testimony(Lsn),
    /// A block of an epoch that the manifest does not know: the manifest is older than the log.
    #[error("a block of epoch {0}, which the manifest does not know")]
    StaleManifest(u32),
    /// A segment's file goes on above all that the manifest lists: the manifest is older than the log.
    #[error(
        "segment file {file:010}.seg holds what was appended after all that the manifest lists: the manifest is older than \
         the log"
    )]
    OlderManifest {
        /// The number in the file's name.
        file: u32,
    },
    /// The device cannot read the place where the log would go on. Nothing acknowledged is known to
    /// be lost.
    #[error("the device cannot read this place; nothing acknowledged is known to be lost")]
    Unreadable,
    /// A block or record in the middle of the log is not what was written.
    #[error("{0}")]
    Block(Defect),
}

/// One row of the table: what must be so (`Some(true)`), what must not, and what does not matter.
struct Row {
    below_manifest: Option<bool>,
    off_clean_end: Option<bool>,
    segment_missing: Option<bool>,
    testified: Option<bool>,
    epoch_unknown: Option<bool>,
    newer_file: Option<bool>,
    unreadable: Option<bool>,
    /// Its number in `docs/crash-safety.md`.
    number: u8,
    verdict: fn(&Facts) -> Verdict,
}

const NO: Option<bool> = Some(false);
const YES: Option<bool> = Some(true);
const ANY: Option<bool> = None;

#[rustfmt::skip]
const TABLE: [Row; 8] = [
    row([YES, ANY, ANY, ANY, ANY, ANY, ANY], 1, below_manifest),
    row([NO,  YES, ANY, ANY, ANY, ANY, ANY], 1, off_clean_end),
    row([NO,  NO,  YES, ANY, ANY, ANY, ANY], 2, segment_missing),
    row([NO,  NO,  NO,  YES, ANY, ANY, ANY], 3, testified),
    row([NO,  NO,  NO,  NO,  YES, ANY, ANY], 4, epoch_unknown),
    row([NO,  NO,  NO,  NO,  NO,  YES, ANY], 4, newer_file),
    row([NO,  NO,  NO,  NO,  NO,  NO,  YES], 5, unreadable),
    row([NO,  NO,  NO,  NO,  NO,  NO,  NO ], 6, torn_tail),
];

const fn row(facts: [Option<bool>; 7], number: u8, verdict: fn(&Facts) -> Verdict) -> Row {
    let [below_manifest, off_clean_end, segment_missing, testified, epoch_unknown, newer_file, unreadable] =
        facts;
    Row {
        below_manifest,
        off_clean_end,
        segment_missing,
        testified,
        epoch_unknown,
        newer_file,
        unreadable,
        number,
        verdict,
    }
}

impl Row {
    fn matches(&self, facts: &Facts) -> bool {
        let seen = [
            (self.below_manifest, facts.below_manifest.is_some()),
            (self.off_clean_end, facts.off_clean_end.is_some()),
            (self.segment_missing, facts.segment_missing.is_some()),
            (self.testified, facts.testified.is_some()),
            (self.epoch_unknown, facts.epoch_unknown.is_some()),
            (self.newer_file, facts.newer_file.is_some()),
            (self.unreadable, facts.unreadable),
        ];
        seen.iter().all(|(wanted, seen)| wanted.is_none_or(|wanted| wanted == *seen))
    }
}

/// The verdict on what was found: of the rows of the table exactly one applies.
pub(crate) fn judge(facts: &Facts) -> Verdict {
    let mut matching = TABLE.iter().filter(|row| row.matches(facts));
    let row = matching.next().expect("the table covers everything");
    assert!(matching.next().is_none(), "row {} and another one apply", row.number);
    (row.verdict)(facts)
}

/// What a row says, of a fact that it asks for.
const HERE: &str = "the row asks for it";

fn below_manifest(facts: &Facts) -> Verdict {
    Verdict::Damaged { lsn: facts.end, cause: Damage::Manifest(facts.below_manifest.expect(HERE)) }
}

fn off_clean_end(facts: &Facts) -> Verdict {
    let clean_end = facts.off_clean_end.expect(HERE);
    Verdict::Damaged { lsn: facts.end.min(clean_end), cause: Damage::CleanEnd(clean_end) }
}

fn segment_missing(facts: &Facts) -> Verdict {
    let row = facts.segment_missing.expect(HERE);
    Verdict::Damaged { lsn: Lsn(row.base), cause: Damage::Segment { file: row.file } }
}

fn testified(facts: &Facts) -> Verdict {
    Verdict::Damaged { lsn: facts.end, cause: Damage::Testimony(facts.testified.expect(HERE)) }
}

fn epoch_unknown(facts: &Facts) -> Verdict {
    Verdict::Damaged { lsn: facts.end, cause: Damage::StaleManifest(facts.epoch_unknown.expect(HERE)) }
}

fn newer_file(facts: &Facts) -> Verdict {
    let file = facts.newer_file.expect(HERE);
    Verdict::Damaged { lsn: facts.end, cause: Damage::OlderManifest { file } }
}

fn unreadable(facts: &Facts) -> Verdict {
    Verdict::Damaged { lsn: facts.end, cause: Damage::Unreadable }
}

/// Nothing says that what is not whole was ever acknowledged.
fn torn_tail(facts: &Facts) -> Verdict {
    Verdict::Tail { cut: facts.open_group.unwrap_or(facts.end) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::SegmentRow;

    /// All combinations of facts: the verdict is what the rows of `docs/crash-safety.md`, tried in order, say.
    #[test]
    fn each_combination_of_facts_has_one_verdict() {
        let mut seen = [0; 8];
        for bits in 0..1u32 << 8 {
            let is = |bit: u32| bits & 1 << bit != 0;
            let facts = Facts {
                end: Lsn(8192),
                open_group: is(7).then_some(Lsn(4096)),
                below_manifest: is(0).then_some(Lsn(16384)),
                off_clean_end: is(1).then_some(Lsn(4096)),
                segment_missing: is(2).then_some(SegmentRow { file: 7, base: 0, bytes: 4096, reserved: 0 }),
                testified: is(3).then_some(Lsn(12288)),
                epoch_unknown: is(4).then_some(9),
                newer_file: is(5).then_some(3),
                unreadable: is(6),
            };
            let (row, expected) = match () {
                () if is(0) => (0, (Lsn(8192), Damage::Manifest(Lsn(16384)))),
                () if is(1) => (1, (Lsn(4096), Damage::CleanEnd(Lsn(4096)))),
                () if is(2) => (2, (Lsn(0), Damage::Segment { file: 7 })),
                () if is(3) => (3, (Lsn(8192), Damage::Testimony(Lsn(12288)))),
                () if is(4) => (4, (Lsn(8192), Damage::StaleManifest(9))),
                () if is(5) => (5, (Lsn(8192), Damage::OlderManifest { file: 3 })),
                () if is(6) => (6, (Lsn(8192), Damage::Unreadable)),
                () => {
                    let cut = if is(7) { Lsn(4096) } else { Lsn(8192) };
                    assert_eq!(judge(&facts), Verdict::Tail { cut });
                    seen[7] += 1;
                    continue;
                }
            };
            let (lsn, cause) = expected;
            assert_eq!(judge(&facts), Verdict::Damaged { lsn, cause }, "{facts:?}");
            seen[row] += 1;
        }
        assert_eq!(seen, [128, 64, 32, 16, 8, 4, 2, 2]);
    }
}
