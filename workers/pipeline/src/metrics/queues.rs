//! How long the queues are and how full the streams, which only the server knows.

use std::time::Duration;

use async_nats::jetstream::{
    consumer,
    stream::{RawMessageErrorKind, Stream},
};
use futures::StreamExt;
use schemas::names::Phase;
use tokio_util::sync::CancellationToken;

use super::Metrics;
use crate::{Error, clock, connection::Connection, streams, subjects};

/// Between two looks at the queues.
const INTERVAL: Duration = Duration::from_secs(10);

impl Metrics {
    /// Looks at the queues and streams every ten seconds until `stop`.
    pub async fn watch_queues(&self, connection: &Connection, stop: CancellationToken) {
        loop {
            if let Err(error) = self.read_queues(connection).await {
                tracing::debug!("queues: {error}");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    }

    /// Looks at the queues and streams once.
    pub async fn read_queues(&self, connection: &Connection) -> Result<(), Error> {
        let tasks = connection.stream(streams::TASKS).await?;
        let mut consumers = tasks.consumers();
        while let Some(info) = consumers.next().await {
            let info = info.map_err(|error| Error::request("list consumers", error))?;
            if let Some((site, phase)) = subjects::durable_of(&info.name) {
                self.read_queue(&tasks, &info, site, phase).await?;
            }
        }
        for name in [
            streams::JOBS,
            streams::TASKS,
            streams::RESULTS,
            streams::ARTIFACTS,
            streams::SITES,
        ] {
            let stream = connection.stream(name).await?;
            let info = stream
                .get_info()
                .await
                .map_err(|error| Error::request(format!("stream {name}"), error))?;
            self.stream_bytes
                .with_label_values(&[name])
                .set(info.state.bytes as f64);
            if info.config.max_bytes > 0 {
                self.stream_limit_bytes
                    .with_label_values(&[name])
                    .set(info.config.max_bytes as f64);
            }
        }
        Ok(())
    }

    async fn read_queue(
        &self,
        tasks: &Stream<()>,
        info: &consumer::Info,
        site: &str,
        phase: Phase,
    ) -> Result<(), Error> {
        let labels = [site, phase.as_str()];
        self.queue_pending
            .with_label_values(&labels)
            .set(info.num_pending as f64);
        self.queue_ack_pending
            .with_label_values(&labels)
            .set(info.num_ack_pending as f64);
        self.queue_redelivered
            .with_label_values(&labels)
            .set(info.num_redelivered as f64);
        let open = info.num_pending > 0 || info.num_ack_pending > 0;
        let age = match open {
            true => oldest_age(tasks, info.ack_floor.stream_sequence, site, phase).await?,
            false => 0.0,
        };
        self.queue_oldest.with_label_values(&labels).set(age);
        Ok(())
    }
}

/// The age in seconds of the first task behind all that are answered.
async fn oldest_age(tasks: &Stream<()>, answered: u64, site: &str, phase: Phase) -> Result<f64, Error> {
    let oldest = tasks
        .raw_message_builder()
        .sequence(answered + 1)
        .next_by_subject(subjects::tasks(site, phase))
        .send()
        .await;
    match oldest {
        Ok(message) => Ok((clock::unix() - clock::of_server(message.time)).max(0.0)),
        // It was answered meanwhile.
        Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(0.0),
        Err(error) => Err(Error::request(
            format!("the oldest task of {phase} at {site}"),
            error,
        )),
    }
}
