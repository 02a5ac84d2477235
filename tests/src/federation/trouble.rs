//! What befalls a federation: processes are killed, drained and stopped, lines break, disks are lost.

use std::fs;

use anyhow::{Context, Result, ensure};
use pipeline::{
    connection::Connection,
    metrics::Metrics,
    worker::{Phase, Worker, WorkerSettings},
};
use tokio_util::sync::CancellationToken;

use super::{Federation, PATIENCE};
use crate::proxy::Proxy;

impl Federation {
    /// A site that is started later reaches the server through a line of its own.
    pub fn behind_a_line(&mut self, name: &str) -> Result<()> {
        let line = self.runtime.block_on(Proxy::start(&self.server.address().url))?;
        self.lines.insert(name.to_owned(), line);
        Ok(())
    }

    /// The line of a site.
    pub fn line(&self, name: &str) -> Result<&Proxy> {
        self.lines.get(name).context("no such line")
    }

    /// Kills the orchestrator or a site in mid-work, and starts it again.
    pub fn kill(&mut self, name: &str) -> Result<()> {
        let process = self.processes.get_mut(name).context("no such process")?;
        process.kill();
        self.run(name)
    }

    /// Kills a site, and starts it with workers for these phases only, as `--phases` takes them.
    pub fn restart_for(&mut self, name: &str, phases: &str) -> Result<()> {
        self.phases.insert(name.to_owned(), phases.to_owned());
        self.kill(name)
    }

    /// Runs a worker of the test's own, in place of a site's, until `stop`.
    pub fn impostor<P: Phase>(&self, site: &str, phase: P, stop: &CancellationToken) -> Result<()> {
        let (access, metrics) = (self.server.access(), Metrics::new());
        let opening = Connection::open(&access, site, PATIENCE, &metrics);
        let connection = self.runtime.block_on(opening)?;
        let settings = WorkerSettings {
            algorithm: nnunet::ALGORITHM_VERSION,
            ..WorkerSettings::new(site, env!("CARGO_PKG_VERSION"), self.folder().join("impostor"))
        };
        let worker = Worker::new(connection, phase, settings, metrics);
        self.runtime.spawn(worker.run(stop.clone()));
        Ok(())
    }

    /// Kills several processes at once, and starts them again.
    pub fn kill_together(&mut self, names: &[&str]) -> Result<()> {
        for name in names {
            self.processes.get_mut(*name).context("no such process")?.kill();
        }
        names.iter().try_for_each(|name| self.run(name))
    }

    /// Tells a site to end, waits until it has handed its work back, and starts it again.
    pub fn drain(&mut self, name: &str) -> Result<()> {
        self.signal(name, libc::SIGTERM)?;
        let process = self.processes.get_mut(name).context("no such process")?;
        let status = process.wait(PATIENCE)?;
        ensure!(status.success(), "{name} ended with {status}\n{}", process.said());
        self.run(name)
    }

    /// Sends a signal to the orchestrator or a site, such as SIGSTOP.
    pub fn signal(&self, name: &str, signal: libc::c_int) -> Result<()> {
        let process = self.processes.get(name).context("no such process")?;
        process.signal(signal).with_context(|| name.to_owned())
    }

    /// Kills the nats-server; its keeper starts it again at the same address.
    pub fn kill_server(&self) -> Result<()> {
        let process = libc::pid_t::try_from(self.server.process_id())?;
        // SAFETY: kill takes no pointers.
        ensure!(
            unsafe { libc::kill(process, libc::SIGKILL) } == 0,
            "the nats-server was gone before"
        );
        Ok(())
    }

    /// Loses the nats-server's disk while everything runs: the server starts again with nothing in it.
    pub fn lose_disk(&self) -> Result<()> {
        let process = libc::pid_t::try_from(self.server.process_id())?;
        // It must not write while its files go.
        // SAFETY: kill takes no pointers.
        ensure!(
            unsafe { libc::kill(process, libc::SIGSTOP) } == 0,
            "the nats-server was gone before"
        );
        fs::remove_dir_all(self.folder().join("home/nats/streams"))?;
        self.kill_server()
    }
}
