//! `rounds site gc`: what a site's folder holds and no live job needs.

use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::Args;
use pipeline::known::Known;

use super::known::known_jobs;
use crate::{byte_size::ByteSize, cli::on_runtime, gc::Garbage, settings::SiteSettings, site::Site};

/// Remove from a site's folder what no live job needs: preprocessed cases, momentum, models and segmentations of
/// jobs that have ended. A job that the server does not know to have ended counts as live
#[derive(Args)]
pub struct Gc {
    /// The site's settings
    settings: PathBuf,
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
    /// A job that has ended, whatever the server knows: for jobs of a server that is no more
    #[arg(long, value_name = "JOB")]
    ended: Vec<String>,
}

impl Gc {
    /// Removes, or says what would be removed.
    pub fn run(self) -> anyhow::Result<()> {
        let site = Site::open(SiteSettings::read(&self.settings)?)?;
        let known = match on_runtime(known_jobs(&site.settings)) {
            Ok(known) => known,
            Err(error) => {
                eprintln!("warning: {error:#}; every job counts as live but those of --ended");
                Vec::new()
            }
        };
        for job in &self.ended {
            let running = |known: &Known| !known.ended && known.accepted.job == *job;
            ensure!(
                !known.iter().any(running),
                "--ended {job}: the server says that it is running; `rounds cancel {job}` ends it"
            );
        }
        let (root, cache) = (&site.settings.root, site.cases());
        let context = || format!("root: {}", root.display());
        let garbage = Garbage::find(root, &cache, &known, &self.ended).with_context(context)?;
        for job in &garbage.live {
            println!("{job}: not known to have ended; stays");
        }
        for part in &garbage.parts {
            let name = if part.name.is_empty() {
                "all of it"
            } else {
                &part.name
            };
            println!("{}: {name}, {}", part.job, ByteSize(part.bytes));
        }
        let bytes = garbage.cases.iter().map(|case| case.bytes()).sum();
        println!(
            "preprocessed cases: {} of {}, {}",
            garbage.cases.len(),
            garbage.cases_in_total,
            ByteSize(bytes)
        );
        let all = ByteSize(garbage.bytes());
        if self.dry_run {
            println!("would free {all}");
            return Ok(());
        }
        garbage.remove(&cache).with_context(context)?;
        println!("freed {all}");
        Ok(())
    }
}
