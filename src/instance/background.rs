//! Work that blocks, on a thread of its own, with its outcome for a task.

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker, ready};

use crate::sync::lock;
use crate::sys::Process;

/// Work on its way. It goes on whether its outcome is asked for or not.
pub(crate) struct Background<T>(Arc<Shared<T>>);

struct Shared<T> {
    /// The thread is of this process, and of no fork of it.
    process: Process,
    state: Mutex<State<T>>,
}

struct State<T> {
    outcome: Option<T>,
    waker: Option<Waker>,
    /// Nobody asks any more.
    abandoned: bool,
}

/// Why the work has no outcome of its own.
#[derive(Debug)]
pub(crate) enum Undone {
    /// There is no thread to be had: nothing was begun.
    NoThread(io::Error),
    /// A mistake of ours.
    Panicked,
}

impl Undone {
    /// As the system's error it is, or would be.
    pub(crate) fn error(self) -> io::Error {
        match self {
            Undone::NoThread(error) => error,
            Undone::Panicked => io::Error::other("panicked"),
        }
    }
}

impl<T: Send + 'static> Background<T> {
    /// Does the work on a thread of this name. What `undone` makes is its outcome where it has none.
    pub(crate) fn begin(
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
        undone: impl Fn(Undone) -> T + Clone + Send + 'static,
    ) -> Background<T> {
        let state = State { outcome: None, waker: None, abandoned: false };
        let shared = Arc::new(Shared { process: Process::current(), state: Mutex::new(state) });
        let (own, panicked) = (shared.clone(), undone.clone());
        let run = move || {
            crate::sys::block_signals();
            // What the work holds is given up with it: whoever is woken may open the log again.
            let outcome = catch_unwind(AssertUnwindSafe(work));
            own.tell(outcome.unwrap_or_else(|_| panicked(Undone::Panicked)));
        };
        if let Err(error) = std::thread::Builder::new().name(name.into()).spawn(run) {
            shared.tell(undone(Undone::NoThread(error)));
        }
        Background(shared)
    }

    /// The outcome, once; `None` in a fork of the process, where the thread is not.
    pub(crate) fn poll(&self, context: &mut Context<'_>) -> Poll<Option<T>> {
        // Whatever was locked at the fork stays locked there.
        if !self.0.process.is_current() {
            return Poll::Ready(None);
        }
        let mut waker = Some(context.waker().clone());
        let mut state = lock(&self.0.state);
        if let Some(outcome) = state.outcome.take() {
            return Poll::Ready(Some(outcome));
        }
        std::mem::swap(&mut state.waker, &mut waker);
        drop(state);
        // The one before is dropped under no lock.
        drop(waker);
        Poll::Pending
    }

    /// Nobody asks any more: gives the outcome that there is. A later one is dropped where it is made.
    pub(crate) fn abandon(&self) -> Option<T> {
        if !self.0.process.is_current() {
            return None;
        }
        let mut state = lock(&self.0.state);
        state.abandoned = true;
        state.outcome.take()
    }
}

impl<T> Shared<T> {
    fn tell(&self, outcome: T) {
        let (waker, unwanted) = {
            let mut state = lock(&self.state);
            let unwanted = if state.abandoned { Some(outcome) } else { state.outcome.replace(outcome) };
            (state.waker.take(), unwanted)
        };
        drop(unwanted);
        crate::sync::wake(waker);
    }
}

/// The same with an outcome that is told again to whoever asks again.
#[derive(Debug)]
pub(crate) enum Lasting<T> {
    OnItsWay(Background<T>),
    Told(T),
}

impl<T: Clone + Send + 'static> Lasting<T> {
    /// The outcome; what is given in a fork of the process.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>, in_a_fork: T) -> Poll<T> {
        if let Lasting::OnItsWay(work) = self {
            *self = Lasting::Told(ready!(work.poll(context)).unwrap_or(in_a_fork));
        }
        let Lasting::Told(outcome) = self else { unreachable!("it is told by now") };
        Poll::Ready(outcome.clone())
    }
}

impl<T> fmt::Debug for Background<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Background").finish_non_exhaustive()
    }
}

#[cfg(all(test, not(sawmill_loom)))]
mod tests {
    use std::sync::mpsc::{Sender, channel};
    use std::time::Duration;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    struct Tells(Mutex<Sender<()>>);

    impl std::task::Wake for Tells {
        fn wake(self: Arc<Self>) {
            let _ = lock(&self.0).send(());
        }
    }

    /// The outcome, for which it waits as a task does.
    fn awaited<T: Send + 'static>(work: &Background<T>) -> T {
        let (sender, woken) = channel();
        let waker = Waker::from(Arc::new(Tells(Mutex::new(sender))));
        loop {
            if let Poll::Ready(outcome) = work.poll(&mut Context::from_waker(&waker)) {
                return outcome.expect("it is of this process");
            }
            woken.recv_timeout(PATIENCE).expect("it is woken");
        }
    }

    fn told(undone: Undone) -> Result<String, String> {
        Err(undone.error().to_string())
    }

    #[test]
    fn work_is_done_elsewhere_and_a_panic_is_an_outcome() {
        let here = std::thread::current().id();
        let (go_on, wait) = channel();
        let work = Background::begin(
            "sawmill-test",
            move || {
                wait.recv().expect("it is told to go on");
                assert_ne!(std::thread::current().id(), here);
                Ok(std::thread::current().name().unwrap_or_default().to_owned())
            },
            told,
        );
        assert!(work.poll(&mut Context::from_waker(Waker::noop())).is_pending());
        go_on.send(()).unwrap();
        assert_eq!(awaited(&work), Ok("sawmill-test".to_owned()));
        let work = Background::begin("sawmill-test", || panic!("a mistake"), told);
        assert_eq!(awaited(&work), Err("panicked".to_owned()));
    }

    #[test]
    fn an_outcome_that_lasts_is_told_again() {
        let mut work = Lasting::OnItsWay(Background::begin("sawmill-test", || Ok("done".to_owned()), told));
        let mut context = Context::from_waker(Waker::noop());
        while work.poll(&mut context, Ok("forked".to_owned())).is_pending() {
            std::thread::yield_now();
        }
        for _ in 0..2 {
            assert_eq!(work.poll(&mut context, Ok("forked".to_owned())), Poll::Ready(Ok("done".to_owned())));
        }
    }

    /// Says when it is dropped, and where.
    struct Dropped(Sender<std::thread::ThreadId>);

    impl Drop for Dropped {
        fn drop(&mut self) {
            let _ = self.0.send(std::thread::current().id());
        }
    }

    #[test]
    fn an_outcome_that_nobody_wants_is_dropped_where_it_is_made() {
        let (sender, dropped) = channel();
        let (go_on, wait) = channel::<()>();
        let work = Background::begin(
            "sawmill-test",
            move || {
                let _ = wait.recv();
                Some(Dropped(sender))
            },
            |_| None,
        );
        assert!(work.abandon().is_none());
        go_on.send(()).unwrap();
        // The handle is still there, and holds nothing.
        assert_ne!(dropped.recv_timeout(PATIENCE).unwrap(), std::thread::current().id());
        drop(work);
    }
}
