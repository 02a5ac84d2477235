//! `rounds site audit`: what left a site.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;

use crate::{
    byte_size::ByteSize,
    exposure::audit::{self, Line},
    settings::SiteSettings,
};

/// Show what left this site, and check that nobody changed the log
#[derive(Args)]
pub struct Audit {
    /// The site's settings
    settings: PathBuf,
    /// Only what left for this job
    #[arg(long)]
    job: Option<String>,
    /// A last hash that was noted earlier: fails where the log no longer holds it, as when its end was cut off
    #[arg(long, value_name = "HASH")]
    holds: Option<String>,
}

impl Audit {
    /// Prints the log; fails at the line where its chain is broken.
    pub fn run(self) -> anyhow::Result<()> {
        let settings = SiteSettings::read(&self.settings)?;
        let file = audit::file(&settings.root);
        let (lines, broken) = audit::read(&settings.root).with_context(|| format!("{}", file.display()))?;
        let chosen = |line: &&Line| self.job.is_none() || line.left.job == self.job;
        for line in lines.iter().filter(chosen) {
            println!("{}", shown(line));
        }
        if let Some(broken) = broken {
            bail!("{}: line {}: {}", file.display(), broken.line, broken.reason);
        }
        if let Some(hash) = &self.holds
            && !lines.iter().any(|line| line.hash == *hash)
        {
            bail!(
                "{}: no line has the hash {hash}: lines were cut off",
                file.display()
            );
        }
        match lines.last() {
            None => println!("nothing has left"),
            Some(last) => println!(
                "{} lines, unbroken; the last has the hash {}",
                lines.len(),
                last.hash
            ),
        }
        Ok(())
    }
}

fn shown(line: &Line) -> String {
    let left = &line.left;
    let mut shown = format!(
        "{}  {:<14} {:>10}",
        line.time,
        left.kind,
        ByteSize(left.size).to_string()
    );
    if let Some(job) = &left.job {
        shown += &format!("  job {job}");
    }
    if let Some(phase) = left.phase {
        shown += &format!("  {phase}");
    }
    shown += &format!(
        "  sha256 {}  {}",
        &left.digest[..left.digest.len().min(12)],
        left.subject
    );
    if left.repeats {
        shown += "  (and more of the kind)";
    }
    shown
}
