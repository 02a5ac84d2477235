//! What a user does with jobs.

use std::path::Path;

use futures::stream::BoxStream;
use schemas::{
    event::{Accepted, Event, Rejected},
    job::JobMessage,
    names::Phase,
    site::{Announce, Progress},
    task::{ArtifactRef, TaskResult},
};

use crate::{Error, conductor::Record, connection::Connection};

/// What a user does with jobs. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    connection: Connection,
}

/// The conductor's word on a submitted message.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It is a job.
    Accepted(Box<Accepted>),
    /// It is none.
    Rejected(Rejected),
}

/// The state a job is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Its message was no job.
    Rejected,
    /// It goes on.
    Running,
    /// It failed.
    Failed,
    /// It was cancelled.
    Cancelled,
    /// It is done.
    Finished,
}

/// One line of the list of jobs.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    /// The job's id.
    pub job: String,
    /// Its state.
    pub state: State,
    /// `training` or `inference`; empty for a rejected message.
    pub mode: String,
    /// Its data sets.
    pub datasets: Vec<String>,
    /// The phase and round it is in, or was in last.
    pub phase: Option<(Phase, u32)>,
    /// When it was accepted or rejected.
    pub time: String,
}

/// All that is known of one job.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// The job's id.
    pub job: String,
    /// Its state.
    pub state: State,
    /// Its events and results; empty for a rejected message.
    pub record: Record,
    /// Why its message was rejected.
    pub rejected: Option<Rejected>,
}

/// Something that happened to a watched job.
#[derive(Clone, Debug, PartialEq)]
pub enum Watched {
    /// An event of its record.
    Event(Event),
    /// A task was answered.
    Result(Box<TaskResult>),
    /// A task has come so far.
    Progress(Progress),
}

impl Client {
    /// A client over a connection.
    pub fn new(connection: Connection) -> Self {
        Self { connection }
    }

    /// Publishes a job message. Gives the stream sequence of the submit; the job's id, where the message has
    /// none, is `job-<sequence>`.
    pub async fn submit(&self, message: &JobMessage) -> Result<u64, Error> {
        let _ = message;
        todo!()
    }

    /// Waits for the conductor's word on a submit. Drop the future to give up.
    pub async fn verdict(&self, submit: u64) -> Result<Verdict, Error> {
        let _ = submit;
        todo!()
    }

    /// All jobs, oldest first.
    pub async fn list(&self) -> Result<Vec<Listed>, Error> {
        todo!()
    }

    /// All that is known of one job.
    pub async fn snapshot(&self, job: &str) -> Result<Snapshot, Error> {
        let _ = job;
        todo!()
    }

    /// What happens to a job: first what happened so far, then as it comes. Events come in order; the stream
    /// ends behind the job's end.
    pub async fn watch(&self, job: &str) -> Result<BoxStream<'static, Watched>, Error> {
        let _ = job;
        todo!()
    }

    /// Cancels a job that has not ended.
    pub async fn cancel(&self, job: &str, reason: &str) -> Result<(), Error> {
        let _ = (job, reason);
        todo!()
    }

    /// Fetches an artifact into a file.
    pub async fn download(&self, artifact: &ArtifactRef, path: &Path) -> Result<(), Error> {
        crate::artifacts::download_file(&self.connection, artifact, path).await
    }

    /// What the sites told of themselves, by name.
    pub async fn sites(&self) -> Result<Vec<Announce>, Error> {
        todo!()
    }
}
