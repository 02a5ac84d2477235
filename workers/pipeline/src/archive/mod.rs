//! What outlives the nats-server: a folder that the orchestrators share.
//!
//! - `<job>/messages.jsonl`: the job's record and results, a message a line;
//! - `<job>/artifacts/<digest>`: what the orchestrators made: pooled documents, averages, the results folder;
//! - `<job>/updates/<digest>`: where that is asked for, the updates that were averaged, so that others can average them
//!   again: [`Archive::evidence`].
//!
//! A conductor writes down what it has read before it acts on it, and a worker of the orchestrator keeps an artifact
//! before it uploads it: nothing can follow from what is not here. What sites made is not needed. After a loss they make
//! it again, to the same bytes: [`Archive::restore`] rebuilds a job up to the last step that needs nothing else.

mod evidence;
mod messages;
mod restore;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use schemas::{event::Event, names::GLOBAL, task::ArtifactRef};

use crate::{Error, subjects};

pub use evidence::Evidence;
pub(crate) use messages::Messages;
pub use restore::Restored;

/// A folder that the orchestrators share. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Archive {
    folder: PathBuf,
    updates: bool,
}

impl Archive {
    /// The archive in a folder, which is made where it is missing.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self, Error> {
        let folder = folder.into();
        fs::create_dir_all(&folder).map_err(Error::file(&folder))?;
        Ok(Self {
            folder,
            updates: false,
        })
    }

    /// The same, which keeps the updates of all rounds, or does not.
    pub fn with_updates(self, updates: bool) -> Self {
        Self { updates, ..self }
    }

    /// Whether a job is in it. One that was only ever rejected is none: its id may be given again.
    pub fn has(&self, job: &str) -> bool {
        let rejected = |line: &messages::Line| {
            let event = schemas::parse::<Event>(line.payload.as_bytes());
            matches!(event, Ok(Event::Rejected(_)))
        };
        schemas::names::check_token("job", job).is_ok()
            && match messages::read(&self.messages(job)) {
                Ok(lines) => !lines.iter().all(rejected),
                // What cannot be read now may be a job.
                Err(_) => true,
            }
    }

    /// The number of the first submit of a new server: behind those of all jobs here that were named by theirs.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn next_submit(&self) -> Result<u64, Error> {
        let mut next = 1;
        for entry in fs::read_dir(&self.folder).map_err(Error::file(&self.folder))? {
            let name = entry.map_err(Error::file(&self.folder))?.file_name();
            let number = name
                .to_str()
                .and_then(|name| name.strip_prefix("job-")?.parse::<u64>().ok());
            next = next.max(number.map_or(1, |number| number.saturating_add(1)));
        }
        Ok(next)
    }

    fn job(&self, job: &str) -> PathBuf {
        self.folder.join(job)
    }

    fn messages(&self, job: &str) -> PathBuf {
        self.job(job).join("messages.jsonl")
    }

    fn artifact(&self, artifact: &ArtifactRef) -> PathBuf {
        self.job(&artifact.job).join("artifacts").join(&artifact.digest)
    }

    fn kept_update(&self, job: &str, digest: &str) -> PathBuf {
        self.job(job).join("updates").join(digest)
    }

    /// Keeps what goes into an average, where updates are kept. `file` holds its bytes.
    pub(crate) fn keep_update(&self, job: &str, digest: &str, file: &Path) -> Result<(), Error> {
        let kept = self.kept_update(job, digest);
        if !self.updates || kept.is_file() {
            return Ok(());
        }
        write_whole(&kept, |to| io::copy(&mut fs::File::open(file)?, to).map(drop))
    }

    /// Whether an artifact is kept here. Its bytes are not looked at.
    pub fn holds(&self, artifact: &ArtifactRef) -> bool {
        artifact.owner == GLOBAL
            && subjects::check_artifact("artifact", artifact).is_ok()
            && fs::metadata(self.artifact(artifact)).is_ok_and(|file| file.len() == artifact.size)
    }

    /// Keeps an artifact of the orchestrators: what `write` writes.
    pub(crate) fn keep(
        &self,
        artifact: &ArtifactRef,
        write: impl FnOnce(&mut fs::File) -> io::Result<()>,
    ) -> Result<(), Error> {
        if self.holds(artifact) {
            return Ok(());
        }
        write_whole(&self.artifact(artifact), write)
    }

    /// Forgets an artifact that nothing needs any more. Forgetting it twice changes nothing.
    pub(crate) fn forget(&self, job: &str, digest: &str) -> Result<(), Error> {
        let file = self.job(job).join("artifacts").join(digest);
        match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::file(file)(error)),
            _ => Ok(()),
        }
    }
}

/// Writes a file, whole or not at all, and makes its folder where it is missing.
fn write_whole(file: &Path, write: impl FnOnce(&mut fs::File) -> io::Result<()>) -> Result<(), Error> {
    let written = || {
        let folder = file.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let mut temporary = tempfile::NamedTempFile::new_in(folder)?;
        write(temporary.as_file_mut())?;
        temporary.as_file().sync_all()?;
        temporary.persist(file)?;
        // The name is there after a power cut, too.
        fs::File::open(folder)?.sync_all()
    };
    written().map_err(Error::file(file))
}
