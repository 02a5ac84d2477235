//! The parts that run for long: a site's workers, and an orchestrator. `rounds up` runs them side by side.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use pipeline::{
    archive::Archive,
    clock,
    conductor::Conductor,
    connection::Connection,
    gate::Gate,
    guests,
    metrics::{self, Metrics},
    signing::Identity,
    streams::{self, Pace, StreamSettings},
    worker::{self, Activity, Phase, Worker, WorkerSettings},
};
use schemas::{
    PROTOCOL_VERSION, names,
    site::{Announce, AnnouncedDataset},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

#[cfg(feature = "torch")]
use crate::phases::{Infer, PlanVerify, TrainRound};
use crate::{
    exposure::admission::Door,
    gpu, job_check,
    phases::{Aggregate, Average, Fingerprint, Preprocess},
    site::Site,
};

/// The program's version. Sites and orchestrators must agree on the versions of protocol and algorithm in it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit that this build is of.
pub const REVISION: &str = match option_env!("ROUNDS_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

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
    metrics.set_build(VERSION, REVISION, backend);
    metrics
}

/// Makes the streams and a site's durable consumers, where the site has the right to: else the orchestrators make them.
/// Doing it twice changes nothing. `moved`: the site's workers share this folder from now on, whichever it was before.
///
/// # Errors
/// The site's workers share another folder.
pub async fn set_up_site(connection: &Connection, site: &Site, moved: bool) -> anyhow::Result<()> {
    let guarded = site.guarded(connection);
    if connection.is_guest() {
        worker::share(&guarded, &site.folder, moved).await?;
        return Ok(());
    }
    streams::set_up(connection, &StreamSettings::default()).await?;
    worker::share(&guarded, &site.folder, moved).await?;
    streams::set_up_site(connection, &site.settings.site, Pace::default()).await?;
    Ok(())
}

/// Tells the federation of a site that is set up. From then on jobs may name its data sets.
pub async fn introduce(connection: &Connection, site: &Site) -> anyhow::Result<()> {
    let announcement = announcement(site)?;
    worker::announce(&site.guarded(connection), &announcement).await?;
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
    settings.algorithm = nnunet::ALGORITHM_VERSION;
    settings.admit = Some(Arc::new(Door::new(&site.settings, site.identity.roster.clone())));
    settings.gate = Some(gate);
    settings.identity = site.identity.clone();
    settings.activity = activity;
    let connection = site.guarded(&connection);
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
            #[cfg(feature = "torch")]
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
            #[cfg(feature = "torch")]
            names::Phase::TrainRound => start(
                &mut workers,
                connection,
                TrainRound(site),
                settings,
                metrics,
                stop,
            ),
            #[cfg(feature = "torch")]
            names::Phase::Infer => start(&mut workers, connection, Infer(site), settings, metrics, stop),
            #[cfg(not(feature = "torch"))]
            names::Phase::PlanVerify | names::Phase::TrainRound | names::Phase::Infer => {
                anyhow::bail!(
                    "{phase}: this build is without libtorch, an orchestrator's; take one with it for a site"
                )
            }
            names::Phase::Aggregate | names::Phase::Average => {
                anyhow::bail!("{phase} is the orchestrator's: start it with `rounds orchestrator`")
            }
        }
    }
    until_all_end(workers, &stop).await
}

/// Runs a part of the federation until `stop`. Where the server has lost its streams, `part` ends and begins anew, and
/// so sets up what is its own. `own` is the subject on which a site's part sets itself up.
pub async fn through_losses(
    connection: &Connection,
    own: Option<&str>,
    stop: &CancellationToken,
    part: impl AsyncFn(CancellationToken) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    loop {
        let until = stop.child_token();
        let running = part(until.clone());
        tokio::pin!(running);
        tokio::select! {
            ended = &mut running => return ended,
            () = streams::lost(connection, own) => {}
        }
        tracing::warn!(
            "the server has lost its streams, and with them all jobs: setting them up anew; \
             `rounds resume JOB` brings a job back from the orchestrators' archive"
        );
        until.cancel();
        running.await?;
        if stop.is_cancelled() {
            return Ok(());
        }
    }
}

/// The folders of an orchestrator.
#[derive(Clone, Debug)]
pub struct OrchestratorFolders {
    /// Its own.
    pub root: PathBuf,
    /// What outlives the server; all orchestrators share it.
    pub archive: PathBuf,
    /// Whether the archive keeps the sites' updates, too.
    pub keep_updates: bool,
}

impl OrchestratorFolders {
    /// Where the archive lies, unless the settings say so: `archive` in the orchestrator's own folder.
    pub fn within(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            archive: root.join("archive"),
            keep_updates: false,
        }
    }
}

/// Makes the streams as an orchestrator does, which knows the jobs in its archive. Doing it twice changes nothing.
pub async fn set_up_streams(connection: &Connection, folders: &OrchestratorFolders) -> anyhow::Result<()> {
    let archive = Archive::open(&folders.archive).context("archive")?;
    let settings = StreamSettings {
        first_submit: archive.next_submit()?,
        ..StreamSettings::default()
    };
    streams::set_up(connection, &settings).await?;
    Ok(())
}

/// Runs an orchestrator until `stop`: the conductor, and workers for aggregate and average.
pub async fn run_orchestrator(
    connection: Connection,
    folders: &OrchestratorFolders,
    identity: Identity,
    metrics: Metrics,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let OrchestratorFolders {
        root,
        archive,
        keep_updates,
    } = folders;
    let scratch = root.join("scratch");
    std::fs::create_dir_all(&scratch).with_context(|| format!("root: {}", scratch.display()))?;
    set_up_streams(&connection, folders).await?;
    let archive = Archive::open(archive)
        .context("archive")?
        .with_updates(*keep_updates);
    streams::set_up_site(&connection, names::ORCHESTRATOR, Pace::default()).await?;
    let mut settings = WorkerSettings::new(names::ORCHESTRATOR, VERSION, root.join("deliveries"));
    settings.algorithm = nnunet::ALGORITHM_VERSION;
    settings.archive = Some(archive.clone());
    settings.identity = identity.clone();
    let mut workers = JoinSet::new();
    say_metrics(&mut workers, &connection, &settings, &metrics, &stop);
    let (served, roster, ended) = (connection.clone(), identity.roster.clone(), stop.clone());
    workers.spawn(async move {
        guests::serve(&served, roster.as_ref(), ended).await;
        Ok(())
    });
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
    let conductor = Conductor::new(connection, VERSION, Arc::new(job_check::check), metrics)
        .with_algorithm(nnunet::ALGORITHM_VERSION)
        .with_archive(archive)
        .with_identity(identity);
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
            .open_described()
            .with_context(|| format!("datasets.{}: {}", settings.id, settings.path.display()))?;
        datasets.push(AnnouncedDataset {
            id: settings.id.clone(),
            dataset_id: settings.dataset_id()?,
            cases: raw.map_or(0, |raw| raw.cases.len() as u32),
        });
    }
    Ok(Announce {
        site: site.settings.site.clone(),
        protocol: PROTOCOL_VERSION,
        version: VERSION.to_owned(),
        algorithm: nnunet::ALGORITHM_VERSION,
        datasets,
        devices: site.settings.devices.clone(),
        time: clock::now(),
    })
}
