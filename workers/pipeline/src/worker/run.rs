//! The worker's loop.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_nats::jetstream::{AckKind, Message};
use schemas::task::{Failure, Made, Outcome, Task, TaskKey, TaskOutput, TaskResult};
use tokio::{sync::oneshot, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{
    Described, Phase, TaskContext, Worker,
    admission::{Admission, Waiting},
    context::withheld,
    deliveries::Deliveries,
    queue::{acknowledge, answered, next, task_of, wait_answered},
    stopped,
};
use crate::{Error, clock, publish, subjects};

/// The handler's stack: as a program's main thread has, not the 2 MiB of other threads.
const STACK_BYTES: usize = 16 << 20;
/// Between two looks at whether the task was closed, which stops the work: a cancelled job ends within seconds.
const LOOK: Duration = Duration::from_secs(2);

/// How the work on a task ended, before anything was published.
enum Ended {
    /// The handler came back.
    Came(Result<TaskOutput, Failure>),
    /// The task was answered or closed by another.
    Closed,
    /// The worker is to end; the task goes back.
    Drained,
}

impl<P: Phase> Worker<P> {
    /// Works until `stop`: then the handler is told to stop, and its task goes back to the queue.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Error> {
        let (site, phase, pace) = (&self.settings.site, P::NAME, self.settings.pace);
        let label = [&**site, phase.as_str()];
        self.metrics.worker_slots.with_label_values(&label).inc();
        self.metrics.tasks_in_flight.with_label_values(&label).add(0.0);
        let mut consumer = None;
        let mut waiting = Waiting::none();
        while !stop.is_cancelled() {
            let message = tokio::select! {
                () = stop.cancelled() => break,
                decided = waiting.next() => Ok(decided),
                message = next(&self.connection, site, phase, pace, &mut consumer) => message,
            };
            match message {
                Ok(Some(message)) => {
                    let _busy = self.settings.activity.begin();
                    self.take(message, &waiting, &stop).await;
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!("{site} {phase}: {error}; trying again");
                    consumer = None;
                    tokio::select! {
                        () = stop.cancelled() => break,
                        () = sleep(Duration::from_millis(200)) => {}
                    }
                }
            }
        }
        Ok(())
    }

    /// One delivery of one task, to its acknowledgement.
    async fn take(&self, message: Message, waiting: &Waiting, stop: &CancellationToken) {
        let subject = message.subject.to_string();
        let Some(key) = subjects::key_of(&subject) else {
            tracing::error!("{subject}: not a task's subject");
            return acknowledge(&message, AckKind::Term).await;
        };
        let span = tracing::info_span!(
            "task",
            job = key.job,
            phase = P::NAME.as_str(),
            site = key.site,
            round = key.round,
            pass = key.pass,
            shard = key.shard,
        );
        self.answer_task(message, key, waiting, stop)
            .instrument(span)
            .await;
    }

    /// One delivery of a task that is known by name.
    async fn answer_task(&self, message: Message, key: TaskKey, waiting: &Waiting, stop: &CancellationToken) {
        let delivery = message.info().map_or(1, |info| info.delivered.max(1) as u64);
        let label = [&*self.settings.site, P::NAME.as_str()];
        if delivery > 1 {
            self.metrics.task_redeliveries.with_label_values(&label).inc();
        }
        let deliveries = Deliveries::open(&self.settings.state, &key, delivery);
        // Answered by another, or closed: nothing is left to do.
        match wait_answered(&self.connection, &key, stop).await {
            Some(true) => {
                self.count("stale");
                deliveries.close();
                return acknowledge(&message, AckKind::Ack).await;
            }
            Some(false) => {}
            None => return acknowledge(&message, AckKind::Nak(None)).await,
        }
        let started = clock::now();
        let described = Arc::new(Mutex::new(Described::default()));
        let ended = match task_of(&key, &message.payload, &self.settings) {
            Err(failure) => Ended::Came(Err(failure)),
            Ok(task) => match self.admission(&task).await {
                Admission::Refused(failure) => Ended::Came(Err(failure)),
                Admission::Waiting => {
                    // What no person has decided on is no crash, however often it comes.
                    deliveries.drained();
                    return self.hold(message, task, waiting, stop);
                }
                Admission::Granted if deliveries.fruitless() >= u64::from(self.settings.deliveries) => {
                    let message = format!(
                        "the worker died {} times on this task without getting further",
                        deliveries.fruitless()
                    );
                    Ended::Came(Err(Failure::fatal("crash-loop", message)))
                }
                Admission::Granted => {
                    if let Ok(info) = message.info() {
                        let waited = (clock::unix() - clock::of_server(info.published)).max(0.0);
                        self.metrics.task_wait.with_label_values(&label).observe(waited);
                    }
                    let begun = Instant::now();
                    let in_flight = self.metrics.tasks_in_flight.with_label_values(&label);
                    in_flight.inc();
                    let ended = self.work(&message, task, deliveries, &described, stop).await;
                    in_flight.dec();
                    self.took(begun.elapsed());
                    ended
                }
            },
        };
        let deliveries = Deliveries::open(&self.settings.state, &key, delivery);
        match ended {
            Ended::Closed => {
                self.count("stale");
                deliveries.close();
                acknowledge(&message, AckKind::Ack).await;
            }
            Ended::Drained => {
                deliveries.drained();
                acknowledge(&message, AckKind::Nak(None)).await;
            }
            Ended::Came(outcome) => {
                let described = described.lock().map(|own| own.clone()).unwrap_or_default();
                let made = self.made(described, started);
                if self.answer(&message, &key, outcome, made, stop).await {
                    deliveries.close();
                    acknowledge(&message, AckKind::Ack).await;
                }
            }
        }
    }

    /// Runs the handler on its own thread, with heartbeats, until it comes back.
    async fn work(
        &self,
        message: &Message,
        task: Arc<Task>,
        deliveries: Deliveries,
        described: &Arc<Mutex<Described>>,
        stop: &CancellationToken,
    ) -> Ended {
        let flag = Arc::new(AtomicBool::new(false));
        let context = TaskContext {
            connection: self.connection.clone(),
            handle: tokio::runtime::Handle::current(),
            key: task.key.clone(),
            stop: Arc::clone(&flag),
            described: Mutex::default(),
            last_progress: Mutex::default(),
            deliveries,
            metrics: self.metrics.clone(),
            archive: self.settings.archive.clone(),
        };
        let (sender, mut came) = oneshot::channel();
        let (phase, gate, described) = (
            Arc::clone(&self.phase),
            self.settings.gate.clone(),
            Arc::clone(described),
        );
        let key = task.key.clone();
        let span = tracing::Span::current();
        let spawned = std::thread::Builder::new()
            .name(P::NAME.as_str().to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                let _entered = span.entered();
                let run = || {
                    let _slot = match &gate {
                        Some(gate) if phase.heavy(&task) => Some(
                            gate.enter(&|| context.stopped())
                                .map_err(|error| slot_failure(&error))?,
                        ),
                        _ => None,
                    };
                    phase.run(&task, &context)
                };
                let outcome = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| {
                    // The panic's own words went to the site's log; they may hold names and paths.
                    Err(Failure::fatal(
                        "panic",
                        "the program broke off on this task; the site's log says where",
                    ))
                });
                let outcome = context.cleaned(outcome);
                if let (Ok(mut shared), Ok(own)) = (described.lock(), context.described.lock()) {
                    shared.clone_from(&own);
                }
                let _ = sender.send(outcome);
            });
        if let Err(error) = spawned {
            tracing::error!("cannot start a thread: {error}");
            return Ended::Came(Err(Failure::retryable("no-thread", "the system gave no thread")));
        }
        let (mut closed, mut beaten) = (false, Instant::now());
        let heartbeat = self.settings.pace.heartbeat;
        loop {
            tokio::select! {
                outcome = &mut came => {
                    return match outcome {
                        _ if closed => Ended::Closed,
                        Ok(Err(failure)) if stop.is_cancelled() && failure.code == "stopped" => Ended::Drained,
                        Ok(outcome) => Ended::Came(outcome),
                        Err(_) => Ended::Came(Err(Failure::fatal("panic", "the handler's thread vanished"))),
                    };
                }
                () = stop.cancelled(), if !flag.load(Ordering::Relaxed) => flag.store(true, Ordering::Relaxed),
                () = sleep(LOOK.min(heartbeat)) => {
                    if beaten.elapsed() >= heartbeat {
                        beaten = Instant::now();
                        if let Err(error) = message.ack_with(AckKind::Progress).await {
                            tracing::debug!("heartbeat: {error}");
                        }
                    }
                    if !closed && answered(&self.connection, &key).await.unwrap_or(false) {
                        closed = true;
                        flag.store(true, Ordering::Relaxed);
                    }
                }
            }
        }
    }

    /// Publishes the task's result, holding the task meanwhile. False when the worker is to end before that.
    async fn answer(
        &self,
        message: &Message,
        key: &TaskKey,
        outcome: Result<TaskOutput, Failure>,
        made: Made,
        stop: &CancellationToken,
    ) -> bool {
        let counted = match &outcome {
            Ok(_) => "done",
            Err(failure) if failure.retryable => "retry",
            Err(_) => "failed",
        };
        let mut result = TaskResult {
            key: key.clone(),
            outcome: match outcome {
                Ok(output) => Outcome::Done { output },
                Err(failure) => {
                    let Failure { code, message, .. } = &failure;
                    tracing::warn!("{}: {code}: {message}", subjects::tail(key));
                    Outcome::Failed { failure }
                }
            },
            made: Some(made),
            signature: None,
        };
        let subject = subjects::result(key);
        loop {
            if let Err(error) = self.settings.identity.sign(&mut result) {
                tracing::error!("{error}");
                return false;
            }
            let create = publish::create(&self.connection, &subject, publish::encode(&result));
            tokio::pin!(create);
            let created = loop {
                tokio::select! {
                    created = &mut create => break Some(created),
                    () = sleep(self.settings.pace.heartbeat) => {
                        let _ = message.ack_with(AckKind::Progress).await;
                        // A finished result is worth waiting for; but not for ever, once told to end.
                        if stop.is_cancelled() {
                            break None;
                        }
                    }
                }
            };
            match created {
                None => return false,
                Some(Ok(publish::Created::New)) => {
                    self.count(counted);
                    return true;
                }
                Some(Ok(publish::Created::Exists)) => {
                    self.count("stale");
                    return true;
                }
                Some(Err(error @ (Error::Refused { .. } | Error::Withheld { .. }))) => {
                    tracing::error!("{error}");
                    let failure = match error {
                        Error::Withheld { .. } => withheld(),
                        _ => Failure::fatal("result-refused", "the server refused the result"),
                    };
                    if matches!(&result.outcome, Outcome::Failed { failure: last } if *last == failure) {
                        return false;
                    }
                    result.outcome = Outcome::Failed { failure };
                }
                Some(Err(error)) => {
                    tracing::error!("{error}; trying again");
                    tokio::select! {
                        () = stop.cancelled() => return false,
                        () = sleep(self.settings.pace.heartbeat) => {}
                    }
                    let _ = message.ack_with(AckKind::Progress).await;
                }
            }
        }
    }

    fn took(&self, time: Duration) {
        let (label, seconds) = ([&*self.settings.site, P::NAME.as_str()], time.as_secs_f64());
        self.metrics
            .task_duration
            .with_label_values(&label)
            .observe(seconds);
        self.metrics
            .task_seconds
            .with_label_values(&label)
            .inc_by(seconds);
    }

    fn made(&self, described: Described, started: String) -> Made {
        Made {
            worker: self.settings.name.clone(),
            version: self.settings.version.clone(),
            device: described.device,
            threads: described.threads,
            instruction_set: described.instruction_set,
            started,
            finished: clock::now(),
        }
    }

    fn count(&self, outcome: &str) {
        self.metrics
            .tasks
            .with_label_values(&[&*self.settings.site, P::NAME.as_str(), outcome])
            .inc();
    }
}

fn slot_failure(error: &Error) -> Failure {
    match error {
        Error::Stopped => stopped(),
        error => {
            tracing::error!("{error}");
            Failure::fatal("no-slot", "the lock of the device cannot be taken at this site")
        }
    }
}
