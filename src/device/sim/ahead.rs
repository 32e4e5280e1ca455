//! Reads ahead that land at either end of the time that they may take.

use std::io;

use super::SimMachine;
use crate::device::{AheadRead, ReadAhead};
use crate::pool::AlignedBuffer;

#[derive(Debug)]
pub(super) struct SimAhead {
    machine: SimMachine,
    /// With its outcome, if it has landed.
    read: Option<(AheadRead, Option<io::Result<usize>>)>,
}

impl SimAhead {
    pub(super) fn new(machine: &SimMachine) -> SimAhead {
        SimAhead { machine: machine.clone(), read: None }
    }
}

fn land(read: &mut AheadRead) -> io::Result<usize> {
    // A single read of the kernel's, which may come back short.
    read.file.read_some(&mut read.buffer[read.into.clone()], read.offset)
}

impl ReadAhead for SimAhead {
    fn begin(&mut self, mut read: AheadRead) -> io::Result<()> {
        assert!(self.read.is_none(), "one read at a time");
        // What the buffer held is no excuse for believing it.
        read.buffer[read.into.clone()].fill(0xee);
        let at_once = self.machine.world().random.below(2) == 0;
        let outcome = at_once.then(|| land(&mut read));
        self.read = Some((read, outcome));
        Ok(())
    }

    fn finish(&mut self) -> Option<(AlignedBuffer, io::Result<usize>)> {
        let (mut read, outcome) = self.read.take()?;
        let outcome = outcome.unwrap_or_else(|| land(&mut read));
        Some((read.buffer, outcome))
    }
}
