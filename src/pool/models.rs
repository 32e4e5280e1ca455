//! Models of the reservation: all interleavings of two producers and whoever seals.

use std::sync::Arc;

use super::*;
use crate::sync::{AtomicU32, Ordering};

/// Can a block be seen complete while a copy in it is unfinished?
#[test]
fn loom_no_block_is_complete_before_its_copies() {
    loom::model(|| {
        let pool = Arc::new(Pool::new(4096, 2, 0).unwrap());
        let copied = Arc::new([AtomicU32::new(0), AtomicU32::new(0)]);
        assert!(pool.open(&place(0)));
        let producers: Vec<_> = (0..2)
            .map(|which| {
                let (pool, copied) = (pool.clone(), copied.clone());
                loom::thread::spawn(move || {
                    if let Claim::Taken(reserved) = pool.claim(64) {
                        copied[which].store(1, Ordering::Relaxed);
                        reserved.finish(1, Urgency::Background);
                        return 1;
                    }
                    0
                })
            })
            .collect();
        pool.close(Sequence(1));
        if let Some(complete) = pool.complete(Sequence(1)) {
            let seen: u32 = copied.iter().map(|word| word.load(Ordering::Relaxed)).sum();
            assert!(seen >= complete.records, "sealed {} with {seen} copied", complete.records);
            assert_eq!(complete.length, 88 + 64 * complete.records);
        }
        let taken: u32 = producers.into_iter().map(|thread| thread.join().unwrap()).sum();
        pool.close(Sequence(1));
        if taken > 0 {
            assert_eq!(pool.complete(Sequence(1)).unwrap().records, taken);
        }
    });
}

/// Does exactly one of those who finish a closed block learn that it is complete?
#[test]
fn loom_somebody_learns_that_the_block_is_complete() {
    loom::model(|| {
        let pool = Arc::new(Pool::new(4096, 2, 0).unwrap());
        assert!(pool.open(&place(0)));
        let Claim::Taken(own) = pool.claim(64) else { unreachable!() };
        let other = {
            let pool = pool.clone();
            loom::thread::spawn(move || {
                let closed = pool.close(Sequence(1));
                closed && pool.complete(Sequence(1)).is_some()
            })
        };
        let learned_by_producer = own.finish(1, Urgency::Synced);
        let learned_by_closer = other.join().unwrap();
        assert!(learned_by_producer || learned_by_closer, "a complete block that nobody knows of");
    });
}

/// Does whoever holds the block see all that was reserved before, copied, and nothing come in between?
#[test]
fn loom_who_holds_the_block_sees_all_and_reserves_behind_it() {
    loom::model(|| {
        let pool = Arc::new(Pool::new(4096, 2, 0).unwrap());
        let copied = Arc::new(AtomicU32::new(0));
        assert!(pool.open(&place(0)));
        let producer = {
            let (pool, copied) = (pool.clone(), copied.clone());
            loom::thread::spawn(move || {
                let Claim::Taken(reserved) = pool.claim(64) else { return None };
                copied.store(1, Ordering::Relaxed);
                let lsn = reserved.lsn();
                reserved.finish(1, Urgency::Background);
                Some(lsn)
            })
        };
        let closer = {
            let pool = pool.clone();
            loom::thread::spawn(move || pool.close(Sequence(1)))
        };
        let held = pool.hold();
        let seen = match pool.peek(held.last(), 0) {
            Peeked::Records { bytes, .. } => Some(bytes.len()),
            Peeked::Unfinished => None,
            Peeked::Gone => unreachable!("its memory is its own"),
        };
        if seen == Some(64) {
            assert_eq!(copied.load(Ordering::Relaxed), 1, "a record is seen that is not copied");
        }
        let mut closed = false;
        let own = held.claim(64, &mut closed).map(|own| {
            let lsn = own.lsn();
            own.finish(1, Urgency::Background);
            lsn
        });
        let other = producer.join().unwrap();
        let was_closed = closer.join().unwrap();
        assert!(own.is_some() || was_closed, "there is room, and nobody has closed the block");
        if let (Some(own), Some(seen)) = (own, seen) {
            assert_eq!(own.0, 88 + seen as u64, "something came between");
        }
        let taken = own.iter().chain(&other).count() as u32;
        pool.close(Sequence(1));
        if taken > 0 {
            assert_eq!(pool.complete(Sequence(1)).unwrap().records, taken);
        }
    });
}

/// Does nothing that may not be reserved any more come after the close that followed?
#[test]
fn loom_what_is_forbidden_before_the_close_is_not_reserved_after_it() {
    loom::model(|| {
        let pool = Arc::new(Pool::new(4096, 2, 0).unwrap());
        let turn = Arc::new(AtomicU32::new(0));
        assert!(pool.open(&place(0)));
        let producer = {
            let (pool, turn) = (pool.clone(), turn.clone());
            loom::thread::spawn(move || match pool.claim_if(64, || turn.load(Ordering::Acquire) == 0) {
                Claim::Taken(reserved) => {
                    let lsn = reserved.lsn();
                    reserved.finish(1, Urgency::Background);
                    Some(lsn)
                }
                Claim::Full(_) | Claim::Closed | Claim::Stale => None,
            })
        };
        turn.store(1, Ordering::SeqCst);
        pool.close_any();
        let end = pool.last().end();
        assert!(pool.open(&place(4096)));
        if let Some(lsn) = producer.join().unwrap() {
            assert!(lsn < end, "{lsn} was reserved after the end was noted, {end}");
        }
    });
}
