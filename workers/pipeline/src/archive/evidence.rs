//! A job as its signed messages show it, to somebody who believes nothing else.

use std::path::PathBuf;

use bytes::Bytes;
use schemas::{
    event::Event,
    names::GLOBAL,
    roster::Roster,
    task::{ArtifactRef, TaskKey},
};

use super::{Archive, messages};
use crate::{
    Error,
    conductor::{self, Record, Step},
    subjects,
    tail::Tailed,
};

/// What an archive shows of a job.
pub struct Evidence {
    /// The job's events and results. A result that is not believed stands as a failure.
    pub record: Record,
    /// Results that carry the signature of the site that they name.
    pub signed: usize,
    /// Results that do not, and why.
    pub refused: Vec<(TaskKey, String)>,
    /// Its events, in stream order.
    events: Vec<Event>,
}

impl Archive {
    /// Reads a job as its members signed it.
    ///
    /// # Errors
    /// The archive does not hold the job, or it cannot be read.
    pub fn evidence(&self, job: &str, roster: &Roster) -> Result<Evidence, Error> {
        if !self.has(job) {
            return Err(Error::NoSuchJob { job: job.to_owned() });
        }
        let mut evidence = Evidence {
            record: Record::default(),
            signed: 0,
            refused: Vec::new(),
            events: Vec::new(),
        };
        for (line, sequence) in messages::read(&self.messages(job))?.into_iter().zip(1..) {
            let message = Tailed {
                sequence,
                subject: line.subject,
                payload: Bytes::from(line.payload),
                headers: None,
                time: 0.0,
            };
            let Some(key) = subjects::key_of(&message.subject) else {
                let event: Event = schemas::parse(&message.payload)?;
                evidence.record.event(event.clone());
                evidence.events.push(event);
                continue;
            };
            match evidence
                .record
                .result_message(key.clone(), &message, Some(roster))
            {
                Ok(()) => evidence.signed += 1,
                Err(reason) => evidence.refused.push((key, reason)),
            }
        }
        Ok(evidence)
    }

    /// Where the bytes with a digest lie: what the orchestrators made for a job, or what went into an average; none
    /// where they are not kept. They are not looked at.
    pub fn find(&self, job: &str, digest: &str) -> Option<PathBuf> {
        let artifact = ArtifactRef {
            owner: GLOBAL.to_owned(),
            job: job.to_owned(),
            digest: digest.to_owned(),
            size: 0,
        };
        subjects::check_artifact("artifact", &artifact).ok()?;
        let places = [self.artifact(&artifact), self.kept_update(job, digest)];
        places.into_iter().find(|file| file.is_file())
    }
}

impl Evidence {
    /// Checks that each step was released as it follows from the results before it, and that the job ended so: the
    /// orchestrator decided nothing by itself. Gives the number of releases.
    ///
    /// # Errors
    /// The first step that does not follow.
    pub fn check_releases(&self) -> Result<usize, Step> {
        conductor::replay(&self.record, &self.events)
    }
}
