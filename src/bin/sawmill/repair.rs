//! `sawmill repair`: makes a damaged log open again. How a lost manifest is rebuilt: `src/recovery/salvage.rs`; how that is
//! asked for and written: `src/open/salvage.rs`.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use sawmill::error::Damage;
use sawmill::log::{Finding, SalvagedShard};
use sawmill::{Log, OnDamage, OpenError, Options, error_chain};

use crate::{DAMAGED, Error};

/// Make a log that is refused as damaged open again.
///
/// No record is deleted: the damaged stretch stays where it is, readers are told of it, and the log goes
/// on after everything that was ever durable. The manifests, which are all that is changed, are copied
/// aside first. Where a shard's manifest is damaged or missing in both copies, it is rebuilt from the shard's
/// segments; then records that were truncated may be back.
#[derive(Debug, Args)]
pub struct Repair {
    /// The log's directory; nobody may have it open.
    dir: PathBuf,
    /// Do it. Without this the log is only read, and what would be given up is said.
    #[arg(long)]
    yes: bool,
}

const GIVEN_UP: &str = "given up would be: every record in the places above; all others stay readable";

/// Told with what is found in the segments.
const UNCERTAIN: &str = "\
what was acknowledged comes back. What only the manifest knew is not known any more:
  - records that were truncated before that place, and are still on disk, come back
  - records that were cut off the end of the log come back; those that a crash cut off before they were acknowledged may
  - damage where the log ends is taken for a write that was never acknowledged, unless a later block testifies";

/// What to do where it is the log's own manifest that is lost.
const LOG_MANIFEST: &str = "\
that is the log's own manifest, which says how the log was made and where its slots are: put back log.manifest.0 or
log.manifest.1 from any backup of this log since slots were last moved, and repair it then; without one, ask for help
before anything is changed";

/// What is better done where a shard's manifest is older than its segments.
const OLDER: &str = "\
that is what a shard's manifest looks like that was put back from a backup, without its segments. Nothing need be given
up then: put back the newest copies, or move both (shard.manifest.0 and .1) out of the shard's folder and run this again,
which rebuilds them from the segments";

impl Repair {
    pub fn run(&self) -> Result<ExitCode, Error> {
        let mut kept = false;
        let reader = match Log::open_read_only(&self.dir) {
            Err(OpenError::ManifestMissing { .. } | OpenError::ManifestDamaged { .. }) => {
                if !self.rebuild()? {
                    return Ok(ExitCode::from(DAMAGED));
                }
                kept = true;
                Log::open_read_only(&self.dir)?
            }
            opened => opened?,
        };
        let verified = reader.verify()?;
        crate::verify::print(&verified);
        let findings = verified.findings;
        if !self.yes {
            return Ok(only_looked_at(&findings));
        }
        let refused = match Log::open(&self.dir) {
            Ok(log) => {
                log.close()?;
                let rest =
                    if findings.is_empty() { "nothing is damaged" } else { "what is above stays damaged" };
                match kept {
                    true => println!("the log opens again; {rest}"),
                    false => println!("the log opens as it is: there is nothing to repair; {rest}"),
                }
                let is_well = findings.is_empty() || kept;
                return Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::from(DAMAGED) });
            }
            Err(error @ OpenError::Damaged { .. }) => error,
            Err(error) => return Err(error.into()),
        };
        println!("an open says: {}", error_chain(&refused));
        if matches!(&refused, OpenError::Damaged { cause, .. } if is_older(cause)) {
            println!("{OLDER}");
        }
        println!("{GIVEN_UP}");
        if !kept {
            let shards = reader.summary()?;
            keep_manifests(&self.dir, shards.iter().map(|shard| shard.path.as_path()))?;
        }
        Options::new().on_damage(OnDamage::Continue).open(&self.dir)?.close()?;
        println!("the log opens again");
        Ok(ExitCode::SUCCESS)
    }

    /// Rebuilds the manifests that are lost; false if that was only looked at.
    fn rebuild(&self) -> Result<bool, Error> {
        let salvage = Log::salvage(&self.dir).inspect_err(|error| {
            let (OpenError::ManifestMissing { path } | OpenError::ManifestDamaged { path, .. }) = error
            else {
                return;
            };
            if *path == self.dir {
                println!("{LOG_MANIFEST}");
            }
        })?;
        salvage.shards().iter().for_each(print_shard);
        println!("{UNCERTAIN}");
        if !self.yes {
            println!("nothing was changed; to go on, add --yes");
            return Ok(false);
        }
        keep_manifests(&self.dir, salvage.folders().iter().map(PathBuf::as_path))?;
        salvage.write()?;
        println!("the manifests were rebuilt");
        Ok(true)
    }
}

/// Whether the manifest is older than the segments.
fn is_older(cause: &Damage) -> bool {
    matches!(cause, Damage::OlderManifest { .. } | Damage::StaleManifest(_))
}

/// What a repair would do, without an open: that alone cuts off a torn end and begins an epoch.
fn only_looked_at(findings: &[Finding]) -> ExitCode {
    let mut ends = findings.iter().filter_map(|finding| match finding {
        Finding::End { cause, .. } => Some(cause),
        _ => None,
    });
    if let Some(cause) = ends.next() {
        if is_older(cause) || ends.any(is_older) {
            println!("{OLDER}");
        }
        println!("an open refuses the log as damaged; {GIVEN_UP}");
        println!("nothing was changed; to go on, add --yes");
        return ExitCode::from(DAMAGED);
    }
    if findings.is_empty() {
        println!("nothing is damaged: there is nothing to repair");
        return ExitCode::SUCCESS;
    }
    println!(
        "what is above stays damaged, and keeps nobody from opening the log: there is nothing to repair"
    );
    ExitCode::from(DAMAGED)
}

fn print_shard(found: &SalvagedShard) {
    let SalvagedShard { shard, horizon, end, segments, truncated_segments, epochs, doubts, .. } = found;
    println!("shard {shard}: its manifest is lost in both copies, and can be rebuilt from its segments");
    println!("    {segments} segments with {epochs} epochs, from LSN {horizon} to {end}");
    if *truncated_segments > 0 {
        println!("    {truncated_segments} segment files hold what was truncated, and stay spares");
    }
    doubts.iter().for_each(|doubt| println!("    {doubt}"));
}

/// Copies the shards' manifests into a folder of their own beside them.
fn keep_manifests<'a>(dir: &Path, folders: impl Iterator<Item = &'a Path>) -> Result<(), Error> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let aside = dir.join(format!("sawmill.before-repair-{now}"));
    std::fs::create_dir(&aside)?;
    for path in folders {
        let folder = aside.join(path.file_name().ok_or("a shard's folder has a name")?);
        std::fs::create_dir(&folder)?;
        for copy in ["shard.manifest.0", "shard.manifest.1"] {
            match std::fs::copy(path.join(copy), folder.join(copy)) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                copied => {
                    copied?;
                    std::fs::File::open(folder.join(copy))?.sync_all()?;
                }
            }
        }
    }
    println!("the manifests are kept in {}", aside.display());
    Ok(())
}
