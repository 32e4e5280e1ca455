//! What turns shards and writes their blocks: io_uring, plain system calls where there is no ring and none was asked
//! for, tasks of the application, or the simulated machine.

use std::sync::Arc;

use super::build::Builder;
use crate::device::{Queue, QueueKind, QueueSetup, Wake};
use crate::error::{OpenError, error_chain};
use crate::options::Backend;
use crate::segment::ShardStore;

/// A queue, unless the shard's driver brings its own, and what wakes whoever waits for it.
type Turned = (Option<Box<dyn Queue + Send>>, Arc<dyn Wake>);

impl Builder<'_> {
    /// What the engines go on, once they are made: its name.
    pub(super) fn backend(&self) -> &'static str {
        match self.kind {
            _ if !self.device.threaded() => "simulated",
            #[cfg(feature = "tokio-uring")]
            _ if self.config.drive.is_some() => "tokio-uring",
            Some(QueueKind::Uring) => "uring",
            _ => "syscall",
        }
    }

    /// The queue of the wanted kind, or what there is instead.
    pub(super) fn queue(&mut self, store: &ShardStore, mut setup: QueueSetup) -> Result<Turned, OpenError> {
        #[cfg(feature = "tokio-uring")]
        if self.config.drive.is_some() && self.device.threaded() {
            let wake = Arc::<crate::device::TaskWake>::default();
            self.driven.push(wake.clone());
            return Ok((None, wake));
        }
        let directory = store.directory();
        if self.config.backend != Backend::Syscall && self.kind != Some(QueueKind::Syscall) {
            match directory.queue(&setup) {
                Ok((queue, wake)) => {
                    self.kind = Some(QueueKind::Uring);
                    return Ok((Some(queue), wake));
                }
                Err(error) if self.config.backend == Backend::Uring => {
                    return Err(OpenError::Unsupported {
                        what: "io_uring",
                        reason: format!("no ring can be made for {}", directory.path().display()),
                        source: Some(Arc::new(error)),
                    });
                }
                Err(error) => self.notices.warn(format!(
                    "io_uring is not available ({}): plain system calls instead",
                    error_chain(&error)
                )),
            }
        }
        self.kind = Some(QueueKind::Syscall);
        setup.kind = QueueKind::Syscall;
        let (queue, wake) =
            directory.queue(&setup).map_err(OpenError::at("making a queue", directory.path()))?;
        Ok((Some(queue), wake))
    }
}
