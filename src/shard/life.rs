//! The life of a shard: the stage that it is in, and the failure that may stop it at any of them.
//!
//! | stage | what it means | who moves it there |
//! |---|---|---|
//! | `Open` | records are accepted | it begins there |
//! | `Shut` | no block is opened any more | the close, under the opener's lock, so that nobody is about to open one |
//! | `Closing` | the last block is closed and asked for: whoever turns the shard stops once all of it is durable | the close |
//! | `Ended` | nobody turns it any more; readers that follow it come to an end | the close, when its last step is done |
//!
//! The stages follow each other and none comes back ([`Life::advance`]). A failure (promise 5) is no stage of its own:
//! a shard that has stopped is still to be closed, and one that is being closed can fail. It is told once
//! ([`Life::fail`]) by whoever meets it, and the first one stays. A shard that is open to be read only is born with
//! one.
//!
//! Two words follow from this one and are not asked for it: admission's word says that nothing is accepted, for the
//! append path, which looks at that word alone ([`Admission::shut`](crate::admission::Admission::shut)); and the holder
//! of the token is told by `Core::abandoned` that what a caller had begun completes for nobody, which is no matter of
//! anybody else's.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, MutexGuard, OnceLock};

use super::append::opener::Opener;
use crate::error::Failure;

/// In order: a later one is greater.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
enum Stage {
    Open,
    Shut,
    Closing,
    Ended,
}

/// Why it has stopped.
#[derive(Debug)]
struct Stopped {
    failure: Arc<Failure>,
    /// It was opened to be read, and has never accepted anything.
    read_only: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Life {
    /// A [`Stage`].
    stage: AtomicU8,
    stopped: OnceLock<Stopped>,
}

impl Default for Life {
    fn default() -> Life {
        Life { stage: AtomicU8::new(Stage::Open as u8), stopped: OnceLock::new() }
    }
}

impl Life {
    /// Of a shard that is open to be read only: the failure says why.
    pub(super) fn read_only(failure: Failure) -> Life {
        let stopped = Stopped { failure: Arc::new(failure), read_only: true };
        Life { stopped: OnceLock::from(stopped), ..Life::default() }
    }

    fn advance(&self, to: Stage) {
        let before = self.stage.swap(to as u8, Ordering::SeqCst);
        assert!(before < to as u8, "a shard's life goes forward: to {to:?}, from {before}");
    }

    fn has_reached(&self, stage: Stage) -> bool {
        self.stage.load(Ordering::SeqCst) >= stage as u8
    }

    /// From here on no block is opened.
    pub(super) fn shut(&self, _openings: &MutexGuard<'_, Opener>) {
        self.advance(Stage::Shut);
    }

    /// What was accepted is asked to be durable; after that it is over.
    pub(super) fn begin_closing(&self) {
        self.advance(Stage::Closing);
    }

    /// Nobody turns it any more.
    pub(super) fn end(&self) {
        self.advance(Stage::Ended);
    }

    /// Stops it for good; true if nothing had before.
    pub(super) fn fail(&self, failure: Failure) -> bool {
        self.stopped.set(Stopped { failure: Arc::new(failure), read_only: false }).is_ok()
    }

    /// Whether no block is opened any more. Certain under the opener's lock alone.
    pub(super) fn is_shut(&self) -> bool {
        self.has_reached(Stage::Shut)
    }

    /// Whether whoever turns it stops once everything is durable.
    pub(super) fn is_closing(&self) -> bool {
        self.has_reached(Stage::Closing)
    }

    /// Whether it was closed, or has stopped.
    pub(super) fn is_over(&self) -> bool {
        self.has_failed() || self.has_reached(Stage::Ended)
    }

    pub(super) fn failure(&self) -> Option<&Arc<Failure>> {
        self.stopped.get().map(|stopped| &stopped.failure)
    }

    pub(super) fn has_failed(&self) -> bool {
        self.stopped.get().is_some()
    }

    /// The failure of a shard that is open to be read only.
    pub(super) fn read_only_failure(&self) -> Option<&Arc<Failure>> {
        self.stopped.get().filter(|stopped| stopped.read_only).map(|stopped| &stopped.failure)
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Mutex;

    use super::*;
    use crate::pool::Sequence;
    use crate::position::{Lsn, ShardId};

    fn failure(operation: &'static str) -> Failure {
        let source = io::Error::other("as a test wants it");
        Failure { shard: ShardId(0), operation, path: "/log".into(), durable: Lsn(0), source }
    }

    fn opener() -> Mutex<Opener> {
        let identity = crate::format::Identity { log_id: [0; 16], shard: 0, epoch: 1, nonce: 0 };
        Mutex::new(Opener::new(&identity, Lsn(0), Sequence(0), &[]))
    }

    /// Every stage is reached by its own step, and tells what those before it tell.
    #[test]
    fn each_stage_holds_what_the_one_before_it_did() {
        let (life, opener) = (Life::default(), opener());
        let told = || [life.is_shut(), life.is_closing(), life.is_over()];
        assert_eq!(told(), [false; 3]);
        life.shut(&opener.lock().unwrap());
        assert_eq!(told(), [true, false, false]);
        life.begin_closing();
        assert_eq!(told(), [true, true, false]);
        life.end();
        assert_eq!(told(), [true; 3]);
    }

    #[test]
    #[should_panic(expected = "goes forward")]
    fn none_comes_back() {
        let life = Life::default();
        life.begin_closing();
        life.shut(&opener().lock().unwrap());
    }

    #[test]
    #[should_panic(expected = "goes forward")]
    fn nor_is_any_begun_twice() {
        let life = Life::default();
        life.end();
        life.end();
    }

    /// A failure is no stage: it stops a shard at any of them, and leaves the others to come.
    #[test]
    fn the_first_failure_stays_whatever_comes_after_it() {
        let life = Life::default();
        assert!(life.fail(failure("write")) && !life.fail(failure("sync")));
        life.begin_closing();
        life.end();
        assert_eq!(life.failure().unwrap().operation, "write");
        assert!(life.is_over() && life.read_only_failure().is_none());
    }

    #[test]
    fn what_is_open_to_be_read_has_stopped_before_it_began() {
        let life = Life::read_only(failure("opening"));
        assert!(life.has_failed() && life.is_over() && !life.is_shut());
        assert!(!life.fail(failure("write")));
        assert_eq!(life.read_only_failure().unwrap().operation, "opening");
    }
}
