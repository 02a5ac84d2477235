//! A worker's dealings with the server: taking a task, looking for its answer, acknowledging it.

use std::{sync::Arc, time::Duration};

use async_nats::jetstream::{AckKind, Message, consumer::PullConsumer, stream::DirectGetErrorKind};
use futures::StreamExt;
use schemas::{
    PROTOCOL_VERSION,
    event::Accepted,
    names,
    task::{Failure, Task, TaskKey},
};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::WorkerSettings;
use crate::{Error, connection::Connection, streams, subjects};

/// How long a pull waits for a task before it is sent again.
const PULL_EXPIRES: Duration = Duration::from_secs(30);
/// The server's heartbeat on an idle pull; a lost server shows within two of them.
const PULL_HEARTBEAT: Duration = Duration::from_secs(2);

/// One task, from a pull stream that is dropped at once.
pub(super) async fn next(
    connection: &Connection,
    site: &str,
    phase: names::Phase,
    pace: streams::Pace,
    consumer: &mut Option<PullConsumer>,
) -> Result<Option<Message>, Error> {
    let failed = |error: &dyn std::fmt::Display| Error::request(format!("pull {phase} of {site}"), error);
    let consumer = match consumer {
        Some(consumer) => consumer,
        None => consumer.insert(streams::consumer(connection, site, phase, pace).await?),
    };
    let mut messages = consumer
        .stream()
        .max_messages_per_batch(1)
        .expires(PULL_EXPIRES)
        .heartbeat(PULL_HEARTBEAT)
        .messages()
        .await
        .map_err(|error| failed(&error))?;
    match messages.next().await {
        None => Ok(None),
        Some(Ok(message)) => Ok(Some(message)),
        Some(Err(error)) => Err(failed(&error)),
    }
}

/// Whether a task's result subject holds a message. None when the worker is to end before the server answers.
pub(super) async fn wait_answered(
    connection: &Connection,
    key: &TaskKey,
    stop: &CancellationToken,
) -> Option<bool> {
    loop {
        tokio::select! {
            () = stop.cancelled() => return None,
            answer = answered(connection, key) => match answer {
                Ok(answer) => return Some(answer),
                Err(error) => tracing::debug!("{error}; trying again"),
            }
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// Whether a task's result subject holds a message: a result, or the task's closing.
pub(super) async fn answered(connection: &Connection, key: &TaskKey) -> Result<bool, Error> {
    let subject = subjects::result(key);
    let stream = connection.stream(streams::RESULTS).await?;
    match stream.direct_get_last_for_subject(&subject).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::request(format!("look at {subject}"), error)),
    }
}

/// Reads a task. Bytes of two versions are never mixed in one job.
pub(super) fn task_of(key: &TaskKey, payload: &[u8], own: &WorkerSettings) -> Result<Arc<Task>, Failure> {
    let read = || -> Result<Task, Error> {
        let task: Task = schemas::parse(payload)?;
        if task.key != *key {
            return Err(schemas::Invalid::new("key", "differs from the subject").into());
        }
        Ok(task)
    };
    let task = read().map_err(|error| {
        tracing::error!("bad task: {error}");
        Failure::fatal("bad-task", "the task's message cannot be read at this site")
    })?;
    let Accepted {
        version,
        protocol,
        algorithm,
        ..
    } = &task.job;
    if (*protocol, *algorithm) == (PROTOCOL_VERSION, own.algorithm) {
        return Ok(Arc::new(task));
    }
    let message = format!(
        "the job was accepted by version {version} (protocol {protocol}, algorithm {algorithm}); this worker runs {} \
         (protocol {PROTOCOL_VERSION}, algorithm {})",
        own.version, own.algorithm
    );
    Err(Failure::fatal("version-differs", message))
}

pub(super) async fn acknowledge(message: &Message, kind: AckKind) {
    if let Err(error) = message.ack_with(kind).await {
        // The task comes again, and its result is found there.
        tracing::debug!("acknowledge: {error}");
    }
}
