//! A record to be appended.

mod batch;
mod durability;

use std::borrow::Cow;
use std::io::IoSlice;

pub use batch::BatchBuilder;
pub(crate) use batch::List;
pub use durability::{Durability, Priority};

/// What to append: a payload, and optionally a key, a priority and a durability.
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
}

impl<'a> Write<'a> {
    /// A record with this payload and no key. The payload may be empty.
    pub fn new(payload: impl IntoBytes<'a>) -> Write<'a> {
        Write {
            payload: Payload::Whole(payload.into_bytes()),
            key: Cow::Borrowed(&[]),
            priority: Priority::default(),
            durability: None,
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

    /// How durable the record must be before it is acknowledged; by default as set with
    /// [`Options::durability`](crate::Options::durability).
    pub fn durability(mut self, durability: Durability) -> Write<'a> {
        self.durability = Some(durability);
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
    pub(crate) fn len(&self) -> usize {
        match self {
            Payload::Whole(bytes) => bytes.len(),
            Payload::Parts(parts) => parts.iter().map(|part| part.len()).sum(),
        }
    }
}

/// Bytes, borrowed or owned.
pub trait IntoBytes<'a> {
    /// The bytes, without a copy.
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
