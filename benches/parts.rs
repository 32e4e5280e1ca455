//! The engine's parts, each alone: encode, decode, reserve, one step of the committer.
//!
//! `cargo bench --bench parts --features ceiling`.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sawmill::ceiling::parts::{Block, Blocks, Commits, Latencies};

const SIZES: [usize; 4] = [64, 256, 1024, 4096];

fn records(criterion: &mut Criterion) {
    for (name, of) in [("encode", true), ("decode", false)] {
        let mut group = criterion.benchmark_group(name);
        for bytes in SIZES {
            let payload = vec![7u8; bytes];
            let mut block = Block::new(256 << 10);
            let mut count = 0;
            while block.encode(&payload) {
                count += 1;
            }
            if of {
                group.throughput(Throughput::Elements(1));
                group.bench_function(BenchmarkId::new("a record", bytes), |bencher| {
                    bencher.iter(|| block.encode(black_box(&payload)));
                });
            } else {
                (0..count).for_each(|_| assert!(block.encode(&payload)));
                block.seal();
                group.throughput(Throughput::Elements(count));
                group.bench_function(BenchmarkId::new("a block of records of", bytes), |bencher| {
                    bencher.iter(|| assert_eq!(block.decode(), Some(count as usize)));
                });
            }
        }
        group.finish();
    }
}

fn reserve(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("reserve, copy and checksum");
    group.throughput(Throughput::Elements(1));
    for bytes in SIZES {
        let payload = vec![7u8; bytes];
        let mut blocks = Blocks::new().expect("there is memory");
        group.bench_function(BenchmarkId::from_parameter(bytes), |bencher| {
            bencher.iter(|| blocks.append(black_box(&payload)));
        });
    }
    group.finish();
}

fn committer(criterion: &mut Criterion) {
    let mut commits = Commits::default();
    criterion.bench_function("the committer, a block from sealed to durable", |bencher| {
        bencher.iter(|| black_box(commits.step()));
    });
}

fn latencies(criterion: &mut Criterion) {
    let mut latencies = Latencies::default();
    criterion.bench_function("a histogram, a block", |bencher| {
        bencher.iter(|| black_box(latencies.record(black_box(37))));
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(1)).warm_up_time(Duration::from_millis(300));
    targets = records, reserve, committer, latencies
}
criterion_main!(benches);
