//! The body of a queue's slots: how far each shard was read, which of the records below that are not done, and the dead
//! letters.
//!
//! It is written by `queue/files.rs`, which says when. What was read and is not listed is done: so what is done behind the
//! oldest record that is not takes no room, however much it is.

use bytemuck::{Pod, Zeroable};

use super::progress::ProgressRow;
use super::{Committed, Defect};
use crate::position::{LogId, Position};

/// What the body begins with.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct QueueHead {
    /// [`LogId::to_bytes`] of the log whose positions follow.
    pub log: [u8; 16],
    /// The wall clock when this was written, from which delays go on.
    pub wall: u64,
    /// Dead letters that went since there were too many.
    pub forgotten: u64,
    /// Rows that follow, of each kind.
    pub shards: u32,
    pub open: u32,
    pub dead: u32,
    pub reserved: u32,
}

/// A record that was handed out and is not done.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct OpenRow {
    pub position: [u8; 16],
    pub timestamp: u64,
    /// Of its key and payload.
    pub bytes: u64,
    pub delay_ns: u64,
    pub attempts: u32,
    pub reserved: u32,
}

/// A dead letter. The reasons stand behind the last row, one behind the other.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct DeadRow {
    pub position: [u8; 16],
    pub timestamp: u64,
    pub bytes: u64,
    /// The wall clock when it was rejected.
    pub rejected: u64,
    pub attempts: u32,
    pub reason_bytes: u32,
}

/// What a queue remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct QueueState {
    pub wall: u64,
    pub forgotten: u64,
    /// For each shard the last record that was read, if any was.
    pub read: Vec<Option<Committed>>,
    pub open: Vec<OpenRecord>,
    /// The oldest first.
    pub dead: Vec<DeadRecord>,
}

/// See [`OpenRow`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OpenRecord {
    pub position: Position,
    pub timestamp: u64,
    pub bytes: u64,
    /// So long after the state was written it may be handed out again.
    pub delay_ns: u64,
    pub attempts: u32,
}

/// See [`DeadRow`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeadRecord {
    pub position: Position,
    pub timestamp: u64,
    pub bytes: u64,
    pub rejected: u64,
    pub attempts: u32,
    pub reason: String,
}

fn count(rows: usize) -> u32 {
    u32::try_from(rows).expect("a queue's rows are bounded far below that")
}

pub(crate) fn encode_queue(log: LogId, state: &QueueState) -> Vec<u8> {
    let head = QueueHead {
        log: log.to_bytes(),
        wall: state.wall,
        forgotten: state.forgotten,
        shards: count(state.read.len()),
        open: count(state.open.len()),
        dead: count(state.dead.len()),
        reserved: 0,
    };
    let mut body = bytemuck::bytes_of(&head).to_vec();
    for read in &state.read {
        body.extend_from_slice(bytemuck::bytes_of(&ProgressRow::of(*read)));
    }
    for open in &state.open {
        let row = OpenRow {
            position: open.position.to_bytes(),
            timestamp: open.timestamp,
            bytes: open.bytes,
            delay_ns: open.delay_ns,
            attempts: open.attempts,
            reserved: 0,
        };
        body.extend_from_slice(bytemuck::bytes_of(&row));
    }
    for dead in &state.dead {
        let row = DeadRow {
            position: dead.position.to_bytes(),
            timestamp: dead.timestamp,
            bytes: dead.bytes,
            rejected: dead.rejected,
            attempts: dead.attempts,
            reason_bytes: count(dead.reason.len()),
        };
        body.extend_from_slice(bytemuck::bytes_of(&row));
    }
    state.dead.iter().for_each(|dead| body.extend_from_slice(dead.reason.as_bytes()));
    body
}

/// What is left to be decoded.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8], Defect> {
        let (bytes, rest) = self.0.split_at_checked(count).ok_or(Defect::Length)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn row<T: Pod>(&mut self) -> Result<T, Defect> {
        Ok(bytemuck::pod_read_unaligned(self.bytes(size_of::<T>())?))
    }

    /// So many rows: as long as they are, before anything is set aside for them.
    fn rows<T: Pod>(&mut self, count: u32) -> Result<impl Iterator<Item = T> + use<'a, T>, Defect> {
        let bytes = (count as usize).checked_mul(size_of::<T>()).ok_or(Defect::Length)?;
        Ok(self.bytes(bytes)?.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned))
    }
}

/// Of which log it is, and what it says.
///
/// # Errors
/// [`Defect::Length`] if the bytes are no such body.
pub(crate) fn decode_queue(body: &[u8]) -> Result<(LogId, QueueState), Defect> {
    let mut rest = Rest(body);
    let head: QueueHead = rest.row()?;
    let rows = rest.rows::<ProgressRow>(head.shards)?.enumerate();
    let read = rows.map(|(shard, row)| row.committed(shard));
    let read = read.collect::<Result<_, Defect>>()?;
    let open = rest.rows::<OpenRow>(head.open)?.map(|row| OpenRecord {
        position: Position::from_bytes(row.position),
        timestamp: row.timestamp,
        bytes: row.bytes,
        delay_ns: row.delay_ns,
        attempts: row.attempts,
    });
    let rows = rest.rows::<DeadRow>(head.dead)?;
    let mut dead = Vec::new();
    for row in rows {
        let reason = rest.bytes(row.reason_bytes as usize)?;
        dead.push(DeadRecord {
            position: Position::from_bytes(row.position),
            timestamp: row.timestamp,
            bytes: row.bytes,
            rejected: row.rejected,
            attempts: row.attempts,
            reason: String::from_utf8(reason.to_vec()).map_err(|_| Defect::Length)?,
        });
    }
    if !rest.0.is_empty() {
        return Err(Defect::Length);
    }
    let open = open.collect();
    let (wall, forgotten) = (head.wall, head.forgotten);
    Ok((LogId::from_bytes(head.log), QueueState { wall, forgotten, read, open, dead }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{SlotKind, decode_slot, encode_slot};
    use crate::position::{Lsn, ShardId};

    fn below(random: &mut u64, bound: u64) -> u64 {
        *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*random >> 33) % bound
    }

    fn some_position(random: &mut u64) -> Position {
        let block = below(random, 1 << 20) * 4096;
        let shard = ShardId(below(random, 3) as u16);
        Position::new(shard, below(random, 9) as u32, Lsn(block + 88), Lsn(block))
    }

    fn some_state(random: &mut u64) -> QueueState {
        let read = (0..below(random, 4)).map(|shard| {
            let some = some_position(random);
            let (shard, block) = (ShardId(shard as u16), Lsn(some.lsn().0 - 88));
            let position = Position::new(shard, some.epoch(), some.lsn(), block);
            (below(random, 2) == 0).then(|| Committed { position, seed: below(random, 1 << 30) as u32 })
        });
        let read = read.collect();
        let open = (0..below(random, 5)).map(|_| OpenRecord {
            position: some_position(random),
            timestamp: below(random, 1 << 40),
            bytes: below(random, 1 << 20),
            delay_ns: below(random, 1 << 30),
            attempts: below(random, 9) as u32,
        });
        let open = open.collect();
        let dead = (0..below(random, 5)).map(|_| DeadRecord {
            position: some_position(random),
            timestamp: below(random, 1 << 40),
            bytes: below(random, 1 << 20),
            rejected: below(random, 1 << 40),
            attempts: below(random, 9) as u32,
            reason: "a\u{df} ".repeat(below(random, 4) as usize),
        });
        let dead = dead.collect();
        QueueState { wall: below(random, 1 << 40), forgotten: below(random, 9), read, open, dead }
    }

    #[test]
    fn what_was_written_comes_back_and_no_other_length_is_believed() {
        let mut random = 1;
        for _ in 0..200 {
            let (log, state) = (LogId::from_bytes([9; 16]), some_state(&mut random));
            let body = encode_queue(log, &state);
            assert_eq!(decode_queue(&body), Ok((log, state)));
            for end in 0..body.len() {
                assert_eq!(decode_queue(&body[..end]), Err(Defect::Length), "of {} bytes {end}", body.len());
            }
            assert_eq!(decode_queue(&[body, vec![0]].concat()), Err(Defect::Length));
        }
    }

    /// No length is trusted, and in its slot no flipped bit goes unseen.
    #[test]
    fn flipped_bits_are_harmless_and_in_a_slot_they_are_seen() {
        let mut random = 2;
        for _ in 0..20 {
            let state = some_state(&mut random);
            let body = encode_queue(LogId::from_bytes([9; 16]), &state);
            let slot = encode_slot(SlotKind::Queue, 3, &body);
            assert_eq!(decode_slot(SlotKind::Queue, &slot), Ok((3, &body[..])));
            for bit in 0..body.len() * 8 {
                let mut flipped = body.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                if let Ok((log, other)) = decode_queue(&flipped) {
                    assert!(
                        log != LogId::from_bytes([9; 16]) || other != state || bit_is_reserved(bit, &state)
                    );
                }
                let mut torn = slot.clone();
                torn[32 + bit / 8] ^= 1 << (bit % 8);
                assert!(decode_slot(SlotKind::Queue, &torn).is_err(), "bit {bit} can flip unseen");
            }
        }
    }

    /// What says nothing: the words that are kept for later, and the rest of a shard's row of which nothing was read.
    fn bit_is_reserved(bit: usize, state: &QueueState) -> bool {
        let byte = bit / 8;
        let shards = size_of::<QueueHead>();
        let open = shards + state.read.len() * size_of::<ProgressRow>();
        let dead = open + state.open.len() * size_of::<OpenRow>();
        let head = std::mem::offset_of!(QueueHead, reserved);
        if byte < shards {
            byte >= head
        } else if byte < open {
            state.read[(byte - shards) / size_of::<ProgressRow>()].is_none()
        } else {
            byte < dead && (byte - open) % size_of::<OpenRow>() >= std::mem::offset_of!(OpenRow, reserved)
        }
    }
}
