//! `rounds orchestrator`: the conductor, and workers for aggregate and average.

use std::path::PathBuf;

use clap::Args;
use pipeline::connection::Connection;
use tokio_util::sync::CancellationToken;

use crate::{parts, settings::OrchestratorSettings};

/// Start an orchestrator
#[derive(Args)]
pub struct Orchestrator {
    /// The orchestrator's settings (TOML; a commented sample is deploy/settings/orchestrator.toml)
    settings: PathBuf,
}

impl Orchestrator {
    /// Runs until interrupted.
    pub fn run(self) -> anyhow::Result<()> {
        let settings = OrchestratorSettings::read(&self.settings)?;
        super::on_runtime(async {
            let stop = CancellationToken::new();
            super::stop_on_signal(stop.clone());
            let metrics = crate::parts::metrics();
            super::serve_metrics(settings.metrics.as_deref(), &metrics, &stop).await?;
            let access = settings.nats.access()?;
            let identity = settings.nats.identity(settings.roster.as_deref())?;
            let connection = Connection::open(&access, "orchestrator", parts::PATIENCE, &metrics).await?;
            let folders = settings.folders();
            parts::through_losses(&connection, None, &stop, async |stop| {
                parts::run_orchestrator(
                    connection.clone(),
                    &folders,
                    identity.clone(),
                    metrics.clone(),
                    stop,
                )
                .await
            })
            .await
        })
    }
}
