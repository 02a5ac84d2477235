//! Reading a stream by direct gets: no consumer is made, and what is asked for stands in the request.

use async_nats::{
    StatusCode,
    header::NATS_LAST_SEQUENCE,
    jetstream::{message::StreamMessage, stream::DirectGetErrorKind},
};
use bytes::Bytes;

use crate::{Error, ask::ask, clock, connection::Connection, tail::Tailed};

/// Messages of one page.
const MOST: usize = 256;
/// Bytes of one page, but for the last message.
const MOST_BYTES: usize = 16 << 20;

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
    let filter = if filter.is_empty() { ">" } else { filter };
    let request = serde_json::json!({
        "seq": from.max(1), "next_by_subj": filter, "batch": MOST, "max_bytes": MOST_BYTES,
    });
    let (subject, wish) = (connection.direct_get(stream), format!("read {stream}"));
    let mut answers = ask(connection, wish, subject, request.to_string().into()).await?;
    let mut page: Vec<Tailed> = Vec::new();
    loop {
        let answer = answers.next().await?;
        match answer.status {
            None | Some(StatusCode::OK) => {}
            // Nothing there, and the end of the page.
            Some(StatusCode::NOT_FOUND) => return Ok(page),
            Some(status) if status.as_u16() == 204 => return Ok(page),
            Some(status) => return Err(answers.failed(status)),
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
            return Err(answers.failed("a message was lost on the way"));
        }
        let message = StreamMessage::try_from(answer).map_err(|error| answers.failed(error))?;
        page.push(Tailed {
            sequence: message.sequence,
            subject: message.subject.to_string(),
            payload: message.payload,
            headers: Some(message.headers),
            time: clock::of_server(message.time),
        });
    }
}
