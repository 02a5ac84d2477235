//! `rounds site`: a site with workers for all its phases.

use std::path::PathBuf;

use clap::Args;
use schemas::names::Phase;

use super::worker;

/// Start a site with workers for all its phases
#[derive(Args)]
pub struct Site {
    /// The site's settings (TOML; a commented sample is deploy/settings/site.toml)
    settings: PathBuf,
}

impl Site {
    /// Runs until interrupted.
    pub fn run(self) -> anyhow::Result<()> {
        let phases: Vec<Phase> = Phase::ALL
            .into_iter()
            .filter(|phase| !phase.at_orchestrator())
            .collect();
        worker::work(&self.settings, &phases, true)
    }
}
