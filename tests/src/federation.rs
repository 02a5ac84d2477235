//! A federation of real processes: a nats-server, an orchestrator, sites, each with its settings file.

pub mod heard;
mod trouble;

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, stream::BoxStream};
use pipeline::{
    client::{Client, Verdict, Watched},
    connection::Connection,
    metrics::Metrics,
    server::{Server, ServerSettings},
};
use schemas::event::{Event, Finished};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    runtime::{Builder, Handle, Runtime},
    time::timeout,
};

use crate::{
    process::{self, RoundsProcess},
    proxy::Proxy,
    scans::Scans,
};

/// Only a failure takes this long: every wait is for something that happens.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// The orchestrator's process, among the sites'.
pub const ORCHESTRATOR: &str = "orchestrator";

/// A data set of a site's settings.
pub struct Dataset<'a> {
    /// The name that jobs use.
    pub id: &'a str,
    /// The folder, inside the federation's.
    pub folder: &'a str,
    /// The `dataset_id` of the settings.
    pub dataset_id: Option<u32>,
}

impl Dataset<'_> {
    /// Its part of a site's settings. Further lines may follow.
    pub fn settings(&self, federation: &Federation) -> String {
        let path = federation.folder().join(self.folder);
        let mut settings = format!("\n[[datasets]]\nid = {:?}\npath = {path:?}\n", self.id);
        if let Some(id) = self.dataset_id {
            settings += &format!("dataset_id = {id}\n");
        }
        settings
    }
}

/// What runs. All of it is killed when dropped.
pub struct Federation {
    processes: BTreeMap<String, RoundsProcess>,
    lines: BTreeMap<String, Proxy>,
    phases: BTreeMap<String, String>,
    client: Client,
    runtime: Runtime,
    server: Server,
    scratch: TempDir,
    environment: Vec<(&'static str, PathBuf)>,
    starts: usize,
}

impl Federation {
    /// Starts a nats-server and an orchestrator.
    pub fn start() -> Result<Self> {
        let scratch = tempfile::tempdir()?;
        // Commands find the server in it, as in the home of `rounds up`.
        let home = scratch.path().join("home");
        let server = Server::start(&ServerSettings {
            program: process::nats_server(),
            ..ServerSettings::new(home.join("nats"))
        })?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let connection = runtime.block_on(Connection::open(
            &server.access(),
            "tests",
            PATIENCE,
            &Metrics::new(),
        ))?;
        let mut federation = Self {
            processes: BTreeMap::new(),
            lines: BTreeMap::new(),
            phases: BTreeMap::new(),
            client: Client::new(connection),
            runtime,
            server,
            scratch,
            environment: Vec::new(),
            starts: 0,
        };
        federation.orchestrator(ORCHESTRATOR)?;
        Ok(federation)
    }

    /// Starts an orchestrator, whose name begins with [`ORCHESTRATOR`]. All share one archive.
    pub fn orchestrator(&mut self, name: &str) -> Result<()> {
        let own = format!("archive = {:?}", self.archive());
        let settings = self.settings(name, &own);
        fs::write(self.settings_file(name), settings)?;
        self.run(name)
    }

    /// Starts a federation whose sites each have one data set of their own name, made as `scans` say:
    /// `Dataset<id>_<site>`. `own` gives a site's further settings.
    pub fn of_sites(
        id: u32,
        sites: &[&str],
        scans: &Scans,
        own: impl Fn(&Self, &str) -> String,
    ) -> Result<Self> {
        let mut federation = Self::start()?;
        federation.sites(id, sites, scans, own)?;
        Ok(federation)
    }

    /// Starts sites as [`Federation::of_sites`] does.
    pub fn sites(
        &mut self,
        id: u32,
        sites: &[&str],
        scans: &Scans,
        own: impl Fn(&Self, &str) -> String,
    ) -> Result<()> {
        for (seed, site) in sites.iter().enumerate() {
            let folder = format!("Dataset{id:03}_{site}");
            let scans = Scans {
                seed: seed as u64,
                ..*scans
            };
            scans.write(&self.folder().join(&folder))?;
            let dataset = Dataset {
                id: site,
                folder: &folder,
                dataset_id: None,
            };
            let (own, datasets) = (own(self, site), dataset.settings(self));
            self.site_with(site, &own, &datasets)?;
        }
        Ok(())
    }

    /// Processes that are started from now on have this in their environment.
    pub fn environment(&mut self, name: &'static str, value: PathBuf) {
        self.environment.push((name, value));
    }

    /// Starts a site with these data sets, and waits until it has announced them.
    pub fn site(&mut self, name: &str, datasets: &[Dataset]) -> Result<()> {
        let datasets: String = datasets.iter().map(|dataset| dataset.settings(self)).collect();
        self.site_with(name, "", &datasets)
    }

    /// Starts a site with further settings, and with settings of data sets: see [`Dataset::settings`].
    pub fn site_with(&mut self, name: &str, own: &str, datasets: &str) -> Result<()> {
        let policy = match own.contains("[policy]") {
            true => "",
            // Made-up data sets are small, and tests know their cases by name.
            false => "[policy]\nmin_cases = 1\ncase_names = true\n",
        };
        let own = format!("site = {name:?}\nthreads = 1\n{own}\n{policy}");
        let settings = self.settings(name, &own) + datasets;
        fs::write(self.settings_file(name), settings)?;
        self.run(name)
    }

    fn settings(&self, name: &str, own: &str) -> String {
        let address = self.server.address();
        let url = match self.lines.get(name) {
            Some(line) => line.url(),
            None => address.url.clone(),
        };
        let root = self.root(name);
        format!(
            "root = {root:?}\nmetrics = \"127.0.0.1:0\"\n{own}\n[nats]\nurl = {:?}\ntoken = {:?}\n",
            url, address.token
        )
    }

    /// The folder that the workers of a site share.
    pub fn root(&self, name: &str) -> PathBuf {
        self.folder().join("roots").join(name)
    }

    /// The settings file of a site, or of the orchestrator.
    pub fn settings_file(&self, name: &str) -> PathBuf {
        self.folder().join(format!("{name}.toml"))
    }

    fn run(&mut self, name: &str) -> Result<()> {
        self.starts += 1;
        let log = self.folder().join(format!("{name}-{}.log", self.starts));
        let settings = self.settings_file(name);
        let command = if name.starts_with(ORCHESTRATOR) {
            ORCHESTRATOR
        } else {
            "site"
        };
        let mut arguments = vec![command.to_owned(), settings.display().to_string()];
        if let Some(phases) = self.phases.get(name) {
            arguments.extend(["--phases".to_owned(), phases.clone()]);
        }
        let mut command = process::command(&arguments)?;
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let mut process = RoundsProcess::of(command, &log)?;
        process.wait_for("ready", PATIENCE)?;
        self.processes.insert(name.to_owned(), process);
        Ok(())
    }

    /// What a process has said since it was last started.
    pub fn said_by(&self, name: &str) -> Result<String> {
        Ok(self.processes.get(name).context("no such process")?.said())
    }

    /// Waits for something that no message tells of.
    pub fn until(&self, what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while !holds()? {
            ensure!(Instant::now() < end, "in vain: {what}\n{}", self.said());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// The archive of the orchestrators.
    pub fn archive(&self) -> PathBuf {
        self.folder().join("archive")
    }

    /// The folder of everything: data sets are made in it.
    pub fn folder(&self) -> &Path {
        self.scratch.path()
    }

    /// Runs a command of the program that takes `--home`; its standard output.
    pub fn command(&self, arguments: &[&str]) -> Result<String> {
        let home = self.folder().join("home");
        let mut all: Vec<&std::ffi::OsStr> = arguments.iter().map(AsRef::as_ref).collect();
        all.extend(["--home".as_ref(), home.as_os_str()]);
        process::run(&all)
    }

    /// Publishes bytes on `rounds.submit`, and returns what the conductor makes of them.
    pub fn publish(&self, message: &str) -> Result<Verdict> {
        let bytes = message.to_owned().into();
        self.runtime.block_on(async {
            let sequence = timeout(PATIENCE, self.client.submit_bytes(bytes)).await??;
            Ok(timeout(PATIENCE, self.client.verdict(sequence)).await??)
        })
    }

    /// Submits a message by the command line; the job's id.
    pub fn submit(&self, message: &Value) -> Result<String> {
        let file = self.folder().join("message.json");
        fs::write(&file, message.to_string())?;
        let file = file.to_str().context("a folder whose name is not UTF-8")?;
        Ok(self.command(&["submit", file])?.trim().to_owned())
    }

    /// What happens to a job, from its start to its end.
    pub fn watch(&self, job: &str) -> Result<Watching> {
        let happening = self.runtime.block_on(self.client.watch(job))?;
        let runtime = self.runtime.handle().clone();
        Ok(Watching { happening, runtime })
    }

    /// Waits for a job's end.
    pub fn end(&self, job: &str) -> Result<Event> {
        let mut watching = self.watch(job)?;
        loop {
            if let Watched::Event(event) = watching.next(self)?
                && event.is_end()
            {
                return Ok(event);
            }
        }
    }

    /// Waits until a job is finished; an error where it ends otherwise.
    pub fn finished(&self, job: &str) -> Result<Finished> {
        match self.end(job)? {
            Event::Finished(finished) => Ok(*finished),
            other => anyhow::bail!("job {job}: {other:?}\n{}", self.said()),
        }
    }

    /// Downloads a job's results: the paths that the command printed.
    pub fn download(&self, job: &str) -> Result<Vec<PathBuf>> {
        let output = self.folder().join("downloads").join(job);
        let output = output.to_str().context("a folder whose name is not UTF-8")?;
        let printed = self.command(&["download", job, "--output", output])?;
        Ok(printed.lines().map(PathBuf::from).collect())
    }

    /// The page of a process's metrics.
    pub fn metrics(&self, name: &str) -> Result<String> {
        let process = self.processes.get(name).context("no such process")?;
        let said = process.said();
        let address = said
            .split_once("metrics at http://")
            .and_then(|(_, rest)| rest.split_once("/metrics"))
            .with_context(|| format!("no address of /metrics in\n{said}"))?
            .0;
        let mut connection = TcpStream::connect(address)?;
        connection.set_read_timeout(Some(PATIENCE))?;
        connection.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
        let mut page = String::new();
        connection.read_to_string(&mut page)?;
        Ok(page)
    }

    /// Waits until a process's page of metrics has this series: some are looked at every few seconds only.
    pub fn measured(&self, name: &str, series: &str) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let page = self.metrics(name)?;
            if page.contains(series) {
                return Ok(());
            }
            ensure!(Instant::now() < end, "{series:?} is not in\n{page}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// What all processes have said so far.
    pub fn said(&self) -> String {
        let parts = self.processes.iter();
        parts
            .map(|(name, process)| format!("--- {name}\n{}", process.said()))
            .collect()
    }
}

/// A job that is watched.
pub struct Watching {
    happening: BoxStream<'static, Watched>,
    runtime: Handle,
}

impl Watching {
    /// The next thing that happens to the job.
    ///
    /// # Errors
    /// Nothing happens for so long that it never will, or the job ended before.
    pub fn next(&mut self, federation: &Federation) -> Result<Watched> {
        let next = self
            .runtime
            .block_on(async { timeout(PATIENCE, self.happening.next()).await });
        next.with_context(|| format!("nothing happened for {PATIENCE:?}\n{}", federation.said()))?
            .context("the job has ended")
    }
}
