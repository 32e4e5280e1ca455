//! Atomics, std's or `loom`'s when a model is checked, and a few helpers around locks and wakers.
//!
//! The atomics are for `pool/` and `shard/wait/`, where words hand something from thread to thread: those have models
//! beside them. Build with `RUSTFLAGS="--cfg sawmill_loom"` and run `cargo test --profile models --lib loom_`. The helpers
//! are for all.

#[cfg(all(test, sawmill_loom))]
pub(crate) use loom::sync::Arc as ModelArc;
#[cfg(sawmill_loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};
#[cfg(not(sawmill_loom))]
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Stands between a handshake's write of one word and its look at another, both sequentially
/// consistent, which is all that the language asks for. Loom does not model the one order of such
/// accesses and needs a fence; elsewhere this is nothing.
#[inline]
pub(crate) fn handshake() {
    #[cfg(sawmill_loom)]
    loom::sync::atomic::fence(Ordering::SeqCst);
}

/// Lets others go on for whom one waits in a loop.
pub(crate) fn pause() {
    #[cfg(sawmill_loom)]
    loom::thread::yield_now();
    #[cfg(not(sawmill_loom))]
    std::thread::yield_now();
}

/// Keeps what different threads write on lines of their own (two, since lines are fetched in pairs).
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct CacheLine<T>(pub T);

/// A small number of this thread, so that threads spread over shards and over reference counts, and
/// each stays where it is.
#[inline]
pub(crate) fn thread_number() -> u32 {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    thread_local!(static OWN: u32 = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    // While a thread ends its own number may be gone; any will do then.
    OWN.try_with(|own| *own).unwrap_or(0)
}

/// Locks, taking over from a thread that panicked: the data behind each of our locks is valid at
/// every step, and a panic in user code (a waker) must not spread to other callers.
pub(crate) fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Wakes tasks. A user's waker that panics ends here and harms nobody else.
pub(crate) fn wake(wakers: impl IntoIterator<Item = std::task::Waker>) {
    for waker in wakers {
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| waker.wake()));
    }
}
