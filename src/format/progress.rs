//! The body of a consumer's slots: for each shard, in order, the last position that was committed.

use bytemuck::{Pod, Zeroable};

use super::Defect;
use crate::position::Position;

/// One shard's row.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct ProgressRow {
    /// [`Position::to_bytes`], or zeros if nothing was committed.
    pub position: [u8; 16],
    /// 1 if something was.
    pub committed: u32,
    pub reserved: u32,
}

pub(crate) fn encode_progress(positions: &[Option<Position>]) -> Vec<u8> {
    let row = |position: &Option<Position>| ProgressRow {
        position: position.map_or([0; 16], |position| position.to_bytes()),
        committed: u32::from(position.is_some()),
        reserved: 0,
    };
    positions.iter().flat_map(|position| bytemuck::bytes_of(&row(position)).to_vec()).collect()
}

/// # Errors
/// [`Defect::Length`] if the bytes are no rows.
pub(crate) fn decode_progress(body: &[u8]) -> Result<Vec<Option<Position>>, Defect> {
    let rows = body.chunks(size_of::<ProgressRow>());
    rows.map(|row| {
        let row: ProgressRow = bytemuck::try_pod_read_unaligned(row).map_err(|_| Defect::Length)?;
        match row.committed {
            0 => Ok(None),
            1 => Ok(Some(Position::from_bytes(row.position))),
            _ => Err(Defect::Length),
        }
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::{Lsn, ShardId};

    #[test]
    fn rows_come_back() {
        let positions = [None, Some(Position::new(ShardId(3), 1, Lsn(4096 + 88), Lsn(4096))), None];
        let body = encode_progress(&positions);
        assert_eq!(decode_progress(&body), Ok(positions.to_vec()));
        assert_eq!(decode_progress(&[]), Ok(vec![]));
        assert_eq!(decode_progress(&body[1..]), Err(Defect::Length));
        let mut neither = body;
        neither[std::mem::offset_of!(ProgressRow, committed)] = 2;
        assert_eq!(decode_progress(&neither), Err(Defect::Length));
    }
}
