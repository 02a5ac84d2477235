//! Which jobs the server knows, and which of them have ended.

use std::collections::{BTreeMap, BTreeSet};

use schemas::event::{Accepted, Event};

use crate::{
    Error,
    connection::Connection,
    streams, subjects,
    tail::{self, Tailed},
};

/// A job that the server knows.
#[derive(Clone, Debug, PartialEq)]
pub struct Known {
    /// As it was accepted: of two jobs with one name, at two servers, this tells which.
    pub accepted: Accepted,
    /// It has failed, was cancelled or is finished.
    pub ended: bool,
}

/// All jobs that were accepted, oldest first.
///
/// # Errors
/// The server does not answer.
pub async fn jobs(connection: &Connection) -> Result<Vec<Known>, Error> {
    // Ends are read first: an end is never seen without its job, and a job that ends or is resumed meanwhile counts
    // as live.
    let ends = tail::read_all(connection, streams::JOBS, subjects::ALL_ENDS).await?;
    let resumed = tail::read_all(connection, streams::JOBS, subjects::ALL_RESUMES).await?;
    let numbered = |message: &Tailed| {
        let job = subjects::job_of(&message.subject)?.to_owned();
        Some((job, subjects::number_of(&message.subject)?))
    };
    // In stream order: the last number of a job stands.
    let resumes: BTreeMap<String, u32> = resumed.iter().filter_map(numbered).collect();
    let ended: BTreeSet<String> = ends
        .iter()
        .filter_map(numbered)
        .filter(|(job, number)| resumes.get(job).copied().unwrap_or(0) == *number)
        .map(|(job, _)| job)
        .collect();
    let verdicts = tail::read_all(connection, streams::JOBS, subjects::ALL_VERDICTS).await?;
    let jobs = verdicts
        .iter()
        .filter_map(|verdict| match schemas::parse::<Event>(&verdict.payload) {
            Ok(Event::Accepted(accepted)) => Some(Known {
                ended: ended.contains(&accepted.job),
                accepted: *accepted,
            }),
            Ok(_) => None,
            Err(error) => {
                tracing::warn!("{}: {error}", verdict.subject);
                None
            }
        });
    Ok(jobs.collect())
}
