//! The `sawmill` command, as an operator meets it.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use sawmill::{Options, ShardId, Write};

fn sawmill(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sawmill")).args(arguments).output().unwrap()
}

fn text(output: &Output) -> (i32, String, String) {
    let read = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), read(&output.stdout), read(&output.stderr))
}

fn some_log(dir: &Path) {
    let log = Options::new().shards(2).segment_bytes(1 << 20).open(dir).unwrap();
    for number in 0..40u32 {
        let write = Write::new(format!("record {number}").into_bytes()).key(b"k\n");
        log.shard(ShardId((number % 2) as u16)).append(write).wait().unwrap();
    }
    log.close().unwrap();
}

#[test]
fn wrong_arguments_and_missing_logs_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    for arguments in
        [&[][..], &["nonsense"], &["dump"], &["stat", path, "--nonsense"], &["bench", "--seconds", "x"]]
    {
        let (code, _, error) = text(&sawmill(arguments));
        assert_eq!(code, 2, "{arguments:?}: {error}");
        assert!(error.contains("--help") || error.contains("Usage"), "{error}");
    }
    let (code, _, error) = text(&sawmill(&["bench", "--seconds", "0"]));
    assert_eq!(code, 1);
    assert!(error.contains("--seconds"), "{error}");
    let (code, out, error) = text(&sawmill(&["bench", "--dir", path, "--only", "nothing"]));
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(error.contains("bulk, 1 thread") && error.contains("durable, window of 1024"), "{error}");
    let (code, _, error) = text(&sawmill(&["bench", "--model", "floppy"]));
    assert!(code == 2 && error.contains("nvme-plp, cloud, consumer and steady:"), "{error}");
    let (code, out, error) = text(&sawmill(&["tune", &format!("{path}/mistyped"), "--seconds", "1"]));
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(error.contains("/mistyped: No such file"), "{error}");
    for command in ["stat", "dump", "tail", "verify", "repair"] {
        let (code, _, error) = text(&sawmill(&[command, path]));
        assert_eq!(code, 1, "{command}");
        assert!(error.contains("there is no log") && !error.contains("panicked"), "{error}");
        assert_eq!(std::fs::read_dir(path).unwrap().count(), 0, "{command} made something");
    }
}

#[test]
fn an_error_is_told_with_its_cause_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("nowhere");
    let (code, _, error) = text(&sawmill(&["stat", path.to_str().unwrap()]));
    assert_eq!(code, 1);
    let cause = "opening the directory failed: No such file or directory (os error 2)";
    assert_eq!(error.trim(), format!("sawmill: {}: {cause}", path.display()));
}

#[test]
fn a_path_that_is_not_utf_8_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(OsStr::from_bytes(b"log\xff"));
    some_log(&path);
    let command = Command::new(env!("CARGO_BIN_EXE_sawmill")).arg("stat").arg(&path).arg("--json").output();
    let (code, out, error) = text(&command.unwrap());
    assert_eq!(code, 0, "{error}");
    let found: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert!(found["path"].as_str().unwrap().ends_with("/log\u{fffd}"), "{found}");
    assert!(found["shards"][1]["path"].as_str().unwrap().ends_with("/log\u{fffd}/shard-0001"), "{found}");
}

#[test]
fn a_log_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    some_log(dir.path());
    let (code, out, _) = text(&sawmill(&["stat", path]));
    assert_eq!(code, 0);
    assert_eq!(out.lines().count(), 4, "{out}");
    assert!(out.contains("closed"), "{out}");
    let id = sawmill::Log::open_read_only(path).unwrap().id().to_string();
    assert_eq!(out.lines().next().unwrap(), format!("log {id}"));
    let (_, out, _) = text(&sawmill(&["stat", path, "--json"]));
    let found: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(found["id"], id.as_str());
    let (_, out, _) = text(&sawmill(&["dump", path]));
    assert_eq!(out.lines().count(), 40);
    assert!(out.lines().next().unwrap().ends_with(r"k\n record 0"), "{out}");
    let (_, out, _) = text(&sawmill(&["dump", path, "--shard", "1", "--limit", "3", "--format", "raw"]));
    assert_eq!(out, "record 1record 3record 5");
    let (_, out, _) = text(&sawmill(&["tail", path, "-n", "2", "--format", "json"]));
    assert_eq!(out.lines().count(), 4);
    for line in out.lines() {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(value["key"], "6b0a");
    }
    let (_, out, _) = text(&sawmill(&["dump", path, "--key", "k\n"]));
    assert_eq!(out.lines().count(), 20);
    let (_, out, _) = text(&sawmill(&["dump", path, "--key", "another"]));
    assert_eq!(out, "");
    let (code, out, _) = text(&sawmill(&["verify", path]));
    assert_eq!((code, out.trim()), (0, "40 records, 0.0 MiB, 0 damaged places"));
    let (code, _, error) = text(&sawmill(&["dump", path, "--shard", "9"]));
    assert_eq!((code, error.contains("shard 9 does not exist")), (1, true), "{error}");
}

#[test]
fn a_log_is_shown_from_a_time_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    some_log(dir.path());
    let count = |arguments: &[&str]| {
        let (code, out, error) = text(&sawmill(&[&["dump", path, "--from"], arguments].concat()));
        assert_eq!(code, 0, "{error}");
        out.lines().count()
    };
    let (_, out, _) = text(&sawmill(&["dump", path]));
    let time = |line: usize| format!("{}ns", out.lines().nth(line).unwrap().split(' ').nth(1).unwrap());
    assert_eq!(count(&[&time(0)]), 40);
    assert_eq!(count(&[&time(30)]), 10);
    assert_eq!(count(&[&time(30), "--shard", "1"]), 5);
    assert_eq!(count(&[&time(30), "--shard", "1", "--limit", "3"]), 3);
    assert_eq!(count(&["2020-02-29T23:59"]), 40);
    assert_eq!(count(&["2520-02-29T23:59Z"]), 0);
    assert_eq!(count(&["0", "--shard", "1"]), 20);
    let (code, _, error) = text(&sawmill(&["dump", path, "--from", "4096"]));
    assert_eq!((code, error.contains("--shard")), (1, true), "{error}");
    let (code, _, error) = text(&sawmill(&["dump", path, "--from", "noon"]));
    assert_eq!((code, error.contains("2026-11-27T20:00")), (2, true), "{error}");
}

/// Of a key as of all records; where its records were put by hand, it has some in a shard that it does not route to.
#[test]
fn a_key_is_shown_from_a_time_on_and_of_a_shard() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let log = Options::new().shards(2).segment_bytes(1 << 20).open(dir.path()).unwrap();
    let (home, away) = (log.route(b"k"), ShardId(1 - log.route(b"k").0));
    for number in 0..60u32 {
        let write = Write::new(format!("record {number}").into_bytes());
        let (shard, key) = [(home, &b"k"[..]), (home, b"other"), (away, b"k")][number as usize % 3];
        log.shard(shard).append(write.key(key)).wait().unwrap();
    }
    log.shard(away).append(b"keyless").wait().unwrap();
    log.close().unwrap();
    let dump = |arguments: &[&str]| {
        let (code, out, error) = text(&sawmill(&[&["dump", path], arguments].concat()));
        assert_eq!((code, error.as_str()), (0, ""), "{arguments:?}");
        out
    };
    let all = dump(&[]);
    let column = |line: usize, column: usize| all.lines().nth(line).unwrap().split(' ').nth(column).unwrap();
    let time = |line: usize| format!("{}ns", column(line, 1));
    let (home, away) = (home.0.to_string(), away.0.to_string());
    // The first record from then on is one of the key's, or one of the other key's.
    for (from, first) in [(30, 30), (31, 33)] {
        let own = |shard: &[&str]| dump(&[&["--key", "k", "--from", &time(from)], shard].concat());
        let expected: Vec<&str> = all.lines().skip(first).step_by(3).take((62 - first) / 3).collect();
        assert_eq!(own(&[]).lines().collect::<Vec<_>>(), expected, "from line {from}");
        assert_eq!(own(&["--shard", &home]).lines().collect::<Vec<_>>(), expected);
        assert_eq!(own(&["--limit", "2"]).lines().collect::<Vec<_>>(), expected[..2]);
    }
    assert_eq!(dump(&["--key", "k", "--from", "2520-02-29T23:59Z"]), "");
    assert_eq!(dump(&["--key", "k", "--shard", &home]), dump(&["--key", "k"]));
    // What lies elsewhere is of no stream, and shown where it lies.
    let there: Vec<&str> = all.lines().skip(2).step_by(3).take(20).collect();
    assert_eq!(dump(&["--key", "k", "--shard", &away]).lines().collect::<Vec<_>>(), there);
    let late = dump(&["--key", "k", "--shard", &away, "--from", &time(31)]);
    assert_eq!(late.lines().collect::<Vec<_>>(), there[10..]);
    assert_eq!(dump(&["--key", "", "--shard", &away]) + &dump(&["--key", "", "--shard", &home]), "");
    // The LSN of a record stands in its position.
    let lsn = column(30, 0).split(['@', '.', ')']).nth(1).unwrap();
    let from_there = dump(&["--key", "k", "--from", lsn]);
    assert_eq!(from_there, dump(&["--key", "k", "--from", &time(30)]));
    let (code, _, error) = text(&sawmill(&["dump", path, "--key", "k", "--shard", "9"]));
    assert_eq!((code, error.contains("shard 9 does not exist")), (1, true), "{error}");
}

#[test]
fn damage_is_found_and_repaired_only_on_demand() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    some_log(dir.path());
    // A crash: the end is not recorded any more, so that the blocks have to be believed.
    let log = Options::new().open(dir.path()).unwrap();
    for _ in 0..3 {
        log.shard(ShardId(0)).append(b"more").wait().unwrap();
    }
    let end = log.shard(ShardId(0)).durable_lsn().0 as usize;
    std::mem::forget(log);
    let copy = tempfile::tempdir().unwrap();
    let copied = Command::new("cp").args(["-r", path]).arg(copy.path().join("log")).status().unwrap();
    assert!(copied.success());
    let dir = copy.path().join("log");
    let path = dir.to_str().unwrap();
    // Nothing is damaged, and an open would recover it: that is not asked for.
    let manifests = ["shard-0000/shard.manifest.0", "shard-0000/shard.manifest.1"].map(|name| dir.join(name));
    let before = manifests.each_ref().map(|name| std::fs::read(name).unwrap());
    let (code, out, error) = text(&sawmill(&["repair", path]));
    assert_eq!((code, out.contains("there is nothing to repair")), (0, true), "{out}{error}");
    assert!(before == manifests.each_ref().map(|name| std::fs::read(name).unwrap()), "it was opened");
    let segment = dir.join("shard-0000/0000000001.seg");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[end - 3 * 4096 + 10] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let (code, out, _) = text(&sawmill(&["verify", path]));
    assert_eq!(code, 3, "{out}");
    assert!(out.contains("testifies"), "{out}");
    let year = 1970 + std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() / 31_556_952;
    let times = out.lines().find(|line| line.contains("after a record of")).expect("the times around it");
    assert!(times.contains(&format!("after a record of {year}-")), "{out}");
    let (code, out, error) = text(&sawmill(&["repair", path]));
    assert_eq!(code, 3, "{out}{error}");
    assert!(out.contains("nothing was changed"), "{out}");
    assert!(Options::new().open(&dir).is_err());
    let (code, out, error) = text(&sawmill(&["repair", path, "--yes"]));
    assert_eq!(code, 0, "{out}{error}");
    let (code, out, _) = text(&sawmill(&["verify", path]));
    assert_eq!(code, 3, "the damaged place stays what it is: {out}");
    let damaged = out.lines().find(|line| line.contains("is damaged at LSN")).expect("what reading found");
    assert!(damaged.contains(", up to ") && damaged.contains("(0000000001.seg, offset "), "{out}");
    let times = out.lines().find(|line| line.contains("after a record of")).expect("the times around it");
    assert!(times.contains(&format!("before one of {year}-")), "{out}");
    let log = Options::new().open(&dir).unwrap();
    assert_eq!(log.merged(..).unwrap().flatten().count(), 42, "all but the damaged one");
    assert!(
        std::fs::read_dir(&dir).unwrap().any(|entry| {
            entry.unwrap().file_name().to_string_lossy().starts_with("sawmill.before-repair-")
        })
    );
}

#[test]
fn a_manifest_that_is_too_old_is_better_rebuilt_than_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let copies = [0, 1].map(|copy| dir.path().join(format!("shard-0000/shard.manifest.{copy}")));
    let log = Options::new().shards(1).segment_bytes(1 << 20).open(dir.path()).unwrap();
    log.append(b"one").wait().unwrap();
    let kept = copies.each_ref().map(|copy| std::fs::read(copy).unwrap());
    (0..40).for_each(|_| _ = log.append(vec![7; 100_000]).wait().unwrap());
    log.close().unwrap();
    drop(log);
    copies.iter().zip(kept).for_each(|(copy, bytes)| std::fs::write(copy, bytes).unwrap());
    let (code, out, _) = text(&sawmill(&["verify", path]));
    assert!(code == 3 && out.contains("the manifest is older than the log"), "{out}");
    let (code, out, _) = text(&sawmill(&["repair", path]));
    assert!(code == 3 && out.contains("run this again") && out.contains("nothing was changed"), "{out}");
    copies.iter().for_each(|copy| std::fs::remove_file(copy).unwrap());
    let (code, out, _) = text(&sawmill(&["repair", path, "--yes"]));
    assert!(code == 0 && out.contains("nothing is damaged"), "{out}");
    assert_eq!(Options::new().open(dir.path()).unwrap().merged(..).unwrap().flatten().count(), 41);
}

#[test]
fn manifests_that_are_lost_are_rebuilt_only_on_demand() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    some_log(dir.path());
    let manifest = |shard: u16, copy: u16| dir.path().join(format!("shard-{shard:04}/shard.manifest.{copy}"));
    for copy in [0, 1] {
        std::fs::remove_file(manifest(0, copy)).unwrap();
        std::fs::write(manifest(1, copy), format!("rotten {copy}")).unwrap();
    }
    let (code, _, error) = text(&sawmill(&["verify", path]));
    assert_eq!((code, error.contains("the manifest in")), (3, true), "{error}");
    let (code, out, error) = text(&sawmill(&["repair", path]));
    assert_eq!((code, error.as_str()), (3, ""), "{out}");
    for told in ["shard 0: its manifest is lost", "shard 1: its manifest is lost", "nothing was changed"] {
        assert!(out.contains(told), "{out}");
    }
    assert!(out.contains("records that were truncated") && out.contains("1 segments with 1 epochs"), "{out}");
    assert!(!manifest(0, 0).exists() && std::fs::read(manifest(1, 1)).unwrap() == b"rotten 1");
    let (code, out, error) = text(&sawmill(&["repair", path, "--yes"]));
    assert_eq!((code, error.as_str()), (0, ""), "{out}");
    assert!(out.contains("the log opens again; nothing is damaged"), "{out}");
    let (code, out, _) = text(&sawmill(&["verify", path]));
    assert_eq!((code, out.trim()), (0, "40 records, 0.0 MiB, 0 damaged places"));
    let names = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
    let is_aside = |path: &std::path::PathBuf| path.to_string_lossy().contains("sawmill.before-repair-");
    let aside = names.into_iter().find(is_aside).expect("what was there is kept");
    assert_eq!(std::fs::read(aside.join("shard-0001/shard.manifest.1")).unwrap(), b"rotten 1");

    // The log's own manifest is in any backup, and in nothing else.
    let own = ["log.manifest.0", "log.manifest.1"].map(|name| dir.path().join(name));
    let backup = own.each_ref().map(|own| std::fs::read(own).unwrap());
    own.iter().for_each(|own| std::fs::remove_file(own).unwrap());
    let (code, out, error) = text(&sawmill(&["repair", path, "--yes"]));
    assert_eq!(
        (code, error.contains("is missing, in both copies; nothing was changed")),
        (3, true),
        "{error}"
    );
    assert!(out.contains("any backup of this log"), "{out}");
    std::fs::write(&own[1], &backup[1]).unwrap();
    let (code, out, error) = text(&sawmill(&["repair", path]));
    assert_eq!((code, out.contains("there is nothing to repair")), (0, true), "{out}{error}");
    let (code, out, error) = text(&sawmill(&["repair", path, "--yes"]));
    assert_eq!(code, 0, "{out}{error}");
    assert!(out.contains("the log opens as it is"), "{out}");
}

#[test]
fn the_bench_counts_only_what_it_reads_back() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().to_str().unwrap();
    let arguments =
        ["bench", "--dir", path, "--seconds", "0.05", "--repeat", "1", "--only", "durable", "--json"];
    let (code, out, error) = text(&sawmill(&arguments));
    assert_eq!(code, 0, "{error}");
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    let loads = value["loads"].as_array().unwrap();
    assert_eq!(loads.len(), 5);
    let beside_hand_over = loads.iter().filter(|load| load["to_hand_over"][0].as_f64() > Some(0.0)).count();
    assert_eq!(beside_hand_over, 3, "8, 64 and 512 threads that block");
    let beside_bare = loads.iter().filter(|load| load["to_bare"][0].as_f64() > Some(0.0)).count();
    assert_eq!(
        beside_bare, 2,
        "one that blocks, and the window: nobody is held against what it cannot reach"
    );
    for load in loads {
        assert!(load["records"].as_u64().unwrap() > 0, "{load}");
        assert_eq!(load["records"], load["records_read_back"]);
    }
    assert!(value["crash"]["acknowledged"].as_u64().unwrap() >= 20_000);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "it leaves nothing behind");
}

#[test]
fn the_bench_runs_on_a_modelled_drive() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().to_str().unwrap();
    let mut arguments = vec!["bench", "--dir", path, "--seconds", "0.05", "--repeat", "1"];
    arguments.extend(["--only", "durable, 1", "--json", "--model", "steady:2000:100"]);
    let (code, out, error) = text(&sawmill(&arguments));
    assert_eq!(code, 0, "{error}");
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(value["model"], "2ms, 100 MiB/s");
    let load = &value["loads"][0];
    assert!(load["latency_us"]["p50"].as_f64() >= Some(1_990.0), "{load}");
    assert_eq!(load["records"], load["records_read_back"]);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "it leaves nothing behind");
}

#[test]
fn a_queue_is_shown_and_dead_letters_are_put_back() {
    use sawmill::queue::QueueOptions;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    some_log(dir.path());
    let (code, _, error) = text(&sawmill(&["queue", "mailer", path, "--requeue", "all"]));
    assert_eq!(code, 1);
    assert!(error.contains("there is no queue `mailer`"), "{error}");
    let log = Options::new().open(dir.path()).unwrap();
    let queue = log.queue("mailer", QueueOptions::new().attempts(9)).unwrap();
    let mut batch = queue.take_batch(12).wait().unwrap().unwrap();
    let last = batch.pop().unwrap();
    let position = last.record().position().to_string();
    last.reject("no such address").unwrap();
    let _in_hand = batch.split_off(8);
    batch.into_iter().for_each(|delivery| delivery.done().unwrap());
    queue.flush().unwrap();
    let show = || {
        let (code, out, error) = text(&sawmill(&["queue", "mailer", path]));
        assert_eq!(code, 0, "{error}");
        out
    };
    let out = show();
    assert!(out.contains("mailer: 31 records not done"), "{out}");
    assert!(out.contains("3 of them in hand") && out.contains("1 dead letters, 0 forgotten"), "{out}");
    assert!(out.contains(&format!("{position} 1x `no such address` k\\n record ")), "{out}");
    let (code, _, error) = text(&sawmill(&["queue", "mailer", path, "--requeue", &position]));
    assert!(code == 1 && error.contains("is open already"), "{error}");
    log.close().unwrap();
    let (code, _, error) = text(&sawmill(&["queue", "mailer", path, "--requeue", "0@1.1"]));
    assert!(code == 1 && error.contains("there is no dead letter at 0@1.1"), "{error}");
    let (code, out, error) = text(&sawmill(&["queue", "mailer", path, "--requeue", &position]));
    assert_eq!((code, out.as_str()), (0, "1 put back, 0 are not in the log any more\n"), "{error}");
    let out = show();
    assert!(out.contains("mailer: 32 records not done") && out.contains("0 dead letters"), "{out}");
    let (_, out, _) = text(&sawmill(&["queue", "mailer", path, "--json"]));
    assert!(out.contains("\"records\":32") && out.contains("\"handed_out\":4"), "{out}");
}

#[test]
fn a_tally_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let log = Options::new().shards(2).segment_bytes(1 << 20).open(dir.path()).unwrap();
    let likes = log.tally("likes").unwrap();
    for post in 0..30i64 {
        likes.add(format!("post:{post}"), post * post).accepted().unwrap();
    }
    likes.flush().unwrap();
    // Beside the living owner, as soon as the log itself says that the flush is durable.
    let out = loop {
        let (code, out, error) = text(&sawmill(&["tally", "likes", path, "-n", "2"]));
        assert_eq!(code, 0, "{error}");
        if !out.contains(" 0 keys") {
            break out;
        }
    };
    let lines: Vec<_> =
        out.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(lines, ["likes: sum, 30 keys", "841 post:29", "784 post:28"]);
    let last = log.tally_of::<sawmill::tally::Last>("last").unwrap();
    last.update(b"user\n", b"page \xff".to_vec()).wait().unwrap();
    log.close().unwrap();
    let (code, out, _) = text(&sawmill(&["tally", "last", path, "--json"]));
    assert_eq!(code, 0);
    let found: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(found["top"][0], serde_json::json!({ "key": r"user\n", "total": r"page \xff" }));
    let (code, _, error) = text(&sawmill(&["tally", "nobody", path]));
    assert_eq!(code, 1);
    assert!(error.contains("there is no tally `nobody`"), "{error}");
}

/// Whoever follows a log has read what is there no more once it is put back from a copy.
#[test]
fn a_tail_of_a_log_that_is_put_back_ends_and_says_why() {
    let base = tempfile::tempdir().unwrap();
    let (dir, copy) = (base.path().join("log"), base.path().join("copy"));
    let append = |payload: &str| {
        let log = Options::new().shards(1).segment_bytes(1 << 20).open(&dir).unwrap();
        (0..20).for_each(|_| _ = log.append(payload).wait().unwrap());
        log.close().unwrap();
    };
    let rsync = |from: &Path, to: &Path| {
        for folder in ["", "shard-0000"] {
            std::fs::create_dir_all(to.join(folder)).unwrap();
            for entry in std::fs::read_dir(from.join(folder)).unwrap().map(Result::unwrap) {
                if entry.file_type().unwrap().is_file() {
                    std::fs::copy(entry.path(), to.join(folder).join(entry.file_name())).unwrap();
                }
            }
        }
    };
    append("kept");
    rsync(&dir, &copy);
    append("gone");
    let mut tail = Command::new(env!("CARGO_BIN_EXE_sawmill"))
        .args([OsStr::new("tail"), OsStr::new("--follow"), dir.as_os_str()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(tail.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("gone"), "{line}");
    rsync(&copy, &dir);
    append("new");
    let (code, out, error) = text(&tail.wait_with_output().unwrap());
    assert!(code == 1 && error.contains("was restored"), "{code}, {error}");
    assert!(!out.contains("new"), "{out}");
}
