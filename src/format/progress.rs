//! The body of a consumer's slots: of which log it is, then for each shard, in order, the last position that was
//! committed.
//!
//! It is written by `consumer/progress.rs`, which says when.

use bytemuck::{Pod, Zeroable};

use super::Defect;
use crate::position::{LogId, Position};

/// What the body begins with. Of what was written before there was one, rows alone are left.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct ProgressHead {
    /// [`LogId::to_bytes`] of the log whose positions follow.
    pub log: [u8; 16],
}

/// One shard's row.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct ProgressRow {
    /// [`Position::to_bytes`], or zeros if nothing was committed.
    pub position: [u8; 16],
    /// 1 if something was.
    pub committed: u32,
    /// The [seed](super::EpochSeed) of the position's epoch; 0 if it was not known.
    pub seed: u32,
}

/// What was committed of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Committed {
    pub position: Position,
    /// See [`ProgressRow::seed`].
    pub seed: u32,
}

impl ProgressRow {
    pub(super) fn of(committed: Option<Committed>) -> ProgressRow {
        ProgressRow {
            position: committed.map_or([0; 16], |committed| committed.position.to_bytes()),
            committed: u32::from(committed.is_some()),
            seed: committed.map_or(0, |committed| committed.seed),
        }
    }

    /// What is committed of the shard that the row is of.
    ///
    /// # Errors
    /// [`Defect::Length`] if it says neither that there is something nor that there is nothing, or is of another shard:
    /// by such a position nobody could go on.
    pub(super) fn committed(&self, shard: usize) -> Result<Option<Committed>, Defect> {
        let position = Position::from_bytes(self.position);
        match self.committed {
            0 => Ok(None),
            1 if usize::from(position.shard().0) == shard => {
                Ok(Some(Committed { position, seed: self.seed }))
            }
            _ => Err(Defect::Length),
        }
    }
}

pub(crate) fn encode_progress(log: LogId, shards: &[Option<Committed>]) -> Vec<u8> {
    let mut body = bytemuck::bytes_of(&ProgressHead { log: log.to_bytes() }).to_vec();
    for committed in shards {
        body.extend_from_slice(bytemuck::bytes_of(&ProgressRow::of(*committed)));
    }
    body
}

/// Of which log it is, if it says so, and the shards in order.
///
/// # Errors
/// [`Defect::Length`] if the bytes are no rows.
pub(crate) fn decode_progress(body: &[u8]) -> Result<(Option<LogId>, Vec<Option<Committed>>), Defect> {
    let head = body.len() % size_of::<ProgressRow>();
    let (head, rows) = body.split_at(head);
    let log = match head {
        [] => None,
        head => {
            let head: ProgressHead = bytemuck::try_pod_read_unaligned(head).map_err(|_| Defect::Length)?;
            Some(LogId::from_bytes(head.log))
        }
    };
    let rows = rows.chunks_exact(size_of::<ProgressRow>()).enumerate().map(|(shard, row)| {
        let row: ProgressRow = bytemuck::pod_read_unaligned(row);
        row.committed(shard)
    });
    Ok((log, rows.collect::<Result<_, Defect>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::{Lsn, ShardId};

    #[test]
    fn rows_come_back() {
        let position = Position::new(ShardId(1), 1, Lsn(4096 + 88), Lsn(4096));
        let (log, rows) =
            (LogId::from_bytes([9; 16]), vec![None, Some(Committed { position, seed: 7 }), None]);
        let body = encode_progress(log, &rows);
        assert_eq!(decode_progress(&body), Ok((Some(log), rows.clone())));
        assert_eq!(
            decode_progress(&body[16..]),
            Ok((None, rows.clone())),
            "as it was written before it said which log"
        );
        assert_eq!(decode_progress(&[]), Ok((None, vec![])));
        assert_eq!(decode_progress(&body[1..]), Err(Defect::Length));
        // Of another shard than the row.
        assert_eq!(decode_progress(&encode_progress(log, &rows[1..])), Err(Defect::Length));
        let mut neither = body;
        neither[16 + std::mem::offset_of!(ProgressRow, committed)] = 2;
        assert_eq!(decode_progress(&neither), Err(Defect::Length));
    }
}
