//! What a record costs its caller: reserve, copy and checksum, with the parts beside it.
//!
//! `cargo bench --bench append`. The whole engine against the device is `sawmill bench`.

use std::io::IoSlice;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sawmill::write::BatchBuilder;
use sawmill::{Durability, Log, Options, Write};

/// In memory, so that the device is no limit.
fn log(dir: &std::path::Path) -> Log {
    let options = Options::new().shards(1).segment_bytes(64 << 20).retain_bytes(128 << 20);
    options.open(dir).expect("the log opens")
}

fn accept(criterion: &mut Criterion) {
    let dir = tempfile::tempdir_in("/dev/shm").expect("a temporary directory");
    let log = log(dir.path());
    let mut group = criterion.benchmark_group("append, accepted and left alone");
    for bytes in [64usize, 256, 1024, 4096] {
        let payload = vec![7u8; bytes];
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(BenchmarkId::from_parameter(bytes), |bencher| {
            bencher.iter(|| {
                let write = Write::new(&payload).durability(Durability::Buffered);
                drop(log.append(write).admitted().wait().expect("the log takes it"));
            });
        });
        // The floor: the same copy and checksum, without a log.
        let mut target = vec![0u8; 1 << 18];
        let mut at = 0;
        group.bench_function(BenchmarkId::new("copy and checksum alone", bytes), |bencher| {
            bencher.iter(|| {
                at = if at + bytes + 16 > target.len() { 0 } else { at };
                target[at + 16..at + 16 + bytes].copy_from_slice(&payload);
                let crc = crc32c::crc32c(&target[at + 4..at + 16 + bytes]);
                target[at..at + 4].copy_from_slice(&crc.to_le_bytes());
                at += (16 + bytes).next_multiple_of(8);
            });
        });
    }
    group.finish();
}

/// Producers beside each other: the reservation, and a mutex in its place around the same copy.
fn scaling(criterion: &mut Criterion) {
    let dir = tempfile::tempdir_in("/dev/shm").expect("a temporary directory");
    let log = log(dir.path());
    let mut group = criterion.benchmark_group("256-byte records by producers");
    group.throughput(Throughput::Elements(1));
    for producers in [1u64, 2, 4, 8, 16] {
        group.bench_function(BenchmarkId::new("reservation", producers), |bencher| {
            bencher.iter_custom(|iterations| {
                in_parallel(producers, iterations, |payload| {
                    let write = Write::new(payload).durability(Durability::Buffered);
                    drop(log.append(write).admitted().wait().expect("the log takes it"));
                })
            });
        });
        let block = std::sync::Mutex::new((vec![0u8; 1 << 18], 0usize));
        group.bench_function(BenchmarkId::new("a mutex around copy and checksum", producers), |bencher| {
            bencher.iter_custom(|iterations| {
                in_parallel(producers, iterations, |payload| {
                    let mut block = block.lock().expect("nobody panics");
                    let (bytes, at) = &mut *block;
                    *at = if *at + 272 > bytes.len() { 0 } else { *at };
                    bytes[*at + 16..*at + 272].copy_from_slice(payload);
                    let crc = crc32c::crc32c(&bytes[*at + 4..*at + 272]);
                    bytes[*at..*at + 4].copy_from_slice(&crc.to_le_bytes());
                    *at += 272;
                })
            });
        });
    }
    group.finish();
}

fn in_parallel(producers: u64, iterations: u64, run: impl Fn(&[u8; 256]) + Sync) -> Duration {
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..producers {
            scope.spawn(|| {
                let payload = [7u8; 256];
                (0..iterations / producers + 1).for_each(|_| run(&payload));
            });
        }
    });
    began.elapsed()
}

/// Batching in the small, each beside the plain way.
fn batching(criterion: &mut Criterion) {
    let dir = tempfile::tempdir_in("/dev/shm").expect("a temporary directory");
    let log = log(dir.path());
    let (head, body) = ([1u8; 32], [2u8; 224]);
    let mut group = criterion.benchmark_group("a header and a body of 256 bytes");
    group.bench_function("put together first", |bencher| {
        bencher.iter(|| {
            let whole = [&head[..], &body].concat();
            let write = Write::new(whole).durability(Durability::Buffered);
            drop(log.append(write).admitted().wait().expect("the log takes it"));
        });
    });
    group.bench_function("in parts", |bencher| {
        bencher.iter(|| {
            let parts = [IoSlice::new(&head), IoSlice::new(&body)];
            let write = Write::vectored(&parts).durability(Durability::Buffered);
            drop(log.append(write).admitted().wait().expect("the log takes it"));
        });
    });
    group.finish();
    let mut group = criterion.benchmark_group("a batch of 16 records of 64 bytes");
    group.bench_function("of vectors", |bencher| {
        bencher.iter(|| {
            let batch: Vec<Vec<u8>> = (0..16u8).map(|index| vec![index; 64]).collect();
            drop(log.append_batch(b"", &batch).admitted().wait().expect("the log takes it"));
        });
    });
    let mut batch = BatchBuilder::new();
    group.bench_function("built", |bencher| {
        bencher.iter(|| {
            batch.clear();
            (0..16u8).for_each(|index| batch.push([index; 64]));
            drop(log.append_built(b"", &batch).admitted().wait().expect("the log takes it"));
        });
    });
    group.finish();
    let mut group = criterion.benchmark_group("durable records of 256 bytes from one thread");
    group.throughput(Throughput::Elements(1));
    group.bench_function("one at a time", |bencher| {
        bencher.iter(|| log.append(body).wait().expect("the log takes it"));
    });
    for most in [64usize, 1024] {
        group.bench_function(BenchmarkId::new("a window of", most), |bencher| {
            bencher.iter_custom(|iterations| {
                let mut window = log.window(most);
                let began = Instant::now();
                for _ in 0..iterations {
                    window.push(body).expect("the log takes it");
                }
                window.for_each(|position| assert!(position.is_ok()));
                began.elapsed()
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    targets = accept, scaling, batching
}
criterion_main!(benches);
