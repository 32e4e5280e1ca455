#![allow(unsafe_code)]

use std::sync::Arc;

use super::*;
use crate::format::BLOCK_HEADER_BYTES;
use crate::position::Lsn;

/// The word has the bits of a sequence below this one.
const WRAPS: u64 = 1 << 39;

fn take(pool: &Pool, bytes: u32) -> Option<Reserved<'_>> {
    match pool.claim(bytes) {
        Claim::Taken(reserved) => Some(reserved),
        Claim::Full(_) | Claim::Closed | Claim::Stale => None,
    }
}

#[test]
fn a_block_is_complete_when_closed_and_copied() {
    let pool = Arc::new(Pool::new(4096, 2, 0).unwrap());
    assert!(take(&pool, 8).is_none(), "no block is open yet");
    assert!(pool.open(&place(0)));
    let first = take(&pool, 1000).unwrap();
    let second = take(&pool, 3000).unwrap();
    assert!(take(&pool, 16).is_none(), "the block is full and closes");
    assert!(pool.complete(Sequence(1)).is_none());
    assert!(!second.finish(1, Urgency::Background));
    assert!(first.finish(1, Urgency::Synced));
    let complete = pool.complete(Sequence(1)).unwrap();
    assert_eq!((complete.length, complete.records, complete.urgency), (88 + 4000, 2, Urgency::Synced));
}

#[test]
fn blocks_in_use_are_not_reused() {
    let pool = Arc::new(Pool::new(4096, 2, 0).unwrap());
    for sequence in 1..=2 {
        assert!(pool.open(&place(sequence * 4096)));
        take(&pool, 8).unwrap().finish(1, Urgency::Background);
        assert!(pool.close(Sequence(sequence)));
    }
    assert_eq!(pool.in_use(), 2);
    assert!(!pool.open(&place(3 * 4096)));
    let sealed = pool.seal(Sequence(1), &[7; BLOCK_HEADER_BYTES as usize]);
    assert_eq!(sealed.len(), 4096);
    assert_eq!(sealed[4095], 0);
    drop(sealed);
    pool.release(Sequence(1));
    assert!(pool.open(&place(3 * 4096)));
}

#[test]
#[should_panic(expected = "reused after its completion only")]
fn reusing_a_block_that_is_still_out_is_caught() {
    let pool = Arc::new(Pool::new(4096, 2, 0).unwrap());
    for sequence in 1..=2 {
        assert!(pool.open(&place(sequence * 4096)));
        take(&pool, 8).unwrap().finish(1, Urgency::Background);
        assert!(pool.close(Sequence(sequence)));
    }
    let _out = pool.seal(Sequence(1), &[0; BLOCK_HEADER_BYTES as usize]);
    pool.release(Sequence(1));
    pool.open(&place(3 * 4096));
}

#[test]
fn a_sealed_block_is_recalled_until_it_is_nearly_opened_again() {
    let pool = Arc::new(Pool::new(4096, 4, 0).unwrap());
    let mut sealed = Vec::new();
    for sequence in 1..=6u64 {
        assert!(pool.open(&place(sequence * 4096)));
        assert!(pool.recall(Lsn(sequence * 4096)).is_none(), "it is not sealed yet");
        take(&pool, 8).unwrap().finish(1, Urgency::Background);
        assert!(pool.close(Sequence(sequence)));
        sealed.push(pool.seal(Sequence(sequence), &[sequence as u8; BLOCK_HEADER_BYTES as usize]));
        let recalled = pool.recall(Lsn(sequence * 4096)).unwrap();
        assert_eq!((recalled.len(), recalled[0]), (4096, sequence as u8));
        drop((recalled, sealed.remove(0)));
        pool.release(Sequence(sequence));
    }
    let found = (0..8).map(|index| pool.recall(Lsn(index * 4096)).map(|block| block[0]));
    assert_eq!(found.collect::<Vec<_>>(), [None, None, None, None, None, Some(5), Some(6), None]);
}

#[test]
fn threads_never_share_a_range() {
    let pool = Arc::new(Pool::new(1 << 16, 4, WRAPS - 2_000).unwrap());
    // Within the test the bits of the sequence begin again at 0.
    let opener = std::sync::Mutex::new(WRAPS - 2_000);
    let total = std::sync::atomic::AtomicU32::new(0);
    std::thread::scope(|scope| {
        for mark in 1..=4u8 {
            let (pool, opener, total) = (&pool, &opener, &total);
            scope.spawn(move || {
                for _ in 0..10_000 {
                    loop {
                        if let Some(mut reserved) = take(pool, 64) {
                            assert!(reserved.bytes_mut().iter().all(|&byte| byte == 0));
                            reserved.bytes_mut().fill(mark);
                            assert!(reserved.bytes_mut().iter().all(|&byte| byte == mark));
                            reserved.finish(1, Urgency::Background);
                            total.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                            break;
                        }
                        let mut sealed = opener.lock().unwrap();
                        if !pool.is_closed() {
                            continue;
                        }
                        // Seal, wipe and give back whatever is complete, then open the next.
                        while let Some(complete) =
                            pool.complete(Sequence(*sealed + 1)).filter(|_| pool.in_use() > 0)
                        {
                            assert_eq!(complete.length, 88 + complete.records * 64);
                            *sealed += 1;
                            drop(pool.seal(Sequence(*sealed), &[0; BLOCK_HEADER_BYTES as usize]));
                            let slot = (*sealed % 4) as usize;
                            // SAFETY: sealed and not reopened: nobody else touches it.
                            unsafe { pool.region().slice_mut(slot << 16, 1 << 16) }.fill(0);
                            pool.release(Sequence(*sealed));
                        }
                        let place = BlockPlace { capacity: 1 << 16, ..place(*sealed << 8) };
                        if !pool.open(&place) {
                            std::thread::yield_now();
                        }
                    }
                }
            });
        }
    });
    assert_eq!(total.into_inner(), 40_000);
}

#[test]
fn blocks_never_run_out_of_numbers() {
    // Of slots that are no power of two, which of them a block lies in shows whether its number is the whole one.
    for (before, blocks) in [(WRAPS - 5, 3), (5 * WRAPS - 2, 4), (WRAPS - 1, 7), ((1 << 62) - 3, 5)] {
        let pool = Arc::new(Pool::new(4096, blocks, before).unwrap());
        assert_eq!((pool.in_use(), pool.last().length), (0, 0));
        for sequence in before + 1..before + 20 {
            let at = (sequence - before) * 4096;
            assert!(pool.open(&place(at)));
            let reserved = take(&pool, 8).unwrap();
            assert_eq!((reserved.sequence(), reserved.lsn()), (Sequence(sequence), Lsn(at + 88)));
            reserved.finish(1, Urgency::Synced);
            assert_eq!(
                (pool.pending().sequence, pool.pending().bytes, pool.open_records()),
                (Sequence(sequence), 8, Some(1))
            );
            assert!(!pool.close(Sequence(sequence - 1)) && pool.close(Sequence(sequence)));
            assert_eq!((pool.last().sequence, pool.close_any()), (Sequence(sequence), Sequence(sequence)));
            assert_eq!(pool.complete(Sequence(sequence)).unwrap().lsn, Lsn(at));
            if sequence > before + 1 {
                // The one before is complete, and sealed while this one is the last.
                assert_eq!(pool.in_use(), 2);
                drop(pool.seal(Sequence(sequence - 1), &[0; BLOCK_HEADER_BYTES as usize]));
                assert!(blocks < 4 || pool.recall(Lsn(at - 4096)).is_some());
                pool.release(Sequence(sequence - 1));
            }
        }
    }
}
