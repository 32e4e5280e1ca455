//! Any bytes as an index file, behind checksums that are right: what the fuzzer and a test look at.

use super::{Pages, PagesInMemory, Run, Sink, merge};
use crate::format::{GRANULE, INDEX_PAGE_BYTES, IndexHeader, KeyHash, reseal_index_page};
use crate::position::Lsn;

const LOG: [u8; 16] = [7; 16];

struct Nowhere;

impl Sink for Nowhere {
    fn put(&mut self, _number: u32, _page: &[u8]) -> std::io::Result<()> {
        Ok(())
    }
}

/// Makes a file of these bytes, with or without right checksums, asks it for keys, and merges it with nothing; gives
/// how many places it gave.
///
/// The first bytes say what the header says; the others are the pages, over and over.
pub(crate) fn look_at(bytes: &[u8]) -> usize {
    // As they are.
    let _ = Run::decode(bytes, bytes.len() as u64, &LOG, 0);
    let Some((head, body)) = bytes.split_first_chunk::<16>() else { return 0 };
    let number = |at: usize| u32::from(u16::from_le_bytes([head[at], head[at + 1]]));
    let stretch = (1 + u64::from(number(0)) % 40_000) * GRANULE;
    let plan = crate::format::IndexPlan {
        log_id: LOG,
        shard: 0,
        nonce: 1,
        start: Lsn(GRANULE),
        end: Lsn(GRANULE + stretch),
        places: (number(2) % 5_000).min((stretch / 8) as u32),
    };
    let mut header = IndexHeader::planned(&plan);
    header.keys = header.places.min(number(4));
    header.key_pages = header.keys.min(number(6) % 8);
    let row = crate::format::IndexEpoch { epoch: 1, reserved: 0, nonce: 1, start: GRANULE, end: plan.end.0 };
    let mut file = header.encode(&[row]);
    let (mut at, mut body) = (1, body.iter().copied().cycle());
    while at < header.pages() {
        let mut page: Vec<u8> = body.by_ref().take(INDEX_PAGE_BYTES).collect();
        page.resize(INDEX_PAGE_BYTES, 0);
        if at >= header.first_keys() {
            make_plausible(&mut page, &header);
        }
        reseal_index_page(&mut page, &header, at);
        file.extend(page);
        at += 1;
    }
    let Ok(run) = Run::decode(&file[..INDEX_PAGE_BYTES], file.len() as u64, &LOG, 0) else { return 0 };
    let run = std::sync::Arc::new(run);
    let pages = PagesInMemory { header: &run.header, bytes: &file };
    let places = ask(&run, &pages, u64::from_le_bytes(*head.last_chunk().expect("16 bytes")));
    let _ = merge(&[(&run, &pages)], &mut Nowhere, 2);
    places
}

/// Makes a page of keys say what gets it past the first look, mostly.
fn make_plausible(page: &mut [u8], header: &IndexHeader) {
    let even = page[0] % 2 == 0;
    page[6] %= if even { 36 } else { 40 };
    page[7] = 0;
    // Where keys are numbered from: often the first, as on the first page.
    let place = if even { 0 } else { u32::from(page[8]) % (header.places + 1) };
    page[8..12].copy_from_slice(&place.to_le_bytes());
    for word in [16, 24] {
        page[word + 4] &= 0x0f;
        page[word + 5..word + 8].fill(0);
    }
    if even {
        (page[5], page[23], page[28]) = (0, 0, 0x10);
        page[4] = (header.keys.min(2)) as u8;
        page[24..28].fill(0);
    }
}

/// How many places were given.
fn ask(run: &std::sync::Arc<Run>, pages: &impl Pages, raw: u64) -> usize {
    let mut given = 0;
    let first = pages
        .page(run.header.first_keys())
        .map_or(0, |page| u64::from_le_bytes(*page[16..].first_chunk().expect("a page")));
    for hash in [raw, first, first + 1, !0].map(KeyHash::from_raw) {
        for range in [Lsn::MIN..Lsn::MAX, Lsn(raw & 0xff_ffff)..Lsn(raw >> 40)] {
            let Ok(places) = run.places(pages, hash, range) else { continue };
            let all = run.range();
            for place in places.take(2_000).flatten() {
                assert!(all.contains(&place.lsn) && place.block <= place.lsn);
                given += 1;
            }
        }
    }
    given
}
