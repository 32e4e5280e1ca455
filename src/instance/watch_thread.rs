//! The thread that watches the device. It does no I/O and takes no lock under which anybody does: it looks at
//! published words, so that a device which holds up everybody else is told of. Operations of the shards publish
//! themselves (`Engine::publish_oldest`), and so do blocking calls ([`Calls`]).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::watch_gaps::Presence;
use crate::device::{Calls, Device};
use crate::notice::Notices;
use crate::options::{OnStuck, Stuck, Watch};
use crate::shard::Engine;

/// A healthy device answers within milliseconds, a busy network volume within a second.
const STUCK_AFTER: Duration = Duration::from_secs(10);

/// How often it is looked for what nobody asked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What the thread that watches needs.
pub(crate) struct Watcher {
    engines: Vec<Arc<Engine>>,
    /// Shards whose device was told of as stuck, and has not answered since.
    stuck: Vec<bool>,
    watch: Option<Watch>,
    /// Whose clock tells how long something has been out.
    device: Arc<dyn Device>,
    presence: Presence,
    /// Calls on the log's own files, and the device on which these lie.
    calls: Arc<Calls>,
    home: u64,
    /// The same of that device, where no shard lies on it.
    home_stuck: bool,
    notices: Arc<Notices>,
}

impl Watcher {
    pub(crate) fn new(
        engines: &[Arc<Engine>],
        watch: Option<Watch>,
        device: &Arc<dyn Device>,
        calls: &Arc<Calls>,
        home: u64,
        notices: &Arc<Notices>,
    ) -> Watcher {
        Watcher {
            engines: engines.to_vec(),
            stuck: vec![false; engines.len()],
            watch,
            device: device.clone(),
            presence: Presence::new(device.now()),
            calls: calls.clone(),
            home,
            home_stuck: false,
            notices: notices.clone(),
        }
    }

    /// Until `open` is given up.
    pub(crate) fn run(&mut self, open: &Receiver<()>) {
        crate::sys::block_signals();
        if catch_unwind(AssertUnwindSafe(|| self.watch(open))).is_err() {
            // As in any thread of ours: nobody relies on one that is gone.
            self.engines.iter().for_each(|engine| engine.stop_by("the watch over the device"));
        }
    }

    fn watch(&mut self, open: &Receiver<()>) {
        let every = self.watch.as_ref().map_or(LOOK_EVERY, Watch::every);
        let mut due = Instant::now() + LOOK_EVERY;
        self.presence = Presence::new(self.device.now());
        while open.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
            self.look(every);
            self.ask();
            if Instant::now() >= due {
                self.tell();
                due = Instant::now() + LOOK_EVERY;
            }
            self.presence.stay(self.device.now());
        }
    }

    /// Once for all that is judged by it: what comes between this and a judgement, such as a stop of the process,
    /// makes nothing older.
    fn look(&mut self, every: Duration) {
        self.presence.look(self.device.now(), every);
    }

    /// For how long something of the shard, or of the log's own files on the same device, has been out while this
    /// thread was there to see it.
    fn age(&self, engine: &Engine) -> Option<Duration> {
        let home = self.calls.oldest_since().filter(|_| engine.device_number() == self.home);
        let since = engine.oldest_since().into_iter().chain(home).min();
        since.map(|since| self.presence.seen(since))
    }

    /// Asks the application what is to be done.
    fn ask(&self) {
        let Some(watch) = &self.watch else { return };
        for engine in self.engines.iter().filter(|engine| engine.failure().is_none()) {
            let Some(age) = self.age(engine).filter(|age| *age >= watch.after) else { continue };
            let stuck = Stuck { shard: engine.id, age };
            let act = catch_unwind(AssertUnwindSafe(|| (watch.act)(stuck)));
            // While it was asked the device may have answered.
            let is_stuck = || self.age(engine).is_some_and(|age| age >= watch.after);
            if act.unwrap_or_default() == OnStuck::Fail && is_stuck() {
                crate::sync::wake(engine.give_up(age));
            }
        }
    }

    /// Tells of it in a line of the log, once.
    fn tell(&mut self) {
        for index in 0..self.engines.len() {
            let engine = &self.engines[index];
            // A handle that was forgotten (`mem::forget`) took the duty to announce its record along.
            engine.announce();
            let age = self.age(engine).filter(|age| *age >= STUCK_AFTER);
            if let Some(age) = age.filter(|_| !self.stuck[index]) {
                self.notices.warn(format!("shard {}: the device has not answered for {age:?}", engine.id));
            }
            self.stuck[index] = age.is_some();
        }
        self.tell_of_home();
    }

    /// The log's own files may lie where no shard does, and a consumer's flush or a close wait there all the same.
    fn tell_of_home(&mut self) {
        if self.engines.iter().any(|engine| engine.device_number() == self.home) {
            return; // Told as one of its shards.
        }
        let age = self.calls.oldest_since().map(|since| self.presence.seen(since));
        let age = age.filter(|age| *age >= STUCK_AFTER);
        if let Some(age) = age.filter(|_| !self.home_stuck) {
            self.notices.warn(format!("the log's own files: the device has not answered for {age:?}"));
        }
        self.home_stuck = age.is_some();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::simulation::Simulated;
    use crate::{Options, ShardId};

    /// The machine is paused while a call is out: a healthy device answers once it goes on, and is given the time.
    #[test]
    fn a_pause_is_no_device_that_does_not_answer() {
        let machine = Simulated::seed(2);
        let log = Options::new().shards(1).device(&machine).open("/log").unwrap();
        let (device, engine) = (machine.device(), log.engine_of(ShardId(0)).clone());
        let (calls, notices) = (Arc::new(Calls::new(&device)), Arc::new(Notices::default()));
        let asked = Arc::new(AtomicUsize::new(0));
        let (after, told) = (Duration::from_secs(8), asked.clone());
        let act = Arc::new(move |_| {
            told.fetch_add(1, Ordering::SeqCst);
            OnStuck::Fail
        });
        let watch = Watch { after, act };
        let (every, home) = (watch.every(), engine.device_number());
        let mut watcher =
            Watcher::new(std::slice::from_ref(&engine), Some(watch), &device, &calls, home, &notices);
        let mut look_after = |pause: Duration| {
            device.pause(pause);
            watcher.look(every);
            watcher.ask();
            watcher.tell();
        };
        let out = calls.begin();
        look_after(every);
        look_after(Duration::from_secs(3600));
        assert_eq!(asked.load(Ordering::SeqCst), 0, "at the first look after it");
        look_after(every);
        drop(out);
        look_after(every);
        assert_eq!(asked.load(Ordering::SeqCst), 0);
        assert!(engine.failure().is_none() && notices.lines().is_empty(), "{:?}", notices.lines());
        let _out = calls.begin();
        look_after(Duration::from_secs(3600));
        (0..=after.as_secs()).for_each(|_| look_after(every));
        assert!(engine.failure().is_some(), "it has not answered while the watch was there");
    }

    /// Where no shard lies on the device of the log's own files, it is watched all the same.
    #[test]
    fn a_device_that_has_no_shard_is_told_of() {
        let machine = Simulated::seed(1);
        let log = Options::new().shards(1).device(&machine).open("/log").unwrap();
        let (device, engine) = (machine.device(), log.engine_of(ShardId(0)).clone());
        let (calls, notices) = (Arc::new(Calls::new(&device)), Arc::new(Notices::default()));
        for home in [engine.device_number(), engine.device_number() + 1] {
            let mut watcher =
                Watcher::new(std::slice::from_ref(&engine), None, &device, &calls, home, &notices);
            let before = notices.lines().len();
            let out = calls.begin();
            for _ in 0..11 {
                device.pause(LOOK_EVERY);
                watcher.look(LOOK_EVERY);
            }
            watcher.tell();
            watcher.tell();
            assert_eq!(notices.lines().len(), before + 1, "{:?}", notices.lines());
            drop(out);
            watcher.tell();
        }
    }
}
