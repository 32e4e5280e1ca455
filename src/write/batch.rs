//! Batches that are built up in one piece of memory, again and again.

use std::time::Duration;

use super::{Durability, Keys, List, Origin, Priority, Terms};
use crate::position::Position;

/// Payloads of a batch, one after the other in memory that is kept for the next batch; where wanted, each with a
/// [key of its own](BatchBuilder::push_keyed).
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
    /// Keys, behind each other.
    keys: Vec<u8>,
    /// Where the key of each record ends, up to the last record that has one.
    key_ends: Vec<usize>,
    pub(crate) terms: Terms,
    pub(crate) priority: Priority,
    pub(crate) durability: Option<Durability>,
    pub(crate) origin: Origin,
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

    /// Adds a payload with a key of its own. A batch lies in one shard as a whole: keys that route to several are refused
    /// when it is appended ([`AppendError::MixedShards`](crate::AppendError::MixedShards)), and [`Log::route`](crate::Log::route)
    /// tells before. A record with an empty key goes with the others, as one that was [pushed](BatchBuilder::push)
    /// without.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let log = sawmill::Options::new().shards(1).open(dir.path())?;
    /// let mut batch = sawmill::write::BatchBuilder::new();
    /// batch.push_keyed(b"account:3", b"debit 5");
    /// batch.push_keyed(b"account:9", b"credit 5");
    /// let positions = log.append_keyed(&batch).wait()?; // after any crash both are there, or neither
    /// assert_eq!(log.last(b"account:9")?, Some(positions[1]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn push_keyed(&mut self, key: impl AsRef<[u8]>, payload: impl AsRef<[u8]>) {
        // The caller's code first: a panic in it leaves nothing behind.
        let key = key.as_ref();
        self.push(payload);
        self.own_key(key);
    }

    /// Adds the payload that `write` appends, as [`push_with`](BatchBuilder::push_with), with a key of its own, as
    /// [`push_keyed`](BatchBuilder::push_keyed).
    pub fn push_keyed_with(&mut self, key: impl AsRef<[u8]>, write: impl FnOnce(&mut Vec<u8>)) {
        let key = key.as_ref();
        self.push_with(write);
        self.own_key(key);
    }

    /// Gives the last record a key.
    fn own_key(&mut self, key: &[u8]) {
        // Those before it that have none. As long as nobody has one, all of this stays empty.
        self.key_ends.resize(self.ends.len() - 1, self.keys.len());
        self.keys.extend_from_slice(key);
        self.key_ends.push(self.keys.len());
    }

    /// Whether it is refused earlier or later than others when memory runs out: as
    /// [`Write::priority`](crate::Write::priority), for the batch as a whole.
    pub fn priority(&mut self, priority: Priority) {
        self.priority = priority;
    }

    /// How durable it must be before it is acknowledged: as [`Write::durability`](crate::Write::durability), for the batch
    /// as a whole. With less than [`Durability::Synced`] it is whole or absent, too.
    pub fn durability(&mut self, durability: Durability) {
        self.durability = Some(durability);
    }

    /// Whom it is from: as [`Write::tenant`](crate::Write::tenant), for the batch as a whole.
    pub fn tenant(&mut self, tenant: u64) {
        self.origin.tenant = tenant;
    }

    /// By when it must be accepted: as [`Write::deadline`](crate::Write::deadline), for the batch as a whole.
    pub fn deadline(&mut self, deadline: Duration) {
        self.origin.deadline = Some(deadline);
    }

    /// Appends it only if this is the last record of the batch's key, which must be one
    /// ([`AppendError::MixedKeys`](crate::AppendError::MixedKeys)): as [`Write::if_last`](crate::Write::if_last), for the
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

    /// Bytes of all keys and payloads.
    pub(crate) fn body_bytes(&self) -> u64 {
        (self.bytes.len() + self.keys.len()) as u64
    }

    /// Makes it a new one, which keeps the memory: forgets the payloads and keys, the condition, the id, the priority,
    /// the durability, the tenant and the deadline.
    pub fn clear(&mut self) {
        let BatchBuilder { bytes, ends, keys, key_ends, terms, priority, durability, origin } = self;
        (*terms, *priority, *durability) = (Terms::default(), Priority::default(), None);
        *origin = Origin::default();
        bytes.clear();
        ends.clear();
        keys.clear();
        key_ends.clear();
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

    /// The keys of its records, where those that have none of their own have `others`.
    pub(crate) fn keys<'a>(&'a self, others: &'a [u8]) -> Keys<'a> {
        if self.key_ends.is_empty() {
            return Keys::One(others);
        }
        Keys::Each { bytes: &self.keys, ends: &self.key_ends, others }
    }

    /// The key that all its records have, if it is one.
    pub(crate) fn one_key<'a>(&'a self, others: &'a [u8]) -> Option<&'a [u8]> {
        let keys = self.keys(others);
        let first = keys.get(0);
        keys.iter(self.len()).all(|key| key == first).then_some(first)
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

    fn keys(batch: &BatchBuilder) -> Vec<&[u8]> {
        (0..batch.len()).map(|index| batch.keys(b"others").get(index)).collect()
    }

    #[test]
    fn each_record_has_its_own_key_or_that_of_the_others() {
        let mut batch = BatchBuilder::new();
        for _ in 0..2 {
            batch.push(b"1");
            assert_eq!(batch.one_key(b"others"), Some(&b"others"[..]));
            batch.push_keyed(b"a", b"22");
            batch.push(b"3");
            batch.push_keyed(b"", b"");
            batch.push_keyed_with(b"bc", |bytes| bytes.extend_from_slice(b"5"));
            batch.push(b"6");
            assert_eq!(keys(&batch), [&b"others"[..], b"a", b"others", b"others", b"bc", b"others"]);
            assert_eq!(payloads(&batch), [&b"1"[..], b"22", b"3", b"", b"5", b"6"]);
            assert_eq!((batch.bytes(), batch.one_key(b"others")), (6, None));
            batch.clear();
            batch.push_keyed(b"a", b"");
            batch.push_keyed(b"a", b"");
            assert_eq!(batch.one_key(b"others"), Some(&b"a"[..]));
            assert_eq!(batch.one_key(b"a"), Some(&b"a"[..]));
            batch.push(b"");
            assert_eq!((batch.one_key(b""), batch.one_key(b"a")), (None, Some(&b"a"[..])));
            batch.clear();
        }
    }

    #[test]
    fn a_closure_that_panics_leaves_no_key() {
        let mut batch = BatchBuilder::new();
        batch.push_keyed(b"a", b"first");
        let panicked = catch_unwind(AssertUnwindSafe(|| batch.push_keyed_with(b"b", |_| panic!("at once"))));
        assert!(panicked.is_err());
        batch.push(b"second");
        batch.push_keyed(b"c", b"third");
        assert_eq!(keys(&batch), [&b"a"[..], b"others", b"c"]);
    }

    #[test]
    fn a_cleared_batch_is_a_new_one() {
        let mut batch = BatchBuilder::new();
        batch.push_keyed(b"a", b"b");
        batch.id(7);
        batch.if_last(None);
        batch.priority(Priority::High);
        batch.durability(Durability::Buffered);
        batch.clear();
        assert_eq!(format!("{batch:?}"), format!("{:?}", BatchBuilder::new()));
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
