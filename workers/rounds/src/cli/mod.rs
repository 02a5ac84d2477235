//! The command line: one command, one file.

mod cancel;
mod dead;
mod demo;
mod demo_data;
mod doctor;
mod download;
mod dry_run;
mod list;
pub mod nnunet;
mod orchestrator;
pub mod output;
mod overlay;
mod provision;
mod report;
mod resume;
mod retry;
mod show;
mod site;
mod sites;
mod submit;
mod unmask;
mod up;
mod verify;
mod watch;
mod worker;

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use pipeline::{client::Client, connection::Connection, metrics::Metrics};
use tokio_util::sync::CancellationToken;

use crate::{
    parts::OrchestratorFolders,
    settings::{self, SubmitterSettings},
};

/// Federated nnU-Net: one segmentation model from many hospitals, and no scan leaves its building.
#[derive(Parser)]
#[command(name = "rounds", version, arg_required_else_help = true)]
pub struct Arguments {
    /// Log lines as JSON
    #[arg(long, global = true, env = "ROUNDS_LOG_JSON")]
    log_json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start everything on one machine: a nats-server, an orchestrator and sites
    Up(up::Up),
    /// Start an orchestrator
    Orchestrator(orchestrator::Orchestrator),
    /// Start a site with workers for all its phases
    Site(site::Site),
    /// Start workers for some phases of a site
    Worker(worker::Worker),
    /// Check a site hop by hop, and say what to do
    Doctor(doctor::Doctor),
    /// Make a federation of hospitals: keys, certificates, and a hub that lets each member do its own work only
    Provision(provision::Provision),
    /// Submit a job message
    Submit(submit::Submit),
    /// List the jobs
    List(list::List),
    /// Show what happened to a job
    Show(show::Show),
    /// Follow a job until it ends
    Watch(watch::Watch),
    /// Cancel a job
    Cancel(cancel::Cancel),
    /// Let a job go on that failed or was cancelled, or train a finished one for more rounds
    Resume(resume::Resume),
    /// List tasks that failed for good, with their reason
    Dead(dead::Dead),
    /// Try tasks again that failed for good
    Retry(retry::Retry),
    /// Download what a job made
    Download(download::Download),
    /// Write a job's curves, scores, plans, timings and pictures as one HTML page, which opens without a network
    Report(report::Report),
    /// Give the segmentations in a zip their cases' own names again, at the site that made it
    Unmask(unmask::Unmask),
    /// Check a job by its members' signatures alone: average all updates again, up to the final checkpoint
    Verify(verify::Verify),
    /// List the sites and their data sets
    Sites(sites::Sites),
    /// Cut a federation of three sites out of the MNI brain, train on it, segment with the result
    Demo(demo::Demo),
    /// Draw a segmentation over its scan as a PNG
    Overlay(overlay::Overlay),
    /// nnU-Net itself at one site, with nnU-Net's positionals, flags and environment variables
    #[command(subcommand)]
    Nnunet(nnunet::Command),
}

/// How a command finds the federation.
#[derive(Args, Clone)]
pub struct Server {
    /// The folder of `rounds up`, which holds the way to its server
    #[arg(long, env = "ROUNDS_HOME", default_value = ".rounds")]
    home: PathBuf,
    /// A NATS server, in place of the one of `rounds up`
    #[arg(long, env = "ROUNDS_NATS")]
    nats: Option<String>,
    /// A credentials file for that server
    #[arg(long, env = "ROUNDS_CREDENTIALS")]
    credentials: Option<PathBuf>,
    /// A submitter's settings (TOML, as deploy/settings/submitter.toml), in place of both
    #[arg(long, env = "ROUNDS_SUBMITTER", value_name = "FILE", conflicts_with_all = ["nats", "credentials"])]
    submitter: Option<PathBuf>,
}

impl Server {
    /// How to reach it, and as whom.
    fn settings(&self) -> anyhow::Result<SubmitterSettings> {
        if let Some(file) = &self.submitter {
            return SubmitterSettings::read(file);
        }
        let nats = match &self.nats {
            Some(url) => settings::Connection {
                url: url.clone(),
                token: std::env::var("ROUNDS_TOKEN").ok(),
                credentials: self.credentials.clone(),
                ..Default::default()
            },
            None => up::connection_of(&self.home)?,
        };
        Ok(SubmitterSettings { nats, roster: None })
    }

    /// Whether the server is that of `rounds up`.
    fn is_up(&self) -> bool {
        self.nats.is_none() && self.submitter.is_none()
    }

    /// The archive of the orchestrator of `rounds up`; none with a server of one's own.
    pub fn archive(&self) -> Option<PathBuf> {
        let folders = OrchestratorFolders::within(&self.home.join("orchestrator"));
        self.is_up().then_some(folders.archive)
    }

    /// Connects.
    pub async fn client(&self) -> anyhow::Result<Client> {
        let settings = self.settings()?;
        let access = settings.nats.access()?;
        let identity = settings.nats.identity(settings.roster.as_deref())?;
        let patience = std::time::Duration::from_secs(5);
        let connection = Connection::open(&access, "rounds-cli", patience, &Metrics::new()).await;
        let connection = match self.is_up() {
            false => connection?,
            true => connection
                .with_context(|| format!("is `rounds up --home {}` running?", self.home.display()))?,
        };
        Ok(Client::new(connection).with_identity(identity))
    }
}

/// Serves /metrics at `address`, where one is given.
pub async fn serve_metrics(
    address: Option<&str>,
    metrics: &Metrics,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    if let Some(address) = address {
        let bound = address
            .parse()
            .with_context(|| format!("metrics: {address:?} is not address:port"))?;
        let bound = metrics.serve(bound, stop.clone()).await?;
        tracing::info!("metrics at http://{bound}/metrics");
    }
    Ok(())
}

/// Cancels `stop` on SIGTERM or Ctrl-C: workers hand their task back and end.
pub fn stop_on_signal(stop: CancellationToken) {
    tokio::spawn(async move {
        let Ok(mut terminate) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        else {
            return;
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        tracing::info!("stopping: work is handed back");
        stop.cancel();
    });
}

/// Prepares what the program says.
pub fn init_output(arguments: &Arguments) {
    output::end_quietly_without_readers();
    // The demo tells its story itself.
    let level = match arguments.command {
        Command::Demo(_) => "warn",
        _ => "info,async_nats=warn",
    };
    output::init_logs(arguments.log_json, level);
}

/// Runs one command.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    match arguments.command {
        Command::Up(up) => up.run(),
        Command::Orchestrator(orchestrator) => orchestrator.run(),
        Command::Site(site) => site.run(),
        Command::Worker(worker) => worker.run(),
        Command::Doctor(doctor) => on_runtime(doctor.run()),
        Command::Provision(provision) => provision.run(),
        Command::Submit(submit) => on_runtime(submit.run()),
        Command::List(list) => on_runtime(list.run()),
        Command::Show(show) => on_runtime(show.run()),
        Command::Watch(watch) => on_runtime(watch.run()),
        Command::Cancel(cancel) => on_runtime(cancel.run()),
        Command::Resume(resume) => on_runtime(resume.run()),
        Command::Dead(dead) => on_runtime(dead.run()),
        Command::Retry(retry) => on_runtime(retry.run()),
        Command::Download(download) => on_runtime(download.run()),
        Command::Report(report) => on_runtime(report.run()),
        Command::Unmask(unmask) => unmask.run(),
        Command::Verify(verify) => verify.run(),
        Command::Sites(sites) => on_runtime(sites.run()),
        Command::Demo(demo) => demo.run(),
        Command::Overlay(overlay) => overlay.run(),
        Command::Nnunet(command) => command.run(),
    }
}

/// Runs a future on a runtime of its own.
pub fn on_runtime<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(work)
}
