//! An executable model of slots that move between shards, and of atomic batches over several shards.
//!
//! It is here before the engine does either, and says what the rules are: `docs/sharding-protocol.md` is what it
//! taught. `moves` and `atomic` hold the decisions, as pure functions that the engine can follow nearly word by word.
//! The rest attacks them: a world of shards on drives that lose what is not durable, fail and come back, with
//! producers, moves, resizes, truncations and readers, all drawn from one seed. The oracle (`oracle`) is a flat list of
//! what was accepted, told and read; it knows no rule of the protocol but what was promised.
//!
//! What is left to the engine's own simulator: blocks, torn writes, testimony, damage. Here a shard is a sequence of
//! entries of which any prefix survives a power cut that reaches at least to what is covered.
//!
//! Each rule can be switched off (`Bug`), and a test asserts that this is found.

mod appends;
mod atomic;
mod changes;
pub(super) mod history;
mod moves;
mod open;
mod oracle;
mod reads;
pub(super) mod tests;
mod world;

/// What a history found wrong.
pub(crate) type Checked<T = ()> = Result<T, String>;

/// Where an entry is in its shard. Compared by epoch first: an LSN may be given again in a later epoch, a place is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    epoch: u32,
    lsn: u32,
}

/// A rule that is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// A slot opens on the new shard as soon as it is closed on the old one.
    OpenBeforeEndIsDurable,
    /// The map is written, and the slot opens, though the old shard's end is not durable.
    MapBeforeEnd,
    /// The end of a slot counts as durable when it is covered, though a part below it is not settled.
    EndCoveredNotSettled,
    /// A slot opens on the new shard while its map is still being written.
    OpenBeforeMap,
    /// A move goes on though its old or its new shard has failed.
    MoveOutlivesFailure,
    /// Who looked up a key's shard does not look again when it reserves.
    StaleRoute,
    /// The new shard's clock is not raised above the old one's.
    ForgetClock,
    /// The map does not say how far the clock of a failed shard was.
    ForgetClockOfFailed,
    /// Ids and conditions are held against the slot's present shard alone.
    ForgetIds,
    /// `from` and `until` are LSNs without an epoch.
    PlacesWithoutEpoch,
    /// A stretch of a slot's history has no beginning: a slot that comes back is read twice.
    ForgetFrom,
    /// A stretch is dropped from the history though not all of it is truncated.
    PruneEarly,
    /// A record put into a shard by hand does not wait while its slot is closed.
    HandWhileClosed,
    /// A reader beside the owner takes two maps with one version for the same.
    MapVersionReused,
    /// The first spread write does not wait until the map says that there are some.
    SpreadBeforeMap,
    /// A reader takes every record of the key from every shard, not those that say that they are spread.
    SpreadTakesAll,
    /// A follower of a spread key gives what is durable without waiting for shards that are behind.
    SpreadWithoutWatermark,
    /// Clocks are not raised above the slot's shard when spread writes begin.
    ForgetClockOfSpread,
    /// A drive that returns is not cut where the map says.
    ReturnDoesNotObey,
    /// Records of a failed shard above its cut are taken for accepted when ids and conditions are looked up.
    IdsAboveTheCut,
    /// What a shard that is away would know of ids and conditions is taken for nothing.
    UnknownIsAbsent,
    /// The map is not told when a failed shard is back.
    ForgetReturn,
    /// The shards of a batch are not held until the last is reserved.
    ReserveWithoutHold,
    /// A part counts as settled when it is covered itself.
    SettledWithoutSibling,
    /// A part counts as settled when its siblings are covered, whatever is in front of them.
    SettledWithoutEarlier,
    /// Recovery cuts a shard in front of a part that has lost a sibling, and not the siblings of what it cut by that.
    CutOnce,
    /// Recovery compares a sibling with the end of its shard as places, by epoch first, and not by LSN.
    SiblingByPlace,
    /// Recovery takes a sibling that is truncated for one that was lost.
    TruncatedIsLost,
    /// A checkpoint stands at what is covered, above a part that is not settled.
    CheckpointAboveUnsettled,
    /// `truncate_after` does not wait until all below it is settled, though its epoch's start is a checkpoint.
    TruncateAboveUnsettled,
    /// `truncate_after` cuts a part.
    TruncateThroughPart,
    /// The cut of a failed shard is decided, and its siblings go on to settle by what it had covered.
    SettledAfterTheCut,
    /// A failed shard is cut at the durable LSN that it had published, though others have settled by more.
    CutAtPublished,
    /// Batches of a failed shard are void for readers before the map that says so is durable.
    VerdictBeforeMap,
    /// Void is what lies above the cut of a failed shard, in whatever epoch.
    VoidWithoutEpoch,
    /// The row of a failed shard is dropped once it is back, though parts that it makes void are still there.
    PruneVerdictEarly,
    /// The verdict is a record in the lowest healthy shard, and the others follow it.
    VerdictInOneShard,
    /// The verdict is heeded by the shard with the lowest number only.
    VerdictHeededByOne,
    /// A shard's manifest is written before all shards are durable up to their cuts.
    OpenBeforeAllAreSynced,
}

/// Which rule is broken, if any.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rules {
    broken: Option<Bug>,
}

impl Rules {
    fn without(self, bug: Bug) -> bool {
        self.broken == Some(bug)
    }
}

/// Numbers from a seed (SplitMix64).
#[derive(Clone, Debug)]
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }
}

/// Fails a history, with a text.
macro_rules! ensure {
    ($holds:expr, $($text:tt)+) => {
        if !$holds {
            return Err(format!($($text)+));
        }
    };
}
use ensure;
