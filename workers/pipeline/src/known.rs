//! Which jobs the server knows, and which of them have ended.

use std::collections::BTreeSet;

use schemas::event::{Accepted, Event};

use crate::{Error, connection::Connection, streams, subjects, tail};

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
    // Ends are read first: an end is never seen without its job, and a job that ends meanwhile counts as live.
    let ends = tail::read_all(connection, streams::JOBS, &subjects::end("*")).await?;
    let ended: BTreeSet<&str> = ends
        .iter()
        .filter_map(|message| subjects::job_of(&message.subject))
        .collect();
    let verdicts = tail::read_all(connection, streams::JOBS, subjects::ALL_VERDICTS).await?;
    let jobs = verdicts
        .iter()
        .filter_map(|verdict| match schemas::parse::<Event>(&verdict.payload) {
            Ok(Event::Accepted(accepted)) => Some(Known {
                ended: ended.contains(&*accepted.job),
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
