//! The core of the engine on ext4, xfs, btrfs and tmpfs.

use std::time::Duration;

use sawmill::{Backend, Durability, Log, Options, ReadError, ShardId, Write};

use crate::mounted::{Mount, fs_type};

fn core_of_it(kind: &str, backend: Backend) {
    let Some(mount) = Mount::make(kind, 400) else { return };
    assert!(fs_type(&mount.path()).contains(&kind[..kind.len().min(3)]));
    let dir = mount.path().join("log");
    let options = Options::new().shards(2).backend(backend).segment_bytes(1 << 20).memory_bytes(1 << 20);
    let options = options.block_bytes(16 << 10);
    let log = options.open(&dir).unwrap();
    let capabilities = log.stats().shards[0].capabilities;
    assert_eq!(capabilities.durable, kind != "tmpfs");
    // On a fresh Btrfs folder, too.
    assert!(!capabilities.copy_on_write);
    let measured = capabilities.measured.unwrap();
    assert!(measured.write_through > Duration::ZERO && measured.worker_writes_percent <= 100);
    let mut positions = Vec::new();
    for index in 0..1_200u32 {
        let durability = [Durability::Synced, Durability::Written, Durability::Buffered][index as usize % 3];
        let write = Write::new(vec![index as u8; 4_000]).key(index.to_le_bytes()).durability(durability);
        positions.push(log.append(write).admitted().wait().unwrap().position());
    }
    log.append_batch(b"", &[vec![1; 30_000], vec![2; 10]]).wait().unwrap();
    log.sync().wait().unwrap();
    let cut = positions.iter().rfind(|position| position.shard() == ShardId(0)).unwrap();
    log.shard(ShardId(0)).truncate_before(cut.lsn()).unwrap();
    log.close().unwrap();
    let log = options.open(&dir).unwrap();
    for (index, position) in positions.iter().enumerate() {
        match log.get(*position) {
            Ok(record) => assert_eq!(record.payload(), vec![index as u8; 4_000]),
            Err(ReadError::Truncated { .. }) => assert!(position < cut),
            Err(error) => panic!("{error}"),
        }
    }
    log.shard(ShardId(1))
        .truncate_after(positions.iter().find(|p| p.shard() == ShardId(1)).unwrap().lsn())
        .unwrap();
    log.append(b"more").wait().unwrap();
    log.close().unwrap();
    let reader = Log::open_read_only(&dir).unwrap();
    assert_eq!(reader.verify().unwrap().findings.len(), 0);
}

macro_rules! on_file_systems {
    ($($kind:ident),*) => {
        $(mod $kind {
            #[test]
            fn uring() {
                super::core_of_it(stringify!($kind), sawmill::Backend::Auto);
            }

            #[test]
            fn syscall() {
                super::core_of_it(stringify!($kind), sawmill::Backend::Syscall);
            }
        })*
    };
}

on_file_systems!(ext4, xfs, btrfs, tmpfs);
