//! Names that the log waits for (`Options::retain_for`): what the copies of their files ask it to keep.

use std::io;
use std::sync::Arc;

use super::resume::resume;
use crate::format::Committed;
use crate::position::Lsn;
use crate::segment::ManifestFiles;
use crate::shard::{Engine, Holder};

/// What a consumer or a queue holds of each shard; nothing, unless its name is one that the log waits for.
#[derive(Debug)]
pub(crate) struct Hold {
    holder: Holder,
    name: String,
    /// All shards, or none.
    engines: Vec<Arc<Engine>>,
}

impl Hold {
    /// For files that were found, or made.
    pub(crate) fn begin(holder: Holder, name: &str, engines: &[Arc<Engine>], retain_for: &[String]) -> Hold {
        let is_meant = retain_for.iter().any(|own| own == name);
        let engines = if is_meant { engines.to_vec() } else { Vec::new() };
        for engine in &engines {
            // What the files ask for was held when the log was opened, if they were there; and is with the next write.
            if !engine.is_held(holder, name) {
                engine.hold(holder, name, Lsn::MIN);
            }
            engine.release(Holder::Nobody, name);
        }
        Hold { holder, name: name.to_owned(), engines }
    }

    /// Writes what asks the log to keep what `asked` says. Mostly that is the older copy alone. Where the log waits for it,
    /// both are written: else it would be kept for the other one, too, until something is written again.
    pub(crate) fn write(
        &self,
        files: &mut ManifestFiles,
        body: &[u8],
        asked: impl FnOnce(&[Arc<Engine>]) -> Vec<Lsn>,
    ) -> io::Result<()> {
        if self.engines.is_empty() {
            return files.write_one(body);
        }
        files.write(body)?;
        self.written(asked);
        Ok(())
    }

    /// Both copies ask for this.
    pub(crate) fn written(&self, asked: impl FnOnce(&[Arc<Engine>]) -> Vec<Lsn>) {
        for (engine, asked) in self.engines.iter().zip(asked(&self.engines)) {
            engine.hold(self.holder, &self.name, asked);
        }
    }
}

/// What a consumer asks a shard for that has committed this: what lies behind it, or from where it is set back to. One that
/// would be refused, since the shard is of another moment or another history, may be told to go on anywhere.
pub(crate) fn floor(name: &str, engine: &Engine, committed: Option<Committed>) -> Lsn {
    let behind = committed.map_or(Lsn::MIN, |committed| Lsn(committed.position.lsn().0 + 1));
    // Of what is truncated nothing is known, and nothing kept.
    if behind <= engine.view().horizon { behind } else { resume(name, engine, committed).unwrap_or(Lsn::MIN) }
}

/// The same of all shards; `committed` may be of fewer.
pub(crate) fn floors(name: &str, engines: &[Arc<Engine>], committed: &[Option<Committed>]) -> Vec<Lsn> {
    let of = |shard: usize| committed.get(shard).copied().flatten();
    engines.iter().enumerate().map(|(shard, engine)| floor(name, engine, of(shard))).collect()
}

/// Holds what the copies of a name's files ask for, which may be one or two.
pub(crate) fn hold_copies(holder: Holder, name: &str, engines: &[Arc<Engine>], copies: &[Vec<Lsn>]) {
    for (index, engine) in engines.iter().enumerate() {
        let of = |copy: &Vec<Lsn>| copy.get(index).copied().unwrap_or(Lsn::MIN);
        engine.hold(holder, name, copies.iter().map(of).min().unwrap_or(Lsn::MIN));
    }
}
