//! A record to be appended.

mod batch;
mod durability;

use std::borrow::Cow;
use std::io::IoSlice;

pub use batch::BatchBuilder;
pub(crate) use batch::List;
pub use durability::{Durability, Priority};

/// What to append: a payload, and whatever more is to be said of it.
///
/// Anything that is bytes becomes one by itself. Bytes that are owned (`Vec<u8>`, `Box<[u8]>`,
/// `String`) make the handle `'static`.
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
    /// A record of this payload, without a key. A payload may be empty.
    pub fn new(payload: impl IntoBytes<'a>) -> Write<'a> {
        Write {
            payload: Payload::Whole(payload.into_bytes()),
            key: Cow::Borrowed(&[]),
            priority: Priority::default(),
            durability: None,
        }
    }

    /// A record whose payload is in parts, which are copied behind each other: a header and a body, say, that
    /// need not be put together first.
    ///
    /// One that does not fit into a block is put together all the same.
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

    /// The key: records of one key stand in one shard, in order. At most 65,535 bytes.
    pub fn key(mut self, key: impl IntoBytes<'a>) -> Write<'a> {
        self.key = key.into_bytes();
        self
    }

    /// Whether it is refused sooner or later than others; [`Priority::Normal`] by default.
    pub fn priority(mut self, priority: Priority) -> Write<'a> {
        self.priority = priority;
        self
    }

    /// How far it must have got before the handle says so; by default what
    /// [`Options::durability`](crate::Options::durability) says.
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
