//! The barrier behind a released pass: whether the job goes on, and without whom.
//!
//! Every phase but train-round and infer needs all of its sites. Those two need `federation.min_sites`: a site
//! that failed for good is gone on without, and after the deadline one that is late too.

use schemas::{
    event::{Failed, Release, SiteWork},
    names::Phase,
    task::{Failure, Outcome, TaskResult},
};

use super::{
    checks,
    next::MAX_ATTEMPTS,
    record::{Record, ShardState},
};

/// Where the last released pass stands.
pub(super) enum Barrier {
    /// Sites are at work that the job needs, or still waits for.
    Open,
    /// The job goes on, without these sites.
    Complete(Vec<String>),
    /// Too many sites failed for good: this is the first failure, in site and shard order.
    Failed(Failed),
}

/// What a pass waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Sites that are not done, in order.
    pub silent: Vec<String>,
    /// How many sites are done.
    pub done: usize,
    /// How many must be.
    pub needed: usize,
}

enum Site {
    Done,
    AtWork,
    Failed(Failure),
}

/// The barrier behind the last release.
pub(super) fn of(record: &Record, release: &Release) -> Barrier {
    let (mut done, mut at_work) = (0, 0);
    let (mut without, mut failed) = (Vec::new(), None);
    for work in &release.work {
        match site(record, release, work) {
            Site::Done => {
                done += 1;
                continue;
            }
            Site::AtWork => at_work += 1,
            Site::Failed(failure) => {
                failed.get_or_insert_with(|| Failed {
                    job: release.job.clone(),
                    site: work.site.clone(),
                    phase: release.phase,
                    round: release.round,
                    failure,
                    resumes: record.resumes(),
                });
            }
        }
        without.push(work.site.clone());
    }
    let needed = needed(record, release);
    match failed {
        Some(failed) if done + at_work < needed => Barrier::Failed(failed),
        _ if done >= needed && (at_work == 0 || record.overdue()) => Barrier::Complete(without),
        _ => Barrier::Open,
    }
}

/// What the last release waits for.
pub(super) fn waiting(record: &Record, release: &Release) -> Waiting {
    let silent = release
        .work
        .iter()
        .filter(|work| !matches!(site(record, release, work), Site::Done));
    let silent: Vec<String> = silent.map(|work| work.site.clone()).collect();
    Waiting {
        done: release.work.len() - silent.len(),
        needed: needed(record, release),
        silent,
    }
}

fn needed(record: &Record, release: &Release) -> usize {
    let all = release.work.len();
    let least = record
        .accepted
        .as_ref()
        .and_then(|accepted| accepted.message.federation.min_sites);
    match (release.phase, least) {
        (Phase::TrainRound | Phase::Infer, Some(least)) => all.min(least as usize),
        _ => all,
    }
}

/// A site is done with all its shards, and has failed with the first that failed for good.
fn site(record: &Record, release: &Release, work: &SiteWork) -> Site {
    let mut site = Site::Done;
    for shard in 0..work.shards {
        match record.shard(release, &work.site, shard) {
            ShardState::Open(_) => site = Site::AtWork,
            ShardState::Done(output) => {
                if let Err(failure) = checks::output(record, release, work, output) {
                    return Site::Failed(failure);
                }
            }
            ShardState::Ended(result) => return Site::Failed(final_failure(result)),
        }
    }
    site
}

fn final_failure(result: &TaskResult) -> Failure {
    match &result.outcome {
        Outcome::Failed { failure } if failure.retryable => Failure {
            message: format!("{} (attempt {MAX_ATTEMPTS} of {MAX_ATTEMPTS})", failure.message),
            ..failure.clone()
        },
        Outcome::Failed { failure } => failure.clone(),
        Outcome::Closed { reason, .. } => Failure::fatal("closed", reason),
        Outcome::Done { .. } => Failure::fatal("bad-output", "a done task counted as failed"),
    }
}
