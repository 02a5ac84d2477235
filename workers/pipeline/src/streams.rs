//! The five streams, and one durable pull consumer for each site and phase.

use std::time::Duration;

use async_nats::jetstream::{
    ErrorCode,
    consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull},
    context::CreateStreamErrorKind,
    stream::{Config, DiscardPolicy, RetentionPolicy, StorageType},
};
use schemas::names::{ORCHESTRATOR, Phase};

use crate::{Error, connection::Connection, direct, subjects};

/// Submits, job events, and timers.
pub const JOBS: &str = "ROUNDS_JOBS";
/// Messages of work.
pub const TASKS: &str = "ROUNDS_TASKS";
/// Their answers.
pub const RESULTS: &str = "ROUNDS_RESULTS";
/// Chunks of artifacts.
pub const ARTIFACTS: &str = "ROUNDS_ARTIFACTS";
/// What sites say of themselves.
pub const SITES: &str = "ROUNDS_SITES";

/// What an installation may choose about its streams.
#[derive(Clone, Debug)]
pub struct StreamSettings {
    /// Copies of every message: 1, or 3 on a cluster.
    pub replicas: usize,
    /// Bound on the bytes of all artifacts together. Where the server has less room, a new stream gets the
    /// largest half, quarter, ... of it that fits.
    pub artifact_bytes: u64,
    /// The stream sequence of the first submit that a new server takes. Ids of the form job-<number> come from it.
    pub first_submit: u64,
}

impl Default for StreamSettings {
    fn default() -> Self {
        Self {
            replicas: 1,
            artifact_bytes: 64 << 30,
            first_submit: 1,
        }
    }
}

/// How long a task may be silent, and how often its worker speaks.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// A task is delivered again this long after its worker's last heartbeat.
    pub ack_wait: Duration,
    /// Between two heartbeats.
    pub heartbeat: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            ack_wait: Duration::from_secs(30),
            heartbeat: Duration::from_secs(10),
        }
    }
}

/// The streams' configurations.
pub fn configs(settings: &StreamSettings) -> Vec<Config> {
    let base = |name: &str, subjects: &[&str]| Config {
        name: name.to_owned(),
        subjects: subjects.iter().map(|&subject| subject.to_owned()).collect(),
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        num_replicas: settings.replicas,
        max_messages: -1,
        max_messages_per_subject: -1,
        max_bytes: -1,
        discard: DiscardPolicy::Old,
        ..Config::default()
    };
    // A second message on a subject is refused by the server itself, whatever its publisher expects.
    let once = |name: &str, subjects: &[&str]| Config {
        max_messages_per_subject: 1,
        discard: DiscardPolicy::New,
        discard_new_per_subject: true,
        ..base(name, subjects)
    };
    vec![
        Config {
            allow_message_schedules: true,
            allow_direct: true,
            first_sequence: Some(settings.first_submit).filter(|first| *first > 1),
            ..base(
                JOBS,
                &[subjects::SUBMIT, subjects::ALL_JOBS, subjects::ALL_TIMERS],
            )
        },
        once(TASKS, &["rounds.task.>"]),
        Config {
            allow_direct: true,
            ..once(RESULTS, &["rounds.result.>"])
        },
        Config {
            // The same bytes may be sent again, so a subject's message is replaced, not refused.
            max_messages_per_subject: 1,
            discard: DiscardPolicy::New,
            max_bytes: i64::try_from(settings.artifact_bytes).unwrap_or(i64::MAX),
            allow_direct: true,
            ..base(ARTIFACTS, &["rounds.artifact.>"])
        },
        Config {
            max_messages_per_subject: 1,
            allow_direct: true,
            ..base(SITES, &[subjects::ALL_ANNOUNCES, subjects::ALL_FOLDERS])
        },
    ]
}

/// Between two looks at whether the streams are still there, and whether a site is new.
pub(crate) const LOOK: Duration = Duration::from_secs(2);

/// The least room for artifacts that is worth a start.
const LEAST_ARTIFACT_BYTES: i64 = 256 << 20;

/// Creates the streams, or brings them to these settings. Doing it twice changes nothing.
pub async fn set_up(connection: &Connection, settings: &StreamSettings) -> Result<(), Error> {
    for mut config in configs(settings) {
        let name = config.name.clone();
        loop {
            let error = match connection
                .jetstream()
                .create_or_update_stream(config.clone())
                .await
            {
                Ok(_) => break,
                Err(error) => error,
            };
            let full = matches!(error.kind(), CreateStreamErrorKind::JetStream(error)
                if error.error_code() == ErrorCode::STORAGE_RESOURCES_EXCEEDED);
            // A stream that is there keeps the room it has.
            if full && connection.jetstream().get_stream(&name).await.is_ok() {
                // None is asked for, and still refused: the server started on a fuller disk than before, and has promised
                // more than it would now.
                if config.max_bytes < 0 {
                    tracing::warn!("stream {name} stays as it is: {error}");
                }
                break;
            }
            if !full || config.max_bytes <= LEAST_ARTIFACT_BYTES {
                return Err(Error::request(format!("create stream {name}"), error));
            }
            config.max_bytes /= 2;
            tracing::debug!(
                "stream {name}: the server has less room; asking for {} bytes",
                config.max_bytes
            );
        }
    }
    Ok(())
}

/// When the stream of jobs was made, in nanoseconds since 1970: another time is another stream. None where it is gone.
async fn made(connection: &Connection) -> Result<Option<i128>, Error> {
    use async_nats::jetstream::context::GetStreamErrorKind;
    match connection.jetstream().get_stream(JOBS).await {
        Ok(stream) => Ok(Some(stream.cached_info().created.unix_timestamp_nanos())),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                Ok(None)
            }
            _ => Err(Error::request(format!("look at stream {JOBS}"), error)),
        },
    }
}

/// Comes back when the server has lost what this part has said: a subject of [`SITES`] that it published before, or
/// will, is empty again. For guests, who may not look at a stream.
async fn said_no_more(connection: &Connection, subject: &str) {
    let mut said = false;
    loop {
        match direct::last(connection, SITES, subject).await {
            Ok(Some(_)) => said = true,
            Ok(None) if said => return,
            Ok(None) => {}
            Err(error) => tracing::debug!("{error}"),
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Comes back when the server has lost the streams that were set up: its disk is a new one. What stands in them came
/// from elsewhere since. Waits for them to be set up first. `own` is the subject of [`SITES`] on which this part speaks,
/// where it is a site's.
pub async fn lost(connection: &Connection, own: Option<&str>) {
    if let (true, Some(own)) = (connection.is_guest(), own) {
        return said_no_more(connection, own).await;
    }
    let mut known = None;
    loop {
        match (made(connection).await, known) {
            (Ok(Some(found)), None) => known = Some(found),
            (Ok(found), Some(known)) if found != Some(known) => return,
            (Err(error), _) => tracing::debug!("{error}"),
            _ => {}
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Creates all durable consumers of a site (or of `orchestrator`), so that their lag can be seen before a
/// worker runs. Doing it twice changes nothing.
pub async fn set_up_site(connection: &Connection, site: &str, pace: Pace) -> Result<(), Error> {
    for phase in Phase::ALL {
        if phase.at_orchestrator() == (site == ORCHESTRATOR) {
            consumer(connection, site, phase, pace).await?;
        }
    }
    Ok(())
}

/// The durable consumer of a site's phase, created where it is not there; a guest finds it, or not.
pub async fn consumer(
    connection: &Connection,
    site: &str,
    phase: Phase,
    pace: Pace,
) -> Result<PullConsumer, Error> {
    let name = subjects::durable(site, phase);
    if connection.is_guest() {
        let tasks = connection.stream(TASKS).await?;
        return tasks
            .get_consumer(&name)
            .await
            .map_err(|error| Error::request(format!("find consumer {name}"), error));
    }
    let config = pull::Config {
        durable_name: Some(name.clone()),
        filter_subject: subjects::tasks(site, phase),
        deliver_policy: DeliverPolicy::All,
        ack_policy: AckPolicy::Explicit,
        ack_wait: pace.ack_wait,
        max_deliver: -1,
        ..pull::Config::default()
    };
    connection
        .jetstream()
        .create_consumer_on_stream(config, TASKS)
        .await
        .map_err(|error| Error::request(format!("create consumer {name}"), error))
}
