//! What a site may ask of the server to find out whether it could work.

use std::time::{Duration, Instant};

use async_nats::jetstream::context::ConsumerInfoErrorKind;
use futures::StreamExt;
use schemas::{
    names::{ORCHESTRATOR, Phase},
    site::Heartbeat,
};
use tokio::time::timeout;

use crate::{Error, clock, connection::Connection, streams, subjects};

/// How long the server takes to answer.
///
/// # Errors
/// It does not within `patience`.
pub async fn round_trip(connection: &Connection, patience: Duration) -> Result<Duration, Error> {
    let begun = Instant::now();
    let failed = |error: &dyn std::fmt::Display| Error::request("flush", error);
    timeout(patience, connection.client().flush())
        .await
        .map_err(|error| failed(&error))?
        .map_err(|error| failed(&error))?;
    Ok(begun.elapsed())
}

/// Where the queue of a site's phase stands: its waiting tasks; none where it is not set up yet.
///
/// # Errors
/// The server does not answer, or does not let this site ask.
pub async fn queue(connection: &Connection, site: &str, phase: Phase) -> Result<Option<u64>, Error> {
    let tasks = connection.stream(streams::TASKS).await?;
    let name = subjects::durable(site, phase);
    match tasks.consumer_info(&name).await {
        Ok(info) => Ok(Some(info.num_pending)),
        Err(error) => match error.kind() {
            ConsumerInfoErrorKind::NotFound | ConsumerInfoErrorKind::StreamNotFound => Ok(None),
            _ => Err(Error::request(format!("consumer {name}"), error)),
        },
    }
}

/// Whether the server tells us of the stream of all sites' tasks, which it must not tell a site with an account of its
/// own.
pub async fn reaches_all(connection: &Connection) -> bool {
    connection.jetstream().get_stream(streams::TASKS).await.is_ok()
}

/// The next heartbeat of an orchestrator, and our clock less its own when it came, in seconds. None where none is
/// heard within `patience`.
///
/// # Errors
/// The server does not let us listen.
pub async fn orchestrator(
    connection: &Connection,
    patience: Duration,
) -> Result<Option<(Heartbeat, f64)>, Error> {
    let mut heard = connection
        .client()
        .subscribe(subjects::heartbeat(ORCHESTRATOR))
        .await
        .map_err(|error| Error::request("subscribe to heartbeats", error))?;
    let next = async {
        while let Some(message) = heard.next().await {
            if let Ok(heartbeat) = schemas::parse::<Heartbeat>(&message.payload) {
                let skew = clock::unix() - heartbeat.time;
                return Some((heartbeat, skew));
            }
        }
        None
    };
    Ok(timeout(patience, next).await.unwrap_or(None))
}
