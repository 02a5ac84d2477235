//! `rounds worker`: workers for some phases of a site.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use pipeline::{connection::Connection, gate::Gate};
use schemas::names::Phase;
use tokio_util::sync::CancellationToken;

use crate::{parts, settings::SiteSettings, site::Site};

/// Start workers for some phases of a site
#[derive(Args)]
pub struct Worker {
    /// The site's settings
    settings: PathBuf,
    /// fingerprint, plan-verify, preprocess, train-round, infer
    #[arg(required = true)]
    phases: Vec<Phase>,
}

impl Worker {
    /// Runs until interrupted.
    pub fn run(self) -> anyhow::Result<()> {
        work(&self.settings, &self.phases, Part::Worker)
    }
}

/// What a process is at its site.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// One of its workers.
    Worker,
    /// The site itself, which announces its data sets.
    Site {
        /// Its folder is a new one.
        moved: bool,
    },
}

/// Runs workers for `phases` until interrupted.
pub fn work(settings: &Path, phases: &[Phase], part: Part) -> anyhow::Result<()> {
    let site = Arc::new(Site::open(SiteSettings::read(settings)?)?);
    super::on_runtime(async {
        let stop = CancellationToken::new();
        super::stop_on_signal(stop.clone());
        let metrics = crate::parts::metrics();
        super::serve_metrics(site.settings.metrics.as_deref(), &metrics, &stop).await?;
        let name = format!("site-{}", site.settings.site);
        let access = site.settings.nats.access();
        let connection = Connection::open(&access, &name, parts::PATIENCE, &metrics).await?;
        // One slot a site folder: its workers share the machine's device.
        let gate = Gate::new(site.settings.root.join("slot"));
        parts::through_losses(&connection, &stop, async |stop| {
            parts::set_up_site(&connection, &site, part == Part::Site { moved: true }).await?;
            if part != Part::Worker {
                parts::introduce(&connection, &site).await?;
            }
            let (connection, site) = (connection.clone(), Arc::clone(&site));
            parts::run_site(connection, site, phases, gate.clone(), metrics.clone(), stop).await
        })
        .await
    })
}
