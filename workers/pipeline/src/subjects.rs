//! Every subject. Each builder shows its pattern; every token was checked by [`schemas::names`].

use schemas::{
    event::{Cancelled, DeadlinePassed, Event, Failed},
    names::{self, Phase},
    task::{ArtifactRef, TaskKey},
};

use crate::conductor::Step;

/// Where jobs are submitted: `rounds.submit`.
pub const SUBMIT: &str = "rounds.submit";

/// Everything of every job: `rounds.job.>`.
pub const ALL_JOBS: &str = "rounds.job.>";

/// Whether a submitted message is a job: `rounds.job.<job>.verdict.<stream sequence of the submit>`.
pub fn verdict(job: &str, submit: u64) -> String {
    format!("rounds.job.{job}.verdict.{submit}")
}

/// The verdict on a submit, whatever its job's id: `rounds.job.*.verdict.<stream sequence of the submit>`.
pub fn verdict_of(submit: u64) -> String {
    format!("rounds.job.*.verdict.{submit}")
}

/// The verdicts on all submits: `rounds.job.*.verdict.*`.
pub const ALL_VERDICTS: &str = "rounds.job.*.verdict.*";

/// One pass of one phase is let go: `rounds.job.<job>.release.<phase>.<round>.<pass>`.
pub fn release(job: &str, phase: Phase, round: u32, pass: u32) -> String {
    format!("rounds.job.{job}.release.{phase}.{round}.{pass}")
}

/// The job has failed, was cancelled or is finished, once each time it was resumed:
/// `rounds.job.<job>.end.<resumes>`.
pub fn end(job: &str, resumes: u32) -> String {
    format!("rounds.job.{job}.end.{resumes}")
}

/// The ends of all jobs: `rounds.job.*.end.*`.
pub const ALL_ENDS: &str = "rounds.job.*.end.*";

/// The job was resumed: `rounds.job.<job>.resume.<number>`.
pub fn resume(job: &str, number: u32) -> String {
    format!("rounds.job.{job}.resume.{number}")
}

/// What resumed all jobs: `rounds.job.*.resume.*`.
pub const ALL_RESUMES: &str = "rounds.job.*.resume.*";

/// A deadline has passed: `rounds.job.<job>.deadline.<phase>.<round>.<pass>`.
pub fn deadline(passed: &DeadlinePassed) -> String {
    let DeadlinePassed {
        job,
        phase,
        round,
        pass,
        ..
    } = passed;
    format!("rounds.job.{job}.deadline.{phase}.{round}.{pass}")
}

/// Where the server holds back the word of a deadline until it passes:
/// `rounds.timer.<job>.<phase>.<round>.<pass>.<resumes>`.
pub fn timer(passed: &DeadlinePassed, resumes: u32) -> String {
    let DeadlinePassed {
        job,
        phase,
        round,
        pass,
        ..
    } = passed;
    format!("rounds.timer.{job}.{phase}.{round}.{pass}.{resumes}")
}

/// All timers: `rounds.timer.>`.
pub const ALL_TIMERS: &str = "rounds.timer.>";

/// The number behind a job's end or resumption, by its subject.
pub fn number_of(subject: &str) -> Option<u32> {
    subject.rsplit('.').next()?.parse().ok()
}

/// Where an event of a job is published.
pub fn event(event: &Event) -> String {
    match event {
        Event::Accepted(accepted) => verdict(&accepted.job, accepted.submit),
        Event::Rejected(rejected) => verdict(&rejected.job, rejected.submit),
        Event::Released(of) => release(&of.job, of.phase, of.round, of.pass),
        Event::DeadlinePassed(passed) => deadline(passed),
        Event::Failed(Failed { job, resumes, .. }) | Event::Cancelled(Cancelled { job, resumes, .. }) => {
            end(job, *resumes)
        }
        Event::Finished(finished) => end(&finished.job, finished.resumes),
        Event::Resumed(resumed) => resume(&resumed.job, resumed.number),
    }
}

/// All events of a job: `rounds.job.<job>.>`.
pub fn job(job: &str) -> String {
    format!("rounds.job.{job}.>")
}

/// The job's id in one of its events' subjects.
pub fn job_of(subject: &str) -> Option<&str> {
    subject.strip_prefix("rounds.job.")?.split('.').next()
}

/// The job and the step that a release's subject names.
pub(crate) fn step_of(subject: &str) -> Option<(&str, Step)> {
    let tokens: Vec<&str> = subject.strip_prefix("rounds.job.")?.split('.').collect();
    let [job, "release", phase, round, pass] = tokens[..] else {
        return None;
    };
    let step = Step {
        phase: phase.parse().ok()?,
        round: round.parse().ok()?,
        pass: pass.parse().ok()?,
    };
    Some((job, step))
}

/// The job whose end a subject names.
pub(crate) fn ended_of(subject: &str) -> Option<&str> {
    let (job, rest) = subject.strip_prefix("rounds.job.")?.split_once('.')?;
    rest.starts_with("end.").then_some(job)
}

/// The stream sequence of the submit that a verdict's subject names.
pub fn submit_of(subject: &str) -> Option<u64> {
    let mut tokens = subject.strip_prefix("rounds.job.")?.split('.').skip(1);
    (tokens.next()? == "verdict").then(|| tokens.next()?.parse().ok())?
}

/// One message of work: `rounds.task.<site>.<phase>.<job>.<round>.<pass>.<shard>.<attempt>`.
pub fn task(key: &TaskKey) -> String {
    format!("rounds.task.{}", tail(key))
}

/// All work of a phase at a site: `rounds.task.<site>.<phase>.>`.
pub fn tasks(site: &str, phase: Phase) -> String {
    format!("rounds.task.{site}.{phase}.>")
}

/// A task's answer: `rounds.result.<site>.<phase>.<job>.<round>.<pass>.<shard>.<attempt>`.
pub fn result(key: &TaskKey) -> String {
    format!("rounds.result.{}", tail(key))
}

/// All answers of a job: `rounds.result.*.*.<job>.>`.
pub fn results(job: &str) -> String {
    format!("rounds.result.*.*.{job}.>")
}

/// The piece of work that a task's or a result's subject names.
pub fn key_of(subject: &str) -> Option<TaskKey> {
    let tail = subject
        .strip_prefix("rounds.task.")
        .or_else(|| subject.strip_prefix("rounds.result."))?;
    let tokens: Vec<&str> = tail.split('.').collect();
    let [site, phase, job, round, pass, shard, attempt] = tokens[..] else {
        return None;
    };
    Some(TaskKey {
        site: site.to_owned(),
        phase: phase.parse().ok()?,
        job: job.to_owned(),
        round: round.parse().ok()?,
        pass: pass.parse().ok()?,
        shard: shard.parse().ok()?,
        attempt: attempt.parse().ok()?,
    })
}

/// The tail that a task's and its result's subject share.
pub fn tail(key: &TaskKey) -> String {
    let TaskKey {
        site,
        phase,
        job,
        round,
        pass,
        shard,
        attempt,
    } = key;
    format!("{site}.{phase}.{job}.{round}.{pass}.{shard}.{attempt}")
}

/// One chunk of an artifact: `rounds.artifact.<owner>.<job>.<digest>.<chunk>`.
pub fn chunk(artifact: &ArtifactRef, chunk: u64) -> String {
    let ArtifactRef {
        owner, job, digest, ..
    } = artifact;
    format!("rounds.artifact.{owner}.{job}.{digest}.{chunk}")
}

/// All chunks of an artifact: `rounds.artifact.<owner>.<job>.<digest>.>`.
pub fn chunks(owner: &str, job: &str, digest: &str) -> String {
    format!("rounds.artifact.{owner}.{job}.{digest}.>")
}

/// All artifacts of an owner in a job: `rounds.artifact.<owner>.<job>.>`.
pub fn artifacts(owner: &str, job: &str) -> String {
    format!("rounds.artifact.{owner}.{job}.>")
}

/// What a site tells of itself: `rounds.site.<site>.announce`.
pub fn announce(site: &str) -> String {
    format!("rounds.site.{site}.announce")
}

/// What every site tells of itself: `rounds.site.*.announce`.
pub const ALL_ANNOUNCES: &str = "rounds.site.*.announce";

/// Which folder a site's workers share: `rounds.site.<site>.folder`.
pub fn folder(site: &str) -> String {
    format!("rounds.site.{site}.folder")
}

/// Which folders the workers of all sites share: `rounds.site.*.folder`.
pub const ALL_FOLDERS: &str = "rounds.site.*.folder";

/// Which jobs of a site there are, asked on core NATS by a site that may not read the jobs' stream:
/// `rounds.ask.<site>.jobs`.
pub fn ask_jobs(site: &str) -> String {
    format!("rounds.ask.{site}.jobs")
}

/// The same, of all sites.
pub const ALL_ASKS: &str = "rounds.ask.*.jobs";

/// The site that asks.
pub(crate) fn asking(subject: &str) -> Option<&str> {
    subject.strip_prefix("rounds.ask.")?.strip_suffix(".jobs")
}

/// How far a task is, on core NATS: `rounds.progress.<site>.<job>`.
pub fn progress(site: &str, job: &str) -> String {
    format!("rounds.progress.{site}.{job}")
}

/// How far a job's tasks are: `rounds.progress.*.<job>`.
pub fn progress_of(job: &str) -> String {
    format!("rounds.progress.*.{job}")
}

/// How far all tasks are.
pub const ALL_PROGRESS: &str = "rounds.progress.*.*";

/// What a process of a site says every few seconds, on core NATS: `rounds.heartbeat.<site>`.
pub fn heartbeat(site: &str) -> String {
    format!("rounds.heartbeat.{site}")
}

/// What all processes say every few seconds.
pub const ALL_HEARTBEATS: &str = "rounds.heartbeat.*";

/// The durable consumer of a site's phase on ROUNDS_TASKS: `<site>_<phase>`. Phases hold no underscore.
pub fn durable(site: &str, phase: Phase) -> String {
    format!("{site}_{phase}")
}

/// The site and phase of a durable consumer.
pub fn durable_of(name: &str) -> Option<(&str, Phase)> {
    let (site, phase) = name.rsplit_once('_')?;
    Some((site, phase.parse().ok()?))
}

/// Checks an artifact's tokens before they are put into a subject.
pub fn check_artifact(path: &str, artifact: &ArtifactRef) -> Result<(), schemas::Invalid> {
    names::check_token(&format!("{path}.owner"), &artifact.owner)?;
    names::check_token(&format!("{path}.job"), &artifact.job)?;
    names::check_digest(&format!("{path}.digest"), &artifact.digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_subjects() {
        let key = TaskKey {
            site: "a_b-1".into(),
            phase: Phase::TrainRound,
            job: "job-7".into(),
            round: 3,
            pass: 1,
            shard: 12,
            attempt: 2,
        };
        assert_eq!(task(&key), "rounds.task.a_b-1.train-round.job-7.3.1.12.2");
        assert_eq!(key_of(&task(&key)), Some(key.clone()));
        assert_eq!(key_of(&result(&key)), Some(key));
        assert_eq!(key_of("rounds.task.a.train-round.job.1.1.1"), None);
        assert_eq!(key_of("rounds.task.a.training.job.1.1.1.1"), None);
    }

    #[test]
    fn names_are_read_back() {
        let durable = durable("site_1", Phase::PlanVerify);
        assert_eq!(durable, "site_1_plan-verify");
        assert_eq!(durable_of(&durable), Some(("site_1", Phase::PlanVerify)));
        assert_eq!(submit_of(&verdict("j", 12)), Some(12));
        assert_eq!(submit_of(&end("j", 0)), None);
        let released = release("j", Phase::Infer, 0, 1);
        assert_eq!(job_of(&released), Some("j"));
        assert_eq!(step_of(&released), Some(("j", Step::once(Phase::Infer, 1))));
        assert_eq!((step_of(&end("j", 0)), ended_of(&end("j", 0))), (None, Some("j")));
    }
}
