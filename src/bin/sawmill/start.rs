//! Where to begin to read: places and times as people write them.

use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At a place of a shard.
    Lsn(u64),
    /// At a time, in nanoseconds since the Unix epoch.
    Time(u64),
}

impl FromStr for Start {
    type Err = String;

    fn from_str(text: &str) -> Result<Start, String> {
        if let Some(number) = text.strip_suffix("ns") {
            return number.parse().map(Start::Time).map_err(|_| format!("{number:?} is no number"));
        }
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            return text.parse().map(Start::Lsn).map_err(|error| error.to_string());
        }
        // A time without an offset is parsed whatever stands in brackets behind it.
        let timestamp = if text.contains('[') { None } else { time(text) };
        let timestamp = timestamp.ok_or("neither an LSN nor a time, such as 2026-11-27T20:00")?;
        let nanoseconds = u64::try_from(timestamp.as_nanosecond());
        nanoseconds.map(Start::Time).map_err(|_| "no log has records of that time".into())
    }
}

/// A time with its offset from UTC, or of UTC.
fn time(text: &str) -> Option<Timestamp> {
    let with_offset = text.parse().ok();
    with_offset.or_else(|| TimeZone::UTC.to_timestamp(text.parse::<DateTime>().ok()?).ok())
}

#[cfg(test)]
mod tests {
    use super::Start;

    const EIGHT: u64 = 1_795_809_600_000_000_000;

    #[test]
    fn times_are_of_utc_unless_they_say_otherwise() {
        for text in [
            "2026-11-27T20:00",
            "2026-11-27T20:00Z",
            "2026-11-27 20:00",
            "2026-11-27T20:00:00",
            "2026-11-27T20:00:00.000Z",
            "2026-11-27T22:30+02:30",
            "2026-11-27T15:00:00-05:00",
            "1795809600000000000ns",
        ] {
            assert_eq!(text.parse(), Ok(Start::Time(EIGHT)), "{text}");
        }
        assert_eq!("2026-11-27T20:00:00.000000001".parse(), Ok(Start::Time(EIGHT + 1)));
        assert_eq!("2026-11-27".parse(), Ok(Start::Time(EIGHT - 20 * 3_600_000_000_000)));
        assert_eq!("1970-01-01".parse(), Ok(Start::Time(0)));
    }

    #[test]
    fn digits_are_a_place() {
        assert_eq!("0".parse(), Ok(Start::Lsn(0)));
        assert_eq!("18446744073709551615".parse(), Ok(Start::Lsn(u64::MAX)));
    }

    #[test]
    fn what_is_neither_is_refused() {
        for text in [
            "",
            "ns",
            "-1",
            "1ms",
            "yesterday",
            "20:00",
            "2026-11-31",
            "2026-13-01T00:00",
            "2026-11-27T25:00",
            "2026-11-27T20:00[Europe/Berlin]",
            "1969-12-31T23:59:59",
            "2600-01-01",
            "18446744073709551616",
        ] {
            assert!(text.parse::<Start>().is_err(), "{text}: {:?}", text.parse::<Start>());
        }
    }
}
