//! Queues of a log: opened by name, and removed.

use super::Log;
use crate::error::QueueError;
use crate::queue::{self, Queue, QueueOptions};

impl Log {
    /// The queue of this name: hands out each record to one worker at a time, until it is done.
    ///
    /// A queue is a named view of the *whole* log. To append is to enqueue, and every record comes, whatever its key, those
    /// of [tallies](crate::tally) included. Use a log for each kind of job; or test [`Record::key`](crate::Record::key), and
    /// call [`done`](crate::queue::Delivery::done) for what is not this queue's.
    ///
    /// A new one begins with the first record that the log has kept. One that the log remembers goes on where it was. One
    /// that is already open is shared, and the options of the first open stay in force. Its state takes two files in the
    /// log's folder, and nothing in the log.
    ///
    /// **Retention and truncation delete records that this queue has not handed out yet**, unless its name is in
    /// [`Options::retain_for`](crate::Options::retain_for). It is then told [`ReadError::Truncated`](crate::ReadError::Truncated).
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let log = sawmill::Log::open(dir.path())?;
    /// use sawmill::queue::QueueOptions;
    /// log.append("to: you").wait()?;
    /// let queue = log.queue("mailer", QueueOptions::new().attempts(3))?;
    /// let delivery = queue.take().wait().expect("the log is open")?;
    /// assert_eq!((delivery.record().payload(), delivery.attempt()), (&b"to: you"[..], 1));
    /// delivery.done()?; // durable within about a second
    /// queue.flush()?; // or now
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`QueueError::Options`] if an option is out of its range. [`QueueError::AboveEnd`] and the like if what it has handed
    /// out is not in this log as it is now, since one of the two was restored from a backup. See [`QueueError`].
    pub fn queue(&self, name: &str, options: QueueOptions) -> Result<Queue, QueueError> {
        let opened = queue::open(name, &options, &self.inner.queues, &self.queues_place()?);
        self.inner.engines[0].tell_of_flushes();
        opened.map(Queue::new)
    }

    /// Forgets a queue and what it was told, durably; its dead letters, too. If it is open, it ends: who waits for a record
    /// gets `None`, and what is in hand can be settled no more. One that is made by this name later is new.
    ///
    /// # Errors
    /// [`QueueError::Unknown`] if there is none. See [`QueueError`].
    pub fn remove_queue(&self, name: &str) -> Result<(), QueueError> {
        let removed = queue::remove(name, &self.inner.queues, &self.queues_place()?);
        self.inner.engines[0].tell_of_flushes();
        removed
    }

    /// Where queues are, while the log is open and ours.
    fn queues_place(&self) -> Result<queue::Place<'_>, QueueError> {
        self.may_write()?;
        Ok(queue::Place {
            engines: &self.inner.engines,
            directory: self.inner.directory.as_ref(),
            device: &self.inner.device,
            calls: &self.inner.calls,
            notices: &self.inner.notices,
            retain_for: &self.inner.config.retain_for,
        })
    }
}
