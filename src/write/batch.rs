//! Batches that are built up in one piece of memory, again and again.

use super::Terms;
use crate::position::Position;

/// Payloads of a batch, behind each other in memory that is kept for the next batch.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let log = sawmill::Log::open(dir.path())?;
/// let mut batch = sawmill::write::BatchBuilder::new();
/// for order in 0..3 {
///     batch.clear();
///     batch.push(format!("debit {order}"));
///     // Written in place, without a copy of its own.
///     batch.push_with(|bytes| bytes.extend_from_slice(b"credit"));
///     let positions = log.append_built(b"order", &batch).wait()?;
///     assert_eq!(positions.len(), 2);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct BatchBuilder {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    pub(crate) terms: Terms,
}

impl BatchBuilder {
    /// An empty batch.
    #[must_use]
    pub fn new() -> BatchBuilder {
        BatchBuilder::default()
    }

    /// Adds a payload.
    pub fn push(&mut self, payload: impl AsRef<[u8]>) {
        self.bytes.extend_from_slice(payload.as_ref());
        self.ends.push(self.bytes.len());
    }

    /// Adds the payload that `write` appends. What was there before is not to be touched: if `write` makes the
    /// bytes shorter, the payload is empty and earlier ones lose their ends. If it panics, nothing is added.
    pub fn push_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let adding = Adding(self);
        write(&mut adding.0.bytes);
        let bytes = adding.0.bytes.len();
        adding.0.ends.push(bytes);
    }

    /// Appends it only if this is the last record of the batch's key: as [`Write::if_last`](crate::Write::if_last), for the
    /// batch as a whole.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let log = sawmill::Log::open(dir.path())?;
    /// let mut batch = sawmill::write::BatchBuilder::new();
    /// batch.push(b"debit 5");
    /// batch.push(b"fee 1");
    /// batch.if_last(None);
    /// batch.id(0x5eed);
    /// let first = log.append_built(b"account:3", &batch).wait()?;
    /// // A retry is no conflict, and appends nothing.
    /// assert_eq!(log.append_built(b"account:3", &batch).wait()?, first);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn if_last(&mut self, position: Option<Position>) {
        self.terms.if_last = Some(position);
    }

    /// Appends it once: as [`Write::id`](crate::Write::id), for the batch as a whole. A retry resolves to the positions of
    /// the first one.
    pub fn id(&mut self, id: u128) {
        self.terms.id = Some(id);
    }

    /// Records in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes of all payloads.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Forgets the payloads, the condition and the id, and keeps the memory.
    pub fn clear(&mut self) {
        self.terms = Terms::default();
        self.bytes.clear();
        self.ends.clear();
    }

    /// Makes ends and bytes agree again: bytes behind the last end are none of any payload.
    fn settle(&mut self) {
        let bytes = self.bytes.len();
        self.ends.iter_mut().for_each(|end| *end = (*end).min(bytes));
        self.bytes.truncate(self.ends.last().copied().unwrap_or(0));
    }

    pub(crate) fn list(&self) -> List<'_> {
        List::Packed { bytes: &self.bytes, ends: &self.ends }
    }
}

/// The payloads of a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) enum List<'a> {
    Slices(&'a [&'a [u8]]),
    /// Behind each other, with the end of each.
    Packed {
        bytes: &'a [u8],
        ends: &'a [usize],
    },
}

impl<'a> List<'a> {
    pub(crate) fn len(&self) -> usize {
        match self {
            List::Slices(slices) => slices.len(),
            List::Packed { ends, .. } => ends.len(),
        }
    }

    pub(crate) fn get(&self, index: usize) -> &'a [u8] {
        match self {
            List::Slices(slices) => slices[index],
            List::Packed { bytes, ends } => {
                let start = index.checked_sub(1).map_or(0, |before| ends[before]);
                &bytes[start..ends[index]]
            }
        }
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = &'a [u8]> {
        (0..self.len()).map(move |index| self.get(index))
    }
}

/// A payload that is being written, by a closure that may panic.
struct Adding<'a>(&'a mut BatchBuilder);

impl Drop for Adding<'_> {
    fn drop(&mut self) {
        self.0.settle();
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    fn payloads(batch: &BatchBuilder) -> Vec<&[u8]> {
        let starts = std::iter::once(0).chain(batch.ends.iter().copied());
        starts.zip(&batch.ends).map(|(start, end)| &batch.bytes[start..*end]).collect()
    }

    #[test]
    fn a_closure_that_panics_adds_nothing() {
        for keeps in [0, 2, 5, 7] {
            let mut batch = BatchBuilder::new();
            batch.push(b"first");
            let panicked = catch_unwind(AssertUnwindSafe(|| {
                batch.push_with(|bytes| {
                    bytes.extend_from_slice(b"half");
                    bytes.truncate(keeps);
                    panic!("in the middle of it");
                });
            }));
            assert!(panicked.is_err());
            batch.push_with(|bytes| bytes.extend_from_slice(b"second"));
            assert_eq!(payloads(&batch), [&b"first"[..keeps.min(5)], b"second"]);
            assert_eq!((batch.len(), batch.bytes()), (2, keeps.min(5) + 6));
        }
    }

    #[test]
    fn bytes_made_shorter_take_ends_along() {
        let mut batch = BatchBuilder::new();
        batch.push(b"one");
        batch.push(b"two");
        batch.push_with(|bytes| bytes.truncate(4));
        assert_eq!(payloads(&batch), [&b"one"[..], b"t", b""]);
    }
}
