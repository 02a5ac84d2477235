//! `rounds worker`: workers for some phases of a site.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use pipeline::{
    connection::Connection,
    gate::Gate,
    subjects,
    worker::{Activity, host},
};
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
    /// End once there was nothing to do for so long: 90s, 10m, 2h. For clusters, where an idle node costs
    #[arg(long, value_name = "TIME", value_parser = time)]
    exit_when_idle: Option<Duration>,
}

/// A length of time: a number with s, m or h.
fn time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?}: expected a number and s, m or h, such as 10m");
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3_600,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    Ok(Duration::from_secs(number.saturating_mul(unit)))
}

impl Worker {
    /// Runs until interrupted.
    pub fn run(self) -> anyhow::Result<()> {
        work(&self.settings, &self.phases, Part::Worker, self.exit_when_idle)
    }
}

/// The locks of this machine's slots for heavy work. The site's folder is shared by machines, and one that has several
/// accelerators shows each worker its own.
fn slots(settings: &SiteSettings) -> Vec<PathBuf> {
    let accelerators = std::env::var("CUDA_VISIBLE_DEVICES").unwrap_or_default();
    let named: String = accelerators
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect();
    let machine = format!("{}-{named}", host());
    (0..settings.slots)
        .map(|slot| settings.root.join(format!("slot-{machine}-{slot}")))
        .collect()
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

/// Runs workers for `phases` until interrupted, or until they had nothing to do for so long.
pub fn work(
    settings: &Path,
    phases: &[Phase],
    part: Part,
    exit_when_idle: Option<Duration>,
) -> anyhow::Result<()> {
    let site = Arc::new(Site::open(SiteSettings::read(settings)?)?);
    // Only these compute on a device.
    if phases.contains(&Phase::TrainRound) || phases.contains(&Phase::Infer) {
        site.settings.check_devices()?;
    }
    super::on_runtime(async {
        let stop = CancellationToken::new();
        super::stop_on_signal(stop.clone());
        let metrics = crate::parts::metrics();
        super::serve_metrics(site.settings.metrics.as_deref(), &metrics, &stop).await?;
        let name = format!("site-{}", site.settings.site);
        let access = site.settings.nats.access()?;
        let connection = Connection::open(&access, &name, parts::PATIENCE, &metrics).await?;
        let gate = Gate::new(slots(&site.settings));
        let activity = Activity::default();
        if let Some(length) = exit_when_idle {
            let (activity, stop) = (activity.clone(), stop.clone());
            tokio::spawn(async move {
                activity.idle_for(length).await;
                tracing::info!("nothing to do for {length:?}: ending");
                stop.cancel();
            });
        }
        let own = match part {
            Part::Worker => subjects::folder(&site.settings.site),
            Part::Site { .. } => subjects::announce(&site.settings.site),
        };
        parts::through_losses(&connection, Some(&own), &stop, async |stop| {
            parts::set_up_site(&connection, &site, part == Part::Site { moved: true }).await?;
            if part != Part::Worker {
                parts::introduce(&connection, &site).await?;
            }
            parts::run_site(
                connection.clone(),
                Arc::clone(&site),
                phases,
                gate.clone(),
                activity.clone(),
                metrics.clone(),
                stop,
            )
            .await
        })
        .await
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        for (text, seconds) in [("90s", 90), ("10m", 600), ("2h", 7_200)] {
            assert_eq!(time(text), Ok(Duration::from_secs(seconds)));
        }
        for text in ["", "10", "m", "-1m", "1d", "1.5h"] {
            let error = time(text).unwrap_err();
            assert!(error.contains("10m"), "{error}");
        }
    }
}
