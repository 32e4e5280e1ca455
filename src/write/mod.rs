//! A record to be appended.

mod batch;
mod durability;
mod list;
mod origin;
mod terms;

use std::borrow::Cow;
use std::io::IoSlice;
use std::time::Duration;

use crate::position::Position;

pub use batch::BatchBuilder;
pub use durability::{Durability, Priority};
pub(crate) use list::{Keys, List};
pub(crate) use origin::Origin;
pub(crate) use terms::Terms;

/// What to append: a payload, and optionally a key, a priority, a durability, a tenant, a deadline, a condition
/// ([`if_last`](Write::if_last)) and an id ([`id`](Write::id)).
///
/// Anything that is bytes converts into one. Owned bytes (`Vec<u8>`, `Box<[u8]>`, `String`) make the
/// handle of the append `'static`.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let log = sawmill::Log::open(dir.path())?;
/// use sawmill::{Priority, Write};
/// log.append("text").wait()?;
/// log.append(Write::new(b"payload").key(b"user:7").priority(Priority::High)).wait()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Write<'a> {
    pub(crate) payload: Payload<'a>,
    pub(crate) key: Cow<'a, [u8]>,
    pub(crate) priority: Priority,
    pub(crate) durability: Option<Durability>,
    pub(crate) origin: Origin,
    /// Few have any: what all others carry is a word.
    pub(crate) terms: Option<Box<Terms>>,
}

impl<'a> Write<'a> {
    /// Whether it can be accepted by the quick way, which asks for room alone.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        self.terms.is_none() && self.origin.deadline.is_none()
    }

    /// A record with this payload and no key. The payload may be empty. How large it may be:
    /// [`Options::record_bytes`](crate::Options::record_bytes).
    ///
    /// Records without a key have no order, even if one thread appends them: each may go to another shard.
    pub fn new(payload: impl IntoBytes<'a>) -> Write<'a> {
        Write {
            payload: Payload::Whole(payload.into_bytes()),
            key: Cow::Borrowed(&[]),
            priority: Priority::default(),
            durability: None,
            origin: Origin::default(),
            terms: None,
        }
    }

    /// A record whose payload is in parts, such as a header and a body. They are copied one after the other, so
    /// you need not join them first.
    ///
    /// A record that does not fit into a block is joined in memory all the same.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let log = sawmill::Log::open(dir.path())?;
    /// use std::io::IoSlice;
    /// use sawmill::Write;
    /// let parts = [IoSlice::new(b"head "), IoSlice::new(b"and body")];
    /// let position = log.append(Write::vectored(&parts)).wait()?;
    /// assert_eq!(log.get(position)?.payload(), b"head and body");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn vectored(parts: &'a [IoSlice<'a>]) -> Write<'a> {
        Write {
            payload: Payload::Parts(parts),
            key: Cow::Borrowed(&[]),
            priority: Priority::default(),
            durability: None,
            origin: Origin::default(),
            terms: None,
        }
    }

    /// The key. Records with the same key are in the same shard, in order. At most 65,535 bytes.
    pub fn key(mut self, key: impl IntoBytes<'a>) -> Write<'a> {
        self.key = key.into_bytes();
        self
    }

    /// Whether it is refused earlier or later than others when memory runs out; [`Priority::Normal`] by default.
    pub fn priority(mut self, priority: Priority) -> Write<'a> {
        self.priority = priority;
        self
    }

    /// Whom the record is from: a customer, a connection, whatever is to be treated fairly. 0 by default, which is one tenant
    /// like any other.
    ///
    /// While a shard is overloaded, those who offer more than their fair share to it are refused first
    /// ([`Cause::Tenant`](crate::error::Cause::Tenant)), by callers that do not wait
    /// ([`Log::try_append`](crate::Log::try_append)): the share is what is left when everybody's smaller offer is taken as a
    /// whole. Records of [`Priority::High`] are not refused for it. Nothing needs to be set up for a tenant, and the
    /// log does not keep it.
    pub fn tenant(mut self, tenant: u64) -> Write<'a> {
        self.origin.tenant = tenant;
        self
    }

    /// Gives up if the record is not accepted within this time, from the call that appends it. Does not bound the time until
    /// it is durable. Where it gives up, that is told:
    /// [`AppendError::Overloaded`](crate::AppendError::Overloaded) with [`Cause::Deadline`](crate::error::Cause::Deadline),
    /// and nothing was accepted. At once, where the shard has so much to write that the record would not be durable in time;
    /// later, where it waits in line in vain.
    ///
    /// Once it is accepted, it is kept, and becomes durable when it does: then `None` of
    /// [`Append::wait_timeout`](crate::Append::wait_timeout) is "accepted, not durable yet", if the time was longer.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let log = sawmill::Log::open(dir.path())?;
    /// use std::time::Duration;
    /// use sawmill::{AppendError, Write, error::Cause};
    /// match log.append(Write::new(b"now or never").deadline(Duration::from_secs(1))).wait() {
    ///     Ok(position) => println!("durable at {position}"),
    ///     Err(AppendError::Overloaded { cause: Cause::Deadline, .. }) => println!("not appended"),
    ///     Err(error) => return Err(error.into()),
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn deadline(mut self, deadline: Duration) -> Write<'a> {
        self.origin.deadline = Some(deadline);
        self
    }

    /// How durable the record must be before it is acknowledged; by default as set with
    /// [`Options::durability`](crate::Options::durability).
    pub fn durability(mut self, durability: Durability) -> Write<'a> {
        self.durability = Some(durability);
        self
    }

    /// Appends it only if this is the last record of its key; `None`: only if it is the first one. What counts is what was
    /// accepted, durable or not. That is checked in the step that accepts the record: of two writers with one condition
    /// one wins, and the other is told [`AppendError::Conflict`](crate::AppendError::Conflict).
    ///
    /// Who appends without a condition pays nothing for this. Who appends with one keeps others from the shard's open block
    /// for about a microsecond. The first time after an open, and where the key was not written lately, its last record is looked for as by
    /// [`Log::last`](crate::Log::last), in this call, also of a task: without an index
    /// ([`Options::index_keys`](crate::Options::index_keys)) that may take long.
    ///
    /// What came between is read from after the record that one knew:
    /// `log.read_key(key, (known.map_or(Unbounded, Excluded), Unbounded))`, with [`Bound`](std::ops::Bound)'s variants.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let log = sawmill::Log::open(dir.path())?;
    /// use sawmill::{AppendError, Write};
    /// let made = log.append(Write::new(b"made").key(b"order:9").if_last(None)).wait()?;
    /// let paid = log.append(Write::new(b"paid").key(b"order:9").if_last(Some(made))).wait()?;
    /// let late = log.append(Write::new(b"cancelled").key(b"order:9").if_last(Some(made))).wait();
    /// assert!(matches!(late, Err(AppendError::Conflict { last, .. }) if last == Some(paid)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn if_last(mut self, position: Option<Position>) -> Write<'a> {
        self.terms.get_or_insert_default().if_last = Some(position);
        self
    }

    /// Appends it once: a retry with the same id and key resolves to the position of the first one, with its outcome, and
    /// appends nothing ([`Commit::is_duplicate`](crate::Commit::is_duplicate)). That holds across crashes and reopens, for as
    /// long as the record is in the log and no more than [`Options::dedup_ids`](crate::Options::dedup_ids) ids came after it
    /// in its shard.
    ///
    /// What a retry was decided by may have changed with the first one: whoever decides before appending appends what came
    /// of it either way, a refusal too, and answers a duplicate by what the first one's record says.
    ///
    /// Under another key it is another id. It is looked up before a condition ([`if_last`](Write::if_last)): the retry of a
    /// conditional append that succeeded is a duplicate and no conflict. The record keeps its id
    /// ([`Record::id`](crate::Record::id)), which takes 16 bytes. The first time after an open the ids that count are read
    /// from the log in this call; without an index ([`Options::index_keys`](crate::Options::index_keys)) that may take long.
    ///
    /// Where one of those places cannot be read, it may have held this id, and the write is refused with
    /// [`AppendError::Unreadable`](crate::AppendError::Unreadable), until it can be read again or is truncated. What is
    /// damaged is not there any more, and neither is its id.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let log = sawmill::Log::open(dir.path())?;
    /// use sawmill::Write;
    /// let debit = || Write::new(b"debit 5").key(b"account:3").id(0x5eed);
    /// let first = log.append(debit()).wait()?;
    /// let retry = log.try_append(debit())?;
    /// assert!(retry.is_duplicate());
    /// assert_eq!(retry.wait()?, first);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn id(mut self, id: u128) -> Write<'a> {
        self.terms.get_or_insert_default().id = Some(id);
        self
    }
}

/// What a record carries.
#[derive(Clone, Debug)]
pub(crate) enum Payload<'a> {
    Whole(Cow<'a, [u8]>),
    Parts(&'a [IoSlice<'a>]),
}

impl Payload<'_> {
    /// In one piece.
    pub(crate) fn whole(&self) -> Cow<'_, [u8]> {
        match self {
            Payload::Whole(bytes) => Cow::Borrowed(bytes),
            Payload::Parts(parts) => Cow::Owned(joined(parts)),
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Payload::Whole(bytes) => bytes.len(),
            Payload::Parts(parts) => parts.iter().map(|part| part.len()).sum(),
        }
    }
}

/// The bytes of all parts, in one piece.
pub(crate) fn joined(parts: &[IoSlice<'_>]) -> Vec<u8> {
    let mut whole = Vec::with_capacity(parts.iter().map(|part| part.len()).sum());
    parts.iter().for_each(|part| whole.extend_from_slice(part));
    whole
}

/// Bytes, borrowed or owned.
pub trait IntoBytes<'a> {
    /// The bytes: without a copy, except for an array by value, which is copied to the heap. Borrow it (`&array`) instead.
    fn into_bytes(self) -> Cow<'a, [u8]>;
}

impl<'a> IntoBytes<'a> for &'a [u8] {
    fn into_bytes(self) -> Cow<'a, [u8]> {
        Cow::Borrowed(self)
    }
}

impl<'a, const N: usize> IntoBytes<'a> for &'a [u8; N] {
    fn into_bytes(self) -> Cow<'a, [u8]> {
        Cow::Borrowed(self)
    }
}

impl<'a> IntoBytes<'a> for &'a str {
    fn into_bytes(self) -> Cow<'a, [u8]> {
        Cow::Borrowed(self.as_bytes())
    }
}

impl<'a> IntoBytes<'a> for &'a Vec<u8> {
    fn into_bytes(self) -> Cow<'a, [u8]> {
        Cow::Borrowed(self)
    }
}

impl<'a> IntoBytes<'a> for &'a String {
    fn into_bytes(self) -> Cow<'a, [u8]> {
        Cow::Borrowed(self.as_bytes())
    }
}

impl<'a, const N: usize> IntoBytes<'a> for [u8; N] {
    fn into_bytes(self) -> Cow<'a, [u8]> {
        Cow::Owned(self.to_vec())
    }
}

impl<'a> IntoBytes<'a> for Vec<u8> {
    fn into_bytes(self) -> Cow<'a, [u8]> {
        Cow::Owned(self)
    }
}

impl<'a> IntoBytes<'a> for Box<[u8]> {
    fn into_bytes(self) -> Cow<'a, [u8]> {
        Cow::Owned(self.into_vec())
    }
}

impl<'a> IntoBytes<'a> for String {
    fn into_bytes(self) -> Cow<'a, [u8]> {
        Cow::Owned(String::into_bytes(self))
    }
}

impl<'a> IntoBytes<'a> for Cow<'a, [u8]> {
    fn into_bytes(self) -> Cow<'a, [u8]> {
        self
    }
}

impl<'a, B: IntoBytes<'a>> From<B> for Write<'a> {
    fn from(payload: B) -> Write<'a> {
        Write::new(payload)
    }
}
