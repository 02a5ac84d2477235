//! The pure function at the heart: what follows from a job's record.

use schemas::{
    event::{Accepted, Cancelled, Event, Failed, Member, Release, SiteWork},
    job::{Payload, TrainingPayload},
    names::{ORCHESTRATOR, Phase},
    task::{Failure, Outcome, Pooled, Task, TaskInput, TaskKey, TaskOutput, TaskResult},
};

use super::{
    aggregate, average,
    barrier::{self, Barrier},
    deadline::{self, Timer},
    infer, inventory, masking, plan_verify, preprocess,
    purge::{self, Purge},
    record::{Record, ShardState, Step, key, task},
    results, scan, select, train, validate,
};

/// Tasks that a job may have open at a site, so that jobs share sites fairly.
pub const WINDOW: usize = 8;
/// Attempts at a shard before it has failed for good, unless somebody asks for more.
pub const MAX_ATTEMPTS: u32 = 3;

/// What is to be done. Doing it twice, or by several conductors, changes nothing.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Publish a release or an end, create-only.
    Publish(Event),
    /// Publish a message of work, create-only.
    Task(Task),
    /// Let the server say when a deadline passes, create-only.
    Timer(Timer),
    /// Close a task: publish this on its result subject, create-only.
    Close(TaskResult),
    /// Delete artifacts that nothing needs any more.
    Purge(Purge),
}

/// A job at one of its releases, as the transitions see it.
pub(super) struct Job<'a> {
    /// All that is known.
    pub record: &'a Record,
    /// How it was accepted.
    pub accepted: &'a Accepted,
    /// The step it is at.
    pub step: Step,
}

/// Outputs of a step, in site and shard order.
pub(super) type Outputs = [(String, Vec<TaskOutput>)];

/// What follows from a job's record. Pure, and the same for every order of the results.
pub fn next(record: &Record) -> Vec<Action> {
    let Some(accepted) = &record.accepted else {
        return Vec::new();
    };
    if let Some(end) = &record.end {
        return after_end(record, end);
    }
    let Some(release) = record.releases.last() else {
        return vec![Action::Publish(first(record, accepted))];
    };
    let job = Job {
        record,
        accepted,
        step: Step::of(release),
    };
    let mut actions: Vec<Action> = left_out(record)
        .map(|(key, step)| {
            let reason = format!("late: the job went on from {step} without this site");
            close(record, key, reason)
        })
        .collect();
    match barrier::of(record, release) {
        Barrier::Failed(failed) => actions.push(Action::Publish(Event::Failed(failed))),
        Barrier::Complete(_) => {
            let outputs = record.outputs(release).unwrap_or_default();
            let event = after(&job, &outputs).unwrap_or_else(|failure| {
                Event::Failed(Failed {
                    job: accepted.job.clone(),
                    site: ORCHESTRATOR.to_owned(),
                    phase: release.phase,
                    round: release.round,
                    failure,
                    resumes: record.resumes(),
                })
            });
            actions.push(Action::Publish(event));
        }
        Barrier::Open => {
            actions.extend(deadline::timer(record));
            actions.extend(tasks(record, accepted, release));
            actions.extend(purge::while_running(&job).into_iter().map(Action::Purge));
        }
    }
    actions
}

/// True when a job has ended and none of its tasks is open: nothing can happen to it unless somebody resumes it.
pub(super) fn is_settled(record: &Record) -> bool {
    record.accepted.is_some()
        && record.end.is_some()
        && open(record).is_empty()
        && left_out(record).next().is_none()
}

fn first(record: &Record, accepted: &Accepted) -> Event {
    let job = Job {
        record,
        accepted,
        step: Step::once(Phase::Fingerprint, 0),
    };
    match (&accepted.message.payload, &accepted.continues) {
        (Payload::Inference(_), _) => infer::first(&job),
        (Payload::Training(_), None) => inventory::first(&job),
        (Payload::Training(_), Some(earlier)) => plan_verify::release(&job, earlier.pooled.clone()),
    }
}

/// What follows a step whose tasks are all done.
fn after(job: &Job<'_>, outputs: &Outputs) -> Result<Event, Failure> {
    match (job.step.phase, job.step.pass) {
        (Phase::Fingerprint, 0) => inventory::after(job, outputs),
        (Phase::Fingerprint, 1) => scan::after(job, outputs),
        (Phase::Fingerprint, 2) => select::after(job, outputs),
        (Phase::Fingerprint, masking::FINGERPRINT_KEYS) => aggregate::after_keys(job),
        (Phase::Aggregate, _) => aggregate::after(job, outputs),
        (Phase::PlanVerify, 0) => plan_verify::after(job, outputs),
        (Phase::Preprocess, 0) => preprocess::after(job),
        (Phase::TrainRound, 0) => train::after(job, outputs),
        (Phase::TrainRound, 1) if job.accepted.message.federation.evaluate => validate::release(job),
        (Phase::TrainRound, 1) => results::release(job, Vec::new()),
        (Phase::TrainRound, masking::KEYS) => masking::after_keys(job, outputs),
        (Phase::TrainRound, masking::SHARES) => masking::after_shares(job, outputs),
        (Phase::TrainRound, masking::UNMASK) => masking::after_unmasking(job, outputs),
        (Phase::Average, 0) => average::after(job, outputs),
        (Phase::Average, 1) => results::after(job, outputs),
        (Phase::Infer, validate::PASS) => validate::after(job, outputs),
        (Phase::Infer, _) => infer::after(job, outputs),
        _ => Err(job.unknown_step()),
    }
}

/// The tasks that may be open now: of each site the first shards that are not done.
fn tasks(record: &Record, accepted: &Accepted, release: &Release) -> Vec<Action> {
    let mut tasks = Vec::new();
    for work in &release.work {
        let open = (0..work.shards).filter_map(|shard| match record.shard(release, &work.site, shard) {
            ShardState::Open(attempt) => Some((shard, attempt)),
            _ => None,
        });
        let window = open.take(WINDOW);
        tasks.extend(
            window.map(|(shard, attempt)| Action::Task(task(accepted, release, work, shard, attempt))),
        );
    }
    tasks
}

/// Closes every task that any conductor may have published, then cleans up.
fn after_end(record: &Record, end: &Event) -> Vec<Action> {
    let reason = match end {
        Event::Cancelled(Cancelled { reason, .. }) => format!("the job was cancelled: {reason}"),
        Event::Failed(failed) => format!("the job failed: {}", failed.failure.code),
        _ => "the job is finished".to_owned(),
    };
    if is_settled(record) {
        return purge::after_end(record).into_iter().map(Action::Purge).collect();
    }
    let late = left_out(record).map(|(key, _)| key);
    let open = late.chain(open(record));
    open.map(|key| close(record, key, reason.clone())).collect()
}

fn close(record: &Record, key: TaskKey, reason: String) -> Action {
    Action::Close(TaskResult {
        key,
        outcome: Outcome::Closed {
            reason,
            resumes: record.resumes(),
        },
        made: None,
        signature: None,
    })
}

/// The open tasks of sites that a step was gone on from without, and that step.
fn left_out(record: &Record) -> impl Iterator<Item = (TaskKey, Step)> {
    record.releases.windows(2).flat_map(move |pair| {
        let (release, next) = (&pair[0], &pair[1]);
        let late = release
            .work
            .iter()
            .filter(|work| next.without.contains(&work.site));
        late.flat_map(move |work| open_at(record, release, work))
            .map(|key| (key, Step::of(release)))
    })
}

/// The shards of the last release without a final result, each at the attempt that comes next.
fn open(record: &Record) -> Vec<TaskKey> {
    let Some(release) = record.releases.last() else {
        return Vec::new();
    };
    let work = release.work.iter();
    work.flat_map(|work| open_at(record, release, work)).collect()
}

fn open_at<'a>(
    record: &'a Record,
    release: &'a Release,
    work: &'a SiteWork,
) -> impl Iterator<Item = TaskKey> + 'a {
    (0..work.shards).filter_map(move |shard| match record.shard(release, &work.site, shard) {
        ShardState::Open(attempt) => Some(key(release, &work.site, shard, attempt)),
        _ => None,
    })
}

impl Job<'_> {
    /// A release of work at every member.
    pub fn at_sites(&self, step: Step, work: impl Fn(&Member) -> (u32, TaskInput)) -> Event {
        self.at_some(step, |member| Some(work(member)))
    }

    /// A release of work at those members for whom there is some.
    pub fn at_some(&self, step: Step, work: impl Fn(&Member) -> Option<(u32, TaskInput)>) -> Event {
        let site_work = |member: &Member| {
            let (shards, input) = work(member)?;
            Some(SiteWork {
                site: member.site.clone(),
                shards,
                input,
            })
        };
        self.released(step, self.accepted.members.iter().filter_map(site_work).collect())
    }

    /// A release of one task at the orchestrator.
    pub fn at_orchestrator(&self, step: Step, input: TaskInput) -> Event {
        let work = SiteWork {
            site: ORCHESTRATOR.to_owned(),
            shards: 1,
            input,
        };
        self.released(step, vec![work])
    }

    fn released(&self, step: Step, work: Vec<SiteWork>) -> Event {
        Event::Released(Release {
            job: self.accepted.job.clone(),
            phase: step.phase,
            round: step.round,
            pass: step.pass,
            work,
            without: self
                .record
                .releases
                .last()
                .and_then(|before| self.record.without(before))
                .unwrap_or_default(),
            // Whoever publishes it looks at the clock.
            deadline: None,
        })
    }

    /// Into how many shards a member's cases are cut.
    pub fn shards(&self, cases: u32) -> u32 {
        cases
            .div_ceil(self.accepted.message.federation.shard_cases.max(1))
            .max(1)
    }

    /// The training payload.
    pub fn training(&self) -> Result<&TrainingPayload, Failure> {
        match &self.accepted.message.payload {
            Payload::Training(training) => Ok(training),
            Payload::Inference(_) => Err(self.unknown_step()),
        }
    }

    /// The pooled documents, as plan-verify got them.
    pub fn pooled(&self) -> Result<Pooled, Failure> {
        let release = self.record.release(Step::once(Phase::PlanVerify, 0));
        match release.and_then(|release| release.work.first()) {
            Some(SiteWork {
                input: TaskInput::PlanVerify { pooled },
                ..
            }) => Ok(pooled.clone()),
            _ => Err(self.unknown_step()),
        }
    }

    /// The one output of a step with one task.
    pub fn single<'o>(&self, outputs: &'o Outputs) -> Result<&'o TaskOutput, Failure> {
        match outputs {
            [(_, outputs)] if outputs.len() == 1 => Ok(&outputs[0]),
            _ => Err(self.unknown_step()),
        }
    }

    /// The record holds a step that this program does not know, or not in this place.
    pub fn unknown_step(&self) -> Failure {
        Failure::fatal(
            "unknown-step",
            format!("this program does not know how a job goes on after {}", self.step),
        )
    }
}
