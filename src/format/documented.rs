//! Holds `docs/format.md` against the code: each table lists a structure's fields as they lie.

use super::EpochRow;
use super::ages::{AgeMark, AgesRow};
use super::block::BlockHeader;
use super::index::{IndexEpoch, IndexHeader};
use super::index_pages::{IndexKeys, IndexPage};
use super::manifest::{LogLayout, SegmentRow, ShardLayout};
use super::progress::{ProgressHead, ProgressRow};
use super::queue::{DeadRow, OpenRow, QueueHead};
use super::record::RecordHeader;
use super::slot::SlotHeader;
use super::slot_map::{MapLayout, StretchRow};
use super::tally::{AnchorRow, TallyHeader};

/// Offset, width and name of each field, in the order in which they lie, and the whole size.
struct Layout {
    name: &'static str,
    fields: Vec<(usize, usize, &'static str)>,
    size: usize,
}

macro_rules! layout {
    ($of:ident { $($field:ident),* $(,)? }) => {{
        let zeroed: $of = bytemuck::Zeroable::zeroed();
        // Names every field: a new one does not compile until it is documented.
        let $of { $($field: _),* } = zeroed;
        let mut fields = vec![$(
            (std::mem::offset_of!($of, $field), size_of_val(&zeroed.$field), stringify!($field))
        ),*];
        fields.sort();
        Layout { name: stringify!($of), fields, size: size_of::<$of>() }
    }};
}

fn layouts() -> Vec<Layout> {
    vec![
        layout!(SlotHeader { magic, version, kind, crc, sequence, body_bytes, reserved }),
        layout!(LogLayout { log_id, shards, directories, block_bytes, segment_bytes, slots, granule }),
        layout!(MapLayout { version, stretches, nonce }),
        layout!(StretchRow { slot, shard, goes_on, version, from_epoch, from, until, until_epoch, reserved }),
        layout!(ShardLayout {
            log_id,
            shard,
            clean,
            next_epoch,
            next_file,
            epochs,
            segments,
            map_version,
            horizon,
            checkpoint,
            covered,
            clean_end,
            timestamp,
        }),
        layout!(EpochRow { epoch, empty_from, nonce, start, cut }),
        layout!(SegmentRow { base, bytes, file, reserved }),
        layout!(ProgressHead { log }),
        layout!(ProgressRow { position, committed, seed }),
        layout!(QueueHead { log, wall, forgotten, shards, open, dead, reserved }),
        layout!(OpenRow { position, timestamp, bytes, delay_ns, attempts, reserved }),
        layout!(DeadRow { position, timestamp, bytes, rejected, attempts, reason_bytes }),
        layout!(AgesRow { log_id, own, wall, marks, reserved }),
        layout!(AgeMark { lsn, own }),
        layout!(AnchorRow { id, oldest, complete, fold, shard, reserved, log, epoch, seed }),
        layout!(TallyHeader { magic, version, kind, id, flush, first, last }),
        layout!(BlockHeader {
            magic,
            version,
            codec,
            shard,
            reserved,
            log_id,
            epoch,
            record_count,
            nonce,
            lsn,
            previous_end,
            covered,
            timestamp,
            length,
            crc,
        }),
        layout!(IndexHeader {
            magic,
            version,
            shard,
            crc,
            log_id,
            nonce,
            start,
            end,
            places,
            place_bits,
            keys,
            key_pages,
            epochs,
            reserved,
        }),
        layout!(IndexEpoch { epoch, reserved, nonce, start, end }),
        layout!(IndexPage { crc, reserved }),
        layout!(IndexKeys { crc, keys, gap_bits, place, reserved, first, next }),
        layout!(RecordHeader { crc, body_bytes, whole_bytes, key_bytes, flags }),
    ]
}

#[test]
fn the_page_shows_what_the_code_writes() {
    let page = include_str!("../../docs/format.md");
    for layout in layouts() {
        let section = page.split(&format!("### {}\n", layout.name)).nth(1);
        let section = section.unwrap_or_else(|| panic!("{} is not documented", layout.name));
        let section = section.split("\n#").next().unwrap_or_default();
        let rows = section.lines().filter_map(|line| {
            let mut cells = line.split('|').map(str::trim).skip(1);
            let (offset, width) = (cells.next()?.parse().ok()?, cells.next()?.parse().ok()?);
            Some((offset, width, cells.next()?))
        });
        let documented: Vec<(usize, usize, &str)> = rows.collect();
        assert_eq!(documented, layout.fields, "{}", layout.name);
        let end = documented.last().map_or(0, |(offset, width, _)| offset + width);
        assert_eq!(end, layout.size, "{} has no padding", layout.name);
    }
}
