//! When things happened to a job, by the server's clock. Messages carry no times that decisions could depend on; the
//! streams do.

use std::collections::{BTreeMap, HashMap, HashSet};

use schemas::{names::Phase, task::TaskKey};

use super::super::record::{Record, Step};
use crate::{subjects, tail::Tailed};

/// When things happened to all jobs that something can still happen to.
#[derive(Default)]
pub struct Seen {
    jobs: HashMap<String, Times>,
}

/// When things happened to one job, in seconds since 1970, and what of it was counted.
#[derive(Default)]
pub(super) struct Times {
    /// When steps were released.
    pub released: BTreeMap<Step, f64>,
    /// When sites gave their last answer to a step.
    pub answered: BTreeMap<(Step, String), f64>,
    /// The last end.
    pub ended: Option<f64>,
    /// Results that stood before this process began: they are not counted again.
    pub old: HashSet<TaskKey>,
    /// Results that were counted.
    pub counted: HashSet<TaskKey>,
    /// Durations that were observed: a round, or a stage of it.
    pub observed: HashSet<(Step, &'static str)>,
    /// How many releases, from the first, have been reported and change no more.
    pub settled: usize,
    /// Averages that are done among them.
    pub averaged: usize,
}

impl Seen {
    /// Takes a message of ROUNDS_JOBS or ROUNDS_RESULTS, each once and in order. `old`: it stood there before this
    /// process began. Nothing can happen any more to `settled` jobs.
    pub fn message(&mut self, message: &Tailed, old: bool, settled: &HashSet<String>) {
        let key = subjects::key_of(&message.subject);
        let job = key
            .as_ref()
            .map(|key| &*key.job)
            .or_else(|| subjects::job_of(&message.subject));
        if job.is_none_or(|job| settled.contains(job)) {
            return;
        }
        if let Some(key) = key {
            let times = self.jobs.entry(key.job.clone()).or_default();
            let step = Step {
                phase: key.phase,
                round: key.round,
                pass: key.pass,
            };
            times.answered.insert((step, key.site.clone()), message.time);
            if old {
                times.old.insert(key);
            }
        } else if let Some((job, step)) = subjects::step_of(&message.subject) {
            let times = self.jobs.entry(job.to_owned()).or_default();
            times.released.insert(step, message.time);
        } else if let Some(job) = subjects::ended_of(&message.subject) {
            self.jobs.entry(job.to_owned()).or_default().ended = Some(message.time);
        }
    }

    /// Takes the results of a job that was resumed after it had been forgotten: they were counted before.
    pub fn counted(&mut self, job: &str, record: &Record) {
        self.job(job).old.extend(record.results.keys().cloned());
    }

    /// Forgets a job.
    pub fn forget(&mut self, job: &str) {
        self.jobs.remove(job);
    }

    pub(super) fn job(&mut self, job: &str) -> &mut Times {
        self.jobs.entry(job.to_owned()).or_default()
    }
}

impl Times {
    /// When a step's release was followed by the release of a later one.
    pub(super) fn left(&self, step: Step, next: impl Fn(&Step) -> bool) -> Option<f64> {
        let after = *self.released.get(&step)?;
        let later = self
            .released
            .iter()
            .filter(|(other, at)| next(other) && **at >= after);
        later.map(|(_, at)| *at).min_by(f64::total_cmp)
    }

    /// When the first and the last of the sites answered a step.
    pub(super) fn answers(&self, step: Step) -> impl Iterator<Item = (&str, f64)> {
        let own = self.answered.range((step, String::new())..);
        let own = own.take_while(move |((other, _), _)| *other == step);
        own.map(|((_, site), at)| (&**site, *at))
    }
}

/// The train-round of the same round, or the average.
pub(super) fn of_round(phase: Phase, round: u32) -> Step {
    Step {
        phase,
        round,
        pass: 0,
    }
}
