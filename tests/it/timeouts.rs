//! The longest time that there is, wherever a time can be given, means for ever.

use std::time::Duration;

use sawmill::options::OnStuck;
use sawmill::tally::{Sum, TallyOptions};
use sawmill::{Options, ShardId};

#[test]
fn the_longest_times_are_for_ever() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let options = Options::new().shards(1).memory_bytes(4 << 20);
    let options = options.retain_age(Duration::MAX).on_stuck(Duration::MAX, |_| OnStuck::Fail);
    let log = options.open(dir.path()).unwrap();
    let shard = log.shard(ShardId(0));
    let position = log.append(b"first").wait_timeout(Duration::MAX).unwrap().unwrap();
    let commit = log.append(b"second").admitted().wait().unwrap();
    commit.wait_timeout(Duration::MAX).unwrap().unwrap();
    let mut follow = shard.follow(position.lsn()).unwrap();
    let mut consumer = log.consumer("reader").unwrap();
    for expected in [b"first".as_slice(), b"second"] {
        assert_eq!(follow.next_timeout(Duration::MAX).unwrap().unwrap().payload(), expected);
        assert_eq!(consumer.next_timeout(Duration::MAX).unwrap().unwrap().payload(), expected);
    }
    // What nothing is there for yet: waited for, and found when it comes.
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| follow.next_timeout(Duration::MAX).unwrap().unwrap());
        let also = scope.spawn(|| consumer.next_timeout(Duration::MAX).unwrap().unwrap());
        log.append(b"third").wait().unwrap();
        assert_eq!(waits.join().unwrap().payload(), b"third");
        assert_eq!(also.join().unwrap().payload(), b"third");
    });
    let options = TallyOptions::new().interval(Duration::MAX);
    let tally = log.tally_with::<Sum>("likes", &options).unwrap();
    let update = tally.add(b"key", 1);
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| update.wait_timeout(Duration::MAX));
        tally.flush().unwrap();
        waits.join().unwrap().unwrap().unwrap();
    });
    log.close().unwrap();
}
