//! What a queue decides: which record is handed out next, whose it is, and what becomes of it.
//!
//! No I/O, no clock, no lock: the moment is passed in, and records are known by their positions alone. `feed.rs`
//! reads them, and `files.rs` writes down what [`State::save`] gives.
//!
//! A record is *unread*, *open* (in somebody's hands, or waiting to be handed out again), *dead*, or *done*. What is done is
//! remembered by what is not: of what was read, all that is neither open nor dead. So one record at which everybody fails
//! costs one entry, however much is done behind it.

use std::collections::{BTreeMap, BTreeSet};

use super::dead::Dead;
use super::rate::Rate;
use crate::format::{Committed, DeadRecord, OpenRecord, QueueState};
use crate::position::Position;
use crate::time::Nanos;

/// What a queue keeps to. Checked where its options are.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    pub lease_ns: u64,
    pub attempts: u32,
    pub in_hand: usize,
    /// Records that wait to be handed out again: with more no new one is read.
    pub waiting: usize,
    pub dead: usize,
    pub per_second: Option<f64>,
}

/// When something happens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    /// For leases and delays.
    pub now: Nanos,
    /// For people, and for what must outlive the process.
    pub wall: u64,
}

/// What is known of a record without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub timestamp: u64,
    /// Of its key and payload.
    pub bytes: u64,
}

/// A record in somebody's hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grant {
    pub position: Position,
    /// Tells this time from all others.
    pub lease: u64,
    pub attempt: u32,
}

/// What is to be handed out next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// A record that was handed out before.
    Again(Grant),
    /// A new one, if there is one; else something happens at this moment.
    Read(Option<Nanos>),
    /// Nothing before this moment, or before something else happens.
    Wait(Option<Nanos>),
}

/// What those go by who wait for a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outlook {
    /// They may wait for no more than that something is done.
    is_full: bool,
    /// When the first of those is due that wait to be handed out again.
    due: Option<Nanos>,
    /// When the first lease ends.
    lease_ends: Option<Nanos>,
}

impl Outlook {
    /// Whether somebody who goes by what was so before would miss something, or look too late.
    pub(super) fn concerns(self, before: Outlook) -> bool {
        let ends_sooner = before.lease_ends.zip(self.lease_ends).is_some_and(|(before, now)| now < before);
        before.is_full || self.due != before.due || ends_sooner
    }
}

/// Somebody else has the record by now, or nobody may have it any more.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Lost;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    InHand { until: Nanos },
    Waiting { due: Nanos },
}

#[derive(Debug)]
struct Entry {
    facts: Facts,
    /// How often it was handed out.
    attempts: u32,
    /// Who had it last; 0 if that was in another life of the queue.
    lease: u64,
    standing: Standing,
}

/// See the module.
#[derive(Debug)]
pub(super) struct State {
    limits: Limits,
    /// For each shard the last record that was read.
    read: Vec<Option<Committed>>,
    open: BTreeMap<Position, Entry>,
    /// Of those in hand, and of those that wait: when that ends.
    leases: BTreeSet<(Nanos, Position)>,
    waiting: BTreeSet<(Nanos, Position)>,
    dead: Dead,
    rate: Rate,
    next_lease: u64,
    /// Something has changed since it was saved.
    changed: bool,
}

impl State {
    /// As it was saved. What was in hand, or whose delay is over, waits to be handed out at once; what has had all its
    /// attempts is dead, since it may be what ended the process.
    pub(super) fn restore(limits: Limits, shards: usize, saved: QueueState, moment: Moment) -> State {
        let passed = moment.wall.saturating_sub(saved.wall);
        let mut read = saved.read;
        read.resize(shards, None);
        let mut state = State {
            read,
            open: BTreeMap::new(),
            leases: BTreeSet::new(),
            waiting: BTreeSet::new(),
            dead: Dead::new(limits.dead, saved.forgotten),
            rate: Rate::new(limits.per_second),
            next_lease: 1,
            changed: false,
            limits,
        };
        // A queue writes down no row of what it has not read, and none twice. What somebody else has made is not to be
        // believed: the record would be in two hands once it is read.
        let was_read = |read: &[Option<Committed>], position: Position| {
            let own = read.get(usize::from(position.shard().0)).copied().flatten();
            own.is_some_and(|own| position <= own.position)
        };
        for letter in saved.dead {
            if was_read(&state.read, letter.position) && !state.dead.has(letter.position) {
                state.dead.add(letter);
            }
        }
        for open in saved.open {
            let is_listed = state.dead.has(open.position) || state.open.contains_key(&open.position);
            if is_listed || !was_read(&state.read, open.position) {
                continue;
            }
            let due = moment.now + open.delay_ns.saturating_sub(passed);
            let entry = Entry {
                facts: Facts { timestamp: open.timestamp, bytes: open.bytes },
                attempts: open.attempts,
                lease: 0,
                standing: Standing::Waiting { due },
            };
            state.waiting.insert((due, open.position));
            state.open.insert(open.position, entry);
            if open.attempts >= state.limits.attempts {
                state.bury(open.position, "in hand when the queue ended", moment);
            }
        }
        state
    }

    /// What is to be remembered: with a crash now it would go on from here.
    pub(super) fn save(&mut self, moment: Moment) -> QueueState {
        self.changed = false;
        let open = self.open.iter().map(|(position, entry)| OpenRecord {
            position: *position,
            timestamp: entry.facts.timestamp,
            bytes: entry.facts.bytes,
            delay_ns: match entry.standing {
                Standing::InHand { .. } => 0,
                Standing::Waiting { due } => due - moment.now,
            },
            attempts: entry.attempts,
        });
        QueueState {
            wall: moment.wall,
            forgotten: self.dead.forgotten,
            read: self.read.clone(),
            open: open.collect(),
            dead: self.dead.all().cloned().collect(),
        }
    }

    /// What was saved last could not be written down.
    pub(super) fn is_not_saved(&mut self) {
        self.changed = true;
    }

    /// Whether something has changed since it was saved.
    pub(super) fn has_changed(&self) -> bool {
        self.changed
    }

    // Handing out.

    /// What is to be handed out now. What is [`Again`](Next::Again) is; what is to be read is
    /// [`delivered`](State::deliver) once it is there.
    pub(super) fn next(&mut self, moment: Moment) -> Next {
        self.expire(moment);
        let lease_ends = self.leases.first().map(|(until, _)| *until);
        if self.leases.len() >= self.limits.in_hand {
            return Next::Wait(lease_ends);
        }
        if let Some(at) = self.rate.wait(moment.now) {
            return Next::Wait(Some(lease_ends.map_or(at, |ends| ends.min(at))));
        }
        let due = self.waiting.first().copied();
        if let Some((_, position)) = due.filter(|(due, _)| *due <= moment.now) {
            return Next::Again(self.grant(position, moment));
        }
        let wakes = due.map(|(due, _)| due).into_iter().chain(lease_ends).min();
        if self.waiting.len() >= self.limits.waiting { Next::Wait(wakes) } else { Next::Read(wakes) }
    }

    /// A record that was read is handed out, for the first time.
    pub(super) fn deliver(&mut self, read: Committed, facts: Facts, moment: Moment) -> Grant {
        let position = read.position;
        let own = &mut self.read[usize::from(position.shard().0)];
        // Whatever its files say, it is read on from behind that (`consumer/resume.rs`).
        assert!(own.is_none_or(|own| own.position < position), "records of a shard are read in order");
        *own = Some(read);
        let standing = Standing::Waiting { due: moment.now };
        self.waiting.insert((moment.now, position));
        self.open.insert(position, Entry { facts, attempts: 0, lease: 0, standing });
        self.grant(position, moment)
    }

    fn grant(&mut self, position: Position, moment: Moment) -> Grant {
        self.changed = true;
        self.rate.take(moment.now);
        let lease = self.next_lease;
        self.next_lease += 1;
        let until = moment.now + self.limits.lease_ns;
        self.stand(position, Standing::InHand { until });
        let entry = self.open.get_mut(&position).expect("it stands somewhere");
        entry.attempts = entry.attempts.saturating_add(1);
        entry.lease = lease;
        Grant { position, lease, attempt: entry.attempts }
    }

    /// Moves an open record from where it stands.
    fn stand(&mut self, position: Position, standing: Standing) {
        let entry = self.open.get_mut(&position).expect("it is open");
        let before = std::mem::replace(&mut entry.standing, standing);
        self.among(before).remove(&(end(before), position));
        self.among(standing).insert((end(standing), position));
    }

    fn among(&mut self, standing: Standing) -> &mut BTreeSet<(Nanos, Position)> {
        match standing {
            Standing::InHand { .. } => &mut self.leases,
            Standing::Waiting { .. } => &mut self.waiting,
        }
    }

    /// What nobody has said anything of while it was theirs is anybody's.
    pub(super) fn expire(&mut self, moment: Moment) {
        while let Some((until, position)) = self.leases.first().copied().filter(|(end, _)| *end <= moment.now)
        {
            self.fail(position, until, "its lease ran out", moment);
        }
    }

    // What becomes of it.

    /// The lease that somebody holds, or held and nobody else has had since.
    fn held(&self, position: Position, lease: u64) -> Result<(), Lost> {
        self.open.get(&position).filter(|entry| entry.lease == lease).map(drop).ok_or(Lost)
    }

    pub(super) fn done(&mut self, position: Position, lease: u64) -> Result<(), Lost> {
        self.held(position, lease)?;
        self.forget(position);
        Ok(())
    }

    /// It may be handed out again after a while.
    pub(super) fn retry_after(
        &mut self,
        position: Position,
        lease: u64,
        delay_ns: u64,
        moment: Moment,
    ) -> Result<(), Lost> {
        self.held(position, lease)?;
        self.fail(position, moment.now + delay_ns, "to be tried again later", moment);
        Ok(())
    }

    pub(super) fn reject(
        &mut self,
        position: Position,
        lease: u64,
        reason: &str,
        moment: Moment,
    ) -> Result<(), Lost> {
        self.held(position, lease)?;
        self.bury(position, reason, moment);
        Ok(())
    }

    /// It was put down without a word.
    pub(super) fn release(
        &mut self,
        position: Position,
        lease: u64,
        why: &str,
        moment: Moment,
    ) -> Result<(), Lost> {
        self.held(position, lease)?;
        if matches!(self.open[&position].standing, Standing::InHand { .. }) {
            self.fail(position, moment.now, why, moment);
        }
        Ok(())
    }

    /// It could not be read, and waits for so long. Where that is for good, as `lasting` says, it costs the attempt.
    pub(super) fn put_back(
        &mut self,
        position: Position,
        lease: u64,
        lasting: Option<&str>,
        delay_ns: u64,
        moment: Moment,
    ) -> Result<(), Lost> {
        self.held(position, lease)?;
        let entry = self.open.get_mut(&position).expect("it is held");
        if matches!(entry.standing, Standing::InHand { .. }) {
            let due = moment.now + delay_ns;
            if let Some(why) = lasting {
                self.fail(position, due, why, moment);
            } else {
                entry.attempts -= 1; // The grant's.
                self.changed = true;
                self.stand(position, Standing::Waiting { due });
            }
        }
        Ok(())
    }

    /// It is theirs for so long from now on.
    pub(super) fn extend(
        &mut self,
        position: Position,
        lease: u64,
        for_ns: u64,
        moment: Moment,
    ) -> Result<(), Lost> {
        self.held(position, lease)?;
        self.stand(position, Standing::InHand { until: moment.now + for_ns });
        Ok(())
    }

    /// A dead letter is handed out again, as if it never had been. False if there is none at this position.
    pub(super) fn requeue(&mut self, position: Position, moment: Moment) -> bool {
        let Some(facts) = self.dead.take(position) else { return false };
        self.changed = true;
        let due = moment.now;
        self.waiting.insert((due, position));
        let entry = Entry { facts, attempts: 0, lease: 0, standing: Standing::Waiting { due } };
        let before = self.open.insert(position, entry);
        assert!(before.is_none(), "a dead letter is not open");
        true
    }

    /// An attempt has come to nothing.
    fn fail(&mut self, position: Position, due: Nanos, why: &str, moment: Moment) {
        self.changed = true;
        let attempts = self.open[&position].attempts;
        if attempts < self.limits.attempts {
            self.stand(position, Standing::Waiting { due });
        } else {
            self.bury(position, &format!("attempt {attempts}: {why}"), moment);
        }
    }

    fn forget(&mut self, position: Position) -> Entry {
        self.changed = true;
        let entry = self.open.remove(&position).expect("it is open");
        self.among(entry.standing).remove(&(end(entry.standing), position));
        entry
    }

    fn bury(&mut self, position: Position, reason: &str, moment: Moment) {
        let Entry { facts: Facts { timestamp, bytes }, attempts, .. } = self.forget(position);
        let (reason, rejected) = (reason.to_owned(), moment.wall);
        self.dead.add(DeadRecord { position, timestamp, bytes, rejected, attempts, reason });
    }

    // What there is.

    /// Records that are neither done nor dead, of those that were read, and what they amount to; and the earliest time of
    /// one.
    pub(super) fn open(&self) -> (u64, u64, Option<u64>) {
        let bytes = self.open.values().fold(0, |sum: u64, entry| sum.saturating_add(entry.facts.bytes));
        (self.open.len() as u64, bytes, self.open.values().map(|entry| entry.facts.timestamp).min())
    }

    /// What those who wait go by.
    pub(super) fn outlook(&self) -> Outlook {
        Outlook {
            is_full: self.leases.len() >= self.limits.in_hand || self.waiting.len() >= self.limits.waiting,
            due: self.waiting.first().map(|(due, _)| *due),
            lease_ends: self.leases.first().map(|(until, _)| *until),
        }
    }

    #[cfg(test)]
    pub(super) fn in_hand(&self) -> usize {
        self.leases.len()
    }

    pub(super) fn dead(&self) -> &Dead {
        &self.dead
    }
}

/// When it ends that a record stands where it does.
fn end(standing: Standing) -> Nanos {
    match standing {
        Standing::InHand { until } => until,
        Standing::Waiting { due } => due,
    }
}
