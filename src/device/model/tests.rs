//! In real time, and so that a machine which is late is no failure.

use std::sync::Arc;

use super::*;
use crate::device::{
    Device, Directory, File, Operation, OperationKind, Queue, QueueKind, QueueSetup, Wait, Wake,
};
use crate::format::BLOCK_HEADER_BYTES;
use crate::pool::{Claim, Pool, SealedBytes, Sequence, Urgency, place};

const BLOCK: u32 = 4096;

struct Bench {
    drive: Arc<Drive>,
    pool: Arc<Pool>,
    queue: Box<dyn Queue + Send>,
    wake: Arc<dyn Wake>,
    file: Arc<dyn File>,
    sealed: u64,
    _dir: tempfile::TempDir,
}

impl Bench {
    fn new(model: DriveModel) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let drive = Arc::new(Drive::new(model));
        let folder: Arc<dyn Directory> = ModelDevice::new(drive.clone()).directory(dir.path()).unwrap();
        let pool = Arc::new(Pool::new(BLOCK, 64, 0).unwrap());
        let (lock, kind) = (folder.lock("lock").unwrap(), QueueKind::Uring);
        let (queue, wake) = folder.queue(&QueueSetup { depth: 64, pool: pool.clone(), lock, kind }).unwrap();
        let file = folder.create("file").unwrap();
        Bench { drive, pool, queue, wake, file, sealed: 0, _dir: dir }
    }

    /// A block of the pool's, filled with its own number.
    fn sealed(&mut self) -> SealedBytes {
        self.sealed += 1;
        let sequence = Sequence(self.sealed);
        assert!(self.pool.open(&place(self.sealed * u64::from(BLOCK))));
        let Claim::Taken(reserved) = self.pool.claim(8) else { panic!("a block is open") };
        reserved.finish(1, Urgency::Background);
        assert!(self.pool.close(sequence));
        self.pool.seal(sequence, &[self.sealed as u8; BLOCK_HEADER_BYTES as usize])
    }

    fn push(&mut self, id: u64, kind: OperationKind) {
        self.queue.push(Operation { id, file: self.file.clone(), kind });
    }

    fn push_write(&mut self, id: u64) {
        let bytes = self.sealed();
        let offset = (id - 1) * u64::from(BLOCK);
        self.push(id, OperationKind::Write { bytes, offset, sync: true });
    }
}

#[test]
fn writes_complete_in_order_and_never_before_the_drive_has_had_their_time() {
    let latency = Duration::from_millis(2);
    // A block takes 1 ms.
    let mut bench = Bench::new(DriveModel::steady(latency, u64::from(BLOCK) * 1_000));
    let began = Instant::now();
    for id in 1..=8 {
        bench.push_write(id);
    }
    bench.push(9, OperationKind::Sync);
    let mut completed = Vec::new();
    while completed.len() < 9 {
        bench.queue.enter(Wait::Forever).unwrap();
        let passed = began.elapsed();
        while let Some(completion) = bench.queue.pop() {
            completion.result.unwrap();
            completed.push(completion.id);
            let transferred = Duration::from_millis(completion.id.min(8));
            assert!(passed >= transferred.max(latency), "{completed:?} after {passed:?}");
        }
    }
    assert_eq!(completed, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    let mut bytes = vec![0; 8 * BLOCK as usize];
    assert_eq!(bench.file.read_at(&mut bytes, 0).unwrap(), bytes.len());
    for (index, block) in bytes.chunks(BLOCK as usize).enumerate() {
        assert_eq!(block[0], index as u8 + 1, "each is where it belongs");
    }
}

#[test]
fn a_block_is_the_drives_until_it_completes() {
    let mut bench = Bench::new(DriveModel::steady(Duration::from_secs(3_600), 1 << 30));
    bench.push_write(1);
    bench.queue.enter(Wait::No).unwrap();
    assert!(bench.queue.pop().is_none());
    bench.queue.enter(Wait::AtMost(Duration::from_millis(1))).unwrap();
    assert!(bench.queue.pop().is_none());
    let out = Arc::strong_count(&bench.pool);
    drop(bench.queue);
    assert_eq!(Arc::strong_count(&bench.pool), out - 1);
}

#[test]
fn a_wake_up_ends_the_wait_and_is_remembered() {
    let mut bench = Bench::new(DriveModel::steady(Duration::from_secs(3_600), 1 << 30));
    bench.wake.wake();
    bench.queue.enter(Wait::Forever).unwrap();
    for in_flight in [false, true] {
        if in_flight {
            bench.push_write(1);
        }
        let (wake, queue) = (bench.wake.clone(), &mut bench.queue);
        std::thread::scope(|scope| {
            scope.spawn(move || wake.wake());
            queue.enter(Wait::Forever).unwrap();
        });
        assert!(bench.queue.pop().is_none());
    }
}

#[test]
fn callers_that_write_for_themselves_share_the_drive() {
    let millis = Duration::from_millis;
    let bench = Bench::new(DriveModel {
        flush: millis(3),
        write_cache: true,
        ..DriveModel::steady(millis(1), u64::from(BLOCK) * 1_000)
    });
    let block = vec![7; BLOCK as usize];
    let began = Instant::now();
    std::thread::scope(|scope| {
        for place in 0..6 {
            let (file, block) = (&bench.file, &block);
            scope.spawn(move || file.write_at(block, place * u64::from(BLOCK), false).unwrap());
        }
    });
    assert!(began.elapsed() >= millis(6), "one transfer after the other");
    let began = Instant::now();
    bench.file.write_at(&block, 0, true).unwrap();
    assert!(began.elapsed() >= millis(4), "with a flush behind it");
    let began = Instant::now();
    bench.file.sync().unwrap();
    assert!(began.elapsed() >= millis(3));
    bench.drive.set_bytes_per_second(Some(u64::from(BLOCK) * 100));
    let began = Instant::now();
    bench.file.write_at(&block, 0, false).unwrap();
    assert!(began.elapsed() >= millis(10));
}

#[test]
fn drives_have_names() {
    assert_eq!("nvme-plp".parse(), Ok(DriveModel::NVME_PLP));
    assert_eq!("cloud".parse(), Ok(DriveModel::CLOUD));
    assert_eq!("consumer".parse(), Ok(DriveModel::CONSUMER));
    assert_eq!("steady:1000:48".parse(), Ok(DriveModel::steady(Duration::from_millis(1), 48 << 20)));
    for name in ["", "nvme", "steady", "steady:1", "steady:1:0", "steady:-1:1", "steady:1:1:1"] {
        assert!(name.parse::<DriveModel>().is_err(), "{name}");
    }
}
