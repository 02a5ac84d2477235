//! Streams in, actions out.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use schemas::{Invalid, event::Event, job::JobMessage};
use tokio::{sync::mpsc, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{
    archived::Archived,
    memory::Memory,
    next::{Action, is_settled, next},
    record::Record,
    report::{SERIES_KEPT, report},
    submit::Known,
};
use crate::{
    Error,
    archive::Archive,
    clock,
    connection::Connection,
    metrics::Metrics,
    publish::{self, Created},
    signing::Identity,
    streams, subjects,
    tail::{self, Tailed},
};

/// Messages read ahead of the conductor.
const READ_AHEAD: usize = 1_024;
/// Actions of one job under way at once.
const AT_ONCE: usize = 16;
/// Before a failed action is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What the binary knows of a message that this crate does not, such as the trainers' names.
/// Gives warnings for the submitter, or the field that is wrong.
pub type Check = Arc<dyn Fn(&JobMessage) -> Result<Vec<String>, Invalid> + Send + Sync>;

/// Reads the streams, and does what [`super::next()`] says. Any number of them may run at once.
pub struct Conductor {
    pub(super) connection: Connection,
    pub(super) version: String,
    pub(super) algorithm: u32,
    pub(super) check: Check,
    pub(super) metrics: Metrics,
    pub(super) archive: Option<Archive>,
    pub(super) identity: Identity,
}

impl Conductor {
    /// A conductor of this program version; [`Conductor::run`] starts it.
    pub fn new(connection: Connection, version: impl Into<String>, check: Check, metrics: Metrics) -> Self {
        Self {
            connection,
            version: version.into(),
            algorithm: 0,
            check,
            metrics,
            archive: None,
            identity: Identity::default(),
        }
    }

    /// The same, of this version of the algorithm, which sites must have too.
    pub fn with_algorithm(self, algorithm: u32) -> Self {
        Self { algorithm, ..self }
    }

    /// The same, with an archive of all jobs.
    pub fn with_archive(self, archive: Archive) -> Self {
        Self {
            archive: Some(archive),
            ..self
        }
    }

    /// The same, which believes the members of a roster only, and signs what it closes.
    pub fn with_identity(self, identity: Identity) -> Self {
        Self { identity, ..self }
    }

    /// Conducts until `stop`. The streams must be set up.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Error> {
        tokio::select! {
            () = stop.cancelled() => Ok(()),
            result = self.conduct() => result,
        }
    }

    async fn conduct(&self) -> Result<(), Error> {
        let mut memory = Memory::default();
        let mut archived = Archived::of(self.archive.clone());
        // Nothing is done before the past is known, or it would all be published again.
        let mut jobs_left = Some(self.last_sequence(streams::JOBS).await);
        let mut results_left = Some(self.last_sequence(streams::RESULTS).await);
        let mut jobs = self.tail(streams::JOBS);
        let mut results = self.tail(streams::RESULTS);
        loop {
            let reached = |left: &Option<u64>| left.is_none_or(|last| last == 0);
            archived.write().await;
            if reached(&jobs_left) && reached(&results_left) {
                for job in self.act(&mut memory).await {
                    archived.settle(&job);
                }
            }
            let retry = !(memory.changed.is_empty()
                && memory.submits.is_empty()
                && memory.forgotten.is_empty()
                && archived.is_written());
            tokio::select! {
                Some(message) = jobs.recv() => {
                    let mut next = Some(message);
                    while let Some(message) = next {
                        pass(&mut jobs_left, message.sequence);
                        memory.seen.message(&message, jobs_left.is_some(), &memory.settled);
                        memory.event(&message);
                        archived.take(message);
                        next = jobs.try_recv().ok();
                    }
                }
                Some(message) = results.recv() => {
                    let roster = self.identity.roster();
                    let mut next = Some(message);
                    while let Some(message) = next {
                        pass(&mut results_left, message.sequence);
                        memory.seen.message(&message, results_left.is_some(), &memory.settled);
                        if let Some(site) = memory.result(&message, roster.as_deref()) {
                            self.metrics.results_refused.with_label_values(&[&*site]).inc();
                        }
                        archived.take(message);
                        next = results.try_recv().ok();
                    }
                }
                () = sleep(RETRY), if retry => {}
                else => return Ok(()),
            }
        }
    }

    fn tail(&self, stream: &'static str) -> mpsc::Receiver<Tailed> {
        let (sender, receiver) = mpsc::channel(READ_AHEAD);
        tokio::spawn(tail::tail(
            self.connection.clone(),
            stream,
            String::new(),
            1,
            sender,
        ));
        receiver
    }

    async fn last_sequence(&self, name: &str) -> u64 {
        loop {
            let error = match self.connection.stream(name).await {
                Ok(stream) => match stream.get_info().await {
                    Ok(info) => return info.state.last_sequence,
                    Err(error) => error.to_string(),
                },
                Err(error) => error.to_string(),
            };
            tracing::warn!("stream {name}: {error}; trying again");
            sleep(RETRY).await;
        }
    }

    /// Decides what is submitted and does what follows for every changed job. What fails stays to be done. Gives the
    /// jobs that nothing can happen to any more.
    async fn act(&self, memory: &mut Memory) -> Vec<String> {
        let mut at_rest = Vec::new();
        self.decide_all(memory).await;
        self.remember(memory).await;
        for job in std::mem::take(&mut memory.changed) {
            let Some(record) = memory.records.get(&job) else {
                continue;
            };
            report(&self.metrics, record, &mut memory.seen);
            let done = memory.done.entry(job.clone()).or_default();
            let todo: Vec<(String, Action)> = next(record)
                .into_iter()
                .map(|action| (name(&action), timed(record, action)))
                .filter(|(name, _)| !done.contains(name))
                .collect();
            let outcomes: Vec<_> = stream::iter(todo)
                .map(|(name, action)| async move { (name, self.perform(&action).await, action) })
                .buffer_unordered(AT_ONCE)
                .collect()
                .await;
            let mut failed = None;
            for (name, outcome, action) in outcomes {
                match outcome {
                    Ok(()) => drop(done.insert(name)),
                    Err(error) => {
                        tracing::error!("job {job}: {error}");
                        failed = Some((error, action));
                    }
                }
            }
            let settled = is_settled(record);
            match failed {
                Some((error @ Error::Refused { .. }, Action::Publish(_) | Action::Task(_))) => {
                    self.give_up(&job, record.resumes(), &error).await;
                }
                Some(_) => drop(memory.changed.insert(job)),
                None if settled => {
                    self.forget_later(&job);
                    memory.seen.forget(&job);
                    memory.settle(job.clone());
                    at_rest.push(job);
                }
                None => {}
            }
        }
        at_rest
    }

    /// Reads jobs anew that were resumed after all was done for them.
    async fn remember(&self, memory: &mut Memory) {
        for job in std::mem::take(&mut memory.forgotten) {
            match Record::load(&self.connection, &job, self.identity.roster().as_deref()).await {
                Ok(record) => {
                    memory.seen.counted(&job, &record);
                    memory.records.insert(job.clone(), record);
                    memory.changed.insert(job);
                }
                Err(error) => {
                    tracing::warn!("job {job}: {error}; trying again");
                    memory.forgotten.insert(job);
                }
            }
        }
    }

    /// An ended job's metrics stay long enough to be scraped and looked at.
    fn forget_later(&self, job: &str) {
        let (metrics, job) = (self.metrics.clone(), job.to_owned());
        tokio::spawn(async move {
            sleep(SERIES_KEPT).await;
            metrics.forget_job(&job);
        });
    }

    /// In the order of the stream: a verdict depends on those before it.
    async fn decide_all(&self, memory: &mut Memory) {
        while let Some((&submit, message)) = memory.submits.first_key_value() {
            match self.judge(message, &memory.known).await {
                Ok(verdict) => {
                    memory.submits.remove(&submit);
                    memory.verdict(verdict);
                }
                Err(error) => {
                    tracing::warn!("submit {submit}: {error}; trying again");
                    return;
                }
            }
        }
    }

    /// Publishes a verdict, or finds the one that stands.
    async fn judge(&self, message: &Tailed, known: &BTreeMap<String, Known>) -> Result<Event, Error> {
        let submit = message.sequence;
        let mut verdict = self.decide(message, known).await?;
        let subject = subjects::verdict(verdict.job(), submit);
        let created = match publish::create(&self.connection, &subject, publish::encode(&verdict)).await {
            Err(error @ Error::Refused { .. }) => {
                verdict = rejected(verdict.job(), submit, &error);
                publish::create(&self.connection, &subject, publish::encode(&verdict)).await?
            }
            other => other?,
        };
        match created {
            Created::New => Ok(verdict),
            Created::Exists => {
                let standing = tail::read_last(&self.connection, streams::JOBS, &subject).await?;
                let standing =
                    standing.ok_or_else(|| Error::request(format!("read {subject}"), "it is gone"))?;
                Ok(schemas::parse(&standing)?)
            }
        }
    }
}

/// Notes that a stream was read up to a sequence; what was asked for is reached when nothing is left.
fn pass(left: &mut Option<u64>, sequence: u64) {
    if left.is_some_and(|last| sequence >= last) {
        *left = None;
    }
}

/// A release with the deadline of its sites: the only thing of it that is no function of the job's record.
fn timed(record: &Record, mut action: Action) -> Action {
    let seconds = record
        .accepted
        .as_ref()
        .and_then(|accepted| accepted.message.federation.round_deadline_seconds);
    if let (Action::Publish(Event::Released(release)), Some(seconds)) = (&mut action, seconds)
        && !release.phase.at_orchestrator()
    {
        release.deadline = Some(clock::after(seconds));
    }
    action
}

/// What tells one action of a job from another.
fn name(action: &Action) -> String {
    match action {
        Action::Publish(event) => subjects::event(event),
        Action::Task(task) => subjects::task(&task.key),
        Action::Close(result) => subjects::result(&result.key),
        Action::Timer(timer) => subjects::timer(&timer.passed, timer.resumes),
        Action::Purge(purge) => match &purge.digest {
            Some(digest) => subjects::chunks(&purge.owner, &purge.job, digest),
            None => subjects::artifacts(&purge.owner, &purge.job),
        },
    }
}

fn rejected(job: &str, submit: u64, error: &Error) -> Event {
    Event::Rejected(schemas::event::Rejected {
        job: job.to_owned(),
        submit,
        path: ".".to_owned(),
        reason: error.to_string(),
        time: clock::now(),
    })
}
