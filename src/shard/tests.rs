//! Shards on a simulated machine, with options that hardly anybody would choose.

use crate::device::sim::Random;
use crate::options::Tuning;
use crate::simulation::Simulated;
use crate::{AppendError, Log, Options, Priority, Write};

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
