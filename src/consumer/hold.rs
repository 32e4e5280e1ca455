//! Names that the log waits for (`Options::retain_for`): what the copies of their files ask it to keep.

use std::io;
use std::sync::Arc;

use super::resume::resume;
use crate::device::Directory;
use crate::error::ConsumerError;
use crate::format::{Committed, SlotKind};
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
    let behind = committed.map_or(Lsn::MIN, |committed| Lsn(committed.position.lsn().0.saturating_add(1)));
    // Of what is truncated nothing is known, and nothing kept.
    if behind <= engine.view().horizon { behind } else { resume(name, engine, committed).unwrap_or(Lsn::MIN) }
}

/// Why one would be refused that has committed this, if it would, and so asks for anything.
pub(crate) fn refusal(
    name: &str,
    engines: &[Arc<Engine>],
    committed: &[Option<Committed>],
) -> Option<ConsumerError> {
    let mut shards = engines.iter().zip(committed).filter(|(engine, committed)| {
        committed.is_some_and(|own| own.position.lsn() >= engine.view().horizon)
    });
    shards.find_map(|(engine, committed)| resume(name, engine, *committed).err())
}

/// What the copies of a name's files ask the log to keep, of the first shards, of the others all.
#[derive(Debug, Default)]
pub(crate) struct Asks {
    /// None where there are no files.
    pub copies: Vec<Vec<Lsn>>,
    /// Why whoever opens them is refused, if it is: then they ask for anything.
    pub refused: Option<String>,
}

impl Asks {
    /// What `ask` makes of each copy that can be read: what it asks for, or why it is refused.
    pub(crate) fn of(
        directory: &dyn Directory,
        prefix: &str,
        kind: SlotKind,
        damaged: impl Fn() -> String,
        ask: impl Fn(&[u8]) -> (Vec<Lsn>, Option<String>),
    ) -> Asks {
        let mut asked = Asks::default();
        match ManifestFiles::valid(directory, prefix, kind) {
            Ok(bodies) if bodies.is_empty() && ManifestFiles::is_there(directory, prefix) => {
                asked.add(Vec::new(), Some(damaged()));
            }
            Ok(bodies) => {
                bodies.iter().map(|body| ask(body)).for_each(|(floors, why)| asked.add(floors, why))
            }
            Err(error) => asked.add(Vec::new(), Some(format!("it cannot be read: {error}"))),
        }
        asked
    }

    fn add(&mut self, floors: Vec<Lsn>, why: Option<String>) {
        self.copies.push(floors);
        self.refused = self.refused.take().or(why);
    }
}

/// The same of all shards; `committed` may be of fewer.
pub(crate) fn floors(name: &str, engines: &[Arc<Engine>], committed: &[Option<Committed>]) -> Vec<Lsn> {
    let of = |shard: usize| committed.get(shard).copied().flatten();
    engines.iter().enumerate().map(|(shard, engine)| floor(name, engine, of(shard))).collect()
}

/// Holds what the files of a name ask for, if there are any, and tells why that is all of it.
pub(crate) fn hold_asked(holder: Holder, name: &str, engines: &[Arc<Engine>], asked: &Asks) -> bool {
    if asked.copies.is_empty() {
        return false;
    }
    hold_copies(holder, name, engines, &asked.copies);
    if let Some(why) = &asked.refused {
        engines[0].note_refused(holder, name, why);
    }
    true
}

/// Holds what the copies of a name's files ask for, which may be one or two.
pub(crate) fn hold_copies(holder: Holder, name: &str, engines: &[Arc<Engine>], copies: &[Vec<Lsn>]) {
    for (index, engine) in engines.iter().enumerate() {
        let of = |copy: &Vec<Lsn>| copy.get(index).copied().unwrap_or(Lsn::MIN);
        engine.hold(holder, name, copies.iter().map(of).min().unwrap_or(Lsn::MIN));
    }
}
