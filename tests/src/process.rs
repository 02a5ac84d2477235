//! The program under test, run as a user runs it.

use std::{
    ffi::OsStr,
    fs::File,
    io::{BufRead, BufReader, Read},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::repository;

/// The built program. Tests lie in target/release/deps, the program one folder up.
///
/// # Errors
/// It is not built.
pub fn program() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let folder = test
        .parent()
        .and_then(Path::parent)
        .context("a test outside of target")?;
    let program = folder.join("rounds");
    ensure!(
        program.is_file(),
        "{}: not built; run `just build`",
        program.display()
    );
    Ok(program)
}

/// The nats-server: that of `just setup`, else the PATH's.
pub fn nats_server() -> PathBuf {
    let ours = repository().join(".tools/bin/nats-server");
    if ours.is_file() {
        ours
    } else {
        "nats-server".into()
    }
}

/// A command of the program, with the nats-server that the tests use.
pub fn command<S: AsRef<OsStr>>(arguments: &[S]) -> Result<Command> {
    let mut command = Command::new(program()?);
    command
        .args(arguments)
        .env("ROUNDS_NATS_SERVER", nats_server())
        .stdin(Stdio::null());
    Ok(command)
}

/// The command `rounds nnunet ARGUMENTS`, told apart by their blanks, on nnU-Net's folders in `root`.
pub fn nnunet(root: &Path, arguments: &str) -> Result<Command> {
    let arguments: Vec<&str> = ["nnunet"]
        .into_iter()
        .chain(arguments.split_whitespace())
        .collect();
    let mut command = command(&arguments)?;
    for name in ["nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"] {
        command.env(name, root.join(name));
    }
    Ok(command)
}

/// Runs a command of the program to its end: standard output, or an error with all that it said.
pub fn run<S: AsRef<OsStr>>(arguments: &[S]) -> Result<String> {
    let output = command(arguments)?.output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "{}: {said}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(said)
}

/// A running program, such as `rounds up`, in a process group of its own. It is killed when dropped, with all
/// that it started.
pub struct RoundsProcess {
    child: Child,
    log: PathBuf,
}

impl RoundsProcess {
    /// Starts the program; what it says goes to the file `log`.
    pub fn start<S: AsRef<OsStr>>(arguments: &[S], log: &Path) -> Result<Self> {
        Self::of(command(arguments)?, log)
    }

    /// Starts another program in the same way.
    pub fn of(mut command: Command, log: &Path) -> Result<Self> {
        let out = File::create(log)?;
        let child = command
            .stdout(out.try_clone()?)
            .stderr(out)
            .process_group(0)
            .spawn()?;
        Ok(Self {
            child,
            log: log.to_owned(),
        })
    }

    /// Starts the program, whose log is read until it says `text` and then by nobody: its pipe is broken. What it prints
    /// goes to the file `printed`.
    ///
    /// # Errors
    /// It ended before, or `patience` is over.
    pub fn start_unheard(arguments: &[&str], printed: &Path, text: &str, patience: Duration) -> Result<Self> {
        let mut child = command(arguments)?
            .stdout(File::create(printed)?)
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let log = child.stderr.take().context("no pipe")?;
        let process = Self {
            child,
            log: printed.to_owned(),
        };
        let (tell, told) = mpsc::channel();
        let awaited = text.to_owned();
        std::thread::spawn(move || {
            let mut lines = BufReader::new(log).lines().map_while(Result::ok);
            let said = lines.any(|line| line.contains(&awaited));
            drop(lines);
            let _ = tell.send(said);
        });
        ensure!(
            told.recv_timeout(patience) == Ok(true),
            "it did not say {text:?} within {patience:?}"
        );
        Ok(process)
    }

    /// Sends a signal to it and all it started, such as SIGTERM.
    ///
    /// # Errors
    /// It was gone before.
    pub fn signal(&self, signal: libc::c_int) -> Result<()> {
        let group = libc::pid_t::try_from(self.child.id())?;
        // SAFETY: kill takes no pointers; the group is the child's own.
        ensure!(
            unsafe { libc::kill(-group, signal) } == 0,
            "it was gone before:\n{}",
            self.said()
        );
        Ok(())
    }

    /// What it has said so far.
    pub fn said(&self) -> String {
        let mut text = String::new();
        if let Ok(mut file) = File::open(&self.log) {
            let _ = file.read_to_string(&mut text);
        }
        text
    }

    /// Waits until it has said `text`.
    ///
    /// # Errors
    /// It ended before, or `patience` is over.
    pub fn wait_for(&mut self, text: &str, patience: Duration) -> Result<()> {
        let end = Instant::now() + patience;
        while !self.said().contains(text) {
            if let Some(status) = self.child.try_wait()? {
                bail!("ended with {status} before it said {text:?}:\n{}", self.said());
            }
            ensure!(
                Instant::now() < end,
                "{patience:?} without {text:?}:\n{}",
                self.said()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// `patience` is over.
    pub fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        let end = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ensure!(
                Instant::now() < end,
                "still running after {patience:?}:\n{}",
                self.said()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Kills it and all it started at once, as a power cut would.
    pub fn kill(&mut self) {
        // An ended group is no error here.
        let _ = self.signal(libc::SIGKILL);
        let _ = self.child.wait();
    }
}

impl Drop for RoundsProcess {
    fn drop(&mut self) {
        self.kill();
    }
}
