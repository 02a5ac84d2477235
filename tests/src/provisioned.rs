//! A federation as `rounds provision` makes one: an account for each key, TLS both ways, and leaf nodes where asked for.

use std::{
    collections::BTreeMap,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use pipeline::{
    connection::{Access, Connection},
    metrics::Metrics,
    signing::Signer,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use crate::{
    federation::{ORCHESTRATOR, PATIENCE},
    process::{self, RoundsProcess, nats_server},
    scans::Scans,
};

/// How sites reach the hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By TLS, each worker for itself.
    Direct,
    /// Through a nats-server of the site's own, which dials out.
    Leaf,
}

/// What runs. All of it is killed when dropped.
pub struct Provisioned {
    processes: BTreeMap<String, RoundsProcess>,
    leaves: BTreeMap<String, u16>,
    /// Drives connections.
    pub runtime: Runtime,
    scratch: TempDir,
    way: Way,
    port: u16,
    starts: usize,
}

/// A port that nobody listens on now.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn replace(file: &Path, pairs: &[(&str, &str)]) -> Result<()> {
    let mut text = fs::read_to_string(file)?;
    for (from, to) in pairs {
        ensure!(
            text.contains(from),
            "{}: {from:?} is not in\n{text}",
            file.display()
        );
        text = text.replace(from, to);
    }
    Ok(fs::write(file, text)?)
}

impl Provisioned {
    /// Makes the hub, with encrypted streams, and starts its server and an orchestrator. A submitter `lead` is let in.
    pub fn start(way: Way) -> Result<Self> {
        let scratch = tempfile::tempdir()?;
        let (port, leaf_port) = (free_port()?, free_port()?);
        let mut federation = Self {
            processes: BTreeMap::new(),
            leaves: BTreeMap::new(),
            runtime: Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()?,
            scratch,
            way,
            port,
            starts: 0,
        };
        let hub = federation.hub();
        let (port, leaf_port) = (port.to_string(), leaf_port.to_string());
        process::run(&[
            "provision".as_ref(),
            "hub".as_ref(),
            hub.as_os_str(),
            "--name=trial".as_ref(),
            "--host=127.0.0.1".as_ref(),
            "--listen=127.0.0.1".as_ref(),
            "--encrypt".as_ref(),
            "--port".as_ref(),
            port.as_ref(),
            "--leaf-port".as_ref(),
            leaf_port.as_ref(),
        ])?;
        let settings = hub.join("orchestrator/orchestrator.toml");
        let root = federation.scratch.path().join("orchestrator");
        let root = root.to_str().context("a folder whose name is not UTF-8")?;
        let root = format!("root = {root:?}\nkeep_updates = true");
        replace(&settings, &[("root = \"/srv/rounds/orchestrator\"", &root)])?;
        federation.nats("hub", &hub.join("nats"), "nats.conf", None)?;
        federation.provision(&["submitter", "lead"])?;
        federation.reload()?;
        federation.rounds(ORCHESTRATOR)?;
        Ok(federation)
    }

    /// What the orchestrators keep of all jobs, updates included.
    pub fn archive(&self) -> PathBuf {
        self.scratch.path().join("orchestrator/archive")
    }

    /// Lets a site in and starts it, with a data set `Dataset<id>_<name>` of its own name.
    pub fn site(&mut self, name: &str, id: u32, scans: &Scans) -> Result<()> {
        self.provision(&["site", name])?;
        self.reload()?;
        let data = self.scratch.path().join(format!("Dataset{id:03}_{name}"));
        scans.write(&data)?;
        let folder = self.site_folder(name);
        let (root, placeholder) = (
            self.scratch.path().join("roots").join(name),
            format!("/data/nnUNet_raw/Dataset001_{name}"),
        );
        let text = |path: &Path| {
            path.to_str()
                .map(str::to_owned)
                .context("a name that is not UTF-8")
        };
        let settings = folder.join("site.toml");
        let roots = format!("/srv/rounds/{name}");
        replace(
            &settings,
            &[
                (&placeholder, &text(&data)?),
                (&roots, &text(&root)?),
                ("devices = [\"cpu\"]", "devices = [\"cpu\"]\nthreads = 1"),
                ("\n[nats]\n", "\n[policy]\nmin_cases = 1\n\n[nats]\n"),
            ],
        )?;
        if self.way == Way::Leaf {
            let port = free_port()?;
            self.leaves.insert(name.to_owned(), port);
            let kept: String = fs::read_to_string(&settings)?
                .lines()
                .filter(|line| {
                    !["url =", "tls_first", "ca =", "certificate ="]
                        .iter()
                        .any(|out| line.starts_with(out))
                })
                .map(|line| match line {
                    "[nats]" => format!("[nats]\nurl = \"nats://127.0.0.1:{port}\"\n"),
                    line => format!("{line}\n"),
                })
                .collect();
            fs::write(&settings, kept)?;
            self.leaf(name)?;
        }
        self.rounds(name)
    }

    /// Starts a site's own nats-server with the key in its folder.
    pub fn leaf(&mut self, name: &str) -> Result<()> {
        let folder = self.site_folder(name);
        let port = self.leaves.get(name).context("no leaf node")?;
        let conf = folder.join("nats-leaf.conf");
        replace(&conf, &[("127.0.0.1:4222", &format!("127.0.0.1:{port}"))])?;
        let seed = fs::read_to_string(folder.join("site.nk"))?;
        self.nats(
            &format!("leaf-{name}"),
            &folder,
            "nats-leaf.conf",
            Some(seed.trim()),
        )
    }

    /// Starts the orchestrator or a site, again where it runs.
    pub fn rounds(&mut self, name: &str) -> Result<()> {
        self.stop(name);
        self.starts += 1;
        let log = self.scratch.path().join(format!("{name}-{}.log", self.starts));
        let (command, settings) = match name {
            ORCHESTRATOR => (ORCHESTRATOR, self.hub().join("orchestrator/orchestrator.toml")),
            site => ("site", self.site_folder(site).join("site.toml")),
        };
        let mut process = RoundsProcess::start(&[command.as_ref(), settings.as_os_str()], &log)?;
        process.wait_for("ready", PATIENCE)?;
        self.processes.insert(name.to_owned(), process);
        Ok(())
    }

    /// Kills a process: the orchestrator, a site, or `leaf-<site>`.
    pub fn stop(&mut self, name: &str) {
        drop(self.processes.remove(name));
    }

    fn nats(&mut self, name: &str, folder: &Path, conf: &str, seed: Option<&str>) -> Result<()> {
        self.starts += 1;
        let log = self.scratch.path().join(format!("{name}-{}.log", self.starts));
        let mut command = Command::new(nats_server());
        command.args(["-c", conf]).current_dir(folder);
        if let Some(seed) = seed {
            command.env("ROUNDS_SEED", seed);
        }
        let mut process = RoundsProcess::of(command, &log)?;
        process.wait_for("Server is ready", PATIENCE)?;
        self.processes.insert(name.to_owned(), process);
        Ok(())
    }

    /// Runs `rounds provision` in the hub's folder.
    pub fn provision(&self, arguments: &[&str]) -> Result<String> {
        let hub = self.hub();
        let mut all: Vec<&std::ffi::OsStr> = vec!["provision".as_ref()];
        all.extend(arguments.iter().map(|argument| std::ffi::OsStr::new(*argument)));
        all.extend(["--hub".as_ref(), hub.as_os_str()]);
        process::run(&all)
    }

    /// Tells the hub's server that its members have changed.
    pub fn reload(&self) -> Result<String> {
        self.provision(&["reload"])
    }

    /// Runs a command of the program as the submitter `lead`.
    pub fn lead(&self, arguments: &[&str]) -> Result<String> {
        let settings = self.hub().join("submitters/lead/submitter.toml");
        let mut all: Vec<&std::ffi::OsStr> = arguments.iter().map(std::ffi::OsStr::new).collect();
        all.extend(["--submitter".as_ref(), settings.as_os_str()]);
        process::run(&all).with_context(|| self.said())
    }

    /// Submits a message as `lead`.
    pub fn submit(&self, message: &Value) -> Result<()> {
        let file = self.scratch.path().join("message.json");
        fs::write(&file, message.to_string())?;
        let file = file.to_str().context("a folder whose name is not UTF-8")?;
        self.lead(&["submit", file]).map(drop)
    }

    /// The way in of a site, with its real key and certificate, or of the orchestrator.
    pub fn access(&self, name: &str) -> Result<Access> {
        let (folder, kind) = match name {
            ORCHESTRATOR => (self.hub().join(ORCHESTRATOR), ORCHESTRATOR),
            site => (self.site_folder(site), "site"),
        };
        let seed = folder.join(format!("{kind}.nk"));
        Signer::read(&seed)?;
        let nkey = Some(fs::read_to_string(seed)?.trim().to_owned());
        if let Some(port) = self.leaves.get(name) {
            return Ok(Access {
                url: format!("nats://127.0.0.1:{port}"),
                nkey,
                ..Access::default()
            });
        }
        Ok(Access {
            url: format!("tls://127.0.0.1:{}", self.port),
            nkey,
            root_certificates: Some(folder.join("ca.pem")),
            client_certificate: Some((
                folder.join(format!("{kind}.pem")),
                folder.join(format!("{kind}.key")),
            )),
            tls_first: true,
            ..Access::default()
        })
    }

    /// Connects.
    pub fn connect(&self, access: &Access, patience: std::time::Duration) -> Result<Connection> {
        let metrics = Metrics::new();
        let opening = Connection::open(access, "tests", patience, &metrics);
        Ok(self.runtime.block_on(opening)?)
    }

    /// The hub's folder.
    pub fn hub(&self) -> PathBuf {
        self.scratch.path().join("hub")
    }

    /// What a site carried home.
    pub fn site_folder(&self, name: &str) -> PathBuf {
        self.hub().join("sites").join(name)
    }

    /// What a process has said since it was last started.
    pub fn said_by(&self, name: &str) -> String {
        self.processes
            .get(name)
            .map_or_else(String::new, RoundsProcess::said)
    }

    /// What all processes have said so far.
    pub fn said(&self) -> String {
        let parts = self.processes.iter();
        parts
            .map(|(name, process)| format!("--- {name}\n{}", process.said()))
            .collect()
    }
}
