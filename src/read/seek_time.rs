//! Where a time begins in a shard: looked up in a handful of reads, however long the shard is.
//!
//! Times rise along a shard: all that lies below a block that is older than the time asked for is older too. Nothing
//! else is relied on. From such a block on, records are walked one by one. The nearest one is looked for by bisection,
//! which passes over blocks that are damaged; then the walk is longer, and ends in the same place.

use std::sync::Arc;

use super::Source;
use super::cursor::{Cursor, Step, header_in};
use crate::error::ReadError;
use crate::format::{BlockHeader, GRANULE};
use crate::position::Lsn;
use crate::segment::{RandomReader, StoreView, Stretch};

/// Read at once behind a place where no block need begin, if blocks may be so long.
const CHUNK_BYTES: u64 = 256 << 10;

/// The place of the first record at or after `time` among those below `limit`, the durable LSN when it was looked up;
/// the limit if there is none.
///
/// Where records are damaged directly in front of it, which may be at or after that time as well, the place of the
/// damage.
pub(crate) fn seek(source: &Arc<dyn Source>, time: u64, limit: Lsn) -> Result<Lsn, ReadError> {
    source.check_process()?;
    let io = |error| ReadError::Io { shard: source.id(), source: Arc::new(error) };
    let reader = source.lend_random_reader().map_err(io)?;
    let mut search = Search { source: source.as_ref(), view: source.view(), reader, time };
    let from = search.last_before(limit);
    source.give_back_random(search.reader);
    walk(source, from, time, limit)
}

/// The same, from a place on below which everything is before the time.
fn walk(source: &Arc<dyn Source>, from: Lsn, time: u64, limit: Lsn) -> Result<Lsn, ReadError> {
    let mut cursor = Cursor::new(source.clone(), from)?;
    let mut damaged = None;
    loop {
        match cursor.next(limit, Lsn::MAX) {
            Step::Record(record) if record.timestamp() < time => damaged = None,
            Step::Record(record) => return Ok(damaged.unwrap_or(record.lsn())),
            Step::End => return Ok(damaged.unwrap_or(limit)),
            Step::Error(ReadError::Damaged { lsn, .. }) => damaged = damaged.or(Some(lsn)),
            // The log begins behind it by now.
            Step::Error(ReadError::Truncated { .. }) => damaged = None,
            Step::Error(error) => return Err(error),
        }
    }
}

/// Looks at the headers of blocks here and there.
struct Search<'a> {
    source: &'a dyn Source,
    view: Arc<StoreView>,
    reader: RandomReader,
    time: u64,
}

impl Search<'_> {
    /// The start of a block that is older than the time, not far in front of where that begins; where the log begins,
    /// if none was found.
    fn last_before(&mut self, limit: Lsn) -> Lsn {
        let mut last = self.view.horizon;
        let (mut from, mut to) = (last, limit);
        while self.is_long(from, to) {
            let place = self.middle(from, to);
            match self.block_above(place, to) {
                Some((_, block)) if block.timestamp < self.time => {
                    (last, from) = (block.lsn(), block.end());
                }
                Some((at, _)) => to = at,
                None => to = place,
            }
        }
        last
    }

    /// Whether it saves time to halve it once more: a walk reads more than two blocks at once.
    fn is_long(&self, from: Lsn, to: Lsn) -> bool {
        to.0.saturating_sub(from.0) > 2 * u64::from(self.source.block_bytes())
    }

    /// A place between these: where a segment begins, since that is where a block does, as long as one begins there.
    fn middle(&self, from: Lsn, to: Lsn) -> Lsn {
        let segments = &self.view.segments;
        let first = segments.partition_point(|segment| segment.base() <= from);
        let end = segments.partition_point(|segment| segment.base() < to);
        if first < end { segments[first + (end - first) / 2].base() } else { halfway(from, to) }
    }

    /// A block between `place` and `to`, and from which place on it is the first one. Where there is none near `place`,
    /// it is looked for nearer to `to`.
    fn block_above(&mut self, place: Lsn, to: Lsn) -> Option<(Lsn, BlockHeader)> {
        let mut at = place;
        loop {
            if let Some(block) = self.first_block(at, to) {
                return Some((at, block));
            }
            if !self.is_long(at, to) {
                return None;
            }
            at = halfway(at, to);
        }
    }

    /// The first block that begins at or above `place`, and below `to`. One that is not damaged is no further away than
    /// the block that `place` may lie in is long, and the room at its segment's end that the next one did not fit into.
    fn first_block(&mut self, mut place: Lsn, to: Lsn) -> Option<BlockHeader> {
        let block_bytes = u64::from(self.source.block_bytes());
        let (mut looked_at, mut chunk) = (0, CHUNK_BYTES.min(block_bytes));
        while looked_at < 2 * block_bytes {
            place = self.view.epochs.next_owned(place).filter(|place| *place < to)?;
            let Some(index) = self.view.segment_of(place) else {
                place = self.view.segments[self.view.segment_from(place)?].base();
                continue;
            };
            let segment = self.view.segments[index].clone();
            let (left, offset) = (segment.end().0 - place.0, place.0 - segment.row.base);
            // A block begins where its segment does, mostly.
            let bytes = if offset == 0 { GRANULE } else { chunk.min(left) };
            let stretch = Stretch { segment, offset, bytes: usize::try_from(bytes).ok()? };
            if let Some(block) = self.first_in(stretch, place, to) {
                return Some(block);
            }
            place.0 += bytes;
            looked_at += bytes;
            if offset > 0 {
                chunk = block_bytes;
            }
        }
        None
    }

    /// The first block that begins in a stretch, which is at `place`.
    fn first_in(&mut self, stretch: Stretch, place: Lsn, to: Lsn) -> Option<BlockHeader> {
        let read = self.reader.read(&[stretch]).ok()?.pop()?.ok()?;
        let bytes = &self.reader.bytes()[read];
        let places = (place.0..to.0).step_by(GRANULE as usize).map(Lsn);
        let mut granules = bytes.chunks_exact(GRANULE as usize).zip(places);
        granules.find_map(|(granule, place)| header_in(granule, &self.view, place))
    }
}

/// A granule between these, which are far from each other.
fn halfway(from: Lsn, to: Lsn) -> Lsn {
    let middle = from.0 + (to.0 - from.0) / 2;
    Lsn(middle - middle % GRANULE)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::device::sim::{End, Random, SimMachine};
    use crate::format::GRANULE;
    use crate::log::LogReader;
    use crate::simulation::Simulated;
    use crate::{Durability, Lsn, OnDamage, Options, ReadError, ShardId, Write};

    fn options(machine: &SimMachine, segment_bytes: u64) -> Options {
        let options = Options::new().shards(1).block_bytes(8192).segment_bytes(segment_bytes);
        options.memory_bytes(1 << 20).device(&Simulated::of(machine))
    }

    /// As somebody reads it who has none of it in memory.
    fn reader(machine: &SimMachine) -> LogReader {
        LogReader::open_on(machine.device().as_ref(), Path::new("/log")).unwrap()
    }

    /// Places and times of what can be read, and where it is said to be damaged.
    fn scan(reader: &LogReader) -> Vec<Result<(Lsn, u64), Lsn>> {
        let told = |item| match item {
            Ok(record) => Ok(place(&record)),
            Err(ReadError::Damaged { lsn, .. }) => Err(lsn),
            Err(error) => panic!("{error}"),
        };
        reader.shard(ShardId(0)).read(..).unwrap().map(told).collect()
    }

    fn place(record: &crate::Record) -> (Lsn, u64) {
        (record.lsn(), record.timestamp())
    }

    fn first_since(records: &[(Lsn, u64)], time: u64, durable: Lsn) -> Lsn {
        records.iter().find(|(_, own)| *own >= time).map_or(durable, |(lsn, _)| *lsn)
    }

    /// A log of blocks of one record.
    fn long_log(machine: &SimMachine, segment_bytes: u64, blocks: usize) {
        let most = 1_000;
        for life in 0..blocks.div_ceil(most) {
            let log = options(machine, segment_bytes).open("/log").unwrap();
            for _ in 0..most.min(blocks - life * most) {
                drop(log.append([1; 7_000]).admitted().wait().unwrap());
            }
            log.close().unwrap();
            machine.restart(End::Kill);
        }
    }

    /// What is read of a log does not grow with it, wherever a time begins.
    #[test]
    fn a_time_is_found_in_a_handful_of_reads() {
        for (segment_bytes, blocks, segments, most) in
            [(16 << 10, 8_000, 4_000, 18), (64 << 20, 4_000, 1, 18)]
        {
            let machine = SimMachine::new(1);
            long_log(&machine, segment_bytes, blocks);
            let reader = reader(&machine);
            assert!(reader.summary().unwrap()[0].segments >= segments);
            let records: Vec<_> = scan(&reader).into_iter().map(Result::unwrap).collect();
            let durable = reader.shard(ShardId(0)).durable_lsn().unwrap();
            let looks = |act: &dyn Fn()| {
                let before = machine.counters().reads;
                act();
                machine.counters().reads - before
            };
            // What it takes to look whether the log has changed.
            let known = looks(&|| _ = reader.shard(ShardId(0)).durable_lsn().unwrap());
            for time in records.iter().step_by(137).map(|(_, time)| *time).chain([0, 1, u64::MAX]) {
                let reads = looks(&|| {
                    assert_eq!(reader.seek(time).unwrap()[0], first_since(&records, time, durable));
                });
                assert!(reads - known <= most, "{} reads", reads - known);
            }
        }
    }

    /// A log that has seen most of what may happen to one, as it is on the disk.
    fn some_log(machine: &SimMachine, random: &mut Random) {
        for _ in 0..1 + random.below(4) {
            let log = options(machine, 64 << 10).open("/log").unwrap();
            let shard = log.shard(ShardId(0));
            let mut positions = Vec::new();
            for _ in 0..random.below(200) {
                let bytes = if random.below(20) == 0 { 16_000 } else { random.below(6_000) };
                let payload = vec![7; bytes as usize];
                let durability = if random.below(3) == 0 { Durability::Synced } else { Durability::Buffered };
                let commit =
                    log.append(Write::new(&payload).durability(durability)).admitted().wait().unwrap();
                positions.push(commit.position().lsn());
                if durability == Durability::Synced {
                    commit.wait().unwrap();
                }
                match random.below(60) {
                    0 => machine.step_wall(random.below(2_000_000_000) as i64 - 1_000_000_000),
                    1 => log.sync().wait().unwrap(),
                    2 => shard.truncate_before(*random.pick(&positions)).unwrap(),
                    3 => _ = shard.truncate_after(*random.pick(&positions)),
                    _ => {}
                }
            }
            if random.below(3) == 0 {
                machine.stop();
                drop(log);
                machine.restart(End::PowerCut);
            } else {
                log.close().unwrap();
            }
        }
        options(machine, 64 << 10).open("/log").unwrap().close().unwrap();
    }

    fn spoil(machine: &SimMachine, random: &mut Random) {
        let folder = machine.device().directory_to_read(Path::new("/log/shard-0000")).unwrap();
        let names = folder.list().unwrap();
        let segments: Vec<&String> = names.iter().filter(|name| name.ends_with(".seg")).collect();
        for _ in 0..1 + random.below(3) {
            let file = folder.open(random.pick::<&String>(&segments)).unwrap();
            let granules = file.bytes().unwrap() / GRANULE;
            let first = random.below(granules);
            let most = *random.pick(&[1, 3, 12]);
            let count = (1 + random.below(most)).min(granules - first);
            let junk = vec![0x5a; (count * GRANULE) as usize];
            file.write_at(&junk, first * GRANULE, true).unwrap();
        }
    }

    /// Against all that a plain scan gives: the same place, and under damage one that is not too late, nor before
    /// damage behind which something older lies.
    #[test]
    fn it_finds_what_a_scan_finds() {
        let (mut exact, mut told, mut lost) = (0, 0, 0);
        for seed in 0..60 {
            let machine = SimMachine::new(seed);
            let mut random = Random::new(seed);
            some_log(&machine, &mut random);
            let whole: Vec<_> = scan(&reader(&machine)).into_iter().map(Result::unwrap).collect();
            if seed % 3 > 0 {
                spoil(&machine, &mut random);
            }
            let reader = reader(&machine);
            let shard = reader.shard(ShardId(0));
            let scanned = scan(&reader);
            let durable = shard.durable_lsn().unwrap();
            let readable: Vec<_> = scanned.iter().copied().flatten().collect();
            for index in 0..60.min(whole.len() + 2) {
                let time = match index {
                    0 => 1,
                    1 => u64::MAX,
                    _ => random.pick(&whole).1 - 1 + random.below(3),
                };
                let latest = first_since(&readable, time, durable);
                let older = scanned.iter().rposition(|item| item.is_ok_and(|(_, own)| own < time));
                let behind = &scanned[older.map_or(0, |older| older + 1)..];
                let earliest =
                    behind.first().map_or(durable, |item| item.map_or_else(|lsn| lsn, |own| own.0));
                let found = reader.seek(time).unwrap()[0];
                assert!((earliest..=latest).contains(&found), "{found}, not {earliest} to {latest}; {seed}");
                let items: Vec<_> = shard.read_from(time).unwrap().collect();
                let given: Vec<_> = items.iter().flatten().map(place).collect();
                let expected: Vec<_> = readable.iter().copied().filter(|(_, own)| *own >= time).collect();
                assert_eq!(given, expected, "since {time}, {seed}");
                exact += u32::from(earliest == latest);
                told += u32::from(earliest < latest);
                let all = whole.iter().filter(|(lsn, own)| *own >= time && *lsn < durable).count();
                if all > given.len() {
                    lost += 1;
                    assert!(
                        items.iter().any(Result::is_err),
                        "{} are missing, and nobody says so",
                        all - given.len()
                    );
                }
            }
        }
        assert!(exact > 1_000 && told > 20 && lost > 20, "{exact} {told} {lost}");
    }

    /// What lies behind damage that a log is opened past was written later than what comes next, by a clock that was
    /// set back since.
    #[test]
    fn times_rise_behind_damage_that_a_log_was_opened_past() {
        let machine = SimMachine::new(1);
        let open = |on_damage| options(&machine, 64 << 10).on_damage(on_damage).open("/log").unwrap();
        let log = open(OnDamage::Refuse);
        machine.step_wall(3_600_000_000_000);
        let positions: Vec<_> = (0..8).map(|_| log.append([1; 3_000]).wait().unwrap()).collect();
        machine.stop();
        drop(log);
        machine.restart(End::PowerCut);
        let folder = machine.device().directory_to_read(Path::new("/log/shard-0000")).unwrap();
        let file = folder.open("0000000001.seg").unwrap();
        file.write_at(&[0x5a; 4096], positions[3].lsn().0 / GRANULE * GRANULE, true).unwrap();
        machine.step_wall(-2 * 3_600_000_000_000);
        let log = open(OnDamage::Continue);
        let own = log.append(b"behind").wait().unwrap();
        let mut times: Vec<u64> =
            log.shard(ShardId(0)).read(..).unwrap().flatten().map(|record| record.timestamp()).collect();
        assert_eq!(times.len(), 8);
        assert!(times.is_sorted_by(|a, b| a < b), "{times:?}");
        assert_eq!(log.seek(times.pop().unwrap()).unwrap(), [own.lsn()]);
    }
}
