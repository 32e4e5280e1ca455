//! Histories by seed against an oracle that knows only which sectors a device would still hold.

use super::*;

const CONFIG: CommitterConfig = CommitterConfig {
    seal_threshold: SealThreshold { numerator: 1, denominator: 2 },
    method: SyncMethod::WriteThrough,
    depth: 4,
    background_ns: 1_000,
    marker_delay_ns: 100,
    marker_interval_ns: 10_000,
};

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        // SplitMix64 (Steele, Lea, Flood 2014).
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

fn block(sequence: u64, urgency: Urgency) -> Sealed {
    let (sequence, end) = (Sequence(sequence), Lsn(sequence * 4096));
    Sealed { sequence, end, bytes: 4096, file: 1, urgency, records: 1, group: None }
}

/// Whether the open block is sealed now.
fn seals(committer: &mut Committer, pending: Pending, now: Nanos) -> bool {
    committer.note_pending(&pending, now);
    committer.should_seal(&pending, now)
}

fn write(action: Option<Action>) -> (OperationId, Sequence, bool) {
    match action {
        Some(Action::Write { operation, sequence, sync }) => (operation, sequence, sync),
        other => panic!("expected a write, got {other:?}"),
    }
}

/// Bytes in flight are bounded, but for a second block, which the device is to have when it is done with the first.
#[test]
fn no_more_is_in_flight_than_the_device_is_to_have() {
    for (most, begun) in [(0, 2), (4096, 2), (2 * 4096 + 1, 3), (u64::MAX, 4)] {
        let mut committer = Committer::new(CONFIG, Lsn(0), Sequence(0));
        committer.bound_flight(most);
        (1..=6).for_each(|sequence| committer.handle_sealed(block(sequence, Urgency::Written), Nanos(0)));
        let actions: Vec<Action> = std::iter::from_fn(|| committer.poll_action()).collect();
        assert_eq!((actions.len(), committer.has_room()), (begun, false), "{most}");
        // As one comes back, the next goes out.
        let (operation, ..) = write(actions.into_iter().next());
        committer.handle_completion(operation, true, Nanos(1));
        assert!(
            committer.has_room() && committer.poll_action().is_some() && committer.poll_action().is_none()
        );
    }
}

#[test]
fn a_synchronous_write_covers_its_own_bytes_only() {
    let mut committer = Committer::new(CONFIG, Lsn(0), Sequence(0));
    committer.handle_sealed(block(1, Urgency::Written), Nanos(0));
    let (plain, _, sync) = write(committer.poll_action());
    assert!(!sync, "nobody waits for the first block to be durable when it is written");
    committer.handle_sealed(block(2, Urgency::Synced), Nanos(0));
    let (through, _, sync) = write(committer.poll_action());
    assert!(sync);
    committer.handle_completion(plain, true, Nanos(1));
    committer.handle_completion(through, true, Nanos(2));
    assert_eq!(committer.watermarks().written, Lsn(8192));
    assert_eq!(committer.watermarks().durable, Lsn(0), "the plain write below is not covered");
    let Some(Action::Sync { operation, file: 1 }) = committer.poll_action() else { panic!("a sync is due") };
    committer.handle_completion(operation, true, Nanos(3));
    assert_eq!(committer.watermarks().durable, Lsn(8192));
}

#[test]
fn nothing_is_durable_out_of_order() {
    let mut committer = Committer::new(CONFIG, Lsn(0), Sequence(0));
    for sequence in 1..=2 {
        committer.handle_sealed(block(sequence, Urgency::Synced), Nanos(0));
    }
    let (first, ..) = write(committer.poll_action());
    let (second, ..) = write(committer.poll_action());
    committer.handle_completion(second, true, Nanos(1));
    assert_eq!(committer.watermarks().written, Lsn(0));
    committer.handle_completion(first, true, Nanos(1));
    assert_eq!(committer.watermarks().durable, Lsn(8192));
}

#[test]
fn a_failure_is_final() {
    for failed_sync in [false, true] {
        let mut committer =
            Committer::new(CommitterConfig { method: SyncMethod::Flush, ..CONFIG }, Lsn(0), Sequence(0));
        committer.handle_sealed(block(1, Urgency::Synced), Nanos(0));
        committer.handle_sealed(block(2, Urgency::Synced), Nanos(0));
        let (first, ..) = write(committer.poll_action());
        let (second, ..) = write(committer.poll_action());
        committer.handle_completion(first, true, Nanos(1));
        let Some(Action::Sync { operation, .. }) = committer.poll_action() else { panic!("a sync is due") };
        let (bad, good) = if failed_sync { (operation, second) } else { (second, operation) };
        committer.handle_completion(bad, false, Nanos(2));
        committer.handle_completion(good, true, Nanos(3));
        assert!(committer.failed());
        assert_eq!(committer.watermarks().durable, Lsn(0));
        assert_eq!(committer.poll_action(), None);
        assert!(!seals(
            &mut committer,
            Pending { sequence: Sequence(3), bytes: 8, urgency: Urgency::Synced },
            Nanos(9)
        ));
    }
}

#[test]
fn the_durable_lsn_stops_at_an_open_group() {
    let mut committer = Committer::new(CONFIG, Lsn(0), Sequence(0));
    let group = Group { before: Lsn(4096) };
    committer.handle_sealed(block(1, Urgency::Synced), Nanos(0));
    committer.handle_sealed(Sealed { group: Some(group), ..block(2, Urgency::Synced) }, Nanos(0));
    committer.handle_sealed(block(3, Urgency::Synced), Nanos(0));
    for _ in 0..2 {
        let (operation, ..) = write(committer.poll_action());
        committer.handle_completion(operation, true, Nanos(1));
    }
    let marks = committer.watermarks();
    assert_eq!((marks.covered, marks.durable), (Lsn(8192), group.before));
    let (operation, ..) = write(committer.poll_action());
    committer.handle_completion(operation, true, Nanos(1));
    assert_eq!(committer.watermarks().durable, Lsn(3 * 4096));
}

#[test]
fn what_nobody_waits_for_is_written_and_synced_in_the_background() {
    let mut committer = Committer::new(CONFIG, Lsn(0), Sequence(0));
    let pending = Pending { sequence: Sequence(1), bytes: 64, urgency: Urgency::Background };
    assert!(!seals(&mut committer, pending, Nanos(500)));
    assert_eq!(committer.poll_timeout(), Some(Nanos(1_500)));
    assert!(seals(&mut committer, pending, Nanos(1_500)));
    committer.handle_sealed(block(1, Urgency::Background), Nanos(1_500));
    let (operation, _, sync) = write(committer.poll_action());
    assert!(!sync);
    committer.handle_completion(operation, true, Nanos(2_000));
    committer.note_pending(&Pending { sequence: Sequence(1), bytes: 0, ..pending }, Nanos(2_000));
    assert_eq!(committer.poll_action(), None);
    assert_eq!(committer.poll_timeout(), Some(Nanos(3_000)));
    committer.handle_time(Nanos(3_000));
    let Some(Action::Sync { operation, .. }) = committer.poll_action() else { panic!("a sync is due") };
    committer.handle_completion(operation, true, Nanos(3_100));
    assert_eq!(committer.watermarks().durable, Lsn(4096));
    assert!(committer.is_settled());
}

#[test]
fn markers_are_armed_by_data_alone_and_limited_in_rate() {
    let mut committer = Committer::new(CONFIG, Lsn(0), Sequence(0));
    assert_eq!(committer.poll_timeout(), None, "an empty shard needs no marker");
    committer.handle_sealed(block(1, Urgency::Synced), Nanos(0));
    assert!(!committer.should_write_marker(Nanos(1_000)), "not while something is in flight");
    let (operation, ..) = write(committer.poll_action());
    committer.handle_completion(operation, true, Nanos(1_000));
    assert_eq!(committer.poll_timeout(), Some(Nanos(1_100)));
    assert!(committer.should_write_marker(Nanos(1_100)));
    committer.handle_sealed(Sealed { records: 0, ..block(2, Urgency::Synced) }, Nanos(1_100));
    let (operation, ..) = write(committer.poll_action());
    committer.handle_completion(operation, true, Nanos(1_200));
    assert_eq!(committer.poll_timeout(), None, "a marker arms no marker");
    committer.handle_sealed(block(3, Urgency::Synced), Nanos(1_300));
    let (operation, ..) = write(committer.poll_action());
    committer.handle_completion(operation, true, Nanos(1_400));
    assert_eq!(committer.poll_timeout(), Some(Nanos(11_100)), "one in an interval");
}

#[test]
fn a_marker_without_a_place_is_put_off() {
    let mut committer = Committer::new(CONFIG, Lsn(0), Sequence(0));
    committer.handle_sealed(block(1, Urgency::Synced), Nanos(0));
    let (operation, ..) = write(committer.poll_action());
    committer.handle_completion(operation, true, Nanos(1_000));
    assert!(committer.should_write_marker(Nanos(1_100)));
    committer.postpone_marker(Nanos(1_100));
    assert!(!committer.should_write_marker(Nanos(1_200)), "not before another interval is over");
    assert!(committer.should_write_marker(Nanos(11_100)));
    committer.disarm_marker();
    assert_eq!(committer.poll_timeout(), None, "there is no place for one");
    committer.arm_marker();
    assert!(committer.should_write_marker(Nanos(11_100)), "now there is");
}

#[test]
fn a_block_gathers_from_when_it_was_opened() {
    let mut committer = Committer::new(CONFIG, Lsn(0), Sequence(0));
    let pending =
        |sequence| Pending { sequence: Sequence(sequence), bytes: 64, urgency: Urgency::Background };
    assert!(!committer.is_lingering());
    assert!(!seals(&mut committer, pending(1), Nanos(500)));
    assert!(committer.is_lingering());
    // The next block is another one: its time begins anew.
    assert!(!seals(&mut committer, pending(2), Nanos(1_400)));
    assert_eq!(committer.poll_timeout(), Some(Nanos(2_400)));
    // Somebody wants all up to it durable: it gathers no longer.
    committer.handle_sync_request(Sequence(2));
    assert!(seals(&mut committer, pending(2), Nanos(1_401)));
    assert!(!committer.is_lingering());
}

/// Adaptive sealing: at once when idle; else half a mean block must wait.
#[test]
fn sealing_adapts_to_what_is_in_flight() {
    let mut committer = Committer::new(CONFIG, Lsn(0), Sequence(0));
    let pending = |bytes| Pending { sequence: Sequence(2), bytes, urgency: Urgency::Synced };
    assert!(seals(&mut committer, pending(8), Nanos(0)));
    committer.handle_sealed(block(1, Urgency::Synced), Nanos(0));
    write(committer.poll_action());
    assert!(!seals(&mut committer, pending(2047), Nanos(0)));
    // A deadline in the past would make the shard's thread spin until the write completes.
    assert_eq!(committer.poll_timeout(), None);
    assert!(seals(&mut committer, pending(2048), Nanos(0)));
}

/// What a device holds for certain: the oracle of the history test, by the rule alone.
#[derive(Default)]
struct Oracle {
    /// Per block: its sequence, and whether it is reaped, and covered.
    blocks: Vec<(u64, bool, bool)>,
    /// The last block sealed or passed over.
    last: u64,
    /// Per sync in flight: what it covers when it completes.
    syncs: Vec<(OperationId, Vec<usize>)>,
}

impl Oracle {
    fn covered_prefix(&self) -> usize {
        self.blocks.iter().take_while(|(.., covered)| *covered).count()
    }

    /// The last block before the first one whose memory the device may still read.
    fn done(&self) -> u64 {
        let unfinished = self.blocks.iter().find(|(_, reaped, _)| !reaped);
        unfinished.map_or(self.last, |(sequence, ..)| sequence - 1)
    }
}

#[test]
fn histories_never_acknowledge_what_is_not_covered() {
    for seed in 0..3_000u64 {
        history(seed);
    }
}

fn history(seed: u64) {
    let random = &mut Random(seed);
    let method = if random.below(2) == 0 { SyncMethod::WriteThrough } else { SyncMethod::Flush };
    let depth = 1 + random.below(6) as u32;
    let mut committer = Committer::new(CommitterConfig { method, depth, ..CONFIG }, Lsn(0), Sequence(0));
    let mut oracle = Oracle::default();
    let mut files = Vec::new();
    let mut in_flight: Vec<Action> = Vec::new();
    let (mut now, mut last) = (Nanos(0), committer.watermarks());
    for _ in 0..120 {
        now = now + random.below(400);
        match random.below(5) {
            0 => {
                oracle.last += 1;
                let sequence = oracle.last;
                let urgency =
                    [Urgency::Background, Urgency::Written, Urgency::Synced][random.below(3) as usize];
                let file = sequence as u32 / 7;
                let end = Lsn((oracle.blocks.len() as u64 + 1) * 4096);
                committer.handle_sealed(Sealed { file, end, ..block(sequence, urgency) }, now);
                oracle.blocks.push((sequence, false, false));
                files.push(file);
            }
            1 => {
                committer.handle_time(now);
                committer.bound_flight([0, 9_000, u64::MAX][random.below(3) as usize]);
            }
            2 if random.below(3) == 0 => {
                oracle.last += 1;
                committer.handle_void(Sequence(oracle.last));
            }
            _ if !in_flight.is_empty() => {
                let action = in_flight.swap_remove(random.below(in_flight.len() as u64) as usize);
                match action {
                    Action::Write { operation, sequence, sync } => {
                        let own = oracle.blocks.iter_mut().find(|(own, ..)| *own == sequence.0).unwrap();
                        *own = (sequence.0, true, sync);
                        committer.handle_completion(operation, true, now);
                    }
                    Action::Sync { operation, .. } => {
                        let at = oracle.syncs.iter().position(|(own, _)| *own == operation).unwrap();
                        for block in oracle.syncs.swap_remove(at).1 {
                            oracle.blocks[block].2 = true;
                        }
                        committer.handle_completion(operation, true, now);
                    }
                }
            }
            _ => {}
        }
        while let Some(action) = committer.poll_action() {
            if let Action::Sync { operation, file } = action {
                let reaped = |&block: &usize| oracle.blocks[block].1 && files[block] == file;
                oracle.syncs.push((operation, (0..oracle.blocks.len()).filter(reaped).collect()));
            }
            in_flight.push(action);
        }
        let writes = in_flight.iter().filter(|action| matches!(action, Action::Write { .. })).count();
        let syncs = in_flight.len() - writes;
        assert!(writes <= depth as usize, "seed {seed}: {writes} writes at once, {depth} are allowed");
        assert_eq!(committer.operations_in_flight() as usize, writes + syncs, "seed {seed}");
        assert_eq!(committer.is_idle(), in_flight.is_empty(), "seed {seed}");
        assert_eq!(committer.completed(), Sequence(oracle.done()), "seed {seed}");
        let marks = committer.watermarks();
        let limit = Lsn(oracle.covered_prefix() as u64 * 4096);
        assert!(marks.covered <= limit, "seed {seed}: {marks:?} above {limit}");
        assert!(marks.written >= last.written && marks.durable >= last.durable, "seed {seed}: a mark fell");
        last = marks;
    }
    // Left alone, everything settles and becomes durable.
    while !in_flight.is_empty() || committer.poll_timeout().is_some_and(|_| !committer.prefix.is_covered()) {
        now = now + 2_000;
        committer.handle_time(now);
        for action in std::mem::take(&mut in_flight) {
            let (Action::Write { operation, .. } | Action::Sync { operation, .. }) = action;
            committer.handle_completion(operation, true, now);
        }
        while let Some(action) = committer.poll_action() {
            in_flight.push(action);
        }
    }
    assert!(committer.is_settled(), "seed {seed}");
    assert_eq!(committer.watermarks().durable, Lsn(oracle.blocks.len() as u64 * 4096), "seed {seed}");
}
