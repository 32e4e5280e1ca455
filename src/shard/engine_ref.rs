//! A handle's hold on its shard.
//!
//! Every append takes one and gives it back. A single reference count would be the one word that all
//! producers write, so there are several, and each thread uses its own.

use std::ops::Deref;
use std::sync::Arc;

use super::Engine;
use crate::sync::{CacheLine, thread_number};

/// Above the number of cores, threads share counts, which costs little.
const STRIPES: usize = 64;

/// Keeps an engine alive; cheap to take from many threads at once.
#[derive(Clone, Debug)]
pub(crate) struct EngineRef(Arc<CacheLine<Arc<Engine>>>);

impl EngineRef {
    /// One of its own, which takes memory.
    pub(crate) fn of(engine: Arc<Engine>) -> EngineRef {
        EngineRef(Arc::new(CacheLine(engine)))
    }

    /// As others hold it.
    pub(crate) fn arc(&self) -> Arc<Engine> {
        self.0.0.clone()
    }
}

impl Deref for EngineRef {
    type Target = Engine;

    #[inline]
    fn deref(&self) -> &Engine {
        &self.0.0
    }
}

/// Where holds of one engine come from.
#[derive(Debug)]
pub(crate) struct StripedRefs(Box<[EngineRef]>);

impl StripedRefs {
    pub(crate) fn new(engine: &Arc<Engine>) -> StripedRefs {
        let cores = crate::sys::cores();
        let stripes = cores.next_power_of_two().min(STRIPES);
        StripedRefs((0..stripes).map(|_| EngineRef(Arc::new(CacheLine(engine.clone())))).collect())
    }

    #[inline]
    pub(crate) fn take(&self) -> EngineRef {
        self.0[thread_number() as usize & (self.0.len() - 1)].clone()
    }
}
