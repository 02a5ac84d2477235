//! `rounds doctor`: a site, hop by hop, and what to do. `doctor/credentials.rs` is what it proves itself with.

mod credentials;
mod network;

use std::{
    fmt::Display,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::ensure;
use clap::Args;
use pipeline::{connection::Connection, metrics::Metrics, probe};
use schemas::{job::Device, names::Phase, site::SiteFolder};

use crate::{
    byte_size::ByteSize,
    parts::VERSION,
    room::free_bytes,
    settings::{DatasetSettings, SiteSettings},
};

/// A hop that takes longer is broken.
const PATIENCE: Duration = Duration::from_secs(5);
/// Orchestrators speak every five seconds.
const HEARTBEATS: Duration = Duration::from_secs(12);
/// More of a difference between the clocks upsets deadlines and certificates.
const SKEW_SECONDS: f64 = 5.0;
/// With less free a site can hardly preprocess anything.
const LITTLE_BYTES: u64 = 20_000_000_000;

/// Check a site hop by hop, and say what to do
#[derive(Args)]
pub struct Doctor {
    /// The site's settings
    settings: PathBuf,
}

/// What a hop is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Fine,
    Odd,
    Broken,
}

/// What was found at the hops, in order.
#[derive(Default)]
struct Findings(Vec<State>);

impl Findings {
    fn say(&mut self, state: State, hop: &str, found: impl Display, advice: &str) {
        let word = match state {
            State::Fine => "ok",
            State::Odd => "note",
            State::Broken => "FAIL",
        };
        println!("{word:<5} {hop:<14} {found}");
        if !advice.is_empty() {
            println!("{:20} -> {advice}", "");
        }
        self.0.push(state);
    }

    fn fine(&mut self, hop: &str, found: impl Display) {
        self.say(State::Fine, hop, found, "");
    }

    fn odd(&mut self, hop: &str, found: impl Display, advice: &str) {
        self.say(State::Odd, hop, found, advice);
    }

    fn broken(&mut self, hop: &str, found: impl Display, advice: &str) {
        self.say(State::Broken, hop, found, advice);
    }
}

impl Doctor {
    /// Prints a line a hop; fails where one is broken.
    pub async fn run(self) -> anyhow::Result<()> {
        let mut findings = Findings::default();
        match SiteSettings::read(&self.settings) {
            Ok(settings) => {
                findings.fine("settings", format!("site {}", settings.site));
                look(&settings, &mut findings).await;
            }
            Err(error) => findings.broken(
                "settings",
                format!("{error:#}"),
                "mend the file; deploy/settings/site.toml shows every setting",
            ),
        }
        let broken = findings.0.iter().filter(|state| **state == State::Broken).count();
        ensure!(broken == 0, "{broken} of {} checks failed", findings.0.len());
        Ok(())
    }
}

async fn look(settings: &SiteSettings, findings: &mut Findings) {
    folder(settings, findings);
    for dataset in &settings.datasets {
        data_set(dataset, findings);
    }
    for models in &settings.models {
        if !models.is_dir() {
            findings.odd(
                "models",
                format!("{}: no such folder", models.display()),
                "jobs that name a model by its path will not find it here",
            );
        }
    }
    device(settings, findings);
    credentials::look(settings, findings);
    if network::reach(&settings.nats.url, findings) {
        server(settings, findings).await;
    }
}

/// The folder that the site's workers share: ours, writable, with hard links, and with room.
fn folder(settings: &SiteSettings, findings: &mut Findings) {
    let root = &settings.root;
    let shown = root.display();
    if let Err(error) = fs::create_dir_all(root).and_then(|()| try_links(root)) {
        findings.broken(
            "folder",
            format!("{shown}: {error}"),
            "root must be a writable folder on a file system with hard links, the same for all workers of the site",
        );
        return;
    }
    match fs::read(root.join("rounds-site.json")).map(|bytes| schemas::parse::<SiteFolder>(&bytes)) {
        Ok(Ok(mark)) if mark.site != settings.site => {
            findings.broken(
                "folder",
                format!("{shown}: is of site {}", mark.site),
                "give each site a root of its own",
            );
        }
        Ok(Ok(_)) => findings.fine("folder", format!("{shown}: writable, and this site's")),
        Ok(Err(error)) => findings.broken(
            "folder",
            format!("{shown}: rounds-site.json: {error}"),
            "restore it from a back-up",
        ),
        Err(_) => findings.fine("folder", format!("{shown}: writable, not used before")),
    }
    match free_bytes(root) {
        Ok(free) if free < LITTLE_BYTES => findings.odd(
            "disk",
            format!("{} free", ByteSize(free)),
            "preprocessed cases take some times what the scans take; make room, or set cache_bytes",
        ),
        Ok(free) => findings.fine("disk", format!("{} free", ByteSize(free))),
        Err(error) => findings.broken(
            "disk",
            error,
            "the folder's file system does not say what is free",
        ),
    }
}

/// Writes a file, gives it a second name, and takes both away.
fn try_links(root: &Path) -> io::Result<()> {
    let file = tempfile::NamedTempFile::new_in(root)?;
    let second = file.path().with_extension("link");
    fs::hard_link(file.path(), &second)?;
    fs::remove_file(second)
}

/// A data set: its list of cases, and the first case read whole.
fn data_set(settings: &DatasetSettings, findings: &mut Findings) {
    let hop = "data set";
    let advice = "expected an nnU-Net raw data set: dataset.json, imagesTr, labelsTr, readable by this user";
    let opened = match settings.open_described() {
        Ok(Some(opened)) => opened,
        Ok(None) => return findings.fine(hop, format!("{}: scans to segment only", settings.id)),
        Err(error) => return findings.broken(hop, format!("{}: {error}", settings.id), advice),
    };
    let Some(first) = opened.cases.first() else {
        return findings.broken(hop, format!("{}: no cases", settings.id), advice);
    };
    let begun = Instant::now();
    match opened.reader.read_images(&first.images) {
        Ok(images) => findings.fine(
            hop,
            format!(
                "{}: {} cases; the first is read in {:.1} s, shape {:?}",
                settings.id,
                opened.cases.len(),
                begun.elapsed().as_secs_f64(),
                images.data.shape()
            ),
        ),
        Err(error) => findings.broken(hop, format!("{}: {error}", settings.id), advice),
    }
}

fn device(settings: &SiteSettings, findings: &mut Findings) {
    let named: Vec<&str> = settings.devices.iter().map(|device| device.as_str()).collect();
    match settings.check_devices() {
        Ok(()) => findings.fine(
            "device",
            format!("{}, {} threads", named.join(", "), settings.threads),
        ),
        Err(error) => findings.broken(
            "device",
            error,
            "workers for train-round and infer need it: is the driver installed, and is this the CUDA build?",
        ),
    }
    if !settings.devices.contains(&Device::Cuda) && Path::new("/dev/nvidia0").exists() {
        findings.odd(
            "device",
            "an accelerator of NVIDIA is here, and devices does not list cuda",
            "with the CUDA build, set devices = [\"cuda\", \"cpu\"]",
        );
    }
}

/// What the server lets this site do, and what the orchestrator says.
async fn server(settings: &SiteSettings, findings: &mut Findings) {
    let access = match settings.nats.access() {
        Ok(access) => access,
        Err(error) => {
            return findings.broken(
                "NATS",
                format!("{error:#}"),
                "nats.nkey names the file with the seed that the hub gave this site",
            );
        }
    };
    let connection = match Connection::open(&access, "rounds-doctor", PATIENCE, &Metrics::new()).await {
        Ok(connection) => connection,
        Err(error) => {
            return findings.broken(
                "NATS",
                error,
                "authorization: the credentials in [nats]; certificate: ca, or this machine's clock",
            );
        }
    };
    match probe::round_trip(&connection, PATIENCE).await {
        Ok(time) => findings.fine("NATS", format!("connected; answers in {} ms", time.as_millis())),
        Err(error) => findings.broken(
            "NATS",
            error,
            "the server is there but does not answer: ask the hub",
        ),
    }
    queues(settings, &connection, findings).await;
    credentials::rights(settings, &connection, findings).await;
    match probe::orchestrator(&connection, HEARTBEATS).await {
        Err(error) => findings.odd(
            "hub",
            error,
            "the credentials do not let this site hear the orchestrator",
        ),
        Ok(None) => findings.odd(
            "hub",
            format!("no orchestrator was heard within {} s", HEARTBEATS.as_secs()),
            "jobs stand still until one runs: ask the hub",
        ),
        Ok(Some((heartbeat, skew))) => {
            match heartbeat.version == VERSION {
                true => findings.fine("version", format!("{VERSION}, as the orchestrator's")),
                false => findings.odd(
                    "version",
                    format!("{VERSION}; the orchestrator's is {}", heartbeat.version),
                    "jobs are refused where the versions of protocol or algorithm differ: `rounds submit` then says so",
                ),
            }
            match skew.abs() <= SKEW_SECONDS {
                true => findings.fine("clock", format!("{skew:+.1} s from the orchestrator's")),
                false => findings.broken(
                    "clock",
                    format!("{skew:+.1} s from the orchestrator's"),
                    "set this machine's clock by NTP",
                ),
            }
        }
    }
}

async fn queues(settings: &SiteSettings, connection: &Connection, findings: &mut Findings) {
    let (mut set_up, mut waiting) = (0, 0);
    for phase in Phase::ALL.into_iter().filter(|phase| !phase.at_orchestrator()) {
        match probe::queue(connection, &settings.site, phase).await {
            Ok(Some(pending)) => {
                set_up += 1;
                waiting += pending;
            }
            Ok(None) => {}
            Err(error) => {
                return findings.broken(
                    "permissions",
                    error,
                    "the credentials must be those of this site; ask the hub whether its JetStream runs",
                );
            }
        }
    }
    match set_up {
        0 => findings.odd(
            "permissions",
            "the site's queues are not set up",
            "the orchestrator must have run once, and then `rounds site` here",
        ),
        _ => findings.fine(
            "permissions",
            format!("{set_up} queues of this site, {waiting} tasks waiting"),
        ),
    }
}
