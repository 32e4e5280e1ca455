//! Several threads append, the log is reopened, and every acknowledged record is there.

use std::time::Instant;

use sawmill::{Log, Position, Write};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::temp_dir().join(format!("sawmill-example-{}", std::process::id()));
    let log = Log::open(&dir)?;
    let began = Instant::now();
    let acknowledged: Vec<(Position, String)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|thread| {
                let log = &log;
                scope.spawn(move || {
                    let append = |index| {
                        let payload = format!("record {index} of thread {thread}");
                        let write = Write::new(&payload).key(format!("thread:{thread}"));
                        log.append(write).wait().map(|position| (position, payload))
                    };
                    (0..500).map(append).collect::<Result<Vec<_>, _>>()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect::<Result<Vec<_>, _>>()
    })?
    .concat();
    println!("{} records durable in {:?}", acknowledged.len(), began.elapsed());
    log.close()?;

    let log = Log::open(&dir)?;
    for (position, payload) in &acknowledged {
        assert_eq!(log.get(*position)?.payload(), payload.as_bytes());
    }
    println!("reopened: all {} are there", acknowledged.len());
    log.close()?;
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}
