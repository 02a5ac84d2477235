//! The parts that run for long: a site's workers, and an orchestrator. `rounds up` runs them side by side.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::Context;
use pipeline::{
    clock,
    conductor::Conductor,
    connection::Connection,
    gate::Gate,
    metrics::{self, Metrics},
    streams::{self, Pace, StreamSettings},
    worker::{self, Activity, Phase, Worker, WorkerSettings},
};
use schemas::{
    PROTOCOL_VERSION,
    job::{JobMessage, Payload},
    names,
    site::{Announce, AnnouncedDataset},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    gpu,
    phases::{Aggregate, Average, Fingerprint, Infer, PlanVerify, Preprocess, TrainRound},
    site::Site,
};

/// The program's version: sites and orchestrators must agree on it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How long to wait for a server that is not there yet.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The process's metrics, with what this build is.
pub fn metrics() -> Metrics {
    let metrics = Metrics::new();
    let backend = if nnunet::device::cuda_built() {
        "cuda"
    } else {
        "cpu"
    };
    metrics.set_build(
        VERSION,
        option_env!("ROUNDS_REVISION").unwrap_or("unknown"),
        backend,
    );
    metrics
}

/// Makes the streams and a site's durable consumers. Doing it twice changes nothing. `moved`: the site's workers
/// share this folder from now on, whichever it was before.
///
/// # Errors
/// The site's workers share another folder.
pub async fn set_up_site(connection: &Connection, site: &Site, moved: bool) -> anyhow::Result<()> {
    streams::set_up(connection, &StreamSettings::default()).await?;
    worker::share(connection, &site.folder, moved).await?;
    streams::set_up_site(connection, &site.settings.site, Pace::default()).await?;
    Ok(())
}

/// Tells the federation of a site that is set up. From then on jobs may name its data sets.
pub async fn introduce(connection: &Connection, site: &Site) -> anyhow::Result<()> {
    let announcement = announcement(site)?;
    worker::announce(connection, &announcement).await?;
    let datasets: Vec<String> = announcement
        .datasets
        .iter()
        .map(|dataset| format!("{} ({} cases)", dataset.id, dataset.cases))
        .collect();
    tracing::info!(site = site.settings.site, "ready: {}", datasets.join(", "));
    Ok(())
}

/// Runs workers for `phases` of a site that is set up, until `stop`.
pub async fn run_site(
    connection: Connection,
    site: Arc<Site>,
    phases: &[names::Phase],
    gate: Gate,
    activity: Activity,
    metrics: Metrics,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut settings = WorkerSettings::new(
        &site.settings.site,
        VERSION,
        site.settings.root.join("deliveries"),
    );
    settings.gate = Some(gate);
    settings.activity = activity;
    let mut workers = JoinSet::new();
    say_metrics(&mut workers, &connection, &settings, &metrics, &stop);
    workers.spawn(gpu::watch(
        metrics.clone(),
        site.settings.site.clone(),
        stop.clone(),
    ));
    for &phase in phases {
        let (connection, settings, metrics, stop) = (
            connection.clone(),
            settings.clone(),
            metrics.clone(),
            stop.clone(),
        );
        let site = Arc::clone(&site);
        match phase {
            names::Phase::Fingerprint => start(
                &mut workers,
                connection,
                Fingerprint(site),
                settings,
                metrics,
                stop,
            ),
            names::Phase::PlanVerify => start(
                &mut workers,
                connection,
                PlanVerify(site),
                settings,
                metrics,
                stop,
            ),
            names::Phase::Preprocess => start(
                &mut workers,
                connection,
                Preprocess(site),
                settings,
                metrics,
                stop,
            ),
            names::Phase::TrainRound => start(
                &mut workers,
                connection,
                TrainRound(site),
                settings,
                metrics,
                stop,
            ),
            names::Phase::Infer => start(&mut workers, connection, Infer(site), settings, metrics, stop),
            names::Phase::Aggregate | names::Phase::Average => {
                anyhow::bail!("{phase} is the orchestrator's: start it with `rounds orchestrator`")
            }
        }
    }
    until_all_end(workers, &stop).await
}

/// Runs an orchestrator until `stop`: the conductor, and workers for aggregate and average.
pub async fn run_orchestrator(
    connection: Connection,
    root: &Path,
    metrics: Metrics,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let scratch = root.join("scratch");
    std::fs::create_dir_all(&scratch).with_context(|| format!("root: {}", scratch.display()))?;
    streams::set_up(&connection, &StreamSettings::default()).await?;
    streams::set_up_site(&connection, names::ORCHESTRATOR, Pace::default()).await?;
    let settings = WorkerSettings::new(names::ORCHESTRATOR, VERSION, root.join("deliveries"));
    let mut workers = JoinSet::new();
    say_metrics(&mut workers, &connection, &settings, &metrics, &stop);
    let (heard, listened, ended) = (metrics.clone(), connection.clone(), stop.clone());
    workers.spawn(async move {
        metrics::listen(heard, listened, ended).await;
        Ok(())
    });
    start(
        &mut workers,
        connection.clone(),
        Aggregate,
        settings.clone(),
        metrics.clone(),
        stop.clone(),
    );
    start(
        &mut workers,
        connection.clone(),
        Average(scratch),
        settings,
        metrics.clone(),
        stop.clone(),
    );
    let (queues, watched, ended) = (metrics.clone(), connection.clone(), stop.clone());
    workers.spawn(async move {
        queues.watch_queues(&watched, ended).await;
        Ok(())
    });
    let conductor = Conductor::new(connection, VERSION, Arc::new(check_job), metrics);
    let conducted = stop.clone();
    workers.spawn(async move { conductor.run(conducted).await });
    tracing::info!("orchestrator ready");
    until_all_end(workers, &stop).await
}

/// Says what of the process's metrics leaves the site.
fn say_metrics(
    workers: &mut JoinSet<Result<(), pipeline::Error>>,
    connection: &Connection,
    settings: &WorkerSettings,
    metrics: &Metrics,
    stop: &CancellationToken,
) {
    let (spoken, connection, stop) = (metrics.clone(), connection.clone(), stop.clone());
    let who = metrics::Speaker {
        site: settings.site.clone(),
        worker: settings.name.clone(),
        version: settings.version.clone(),
    };
    workers.spawn(async move {
        metrics::beat(spoken, connection, who, stop).await;
        Ok(())
    });
}

fn start<P: Phase>(
    workers: &mut JoinSet<Result<(), pipeline::Error>>,
    connection: Connection,
    phase: P,
    settings: WorkerSettings,
    metrics: Metrics,
    stop: CancellationToken,
) {
    workers.spawn(Worker::new(connection, phase, settings, metrics).run(stop));
}

/// The first that fails stops the others.
async fn until_all_end(
    mut workers: JoinSet<Result<(), pipeline::Error>>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let mut outcome = Ok(());
    while let Some(ended) = workers.join_next().await {
        let ended = ended
            .map_err(anyhow::Error::from)
            .and_then(|ended| ended.map_err(Into::into));
        if ended.is_err() && outcome.is_ok() {
            outcome = ended;
            stop.cancel();
        }
    }
    outcome
}

fn announcement(site: &Site) -> anyhow::Result<Announce> {
    let mut datasets = Vec::new();
    for settings in &site.settings.datasets {
        let raw = settings
            .open()
            .with_context(|| format!("datasets.{}: {}", settings.id, settings.path.display()))?;
        datasets.push(AnnouncedDataset {
            id: settings.id.clone(),
            dataset_id: settings.dataset_id()?,
            cases: raw.cases.len() as u32,
        });
    }
    Ok(Announce {
        site: site.settings.site.clone(),
        protocol: PROTOCOL_VERSION,
        version: VERSION.to_owned(),
        datasets,
        devices: site.settings.devices.clone(),
        time: clock::now(),
    })
}

/// What only the algorithm knows about a job: whether the trainer exists. Returns warnings.
fn check_job(message: &JobMessage) -> Result<Vec<String>, schemas::Invalid> {
    let Payload::Training(payload) = &message.payload else {
        return Ok(Vec::new());
    };
    let variant = nnunet::train::TrainerVariant::by_name(&payload.trainer_name).map_err(|error| {
        let reason = match error {
            nnunet::Error::Invalid { reason, .. } => reason,
            other => other.to_string(),
        };
        schemas::Invalid::new("payload.trainer_name", reason)
    })?;
    let mut warnings = Vec::new();
    let epochs = payload.num_rounds as usize * payload.epochs_per_round as usize;
    if variant.name != "nnUNetTrainer" && variant.epochs != 1000 && variant.epochs != epochs {
        warnings.push(format!(
            "trainer {} is named for {} epochs; this job trains num_rounds x epochs_per_round = {epochs}",
            variant.name, variant.epochs
        ));
    }
    let federation = &message.federation;
    if (
        federation.iterations_per_epoch,
        federation.val_iterations_per_epoch,
    ) != (250, 50)
    {
        warnings.push(format!(
            "an epoch has {} training and {} validation iterations; nnU-Net's has 250 and 50",
            federation.iterations_per_epoch, federation.val_iterations_per_epoch
        ));
    }
    Ok(warnings)
}
