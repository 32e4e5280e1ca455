//! What a batch consists of, wherever its bytes lie.

/// The payloads of a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) enum List<'a> {
    Slices(&'a [&'a [u8]]),
    /// Behind each other, with the end of each.
    Packed {
        bytes: &'a [u8],
        ends: &'a [usize],
    },
}

impl<'a> List<'a> {
    pub(crate) fn len(&self) -> usize {
        match self {
            List::Slices(slices) => slices.len(),
            List::Packed { ends, .. } => ends.len(),
        }
    }

    pub(crate) fn get(&self, index: usize) -> &'a [u8] {
        match self {
            List::Slices(slices) => slices[index],
            List::Packed { bytes, ends } => {
                let start = index.checked_sub(1).map_or(0, |before| ends[before]);
                &bytes[start..ends[index]]
            }
        }
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = &'a [u8]> {
        (0..self.len()).map(move |index| self.get(index))
    }
}

/// The keys of a batch, one for each record.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Keys<'a> {
    One(&'a [u8]),
    /// Behind each other, with the end of each. The records that have none, or stand behind the last end, have `others`.
    Each {
        bytes: &'a [u8],
        ends: &'a [usize],
        others: &'a [u8],
    },
}

impl<'a> Keys<'a> {
    /// Of the record with this index.
    #[inline]
    pub(crate) fn get(&self, index: usize) -> &'a [u8] {
        match self {
            Keys::One(key) => key,
            Keys::Each { bytes, ends, others } => {
                let start = index.checked_sub(1).map_or(0, |before| ends.get(before).copied().unwrap_or(0));
                let own = ends.get(index).map_or(&[][..], |&end| &bytes[start..end]);
                if own.is_empty() { others } else { own }
            }
        }
    }

    /// Those of a batch of so many records; one that all of them have comes once.
    pub(crate) fn iter(self, count: usize) -> impl Iterator<Item = &'a [u8]> {
        let count = if matches!(self, Keys::One(_)) { count.min(1) } else { count };
        (0..count).map(move |index| self.get(index))
    }
}
