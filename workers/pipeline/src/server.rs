//! A private nats-server as a child process, with file storage, on this machine only.

use std::{
    fs,
    io::Write,
    os::unix::{fs::OpenOptionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{Error, connection::Access};

/// How long the server may take to tell its port, and to end.
const PATIENCE: Duration = Duration::from_secs(30);
/// A server that lives shorter than this counts as a failed start.
const SHORT: Duration = Duration::from_secs(5);
/// So many short lives in a row, and it is not started again.
const SHORT_LIVES: u32 = 5;

/// How to run a private server.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// The program; the default finds `nats-server` on the PATH.
    pub program: PathBuf,
    /// A folder for its configuration and streams; made where missing.
    pub store: PathBuf,
    /// Its port on 127.0.0.1; none: that of the last server on the store, else any free one.
    pub port: Option<u16>,
}

impl ServerSettings {
    /// Settings with the defaults.
    pub fn new(store: impl Into<PathBuf>) -> Self {
        Self {
            program: "nats-server".into(),
            store: store.into(),
            port: None,
        }
    }
}

/// Where a private server listens: the file `address.json` in its store, readable by its owner only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// `nats://127.0.0.1:<port>`.
    pub url: String,
    /// Its token.
    pub token: String,
}

impl Address {
    /// Reads the address of the server that runs, or last ran, on a store.
    pub fn read(store: &Path) -> Result<Self, Error> {
        let path = store.join("address.json");
        let bytes = fs::read(&path).map_err(Error::file(&path))?;
        Ok(schemas::parse(&bytes)?)
    }

    /// What a client needs to get in.
    pub fn access(&self) -> Access {
        Access::local(&self.url, Some(self.token.clone()))
    }
}

/// A private server. It ends when this is dropped, or when the process ends in whatever way; it is started
/// again, at the same address, when it dies by itself.
#[derive(Debug)]
pub struct Server {
    address: Address,
    process: Arc<AtomicU32>,
    stop: Option<mpsc::Sender<()>>,
    keeper: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts the server and waits until it listens. Blocks.
    pub fn start(settings: &ServerSettings) -> Result<Self, Error> {
        fs::create_dir_all(&settings.store).map_err(Error::file(&settings.store))?;
        // At its last address those who followed a job find it again.
        let last = Address::read(&settings.store).ok();
        let token = last
            .as_ref()
            .map_or_else(random_token, |last| Ok(last.token.clone()))?;
        let last_port = last.and_then(|last| port_of(&last.url));
        let (settings, store) = (settings.clone(), settings.store.clone());
        let process = Arc::new(AtomicU32::new(0));
        let (stop, stopped) = mpsc::channel();
        let (started, start) = mpsc::channel();
        let shared = Arc::clone(&process);
        // The child gets a signal when the thread that made it ends, so that thread stays.
        let keeper = thread::Builder::new()
            .name("nats-server".into())
            .spawn(move || {
                let first = match (settings.port, last_port) {
                    (None, Some(port)) => {
                        launch(&settings, &token, Some(port)).or_else(|_| launch(&settings, &token, None))
                    }
                    (port, _) => launch(&settings, &token, port),
                };
                match first {
                    Ok((child, port)) => {
                        shared.store(child.id(), Ordering::Relaxed);
                        let _ = started.send(Ok(Address {
                            url: format!("nats://127.0.0.1:{port}"),
                            token: token.clone(),
                        }));
                        keep(child, &settings, &token, port, &shared, &stopped);
                    }
                    Err(error) => drop(started.send(Err(error))),
                }
            })
            .map_err(|error| Error::Server {
                program: "nats-server".into(),
                reason: error.to_string(),
            })?;
        let address = start.recv().map_err(|_| Error::Server {
            program: "nats-server".into(),
            reason: "its thread ended".into(),
        })??;
        write_private(
            &store.join("address.json"),
            &serde_json::json!(address).to_string(),
        )?;
        Ok(Self {
            address,
            process,
            stop: Some(stop),
            keeper: Some(keeper),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// What a client needs to get in.
    pub fn access(&self) -> Access {
        self.address.access()
    }

    /// The process id of the server that runs now; it changes when the server was started again.
    pub fn process_id(&self) -> u32 {
        self.process.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
    }
}

/// Waits for the end of the server or of its owner; starts a server that died again.
fn keep(
    mut child: Child,
    settings: &ServerSettings,
    token: &str,
    port: u16,
    process: &AtomicU32,
    stop: &mpsc::Receiver<()>,
) {
    let mut born = Instant::now();
    let mut short_lives = 0;
    loop {
        match stop.recv_timeout(Duration::from_millis(50)) {
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            _ => return end(child),
        }
        let status = match child.try_wait() {
            Ok(None) => continue,
            Ok(Some(status)) => status.to_string(),
            Err(error) => error.to_string(),
        };
        short_lives = if born.elapsed() < SHORT {
            short_lives + 1
        } else {
            0
        };
        if short_lives >= SHORT_LIVES {
            tracing::error!(
                "nats-server ended ({status}) {short_lives} times right after its start; giving up"
            );
            return;
        }
        tracing::warn!("nats-server ended ({status}); starting it again");
        match launch(settings, token, Some(port)) {
            Ok((next, _)) => {
                process.store(next.id(), Ordering::Relaxed);
                child = next;
            }
            Err(error) => tracing::error!("{error}"),
        }
        born = Instant::now();
    }
}

fn end(mut child: Child) {
    signal(child.id(), libc::SIGTERM);
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
    let _ = child.kill();
    let _ = child.wait();
}

fn signal(process: u32, signal: libc::c_int) {
    // SAFETY: kill has no memory effects; the child is not yet waited for, so its id is still its own.
    unsafe { libc::kill(process as libc::pid_t, signal) };
}

/// Starts the program and waits for its ports file.
fn launch(settings: &ServerSettings, token: &str, port: Option<u16>) -> Result<(Child, u16), Error> {
    let failed = |reason: String| Error::Server {
        program: settings.program.display().to_string(),
        reason,
    };
    let store = &settings.store;
    let config = store.join("nats.conf");
    write_private(&config, &configuration(store, token, port))?;
    // A ports file of an earlier server must not be taken for this one's.
    let ports = tempfile::Builder::new()
        .prefix("ports-")
        .tempdir_in(store)
        .map_err(Error::file(store))?;
    let log = store.join("nats.log");
    let output = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log)
        .map_err(Error::file(&log))?;
    let mut command = Command::new(&settings.program);
    command
        .arg("-c")
        .arg(&config)
        .arg("--ports_file_dir")
        .arg(ports.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(output);
    let parent = std::process::id();
    // SAFETY: between fork and exec only prctl, getppid and errno are touched, which is allowed there.
    unsafe {
        command.pre_exec(move || {
            #[cfg(target_os = "linux")]
            {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
                // The parent may have died before the line above.
                if libc::getppid() as u32 != parent {
                    return Err(std::io::Error::from_raw_os_error(libc::ESRCH));
                }
            }
            let _ = parent;
            // An interrupt at the terminal is for the parent, which ends the server when its work is drained.
            libc::setpgid(0, 0);
            Ok(())
        });
    }
    let mut child = command.spawn().map_err(|error| {
        failed(match error.kind() {
            std::io::ErrorKind::NotFound => "not found; is nats-server on the PATH?".to_owned(),
            _ => error.to_string(),
        })
    })?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(port) = read_port(ports.path()) {
            return Ok((child, port));
        }
        if let Ok(Some(status)) = child.try_wait() {
            return Err(failed(format!("ended at once ({status}); see {}", log.display())));
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            return Err(failed(format!(
                "no port after {PATIENCE:?}; see {}",
                log.display()
            )));
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn configuration(store: &Path, token: &str, port: Option<u16>) -> String {
    let port = port.map_or("-1".to_owned(), |port| port.to_string());
    let folder = serde_json::Value::from(store.join("streams").display().to_string());
    format!(
        "# Written at every start.\n\
         listen: \"127.0.0.1:{port}\"\n\
         server_name: rounds\n\
         max_payload: 8388608\n\
         authorization {{ token: \"{token}\" }}\n\
         jetstream {{ store_dir: {folder}, sync_interval: always }}\n"
    )
}

/// The port in the ports file, once it is there and whole.
fn read_port(folder: &Path) -> Option<u16> {
    #[derive(Deserialize)]
    struct Ports {
        nats: Vec<String>,
    }
    let file = fs::read_dir(folder).ok()?.flatten().next()?;
    let ports: Ports = serde_json::from_slice(&fs::read(file.path()).ok()?).ok()?;
    port_of(ports.nats.first()?)
}

fn port_of(url: &str) -> Option<u16> {
    url.rsplit(':').next()?.parse().ok()
}

fn write_private(path: &Path, text: &str) -> Result<(), Error> {
    let write = || {
        let temporary = path.with_extension("tmp");
        let mut file = fs::OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(text.as_bytes())?;
        fs::rename(&temporary, path)
    };
    write().map_err(Error::file(path))
}

fn random_token() -> Result<String, Error> {
    let path = Path::new("/dev/urandom");
    let mut bytes = [0; 24];
    fs::File::open(path)
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut bytes))
        .map_err(Error::file(path))?;
    // A letter first: the configuration's reader takes digits with a suffix for numbers.
    Ok(format!("t{}", hex::encode(bytes)))
}
