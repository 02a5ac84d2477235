//! Reading a stream by direct gets: no consumer is made, and what is asked for stands in the request.

use std::time::Duration;

use async_nats::{
    StatusCode,
    header::NATS_LAST_SEQUENCE,
    jetstream::{message::StreamMessage, stream::DirectGetErrorKind},
};
use bytes::Bytes;
use futures::StreamExt;
use tokio::time::timeout;

use crate::{Error, clock, connection::Connection, tail::Tailed};

/// Messages of one page.
const MOST: usize = 256;
/// Bytes of one page, but for the last message.
const MOST_BYTES: usize = 16 << 20;
/// A message that takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(5);

/// The last message on a subject; none when there is none.
pub(crate) async fn last(
    connection: &Connection,
    stream: &str,
    subject: &str,
) -> Result<Option<Bytes>, Error> {
    let stream = connection.stream(stream).await?;
    match stream.direct_get_last_for_subject(subject).await {
        Ok(message) => Ok(Some(message.payload)),
        Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::request(format!("read {subject}"), error)),
    }
}

/// The next messages of a stream that match a filter (empty: all), from sequence `from`: some of them, in order; none
/// when there are none yet.
pub(crate) async fn page(
    connection: &Connection,
    stream: &str,
    filter: &str,
    from: u64,
) -> Result<Vec<Tailed>, Error> {
    let failed = |error: &dyn std::fmt::Display| Error::request(format!("read {stream}"), error);
    let client = connection.client();
    let inbox = client.new_inbox();
    let mut answers = client
        .subscribe(inbox.clone())
        .await
        .map_err(|error| failed(&error))?;
    let filter = if filter.is_empty() { ">" } else { filter };
    let request = serde_json::json!({
        "seq": from.max(1), "next_by_subj": filter, "batch": MOST, "max_bytes": MOST_BYTES,
    });
    client
        .publish_with_reply(connection.direct_get(stream), inbox, request.to_string().into())
        .await
        .map_err(|error| failed(&error))?;
    let mut page: Vec<Tailed> = Vec::new();
    loop {
        let answer = timeout(PATIENCE, answers.next())
            .await
            .map_err(|error| failed(&error))?
            .ok_or_else(|| failed(&"the connection was closed"))?;
        match answer.status {
            None | Some(StatusCode::OK) => {}
            // Nothing there, and the end of the page.
            Some(StatusCode::NOT_FOUND) => return Ok(page),
            Some(status) if status.as_u16() == 204 => return Ok(page),
            Some(status) => return Err(failed(&status)),
        }
        // Each message names the one before: none was lost on the way.
        let before: Option<u64> = answer
            .headers
            .as_ref()
            .and_then(|headers| headers.get_last(NATS_LAST_SEQUENCE))
            .and_then(|before| before.as_str().parse().ok());
        if let (Some(last), Some(before)) = (page.last(), before)
            && last.sequence != before
        {
            return Err(failed(&"a message was lost on the way"));
        }
        let message = StreamMessage::try_from(answer).map_err(|error| failed(&error))?;
        page.push(Tailed {
            sequence: message.sequence,
            subject: message.subject.to_string(),
            payload: message.payload,
            headers: Some(message.headers),
            time: clock::of_server(message.time),
        });
    }
}
