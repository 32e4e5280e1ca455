//! Transfers that come back short: the kernel may move less than it was asked to, at a signal, at the end of a
//! file, or for reasons of its own (`read(2)`, `write(2)`).
//!
//! All drivers finish such transfers by these rules, the simulated one among them.

use std::io;

use crate::format::GRANULE;

/// Reads until `bytes` is full or the file ends. `read` gets the rest, and where in `bytes` it begins.
pub(super) fn read_all(
    bytes: &mut [u8],
    mut read: impl FnMut(&mut [u8], u64) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut done = 0;
    let mut came_no_further = false;
    while done < bytes.len() {
        // Direct I/O may not go on within a granule: what was read of it is read again. Where that comes no
        // further, and a read from right there finds nothing or is refused, the file ends.
        let from = if came_no_further { done } else { done - done % GRANULE as usize };
        match read(&mut bytes[from..], from as u64) {
            Ok(0) if from == done => break,
            Ok(count) => {
                came_no_further = from + count <= done;
                done = done.max(from + count);
            }
            Err(error) if came_no_further && error.raw_os_error() == Some(libc::EINVAL) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Writes all of `bytes`. `write` gets the rest, and where in `bytes` it begins.
pub(super) fn write_all(
    bytes: &[u8],
    mut write: impl FnMut(&[u8], u64) -> io::Result<usize>,
) -> io::Result<()> {
    let mut done = 0;
    loop {
        let result = write(&bytes[done..], done as u64);
        if let Some(result) = advance(&mut done, bytes.len(), result) {
            return result;
        }
    }
}

/// What the result of a write of the last `bytes - done` bytes means; `None` if there is a rest to be written.
pub(crate) fn advance(done: &mut usize, bytes: usize, result: io::Result<usize>) -> Option<io::Result<()>> {
    match result {
        Ok(0) if *done < bytes => Some(Err(io::ErrorKind::WriteZero.into())),
        Ok(count) => {
            *done += count;
            assert!(*done <= bytes, "the kernel wrote more than it was given");
            (*done == bytes).then_some(Ok(()))
        }
        Err(error) if error.kind() == io::ErrorKind::Interrupted => None,
        Err(error) => Some(Err(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of `length` bytes that gives at most `most` of them at a time.
    fn read_from(length: usize, most: usize, want: usize) -> (Vec<u8>, usize) {
        let file: Vec<u8> = (0..length).map(|index| (index / 7) as u8).collect();
        let mut bytes = vec![0xee; want];
        let count = read_all(&mut bytes, |rest, from| {
            if from % 512 != 0 {
                return Err(io::Error::from_raw_os_error(libc::EINVAL)); // As direct I/O.
            }
            let have = &file[(from as usize).min(length)..];
            let count = have.len().min(rest.len()).min(most);
            rest[..count].copy_from_slice(&have[..count]);
            Ok(count)
        });
        bytes.truncate(count.unwrap());
        assert_eq!(bytes, file[..bytes.len()]);
        (file, bytes.len())
    }

    #[test]
    fn a_short_read_is_not_the_end_of_the_file() {
        assert_eq!(read_from(20_000, 4_608, 16_384).1, 16_384);
        assert_eq!(read_from(20_000, 8_192, 24_576).1, 20_000);
        assert_eq!(read_from(20_000, usize::MAX, 24_576).1, 20_000);
        assert_eq!(read_from(0, 512, 4_096).1, 0);
        assert_eq!(read_from(20_000, 512, 24_576).1, 20_000);
    }

    #[test]
    fn a_short_write_goes_on_where_it_ended() {
        let mut written = Vec::new();
        let bytes: Vec<u8> = (0..9_000).map(|index| (index / 11) as u8).collect();
        let mut calls = 0;
        write_all(&bytes, |rest, from| {
            calls += 1;
            assert_eq!(from as usize, written.len());
            if calls % 3 == 0 {
                return Err(io::Error::from_raw_os_error(libc::EINTR));
            }
            written.extend_from_slice(&rest[..rest.len().min(1_024)]);
            Ok(rest.len().min(1_024))
        })
        .unwrap();
        assert_eq!(written, bytes);
        let full = write_all(&bytes, |_, _| Ok(0)).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::WriteZero);
    }
}
