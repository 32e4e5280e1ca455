//! Every error that is public, each variant once: what its message says, and what is behind it.

use std::error::Error;
use std::fmt::Debug;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{Failure, SharedIo, error_chain};
use crate::error::{Damage, Defect};
use crate::log::Finding;
use crate::{
    AppendError, CloseError, ConsumerError, LogId, Lsn, MoveError, OpenError, Position, QueueError,
    ReadError, ShardId, TallyError, TruncateError, UpdateError,
};

const SHARD: ShardId = ShardId(77);
const LSN: Lsn = Lsn(4096);

/// One value of each variant, by its pattern. Does not compile where a variant is left out.
macro_rules! each {
    ($error:ident: $($pattern:pat => $value:expr),+ $(,)?) => {{
        #[deny(unreachable_patterns)]
        fn complete(error: &$error) {
            use $error::*;
            match error { $($pattern => {}),+ }
        }
        use $error::*;
        $({
            let value: $error = $value;
            complete(&value);
            assert!(matches!(&value, $pattern), "{value:?} is of another variant");
            check(&value);
        })+
    }};
}

fn path() -> PathBuf {
    PathBuf::from("/some/where")
}

fn name() -> String {
    "likes".to_owned()
}

fn io_error() -> io::Error {
    io::Error::from_raw_os_error(libc::EIO)
}

fn shared() -> SharedIo {
    Arc::new(io_error())
}

fn failure() -> Arc<Failure> {
    Arc::new(Failure { shard: SHARD, operation: "sync", path: path(), durable: LSN, source: io_error() })
}

fn id() -> LogId {
    LogId::from_bytes([7; 16])
}

fn position() -> Position {
    Position::new(SHARD, 1, LSN, LSN)
}

/// What holds for every error of the crate.
fn check<E: Error + Debug + 'static>(error: &E) {
    let (debug, line) = (format!("{error:?}"), error_chain(error).to_string());
    let sources = || std::iter::successors(Some(error as &(dyn Error + 'static)), |&error| error.source());
    for error in sources() {
        let (message, source) = (error.to_string(), error.source().map(ToString::to_string));
        assert!(!message.is_empty() && !message.contains("to be had"), "{message}");
        if let Some(source) = source {
            assert!(!message.contains(&source), "`{message}` prints `{source}`, which is its source");
        }
    }
    // What it holds, it tells: the reason that the system gave, ...
    let last = sources().last().unwrap();
    let told = last.downcast_ref::<io::Error>().or(last.downcast_ref::<SharedIo>().map(AsRef::as_ref));
    let told = told.and_then(io::Error::raw_os_error);
    assert_eq!(debug.contains("Os {"), told == Some(libc::EIO), "{debug}: the reason is not in its chain");
    // ... and where it happened.
    for (held, words) in [("ShardId(77)", "shard 77"), ("/some/where", "/some/where"), ("likes", "`likes`")] {
        // A position prints its shard in its own way.
        if debug.contains(held) && !debug.contains("Position") {
            assert!(line.contains(words), "`{line}` does not say {words}");
        }
    }
}

#[test]
fn opening_and_closing_tell_what_they_hold() {
    each!(OpenError:
        Locked { .. } => Locked { path: path(), owner: "process 7".into() },
        InvalidOption { .. } => InvalidOption { option: "shards", reason: "none".into() },
        Incompatible { .. } => Incompatible { option: "shards", there: "1".into(), asked: "2".into() },
        Unsupported { .. } => Unsupported { what: "io_uring", reason: "no".into(), source: Some(shared()) },
        Foreign { .. } => Foreign { path: path(), found: "x".into() },
        NotOfThisLog { .. } => NotOfThisLog { path: path(), found: "x".into(), log: path() },
        NoLog { .. } => NoLog { path: path() },
        Relocated { .. } => Relocated { path: path(), folder: path(), owner: path() },
        Damaged { .. } => Damaged { shard: SHARD, lsn: LSN, cause: Damage::Unreadable },
        ManifestDamaged { .. } =>
            ManifestDamaged { path: path(), first: Defect::Short, second: Defect::Missing },
        ManifestMissing { .. } => ManifestMissing { path: path() },
        OfTwoLogs { .. } => OfTwoLogs { path: path() },
        MapOlder { .. } => MapOlder { path: path(), version: 1, shard: SHARD, known: 2 },
        CannotRebuild { .. } => CannotRebuild { path: path(), reason: "two files".into() },
        TooNew { .. } => TooNew { path: path() },
        Forked => Forked,
        Io { .. } => Io { operation: "opening the directory", path: path(), source: shared() },
    );
    let unasked = OpenError::Unsupported { what: "durability", reason: "no".into(), source: None };
    check(&unasked);
    each!(CloseError:
        Closed => Closed,
        Forked => Forked,
        OwnThread => OwnThread,
        ShardFailed(_) => ShardFailed(failure()),
        Consumer(_) => Consumer(ConsumerError::Io { name: name(), source: shared() }),
        Queue(_) => Queue(QueueError::Io { name: name(), source: shared() }),
        Io { .. } => Io { shard: SHARD, source: shared() },
        Panicked => Panicked,
        NoThread { .. } => NoThread { source: shared() },
    );
}

#[test]
fn appends_and_updates_tell_what_they_hold() {
    check(failure().as_ref());
    each!(AppendError:
        Overloaded { .. } => Overloaded { shard: SHARD, retry_after: Duration::from_millis(1), cause: super::Cause::Delay },
        TooLarge { .. } => TooLarge { bytes: 2, limit: "record_bytes", limit_bytes: 1 },
        Conflict { .. } => Conflict { shard: SHARD, last: Some(Position::new(SHARD, 1, LSN, LSN)) },
        KeyRequired => KeyRequired,
        IdsNotKept => IdsNotKept,
        Unreadable { .. } => Unreadable { shard: SHARD, source: Box::new(ReadError::Io { shard: SHARD, source: shared() }) },
        EmptyBatch => EmptyBatch,
        MixedShards => MixedShards,
        MixedKeys => MixedKeys,
        NoSpace { .. } => NoSpace { shard: SHARD, source: shared() },
        NoSegment { .. } => NoSegment { shard: SHARD, source: shared() },
        ShardFailed(_) => ShardFailed(failure()),
        Closed => Closed,
        OwnThread => OwnThread,
        NoSuchShard(_) => NoSuchShard(SHARD),
        Forked => Forked,
    );
    each!(UpdateError:
        Overflow => Overflow,
        Overloaded { .. } => Overloaded { retry_after: Duration::from_millis(1) },
        TooManyKeys { .. } => TooManyKeys { keys_max: 1 },
        TooLarge { .. } => TooLarge { bytes: 2, bytes_max: 1 },
        Failed(_) => Failed(AppendError::ShardFailed(failure())),
        FoldPanicked => FoldPanicked,
        Closed => Closed,
        Forked => Forked,
    );
}

#[test]
fn readers_and_truncation_tell_what_they_hold() {
    each!(ReadError:
        Damaged { .. } => Damaged {
            shard: SHARD, lsn: LSN, end: Some(LSN), file: None, offset: 0, cause: Defect::Short,
        },
        Truncated { .. } => Truncated { shard: SHARD, lsn: LSN, horizon: LSN },
        NotAPosition(_) => NotAPosition(position()),
        NotDurableYet { .. } => NotDurableYet { shard: SHARD, lsn: LSN, durable: LSN },
        AboveEnd { .. } => AboveEnd { shard: SHARD, lsn: LSN, end: LSN },
        OtherHistory { .. } => OtherHistory { shard: SHARD, lsn: LSN, kept: LSN },
        Replaced { .. } => Replaced { path: "/log/shard-0003".into() },
        NoSuchShard(_) => NoSuchShard(SHARD),
        ShardFailed(_) => ShardFailed(failure()),
        Closed => Closed,
        OwnThread => OwnThread,
        Forked => Forked,
        Io { .. } => Io { shard: SHARD, source: shared() },
    );
    each!(TruncateError:
        NotARecord { .. } => NotARecord { shard: SHARD, lsn: LSN },
        InsideBatch { .. } => InsideBatch { shard: SHARD, lsn: LSN },
        Needed { .. } => Needed { shard: SHARD, from: LSN, by: "the tally `likes`".into() },
        Read(_) => Read(ReadError::ShardFailed(failure())),
        ShardFailed(_) => ShardFailed(failure()),
        Closed => Closed,
        OwnThread => OwnThread,
        NoSuchShard(_) => NoSuchShard(SHARD),
        Forked => Forked,
        Io { .. } => Io { shard: SHARD, operation: "writing the manifest", source: shared() },
    );
    each!(MoveError:
        NoSuchSlot { .. } => NoSuchSlot { slot: 9, slots: 8 },
        HistoryFull { .. } => HistoryFull { slot: 9, oldest: SHARD },
        ShardFailed(_) => ShardFailed(failure()),
        Closed => Closed,
        OwnThread => OwnThread,
        NoSuchShard(_) => NoSuchShard(SHARD),
        Forked => Forked,
        Io { .. } => Io { operation: "writing the log's manifest", source: shared() },
    );
    each!(Finding:
        Read(_) => Read(ReadError::Io { shard: SHARD, source: shared() }),
        End { .. } => End { shard: SHARD, lsn: LSN, cause: Damage::Unreadable },
    );
}

#[test]
fn consumers_and_tallies_tell_what_they_hold() {
    each!(ConsumerError:
        Name(_) => Name(name()),
        InUse(_) => InUse(name()),
        NotAPosition(_) => NotAPosition(position()),
        Damaged { .. } => Damaged { name: name() },
        AboveEnd { .. } => AboveEnd { name: name(), shard: SHARD, position: position(), end: LSN },
        OtherHistory { .. } => OtherHistory { name: name(), shard: SHARD, position: position(), end: LSN },
        OtherLog { .. } => OtherLog { name: name(), log: id(), own: id() },
        TooNew { .. } => TooNew { name: name() },
        Read(_) => Read(ReadError::ShardFailed(failure())),
        Io { .. } => Io { name: name(), source: shared() },
        Forked => Forked,
        Closed => Closed,
        Unknown(_) => Unknown(name()),
        List(_) => List(shared()),
    );
    each!(QueueError:
        Name(_) => Name(name()),
        Options { .. } => Options { option: "lease", reason: "none".into() },
        Unknown(_) => Unknown(name()),
        LeaseLost(_) => LeaseLost(position()),
        NotRejected(_) => NotRejected(position()),
        Damaged { .. } => Damaged { name: name() },
        TooNew { .. } => TooNew { name: name() },
        AboveEnd { .. } => AboveEnd { name: name(), shard: SHARD, position: position(), end: LSN },
        OtherHistory { .. } => OtherHistory { name: name(), shard: SHARD, position: position(), end: LSN },
        OtherLog { .. } => OtherLog { name: name(), log: id(), own: id() },
        Read(_) => Read(ReadError::ShardFailed(failure())),
        Io { .. } => Io { name: name(), source: shared() },
        Forked => Forked,
        Closed => Closed,
    );
    each!(TallyError:
        Name(_) => Name(name()),
        OtherFold { .. } => OtherFold { name: name(), fold: "sum" },
        NoSuchTally(_) => NoSuchTally(name()),
        Options { .. } => Options { option: "keys", reason: "none".into() },
        Damaged { .. } => Damaged { name: name(), what: "a record" },
        Truncated { .. } => Truncated { name: name(), shard: SHARD, needed: LSN, horizon: LSN },
        AboveEnd { .. } => AboveEnd { name: name(), shard: SHARD, needed: LSN, end: LSN },
        OtherHistory { .. } => OtherHistory { name: name(), shard: SHARD, needed: LSN },
        OtherLog { .. } => OtherLog { name: name(), log: id(), own: id() },
        TooNew { .. } => TooNew { name: name() },
        Read(_) => Read(ReadError::Io { shard: SHARD, source: shared() }),
        Failed(_) => Failed(AppendError::NoSpace { shard: SHARD, source: shared() }),
        FoldPanicked => FoldPanicked,
        Io { .. } => Io { name: name(), source: shared() },
        Closed => Closed,
        Forked => Forked,
    );
}

#[test]
fn only_a_lack_of_space_is_told_as_one() {
    let told = |code| AppendError::no_segment(SHARD, Arc::new(io::Error::from_raw_os_error(code)));
    for code in [libc::ENOSPC, libc::EDQUOT] {
        assert!(matches!(told(code), AppendError::NoSpace { .. }), "{code}");
    }
    for code in [libc::EMFILE, libc::ENFILE, libc::EIO, libc::EACCES, libc::ENOMEM, libc::EROFS] {
        let error = told(code);
        let (line, reason) =
            (error_chain(&error).to_string(), io::Error::from_raw_os_error(code).to_string());
        assert!(matches!(error, AppendError::NoSegment { .. }), "{code}");
        assert!(
            line.starts_with("shard 77 cannot make its next segment") && line.ends_with(&reason),
            "{line}"
        );
    }
}

#[test]
fn the_end_that_was_cut_is_told() {
    let told = |lsn, horizon| ReadError::Truncated { shard: SHARD, lsn: Lsn(lsn), horizon: Lsn(horizon) };
    assert_eq!(told(8, 9).to_string(), "LSN 8 of shard 77 was truncated; the log begins at 9");
    let cut_after = told(9, 9).to_string();
    assert!(cut_after.contains("the end of the log") && !cut_after.contains("begins"), "{cut_after}");
}
