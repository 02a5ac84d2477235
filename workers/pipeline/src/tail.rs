//! A stream's messages from the start, in order, for as long as one listens. Holds no durable consumer.

use std::time::Duration;

use async_nats::{
    HeaderMap,
    jetstream::{
        self,
        consumer::{AckPolicy, Consumer, DeliverPolicy, pull},
        stream::ConsumerError,
    },
};
use bytes::Bytes;
use futures::StreamExt;
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};

use crate::{Error, clock, connection::Connection, direct};

/// Between two looks of a guest at a stream.
const LOOK: Duration = Duration::from_millis(300);

/// One message of a stream.
#[derive(Clone, Debug)]
pub struct Tailed {
    /// Its place in the stream, from 1.
    pub sequence: u64,
    /// Its subject.
    pub subject: String,
    /// Its bytes.
    pub payload: Bytes,
    /// What stands above them.
    pub headers: Option<HeaderMap>,
    /// When the server stored it, in seconds since 1970.
    pub time: f64,
}

impl Tailed {
    /// A consumer's message, which must be its number `expected`, counted from 1: else one was lost on the way.
    fn of(message: &jetstream::Message, expected: u64) -> Result<Self, String> {
        let info = message.info().map_err(|error| error.to_string())?;
        if info.consumer_sequence != expected {
            return Err("a message was lost on the way".to_owned());
        }
        Ok(Self {
            sequence: info.stream_sequence,
            subject: message.subject.to_string(),
            payload: message.payload.clone(),
            headers: message.headers.clone(),
            time: clock::of_server(info.published),
        })
    }
}

/// Sends a stream's messages that match a filter (empty: all) from sequence `from`, each once and in order.
/// After any error it begins anew behind the last message seen. Ends when the receiver is dropped.
pub async fn tail(
    connection: Connection,
    stream: &'static str,
    filter: String,
    from: u64,
    sender: mpsc::Sender<Tailed>,
) {
    let mut next = from.max(1);
    while !sender.is_closed() {
        if let Err(error) = follow(&connection, stream, &filter, &mut next, &sender).await {
            tracing::debug!("{stream}: {error}; reading on from {next}");
        }
        tokio::select! {
            () = sender.closed() => return,
            () = sleep(Duration::from_millis(100)) => {}
        }
    }
}

async fn follow(
    connection: &Connection,
    stream: &str,
    filter: &str,
    next: &mut u64,
    sender: &mpsc::Sender<Tailed>,
) -> Result<(), Error> {
    if connection.is_guest() {
        return follow_pages(connection, stream, filter, next, sender).await;
    }
    let failed = |error: &dyn std::fmt::Display| Error::request(format!("read {stream}"), error);
    let from = DeliverPolicy::ByStartSequence {
        start_sequence: *next,
    };
    let consumer = reader(connection, stream, filter, from)
        .await
        .map_err(|error| failed(&error))?;
    // A lost server shows within two heartbeats, not at the expiry of the request.
    let mut messages = consumer
        .stream()
        .max_messages_per_batch(256)
        .expires(Duration::from_secs(30))
        .heartbeat(Duration::from_secs(1))
        .messages()
        .await
        .map_err(|error| failed(&error))?;
    let mut expected = 1;
    loop {
        let message = tokio::select! {
            () = sender.closed() => return Ok(()),
            message = messages.next() => message,
        };
        let message = match message {
            Some(message) => message.map_err(|error| failed(&error))?,
            None => return Ok(()),
        };
        let tailed = Tailed::of(&message, expected).map_err(|reason| failed(&reason))?;
        expected += 1;
        let sequence = tailed.sequence;
        if sender.send(tailed).await.is_err() {
            return Ok(());
        }
        *next = sequence + 1;
    }
}

/// [`follow`] of a guest, who may make no consumer.
async fn follow_pages(
    connection: &Connection,
    stream: &str,
    filter: &str,
    next: &mut u64,
    sender: &mpsc::Sender<Tailed>,
) -> Result<(), Error> {
    loop {
        let page = direct::page(connection, stream, filter, *next).await?;
        if page.is_empty() {
            tokio::select! {
                () = sender.closed() => return Ok(()),
                () = sleep(LOOK) => {}
            }
        }
        for message in page {
            let sequence = message.sequence;
            if sender.send(message).await.is_err() {
                return Ok(());
            }
            *next = sequence + 1;
        }
    }
}

/// A short-lived consumer that only reads.
async fn reader(
    connection: &Connection,
    stream: &str,
    filter: &str,
    deliver_policy: DeliverPolicy,
) -> Result<Consumer<pull::Config>, ConsumerError> {
    let config = pull::Config {
        filter_subject: filter.to_owned(),
        deliver_policy,
        ack_policy: AckPolicy::None,
        inactive_threshold: Duration::from_secs(60),
        memory_storage: true,
        num_replicas: 1,
        ..pull::Config::default()
    };
    connection
        .jetstream()
        .create_consumer_on_stream(config, stream)
        .await
}

/// A reader asks whether anything is left after so long without a message.
const QUIET: Duration = Duration::from_secs(1);

/// Readings before an error is told.
const TRIES: u32 = 3;

/// All messages of a stream that match a filter now, in order.
pub async fn read_all(connection: &Connection, stream: &str, filter: &str) -> Result<Vec<Tailed>, Error> {
    let mut tries = 0;
    loop {
        tries += 1;
        match read_once(connection, stream, filter).await {
            // A connection that was lost loses messages that were under way.
            Err(error) if tries < TRIES => tracing::debug!("{error}; reading again"),
            other => return other,
        }
    }
}

async fn read_once(connection: &Connection, stream: &str, filter: &str) -> Result<Vec<Tailed>, Error> {
    if connection.is_guest() {
        return read_pages(connection, stream, filter).await;
    }
    let failed = |error: &dyn std::fmt::Display| Error::request(format!("read {filter}"), error);
    let consumer = reader(connection, stream, filter, DeliverPolicy::All)
        .await
        .map_err(|error| failed(&error))?;
    let count = consumer.cached_info().num_pending as usize;
    let mut all = Vec::with_capacity(count.min(1 << 16));
    if count > 0 {
        let mut messages = consumer
            .stream()
            .max_messages_per_batch(256)
            .expires(Duration::from_secs(30))
            .heartbeat(Duration::from_secs(1))
            .messages()
            .await
            .map_err(|error| failed(&error))?;
        while all.len() < count {
            let Ok(message) = timeout(QUIET, messages.next()).await else {
                // What was counted may have been replaced or taken away since.
                let left = consumer.get_info().await.map_err(|error| failed(&error))?;
                match left.num_pending {
                    0 if left.delivered.consumer_sequence == all.len() as u64 => break,
                    0 => return Err(failed(&"a message was lost on the way")),
                    _ => continue,
                }
            };
            let message = message.ok_or_else(|| failed(&"the consumer ended"))?;
            let message = message.map_err(|error| failed(&error))?;
            let expected = all.len() as u64 + 1;
            all.push(Tailed::of(&message, expected).map_err(|reason| failed(&reason))?);
        }
    }
    // It would end by itself, later.
    if let Ok(stream) = connection.stream(stream).await {
        let _ = stream.delete_consumer(&consumer.cached_info().name).await;
    }
    Ok(all)
}

/// [`read_once`] of a guest, who may make no consumer.
async fn read_pages(connection: &Connection, stream: &str, filter: &str) -> Result<Vec<Tailed>, Error> {
    let mut all: Vec<Tailed> = Vec::new();
    loop {
        let next = all.last().map_or(1, |last| last.sequence + 1);
        let page = direct::page(connection, stream, filter, next).await?;
        if page.is_empty() {
            return Ok(all);
        }
        all.extend(page);
    }
}

/// The last message on a subject; none when there is none.
pub async fn read_last(connection: &Connection, stream: &str, subject: &str) -> Result<Option<Bytes>, Error> {
    use async_nats::jetstream::stream::RawMessageErrorKind;
    match connection
        .stream(stream)
        .await?
        .get_last_raw_message_by_subject(subject)
        .await
    {
        Ok(message) => Ok(Some(message.payload)),
        Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(Error::request(format!("read {subject}"), error)),
    }
}
