//! What is known of one job.

use std::collections::BTreeMap;

use schemas::{
    event::{Accepted, Event, Release, SiteWork},
    names::Phase,
    task::{Failure, Outcome, Task, TaskKey, TaskOutput, TaskResult},
};

use crate::{
    Error,
    connection::Connection,
    streams, subjects,
    tail::{self, Tailed},
};

use super::next::MAX_ATTEMPTS;

/// One pass of one phase in one round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Step {
    /// The phase.
    pub phase: Phase,
    /// The round; 0 outside train-round and average.
    pub round: u32,
    /// The pass within the phase.
    pub pass: u32,
}

impl Step {
    /// A pass of a phase outside the rounds.
    pub const fn once(phase: Phase, pass: u32) -> Self {
        Self {
            phase,
            round: 0,
            pass,
        }
    }

    /// The step of a release.
    pub fn of(release: &Release) -> Self {
        Self {
            phase: release.phase,
            round: release.round,
            pass: release.pass,
        }
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.phase, self.round, self.pass)
    }
}

/// Where one shard of a released step stands.
#[derive(Clone, Debug, PartialEq)]
pub enum ShardState<'a> {
    /// This attempt has no result yet.
    Open(u32),
    /// It is done.
    Done(&'a TaskOutput),
    /// It failed for good: a failure that is not retryable, the last attempt, or a closed task.
    Ended(&'a TaskResult),
}

/// What is known of one job: its events in stream order, and its results as a set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// How it was accepted.
    pub accepted: Option<Accepted>,
    /// Its releases, in stream order.
    pub releases: Vec<Release>,
    /// How it ended: failed, cancelled or finished.
    pub end: Option<Event>,
    /// Its results.
    pub results: BTreeMap<TaskKey, TaskResult>,
}

impl Record {
    /// Takes the next event of the stream. An event seen before, or after the end, changes nothing.
    pub fn event(&mut self, event: Event) {
        if self.end.is_some() {
            return;
        }
        match event {
            Event::Accepted(accepted) if self.accepted.is_none() => self.accepted = Some(*accepted),
            Event::Released(release) if self.release(Step::of(&release)).is_none() => {
                self.releases.push(release)
            }
            event if event.is_end() => self.end = Some(event),
            _ => {}
        }
    }

    /// Takes a result, at any time and any number of times.
    pub fn result(&mut self, result: TaskResult) {
        self.results.entry(result.key.clone()).or_insert(result);
    }

    /// The release of a step.
    pub fn release(&self, step: Step) -> Option<&Release> {
        self.releases.iter().find(|release| Step::of(release) == step)
    }

    /// Where a shard of a released step stands.
    pub fn shard(&self, release: &Release, site: &str, shard: u32) -> ShardState<'_> {
        let mut attempt = 1;
        loop {
            let key = key(release, site, shard, attempt);
            let Some(result) = self.results.get(&key) else {
                return ShardState::Open(attempt);
            };
            match &result.outcome {
                Outcome::Done { output } => return ShardState::Done(output),
                Outcome::Failed { failure } if failure.retryable && attempt < MAX_ATTEMPTS => attempt += 1,
                _ => return ShardState::Ended(result),
            }
        }
    }

    /// A step's outputs in site and shard order, when all are done.
    pub fn outputs(&self, release: &Release) -> Option<Vec<(String, Vec<TaskOutput>)>> {
        let done = |work: &SiteWork| {
            let shards = (0..work.shards).map(|shard| match self.shard(release, &work.site, shard) {
                ShardState::Done(output) => Some(output.clone()),
                _ => None,
            });
            Some((work.site.clone(), shards.collect::<Option<Vec<_>>>()?))
        };
        release.work.iter().map(done).collect()
    }

    /// The outputs of a step that was released and is done; empty otherwise.
    pub fn outputs_of(&self, step: Step) -> Vec<(String, Vec<TaskOutput>)> {
        self.release(step)
            .and_then(|release| self.outputs(release))
            .unwrap_or_default()
    }
}

/// The key of an attempt at a shard of a release.
pub fn key(release: &Release, site: &str, shard: u32, attempt: u32) -> TaskKey {
    TaskKey {
        site: site.to_owned(),
        phase: release.phase,
        job: release.job.clone(),
        round: release.round,
        pass: release.pass,
        shard,
        attempt,
    }
}

/// The message of work for an attempt: a pure function of the accepted event and the release.
pub fn task(accepted: &Accepted, release: &Release, work: &SiteWork, shard: u32, attempt: u32) -> Task {
    Task {
        key: key(release, &work.site, shard, attempt),
        shards: work.shards,
        job: accepted.clone(),
        input: work.input.clone(),
    }
}

impl Record {
    /// Takes a message of ROUNDS_JOBS. One that cannot be read is logged and changes nothing.
    pub fn event_message(&mut self, message: &Tailed) {
        match schemas::parse::<Event>(&message.payload) {
            Ok(event) => self.event(event),
            Err(error) => tracing::error!("{}: {error}", message.subject),
        }
    }

    /// Takes a message of ROUNDS_RESULTS. One that cannot be read is a failed result: the task is answered.
    pub fn result_message(&mut self, key: TaskKey, message: &Tailed) {
        let wrong = |reason: String| TaskResult {
            key: key.clone(),
            outcome: Outcome::Failed {
                failure: Failure::fatal("bad-result", reason),
            },
            made: None,
        };
        let result = match schemas::parse::<TaskResult>(&message.payload) {
            Ok(result) if result.key == key => result,
            Ok(_) => wrong("the result's key differs from its subject".to_owned()),
            Err(error) => wrong(error.to_string()),
        };
        self.result(result);
    }

    /// Reads all that the streams hold of a job.
    pub async fn load(connection: &Connection, job: &str) -> Result<Self, Error> {
        let mut record = Record::default();
        for message in tail::read_all(connection, streams::JOBS, &subjects::job(job)).await? {
            record.event_message(&message);
        }
        for message in tail::read_all(connection, streams::RESULTS, &subjects::results(job)).await? {
            if let Some(key) = subjects::key_of(&message.subject) {
                record.result_message(key, &message);
            }
        }
        Ok(record)
    }
}
