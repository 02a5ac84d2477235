//! What a conductor has read.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use schemas::{event::Event, roster::Roster};

use super::{record::Record, report::Seen, submit::Known};
use crate::{subjects, tail::Tailed};

/// What a conductor keeps in memory; all of it comes from the streams.
#[derive(Default)]
pub(super) struct Memory {
    /// Jobs that something can still happen to.
    pub records: BTreeMap<String, Record>,
    /// All jobs ever accepted.
    pub known: BTreeMap<String, Known>,
    /// Submits without a verdict, by stream sequence.
    pub submits: BTreeMap<u64, Tailed>,
    /// Jobs that nothing can happen to any more.
    pub settled: HashSet<String>,
    /// Jobs whose record has changed.
    pub changed: BTreeSet<String>,
    /// Jobs that were resumed when nothing could happen to them any more: to be read anew.
    pub forgotten: BTreeSet<String>,
    /// What was done for a job, so that it is not done at every change.
    pub done: HashMap<String, HashSet<String>>,
    /// When it happened, for the metrics.
    pub seen: Seen,
}

impl Memory {
    /// Takes a message of ROUNDS_JOBS.
    pub fn event(&mut self, message: &Tailed) {
        if message.subject == subjects::SUBMIT {
            self.submits.insert(message.sequence, message.clone());
            return;
        }
        // A timer is no event before the server says it.
        if subjects::job_of(&message.subject).is_none() {
            return;
        }
        if let Some(submit) = subjects::submit_of(&message.subject) {
            self.submits.remove(&submit);
        }
        let event = match schemas::parse::<Event>(&message.payload) {
            Ok(event) if subjects::job_of(&message.subject) == Some(event.job()) => event,
            Ok(_) => return tracing::error!("{}: names another job", message.subject),
            Err(error) => return tracing::error!("{}: {error}", message.subject),
        };
        match event {
            Event::Accepted(_) | Event::Rejected(_) => self.verdict(event),
            event => self.happened(event),
        }
    }

    /// Takes a verdict, read or decided here.
    pub fn verdict(&mut self, event: Event) {
        if let Event::Accepted(accepted) = &event
            && !self.known.contains_key(&accepted.job)
        {
            // The acceptance of a job from the archive comes last.
            let record = self.records.get(&accepted.job);
            let results = record.and_then(|record| match &record.end {
                Some(Event::Finished(finished)) => finished.results.clone(),
                _ => None,
            });
            let known = Known {
                accepted: (**accepted).clone(),
                ended: record.is_some_and(|record| record.end.is_some()),
                resumes: record.map_or(0, Record::resumes),
                results,
            };
            self.known.insert(accepted.job.clone(), known);
            self.happened(event);
        }
    }

    fn happened(&mut self, event: Event) {
        let job = event.job().to_owned();
        if let Some(known) = self.known.get_mut(&job) {
            known.happened(&event);
        }
        if matches!(event, Event::Resumed(_)) && self.settled.remove(&job) {
            self.forgotten.insert(job);
            return;
        }
        if !self.settled.contains(&job) {
            self.records.entry(job.clone()).or_default().event(event);
            self.changed.insert(job);
        }
    }

    /// Takes a message of ROUNDS_RESULTS. Gives the site in whose name it came where it was not believed.
    pub fn result(&mut self, message: &Tailed, roster: Option<&Roster>) -> Option<String> {
        let Some(key) = subjects::key_of(&message.subject) else {
            tracing::error!("{}: not a result's subject", message.subject);
            return None;
        };
        if self.settled.contains(&key.job) {
            return None;
        }
        let (job, site) = (key.job.clone(), key.site.clone());
        let record = self.records.entry(job.clone()).or_default();
        let believed = record.result_message(key, message, roster);
        self.changed.insert(job);
        let reason = believed.err()?;
        tracing::error!("{}: {reason}", message.subject);
        Some(site)
    }

    /// Forgets a job that nothing can happen to any more.
    pub fn settle(&mut self, job: String) {
        self.records.remove(&job);
        self.done.remove(&job);
        self.settled.insert(job);
    }
}
