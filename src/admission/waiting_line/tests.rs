use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::task::Wake;

use super::*;
use crate::sync::wake;

#[derive(Default)]
struct Count(AtomicU32);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn waiter(admission: &Admission, priority: Priority) -> (Place, Arc<Count>) {
    let count = Arc::new(Count::default());
    let place = admission.enter(priority, Nanos::NEVER, Nanos(0));
    admission.wait(&place, Call::Task(Waker::from(count.clone())), Nanos(0));
    (place, count)
}

fn calls(count: &Count) -> u32 {
    count.0.load(Ordering::SeqCst)
}

#[test]
fn room_goes_to_the_first_and_then_to_the_next() {
    let admission = Admission::default();
    let (first, first_calls) = waiter(&admission, Priority::Normal);
    let (second, second_calls) = waiter(&admission, Priority::Normal);
    wake(admission.offer(Nanos(0), |_| true));
    assert_eq!((calls(&first_calls), calls(&second_calls)), (1, 1));
    assert!(admission.is_turn(&first, Nanos(0)) && admission.is_turn(&second, Nanos(0)));
    admission.leave(&first);
    admission.leave(&second);
    assert!(admission.is_clear());
}

#[test]
fn offers_go_out_in_order_and_so_many_at_a_time() {
    let admission = Admission::default();
    let waiters: Vec<_> = (0..OFFERS_MAX + 8).map(|_| waiter(&admission, Priority::Normal)).collect();
    wake(admission.offer(Nanos(0), |_| true));
    wake(admission.offer(Nanos(0), |_| true));
    let called = |waiters: &[(Place, Arc<Count>)]| waiters.iter().map(|(_, count)| calls(count)).sum::<u32>();
    assert_eq!(called(&waiters[..OFFERS_MAX]), OFFERS_MAX as u32, "each is called once");
    assert_eq!(called(&waiters[OFFERS_MAX..]), 0);
    admission.leave(&waiters[0].0);
    wake(admission.offer(Nanos(0), |_| true));
    assert_eq!(called(&waiters[OFFERS_MAX..OFFERS_MAX + 1]), 1);
}

#[test]
fn the_higher_priority_is_offered_first_and_the_lower_only_what_it_may_use() {
    let admission = Admission::default();
    let (_low, low_calls) = waiter(&admission, Priority::Low);
    let (high, high_calls) = waiter(&admission, Priority::High);
    wake(admission.offer(Nanos(0), |priority| priority == Priority::High));
    assert_eq!((calls(&low_calls), calls(&high_calls)), (0, 1));
    admission.leave(&high);
    wake(admission.offer(Nanos(0), |_| true));
    assert_eq!(calls(&low_calls), 1);
}

/// The futurelock of Oxide RFD 609: a waiter that is not polled any more must not stop others.
#[test]
fn an_offer_that_is_not_taken_passes_on() {
    let admission = Admission::default();
    let (dead, _) = waiter(&admission, Priority::Normal);
    let (alive, alive_calls) = waiter(&admission, Priority::Normal);
    wake(admission.offer(Nanos(0), |_| true));
    assert_eq!(calls(&alive_calls), 1);
    assert!(admission.is_clear(), "whoever has an offer stands in nobody's way");
    // The one that lives has been polled and waits again; the other lets its offer pass.
    admission.wait(&alive, Call::Task(Waker::from(alive_calls.clone())), Nanos(10));
    assert!(!admission.is_clear());
    assert_eq!(admission.due(), Some(Nanos(10 + OFFER_NS)));
    wake(admission.offer(Nanos(OFFER_NS), |_| true));
    assert_eq!(calls(&alive_calls), 2);
    admission.leave(&alive);
    assert!(admission.is_clear(), "a waiter that let an offer pass holds nobody up");
    assert!(admission.is_turn(&dead, Nanos(OFFER_NS)), "and may still take room when it is polled");
    admission.leave(&dead);
    assert!(admission.is_clear());
}

#[test]
fn offers_to_those_who_do_not_come_go_to_the_next() {
    let admission = Admission::default();
    let waiters: Vec<_> = (0..OFFERS_MAX * 3).map(|_| waiter(&admission, Priority::Normal)).collect();
    for round in 0..3 {
        wake(admission.offer(Nanos(round * OFFER_NS), |_| true));
        let called: u32 = waiters.iter().map(|(_, count)| calls(count)).sum();
        assert_eq!(called, (round as u32 + 1) * OFFERS_MAX as u32);
    }
    assert!(admission.is_clear());
}

#[test]
fn a_place_that_is_never_looked_at_passes() {
    let admission = Admission::default();
    let dead = admission.enter(Priority::Normal, Nanos::NEVER, Nanos(0));
    let (alive, _) = waiter(&admission, Priority::Normal);
    assert!(!admission.is_turn(&alive, Nanos(10)) && !admission.may_bypass(Priority::Normal, Nanos(10)));
    assert!(
        admission.may_bypass(Priority::High, Nanos(10)),
        "those who wait keep nobody more urgent from going ahead"
    );
    assert_eq!(admission.due(), Some(Nanos(OFFER_NS)));
    assert!(admission.is_turn(&alive, Nanos(OFFER_NS)), "nobody stands before it any more");
    // It comes back to its old place.
    admission.wait(&dead, Call::Task(Waker::noop().clone()), Nanos(OFFER_NS));
    assert!(!admission.is_turn(&alive, Nanos(OFFER_NS)) && admission.is_turn(&dead, Nanos(OFFER_NS)));
}

#[test]
fn who_is_forgotten_leaves_nothing_behind() {
    let admission = Admission::default();
    for round in 0..1_000 {
        let now = Nanos(round * 2 * OFFER_NS);
        let place = admission.enter(Priority::Low, Nanos::NEVER, now);
        if round % 2 == 0 {
            admission.wait(&place, Call::Task(Waker::noop().clone()), now);
        }
        wake(admission.offer(now, |_| true));
    }
    let queue = lock(&admission.queue);
    assert!(queue.lines.iter().map(VecDeque::len).sum::<usize>() <= 1 && queue.timed.len() <= 2);
}

/// A waker that takes the lock of the queue when it is dropped, as one that drops a log would.
#[test]
fn wakers_are_dropped_under_no_lock() {
    struct Looks(Arc<Admission>, Arc<AtomicU32>);
    impl Wake for Looks {
        fn wake(self: Arc<Self>) {}
    }
    impl Drop for Looks {
        fn drop(&mut self) {
            assert!(self.0.queue.try_lock().is_ok(), "dropped under the lock");
            self.1.fetch_add(1, Ordering::SeqCst);
        }
    }
    let (admission, dropped) = (Arc::new(Admission::default()), Arc::new(AtomicU32::new(0)));
    let call = || Call::Task(Waker::from(Arc::new(Looks(admission.clone(), dropped.clone()))));
    let place = admission.enter(Priority::Normal, Nanos::NEVER, Nanos(0));
    admission.wait(&place, call(), Nanos(0));
    admission.wait(&place, call(), Nanos(0));
    assert_eq!(dropped.load(Ordering::SeqCst), 1, "the old one");
    admission.leave(&place);
    assert_eq!(dropped.load(Ordering::SeqCst), 2);
}

/// Who waits with a deadline is called when it is over, whatever happens or does not; who has left leaves nothing behind.
#[test]
fn a_deadline_is_looked_at_in_time() {
    let admission = Admission::default();
    let waits = |deadline: u64, now: u64| {
        let count = Arc::new(Count::default());
        let place = admission.enter(Priority::Normal, Nanos(deadline), Nanos(now));
        admission.wait(&place, Call::Task(Waker::from(count.clone())), Nanos(now));
        (place, count)
    };
    let (late, late_calls) = waits(3_000_000, 0);
    let (early, early_calls) = waits(1_500_000, 0);
    let (_never, never_calls) = waiter(&admission, Priority::Normal);
    assert_eq!(admission.due(), Some(Nanos(1_500_000)));
    wake(admission.offer(Nanos(1_499_999), |_| false));
    assert_eq!(calls(&early_calls), 0, "not before its time");
    wake(admission.offer(Nanos(1_500_000), |_| false));
    assert_eq!([&early_calls, &late_calls, &never_calls].map(|own| calls(own)), [1, 0, 0]);
    admission.leave(&early);
    assert!(admission.due() <= Some(Nanos(3_000_000)));
    // It was offered room, found none, and waits again: its deadline is the same.
    wake(admission.offer(Nanos(2_000_000), |_| true));
    admission.wait(&late, Call::Task(Waker::from(late_calls.clone())), Nanos(2_000_000));
    wake(admission.offer(Nanos(3_000_000), |_| false));
    assert_eq!(calls(&late_calls), 2);
    for round in 0..10_000 {
        let (place, _) = waits(u64::MAX / 2, 3_000_000 + round);
        admission.leave(&place);
    }
    assert!(lock(&admission.queue).deadlines.len() <= 2 * PLACES);
}
