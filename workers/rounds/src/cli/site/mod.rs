//! `rounds site`: a site with workers for all its phases. `rounds site gc`: what it no longer needs.

mod gc;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use schemas::names::Phase;

use super::worker::{self, Part};

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
}

impl Site {
    /// Runs until interrupted.
    pub fn run(self) -> anyhow::Result<()> {
        let settings = match (self.command, self.settings) {
            (Some(Command::Gc(gc)), _) => return gc.run(),
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
