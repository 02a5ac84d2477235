//! What is known of one job.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use schemas::{
    event::{Accepted, Cancelled, DeadlinePassed, Event, Failed, History, Release, Resumed, SiteWork},
    names::Phase,
    roster::Roster,
    task::{Failure, Outcome, Task, TaskKey, TaskOutput, TaskResult},
};

use crate::{
    Error,
    connection::Connection,
    signing, streams, subjects,
    tail::{self, Tailed},
};

use super::{
    barrier::{self, Barrier, Waiting},
    history::{self, Scored},
    next::MAX_ATTEMPTS,
};

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
    /// It failed for good, as far as nobody asks for more: a failure that is not retryable, the last attempt,
    /// or a closed task.
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
    /// How it was resumed, in stream order.
    pub resumed: Vec<Resumed>,
    /// The deadline of the last release.
    pub deadline: Option<String>,
    /// Its results.
    pub results: BTreeMap<TaskKey, TaskResult>,
    /// Deadlines that have passed.
    passed: BTreeSet<(Step, String)>,
    /// Attempts that somebody asked to be followed by another.
    retried: BTreeSet<TaskKey>,
    /// Places of the steps among the releases.
    places: HashMap<Step, usize>,
    /// What the rounds brought that are over.
    scored: Scored,
}

impl Record {
    /// Takes the next event of the stream. An event seen before changes nothing, nor does an end that came to
    /// its decision before the job was resumed. A release behind an end stands: a resumed job goes on from it.
    pub fn event(&mut self, event: Event) {
        let resumes = self.resumes();
        match event {
            Event::Accepted(accepted) if self.accepted.is_none() => {
                self.scored = Scored::at_start(&accepted);
                self.accepted = Some(*accepted);
            }
            Event::Released(release) if self.release(Step::of(&release)).is_none() => {
                self.places.insert(Step::of(&release), self.releases.len());
                self.deadline.clone_from(&release.deadline);
                self.releases.push(release);
            }
            Event::DeadlinePassed(event) => {
                let DeadlinePassed {
                    phase,
                    round,
                    pass,
                    deadline,
                    ..
                } = event;
                self.passed.insert((Step { phase, round, pass }, deadline));
            }
            Event::Resumed(event) if event.number == resumes + 1 => {
                self.retried.extend(event.retry.iter().cloned());
                if event.deadline.is_some() {
                    self.deadline.clone_from(&event.deadline);
                }
                self.end = None;
                self.resumed.push(event);
            }
            Event::Failed(Failed { resumes: at, .. }) | Event::Cancelled(Cancelled { resumes: at, .. })
                if at != resumes => {}
            Event::Finished(finished) if finished.resumes != resumes => {}
            event if event.is_end() && self.end.is_none() => self.end = Some(event),
            _ => {}
        }
        self.score();
    }

    /// How often the job was resumed.
    pub fn resumes(&self) -> u32 {
        self.resumed.len() as u32
    }

    /// Whether the last release's deadline has passed.
    pub fn overdue(&self) -> bool {
        let (Some(release), Some(deadline)) = (self.releases.last(), &self.deadline) else {
            return false;
        };
        self.passed.contains(&(Step::of(release), deadline.clone()))
    }

    /// What a job that has not ended waits for.
    pub fn waiting(&self) -> Option<Waiting> {
        let release = self.releases.last().filter(|_| self.end.is_none())?;
        match barrier::of(self, release) {
            Barrier::Open => Some(barrier::waiting(self, release)),
            _ => None,
        }
    }

    /// The sites that the job went on without after a released step; none while the step is open. The release
    /// behind it has frozen them; before there is one, they are as the results say.
    pub fn without(&self, release: &Release) -> Option<Vec<String>> {
        let place = self.places.get(&Step::of(release))?;
        match self.releases.get(place + 1) {
            Some(next) => Some(next.without.clone()),
            None => match barrier::of(self, release) {
                Barrier::Complete(without) => Some(without),
                _ => None,
            },
        }
    }

    /// Takes a result, at any time and any number of times.
    pub fn result(&mut self, result: TaskResult) {
        self.results.entry(result.key.clone()).or_insert(result);
        self.score();
    }

    /// A long job's rounds are not all looked at again at each message.
    fn score(&mut self) {
        let mut scored = std::mem::take(&mut self.scored);
        scored.go_on(self);
        self.scored = scored;
    }

    /// What the rounds brought that are over: those that another release follows.
    pub(super) fn scored(&self) -> &Scored {
        &self.scored
    }

    /// A training job's rounds so far; none before it was accepted.
    pub fn history(&self) -> Option<History> {
        let accepted = self.accepted.as_ref()?;
        Some(history::of(self, accepted).history)
    }

    /// The release of a step.
    pub fn release(&self, step: Step) -> Option<&Release> {
        self.places.get(&step).map(|&place| &self.releases[place])
    }

    /// Where a shard of a released step stands.
    pub fn shard(&self, release: &Release, site: &str, shard: u32) -> ShardState<'_> {
        let (mut attempt, mut tries) = (1, 1);
        loop {
            let key = key(release, site, shard, attempt);
            let Some(result) = self.results.get(&key) else {
                return ShardState::Open(attempt);
            };
            match &result.outcome {
                Outcome::Done { output } => return ShardState::Done(output),
                Outcome::Closed { resumes, .. } if *resumes < self.resumes() => tries = 1,
                Outcome::Failed { .. } if self.retried.contains(&result.key) => tries = 1,
                Outcome::Failed { failure } if failure.retryable && tries < MAX_ATTEMPTS => tries += 1,
                _ => return ShardState::Ended(result),
            }
            attempt += 1;
        }
    }

    /// A step's outputs in site and shard order, of the sites that count, when the job goes on from it.
    pub fn outputs(&self, release: &Release) -> Option<Vec<(String, Vec<TaskOutput>)>> {
        let done = |work: &SiteWork| {
            let shards = (0..work.shards).map(|shard| match self.shard(release, &work.site, shard) {
                ShardState::Done(output) => Some(output.clone()),
                _ => None,
            });
            Some((work.site.clone(), shards.collect::<Option<Vec<_>>>()?))
        };
        let without = self.without(release)?;
        let counted = release.work.iter().filter(|work| !without.contains(&work.site));
        counted.map(done).collect()
    }

    /// The outputs of a step that was released and is complete; empty otherwise.
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
    /// With a roster it must be signed. Gives why it was not believed.
    pub fn result_message(
        &mut self,
        key: TaskKey,
        message: &Tailed,
        roster: Option<&Roster>,
    ) -> Result<(), String> {
        let wrong = |failure: Failure| TaskResult {
            key: key.clone(),
            outcome: Outcome::Failed { failure },
            made: None,
            signature: None,
        };
        let (result, refused) = match schemas::parse::<TaskResult>(&message.payload) {
            Ok(result) if result.key == key => {
                match roster.map_or(Ok(()), |roster| signing::check_result(roster, &result)) {
                    Ok(()) => (result, Ok(())),
                    Err(reason) => (wrong(Failure::retryable("bad-signature", &reason)), Err(reason)),
                }
            }
            Ok(_) => (
                wrong(Failure::fatal(
                    "bad-result",
                    "the result's key differs from its subject",
                )),
                Ok(()),
            ),
            Err(error) => (wrong(Failure::fatal("bad-result", error.to_string())), Ok(())),
        };
        self.result(result);
        refused
    }

    /// Reads all that the streams hold of a job. With a roster, its results must be signed.
    pub async fn load(connection: &Connection, job: &str, roster: Option<&Roster>) -> Result<Self, Error> {
        let mut record = Record::default();
        for message in tail::read_all(connection, streams::JOBS, &subjects::job(job)).await? {
            record.event_message(&message);
        }
        for message in tail::read_all(connection, streams::RESULTS, &subjects::results(job)).await? {
            if let Some(key) = subjects::key_of(&message.subject) {
                // What is not believed stands as a failure.
                let _ = record.result_message(key, &message, roster);
            }
        }
        Ok(record)
    }
}
