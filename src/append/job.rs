//! What is to be appended, kept until it is accepted.

use std::borrow::Cow;

use super::{Route, terms};
use crate::error::{AppendError, Cause};
use crate::position::Position;
use crate::shard::{AppendMode, Batch, Engine, EngineRef, Placed, Refused, about_encoded};
use crate::time::Nanos;
use crate::write::{BatchBuilder, Durability, Keys, List, Origin, Payload, Priority, Terms};

/// What its records say.
pub(super) enum Payloads<'a> {
    One(Payload<'a>),
    Many(Vec<&'a [u8]>),
    Built(&'a BatchBuilder),
}

/// What is to be appended, kept until it is accepted.
pub(super) struct Job<'a> {
    /// Of a batch that was built: of those records that have none of their own, or, under terms, of all.
    pub key: Cow<'a, [u8]>,
    pub payloads: Payloads<'a>,
    pub priority: Priority,
    pub durability: Durability,
    pub terms: Option<Box<Terms>>,
    pub origin: Origin,
    pub route: Route,
}

impl Job<'_> {
    /// It was not accepted within its deadline.
    #[cold]
    pub fn too_late(&self, engine: &Engine) -> AppendError {
        let (records, payloads) = match &self.payloads {
            Payloads::One(payload) => (1, payload.len()),
            Payloads::Many(payloads) => (payloads.len(), payloads.iter().map(|payload| payload.len()).sum()),
            Payloads::Built(built) => (built.len(), built.bytes()),
        };
        let bytes = about_encoded((self.key.len() * records + payloads) as u64, records as u64);
        engine.overloaded(Cause::Deadline, self.priority, &self.origin, bytes)
    }

    /// Not after `until`, where it must look up something first.
    pub fn put(
        &self,
        engine: &EngineRef,
        mode: AppendMode,
        until: Nanos,
        positions: Option<&mut Vec<Position>>,
    ) -> Result<Placed, Refused> {
        if let Some(terms) = &self.terms {
            return self.put_under(engine, terms, mode, until, positions);
        }
        match &self.payloads {
            Payloads::One(payload) => engine.put_payload(&self.key, payload, mode),
            Payloads::Many(payloads) => {
                let keys = Keys::One(&self.key);
                let batch = Batch { keys, id: None, payloads: List::Slices(payloads) };
                engine.put(&batch, mode, positions)
            }
            Payloads::Built(built) => {
                let keys = built.keys(&self.key);
                let batch = Batch { keys, id: None, payloads: built.list() };
                engine.put(&batch, mode, positions)
            }
        }
    }

    /// The same under terms.
    #[cold]
    fn put_under(
        &self,
        engine: &EngineRef,
        terms: &Terms,
        mode: AppendMode,
        until: Nanos,
        positions: Option<&mut Vec<Position>>,
    ) -> Result<Placed, Refused> {
        let (whole, one);
        let payloads = match &self.payloads {
            Payloads::One(payload) => {
                whole = payload.whole();
                one = [&*whole];
                List::Slices(&one)
            }
            Payloads::Many(payloads) => List::Slices(payloads),
            Payloads::Built(built) => built.list(),
        };
        let batch = Batch { keys: Keys::One(&self.key), id: terms.id, payloads };
        terms::put(engine, &batch, terms, mode, until, positions)
    }

    pub fn may_lead(&self) -> AppendMode {
        AppendMode::may_lead(self.priority, self.durability).at(self.route.turn())
    }

    pub fn without_lead(&self) -> AppendMode {
        AppendMode::without_lead(self.priority, self.durability).at(self.route.turn())
    }
}
