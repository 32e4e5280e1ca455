//! The shard's side of admission: it supplies the clock and the room, and wakes the thread when a look is due.
//!
//! The line itself, and how long an offer lasts (`OFFER_NS`), are in [`admission`](crate::admission).

use std::sync::atomic::Ordering;
use std::task::Waker;

use crate::admission::{Call, Place};
use crate::shard::Engine;
use crate::time::Nanos;
use crate::write::Priority;

impl Engine {
    /// Now, by the clock of deadlines.
    pub(crate) fn time(&self) -> Nanos {
        self.device.now()
    }

    /// Takes a place in line, of somebody who waits until then at the longest.
    pub(crate) fn enter_queue(&self, priority: Priority, until: Nanos) -> Place {
        let place = self.admission.enter(priority, until, self.device.now());
        self.arm_queue();
        place
    }

    /// Leaves a call for when there is room. The caller looks for room once more after this.
    pub(crate) fn wait_in_queue(&self, place: &Place, call: Call) {
        self.admission.wait(place, call, self.device.now());
        self.arm_queue();
    }

    /// Whether it is this waiter's turn to look for room.
    pub(crate) fn is_turn(&self, place: &Place) -> bool {
        self.admission.is_turn(place, self.device.now())
    }

    /// Whether a caller that does not wait may look for room.
    pub(crate) fn may_bypass(&self, priority: Priority) -> bool {
        self.admission.may_bypass(priority, self.device.now())
    }

    /// Offers the room that there is to whoever waits for it. Wake what it gives under no lock.
    #[must_use]
    pub(crate) fn offer(&self) -> Vec<Waker> {
        if self.admission.is_clear() {
            return Vec::new();
        }
        self.admission.offer(self.device.now(), |priority| self.admits(priority))
    }

    /// Makes sure that the shard's thread looks at the queue when it is due, though nothing else may happen until
    /// then. The queue was changed before this look at how long the thread sleeps; the thread looks at the queue
    /// after it has said so: one sees the other.
    fn arm_queue(&self) {
        let armed_until = self.armed_until.load(Ordering::SeqCst);
        if self.admission.due().is_some_and(|due| due.0 < armed_until) {
            self.wake_shard();
        }
    }
}

#[cfg(all(test, not(sawmill_loom)))]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::sync::Mutex;
    use std::sync::mpsc::{Sender, channel};
    use std::task::{Context, Wake};
    use std::time::Duration;

    use super::*;
    use crate::{Options, Write};

    struct Tells(Mutex<Sender<()>>);

    impl Wake for Tells {
        fn wake(self: std::sync::Arc<Self>) {
            let _ = crate::sync::lock(&self.0).send(());
        }
    }

    /// On an idle log nobody appends, completes or frees anything: who stands behind a handle that nobody polls gets
    /// in by the clock alone.
    #[test]
    fn who_waits_behind_a_forgotten_handle_on_an_idle_log_gets_in() {
        let dir = tempfile::tempdir().unwrap();
        let log = Options::new().shards(1).open(dir.path()).unwrap();
        log.append(b"before").wait().unwrap();
        let engine = log.engine_for(b"");
        for round in 0..40 {
            let forgotten = engine.enter_queue(Priority::High, Nanos::NEVER);
            if round % 2 == 0 {
                engine.wait_in_queue(&forgotten, Call::Task(Waker::noop().clone()));
            }
            let (sender, woken) = channel();
            let waker = Waker::from(std::sync::Arc::new(Tells(Mutex::new(sender))));
            let mut behind = pin!(log.append(Write::new(b"behind").priority(Priority::Low)).admitted());
            let mut poll = || behind.as_mut().poll(&mut Context::from_waker(&waker)).map(Result::unwrap);
            while poll().is_pending() {
                woken.recv_timeout(Duration::from_secs(60)).expect("nobody has looked at the queue");
            }
        }
        log.close().unwrap();
    }

    /// Somebody whose record finds no room though there is some comes back as soon as it is called. It is called when
    /// room is made and when a look is due, or the two would keep each other busy: a shard in the application's own
    /// runtime would never let it submit its writes.
    #[test]
    fn who_finds_no_room_is_called_again_when_a_look_is_due() {
        const CALLS: u32 = 20;
        let dir = tempfile::tempdir().unwrap();
        let log = Options::new().shards(1).open(dir.path()).unwrap();
        log.append(b"before").wait().unwrap();
        let engine = log.engine_for(b"");
        engine.opener().held = true;
        let (sender, woken) = channel();
        let waker = Waker::from(std::sync::Arc::new(Tells(Mutex::new(sender))));
        let mut handle = pin!(log.append(b"held up").admitted());
        let mut poll = || handle.as_mut().poll(&mut Context::from_waker(&waker)).map(Result::unwrap);
        let began = std::time::Instant::now();
        for _ in 0..CALLS {
            assert!(poll().is_pending());
            woken.recv_timeout(Duration::from_secs(60)).expect("nobody has looked at the queue");
        }
        // No limit to how slow it is: this is how often the clock lets it happen.
        assert!(
            began.elapsed() >= Duration::from_millis(100),
            "called {CALLS} times in {:?}",
            began.elapsed()
        );
        engine.opener().held = false;
        while poll().is_pending() {
            woken.recv_timeout(Duration::from_secs(60)).expect("nobody has looked at the queue");
        }
        log.close().unwrap();
    }
}
