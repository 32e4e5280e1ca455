//! Batching in the small: payloads in parts, batches that are built up, windows.

use std::future::Future;
use std::io::IoSlice;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use sawmill::write::BatchBuilder;
use sawmill::{AppendError, ShardId, Write};

use crate::harness::{Ground, payloads};
use crate::on_every_ground;

on_every_ground!(
    parts_are_one_payload,
    a_built_batch_is_a_batch,
    a_window_is_bounded_and_in_order,
    a_window_tells_of_a_closed_log,
    an_iterator_that_has_ended_is_not_asked_again,
);

/// An iterator may go on after its end, which is no record of anybody's then.
fn an_iterator_that_has_ended_is_not_asked_again(ground: Ground) {
    let dir = ground.directory();
    let log = ground.small().open(dir.path()).unwrap();
    let mut asked = 0;
    let writes = std::iter::from_fn(|| {
        asked += 1;
        (asked != 4).then_some(b"record")
    });
    assert_eq!(log.window(8).over(writes).take(20).map(Result::unwrap).count(), 3);
    assert_eq!(asked, 4);
}

fn parts_are_one_payload(ground: Ground) {
    let dir = ground.directory();
    let log = ground.small().open(dir.path()).unwrap();
    let bytes: Vec<u8> = (0..20_000u32).map(|index| index as u8).collect();
    // Of no parts, of empty ones, of many; larger than a block, too.
    for cuts in [&[][..], &[0], &[0, 0, 5], &[1, 2, 3, 4_000], &[4_000, 4_100], &[1, 9_000, 20_000]] {
        let mut parts = Vec::new();
        let mut from = 0;
        for &to in cuts {
            parts.push(IoSlice::new(&bytes[from..to.max(from)]));
            from = to.max(from);
        }
        let whole = &bytes[..from];
        let position = log.append(Write::vectored(&parts).key(b"key")).wait().unwrap();
        let record = log.get(position).unwrap();
        assert_eq!((record.key(), record.payload()), (&b"key"[..], whole), "{cuts:?}");
        let commit = log.try_append(Write::vectored(&parts)).unwrap();
        assert_eq!(log.get(commit.wait().unwrap()).unwrap().payload(), whole);
    }
    let parts = vec![IoSlice::new(&bytes); 100];
    let refused = log.append(Write::vectored(&parts)).wait();
    assert!(matches!(refused, Err(AppendError::TooLarge { .. })), "{refused:?}");
}

fn a_built_batch_is_a_batch(ground: Ground) {
    let dir = ground.directory();
    let log = ground.small().open(dir.path()).unwrap();
    let mut batch = BatchBuilder::new();
    assert!(matches!(log.append_built(b"", &batch).wait(), Err(AppendError::EmptyBatch)));
    let mut expected = Vec::new();
    for round in 0..5usize {
        batch.clear();
        for index in 0..=round * 3 {
            let payload = vec![index as u8; index * 700];
            if index % 2 == 0 {
                batch.push(&payload);
            } else {
                batch.push_with(|bytes| bytes.extend_from_slice(&payload));
            }
            expected.push(payload);
        }
        let positions = log.append_built(b"key", &batch).wait().unwrap();
        assert_eq!((positions.len(), batch.len()), (round * 3 + 1, round * 3 + 1));
        for (position, payload) in positions.iter().zip(&expected[expected.len() - positions.len()..]) {
            assert_eq!(log.get(*position).unwrap().payload(), payload);
        }
    }
    assert_eq!(payloads(&log.shard(ShardId(0))), expected);
}

fn a_window_is_bounded_and_in_order(ground: Ground) {
    let dir = ground.directory();
    let log = ground.options().open(dir.path()).unwrap();
    let mut window = log.window(16);
    let mut positions = Vec::new();
    for number in 0..500u32 {
        positions.extend(window.push(number.to_le_bytes()).unwrap());
        assert!(window.len() <= 16);
    }
    assert_eq!(positions.len() + window.len(), 500);
    for position in &mut window {
        positions.push(position.unwrap());
    }
    assert!(window.is_empty() && window.next().is_none() && window.try_next().is_none());
    // In tasks, and over an iterator.
    let mut context = Context::from_waker(Waker::noop());
    for number in 500..600u32 {
        let mut push = pin!(window.push_async(number.to_le_bytes()));
        loop {
            if let Poll::Ready(position) = push.as_mut().poll(&mut context) {
                positions.extend(position.unwrap());
                break;
            }
            std::thread::yield_now();
        }
    }
    positions.extend((&mut window).map(Result::unwrap));
    positions.extend(log.window(7).over((600..700u32).map(u32::to_le_bytes)).map(Result::unwrap));
    assert_eq!(positions.len(), 700);
    assert!(positions.is_sorted());
    for (number, position) in positions.iter().enumerate() {
        assert_eq!(log.get(*position).unwrap().payload(), (number as u32).to_le_bytes());
    }
}

fn a_window_tells_of_a_closed_log(ground: Ground) {
    let dir = ground.directory();
    let log = ground.options().open(dir.path()).unwrap();
    let mut window = log.window(4);
    let told = window.push(b"one").unwrap();
    log.close().unwrap();
    assert!(matches!(window.push(b"two"), Err(AppendError::Closed)));
    // What was accepted before is durable, and told.
    assert!(told.is_some() || window.next().unwrap().is_ok());
    let mut over = log.window(4).over([b"three", b"four "]);
    assert!(matches!(over.next(), Some(Err(AppendError::Closed))));
    assert!(over.next().is_none());
}
