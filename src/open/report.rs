//! What was opened, in a line for whoever listens.

use crate::committer::SyncMethod;
use crate::device::Capabilities;
use crate::instance::Instance;
use crate::shard::Engine;

pub(super) fn report(inner: &Instance, made: bool) {
    // Shards that lie alike are told together.
    let mut places: Vec<(String, Vec<String>)> = Vec::new();
    for engine in &inner.engines {
        let (place, shard) = (place_of(engine), engine.id.to_string());
        match places.iter_mut().find(|(told, _)| *told == place) {
            Some((_, shards)) => shards.push(shard),
            None => {
                warn_of_copies(inner, engine);
                places.push((place, vec![shard]));
            }
        }
    }
    let told = match &places[..] {
        [(place, _)] => place.clone(),
        _ => places
            .iter()
            .map(|(place, shards)| format!("shard {}: {place}", shards.join(" and ")))
            .collect::<Vec<_>>()
            .join("; "),
    };
    inner.notices.info(format!(
        "opened {}, which {}: {} shards, {}, {told}",
        inner.path.display(),
        if made { "was made" } else { "was there" },
        inner.config.shards,
        inner.backend,
    ));
}

fn warn_of_copies(inner: &Instance, engine: &Engine) {
    if engine.capabilities().copy_on_write {
        inner.notices.warn(format!(
            "{}: each write goes to a new place, which is slow; a fresh folder would be made without (chattr +C)",
            engine.path().display(),
        ));
    }
}

/// What the place of a shard can do, and how its blocks are made durable there.
fn place_of(engine: &Engine) -> String {
    let Capabilities { file_system, direct, durable, write_cache, fua, measured, .. } = engine.capabilities();
    let durable = if durable { "" } else { "; NOT DURABLE: what is synced is lost with the machine's power" };
    let cache = match (write_cache, fua) {
        (Some(true), Some(true)) => ", a volatile write cache with FUA",
        (Some(true), _) => ", a volatile write cache without FUA",
        (Some(false), _) => ", no volatile write cache",
        (None, _) => "",
    };
    let measured = measured.map_or_else(String::new, |found| {
        format!(
            " (4 KiB: {:?}, with fdatasync {:?}; {} of 100 writes by worker threads)",
            found.write_through, found.write_and_sync, found.worker_writes_percent,
        )
    });
    format!(
        "{file_system:?}, {}, {}{measured}{cache}{durable}",
        if direct { "O_DIRECT" } else { "without O_DIRECT (not available here, or not safe)" },
        match engine.committer.method {
            SyncMethod::WriteThrough => "synchronous writes (RWF_DSYNC)",
            SyncMethod::Flush => "writes and fdatasync",
        },
    )
}
