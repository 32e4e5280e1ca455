//! The body of the slots in which a shard keeps how old its records are, for retention by age.

use bytemuck::{Pod, Zeroable};

use super::Defect;

/// It begins with this; then `marks` rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct AgesRow {
    pub log_id: [u8; 16],
    /// The shard's own time when this was written, in nanoseconds: it rises with time that has passed for certain.
    pub own: u64,
    /// The wall clock's at that moment, as far as it was believed; 0 where it never was.
    pub wall: u64,
    pub marks: u32,
    pub reserved: u32,
}

/// Everything below `lsn` was durable when the shard's own time was `own`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct AgeMark {
    pub lsn: u64,
    pub own: u64,
}

pub(crate) fn encode_ages(log_id: [u8; 16], own: u64, wall: u64, marks: &[AgeMark]) -> Vec<u8> {
    let row = AgesRow { log_id, own, wall, marks: marks.len() as u32, reserved: 0 };
    [bytemuck::bytes_of(&row), bytemuck::cast_slice(marks)].concat()
}

/// # Errors
/// [`Defect::Length`] if the bytes are none of these, or the marks do not rise.
pub(crate) fn decode_ages(body: &[u8]) -> Result<(AgesRow, Vec<AgeMark>), Defect> {
    let (head, rest) = body.split_at_checked(size_of::<AgesRow>()).ok_or(Defect::Length)?;
    let row: AgesRow = bytemuck::pod_read_unaligned(head);
    let rows = rest.chunks(size_of::<AgeMark>());
    let marks = rows.map(|row| bytemuck::try_pod_read_unaligned(row).map_err(|_| Defect::Length));
    let marks = marks.collect::<Result<Vec<AgeMark>, _>>()?;
    let rise = |pair: &[AgeMark]| pair[0].lsn < pair[1].lsn && pair[0].own <= pair[1].own;
    let fits = marks.len() == row.marks as usize
        && marks.windows(2).all(rise)
        && marks.last().is_none_or(|last| last.own <= row.own);
    if fits { Ok((row, marks)) } else { Err(Defect::Length) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_come_back_and_only_if_they_rise() {
        let marks = [(4096, 5), (8192, 5), (12_288, 9)].map(|(lsn, own)| AgeMark { lsn, own });
        let body = encode_ages([7; 16], 9, 11, &marks);
        let (row, found) = decode_ages(&body).unwrap();
        assert_eq!((row.log_id, row.own, row.wall, found.as_slice()), ([7; 16], 9, 11, marks.as_slice()));
        assert_eq!(decode_ages(&body[1..]), Err(Defect::Length));
        assert_eq!(decode_ages(&body[..body.len() - 16]), Err(Defect::Length));
        assert_eq!(decode_ages(&encode_ages([7; 16], 8, 11, &marks)), Err(Defect::Length));
        let [first, _, last] = marks;
        assert_eq!(decode_ages(&encode_ages([7; 16], 9, 11, &[last, first])), Err(Defect::Length));
    }
}
