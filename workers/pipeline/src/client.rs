//! What a user does with jobs.

mod resume;

use std::{collections::BTreeMap, path::Path};

use async_nats::{HeaderMap, header::NATS_MESSAGE_ID};
use bytes::Bytes;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use schemas::{
    event::{Accepted, Cancelled, Event, Rejected},
    job::{JobMessage, Payload},
    names::Phase,
    site::{Announce, Progress},
    task::{ArtifactRef, TaskResult},
};

use crate::{
    Error,
    archive::{Archive, Restored},
    artifacts,
    conductor::{self, Record},
    connection::Connection,
    publish::{self, Created},
    signing::Identity,
    streams, subjects,
    tail::{self, Tailed},
};
use tokio::sync::mpsc;

pub use resume::{Dead, Resumption, dead};

/// What a user does with jobs. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    connection: Connection,
    identity: Identity,
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
    /// A deadline has passed, and too few sites have answered: it goes on when they do.
    Paused,
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
        Self {
            connection,
            identity: Identity::default(),
        }
    }

    /// The same, of a submitter who signs its jobs, and believes only signed results.
    pub fn with_identity(self, identity: Identity) -> Self {
        Self { identity, ..self }
    }

    /// Whether submitted jobs are signed.
    pub fn signs(&self) -> bool {
        self.identity.signer.is_some()
    }

    /// Publishes a job message. Gives the stream sequence of the submit; the job's id, where the message has
    /// none, is `job-<sequence>`.
    pub async fn submit(&self, message: &JobMessage) -> Result<u64, Error> {
        self.submit_bytes(publish::encode(message)).await
    }

    /// Publishes the bytes of a job message, unread: the conductor's verdict says what is wrong with them.
    pub async fn submit_bytes(&self, message: Bytes) -> Result<u64, Error> {
        // A lost acknowledgement is answered by sending again, which the id makes harmless.
        let id = self.connection.client().new_inbox();
        let mut headers = match &self.identity.signer {
            Some(signer) => signer.job_headers(&message),
            None => HeaderMap::new(),
        };
        headers.insert(NATS_MESSAGE_ID, &*id);
        publish::replace_with(&self.connection, subjects::SUBMIT, message, &headers).await
    }

    /// Waits for the conductor's word on a submit. Drop the future to give up.
    pub async fn verdict(&self, submit: u64) -> Result<Verdict, Error> {
        let (sender, mut receiver) = mpsc::channel(1);
        let filter = subjects::verdict_of(submit);
        let reading = tail::tail(self.connection.clone(), streams::JOBS, filter, submit, sender);
        let message = tokio::select! {
            message = receiver.recv() => message,
            () = reading => None,
        };
        let message = message.ok_or(Error::Stopped)?;
        match schemas::parse::<Event>(&message.payload)? {
            Event::Accepted(accepted) => Ok(Verdict::Accepted(accepted)),
            Event::Rejected(rejected) => Ok(Verdict::Rejected(rejected)),
            _ => Err(Error::request(
                format!("read {}", message.subject),
                "not a verdict",
            )),
        }
    }

    /// All jobs and rejected messages, oldest first.
    pub async fn list(&self) -> Result<Vec<Listed>, Error> {
        let mut records: BTreeMap<String, (u64, Record)> = BTreeMap::new();
        let mut listed: BTreeMap<String, (u64, Listed)> = BTreeMap::new();
        for message in tail::read_all(&self.connection, streams::JOBS, subjects::ALL_JOBS).await? {
            match event_of(&message) {
                Some(Event::Rejected(rejected)) => {
                    let line = Listed {
                        job: rejected.job.clone(),
                        state: State::Rejected,
                        mode: String::new(),
                        datasets: Vec::new(),
                        phase: None,
                        time: rejected.time,
                    };
                    listed.entry(rejected.job).or_insert((message.sequence, line));
                }
                Some(event) => {
                    let record = records.entry(event.job().to_owned());
                    let (_, record) = record.or_insert_with(|| (message.sequence, Record::default()));
                    record.event(event);
                }
                None => {}
            }
        }
        for (sequence, record) in records.into_values() {
            let (state, phase) = (State::of(&record), record.releases.last());
            let phase = phase.map(|release| (release.phase, release.round));
            let Some(accepted) = record.accepted else {
                continue;
            };
            let line = Listed {
                job: accepted.job.clone(),
                state,
                mode: match accepted.message.payload {
                    Payload::Training(_) => "training".to_owned(),
                    Payload::Inference(_) => "inference".to_owned(),
                },
                datasets: accepted.message.datasets,
                phase,
                time: accepted.time,
            };
            listed.insert(accepted.job, (sequence, line));
        }
        let mut listed: Vec<_> = listed.into_values().collect();
        listed.sort_by_key(|(sequence, _)| *sequence);
        Ok(listed.into_iter().map(|(_, line)| line).collect())
    }

    /// All that is known of one job.
    pub async fn snapshot(&self, job: &str) -> Result<Snapshot, Error> {
        schemas::names::check_token("job", job)?;
        let record = Record::load(&self.connection, job, self.identity.roster().as_deref()).await?;
        let mut rejected = None;
        if record.accepted.is_none() {
            for message in tail::read_all(&self.connection, streams::JOBS, &subjects::job(job)).await? {
                if let Some(Event::Rejected(found)) = event_of(&message) {
                    rejected = Some(found);
                }
            }
            if rejected.is_none() {
                return Err(Error::NoSuchJob { job: job.to_owned() });
            }
        }
        Ok(Snapshot {
            job: job.to_owned(),
            state: match rejected {
                Some(_) => State::Rejected,
                None => State::of(&record),
            },
            record,
            rejected,
        })
    }

    /// What happens to a job: first what happened so far, then as it comes. Events come in order; the stream
    /// ends behind the job's end. Ends that a job was resumed from are left out.
    pub async fn watch(&self, job: &str) -> Result<BoxStream<'static, Watched>, Error> {
        let snapshot = self.snapshot(job).await?;
        if let Some(rejected) = snapshot.rejected {
            return Ok(stream::iter([Watched::Event(Event::Rejected(rejected))]).boxed());
        }
        let progress = self
            .connection
            .client()
            .subscribe(subjects::progress_of(job))
            .await
            .map_err(|error| Error::request("subscribe to progress", error))?;
        let progress = progress.filter_map(async |message| {
            schemas::parse::<Progress>(&message.payload)
                .ok()
                .map(Watched::Progress)
        });
        let events = self
            .tail(streams::JOBS, subjects::job(job))
            .filter_map(async |message| event_of(&message).map(Watched::Event));
        let results = self
            .tail(streams::RESULTS, subjects::results(job))
            .filter_map(async |message| {
                let result = schemas::parse::<TaskResult>(&message.payload).ok()?;
                Some(Watched::Result(Box::new(result)))
            });
        let all = stream::select_all([events.boxed(), results.boxed(), progress.boxed()]);
        let resumes = snapshot.record.resumes();
        let until_end = stream::unfold(Some(all), move |all| async move {
            let mut all = all?;
            loop {
                let watched = all.next().await?;
                let ended = match &watched {
                    Watched::Event(event) => event.resumes(),
                    _ => None,
                };
                match ended {
                    Some(earlier) if earlier < resumes => {}
                    _ => return Some((watched, ended.is_none().then_some(all))),
                }
            }
        });
        Ok(until_end.boxed())
    }

    fn tail(&self, stream: &'static str, filter: String) -> BoxStream<'static, Tailed> {
        let (sender, receiver) = mpsc::channel(256);
        tokio::spawn(tail::tail(self.connection.clone(), stream, filter, 1, sender));
        stream::unfold(receiver, async |mut receiver| {
            let message = receiver.recv().await?;
            Some((message, receiver))
        })
        .boxed()
    }

    /// Cancels a job that has not ended.
    ///
    /// # Errors
    /// There is no such job, or it has ended.
    pub async fn cancel(&self, job: &str, reason: &str) -> Result<(), Error> {
        let ended = |state: State| Error::Ended {
            job: job.to_owned(),
            how: state.as_str().to_owned(),
        };
        let snapshot = self.snapshot(job).await?;
        if snapshot.state.is_end() {
            return Err(ended(snapshot.state));
        }
        let resumes = snapshot.record.resumes();
        let event = Event::Cancelled(Cancelled {
            job: job.to_owned(),
            reason: reason.to_owned(),
            resumes,
        });
        match publish::create(
            &self.connection,
            &subjects::event(&event),
            publish::encode(&event),
        )
        .await?
        {
            Created::New => Ok(()),
            Created::Exists => match self.snapshot(job).await? {
                // Our own message, whose acknowledgement was lost.
                Snapshot {
                    record: Record { end: Some(end), .. },
                    ..
                } if end == event => Ok(()),
                snapshot => Err(ended(snapshot.state)),
            },
        }
    }

    /// Brings a job back that the server has lost, and those that it goes on from.
    ///
    /// # Errors
    /// As of [`Archive::restore`].
    pub async fn restore(&self, archive: &Archive, job: &str) -> Result<Vec<Restored>, Error> {
        schemas::names::check_token("job", job)?;
        archive.restore(&self.connection, job).await
    }

    /// Fetches an artifact into a file.
    pub async fn download(&self, artifact: &ArtifactRef, path: &Path) -> Result<(), Error> {
        artifacts::download_file(&self.connection, artifact, path).await
    }

    /// What the sites told of themselves, by name.
    pub async fn sites(&self) -> Result<Vec<Announce>, Error> {
        conductor::sites(&self.connection).await
    }
}

impl State {
    /// The state's one spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Rejected => "rejected",
            State::Running => "running",
            State::Paused => "paused",
            State::Failed => "failed",
            State::Cancelled => "cancelled",
            State::Finished => "finished",
        }
    }

    /// The state of an accepted job. Without its results, one whose sites have just answered seems paused.
    fn of(record: &Record) -> Self {
        match &record.end {
            None if record.overdue() => State::Paused,
            None => State::Running,
            Some(Event::Failed(_)) => State::Failed,
            Some(Event::Cancelled(_)) => State::Cancelled,
            Some(_) => State::Finished,
        }
    }

    /// Whether nothing of the job goes on.
    fn is_end(self) -> bool {
        !matches!(self, State::Running | State::Paused)
    }
}

fn event_of(message: &Tailed) -> Option<Event> {
    match schemas::parse(&message.payload) {
        Ok(event) => Some(event),
        Err(error) => {
            tracing::warn!("{}: {error}", message.subject);
            None
        }
    }
}
