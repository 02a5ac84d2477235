//! A job that the streams have lost, from the archive.

use std::io::Write;

use schemas::{
    event::{Accepted, Event, Finished, Resumed},
    task::{ArtifactRef, TaskKey, TaskOutput, TaskResult},
};

use super::{
    Archive,
    messages::{self, Line},
    write_whole,
};
use crate::{
    Error, artifacts, clock,
    conductor::{Record, ShardState, Step},
    connection::Connection,
    publish, streams, subjects, tail,
};

/// What was rebuilt of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The job: the one asked for, or one that it goes on from.
    pub job: String,
    /// Messages of its record and its results.
    pub messages: usize,
    /// Bytes of its artifacts.
    pub bytes: u64,
    /// Steps that are done again: what the sites made in them is lost.
    pub again: Vec<Step>,
}

impl Archive {
    /// Rebuilds a job in streams that have lost it, and first the jobs that it goes on from. One that has not ended
    /// goes on, as after a resumption. May be called again after it broke off.
    ///
    /// # Errors
    /// The archive does not hold the job, or what is kept of it cannot be read; the server does not answer.
    pub async fn restore(&self, connection: &Connection, job: &str) -> Result<Vec<Restored>, Error> {
        let mut restored = Vec::new();
        let mut wanted = vec![job.to_owned()];
        while let Some(job) = wanted.last().cloned() {
            let kept = Kept::of(self, &job)?;
            let earlier = names(&kept.accepted).into_iter().map(|artifact| artifact.job);
            let mut missing = Vec::new();
            for earlier in earlier.filter(|earlier| *earlier != job && !wanted.contains(earlier)) {
                if self.has(&earlier) && !known(connection, &earlier).await? && !missing.contains(&earlier) {
                    missing.push(earlier);
                }
            }
            if missing.is_empty() {
                wanted.pop();
                restored.push(self.rebuild(connection, kept).await?);
            } else {
                wanted.extend(missing);
            }
        }
        Ok(restored)
    }

    /// The order lets no conductor act before all is there: without its acceptance, a job has no next step.
    async fn rebuild(&self, connection: &Connection, kept: Kept) -> Result<Restored, Error> {
        let job = &kept.accepted.job;
        // What is written from now on follows from what is kept.
        let text = messages::text(kept.lines());
        write_whole(&self.messages(job), |file| file.write_all(&text))?;
        let mut bytes = 0;
        for artifact in &kept.artifacts {
            let stored =
                artifacts::upload_file(connection, &artifact.owner, job, &self.artifact(artifact)).await?;
            if stored != *artifact {
                return Err(Error::ArtifactCorrupt {
                    owner: artifact.owner.clone(),
                    job: job.clone(),
                    digest: artifact.digest.clone(),
                    size: artifact.size,
                    found: stored.digest,
                    found_size: stored.size,
                });
            }
            bytes += artifact.size;
        }
        // A worker that finished its task after the loss may have answered into the empty stream, with artifacts
        // that are lost.
        let filter = subjects::results(job);
        let stream = connection.stream(streams::RESULTS).await?;
        let purged = stream.purge().filter(&filter).await;
        purged.map_err(|error| Error::request(format!("purge {filter}"), error))?;
        for line in kept.results.iter().chain(&kept.events) {
            create(connection, line).await?;
        }
        if !kept.finished {
            let resumed = Event::Resumed(kept.resumed());
            let subject = subjects::event(&resumed);
            publish::create(connection, &subject, publish::encode(&resumed)).await?;
        }
        // Submits are counted anew, from 1.
        let verdict = Line {
            subject: subjects::verdict(job, 0),
            payload: kept.verdict.payload.clone(),
        };
        create(connection, &verdict).await?;
        Ok(Restored {
            job: job.clone(),
            messages: kept.results.len() + kept.events.len() + 1,
            bytes,
            again: kept.again,
        })
    }
}

async fn known(connection: &Connection, job: &str) -> Result<bool, Error> {
    let verdicts = format!("rounds.job.{job}.verdict.*");
    Ok(!tail::read_all(connection, streams::JOBS, &verdicts)
        .await?
        .is_empty())
}

async fn create(connection: &Connection, line: &Line) -> Result<(), Error> {
    publish::create(connection, &line.subject, line.payload.clone().into()).await?;
    Ok(())
}

/// What of a job's archive stands.
struct Kept {
    accepted: Accepted,
    verdict: Line,
    /// Its other events, in order.
    events: Vec<Line>,
    results: Vec<Line>,
    artifacts: Vec<ArtifactRef>,
    /// Its last release's sites have this long anew.
    deadline_seconds: Option<u32>,
    resumes: u32,
    finished: bool,
    again: Vec<Step>,
}

impl Kept {
    /// Everything up to the last step whose open tasks need nothing that is lost.
    fn of(archive: &Archive, job: &str) -> Result<Self, Error> {
        if !archive.has(job) {
            return Err(Error::NoSuchJob { job: job.to_owned() });
        }
        let file = archive.messages(job);
        let lines = messages::read(&file)?;
        let (mut verdict, mut events, mut results) = (None, Vec::new(), Vec::new());
        for line in lines {
            if let Some(key) = subjects::key_of(&line.subject) {
                let result: Option<TaskResult> = schemas::parse(line.payload.as_bytes()).ok();
                results.push((key, result, line));
                continue;
            }
            match schemas::parse::<Event>(line.payload.as_bytes())? {
                Event::Accepted(accepted) => {
                    verdict.get_or_insert((*accepted, line));
                }
                Event::Rejected(_) => {}
                event => events.push((event, line)),
            }
        }
        let (accepted, verdict) = verdict.ok_or_else(|| Error::NoSuchJob { job: job.to_owned() })?;

        let mut record = Record::default();
        record.event(Event::Accepted(Box::new(accepted.clone())));
        events.iter().for_each(|(event, _)| record.event(event.clone()));
        for (_, result, _) in &results {
            result.iter().for_each(|result| record.result(result.clone()));
        }
        let mut finished = match &record.end {
            Some(Event::Finished(finished)) => made(finished).iter().all(|artifact| archive.holds(artifact)),
            _ => false,
        };
        let mut again = Vec::new();
        let mut dropped: Vec<TaskKey> = Vec::new();
        let mut releases = record.releases.len();
        if !finished {
            while releases > 0 && !stands(archive, &record, releases - 1, &mut dropped) {
                releases -= 1;
            }
            again = record.releases[releases..].iter().map(Step::of).collect();
            if let Some(last) = record.releases[..releases].last()
                && dropped.iter().any(|key| Step::of(last) == step_of(key))
            {
                again.insert(0, Step::of(last));
            }
        }
        let steps: Vec<Step> = record.releases[..releases].iter().map(Step::of).collect();
        let resumes = record.resumes();
        finished &= matches!(record.end, Some(Event::Finished(_)));
        events.retain(|(event, _)| match event {
            Event::Released(release) => steps.contains(&Step::of(release)),
            Event::Finished(_) => finished,
            _ => true,
        });
        results.retain(|(key, result, _)| {
            result.is_some() && steps.contains(&step_of(key)) && !dropped.contains(key)
        });
        let deadline_seconds = accepted.message.federation.round_deadline_seconds;
        let mut kept = Self {
            deadline_seconds: deadline_seconds.filter(|_| {
                record.releases[..releases]
                    .last()
                    .is_some_and(|release| !release.phase.at_orchestrator())
            }),
            accepted,
            verdict,
            events: events.into_iter().map(|(_, line)| line).collect(),
            results: results.into_iter().map(|(_, _, line)| line).collect(),
            artifacts: Vec::new(),
            resumes,
            finished,
            again,
        };
        kept.artifacts = kept.held(archive, job);
        Ok(kept)
    }

    /// All artifacts that the job's messages name and the archive holds.
    fn held(&self, archive: &Archive, job: &str) -> Vec<ArtifactRef> {
        let mut held: Vec<ArtifactRef> = Vec::new();
        for line in self.lines() {
            let message = serde_json::from_str(&line.payload).unwrap_or_default();
            for artifact in named_in(&message) {
                if artifact.job == job && archive.holds(&artifact) && !held.contains(&artifact) {
                    held.push(artifact);
                }
            }
        }
        held
    }

    fn lines(&self) -> impl Iterator<Item = &Line> {
        [&self.verdict]
            .into_iter()
            .chain(&self.events)
            .chain(&self.results)
    }

    fn resumed(&self) -> Resumed {
        Resumed {
            job: self.accepted.job.clone(),
            number: self.resumes + 1,
            retry: Vec::new(),
            deadline: self.deadline_seconds.map(clock::after),
            time: clock::now(),
        }
    }
}

/// Whether a job can go on from one of its releases, once those done results are dropped whose artifacts are lost.
fn stands(archive: &Archive, record: &Record, place: usize, dropped: &mut Vec<TaskKey>) -> bool {
    let release = &record.releases[place];
    let mut open = Vec::new();
    for work in &release.work {
        for shard in 0..work.shards {
            match record.shard(release, &work.site, shard) {
                ShardState::Done(output) => {
                    if output_artifacts(output)
                        .iter()
                        .all(|artifact| archive.holds(artifact))
                    {
                        continue;
                    }
                    let lost = record.results.iter().filter(|(key, result)| {
                        **key == result.key
                            && step_of(key) == Step::of(release)
                            && key.site == work.site
                            && key.shard == shard
                            && matches!(result.outcome, schemas::task::Outcome::Done { .. })
                    });
                    dropped.extend(lost.map(|(key, _)| key.clone()));
                    open.push(work);
                }
                // What failed for good may be asked for again.
                ShardState::Open(_) | ShardState::Ended(_) => open.push(work),
            }
        }
    }
    open.iter().all(|work| {
        let input = serde_json::to_value(&work.input).unwrap_or_default();
        named_in(&input).iter().all(|artifact| archive.holds(artifact))
    })
}

fn step_of(key: &TaskKey) -> Step {
    Step {
        phase: key.phase,
        round: key.round,
        pass: key.pass,
    }
}

/// What a finished job gives to download.
fn made(finished: &Finished) -> Vec<ArtifactRef> {
    let zips = finished.segmentations.iter().map(|zip| zip.archive.clone());
    finished.results.iter().cloned().chain(zips).collect()
}

/// What a job starts from that other jobs made.
fn names(accepted: &Accepted) -> Vec<ArtifactRef> {
    named_in(&serde_json::to_value(accepted).unwrap_or_default())
}

fn output_artifacts(output: &TaskOutput) -> Vec<ArtifactRef> {
    named_in(&serde_json::to_value(output).unwrap_or_default())
}

/// Every reference to an artifact in a message.
fn named_in(message: &serde_json::Value) -> Vec<ArtifactRef> {
    let inner = match message {
        serde_json::Value::Object(fields) => {
            if let Ok(artifact) = serde_json::from_value(message.clone()) {
                return vec![artifact];
            }
            fields.values().collect()
        }
        serde_json::Value::Array(items) => items.iter().collect(),
        _ => Vec::new(),
    };
    inner.into_iter().flat_map(named_in).collect()
}
