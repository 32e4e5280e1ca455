//! An append allocates nothing: not the first after open, not at a full block, not while rotating, not
//! queued, not refused, not failing. Counted per thread, by a global allocator of this test's own.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use sawmill::{Durability, Log, Options, Priority, Write};

struct Counting;

thread_local!(static COUNT: Cell<u64> = const { Cell::new(0) });

// SAFETY: every call is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = COUNT.try_with(|count| count.set(count.get() + 1));
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(run: impl FnOnce()) -> u64 {
    let before = COUNT.with(Cell::get);
    run();
    COUNT.with(Cell::get) - before
}

fn open(dir: &std::path::Path) -> Log {
    Options::new()
        .shards(1)
        .block_bytes(16 << 10)
        .segment_bytes(1 << 20)
        .memory_bytes(1 << 20)
        .open(dir)
        .unwrap()
}

#[test]
fn an_append_allocates_nothing() {
    assert!(allocations(|| drop(vec![1u8; 10])) > 0, "the allocator counts");
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let log = open(dir.path());
    let payload = [7u8; 900];
    let payload = &payload;
    let write = |durability| Write::new(payload).key(b"key").durability(durability);
    let first = allocations(|| {
        log.append(write(Durability::Synced)).wait().unwrap();
    });
    assert_eq!(first, 0, "the first one after open");
    for durability in [Durability::Buffered, Durability::Written, Durability::Synced] {
        // Over many blocks and several segments.
        let rotating = allocations(|| {
            for _ in 0..5_000 {
                drop(log.append(write(durability)).admitted().wait().unwrap());
            }
            log.append(write(durability)).wait().unwrap();
        });
        assert_eq!(rotating, 0, "{durability:?}");
    }
    let posted = allocations(|| (0..5_000).for_each(|_| assert!(log.post(payload).is_ok())));
    assert_eq!(posted, 0, "without a handle");
    // In parts, and in a batch whose memory is used again: its positions are all that is allocated.
    let (head, body) = payload.split_at(33);
    let parts = [std::io::IoSlice::new(head), std::io::IoSlice::new(body)];
    let parted = allocations(|| {
        for _ in 0..5_000 {
            let write = Write::vectored(&parts).durability(Durability::Buffered);
            drop(log.append(write).admitted().wait().unwrap());
        }
    });
    assert_eq!(parted, 0, "payloads in parts");
    let mut batch = sawmill::write::BatchBuilder::new();
    (0..10).for_each(|_| batch.push(head));
    let built = allocations(|| {
        for _ in 0..100 {
            batch.clear();
            (0..10).for_each(|_| batch.push(head));
            drop(log.append_built(b"key", &batch).admitted().wait().unwrap());
        }
    });
    assert!(built <= 100, "{built} allocations of 100 batches");
    let refused = allocations(|| {
        let mut refused = 0;
        for _ in 0..20_000 {
            let write = write(Durability::Buffered).priority(Priority::Low);
            refused += u32::from(log.try_append(write).is_err());
        }
        assert!(refused > 0, "the queue was never full");
    });
    assert_eq!(refused, 0, "refusals");
    batch.priority(Priority::Low);
    batch.durability(Durability::Buffered);
    let payloads = [payload; 10];
    let mut accepted = 0;
    let tried = allocations(|| {
        for index in 0..20_000 {
            let built = index % 2 == 0;
            let tried =
                if built { log.try_append_built(&batch) } else { log.try_append_batch("key", &payloads) };
            accepted += u64::from(tried.is_ok());
        }
    });
    assert!(accepted < 20_000, "the queue was never full");
    assert_eq!(tried, accepted, "of a batch that is refused, not even its positions");
    log.close().unwrap();
    let closed = allocations(|| assert!(log.append(write(Durability::Synced)).wait().is_err()));
    assert_eq!(closed, 0, "a log that is closed");
}
