//! `rounds up`: everything on one machine.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, bail, ensure};
use clap::Args;
use pipeline::{
    connection::Connection,
    gate::Gate,
    metrics::Metrics,
    server::{Address, Server, ServerSettings},
    signing::Identity,
    worker::Activity,
};
use schemas::{job::Device, names::Phase};
use tokio_util::sync::CancellationToken;

use crate::{
    exposure::policy::Policy,
    parts::{self, OrchestratorFolders},
    settings::{self, DatasetSettings, SiteSettings, cores},
    site::Site,
};

/// Start everything on one machine: a nats-server, an orchestrator and sites
#[derive(Args, Clone)]
pub struct Up {
    /// The folder for everything that is kept: streams, caches, results
    #[arg(long, env = "ROUNDS_HOME", default_value = ".rounds")]
    pub home: PathBuf,
    /// A site and its nnU-Net raw data set, as NAME=FOLDER; once for each site
    #[arg(long = "site", value_name = "NAME=FOLDER", required = true)]
    pub sites: Vec<String>,
    /// The dataset_id that jobs mean, for all sites, where it is not the XYZ of their folders
    #[arg(long)]
    pub dataset_id: Option<u32>,
    /// What tensors may live on here
    #[arg(long, value_delimiter = ',', default_value = "cpu")]
    pub devices: Vec<Device>,
    /// Folders inside which an inference job's checkpoint_path may lie
    #[arg(long)]
    pub models: Vec<PathBuf>,
    /// The nats-server program
    #[arg(long, env = "ROUNDS_NATS_SERVER", default_value = "nats-server")]
    pub nats_server: PathBuf,
    /// The port of the nats-server on 127.0.0.1; any free one by default
    #[arg(long)]
    pub port: Option<u16>,
    /// Where /metrics is served
    #[arg(long)]
    pub metrics: Option<String>,
}

/// The way to the server of the `rounds up` that uses this folder.
pub fn connection_of(home: &Path) -> anyhow::Result<settings::Connection> {
    let address = Address::read(&home.join("nats")).with_context(|| {
        format!(
            "no `rounds up` has run in {} (see --home, or name a server with --nats)",
            home.display()
        )
    })?;
    Ok(settings::Connection {
        url: address.url,
        token: Some(address.token),
        ..Default::default()
    })
}

impl Up {
    /// Runs until interrupted.
    pub fn run(self) -> anyhow::Result<()> {
        let (server, sites) = self.prepare()?;
        super::on_runtime(async {
            let stop = CancellationToken::new();
            super::stop_on_signal(stop.clone());
            let ready = || {
                let (url, home) = (&server.address().url, self.home.display());
                println!("rounds is up at {url}; commands find it by --home {home}");
            };
            self.work(&server, sites, stop, ready).await
        })
    }

    /// Starts the server and opens the sites' folders.
    pub fn prepare(&self) -> anyhow::Result<(Server, Vec<Arc<Site>>)> {
        std::fs::create_dir_all(&self.home).with_context(|| format!("{}", self.home.display()))?;
        let settings = self.site_settings()?;
        let server = Server::start(&ServerSettings {
            program: self.nats_server.clone(),
            store: self.home.join("nats"),
            port: self.port,
        })
        .context("nats-server")?;
        let connection = connection_of(&self.home)?;
        let sites = settings
            .into_iter()
            .map(|settings| {
                Site::open(SiteSettings {
                    nats: connection.clone(),
                    ..settings
                })
                .map(Arc::new)
            })
            .collect::<anyhow::Result<_>>()?;
        Ok((server, sites))
    }

    /// Runs the orchestrator and the sites until `stop`. One slot for heavy work is shared by all.
    /// `ready` is called once jobs may be submitted to all sites.
    pub async fn work(
        &self,
        server: &Server,
        sites: Vec<Arc<Site>>,
        stop: CancellationToken,
        ready: impl FnOnce(),
    ) -> anyhow::Result<()> {
        let metrics = crate::parts::metrics();
        let connection = Connection::open(&server.access(), "rounds-up", parts::PATIENCE, &metrics).await?;
        super::serve_metrics(self.metrics.as_deref(), &metrics, &stop).await?;
        let mut ready = Some(ready);
        let ready = std::sync::Mutex::new(move || ready.take().map(|ready| ready()));
        parts::through_losses(&connection, None, &stop, async |stop| {
            self.work_once(&connection, &sites, &metrics, stop, || {
                if let Ok(mut ready) = ready.lock() {
                    ready();
                }
            })
            .await
        })
        .await
    }

    async fn work_once(
        &self,
        connection: &Connection,
        sites: &[Arc<Site>],
        metrics: &Metrics,
        stop: CancellationToken,
        ready: impl FnOnce(),
    ) -> anyhow::Result<()> {
        let mut running = tokio::task::JoinSet::new();
        let folders = OrchestratorFolders::within(&self.home.join("orchestrator"));
        parts::set_up_streams(connection, &folders).await?;
        for site in sites {
            // The server and the sites' folders lie in one home: there is no second worker to refuse.
            parts::set_up_site(connection, site, true).await?;
            parts::introduce(connection, site).await?;
        }
        ready();
        let gate = Gate::new([self.home.join("slot")]);
        let site_phases: Vec<Phase> = Phase::ALL
            .into_iter()
            .filter(|phase| !phase.at_orchestrator())
            .collect();
        {
            let (connection, metrics, stop) = (connection.clone(), metrics.clone(), stop.clone());
            running.spawn(async move {
                parts::run_orchestrator(connection, &folders, Identity::default(), metrics, stop).await
            });
        }
        for site in sites {
            let (connection, gate, metrics, stop) =
                (connection.clone(), gate.clone(), metrics.clone(), stop.clone());
            let (site, phases) = (Arc::clone(site), site_phases.clone());
            running.spawn(async move {
                parts::run_site(
                    connection,
                    site,
                    &phases,
                    gate,
                    Activity::default(),
                    metrics,
                    stop,
                )
                .await
            });
        }
        let mut outcome = Ok(());
        while let Some(ended) = running.join_next().await {
            let ended = ended.map_err(anyhow::Error::from).and_then(|ended| ended);
            if ended.is_err() && outcome.is_ok() {
                outcome = ended;
                stop.cancel();
            }
        }
        outcome
    }

    fn site_settings(&self) -> anyhow::Result<Vec<SiteSettings>> {
        let mut sites: Vec<SiteSettings> = Vec::new();
        for given in &self.sites {
            let Some((name, folder)) = given.split_once('=') else {
                bail!("--site {given:?}: expected NAME=FOLDER");
            };
            ensure!(
                !sites.iter().any(|site| site.site == name),
                "--site {name}: named twice"
            );
            let folder = PathBuf::from(folder);
            let folder = folder
                .canonicalize()
                .with_context(|| format!("--site {name}: {}", folder.display()))?;
            sites.push(SiteSettings {
                site: name.to_owned(),
                nats: settings::Connection::default(),
                roster: None,
                root: self.home.join("sites").join(name),
                datasets: vec![DatasetSettings {
                    id: name.to_owned(),
                    path: folder,
                    dataset_id: self.dataset_id,
                    labels: Vec::new(),
                    channels: Vec::new(),
                }],
                devices: self.devices.clone(),
                models: self.models.clone(),
                // They go nowhere: all sites are on this machine.
                pictures: true,
                policy: Policy::of_one_machine(),
                threads: cores(),
                micro_batch: None,
                slots: 1,
                unlike_replicas: false,
                cache_bytes: None,
                metrics: None,
            });
        }
        sites.iter().try_for_each(SiteSettings::check)?;
        sites.iter().try_for_each(SiteSettings::check_devices)?;
        Ok(sites)
    }
}
