//! What a phase's handler may ask for while it works.

use std::{
    fs::File,
    io::Write,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use schemas::{
    names::{GLOBAL, ORCHESTRATOR},
    site::Progress,
    task::{ArtifactRef, Failure, TaskKey, TaskOutput},
};
use tokio::runtime::Handle;

use super::{deliveries::Deliveries, stopped};
use crate::{
    Error,
    archive::Archive,
    artifacts, clock,
    connection::Connection,
    exit::Kind,
    known::{self, Known},
    metrics::Metrics,
    publish, subjects,
};

/// Updates that are fetched at once.
const FETCHED_AT_ONCE: usize = 4;
/// Between two messages of progress.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);

/// How a task's work was done, for the `made` of its result. The handler fills in what it knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Described {
    /// The device used.
    pub device: String,
    /// Intra-operation threads.
    pub threads: u32,
    /// The processor's instruction set, as libtorch names it.
    pub instruction_set: String,
}

/// What a handler may ask for while it works. All calls block the handler's thread.
pub struct TaskContext {
    pub(super) connection: Connection,
    pub(super) handle: Handle,
    pub(super) key: TaskKey,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) described: Mutex<Described>,
    pub(super) last_progress: Mutex<Option<Instant>>,
    pub(super) deliveries: Deliveries,
    pub(super) metrics: Metrics,
    pub(super) archive: Option<Archive>,
}

impl TaskContext {
    /// True once the task was closed or the worker is to end: stop between cases or iterations.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The flag behind [`TaskContext::stopped`], for other threads.
    pub fn stop_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// Which piece of work this is.
    pub fn key(&self) -> &TaskKey {
        &self.key
    }

    /// Notes that `done` of what outlives a crash are finished: epochs, cases, not iterations. More than any earlier
    /// delivery reached is progress against a crash loop.
    pub fn finished(&self, what: &str, done: usize) {
        self.deliveries.advanced(what, done as u64);
    }

    /// Says how far the work is, to whoever watches. Published at most four times a second, and at the end.
    pub fn progress(&self, what: &str, done: usize, total: usize) {
        let now = Instant::now();
        if let Ok(mut last) = self.last_progress.lock() {
            if done < total && last.is_some_and(|last| now - last < PROGRESS_INTERVAL) {
                return;
            }
            *last = Some(now);
        }
        let TaskKey {
            site,
            phase,
            job,
            round,
            pass,
            shard,
            ..
        } = self.key.clone();
        self.metrics
            .task_progress_timestamp
            .with_label_values(&[&*site, phase.as_str()])
            .set(clock::unix());
        let subject = subjects::progress(&site, &job);
        let progress = Progress {
            job,
            site,
            phase,
            round,
            pass,
            shard,
            what: what.to_owned(),
            done: done as u64,
            total: total as u64,
        };
        let connection = self.connection.clone();
        self.handle.spawn(async move {
            publish::say(&connection, subject, publish::encode(&progress)).await;
        });
    }

    /// Says how the work is done, for the `made` of its result.
    pub fn describe(&self, described: Described) {
        if let Ok(mut own) = self.described.lock() {
            *own = described;
        }
    }

    /// The process's metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Stores bytes in the task's job: under the site's name, or under `global` at the orchestrator.
    /// There, the archive has it too once this is done.
    pub fn upload(&self, bytes: impl Into<Bytes>) -> Result<ArtifactRef, Failure> {
        let bytes = bytes.into();
        self.store_bytes(self.artifact(schemas::sha256(&bytes), bytes.len() as u64), bytes)
    }

    /// [`TaskContext::upload`] of what is of a kind that may leave a site: with a guard at the exit, nothing else does.
    pub fn send(&self, kind: Kind, bytes: impl Into<Bytes>) -> Result<ArtifactRef, Failure> {
        let bytes = bytes.into();
        let digest = schemas::sha256(&bytes);
        self.send_digested(kind, bytes, digest)
    }

    /// As [`TaskContext::send`], of bytes whose digest is known.
    pub fn send_digested(
        &self,
        kind: Kind,
        bytes: impl Into<Bytes>,
        digest: String,
    ) -> Result<ArtifactRef, Failure> {
        let bytes = bytes.into();
        let artifact = self.artifact(digest, bytes.len() as u64);
        self.declare(kind, &artifact, None)?;
        self.store_bytes(artifact, bytes)
    }

    fn store_bytes(&self, artifact: ArtifactRef, bytes: Bytes) -> Result<ArtifactRef, Failure> {
        let kept = bytes.clone();
        let send = artifacts::send_bytes(&self.connection, &artifact, bytes);
        self.store(&artifact, |file| file.write_all(&kept), send)?;
        Ok(artifact)
    }

    /// [`TaskContext::upload_file`] of what is of a kind that may leave a site.
    pub fn send_file(&self, kind: Kind, path: &Path) -> Result<ArtifactRef, Failure> {
        let (digest, size) = artifacts::digest_file(path).map_err(|error| failure(&error))?;
        let artifact = self.artifact(digest, size);
        self.declare(kind, &artifact, Some(path))?;
        self.store_file(artifact, path)
    }

    /// What came of the task, without the names that stay at the site.
    pub(super) fn cleaned(&self, came: Result<TaskOutput, Failure>) -> Result<TaskOutput, Failure> {
        match self.connection.guard() {
            Some(guard) => guard.exit().cleaned(&self.key, came),
            None => came,
        }
    }

    fn declare(&self, kind: Kind, artifact: &ArtifactRef, file: Option<&Path>) -> Result<(), Failure> {
        let Some(guard) = self.connection.guard() else {
            return Ok(());
        };
        let declared = guard.exit().artifact(kind, &self.key, artifact, file);
        declared.map_err(|reason| {
            tracing::error!("an artifact of kind {kind} stays at the site: {reason}");
            withheld()
        })
    }

    /// Stores a file's bytes in the task's job, as [`TaskContext::upload`] does.
    pub fn upload_file(&self, path: &Path) -> Result<ArtifactRef, Failure> {
        let (digest, size) = artifacts::digest_file(path).map_err(|error| failure(&error))?;
        self.store_file(self.artifact(digest, size), path)
    }

    /// As [`TaskContext::upload_file`], of a file whose digest is known.
    pub fn upload_digested(&self, path: &Path, digest: String) -> Result<ArtifactRef, Failure> {
        let size = std::fs::metadata(path).map_err(Error::file(path));
        let size = size.map_err(|error| failure(&error))?.len();
        self.store_file(self.artifact(digest, size), path)
    }

    fn store_file(&self, artifact: ArtifactRef, path: &Path) -> Result<ArtifactRef, Failure> {
        let copy = |file: &mut File| std::io::copy(&mut File::open(path)?, file).map(drop);
        self.store(
            &artifact,
            copy,
            artifacts::send_file(&self.connection, &artifact, path),
        )?;
        Ok(artifact)
    }

    /// Sends an artifact, while the archive, where there is one, keeps it.
    fn store(
        &self,
        artifact: &ArtifactRef,
        write: impl FnOnce(&mut File) -> std::io::Result<()> + Send,
        send: impl Future<Output = Result<(), Error>>,
    ) -> Result<(), Failure> {
        thread::scope(|scope| {
            let archive = self.archive.as_ref();
            let kept = archive.map(|archive| scope.spawn(move || archive.keep(artifact, write)));
            self.wait(send)?;
            match kept.map(thread::ScopedJoinHandle::join) {
                None | Some(Ok(Ok(()))) => Ok(()),
                Some(Ok(Err(error))) => Err(failure(&error)),
                Some(Err(_)) => Err(failure(&Error::Stopped)),
            }
        })?;
        self.moved("sent", artifact);
        Ok(())
    }

    /// Fetches an artifact into memory, verified.
    pub fn download(&self, artifact: &ArtifactRef) -> Result<Vec<u8>, Failure> {
        let bytes = self.wait(artifacts::download_bytes(&self.connection, artifact))?;
        self.moved("received", artifact);
        Ok(bytes)
    }

    /// Fetches an artifact into a file of a temporary folder, verified, then renamed.
    pub fn download_file(&self, artifact: &ArtifactRef, path: &Path) -> Result<(), Failure> {
        self.wait(artifacts::download_scratch(&self.connection, artifact, path))?;
        self.moved("received", artifact);
        Ok(())
    }

    /// Fetches sites' updates, some at a time, as [`TaskContext::download_file`]. The archive keeps them, where it keeps
    /// updates.
    pub fn download_updates(&self, updates: &[(&ArtifactRef, &Path)]) -> Result<(), Failure> {
        let fetched = stream::iter(updates)
            .map(|(artifact, path)| async move {
                artifacts::download_scratch(&self.connection, artifact, path).await?;
                self.moved("received", artifact);
                Ok(())
            })
            .buffer_unordered(FETCHED_AT_ONCE)
            .try_collect::<()>();
        self.wait(fetched)?;
        updates
            .iter()
            .try_for_each(|(artifact, path)| self.keep_weights(&artifact.digest, path))
    }

    /// Has the archive keep weights that went into an average, where it keeps updates.
    pub fn keep_weights(&self, digest: &str, path: &Path) -> Result<(), Failure> {
        match &self.archive {
            Some(archive) => archive
                .keep_update(&self.key.job, digest, path)
                .map_err(|error| failure(&error)),
            None => Ok(()),
        }
    }

    fn moved(&self, direction: &str, artifact: &ArtifactRef) {
        let labels = [&*self.key.site, self.key.phase.as_str(), direction];
        self.metrics
            .wire_bytes
            .with_label_values(&labels)
            .inc_by(artifact.size as f64);
    }

    /// All jobs of the site that the server knows, and which have ended.
    pub fn known_jobs(&self) -> Result<Vec<Known>, Failure> {
        self.wait(known::jobs_of(&self.connection, &self.key.site))
    }

    fn artifact(&self, digest: String, size: u64) -> ArtifactRef {
        ArtifactRef {
            owner: self.owner().to_owned(),
            job: self.key.job.clone(),
            digest,
            size,
        }
    }

    fn owner(&self) -> &str {
        match &*self.key.site {
            ORCHESTRATOR => GLOBAL,
            site => site,
        }
    }

    fn wait<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Failure> {
        let stop = Arc::clone(&self.stop);
        let stopping = async move {
            while !stop.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        self.handle.block_on(async {
            tokio::select! {
                done = work => done.map_err(|error| failure(&error)),
                () = stopping => Err(stopped()),
            }
        })
    }
}

/// The failure of work whose outcome may not leave its site.
pub(super) fn withheld() -> Failure {
    Failure::fatal(
        "withheld",
        "what the task made may not leave the site; the site's log says why",
    )
}

/// An artifact's error as a result says it. The words name artifacts, not cases; paths stay in the log.
fn failure(error: &Error) -> Failure {
    tracing::error!("{error}");
    let (code, message) = match error {
        Error::ArtifactMissing { .. } => ("artifact-missing", error.to_string()),
        Error::ArtifactCorrupt { .. } => ("artifact-corrupt", error.to_string()),
        Error::Full { .. } => ("stream-full", "the artifact store is full".to_owned()),
        Error::File { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
            ("disk-full", "the site's disk is full".to_owned())
        }
        Error::File { source, .. } => ("file", source.kind().to_string()),
        Error::Stopped => return stopped(),
        Error::Withheld { .. } => return withheld(),
        other => ("artifact", other.to_string()),
    };
    Failure::retryable(code, message)
}
