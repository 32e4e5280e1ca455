//! When runs of the key index are merged, and which. How: `index/merge.rs`.

use std::io;

use super::build_runs::Work;
use crate::index::{FilePages, RunFile, can_merge, merge};
use crate::shard::Engine;

/// So many runs of the first size become one.
const RUNS_MERGED: usize = 8;

impl Engine {
    /// Makes one of the last runs where these are many and small.
    pub(super) fn merge_runs(&self, work: &mut Work) -> io::Result<()> {
        let runs = self.indexing.runs();
        let small = self.indexing.config.run_bytes.max(u64::from(self.block_bytes()));
        let is_small = |run: &&RunFile| run.run.header.end - run.run.header.start <= small;
        let last: Vec<&RunFile> = runs.iter().rev().take(RUNS_MERGED).filter(is_small).collect();
        let inputs: Vec<&RunFile> = last.into_iter().rev().collect();
        if inputs.len() < RUNS_MERGED || !can_merge(inputs.iter().map(|run| run.run.as_ref())) {
            return Ok(());
        }
        let nonce = self.index_nonce()?;
        let pages: Vec<_> = inputs.iter().map(|run| FilePages::new(&work.directory, run, None)).collect();
        let parts: Vec<_> = inputs.iter().map(|run| run.run.as_ref()).zip(&pages).collect();
        let merged = work.write_run(&runs, |_, sink| merge(&parts, sink, nonce));
        let is_input = |run: &RunFile| inputs.iter().any(|input| input.number == run.number);
        let gone = match merged {
            Ok(merged) => self.indexing.change(&self.view(), |runs| {
                runs.retain(|run| !is_input(run));
                runs.push(merged);
            }),
            // One of them is not what it should be: all are built anew.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                self.indexing.change(&self.view(), |runs| runs.retain(|run| !is_input(run)))
            }
            Err(error) => return Err(error),
        };
        gone.iter().for_each(|run| run.remove(work.directory.as_ref()));
        Ok(())
    }
}
