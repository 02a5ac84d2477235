//! `rounds site`: a site with workers for all its phases; what it no longer needs, and what leaves it.

mod approve;
mod audit;
mod gc;
mod jobs;
mod known;
mod preview;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use schemas::names::Phase;

use super::worker::{self, Part};

/// How long to wait for the server: without it no job is known to have ended.
const PATIENCE: Duration = Duration::from_secs(5);

/// Start a site with workers for all its phases
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Site {
    /// The site's settings (TOML; a commented sample is deploy/settings/site.toml)
    #[arg(required = true)]
    settings: Option<PathBuf>,
    /// The site's folder is a new one; workers on the one before are refused from now on
    #[arg(long)]
    moved: bool,
    /// The phases to work on, where `rounds worker` runs the others; all by default
    #[arg(long, value_delimiter = ',', value_name = "PHASE,PHASE")]
    phases: Vec<Phase>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Remove from a site's folder what no live job needs
    Gc(gc::Gc),
    /// List the jobs that reached this site, and those that wait for a person
    Jobs(jobs::Jobs),
    /// Show what would leave this site for a job
    Preview(preview::Preview),
    /// Let a job run at this site, or refuse it
    Approve(approve::Approve),
    /// Show what left this site, and check that nobody changed the log
    Audit(audit::Audit),
}

impl Command {
    fn run(self) -> anyhow::Result<()> {
        match self {
            Command::Gc(gc) => gc.run(),
            Command::Jobs(jobs) => jobs.run(),
            Command::Preview(preview) => preview.run(),
            Command::Approve(approve) => approve.run(),
            Command::Audit(audit) => audit.run(),
        }
    }
}

impl Site {
    /// Runs until interrupted.
    pub fn run(self) -> anyhow::Result<()> {
        let settings = match (self.command, self.settings) {
            (Some(command), _) => return command.run(),
            (None, Some(settings)) => settings,
            // clap asks for one of the two.
            (None, None) => anyhow::bail!("expected the site's settings"),
        };
        let phases: Vec<Phase> = Phase::ALL
            .into_iter()
            .filter(|phase| !phase.at_orchestrator())
            .filter(|phase| self.phases.is_empty() || self.phases.contains(phase))
            .collect();
        worker::work(&settings, &phases, Part::Site { moved: self.moved }, None)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        site: Site,
    }

    #[test]
    fn settings_start_a_site_and_gc_takes_its_own() {
        let read = |line: &str| Line::try_parse_from(line.split(' ')).map(|line| line.site);
        let site = read("site a.toml").unwrap();
        assert!(site.command.is_none() && site.settings == Some("a.toml".into()));
        let site = read("site gc a.toml --dry-run --ended x --ended y").unwrap();
        assert!(site.command.is_some() && site.settings.is_none());
        // A settings file of that name.
        assert_eq!(read("site ./gc").unwrap().settings, Some("./gc".into()));
        for wrong in [
            "site",
            "site gc",
            "site a.toml gc b.toml",
            "site a.toml --dry-run",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
