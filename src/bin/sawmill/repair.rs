//! `sawmill repair`: makes a damaged log open again.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use sawmill::{Log, OnDamage, OpenError, Options, error_chain};

use crate::{DAMAGED, Error};

/// Make a log that is refused as damaged open again.
///
/// No record is deleted: the damaged stretch stays where it is, readers are told of it, and the log goes
/// on behind everything that was ever durable. The manifests, which are all that is changed, are copied
/// aside first.
#[derive(Debug, Args)]
pub struct Repair {
    /// The log's directory; nobody may have it open.
    dir: PathBuf,
    /// Do it; without this only what would be given up is said.
    #[arg(long)]
    yes: bool,
}

impl Repair {
    pub fn run(&self) -> Result<ExitCode, Error> {
        let verified = Log::open_read_only(&self.dir)?.verify()?;
        crate::verify::print(&verified);
        let findings = verified.findings;
        let refused = match Log::open(&self.dir) {
            Ok(log) => {
                log.close()?;
                let rest =
                    if findings.is_empty() { "nothing is damaged" } else { "what is above stays damaged" };
                println!("the log opens as it is: there is nothing to repair; {rest}");
                return Ok(if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(DAMAGED) });
            }
            Err(error @ OpenError::Damaged { .. }) => error,
            Err(error) => return Err(error.into()),
        };
        println!("an open says: {}", error_chain(&refused));
        println!("given up would be: every record in the places above; all others stay readable");
        if !self.yes {
            println!("nothing was changed; to go on, add --yes");
            return Ok(ExitCode::from(DAMAGED));
        }
        let aside = keep_manifests(&self.dir)?;
        println!("the manifests are kept in {}", aside.display());
        Options::new().on_damage(OnDamage::Continue).open(&self.dir)?.close()?;
        println!("the log opens again");
        Ok(ExitCode::SUCCESS)
    }
}

/// Copies the shards' manifests into a folder of their own beside them.
fn keep_manifests(dir: &Path) -> Result<PathBuf, Error> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let aside = dir.join(format!("sawmill.before-repair-{now}"));
    std::fs::create_dir(&aside)?;
    for shard in Log::open_read_only(dir)?.summary()? {
        let name = shard.path.file_name().ok_or("a shard's folder has a name")?;
        let folder = aside.join(name);
        std::fs::create_dir(&folder)?;
        for copy in ["shard.manifest.0", "shard.manifest.1"] {
            std::fs::copy(shard.path.join(copy), folder.join(copy))?;
            std::fs::File::open(folder.join(copy))?.sync_all()?;
        }
    }
    Ok(aside)
}
