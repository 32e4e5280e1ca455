//! A key's changes over time, read from the log.

use std::ops::RangeBounds;
use std::sync::Arc;

use super::error::TallyError;
use super::flush::Core;
use super::fold::Fold;
use super::replay;
use super::totals::sum;
use super::wire::{self, Kind};
use crate::error::ReadError;
use crate::read::{Range, Source, times};

/// When a key's total changed, and by how much. By [`Tally::history`](super::Tally::history).
#[derive(Debug)]
#[must_use = "iterators are lazy"]
pub struct History<F: Fold> {
    records: Range,
    record_key: Vec<u8>,
    key: Vec<u8>,
    id: u64,
    first: u64,
    last: u64,
    /// Number, time and change of the flush that is being read.
    accumulated: Option<(u64, u64, F::Value)>,
}

impl<F: Fold> History<F> {
    pub(super) fn new(
        core: &Arc<Core<F>>,
        key: &[u8],
        range: &impl RangeBounds<u64>,
    ) -> Result<History<F>, TallyError> {
        let (first, last) = times(range);
        let source: Arc<dyn Source> = core.engine.clone();
        let records = Range::new(source, &..).map_err(TallyError::Read)?;
        let record_key = replay::key_of(&core.name);
        Ok(History { records, record_key, key: key.to_vec(), id: core.id(), first, last, accumulated: None })
    }

    /// The change of the flush that was accumulated, if it is asked for.
    fn told(&self, accumulated: Option<(u64, u64, F::Value)>) -> Option<(u64, F::Total)> {
        let (_, time, value) = accumulated?;
        (self.first..=self.last)
            .contains(&time)
            .then(|| F::total(&value).map(|total| (time, total)))
            .flatten()
    }
}

impl<F: Fold> Iterator for History<F> {
    type Item = Result<(u64, F::Total), ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let record = match self.records.next() {
                Some(Ok(record)) => record,
                Some(Err(error)) => return Some(Err(error)),
                None => {
                    let last = self.accumulated.take();
                    return self.told(last).map(Ok);
                }
            };
            if record.key() != self.record_key {
                continue;
            }
            let Ok(parsed) = wire::parse(self.id, record.payload()) else { continue };
            if parsed.kind != Kind::Changes {
                continue;
            }
            let mut change = None;
            for (key, value) in parsed.entries().flatten() {
                if key == self.key {
                    change = sum::<F>(change.as_ref(), F::decode(value).as_ref());
                }
            }
            let Some(change) = change else { continue };
            match &mut self.accumulated {
                Some((flush, _, value)) if *flush == parsed.flush => F::merge(value, &change),
                accumulated => {
                    let before = accumulated.replace((parsed.flush, record.timestamp(), change));
                    if let Some(told) = self.told(before) {
                        return Some(Ok(told));
                    }
                }
            }
        }
    }
}
