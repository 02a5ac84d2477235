//! What a user does with jobs that do not go on by themselves.

use schemas::{
    event::{Event, Resumed},
    names::check_token,
    task::{Failure, Outcome, TaskKey},
};

use super::{Client, Snapshot, State};
use crate::{
    Error, clock,
    conductor::{Record, ShardState, Step},
    publish::{self, Created},
    subjects,
};

/// A task that failed for good.
#[derive(Clone, Debug, PartialEq)]
pub struct Dead {
    /// Its last attempt.
    pub key: TaskKey,
    /// Why it failed.
    pub failure: Failure,
    /// Whether another attempt would count: its job has not gone on without it.
    pub counts: bool,
}

/// What became of the wish that a job goes on.
#[derive(Clone, Debug, PartialEq)]
pub enum Resumption {
    /// It goes on, with so many tasks tried again that had failed for good.
    GoesOn(usize),
    /// There is nothing to resume: it is at work, or waits for these sites and goes on when they answer.
    Waits(Vec<String>),
}

/// The tasks of a job that failed for good, in the order of its record.
pub fn dead(record: &Record) -> Vec<Dead> {
    let mut dead = Vec::new();
    for release in &record.releases {
        let last = record
            .releases
            .last()
            .is_some_and(|last| Step::of(last) == Step::of(release));
        for work in &release.work {
            for shard in 0..work.shards {
                if let ShardState::Ended(result) = record.shard(release, &work.site, shard)
                    && let Outcome::Failed { failure } = &result.outcome
                {
                    dead.push(Dead {
                        key: result.key.clone(),
                        failure: failure.clone(),
                        counts: last && !matches!(record.end, Some(Event::Finished(_))),
                    });
                }
            }
        }
    }
    dead
}

impl Client {
    /// Lets a job go on that failed or was cancelled, and has its dead tasks tried again, those of `sites` or (none
    /// given) all. A job that has not ended only has them tried again. The pass that the job is at gets a new
    /// deadline.
    ///
    /// # Errors
    /// There is no such job, it was rejected, or it is finished; none of the sites has a dead task that counts.
    pub async fn resume(&self, job: &str, sites: &[String]) -> Result<Resumption, Error> {
        for site in sites {
            check_token("site", site)?;
        }
        loop {
            let snapshot = self.snapshot(job).await?;
            let Some(resumed) = resumption(&snapshot, sites)? else {
                let waiting = snapshot.record.waiting();
                return Ok(Resumption::Waits(
                    waiting.map_or_else(Vec::new, |waiting| waiting.silent),
                ));
            };
            let retried = resumed.retry.len();
            let event = Event::Resumed(resumed);
            let (subject, event) = (subjects::event(&event), publish::encode(&event));
            // Somebody else was faster: what is left to resume is looked at anew.
            if publish::create(&self.connection, &subject, event).await? == Created::New {
                return Ok(Resumption::GoesOn(retried));
            }
        }
    }
}

/// What to publish; none where nothing is dead and the job has not ended.
fn resumption(snapshot: &Snapshot, sites: &[String]) -> Result<Option<Resumed>, Error> {
    let Snapshot {
        job, state, record, ..
    } = snapshot;
    let (State::Running | State::Paused | State::Failed | State::Cancelled, Some(accepted)) =
        (state, &record.accepted)
    else {
        return Err(Error::Ended {
            job: job.clone(),
            how: state.as_str().to_owned(),
        });
    };
    let retry: Vec<TaskKey> = dead(record)
        .into_iter()
        .filter(|dead| dead.counts && (sites.is_empty() || sites.contains(&dead.key.site)))
        .map(|dead| dead.key)
        .collect();
    if let Some(site) = sites
        .iter()
        .find(|site| !retry.iter().any(|key| key.site == **site))
    {
        let reason = format!("no task of {site} in job {job} failed for good and would still count");
        return Err(schemas::Invalid::new("site", reason).into());
    }
    if retry.is_empty() && !state.is_end() {
        return Ok(None);
    }
    let seconds = accepted.message.federation.round_deadline_seconds;
    let at_sites = record
        .releases
        .last()
        .is_some_and(|release| !release.phase.at_orchestrator());
    Ok(Some(Resumed {
        job: job.clone(),
        number: record.resumes() + 1,
        retry,
        deadline: seconds.filter(|_| at_sites).map(clock::after),
        time: clock::now(),
    }))
}
