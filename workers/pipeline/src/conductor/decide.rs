//! The verdict on a submitted message: what the streams have to be asked for.

use std::collections::BTreeMap;

use schemas::{
    Invalid, PROTOCOL_VERSION,
    event::{Accepted, Continuation, Event, Rejected},
    job::{JobMessage, Payload},
    site::Announce,
};

use super::{
    record::Record,
    resume,
    run::Conductor,
    submit::{self, Known},
};
use crate::{
    Error, artifacts, clock,
    connection::Connection,
    signing, streams, subjects,
    tail::{self, Tailed},
};

/// Why there is no verdict of acceptance.
enum Refusal {
    /// The message is no job.
    Invalid(Invalid),
    /// The streams did not answer: ask again.
    Error(Error),
}

impl From<Invalid> for Refusal {
    fn from(invalid: Invalid) -> Self {
        Refusal::Invalid(invalid)
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Refusal::Error(error)
    }
}

impl Conductor {
    /// Decides on a submit. Every earlier submit must be decided and in `known`.
    ///
    /// # Errors
    /// The streams did not answer.
    pub(super) async fn decide(
        &self,
        message: &Tailed,
        known: &BTreeMap<String, Known>,
    ) -> Result<Event, Error> {
        let submit = message.sequence;
        let job = submit::job_id(&message.payload, submit);
        match self.accept(&job, message, known).await {
            Ok(accepted) => Ok(Event::Accepted(Box::new(accepted))),
            Err(Refusal::Invalid(invalid)) => Ok(Event::Rejected(Rejected {
                job,
                submit,
                path: invalid.path,
                reason: invalid.reason,
                time: clock::now(),
            })),
            Err(Refusal::Error(error)) => Err(error),
        }
    }

    async fn accept(
        &self,
        job: &str,
        submitted: &Tailed,
        known: &BTreeMap<String, Known>,
    ) -> Result<Accepted, Refusal> {
        let Tailed { payload, headers, .. } = submitted;
        let signed = match self.identity.roster() {
            Some(roster) => Some(signing::check_submit(&roster, headers.as_ref(), payload)?),
            None => None,
        };
        let message = JobMessage::parse(payload, None)?;
        submit::check_id(&message, known)?;
        if !known.contains_key(job) && self.archive.as_ref().is_some_and(|archive| archive.has(job)) {
            let reason = format!(
                "{job:?} is a job in the archive, which the server has lost: `rounds resume {job}` brings it back; \
                 give another id, or none and submit again"
            );
            return Err(Invalid::new("job_id", reason).into());
        }
        let warnings = (self.check)(&message)?;
        let sites = sites(&self.connection).await?;
        let members = submit::members(&message, &sites, (&self.version, self.algorithm))?;
        let continues = match submit::earlier_job(&message, known)? {
            Some(earlier) => Some(self.continuation(&earlier, &message).await?),
            None => None,
        };
        Ok(Accepted {
            job: job.to_owned(),
            submit: submitted.sequence,
            members,
            seed: message.federation.seed,
            protocol: PROTOCOL_VERSION,
            version: self.version.clone(),
            algorithm: self.algorithm,
            continues,
            model: submit::model(&message, known)?,
            signed,
            warnings,
            time: clock::now(),
            message,
        })
    }

    async fn continuation(&self, earlier: &str, message: &JobMessage) -> Result<Continuation, Refusal> {
        let roster = self.identity.roster();
        let record = Record::load(&self.connection, earlier, roster.as_deref()).await?;
        let round = match &message.payload {
            Payload::Training(training) => training.starting_fed_round,
            Payload::Inference(_) => 0,
        };
        let mut continuation = resume::continuation(&record, round)?;
        for (what, artifact) in [
            ("average", &continuation.weights),
            ("pooled fingerprint", &continuation.pooled.fingerprint),
            ("pooled dataset.json", &continuation.pooled.dataset_json),
        ] {
            if !artifacts::exists(&self.connection, artifact).await? {
                let reason = format!(
                    "{round}: the {what} of job {earlier} that it starts from is stored no more; \
                     the last three averages and the best are kept"
                );
                return Err(Invalid::new("payload.starting_fed_round", reason).into());
            }
        }
        if let Some(best) = &continuation.best
            && !artifacts::exists(&self.connection, &best.weights).await?
        {
            continuation.best = None;
        }
        Ok(continuation)
    }
}

/// The last announcement of every site, by name.
pub(crate) async fn sites(connection: &Connection) -> Result<Vec<Announce>, Error> {
    let mut sites = Vec::new();
    for message in tail::read_all(connection, streams::SITES, subjects::ALL_ANNOUNCES).await? {
        match schemas::parse::<Announce>(&message.payload) {
            Ok(announce) if subjects::announce(&announce.site) == message.subject => sites.push(announce),
            Ok(announce) => tracing::warn!("{}: names site {}", message.subject, announce.site),
            Err(error) => tracing::warn!("{}: {error}", message.subject),
        }
    }
    sites.sort_by(|a, b| a.site.cmp(&b.site));
    Ok(sites)
}
