//! Create-only messages: the only locks there are.
//!
//! A message is published with expected last subject sequence 0. The server's refusal (10071) means that
//! it stands already: read it and follow it. That holds over any number of retries and crashes, where a
//! dedupe window and an ack do not.

use std::time::Duration;

use async_nats::{
    HeaderMap,
    header::{NATS_SCHEDULE, NATS_SCHEDULE_TARGET},
    jetstream::{
        self, ErrorCode,
        context::{PublishError, PublishErrorKind},
        message::PublishMessage,
    },
};
use bytes::Bytes;
use serde::Serialize;
use tokio::time::sleep;

use crate::{Error, connection::Connection};

/// What became of a create-only message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// It is stored now.
    New,
    /// Its subject has a message already: ours of an earlier try, or another's.
    Exists,
}

/// Publishes a message on a subject that has none. Waits out a server that does not answer, for ever:
/// drop the future to give up.
///
/// # Errors
/// The stream is full, the message can never be stored, or the connection's guard keeps it at the site.
pub async fn create(connection: &Connection, subject: &str, payload: Bytes) -> Result<Created, Error> {
    create_with(connection, subject, payload, HeaderMap::new()).await
}

async fn create_with(
    connection: &Connection,
    subject: &str,
    payload: Bytes,
    headers: HeaderMap,
) -> Result<Created, Error> {
    let mut wait = Duration::from_millis(50);
    pass(connection, subject, &payload).await?;
    loop {
        let message = PublishMessage::build()
            .payload(payload.clone())
            .headers(headers.clone())
            .expected_last_subject_sequence(0);
        match send(connection, subject, message).await {
            Ok(_) => return Ok(Created::New),
            Err(error) => match error.kind() {
                PublishErrorKind::WrongLastSequence => return Ok(Created::Exists),
                _ => retry_or_refuse(subject, error, &mut wait).await?,
            },
        }
    }
}

/// Has the server publish `payload` on `target` at a time, RFC 3339 in UTC; at once where that has passed. Create-only
/// as [`create`], until it is published: then the server forgets it, and the same would be published again.
///
/// # Errors
/// As of [`create`].
pub async fn schedule(
    connection: &Connection,
    subject: &str,
    at: &str,
    target: &str,
    payload: Bytes,
) -> Result<Created, Error> {
    let mut headers = HeaderMap::new();
    headers.insert(NATS_SCHEDULE, format!("@at {at}"));
    headers.insert(NATS_SCHEDULE_TARGET, target);
    create_with(connection, subject, payload, headers).await
}

/// Publishes a message that may be there already with the same bytes, or that replaces the last one.
/// Waits out a server that does not answer, for ever. Gives the message's stream sequence.
///
/// # Errors
/// The stream is full, or the message can never be stored.
pub async fn replace(connection: &Connection, subject: &str, payload: Bytes) -> Result<u64, Error> {
    replace_with(connection, subject, payload, &HeaderMap::new()).await
}

/// As [`replace`], with headers.
///
/// # Errors
/// As of [`replace`].
pub async fn replace_with(
    connection: &Connection,
    subject: &str,
    payload: Bytes,
    headers: &HeaderMap,
) -> Result<u64, Error> {
    let mut wait = Duration::from_millis(50);
    pass(connection, subject, &payload).await?;
    loop {
        let message = PublishMessage::build()
            .payload(payload.clone())
            .headers(headers.clone());
        match send(connection, subject, message).await {
            Ok(sequence) => return Ok(sequence),
            Err(error) => retry_or_refuse(subject, error, &mut wait).await?,
        }
    }
}

/// Publishes a message that no stream keeps, and that is no loss when it is lost.
pub(crate) async fn say(connection: &Connection, subject: String, payload: Bytes) {
    if let Err(error) = pass(connection, &subject, &payload).await {
        return tracing::warn!("{error}");
    }
    let _ = connection.client().publish(subject, payload).await;
}

/// Shows a message to the connection's guard.
async fn pass(connection: &Connection, subject: &str, payload: &Bytes) -> Result<(), Error> {
    let Some(guard) = connection.guard().cloned() else {
        return Ok(());
    };
    let (shown, bytes) = (subject.to_owned(), payload.clone());
    // The guard writes to the site's disk.
    let passed = tokio::task::spawn_blocking(move || guard.exit().message(&shown, &bytes)).await;
    match passed {
        Ok(Ok(())) => Ok(()),
        Ok(Err(reason)) => Err(Error::Withheld {
            subject: subject.to_owned(),
            reason,
        }),
        Err(_) => Err(Error::Stopped),
    }
}

/// A message as the bytes that are published.
pub fn encode<T: Serialize>(message: &T) -> Bytes {
    // Our messages are structs with string keys, which always serialise.
    Bytes::from(serde_json::to_vec(message).unwrap_or_default())
}

async fn send(connection: &Connection, subject: &str, message: PublishMessage) -> Result<u64, PublishError> {
    let ack = connection
        .jetstream()
        .send_publish(subject.to_owned(), message)
        .await?;
    Ok(ack.await?.sequence)
}

async fn retry_or_refuse(subject: &str, error: PublishError, wait: &mut Duration) -> Result<(), Error> {
    let refused = || Error::Refused {
        subject: subject.to_owned(),
        reason: reason(&error),
    };
    match error.kind() {
        PublishErrorKind::MaxPayloadExceeded | PublishErrorKind::WrongLastMessageId => return Err(refused()),
        PublishErrorKind::Other => {
            let answer = std::error::Error::source(&error)
                .and_then(|source| source.downcast_ref::<jetstream::Error>());
            match answer {
                // 10077 is 'maximum messages per subject' and 'maximum bytes' alike: never success.
                Some(answer) if answer.error_code() == ErrorCode::STREAM_STORE_FAILED => {
                    return Err(Error::Full {
                        subject: subject.to_owned(),
                        reason: reason(&error),
                    });
                }
                // 5xx: the server is not ready, as right after its start.
                Some(answer) if answer.code() < 500 => return Err(refused()),
                _ => {}
            }
        }
        _ => {}
    }
    tracing::debug!("{subject}: {}; trying again", reason(&error));
    sleep(*wait).await;
    *wait = (*wait * 2).min(Duration::from_secs(2));
    Ok(())
}

fn reason(error: &PublishError) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}
