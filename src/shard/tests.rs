//! Shards on a simulated machine, with options that hardly anybody would choose.

use std::time::Duration;

use crate::device::sim::{Faults, Random};
use crate::error::Cause;
use crate::options::Tuning;
use crate::simulation::Simulated;
use crate::{AppendError, Durability, Log, Options, Priority, ShardId, Write};

/// Appends to an idle log, which may need time to make room and nothing else.
fn finds_room(log: &Log, payload: &[u8], priority: Priority) {
    for _ in 0..20 {
        log.engine_for(b"").turn_until(|| false);
        match log.try_append(Write::new(payload).priority(priority)) {
            Ok(commit) => {
                commit.wait().unwrap();
                return;
            }
            Err(AppendError::Overloaded { .. }) => {}
            Err(error) => panic!("{} bytes: {error}", payload.len()),
        }
    }
    panic!("{} bytes are allowed and find no room at {priority:?}", payload.len());
}

fn odd_options(random: &mut Random) -> Options {
    let block = *random.pick(&[4096, 8192, 16384, 65536]);
    let blocks = 4 + random.below(20);
    let segment = (u64::from(block) * *random.pick(&[2, 3, 4, 5, 8, 12, 24, 40])).max(16384);
    let tuning = Tuning {
        first_segments_bytes: *random.pick(&[4096, 20480, 65536 + 4096, 1 << 20]),
        first_segment_bytes_min: 4096,
        ..Tuning::default()
    };
    let options = Options::new().shards(1).block_bytes(block).segment_bytes(segment);
    options.memory_bytes(u64::from(block) * blocks).tuned(tuning)
}

#[test]
fn what_is_allowed_finds_room_in_an_idle_log() {
    for seed in 0..400 {
        let mut random = Random::new(seed);
        let machine = Simulated::seed(seed);
        let log = odd_options(&mut random).device(&machine).open("/log").unwrap();
        let most = log.engine_for(b"").record_bytes() as usize;
        assert!(matches!(log.try_append(vec![0; most + 1]), Err(AppendError::TooLarge { .. })));
        for _ in 0..6 {
            // Of any size first, so that the ends of segments are met everywhere.
            for _ in 0..random.below(4) {
                log.append(vec![1; random.below(most as u64) as usize]).wait().unwrap();
            }
            let priority = *random.pick(&[Priority::Low, Priority::Low, Priority::Normal, Priority::High]);
            finds_room(&log, &vec![2; most], priority);
            // What a batch may be at the most, with its headers.
            let pieces = 1 + random.below(9) as usize;
            let each = vec![3; (most + 24) / pieces - 24.min(most / pieces)];
            let batch = vec![&each[..]; pieces];
            match log.append_batch(b"", &batch).wait() {
                Ok(positions) => assert_eq!(positions.len(), pieces),
                Err(error) => assert!(matches!(error, AppendError::TooLarge { .. }), "{error}"),
            }
        }
        log.close().unwrap();
        let log = Options::new().device(&machine).open("/log").unwrap();
        assert!(log.merged(..).unwrap().all(|record| record.is_ok()), "seed {seed}");
    }
}

/// A handle that is never polled stands before another one: virtual time passes for it as well.
#[test]
fn forgotten_handles_do_not_stop_a_shard_without_threads() {
    let machine = Simulated::seed(1);
    let options = Options::new().shards(1).block_bytes(4096).memory_bytes(16 << 10).segment_bytes(64 << 10);
    let log = options.device(&machine).open("/log").unwrap();
    for _ in 0..20 {
        // Until there is no room.
        while log.try_append(vec![1; 3_000]).is_ok() {}
        std::mem::forget(log.append(b"forgotten"));
        std::mem::forget(log.append(Write::new(b"forgotten").priority(Priority::High)));
        log.append(b"behind").wait().unwrap();
        log.try_append(b"x").unwrap().wait().unwrap();
    }
}

/// 63 days at 100,000 blocks a second.
#[test]
fn a_shard_goes_on_behind_any_number_of_blocks() {
    for before in [(1 << 39) - 10, 3 * (1 << 39) - 1] {
        let machine = Simulated::seed(before);
        let tuning = Tuning { blocks_before: before, ..Tuning::default() };
        let options =
            Options::new().shards(1).block_bytes(4096).memory_bytes(28 << 10).segment_bytes(64 << 10);
        let log = options.device(&machine).tuned(tuning).open("/log").unwrap();
        log.sync().wait().unwrap();
        for number in 0..60u8 {
            let position = log.append(vec![number; 7_000]).wait().unwrap();
            assert_eq!(log.get(position).unwrap().payload(), vec![number; 7_000]);
        }
        log.close().unwrap();
    }
}

/// A machine whose disk takes its time, and a log that may have one write in flight.
fn slow_log(machine: &Simulated, blocks: u64) -> Log {
    machine.set_faults(&Faults { latency_ns_max: 10_000_000, ..Faults::default() });
    let tuning = Tuning { device_depth: 1, shard_depth_min: 1, ..Tuning::default() };
    let options =
        Options::new().shards(1).block_bytes(16384).memory_bytes(16384 * blocks).segment_bytes(1 << 20);
    options.delay_target(Duration::from_millis(20)).device(machine).tuned(tuning).open("/log").unwrap()
}

/// Until something comes back, or a time is over.
fn pass(log: &Log) {
    let mut looks = 0;
    log.engine_for(b"").turn_until(|| {
        looks += 1;
        looks > 2
    });
}

/// Offers twice as much as comes back each time, a third of that of normal priority; gives what was refused, by priority.
fn flood(log: &Log, times: u32) -> [Vec<Cause>; 3] {
    let mut refused = [const { Vec::new() }; 3];
    for _ in 0..times {
        for (index, count, bytes) in [(0, 8, 3_000), (1, 2, 3_000), (2, 1, 500)] {
            let priority = [Priority::Low, Priority::Normal, Priority::High][index];
            for _ in 0..count {
                let write = Write::new(vec![1; bytes]).priority(priority).durability(Durability::Written);
                match log.try_append(write) {
                    Ok(_) => {}
                    Err(AppendError::Overloaded { cause, .. }) => refused[index].push(cause),
                    Err(error) => panic!("{error}"),
                }
            }
        }
        pass(log);
    }
    refused
}

/// With memory left for hundreds of blocks, what waits for too long is refused, by priority; once it is over, all get in.
#[test]
fn a_queue_that_is_too_slow_is_cut_and_let_go() {
    let machine = Simulated::seed(3);
    let log = slow_log(&machine, 400);
    flood(&log, 300);
    let [low, normal, high] = flood(&log, 400);
    // Once in a while the next segment is not ready.
    assert!(high.len() < 5 && !high.contains(&Cause::Delay), "{high:?}");
    assert!(
        low.len() > 400 && low.len() > 2 * normal.len(),
        "{} of low, {} of normal",
        low.len(),
        normal.len()
    );
    assert!(low.iter().filter(|&&cause| cause != Cause::Delay).count() < 20);
    let used = log.engine_for(b"").blocks_in_use();
    assert!(used < 20, "{used} blocks wait");
    let pressure = log.pressure();
    let [low, normal, high] = pressure.admitted;
    assert!(low < 0.9 && low < normal && high > 0.9, "{pressure:?}");
    assert!(pressure.drain_rate > 0 && !pressure.delay.is_zero(), "{pressure:?}");
    // Callers that wait get in, also with more than what anybody may have in use now.
    log.append(Write::new(vec![1; 9_000]).priority(Priority::Low)).wait().unwrap();
    log.append_batch(b"", &[[2; 3_000]; 60]).wait().unwrap();
    log.turn_shard(ShardId(0), false);
    assert_eq!(log.pressure().admitted, [1.0; 3]);
    for _ in 0..20 {
        if let Err(error) = log.try_append(Write::new(vec![1; 3_000]).priority(Priority::Low)) {
            assert!(matches!(error, AppendError::Overloaded { cause: Cause::Room, .. }), "{error}");
            pass(&log);
        }
    }
    log.close().unwrap();
}

/// What the log does beside its commits, which nobody waits for, makes no commit slow.
#[test]
fn a_call_that_takes_long_is_no_delay_of_appends() {
    let machine = Simulated::seed(6);
    let log = slow_log(&machine, 400);
    let engine = log.engine_for(b"");
    let out = engine.calls.begin();
    flood(&log, 3_000);
    let (told, hangs) = (log.pressure().delay, log.stats().shards[0].oldest_operation.unwrap());
    assert!(told < hangs / 4, "{told:?}, beside a call that has been out for {hangs:?}");
    let write = Write::new(vec![1; 500]).priority(Priority::High).deadline(hangs / 2);
    drop(log.try_append(write).unwrap());
    drop(out);
}

/// Callers that wait do not fill the queue past the target either: a record that matters finds it short.
#[test]
fn callers_that_wait_leave_the_queue_short() {
    let machine = Simulated::seed(4);
    let log = slow_log(&machine, 400);
    let mut used = Vec::new();
    for _ in 0..700 {
        let write = Write::new(vec![1; 15_000]).durability(Durability::Buffered);
        drop(log.append(write).admitted().wait().unwrap());
        used.push(log.engine_for(b"").blocks_in_use());
    }
    let (most, late) = (used.iter().max().unwrap(), used[600..].iter().max().unwrap());
    assert!(*late < 12 && *most > 300, "{late} blocks wait at the end, {most} at the most");
}

/// Who waits for room gives up at the deadline, in virtual time, and is not in the log.
#[test]
fn a_deadline_that_passes_in_line_is_told() {
    let machine = Simulated::seed(5);
    let log = slow_log(&machine, 4);
    let shard = log.shard(ShardId(0));
    let (mut accepted, mut in_line) = (0, 0);
    for _ in 0..300 {
        let write = Write::new(vec![1; 15_000]).deadline(Duration::from_millis(30));
        let refused = log.stats().shards[0].refused;
        let append = log.append(write.durability(Durability::Buffered)).admitted();
        // It was not refused at once.
        let waits = log.stats().shards[0].refused == refused;
        match append.wait() {
            Ok(_) => accepted += 1,
            Err(AppendError::Overloaded { cause: Cause::Deadline, .. }) => {
                in_line += u32::from(waits);
                log.sync().wait().unwrap();
            }
            Err(error) => panic!("{error}"),
        }
        // The device hangs now and then, longer than anybody waits.
        machine.set_faults(&Faults { latency_ns_max: 10_000_000, stuck: 30, ..Faults::default() });
    }
    assert!(in_line > 2 && accepted > 10, "{in_line} given up in line, {accepted} accepted");
    log.sync().wait().unwrap();
    assert_eq!(shard.read(..).unwrap().count(), accepted);
}
