//! Whether a site takes a task on. Asked before any handler sees it; a task may wait for a person's word.

use std::{fmt::Debug, sync::Arc, time::Duration};

use async_nats::jetstream::{AckKind, Message};
use schemas::{
    site::Progress,
    task::{Failure, Task, TaskKey},
};
use tokio::{
    sync::{
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
        oneshot,
    },
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    Phase, Worker,
    queue::{acknowledge, answered},
};
use crate::{exit::APPROVAL, publish, subjects};

/// Between two looks at whether a person has decided.
const LOOK: Duration = Duration::from_secs(1);

/// What a site says to a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is taken on.
    Granted,
    /// It is not, for this reason: its result.
    Refused(Failure),
    /// A person has not decided yet.
    Waiting,
}

/// Who says it.
pub trait Admit: Debug + Send + Sync {
    /// Decides on a task. May block; asked again for each delivery, and while it waits.
    fn admit(&self, task: &Task) -> Admission;
}

/// Tasks that wait for a person, beside the worker, which meanwhile works on others.
pub(super) struct Waiting {
    decided: UnboundedSender<Decided>,
    ready: UnboundedReceiver<Decided>,
}

/// A task that was decided on; its holder goes on until the other half is dropped.
type Decided = (Message, oneshot::Sender<()>);

impl Waiting {
    pub(super) fn none() -> Self {
        let (decided, ready) = unbounded_channel();
        Self { decided, ready }
    }

    /// The next task that was decided on.
    pub(super) async fn next(&mut self) -> Option<Message> {
        self.ready.recv().await.map(|(message, _taken)| message)
    }
}

impl<P: Phase> Worker<P> {
    /// What the site says to a task.
    pub(super) async fn admission(&self, task: &Arc<Task>) -> Admission {
        let Some(admit) = self.settings.admit.clone() else {
            return Admission::Granted;
        };
        let task = Arc::clone(task);
        let asked = tokio::task::spawn_blocking(move || admit.admit(&task)).await;
        asked.unwrap_or_else(|_| {
            let message = "the site's decision broke off; the site's log says where";
            Admission::Refused(Failure::fatal("panic", message))
        })
    }

    /// Holds a task until a person has decided, it is closed, or the worker is to end. The task stays this worker's.
    pub(super) fn hold(
        &self,
        message: Message,
        task: Arc<Task>,
        waiting: &Waiting,
        stop: &CancellationToken,
    ) {
        let (connection, heartbeat) = (self.connection.clone(), self.settings.pace.heartbeat);
        let (admit, decided, stop) = (self.settings.admit.clone(), waiting.decided.clone(), stop.clone());
        tracing::info!(
            job = task.key.job,
            "waits for {APPROVAL}: `rounds site preview` shows what would leave, `rounds site approve` lets it"
        );
        tokio::spawn(async move {
            let mut beaten: Option<Instant> = None;
            loop {
                if beaten.is_none_or(|beaten| beaten.elapsed() >= heartbeat.min(Duration::from_secs(5))) {
                    beaten = Some(Instant::now());
                    acknowledge(&message, AckKind::Progress).await;
                    let subject = subjects::progress(&task.key.site, &task.key.job);
                    publish::say(&connection, subject, publish::encode(&progress(&task.key))).await;
                }
                tokio::select! {
                    () = stop.cancelled() => return acknowledge(&message, AckKind::Nak(None)).await,
                    () = sleep(LOOK) => {}
                }
                if answered(&connection, &task.key).await.unwrap_or(false) {
                    tracing::info!(job = task.key.job, "waits no longer: the task was closed");
                    return acknowledge(&message, AckKind::Ack).await;
                }
                let (admit, asked) = (admit.clone(), Arc::clone(&task));
                let said = tokio::task::spawn_blocking(move || {
                    admit.map_or(Admission::Granted, |admit| admit.admit(&asked))
                });
                if !matches!(said.await, Ok(Admission::Waiting)) {
                    break;
                }
            }
            // The worker asks once more, and then works on it or answers it; until then it may be busy with another.
            let (taken_in, mut taken) = oneshot::channel();
            let _ = decided.send((message.clone(), taken_in));
            loop {
                tokio::select! {
                    _ = &mut taken => return,
                    () = stop.cancelled() => return acknowledge(&message, AckKind::Nak(None)).await,
                    () = sleep(heartbeat) => acknowledge(&message, AckKind::Progress).await,
                }
            }
        });
    }
}

fn progress(key: &TaskKey) -> Progress {
    Progress {
        job: key.job.clone(),
        site: key.site.clone(),
        phase: key.phase,
        round: key.round,
        pass: key.pass,
        shard: key.shard,
        what: APPROVAL.to_owned(),
        done: 0,
        total: 1,
    }
}
