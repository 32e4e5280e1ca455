//! Forks: what a process opened is its alone, and what a child opens is the child's.

use std::cell::RefCell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, RawWaker, RawWakerVTable, Waker};
use std::time::Duration;

use futures_core::Stream;
use sawmill::queue::{Lag, QueueOptions};
use sawmill::tally::Fold;
use sawmill::{
    AppendError, CloseError, Commit, ConsumerError, Log, OpenError, Options, QueueError, ReadError, ShardId,
    TallyError, TruncateError, UpdateError,
};

use crate::harness::is_alone;

/// Whether this holds in a forked child. One that hangs is killed, which does not hold.
fn forked(child: impl FnOnce() -> bool) -> bool {
    // SAFETY: the child does no more than what is given, and ends by `_exit`.
    match unsafe { libc::fork() } {
        0 => {
            // SAFETY: kills the child, whatever it hangs in.
            unsafe { libc::alarm(60) };
            let holds = catch_unwind(AssertUnwindSafe(child)).unwrap_or(false);
            // SAFETY: ends the child without running anything of the parent's.
            unsafe { libc::_exit(i32::from(!holds)) };
        }
        child => {
            let mut status = 0;
            // SAFETY: the status outlives the call.
            assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
            status == 0
        }
    }
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn open(directory: &tempfile::TempDir) -> Log {
    Options::new().shards(1).segment_bytes(8 << 20).memory_bytes(4 << 20).open(directory.path()).unwrap()
}

/// A log takes and gives records, and counts.
fn works(log: &Log) -> bool {
    let position = log.append(b"record").wait().unwrap();
    assert_eq!(log.get(position).unwrap().payload(), b"record");
    let tally = log.tally("likes").unwrap();
    tally.add(b"key", 2).wait().unwrap();
    assert!(tally.get(b"key") >= Some(2));
    assert!(log.shard(ShardId(0)).read(..).unwrap().all(|record| record.is_ok()));
    true
}

fn is_refused(log: &Log) -> bool {
    matches!(log.append(b"x").wait(), Err(AppendError::Forked))
        && matches!(log.try_append(b"x"), Err(AppendError::Forked))
        && matches!(log.try_append_batch(b"key", &[b"x"]), Err(AppendError::Forked))
        && matches!(log.sync().wait(), Err(AppendError::Forked))
        && matches!(log.tally("likes"), Err(TallyError::Forked))
        && matches!(log.consumer("reader"), Err(ConsumerError::Forked))
        && matches!(log.queue("mailer", QueueOptions::new()), Err(QueueError::Forked))
        && matches!(log.remove_queue("mailer"), Err(QueueError::Forked))
        && matches!(log.shard(ShardId(0)).read(..), Err(ReadError::Forked))
        && matches!(log.read_key(b"key", ..), Err(ReadError::Forked))
        && matches!(log.read_key_back(b"key", ..), Err(ReadError::Forked))
        && matches!(log.follow_key(b"key", None), Err(ReadError::Forked))
        && matches!(log.last(b"key"), Err(ReadError::Forked))
        && matches!(log.seek(1), Err(ReadError::Forked))
}

#[test]
fn a_log_is_of_the_process_that_opened_it() {
    if !is_alone("forks::a_log_is_of_the_process_that_opened_it") {
        return;
    }
    let places = [directory(), directory(), directory()];
    let log = open(&places[0]);
    assert!(works(&log));
    assert!(forked(|| {
        assert!(is_refused(&log));
        let own = open(&places[1]);
        assert!(works(&own) && is_refused(&log));
        let grandchild = forked(|| {
            assert!(is_refused(&own) && is_refused(&log));
            let third = open(&places[2]);
            assert!(works(&third) && is_refused(&own) && is_refused(&log));
            third.close().unwrap();
            true
        });
        assert!(works(&own), "and not of its child");
        own.close().unwrap();
        grandchild
    }));
    assert!(works(&log));
    log.close().unwrap();
    for place in &places {
        assert!(works(&open(place)));
    }
}

/// Readers and handles that were made before the fork: errors, an end, and memory that is left alone.
#[test]
fn readers_and_handles_are_not_the_childs() {
    if !is_alone("forks::readers_and_handles_are_not_the_childs") {
        return;
    }
    let (place, other) = (directory(), directory());
    let log = open(&place);
    let shard = log.shard(ShardId(0));
    for index in 0..800u32 {
        log.post(vec![index as u8; 10 << 10]).unwrap();
    }
    log.sync().wait().unwrap();
    let position = log.append(b"position").wait().unwrap();
    let tally = log.tally("likes").unwrap();
    tally.add(b"key", 2).wait().unwrap();
    let mut commits: Vec<Commit> = (0..2).map(|_| log.append(b"x").admitted().wait().unwrap()).collect();
    let mut range = shard.read(..).unwrap();
    // So far that it reads ahead, into memory that a fork does not get.
    assert_eq!(range.by_ref().take(400).count(), 400);
    let by_key = log.read_key(b"key", ..).unwrap();
    let by_key_back = log.read_key_back(b"key", ..).unwrap();
    let mut by_key_tail = log.follow_key(b"key", None).unwrap();
    assert!(by_key_tail.next_timeout(Duration::ZERO).is_none(), "it has come to the end");
    let mut follow = shard.follow(position.lsn()).unwrap();
    let mut consumer = log.consumer("reader").unwrap();
    assert!(consumer.next().is_some());
    let queue = log.queue("mailer", QueueOptions::new()).unwrap();
    let [done, kept, dropped] = [(); 3].map(|()| queue.take().wait().unwrap().unwrap());
    let mut taking = pin!(queue.take_batch(9));
    assert!(forked(|| {
        assert!(matches!(log.get(position), Err(ReadError::Forked)));
        let own = open(&other);
        assert!(works(&own));
        let mut mine = own.shard(ShardId(0)).read(..).unwrap();
        let rest: Vec<_> = range.by_ref().collect();
        assert!(matches!(rest.last(), Some(Err(ReadError::Forked))));
        assert_eq!(rest.iter().filter(|record| record.is_err()).count(), 1);
        assert!(range.next().is_none());
        for told in [by_key.collect::<Vec<_>>(), by_key_back.collect()] {
            assert!(matches!(told[..], [Err(ReadError::Forked)]), "{told:?}");
        }
        let told =
            std::iter::from_fn(|| by_key_tail.next_timeout(Duration::from_secs(50))).collect::<Vec<_>>();
        assert!(matches!(told[..], [Err(ReadError::Forked)]), "{told:?}");
        // Its memory is somebody else's by now.
        drop(range);
        assert!(mine.all(|record| record.is_ok()));
        let told = std::iter::from_fn(|| follow.next_timeout(Duration::from_secs(50))).last();
        assert!(matches!(told, Some(Err(ReadError::Forked))));
        let told = std::iter::from_fn(|| consumer.next_timeout(Duration::from_secs(50))).last();
        assert!(matches!(told, Some(Err(ReadError::Forked))));
        assert!(matches!(consumer.commit(position), Err(ConsumerError::Forked)));
        assert!(matches!(consumer.flush(), Err(ConsumerError::Forked)));
        assert!(matches!(queue.take_timeout(Duration::ZERO), Some(Err(ReadError::Forked))));
        let told = taking.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(told, Poll::Ready(Some(Err(ReadError::Forked)))));
        assert!(matches!(done.done(), Err(QueueError::Forked)));
        assert!(matches!(kept.extend(Duration::ZERO), Err(QueueError::Forked)));
        assert!(matches!(queue.requeue(position), Err(QueueError::Forked)));
        assert!(matches!(queue.flush(), Err(QueueError::Forked)));
        assert!(queue.rejected().next().is_none() && queue.lag() == Lag::default());
        drop(dropped);
        assert!(tally.get(b"key").is_none() && tally.durable(b"key").is_none());
        assert!(tally.totals().next().is_none());
        assert!(matches!(tally.flush(), Err(TallyError::Forked)));
        assert!(matches!(tally.history(b"key", ..), Err(TallyError::Forked)));
        assert!(matches!(tally.add(b"key", 1).wait(), Err(UpdateError::Forked)));
        let last = commits.pop().unwrap().wait();
        assert!(matches!(last, Ok(_) | Err(AppendError::Forked)));
        let mut polled = pin!(commits.pop().unwrap());
        let told = polled.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(told.is_ready());
        drop((follow, consumer, tally));
        assert!(works(&own));
        true
    }));
    assert!(works(&log));
    log.close().unwrap();
}

/// What was begun on a thread of its own before the fork: that thread is the parent's, and whatever it has locked.
#[test]
fn what_goes_on_in_the_background_is_the_parents() {
    if !is_alone("forks::what_goes_on_in_the_background_is_the_parents") {
        return;
    }
    let (place, other) = (directory(), directory());
    let log = open(&place);
    let position = log.append(b"x").wait().unwrap();
    let shard = log.shard(position.shard());
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..10 {
        let mut opening = Some(Log::open_async(other.path()));
        let mut truncation = Some(shard.truncate_before_async(position.lsn()));
        assert!(forked(|| {
            let mut context = Context::from_waker(Waker::noop());
            let told = Pin::new(opening.as_mut().unwrap()).poll(&mut context);
            assert!(matches!(told, Poll::Ready(Err(OpenError::Forked))), "{told:?}");
            let told = Pin::new(truncation.as_mut().unwrap()).poll(&mut context);
            assert!(matches!(told, Poll::Ready(Err(TruncateError::Forked))), "{told:?}");
            let mut begun = shard.truncate_before_async(position.lsn());
            assert!(matches!(
                Pin::new(&mut begun).poll(&mut context),
                Poll::Ready(Err(TruncateError::Forked))
            ));
            drop((opening.take(), truncation.take()));
            true
        }));
        let (mut opening, mut truncation) = (opening.unwrap(), truncation.unwrap());
        while Pin::new(&mut truncation).poll(&mut context).is_pending() {
            std::thread::yield_now();
        }
        let opened = loop {
            match Pin::new(&mut opening).poll(&mut context) {
                Poll::Ready(opened) => break opened.unwrap(),
                Poll::Pending => std::thread::yield_now(),
            }
        };
        let mut close = opened.close_async();
        assert!(forked(|| {
            let told = Pin::new(&mut close).poll(&mut Context::from_waker(Waker::noop()));
            matches!(told, Poll::Ready(Err(CloseError::Forked)))
        }));
        while Pin::new(&mut close).poll(&mut context).is_pending() {
            std::thread::yield_now();
        }
    }
    assert!(works(&log));
}

type Hook = Box<dyn FnOnce()>;

thread_local!(static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) });

/// What is called in the middle of something, once.
fn hook() {
    if let Some(hook) = HOOK.take() {
        hook();
    }
}

#[derive(Debug)]
struct Hooked;

impl Fold for Hooked {
    const NAME: &'static str = "tests.hooked";
    type Change = i64;
    type Value = i64;
    type Total = i64;

    fn lift(change: i64, _: u64) -> i64 {
        change
    }

    fn merge(total: &mut i64, change: &i64) {
        hook();
        *total += change;
    }

    fn total(value: &i64) -> Option<i64> {
        Some(*value)
    }

    fn encode(value: &i64, into: &mut Vec<u8>) {
        into.extend_from_slice(&value.to_le_bytes());
    }

    fn decode(bytes: &[u8]) -> Option<i64> {
        bytes.try_into().ok().map(i64::from_le_bytes)
    }
}

/// A fork in the middle of an update: a lock is held, and nobody gives it back in the child.
#[test]
fn a_child_takes_no_lock_of_a_tally() {
    if !is_alone("forks::a_child_takes_no_lock_of_a_tally") {
        return;
    }
    let place = directory();
    let log = open(&place);
    let tally = log.tally_of::<Hooked>("likes").unwrap();
    tally.update(b"key", 1).accepted().unwrap();
    let inner = tally.clone();
    let holds = std::rc::Rc::new(std::cell::Cell::new(None));
    let told = holds.clone();
    HOOK.set(Some(Box::new(move || {
        told.set(Some(forked(|| {
            assert!(inner.get(b"key").is_none() && inner.durable(b"key").is_none());
            assert!(inner.totals().next().is_none());
            assert!(matches!(inner.flush(), Err(TallyError::Forked)));
            assert!(matches!(inner.update(b"key", 1).accepted(), Err(UpdateError::Forked)));
            true
        })));
    })));
    // Until one finds the key there, and adds to it.
    while holds.get().is_none() {
        tally.update(b"key", 1).accepted().unwrap();
    }
    assert_eq!(holds.get(), Some(true));
    assert!(tally.get(b"key") >= Some(2));
}

/// A waker that calls the hook when it is cloned.
fn hooked_waker() -> Waker {
    const TABLE: RawWakerVTable = RawWakerVTable::new(
        |_| {
            hook();
            RawWaker::new(std::ptr::null(), &TABLE)
        },
        |_| {},
        |_| {},
        |_| {},
    );
    // SAFETY: nothing is pointed to, and all functions may be called at any time.
    unsafe { Waker::new(std::ptr::null(), &TABLE) }
}

/// Polls `first`, then `second` with a waker whose clone forks, and has the child drop `first`.
fn dropped_in_a_fork<T: Unpin + 'static>(
    mut first: T,
    mut second: T,
    poll: impl Fn(Pin<&mut T>, &mut Context<'_>) -> bool,
) {
    assert!(!poll(Pin::new(&mut first), &mut Context::from_waker(Waker::noop())), "it waits");
    let holds = std::rc::Rc::new(std::cell::Cell::new(None));
    // Not dropped in the parent meanwhile, where it would wait for the lock, and rightly.
    let first = std::rc::Rc::new(std::cell::Cell::new(Some(first)));
    let (told, dropped) = (holds.clone(), first.clone());
    HOOK.set(Some(Box::new(move || {
        told.set(Some(forked(|| {
            drop(dropped.take());
            true
        })));
    })));
    assert!(!poll(Pin::new(&mut second), &mut Context::from_waker(&hooked_waker())), "it waits");
    assert_eq!(holds.get(), Some(true));
}

/// A fork in the middle of a registration.
#[test]
fn a_childs_drop_takes_no_lock() {
    if !is_alone("forks::a_childs_drop_takes_no_lock") {
        return;
    }
    let place = directory();
    let log = open(&place);
    let follow = || log.shard(ShardId(0)).follow(log.shard(ShardId(0)).durable_lsn()).unwrap();
    dropped_in_a_fork(follow(), follow(), |follow, context| follow.poll_next(context).is_ready());
    let options = sawmill::tally::TallyOptions::new().interval(Duration::MAX);
    let tally = log.tally_with::<sawmill::tally::Sum>("likes", &options).unwrap();
    let update = || tally.add(b"key", 1).into_owned();
    dropped_in_a_fork(update(), update(), |update, context| update.poll(context).is_ready());
    log.close().unwrap();
}
