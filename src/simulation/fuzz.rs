//! What the fuzz targets run: each takes any bytes, and panics only if a promise is broken.

use std::collections::BTreeMap;
use std::path::Path;

use super::{End, Simulated, plan::Plan, play};
use crate::device::sim::SimMachine;
use crate::format::{
    BlockHeader, LogManifest, Records, ShardManifest, SlotKind, decode_progress, decode_queue, decode_slot,
    encode_queue,
};
use crate::open;
use crate::{Durability, Log, Lsn, Options, Position, ReadError, ShardId, Write};

/// Decoding: arbitrary bytes as a block, a slot, and each body.
pub fn decode(bytes: &[u8]) {
    let block = BlockHeader::decode(bytes).and_then(|header| Ok((header, Records::new(&header, bytes)?)));
    if let Ok((header, records)) = block {
        let mut skipping = records.clone();
        skipping.skip_to(Lsn(header.lsn().0.saturating_add(88)));
        assert!(records.take_while(Result::is_ok).count() <= bytes.len() / 16);
    }
    for kind in [SlotKind::Log, SlotKind::Shard, SlotKind::Progress, SlotKind::Queue] {
        let _ = decode_slot(kind, bytes);
    }
    if let Ok(manifest) = LogManifest::decode(bytes) {
        assert_eq!(LogManifest::decode(&manifest.encode()).as_ref(), Ok(&manifest));
    }
    if let Ok(manifest) = ShardManifest::decode(bytes) {
        assert_eq!(ShardManifest::decode(&manifest.encode()).as_ref(), Ok(&manifest));
    }
    let _ = decode_progress(bytes);
    if let Ok((log, state)) = decode_queue(bytes) {
        assert_eq!(decode_queue(&encode_queue(log, &state)), Ok((log, state)));
    }
}

/// Any bytes as an index file, behind checksums that are right: asked for keys, and merged.
pub fn index(bytes: &[u8]) {
    let _ = crate::index::forged::look_at(bytes);
}

/// A crash history: the bytes are the schedule.
pub fn history(bytes: &[u8]) {
    play(&Plan::from_bytes(bytes), "the same input");
}

const PATH: &str = "/log";

fn options() -> Options {
    Options::new().shards(2).block_bytes(4096).segment_bytes(16384).memory_bytes(1 << 16)
}

fn payload(number: u32) -> Vec<u8> {
    vec![number as u8; (number * 97 % 3_000) as usize]
}

/// A log with some records in it, closed or killed.
fn some_log(machine: &Simulated, close: bool) -> Vec<Position> {
    let log = options().device(machine).open(PATH).expect("nothing is wrong yet");
    let append = |number| {
        let shard = log.shard(ShardId((number % 2) as u16));
        shard.append(payload(number)).wait().expect("nothing is wrong yet")
    };
    let positions = (0..24).map(append).collect();
    if close {
        log.close().expect("nothing is wrong yet");
    } else {
        machine.stop();
        drop(log);
        machine.restart(End::Kill);
    }
    positions
}

/// Whatever a reader gives is what was appended there.
fn check(records: impl Iterator<Item = Result<crate::Record, ReadError>>, positions: &[Position]) {
    for record in records.take(1_000).flatten() {
        if let Some(number) = positions.iter().position(|own| *own == record.position()) {
            assert_eq!(record.payload(), payload(number as u32), "at {}", record.position());
        }
    }
}

/// A log directory with arbitrary changes: opened, read, written to.
///
/// The first byte chooses how the log ended, and whether a manifest is lost as well and rebuilt; each six bytes after
/// it change one place.
pub fn mutated_directory(bytes: &[u8]) {
    let Some((&how, changes)) = bytes.split_first() else { return };
    let inner = SimMachine::new(1);
    let machine = Simulated::of(&inner);
    let positions = some_log(&machine, how % 2 == 0);
    for change in changes.chunks_exact(6).take(64) {
        let offset = usize::from(change[1]) << 8 | usize::from(change[2]);
        inner.edit(usize::from(change[0]), |_, file| match change[3] {
            0 => file.truncate(offset),
            1 => file.resize((file.len() + offset).min(1 << 20), change[4]),
            2 => {
                let end = (offset + usize::from(change[5]) * 8).min(file.len());
                file[offset.min(end)..end].fill(change[4]);
            }
            3 => {
                // A block, copied elsewhere.
                let (from, to) = (offset / 4096 * 4096, usize::from(change[4] % 8) * 4096);
                if from + 4096 <= file.len() && to + 4096 <= file.len() {
                    file.copy_within(from..from + 4096, to);
                }
            }
            _ => {
                if let Some(byte) = file.get_mut(offset) {
                    *byte ^= change[4];
                }
            }
        });
    }
    // Any answer will do, but for a panic, a hang, and records that nobody appended.
    if how & 2 != 0 {
        inner.lose_manifest(u16::from(how >> 2) % 2, u64::from(how >> 3) % 4);
        let _ = open::salvage(Path::new(PATH), &options().device(&machine)).and_then(open::Salvage::write);
    }
    let Ok(log) = options().device(&machine).open(PATH) else { return };
    for shard in 0..2 {
        let shard = log.shard(ShardId(shard));
        if let Ok(records) = shard.read(..) {
            check(records, &positions);
        }
        let _ = shard.append(b"more").wait();
    }
    for position in &positions {
        let _ = log.get(*position);
    }
    let _ = log.close();
}

/// Payloads that are copies of what lies on the disk, blocks and testimony among them: a crash must not
/// take them for the real ones.
pub fn forged_payloads(bytes: &[u8]) {
    let inner = SimMachine::new(2);
    let machine = Simulated::of(&inner);
    let options = options().shards(1);
    let mut log = options.clone().device(&machine).open(PATH).expect("an honest log opens");
    let mut appended: Vec<(Position, Vec<u8>)> = Vec::new();
    for step in bytes.chunks_exact(4).take(100) {
        let mut forged = Vec::new();
        inner.edit(usize::from(step[0]), |_, file| {
            let from = (usize::from(step[1]) * 4096).min(file.len());
            forged = file[from..file.len().min(from + usize::from(step[2]) * 64)].to_vec();
        });
        // A true header at the start of a granule is the best forgery.
        let mut payload = vec![0; usize::from(step[3] % 64) * 64];
        payload.extend_from_slice(&forged);
        if let Ok(position) = log.append(&payload).wait() {
            appended.push((position, payload));
        }
        if step[3] % 8 == 0 {
            drop(log.append(vec![9; 5_000]).admitted().wait());
            machine.stop();
            drop(log);
            machine.restart(if step[3] % 16 == 0 { End::PowerCut } else { End::Kill });
            if step[3] & 16 != 0 {
                inner.lose_manifest(0, u64::from(step[0]) % 4);
                let salvage = open::salvage(Path::new(PATH), &options.clone().device(&machine));
                salvage.and_then(open::Salvage::write).expect("an honest log is rebuilt");
            }
            log = options.clone().device(&machine).open(PATH).expect("an honest log opens");
            for (position, payload) in &appended {
                assert_eq!(log.get(*position).expect("it was acknowledged").payload(), payload);
            }
        }
    }
}

/// The readers against a plain list: sizes, batches, ranges and positions are the bytes.
pub fn readers(bytes: &[u8]) {
    let machine = Simulated::seed(3);
    let log = options().shards(1).device(&machine).open(PATH).expect("an honest log opens");
    let shard = log.shard(ShardId(0));
    let (sizes, asks) = bytes.split_at(bytes.len() / 2);
    let mut model: Vec<(Position, Vec<u8>)> = Vec::new();
    for size in sizes.chunks_exact(2).take(64) {
        let payload = vec![size[0]; usize::from(size[0]) * usize::from(size[1] % 32)];
        if size[1] >= 224 {
            let batch = [&payload[..], b"", b"second"];
            let Ok(positions) = shard.append_batch(b"k", &batch).wait() else { continue };
            model.extend(positions.into_iter().zip(batch.map(<[u8]>::to_vec)));
        } else {
            let durability = if size[1] % 2 == 0 { Durability::Synced } else { Durability::Buffered };
            let Ok(commit) = shard.append(Write::new(&payload).durability(durability)).admitted().wait()
            else {
                continue;
            };
            model.push((commit.position(), payload));
        }
    }
    log.sync().wait().expect("an honest disk syncs");
    let expected =
        |from: u64, to: u64| model.iter().filter(move |(position, _)| (from..to).contains(&position.lsn().0));
    for ask in asks.chunks_exact(6).take(64) {
        let number = |bytes: &[u8]| bytes.iter().fold(0u64, |number, &byte| number << 8 | u64::from(byte));
        let (from, to) = (number(&ask[..3]), number(&ask[3..]));
        let found: Vec<_> = shard.read(Lsn(from)..Lsn(to)).expect("it exists").map(Result::unwrap).collect();
        assert!(
            found
                .iter()
                .map(|record| (record.position(), record.payload()))
                .eq(expected(from, to).map(|(position, payload)| (*position, &payload[..]))),
            "{from}..{to}"
        );
        let back = shard.read_back(Lsn(from)..Lsn(to)).expect("it exists").map(Result::unwrap);
        let mut back: Vec<_> = back.map(|record| record.position()).collect();
        back.reverse();
        assert!(back.iter().eq(expected(from, to).map(|(position, _)| position)), "{from}..{to} backwards");
        get_any(&log, &model, from, to);
    }
}

/// A position made of any bits is served only if it is one that was returned.
fn get_any(log: &Log, model: &[(Position, Vec<u8>)], from: u64, to: u64) {
    for (position, payload) in model.iter().skip(from as usize % 7).step_by(7) {
        assert_eq!(log.get(*position).expect("it is there").payload(), payload);
        let mut bytes = position.to_bytes();
        bytes[(to % 16) as usize] ^= (from % 255 + 1) as u8;
        let forged = Position::from_bytes(bytes);
        if let Ok(record) = log.get(forged) {
            let known = model.iter().find(|(own, _)| *own == forged);
            assert_eq!(known.map(|(_, payload)| &payload[..]), Some(record.payload()), "{forged}");
        }
    }
}

/// A tally's history: the bytes are updates, waits, truncations and ends of the process. Its totals are those of
/// plain integers, at a moment not before the last acknowledgement. And any bytes as a flush.
pub fn tallies(bytes: &[u8]) {
    crate::tally::decode_any(bytes);
    let machine = Simulated::seed(5);
    let mut sums: BTreeMap<u8, i64> = BTreeMap::new();
    let mut acknowledged = 0;
    let mut steps = bytes.chunks_exact(3).take(300);
    loop {
        // A flush takes more than the small log of the other targets has.
        let options = options().segment_bytes(1 << 20).memory_bytes(1 << 20);
        let log = options.device(&machine).open(PATH).expect("an honest log opens");
        let tally = log.tally("likes").expect("an honest tally opens");
        let found: BTreeMap<u8, i64> = tally.totals().map(|(key, sum)| (key[0], sum)).collect();
        // Each key is only ever added to, so that a moment is known by its sums.
        let (least, most) = (acknowledged, sums.values().sum::<i64>());
        let all: i64 = found.values().sum();
        assert!((least..=most).contains(&all), "{all} is not within {least} and {most}");
        assert!(found.iter().all(|(key, sum)| *sum <= sums[key]), "{found:?} is more than {sums:?}");
        sums = found;
        let mut ended = None;
        for step in steps.by_ref() {
            match step[0] % 16 {
                0 => ended = Some(End::Kill),
                1 => ended = Some(End::PowerCut),
                2 => {
                    tally.flush().expect("nothing is wrong");
                    acknowledged = sums.values().sum();
                }
                3 => {
                    for shard in (0..2).map(|shard| log.shard(ShardId(shard))) {
                        // Refused where the tally needs it.
                        let _ = shard.truncate_before(shard.durable_lsn());
                    }
                }
                4 => drop(log.append(vec![step[1]; usize::from(step[2]) * 16]).wait()),
                5 => {
                    // Somebody's record that looks like a flush of the tally.
                    let write = Write::new(bytes).key([crate::tally::TALLY_KEY_PREFIX, b"likes"].concat());
                    drop(log.append(write).wait());
                }
                _ => {
                    tally.add([step[1]], i64::from(step[2])).accepted().expect("there is room");
                    *sums.entry(step[1]).or_default() += i64::from(step[2]);
                }
            }
            if ended.is_some() {
                break;
            }
        }
        let Some(end) = ended else { return };
        machine.stop();
        drop((tally, log));
        machine.restart(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::sim::Random;

    /// Each target on random bytes, so that they keep running without a fuzzer.
    #[test]
    fn every_target_survives_random_bytes() {
        for seed in 0..150 {
            let mut random = Random::new(seed);
            let bytes: Vec<u8> = (0..random.below(400)).map(|_| random.next() as u8).collect();
            for target in [decode, index, history, mutated_directory, forged_payloads, readers, tallies] {
                target(&bytes);
            }
        }
    }
}
