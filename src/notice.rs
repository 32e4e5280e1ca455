//! What an operator should know: one line each, logged and kept for `stats()`.

#[cfg(feature = "tracing")]
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use crate::sync::lock;

/// Lines that are kept; more would be a log file of their own.
const KEPT_MAX: usize = 64;

/// How much a line matters: where there is no room, what matters least goes first, and the oldest of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Info,
    Warn,
    Error,
}

/// A line, and how often it was told.
#[derive(Debug)]
struct Line {
    level: Level,
    text: String,
    times: u64,
}

/// The lines of one log, in the order in which they were last told.
#[derive(Debug, Default)]
pub(crate) struct Notices(Mutex<Vec<Line>>);

/// Whether two lines tell of the same: they differ in numbers alone, such as sizes and times, behind the colon which
/// follows what they are about.
fn is_repeat(old: &str, new: &str) -> bool {
    let parts = |text: &str| text.find(':').unwrap_or(text.len());
    let (old, new) = (old.split_at(parts(old)), new.split_at(parts(new)));
    fn words(text: &str) -> impl Iterator<Item = &str> {
        text.split(|c: char| c.is_ascii_digit() || c == '.').filter(|word| !word.is_empty())
    }
    old.0 == new.0 && words(old.1).eq(words(new.1))
}

/// Lets the application's subscriber have a line. What panics there ends there: the line may be told in the middle of
/// stopping a shard, or by a thread that everybody needs.
#[cfg(feature = "tracing")]
fn tell(line: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(line));
}

impl Notices {
    fn keep(&self, level: Level, text: String) {
        let mut lines = lock(&self.0);
        let same = lines.iter().position(|line| line.level == level && is_repeat(&line.text, &text));
        let before = same.map_or(0, |index| lines.remove(index).times);
        if lines.len() == KEPT_MAX {
            let least = lines.iter().map(|line| line.level).min().expect("they are many");
            let oldest = lines.iter().position(|line| line.level == least).expect("just seen");
            lines.remove(oldest);
        }
        lines.push(Line { level, text, times: before + 1 });
    }

    pub(crate) fn info(&self, text: String) {
        #[cfg(feature = "tracing")]
        tell(|| tracing::info!(target: "sawmill", "{text}"));
        self.keep(Level::Info, text);
    }

    pub(crate) fn warn(&self, text: String) {
        #[cfg(feature = "tracing")]
        tell(|| tracing::warn!(target: "sawmill", "{text}"));
        self.keep(Level::Warn, text);
    }

    pub(crate) fn error(&self, text: String) {
        #[cfg(feature = "tracing")]
        tell(|| tracing::error!(target: "sawmill", "{text}"));
        self.keep(Level::Error, text);
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        let told = |line: &Line| match line.times {
            1 => line.text.clone(),
            times => format!("{} ({times} times)", line.text),
        };
        lock(&self.0).iter().map(told).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_repeats_is_counted_and_leaves_room_for_what_matters() {
        let notices = Notices::default();
        notices.info("opened /log: 2 shards".into());
        for round in 0..1_000 {
            notices.warn(format!("shard 0: retention: writing {round:010}.seg: after {round}.5s"));
            notices.warn("consumer mailer: the disk is full".into());
        }
        notices.warn("shard 1: retention: writing 0000000007.seg: after 1s".into());
        notices.error("shard 0 stopped".into());
        let expected = [
            "opened /log: 2 shards",
            "shard 0: retention: writing 0000000999.seg: after 999.5s (1000 times)",
            "consumer mailer: the disk is full (1000 times)",
            "shard 1: retention: writing 0000000007.seg: after 1s",
            "shard 0 stopped",
        ];
        assert_eq!(notices.lines(), expected);
    }

    #[test]
    fn the_newest_are_kept_and_what_matters_most_longest() {
        let notices = Notices::default();
        notices.error("shard 0 stopped".into());
        let name = |index: u8| format!("consumer {}", char::from(b'!' + index));
        (0..90).for_each(|index| notices.warn(name(index)));
        let lines = notices.lines();
        assert_eq!(lines.len(), KEPT_MAX);
        assert_eq!([&lines[0], &lines[1]], ["shard 0 stopped", &name(90 - 63)]);
        assert_eq!(lines[63], name(89));
        (0..90).for_each(|index| notices.info(format!("{} again", name(index))));
        assert_eq!(notices.lines()[0], "shard 0 stopped", "however many there are of what matters less");
    }
}
