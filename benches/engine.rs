//! The whole engine on a disk, each load beside its ceiling: durable by kind of caller, records in flight and record
//! size; bulk; followers.
//!
//! `cargo bench --bench engine --features ceiling [-- FILTER]`. Times are per record. What `sawmill bench` measures in
//! one table and in turn, in the small and with criterion's comparison to the run before.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use sawmill::ceiling::{BareFile, Method, Writes};
use sawmill::{Log, Options, ShardId};

const SIZES: [usize; 2] = [256, 4096];
/// Header of a record.
const HEADER: u64 = 16;
const RETAIN_BYTES: u64 = 512 << 20;
/// A ceiling's own measurement, for each sample.
const CEILING: Duration = Duration::from_millis(100);
/// A follower that is further behind than this is waited for, so that retention does not overtake it.
const LAG: u64 = 100_000;

/// A log that recycles its segments, and a bare file beside it.
struct Place {
    log: Log,
    bare: BareFile,
    _dir: tempfile::TempDir,
}

impl Place {
    fn make() -> Place {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary directory");
        let bare = BareFile::make(dir.path(), 256 << 20).expect("the bare file is made");
        let options = Options::new().shards(1).retain_bytes(RETAIN_BYTES);
        let log = options.open(dir.path().join("log")).expect("the log opens");
        let filler = vec![1; 64 << 10];
        for bytes in [2 * RETAIN_BYTES, RETAIN_BYTES] {
            (0..bytes >> 16).for_each(|_| assert!(log.post(&filler).is_ok()));
            log.sync().wait().expect("it is durable");
            // Retention looks once a second.
            std::thread::sleep(Duration::from_millis(1_500));
        }
        Place { log, bare, _dir: dir }
    }

    /// Seconds that so many records take in bare writes of blocks that hold `in_block` of them.
    fn bare_blocks(&self, records: u64, bytes: usize, in_block: u64, depth: u32, method: Method) -> Duration {
        let block_bytes = (in_block * (bytes as u64 + HEADER)).next_multiple_of(4096).min(256 << 10) as u32;
        let in_block = u64::from(block_bytes) / (bytes as u64 + HEADER);
        let writes = Writes { block_bytes, depth, method };
        let measured =
            self.bare.uring(&writes, CEILING).or_else(|_| self.bare.blocking(block_bytes, method, CEILING));
        let writes = measured.expect("bare writes").per_second();
        Duration::from_secs_f64(records as f64 / in_block.max(1) as f64 / writes)
    }
}

/// So many records from threads that each wait for theirs.
fn blocking(log: &Log, threads: u64, records: u64, payload: &[u8]) -> Duration {
    let began = Instant::now();
    let each = records.div_ceil(threads);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| (0..each).for_each(|_| assert!(log.append(payload).wait().is_ok())));
        }
    });
    began.elapsed().mul_f64(records as f64 / (each * threads) as f64)
}

fn windowed(log: &Log, most: usize, records: u64, payload: &[u8]) -> Duration {
    let began = Instant::now();
    let mut window = log.window(most);
    (0..records).for_each(|_| assert!(window.push(payload).is_ok()));
    window.for_each(|position| assert!(position.is_ok()));
    began.elapsed()
}

fn tasks(log: &Log, runtime: &tokio::runtime::Runtime, tasks: u64, records: u64, payload: &[u8]) -> Duration {
    let began = Instant::now();
    let each = records.div_ceil(tasks);
    runtime.block_on(async {
        let tasks: Vec<_> = (0..tasks)
            .map(|_| {
                let (log, payload) = (log.clone(), payload.to_vec());
                tokio::spawn(async move {
                    for _ in 0..each {
                        assert!(log.append(&payload).await.is_ok());
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("no task panics");
        }
    });
    began.elapsed().mul_f64(records as f64 / (each * tasks) as f64)
}

fn durable(criterion: &mut Criterion) {
    let place = Place::make();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime");
    for bytes in SIZES {
        let payload = vec![7; bytes];
        let mut group = criterion.benchmark_group(format!("durable, {bytes} bytes"));
        for threads in [1u32, 8, 64] {
            group.bench_function(BenchmarkId::new("blocking callers", threads), |bencher| {
                bencher.iter_custom(|records| blocking(&place.log, threads.into(), records, &payload));
            });
            group.bench_function(BenchmarkId::new("ceiling of blocking callers", threads), |bencher| {
                bencher.iter_custom(|records| {
                    let block = (bytes as u32 + 16).next_multiple_of(4096);
                    let measured = match threads {
                        1 => place.bare.blocking(block, Method::WriteThrough, CEILING),
                        _ => place.bare.handed_over(threads, bytes, CEILING),
                    };
                    let rate = measured.expect("bare writes").per_second();
                    Duration::from_secs_f64(records as f64 / rate)
                });
            });
        }
        for most in [32u64, 1024] {
            group.bench_function(BenchmarkId::new("a window of", most), |bencher| {
                bencher.iter_custom(|records| windowed(&place.log, most as usize, records, &payload));
            });
            group.bench_function(BenchmarkId::new("tasks", most), |bencher| {
                bencher.iter_custom(|records| tasks(&place.log, &runtime, most, records, &payload));
            });
            group.bench_function(BenchmarkId::new("ceiling of so many in flight", most), |bencher| {
                bencher.iter_custom(|records| {
                    place.bare_blocks(records, bytes, most / 2, 2, Method::WriteThrough)
                });
            });
        }
        group.finish();
    }
}

fn bulk(criterion: &mut Criterion) {
    let place = Place::make();
    for bytes in SIZES {
        let payload = vec![7; bytes];
        let mut group = criterion.benchmark_group(format!("bulk, {bytes} bytes"));
        group.bench_function("posted, and a sync", |bencher| {
            bencher.iter_custom(|records| {
                let began = Instant::now();
                (0..records).for_each(|_| assert!(place.log.post(&payload).is_ok()));
                place.log.sync().wait().expect("it is durable");
                began.elapsed()
            });
        });
        group.bench_function("ceiling", |bencher| {
            bencher
                .iter_custom(|records| place.bare_blocks(records, bytes, u64::MAX >> 16, 16, Method::Behind));
        });
        group.finish();
    }
}

fn follow(criterion: &mut Criterion) {
    let place = Place::make();
    let (log, payload) = (&place.log, &[7; 256][..]);
    let shard = log.shard(ShardId(0));
    // From the next record on.
    let follower = || {
        let last = log.append(payload).wait().expect("the log takes it");
        let mut follow = shard.follow(last.lsn()).expect("it is there");
        assert!(follow.next().is_some_and(|record| record.is_ok()));
        follow
    };
    let mut group = criterion.benchmark_group("follow, 256 bytes");
    group.bench_function("a record, from its append to a follower", |bencher| {
        bencher.iter_custom(|records| {
            let mut follow = follower();
            let began = Instant::now();
            for _ in 0..records {
                drop(log.append(payload).admitted().wait().expect("the log takes it"));
                assert!(follow.next().is_some_and(|record| record.is_ok()));
            }
            began.elapsed()
        });
    });
    group.bench_function("ceiling: the same until it is durable", |bencher| {
        bencher.iter_custom(|records| blocking(log, 1, records, payload));
    });
    for (name, is_followed) in [("a load in bulk and its follower", true), ("ceiling: the load alone", false)]
    {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|records| {
                let (mut follow, read) = (follower(), AtomicU64::new(0));
                let began = Instant::now();
                std::thread::scope(|scope| {
                    if is_followed {
                        scope.spawn(|| {
                            for _ in 0..records {
                                assert!(follow.next().is_some_and(|record| record.is_ok()));
                                read.fetch_add(1, Ordering::Relaxed);
                            }
                        });
                    }
                    for record in 0..records {
                        log.post(payload).expect("the log takes it");
                        while is_followed && record > read.load(Ordering::Relaxed) + LAG {
                            std::thread::yield_now();
                        }
                    }
                    log.sync().wait().expect("it is durable");
                });
                began.elapsed()
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    targets = durable, bulk, follow
}
criterion_main!(benches);
