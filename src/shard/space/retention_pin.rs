//! What somebody still needs of a shard's log: truncation goes no further.

use crate::error::TruncateError;
use crate::position::Lsn;
use crate::sync::lock;

use crate::shard::Engine;

/// Who needs something, beside its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    Tally,
    Consumer,
    Queue,
    /// A name in `retain_for` that nobody has opened yet.
    Nobody,
}

/// One who needs something.
#[derive(Clone, Debug)]
pub(in crate::shard) struct RetentionPin {
    holder: Holder,
    name: String,
    /// Everything from here on...
    oldest: Lsn,
    /// ... to here: what it reads must be whole, and while it is open it remembers what it wrote.
    newest: Lsn,
    /// It was told that all is kept for one that is refused.
    is_refused: bool,
}

impl RetentionPin {
    fn is(&self, holder: Holder, name: &str) -> bool {
        self.holder == holder && self.name == name
    }

    /// For who is refused.
    fn by(&self) -> String {
        let name = &self.name;
        match self.holder {
            Holder::Tally => format!("the tally `{name}`"),
            Holder::Consumer => {
                format!("the consumer `{name}` (in `retain_for`; `remove_consumer` lets it go)")
            }
            Holder::Queue => format!("the queue `{name}` (in `retain_for`; `remove_queue` lets it go)"),
            Holder::Nobody => format!("`{name}` (in `retain_for`, and neither a consumer nor a queue yet)"),
        }
    }
}

impl Engine {
    /// Lets no truncation touch what the tally `name` needs.
    pub(crate) fn pin(&self, name: &str, oldest: Lsn, newest: Lsn) {
        self.pin_for(Holder::Tally, name, oldest, newest);
    }

    /// The tally needs nothing any more.
    pub(crate) fn unpin(&self, name: &str) {
        self.release(Holder::Tally, name);
    }

    /// Lets no truncation at the beginning touch what somebody has still to read.
    pub(crate) fn hold(&self, holder: Holder, name: &str, oldest: Lsn) {
        self.pin_for(holder, name, oldest, Lsn::MIN);
    }

    /// Whoever holds something under this name would be refused if it was opened now: that it may need anything is told,
    /// and once more when it goes on.
    pub(crate) fn note_refused(&self, holder: Holder, name: &str, why: &str) {
        let mut pins = lock(&self.pins);
        pins.iter_mut().filter(|pin| pin.is(holder, name)).for_each(|pin| pin.is_refused = true);
        drop(pins);
        self.notices.warn(format!(
            "the log gives up nothing that `{name}` (in `retain_for`) may have to read, since it is refused: {why}"
        ));
    }

    /// What a tally may need is not known, or it is of another moment than its shard.
    pub(crate) fn tell_kept_for_tally(&self, name: &str, why: &str) {
        self.notices.warn(format!("the log gives up nothing that the tally `{name}` may need: {why}"));
    }

    fn tell_that_it_goes_on(&self, name: &str) {
        let text = "goes on: what it is through with is given up again";
        self.notices.info(format!("`{name}` (in `retain_for`) {text}"));
    }

    /// It needs nothing any more.
    pub(crate) fn release(&self, holder: Holder, name: &str) {
        let mut pins = lock(&self.pins);
        let was_refused = pins.iter().any(|pin| pin.is(holder, name) && pin.is_refused);
        pins.retain(|pin| !pin.is(holder, name));
        drop(pins);
        if was_refused {
            self.tell_that_it_goes_on(name);
        }
    }

    /// Whether somebody has said that it needs something.
    pub(crate) fn is_held(&self, holder: Holder, name: &str) -> bool {
        lock(&self.pins).iter().any(|pin| pin.is(holder, name))
    }

    fn pin_for(&self, holder: Holder, name: &str, oldest: Lsn, newest: Lsn) {
        let mut pins = lock(&self.pins);
        let pin = RetentionPin { holder, name: name.to_owned(), oldest, newest, is_refused: false };
        let before = match pins.iter_mut().find(|pin| pin.is(holder, name)) {
            Some(own) => Some(std::mem::replace(own, pin)),
            None => {
                pins.push(pin);
                None
            }
        };
        drop(pins);
        if before.is_some_and(|before| before.is_refused) {
            self.tell_that_it_goes_on(name);
        }
    }

    /// The lowest LSN that somebody needs.
    pub(in crate::shard) fn pinned_from(&self) -> Option<Lsn> {
        lock(&self.pins).iter().map(|pin| pin.oldest).min()
    }

    /// Whether everything below `lsn` may go.
    pub(in crate::shard) fn may_begin_at(&self, lsn: Lsn) -> Result<(), TruncateError> {
        let pins = lock(&self.pins);
        match pins.iter().find(|pin| pin.oldest < lsn) {
            None => Ok(()),
            Some(pin) => Err(self.needed(pin, pin.oldest)),
        }
    }

    /// Whether everything from `cut` on may go.
    pub(in crate::shard) fn may_end_at(&self, cut: Lsn) -> Result<(), TruncateError> {
        let pins = lock(&self.pins);
        match pins.iter().find(|pin| cut < pin.newest) {
            None => Ok(()),
            Some(pin) => Err(self.needed(pin, pin.newest.min(self.durable()))),
        }
    }

    fn needed(&self, pin: &RetentionPin, from: Lsn) -> TruncateError {
        TruncateError::Needed { shard: self.id, from, by: pin.by() }
    }
}
