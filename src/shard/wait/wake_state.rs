//! Whether the shard's thread must be woken for what was just appended.
//!
//! The thread publishes how it sleeps; a producer looks at it after its copy is finished. Both use
//! sequentially consistent operations on their own word before they look at the other's, so at
//! least one of the two sees the other.
//!
//! What does not show in the pool (a close, a sync that is asked for, a new segment) the thread does not look
//! for again before it sleeps: whoever wants that seen [`ask`](WakeState::ask)s, which keeps it from sleeping.

use crate::pool::Urgency;
use crate::sync::{AtomicU32, CacheLine, Ordering, handshake};

/// The thread runs, and will see everything before it sleeps.
const AWAKE: u32 = 0;
/// It sleeps and an operation is in flight: its completion is the right moment to seal what has
/// gathered meanwhile, so only a full block wakes it.
const BUSY: u32 = 1;
/// It sleeps until the time by which background records must go out.
const LINGERING: u32 = 2;
/// It sleeps, and nothing would wake it for a record.
const IDLE: u32 = 3;
/// As `IDLE`, and at least one caller holds the duty of either writing its block itself or waking the thread.
const ANNOUNCED: u32 = 4;
/// As `AWAKE`, and it must look at everything once more before it sleeps.
const ASKED: u32 = 5;

/// How the thread goes to sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sleep {
    Busy,
    Linger,
    Idle,
}

/// What a producer must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waking {
    Nothing,
    /// Wake the thread now.
    Wake,
    /// The producer holds the duty: it leads the commit or calls [`WakeState::delegate`].
    MustLead,
}

/// How the shard's thread sleeps, in one word, and thereby whether an append must wake it.
#[derive(Debug)]
pub(crate) struct WakeState {
    state: CacheLine<AtomicU32>,
}

impl WakeState {
    pub(crate) fn new() -> WakeState {
        WakeState { state: CacheLine(AtomicU32::new(AWAKE)) }
    }

    /// The thread is about to sleep. It looks once more for work after this and before it does.
    ///
    /// False if it was asked since it woke to look at everything: then it is awake still.
    #[must_use]
    pub(crate) fn prepare_sleep(&self, how: Sleep) -> bool {
        let state = match how {
            Sleep::Busy => BUSY,
            Sleep::Linger => LINGERING,
            Sleep::Idle => IDLE,
        };
        // SeqCst: stands before the thread's last look at the pool, as a producer's copy stands
        // before its look at this word.
        let asked = self.state.0.swap(state, Ordering::SeqCst) == ASKED;
        if asked {
            self.set_awake();
        }
        handshake();
        !asked
    }

    /// The thread is awake again, and looks at everything.
    pub(crate) fn set_awake(&self) {
        self.state.0.swap(AWAKE, Ordering::SeqCst);
    }

    /// A producer finished a record; `block_ready` if that made a closed block complete.
    ///
    /// With `may_lead`, a producer that finds the thread idle is given the duty instead.
    #[inline]
    pub(crate) fn appended(&self, urgency: Urgency, block_ready: bool, may_lead: bool) -> Waking {
        handshake();
        let state = self.state.0.load(Ordering::SeqCst);
        let wake = match state {
            AWAKE | ASKED => false,
            BUSY => block_ready,
            LINGERING => block_ready || urgency > Urgency::Background,
            _ => true,
        };
        if !wake {
            return Waking::Nothing;
        }
        if may_lead && !block_ready && state == ANNOUNCED {
            // Whoever has it may be slow to look at its handle; whoever acts first acts for all.
            return Waking::MustLead;
        }
        if may_lead && !block_ready && matches!(state, LINGERING | IDLE) {
            let claimed = self.state.0.compare_exchange(state, ANNOUNCED, Ordering::SeqCst, Ordering::SeqCst);
            if claimed.is_ok() {
                return Waking::MustLead;
            }
        }
        self.ask()
    }

    /// Somebody wants the thread to look at everything, whatever it does.
    pub(crate) fn ask(&self) -> Waking {
        match self.state.0.swap(ASKED, Ordering::SeqCst) {
            AWAKE | ASKED => Waking::Nothing,
            _ => Waking::Wake,
        }
    }

    /// The duty is given to the thread.
    pub(crate) fn delegate(&self) -> Waking {
        if self.state.0.load(Ordering::SeqCst) == ANNOUNCED { self.ask() } else { Waking::Nothing }
    }

    /// The duty becomes a lead: until [`end_lead`](WakeState::end_lead) others need not wake the thread.
    pub(crate) fn try_lead(&self) -> bool {
        self.state.0.compare_exchange(ANNOUNCED, BUSY, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// The lead is over and nothing is in flight. The leader looks once more for work after this.
    pub(crate) fn end_lead(&self) {
        let _ = self.state.0.compare_exchange(BUSY, IDLE, Ordering::SeqCst, Ordering::SeqCst);
    }
}

#[cfg(all(test, not(sawmill_loom)))]
mod tests {
    use super::*;

    /// A close that comes while the thread turns, behind its look at whether there is one.
    #[test]
    fn who_was_asked_does_not_sleep() {
        let wake_state = WakeState::new();
        wake_state.set_awake();
        assert_eq!(wake_state.ask(), Waking::Nothing);
        assert!(!wake_state.prepare_sleep(Sleep::Idle), "what it was asked to look at is not seen");
        assert!(wake_state.prepare_sleep(Sleep::Idle), "it was asked once");
        assert_eq!(wake_state.ask(), Waking::Wake);
    }
}

#[cfg(all(test, sawmill_loom))]
mod loom_tests {
    use super::*;
    use crate::sync::ModelArc;

    /// Can the thread sleep, and nobody be about to wake it, though it was asked to look at something?
    #[test]
    fn loom_what_is_asked_for_is_seen() {
        loom::model(|| {
            let wake_state = ModelArc::new(WakeState::new());
            let closing = ModelArc::new(AtomicU32::new(0));
            let thread = {
                let (wake_state, closing) = (wake_state.clone(), closing.clone());
                loom::thread::spawn(move || {
                    wake_state.set_awake();
                    let saw_it = closing.load(Ordering::SeqCst) > 0;
                    // Awake still, it would look again.
                    saw_it || !wake_state.prepare_sleep(Sleep::Idle)
                })
            };
            closing.store(1, Ordering::SeqCst);
            let nudged = wake_state.ask();
            let saw_it = thread.join().unwrap();
            assert!(saw_it || nudged == Waking::Wake, "asleep, and not told");
        });
    }

    /// Can a record be finished, the thread asleep, and nobody about to wake it?
    #[test]
    fn loom_no_record_is_left_to_a_sleeping_thread() {
        loom::model(|| {
            let wake_state = ModelArc::new(WakeState::new());
            let records = ModelArc::new(AtomicU32::new(0));
            let thread = {
                let (wake_state, records) = (wake_state.clone(), records.clone());
                loom::thread::spawn(move || {
                    // The last look: true if it would not sleep.
                    !wake_state.prepare_sleep(Sleep::Idle) || records.load(Ordering::SeqCst) > 0
                })
            };
            records.fetch_add(1, Ordering::SeqCst);
            let nudged = wake_state.appended(Urgency::Synced, false, false);
            let saw_it = thread.join().unwrap();
            assert!(saw_it || nudged == Waking::Wake, "asleep with a record waiting");
        });
    }

    /// Whether this one leads, and whether it woke the thread.
    fn act(wake_state: &WakeState) -> (bool, bool) {
        match wake_state.appended(Urgency::Synced, false, true) {
            Waking::MustLead if wake_state.try_lead() => (true, false),
            Waking::MustLead => (false, wake_state.delegate() == Waking::Wake),
            nudged => (false, nudged == Waking::Wake),
        }
    }

    /// With two producers: does each hold the duty or have the thread woken, and does exactly one lead?
    #[test]
    fn loom_somebody_acts_for_each_record() {
        loom::model(|| {
            let wake_state = ModelArc::new(WakeState::new());
            assert!(wake_state.prepare_sleep(Sleep::Idle));
            let other = {
                let wake_state = wake_state.clone();
                loom::thread::spawn(move || act(&wake_state))
            };
            let own = act(&wake_state);
            let other = other.join().unwrap();
            // One leads, and what the other appended gathers meanwhile; or the thread is woken for it.
            assert!(own.0 || own.1 || other.0 || other.1, "nobody leads, and the thread sleeps");
            assert!(!(own.0 && other.0), "two lead the same block");
        });
    }
}
