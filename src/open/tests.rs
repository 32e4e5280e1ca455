//! Logs over several folders, on the simulated machine.

use std::path::Path;

use crate::device::sim::{End, Faults, SimMachine};
use crate::simulation::Simulated;
use crate::{AppendError, Log, OpenError, Options, ShardId};

fn options(machine: &SimMachine) -> Options {
    let options = Options::new().shards(2).block_bytes(4096).segment_bytes(64 << 10).memory_bytes(64 << 10);
    options.directories(["/own", "/other"]).device(&Simulated::of(machine))
}

fn append_to_both(log: &Log) {
    for shard in 0..2 {
        log.shard(ShardId(shard)).append(b"x").wait().unwrap();
    }
}

fn count(log: &Log) -> [usize; 2] {
    [0, 1].map(|shard| {
        let records = log.shard(ShardId(shard)).read(..).unwrap();
        records.collect::<Result<Vec<_>, _>>().unwrap().len()
    })
}

fn lose_power(machine: &SimMachine, log: Log) {
    machine.stop();
    drop(log);
    machine.restart(End::PowerCut);
}

/// Of two shards one lies where synchronous writes are honoured, and so does the log itself.
#[test]
fn blocks_are_made_durable_as_the_file_system_of_their_shard_needs() {
    for seed in 0..20 {
        let machine = SimMachine::new(seed);
        machine.make_deaf("/other/shard-0001");
        let log = options(&machine).open("/log").unwrap();
        append_to_both(&log);
        let stats = log.stats();
        let through = [0, 1].map(|shard| stats.shards[shard].capabilities.write_through);
        assert_eq!(through, [true, false]);
        let line = stats.notices.iter().find(|line| line.contains("opened")).unwrap();
        let [own, other] = ["shard 0: ", "shard 1: "].map(|shard| line.split(shard).nth(1).unwrap());
        assert!(own.split(';').next().unwrap().contains("RWF_DSYNC"), "{line}");
        assert!(other.split(';').next().unwrap().contains("fdatasync"), "{line}");
        lose_power(&machine, log);
        let log = options(&machine).open("/log").unwrap();
        assert_eq!(count(&log), [1, 1], "seed {seed}");
        // And so in the epoch that a cut begins.
        let shard = log.shard(ShardId(1));
        let first = shard.read(..).unwrap().next().unwrap().unwrap().lsn();
        append_to_both(&log);
        shard.truncate_after(first).unwrap();
        append_to_both(&log);
        lose_power(&machine, log);
        assert_eq!(count(&options(&machine).open("/log").unwrap()), [3, 2], "seed {seed}");
    }
}

/// Whatever step the making of a log is interrupted at, by a kill or a power cut, the next open makes it.
#[test]
fn an_interrupted_making_is_taken_up() {
    let mut longest = 0;
    for seed in 0..400 {
        let machine = SimMachine::new(seed);
        let step = seed / 4;
        machine.set_faults(Faults { stop_at: Some(step), ..Faults::default() });
        let opened = options(&machine).open("/log");
        if !machine.has_stopped() {
            continue;
        }
        longest = longest.max(step);
        drop(opened);
        machine.restart(if seed % 4 == 0 { End::Kill } else { End::PowerCut });
        machine.set_faults(Faults::default());
        let log = options(&machine).open("/log").unwrap_or_else(|error| panic!("step {step}: {error}"));
        append_to_both(&log);
        lose_power(&machine, log);
        assert_eq!(count(&options(&machine).open("/log").unwrap()), [1, 1], "step {step}");
    }
    assert!(longest > 50, "{longest} steps");
}

/// What another log began to make is not taken up, at whatever step that was interrupted.
#[test]
fn what_another_log_began_is_left_alone() {
    let (mut refused, mut made) = (0, 0);
    for step in 1..100 {
        let machine = SimMachine::new(step);
        machine.set_faults(Faults { stop_at: Some(step), ..Faults::default() });
        drop(options(&machine).open("/log"));
        if !machine.has_stopped() {
            continue;
        }
        machine.restart(End::Kill);
        machine.set_faults(Faults::default());
        let files = machine.files();
        match options(&machine).open("/second") {
            Ok(_) => made += 1,
            Err(OpenError::NotOfThisLog { path, .. }) => {
                refused += 1;
                assert!(path.ends_with("shard-0000") || path.ends_with("shard-0001"), "{}", path.display());
                assert_eq!(machine.files(), files, "nothing was made or removed");
                // The log itself can still be made.
                drop(options(&machine).open("/log").unwrap());
            }
            Err(error) => panic!("step {step}: {error}"),
        }
    }
    assert!(refused > 10 && made > 5, "{refused} refused, {made} made");
}

/// Neither beside its owner nor after it.
#[test]
fn no_log_is_made_over_another() {
    let machine = SimMachine::new(1);
    let log = options(&machine).open("/log").unwrap();
    append_to_both(&log);
    let refused = || {
        let error = options(&machine).open("/second").unwrap_err();
        assert!(
            matches!(&error, OpenError::NotOfThisLog { log, .. } if log == Path::new("/second")),
            "{error}"
        );
    };
    refused();
    append_to_both(&log);
    log.close().unwrap();
    drop(log);
    refused();
    assert_eq!(count(&options(&machine).open("/log").unwrap()), [2, 2]);
    // Its own manifest is lost: the shards are somebody's all the same.
    let folder = Simulated::of(&machine).device().directory(Path::new("/log")).unwrap();
    for name in ["log.manifest.0", "log.manifest.1"] {
        folder.remove(name).unwrap();
    }
    let files = machine.files();
    let error = options(&machine).open("/log").unwrap_err();
    assert!(matches!(&error, OpenError::NotOfThisLog { .. }), "{error}");
    assert_eq!(machine.files(), files);
}

/// The log's own directory was copied, and the shards lie elsewhere.
#[test]
fn shards_have_one_owner_also_where_the_logs_own_directory_was_copied() {
    let machine = SimMachine::new(1);
    let log = options(&machine).open("/log").unwrap();
    let device = Simulated::of(&machine).device();
    let [from, to] = ["/log", "/copy"].map(|path| device.directory(Path::new(path)).unwrap());
    for name in ["log.manifest.0", "log.manifest.1"] {
        let mut bytes = crate::pool::AlignedBuffer::zeroed(64 << 10).unwrap();
        from.open(name).unwrap().read_at(&mut bytes, 0).unwrap();
        to.create(name).unwrap().write_at(&bytes, 0, true).unwrap();
    }
    let error = options(&machine).open("/copy").unwrap_err();
    assert!(
        matches!(&error, OpenError::Locked { path, .. } if path == Path::new("/own/shard-0000")),
        "{error}"
    );
    append_to_both(&log);
    log.close().unwrap();
    drop(log);
    // Nor after it, until the copy is said to be the log.
    let error = options(&machine).open("/copy").unwrap_err();
    assert!(matches!(&error, OpenError::Relocated { owner, .. } if owner == Path::new("/log")), "{error}");
    assert_eq!(count(&options(&machine).open("/log").unwrap()), [1, 1]);
    assert_eq!(count(&options(&machine).relocated(true).open("/copy").unwrap()), [1, 1]);
    let error = options(&machine).open("/log").unwrap_err();
    assert!(matches!(&error, OpenError::Relocated { owner, .. } if owner == Path::new("/copy")), "{error}");
}

fn fill(log: &Log, records: usize) -> Result<(), AppendError> {
    (0..records).try_for_each(|_| log.append(vec![7; 2000]).wait().map(drop))
}

fn one(machine: &SimMachine) -> Options {
    let options = Options::new().shards(1).block_bytes(4096).segment_bytes(64 << 10).memory_bytes(64 << 10);
    options.device(&Simulated::of(machine))
}

/// How many records there are of the only shard.
fn all_of(machine: &SimMachine, path: &str) -> usize {
    let log = one(machine).open(path).unwrap();
    log.shard(ShardId(0)).read(..).unwrap().map(Result::unwrap).count()
}

/// Both make, recycle and remove segments; and the power is cut at last.
#[test]
fn a_renamed_log_and_a_new_one_in_its_place_keep_apart() {
    for seed in 0..20 {
        let machine = SimMachine::new(seed);
        let first = one(&machine).open("/log").unwrap();
        fill(&first, 50).unwrap();
        machine.rename("/log", "/moved");
        let second = one(&machine).open("/log").unwrap();
        for _ in 0..10 {
            fill(&first, 20).unwrap();
            fill(&second, 30).unwrap();
        }
        assert!(first.stats().shards[0].folder_moved && !second.stats().shards[0].folder_moved);
        machine.stop();
        drop((first, second));
        machine.restart(End::PowerCut);
        assert_eq!((all_of(&machine, "/moved"), all_of(&machine, "/log")), (250, 300), "seed {seed}");
    }
}

#[test]
fn a_removed_folder_is_told_with_the_next_segment() {
    let machine = SimMachine::new(1);
    let log = one(&machine).open("/log").unwrap();
    fill(&log, 10).unwrap();
    machine.remove("/log");
    let error = fill(&log, 100).unwrap_err();
    assert!(matches!(&error, AppendError::ShardFailed(_)), "{error}");
    assert!(crate::error_chain(&error).to_string().contains("the folder was removed"), "{error}");
    assert!(log.close().is_err());
}

#[test]
fn a_log_that_is_not_there_is_not_made_against_the_callers_will() {
    let machine = SimMachine::new(1);
    let error = options(&machine).create(false).open("/log").unwrap_err();
    assert!(matches!(&error, OpenError::NoLog { path } if path == Path::new("/log")), "{error}");
    assert_eq!(machine.files(), 0);
    drop(options(&machine).open("/log").unwrap());
    drop(options(&machine).create(false).open("/log").unwrap());
}
