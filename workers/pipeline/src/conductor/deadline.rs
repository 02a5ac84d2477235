//! Deadlines. The server itself says when a pass has taken as long as it may: a message that it holds back until
//! then. It may say so twice, and late; the record takes it as a fact of a set.

use schemas::event::DeadlinePassed;

use super::{
    next::Action,
    record::{Record, Step},
};

/// A message that the server publishes at a time.
#[derive(Clone, Debug, PartialEq)]
pub struct Timer {
    /// What it says, and when.
    pub passed: DeadlinePassed,
    /// How often the job was resumed before: a resumed job has another deadline.
    pub resumes: u32,
}

/// The timer of the last release, where it has a deadline that has not passed.
pub(super) fn timer(record: &Record) -> Option<Action> {
    let release = record.releases.last().filter(|_| !record.overdue())?;
    let Step { phase, round, pass } = Step::of(release);
    Some(Action::Timer(Timer {
        passed: DeadlinePassed {
            job: release.job.clone(),
            phase,
            round,
            pass,
            deadline: record.deadline.clone()?,
        },
        resumes: record.resumes(),
    }))
}
