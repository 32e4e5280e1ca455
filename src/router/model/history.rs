//! Histories: what one draw after the other does to the world, and what has happened when it is over.

use super::open::End;
use super::world::{KEYS, SHARDS, World};
use super::{Bug, Checked, Rules};

/// What happened in a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Move,
    Rerouted,
    DriveFailed,
    DriveReturned,
    Voided,
    PowerCut,
    Kill,
    OpenInterrupted,
    Shrunk,
    Grown,
    Checkpoint,
    Pruned,
    TruncatedBefore,
    TruncatedAfter,
    Batch,
    SpreadWrite,
    ByHand,
    WaitedInClosedSlot,
    Duplicate,
    Conflict,
    Followed,
    FollowedSpread,
}

const KINDS: usize = Seen::FollowedSpread as usize + 1;

/// How often each thing happened.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally(pub(crate) [u64; KINDS]);

impl Tally {
    pub(super) fn count(&mut self, seen: Seen) {
        self.0[seen as usize] += 1;
    }

    /// What never happened.
    pub(crate) fn missing(&self) -> Vec<usize> {
        (0..KINDS).filter(|&kind| self.0[kind] == 0).collect()
    }

    pub(crate) fn merge(&mut self, other: &Tally) {
        self.0.iter_mut().zip(other.0).for_each(|(mine, other)| *mine += other);
    }
}

/// Plays one history.
pub(crate) fn play(seed: u64, broken: Option<Bug>) -> Checked<Tally> {
    let mut world = World::new(seed, Rules { broken });
    let steps = 20 + world.dice.below(200);
    for _ in 0..steps {
        step(&mut world)?;
    }
    end(&mut world)?;
    Ok(world.seen)
}

fn step(world: &mut World) -> Checked {
    let calm = world.mood.calm;
    let shard = world.dice.below(SHARDS);
    match world.dice.below(100) {
        0..=12 => world.ask(),
        13..=38 if !world.producers.is_empty() => {
            for _ in 0..world.producers.len().min(4) {
                let producer = world.dice.below(world.producers.len().max(1));
                if producer < world.producers.len() {
                    world.produce(producer)?;
                }
            }
        }
        39..=56 => world.turn(shard),
        57..=60 if world.dice.one_in(world.mood.moves) => world.begin_move(),
        61..=72 => world.go_on_with_change(),
        73..=82 if world.dice.one_in(world.mood.manifest) => world.finish_writing(),
        83..=84 => (0..world.mood.keys).try_for_each(|key| world.check_read(key))?,
        85 => (0..world.mood.keys).try_for_each(|key| world.check_outsider(key))?,
        86 => world.follow(),
        87..=89 if !world.followers.is_empty() => {
            let follower = world.dice.below(world.followers.len());
            world.poll_follower(follower)?;
        }
        90 => world.checkpoint(shard),
        91 => world.truncate_before(shard),
        92 => world.truncate_after(shard),
        93 => world.prune_map(),
        94..=95 if world.dice.one_in(calm) => world.fail_drive(),
        96 if world.dice.one_in(calm) => world.crash(End::PowerCut)?,
        97 if world.dice.one_in(calm) => world.crash(End::Kill)?,
        98 if world.dice.one_in(2) => world.pump()?,
        _ => {}
    }
    Ok(())
}

/// Everything comes to rest, is read, and is there after one more open.
fn end(world: &mut World) -> Checked {
    world.pump()?;
    for follower in 0..world.followers.len() {
        world.poll_follower(follower)?;
    }
    world.check_followers()?;
    (0..KEYS).try_for_each(|key| world.check_read(key))?;
    world.check_order_of_batches()?;
    world.check_map()?;
    world.crash(End::PowerCut)?;
    (0..KEYS).try_for_each(|key| world.check_outsider(key))?;
    world.pump()?;
    (0..KEYS).try_for_each(|key| world.check_read(key))
}
