//! Which jobs the server knows, and which of them have ended.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::StreamExt;
use schemas::event::{Accepted, Event};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use crate::{
    Error,
    ask::ask,
    connection::Connection,
    publish, streams, subjects,
    tail::{self, Tailed},
};

/// What is older is read again.
const FRESH: Duration = Duration::from_secs(1);

/// A job that the server knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// As it was accepted: of two jobs with one name, at two servers, this tells which.
    pub accepted: Accepted,
    /// It has failed, was cancelled or is finished.
    pub ended: bool,
}

impl Known {
    fn is_of(&self, site: &str) -> bool {
        self.accepted.members.iter().any(|member| member.site == site)
    }
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

/// All jobs of a site. A guest asks the orchestrators for them.
///
/// # Errors
/// The server, or for a guest no orchestrator, answers.
pub async fn jobs_of(connection: &Connection, site: &str) -> Result<Vec<Known>, Error> {
    if !connection.is_guest() {
        let all = jobs(connection).await?;
        return Ok(all.into_iter().filter(|known| known.is_of(site)).collect());
    }
    let wish = "ask which jobs have ended";
    let mut answers = ask(connection, wish, subjects::ask_jobs(site), Bytes::new()).await?;
    let mut known = Vec::new();
    loop {
        let answer = answers.next().await?;
        if let Some(status) = answer.status {
            return Err(answers.failed(format!("no orchestrator answers ({status})")));
        }
        match schemas::parse(&answer.payload)? {
            Answer::Job(job) => known.push(*job),
            Answer::End(count) if count == known.len() => return Ok(known),
            Answer::End(_) => return Err(answers.failed("an answer was lost on the way")),
        }
    }
}

/// Answers sites that ask for their jobs, for ever. Of several orchestrators one answers.
pub(crate) async fn answer(connection: &Connection) {
    loop {
        if let Err(error) = answer_until_lost(connection).await {
            tracing::debug!("{error}");
        }
        sleep(Duration::from_secs(1)).await;
    }
}

async fn answer_until_lost(connection: &Connection) -> Result<(), Error> {
    let failed = |error: &dyn std::fmt::Display| Error::request("answer which jobs have ended", error);
    let client = connection.client();
    let mut asked = client
        .queue_subscribe(subjects::ALL_ASKS, "orchestrators".to_owned())
        .await
        .map_err(|error| failed(&error))?;
    // However often they ask, the stream is read once in a while.
    let mut last: Option<(Instant, Vec<Known>)> = None;
    while let Some(message) = asked.next().await {
        let (Some(site), Some(reply)) = (subjects::asking(&message.subject), message.reply) else {
            continue;
        };
        if last.as_ref().is_none_or(|(at, _)| at.elapsed() > FRESH) {
            last = Some((Instant::now(), jobs(connection).await?));
        }
        let known = last.iter().flat_map(|(_, known)| known);
        let of_site: Vec<&Known> = known.filter(|known| known.is_of(site)).collect();
        let end = Answer::End(of_site.len());
        let answers = of_site
            .into_iter()
            .map(|known| Answer::Job(Box::new(known.clone())));
        for answer in answers.chain([end]) {
            publish::say(connection, reply.to_string(), publish::encode(&answer)).await;
        }
    }
    Ok(())
}

/// An answer to a site that asked for its jobs.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Answer {
    /// One of them.
    Job(Box<Known>),
    /// There are no more: how many there were.
    End(usize),
}
