//! How changes to a key add up.

/// How changes to a key add up to its total: a type, so that a tally's kind is known when it is compiled.
///
/// Changes are accumulated on each core, added up there, and added up again when they are flushed, so
/// [`merge`](Fold::merge) has to be associative and commutative. None of the functions may panic: one that does in
/// a flush ends its tally, and everybody is told.
///
/// ```
/// use sawmill::tally::Fold;
///
/// /// The set of colours seen, one bit each.
/// #[derive(Debug)]
/// struct Colours;
///
/// impl Fold for Colours {
///     const NAME: &'static str = "example.colours";
///     type Change = u8;
///     type Value = u8;
///     type Total = u8;
///
///     fn lift(colour: u8, _stamp: u64) -> u8 { 1 << (colour % 8) }
///     fn merge(total: &mut u8, change: &u8) { *total |= change; }
///     fn total(value: &u8) -> Option<u8> { Some(*value) }
///     fn encode(value: &u8, into: &mut Vec<u8>) { into.push(*value); }
///     fn decode(bytes: &[u8]) -> Option<u8> { <[u8; 1]>::try_from(bytes).ok().map(|[value]| value) }
/// }
///
/// # let dir = tempfile::tempdir()?;
/// # let log = sawmill::Log::open(dir.path())?;
/// let seen = log.tally_of::<Colours>("colours")?;
/// seen.update(b"shelf", 3).accepted()?;
/// seen.update(b"shelf", 5).wait()?;
/// assert_eq!(seen.get(b"shelf"), Some(0b0010_1000));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Fold: Send + Sync + std::fmt::Debug + 'static {
    /// Written into the log: a tally is opened again by the same fold only. Those of this crate have names
    /// without a dot.
    const NAME: &'static str;

    /// Whether [`lift`](Fold::lift) needs a time, which costs some 30 ns an update.
    const STAMPED: bool = false;

    /// What an update brings.
    type Change;

    /// What is accumulated, written, and added up.
    type Value: Clone + Send + Sync + std::fmt::Debug + 'static;

    /// What a caller sees.
    type Total;

    /// A change as something that can be added up. `stamp` is the wall clock in nanoseconds since the Unix
    /// epoch, and above every one that was given before in this tally: while the clock stands behind these, by one each
    /// time. 0 unless [`STAMPED`](Fold::STAMPED).
    fn lift(change: Self::Change, stamp: u64) -> Self::Value;

    /// Adds a value to another.
    fn merge(total: &mut Self::Value, change: &Self::Value);

    /// What a caller sees of a value; `None` if it cannot be told (an overflow). An update after which a
    /// key's total would be `None` is refused.
    fn total(value: &Self::Value) -> Option<Self::Total>;

    /// Whether the value is so far from where [`total`](Fold::total) fails that two hundred sums of two such
    /// values can be added to another one without failing. Where it is not, updates are checked one by one,
    /// which is slow.
    fn is_roomy(value: &Self::Value) -> bool {
        let _ = value;
        true
    }

    /// The value as bytes, compactly: it is written with each change.
    fn encode(value: &Self::Value, into: &mut Vec<u8>);

    /// The value again; `None` if the bytes are none of [`encode`](Fold::encode)'s.
    fn decode(bytes: &[u8]) -> Option<Self::Value>;

    /// Bytes of memory that the value takes beside itself.
    fn heap_bytes(value: &Self::Value) -> usize {
        let _ = value;
        0
    }

    /// The time that was [lifted](Fold::lift) into the value; 0 if there is none.
    fn stamp(value: &Self::Value) -> u64 {
        let _ = value;
        0
    }
}

/// Sums of `i64`, exact: an update that would overflow is refused, and nothing ever wraps.
#[derive(Debug)]
pub struct Sum;

impl Fold for Sum {
    const NAME: &'static str = "sum";
    type Change = i64;
    /// Wide, so that neither the order of additions nor their number can make it overflow.
    type Value = i128;
    type Total = i64;

    fn lift(change: i64, _stamp: u64) -> i128 {
        change.into()
    }

    fn merge(total: &mut i128, change: &i128) {
        *total += change;
    }

    fn total(value: &i128) -> Option<i64> {
        i64::try_from(*value).ok()
    }

    fn is_roomy(value: &i128) -> bool {
        value.unsigned_abs() < 1 << 54
    }

    fn encode(value: &i128, into: &mut Vec<u8>) {
        put_signed(*value, into);
    }

    fn decode(bytes: &[u8]) -> Option<i128> {
        signed(bytes)
    }
}

/// How many updates there were.
#[derive(Debug)]
pub struct Count;

impl Fold for Count {
    const NAME: &'static str = "count";
    type Change = ();
    type Value = u64;
    type Total = u64;

    fn lift((): (), _stamp: u64) -> u64 {
        1
    }

    fn merge(total: &mut u64, change: &u64) {
        // At a thousand million updates a second it takes 584 years.
        *total = total.saturating_add(*change);
    }

    fn total(value: &u64) -> Option<u64> {
        Some(*value)
    }

    fn encode(value: &u64, into: &mut Vec<u8>) {
        put_unsigned((*value).into(), into);
    }

    fn decode(bytes: &[u8]) -> Option<u64> {
        unsigned(bytes).and_then(|value| value.try_into().ok())
    }
}

/// The least `i64`.
#[derive(Debug)]
pub struct Min;

/// The greatest `i64`.
#[derive(Debug)]
pub struct Max;

macro_rules! extreme {
    ($fold:ident, $name:literal, $pick:ident) => {
        impl Fold for $fold {
            const NAME: &'static str = $name;
            type Change = i64;
            type Value = i64;
            type Total = i64;

            fn lift(change: i64, _stamp: u64) -> i64 {
                change
            }

            fn merge(total: &mut i64, change: &i64) {
                *total = (*total).$pick(*change);
            }

            fn total(value: &i64) -> Option<i64> {
                Some(*value)
            }

            fn encode(value: &i64, into: &mut Vec<u8>) {
                put_signed((*value).into(), into);
            }

            fn decode(bytes: &[u8]) -> Option<i64> {
                signed(bytes).and_then(|value| value.try_into().ok())
            }
        }
    };
}

extreme!(Min, "min", min);
extreme!(Max, "max", max);

/// The last value: of two updates one after the other the later one, whatever the wall clock does meanwhile.
#[derive(Debug)]
pub struct Last;

impl Fold for Last {
    const NAME: &'static str = "last";
    const STAMPED: bool = true;
    type Change = Vec<u8>;
    type Value = (u64, Vec<u8>);
    type Total = Vec<u8>;

    fn lift(change: Vec<u8>, stamp: u64) -> (u64, Vec<u8>) {
        (stamp, change)
    }

    fn merge(total: &mut (u64, Vec<u8>), change: &(u64, Vec<u8>)) {
        if *change > *total {
            total.clone_from(change);
        }
    }

    fn total(value: &(u64, Vec<u8>)) -> Option<Vec<u8>> {
        Some(value.1.clone())
    }

    fn encode(value: &(u64, Vec<u8>), into: &mut Vec<u8>) {
        into.extend_from_slice(&value.0.to_le_bytes());
        into.extend_from_slice(&value.1);
    }

    fn decode(bytes: &[u8]) -> Option<(u64, Vec<u8>)> {
        let (stamp, rest) = bytes.split_first_chunk::<8>()?;
        Some((u64::from_le_bytes(*stamp), rest.to_vec()))
    }

    fn heap_bytes(value: &(u64, Vec<u8>)) -> usize {
        value.1.len()
    }

    fn stamp(value: &(u64, Vec<u8>)) -> u64 {
        value.0
    }
}

/// Seven bits a byte, the low ones first; all but the last byte have their high bit set (LEB128).
pub(super) fn put_unsigned(mut value: u128, into: &mut Vec<u8>) {
    while value >= 0x80 {
        into.push(value as u8 | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
}

/// The number that the bytes, all of them, are.
fn unsigned(bytes: &[u8]) -> Option<u128> {
    let mut rest = bytes;
    take_unsigned(&mut rest).filter(|_| rest.is_empty())
}

/// The number at the start of the bytes, which go on behind it.
pub(super) fn take_unsigned(bytes: &mut &[u8]) -> Option<u128> {
    let mut value: u128 = 0;
    for shift in (0..128).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u128::from(byte & 0x7f);
        if part << shift >> shift != part {
            return None;
        }
        value |= part << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Small numbers of either sign in few bytes (zigzag).
fn put_signed(value: i128, into: &mut Vec<u8>) {
    put_unsigned(((value << 1) ^ (value >> 127)) as u128, into);
}

fn signed(bytes: &[u8]) -> Option<i128> {
    unsigned(bytes).map(|value| (value >> 1) as i128 ^ -((value & 1) as i128))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        let interesting =
            [0, 1, -1, 63, 64, -64, -65, i64::MAX.into(), i64::MIN.into(), i128::MAX, i128::MIN];
        for value in interesting {
            let mut bytes = Vec::new();
            put_signed(value, &mut bytes);
            assert_eq!(signed(&bytes), Some(value));
            assert_eq!(signed(&bytes[..bytes.len() - 1]), None, "{value} cut short");
            bytes.push(0);
            assert_eq!(signed(&bytes), None, "{value} with something behind it");
        }
        assert_eq!(unsigned(&[0xff; 19]), None, "more than 128 bits");
        assert_eq!(unsigned(&[]), None);
    }
}
