//! Workers in trouble: handlers that panic, fail, hang, are stopped or take their worker with them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use pipeline::{
    connection::Connection,
    publish, streams, subjects, tail,
    worker::{Phase, TaskContext, stopped},
};
use schemas::{
    names,
    task::{Failure, Outcome, Task, TaskInput, TaskKey, TaskOutput, TaskResult},
};
use tokio_util::sync::CancellationToken;

use crate::{
    canned,
    jobs::{PACE, start},
    server::{private, until},
};

/// A training phase that does what its round says: 0 panics, 1 fails for now, 2 waits to be stopped.
struct Troubled {
    stopped: Arc<AtomicUsize>,
    begun: Arc<AtomicUsize>,
}

impl Phase for Troubled {
    const NAME: names::Phase = names::Phase::TrainRound;

    fn run(&self, task: &Task, context: &TaskContext) -> Result<TaskOutput, Failure> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        match (task.key.round, task.key.attempt) {
            (0, _) => panic!("/a/path/to/case_17.nii.gz"),
            (1, _) => Err(Failure::retryable("disk-full", "full")),
            _ => {
                while !context.stopped() {
                    std::thread::sleep(Duration::from_millis(5));
                }
                self.stopped.fetch_add(1, Ordering::SeqCst);
                Err(stopped())
            }
        }
    }
}

fn task(round: u32) -> Task {
    Task {
        key: TaskKey {
            site: "a".into(),
            phase: names::Phase::TrainRound,
            job: "j".into(),
            round,
            pass: 0,
            shard: 0,
            attempt: 1,
        },
        shards: 1,
        job: canned::accepted("j", canned::training(Some("j"), &["a"], 9), &["a"]),
        input: TaskInput::InspectModel {},
    }
}

async fn put(connection: &Connection, task: &Task) {
    publish::create(connection, &subjects::task(&task.key), publish::encode(task))
        .await
        .unwrap();
}

async fn answer(connection: &Connection, key: &TaskKey) -> TaskResult {
    let subject = subjects::result(key);
    let mut found = None;
    until(&subject, async || {
        found = tail::read_last(connection, streams::RESULTS, &subject)
            .await
            .ok()
            .flatten();
        found.is_some()
    })
    .await;
    schemas::parse(&found.unwrap()).unwrap()
}

fn failure(result: TaskResult) -> Failure {
    match result.outcome {
        Outcome::Failed { failure } => failure,
        other => panic!("{other:?}"),
    }
}

async fn all_acknowledged(connection: &Connection) {
    let mut consumer = streams::consumer(connection, "a", names::Phase::TrainRound, PACE)
        .await
        .unwrap();
    until("all tasks are acknowledged", async || {
        consumer
            .info()
            .await
            .is_ok_and(|info| info.num_pending == 0 && info.num_ack_pending == 0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_in_a_handler_is_a_result_and_the_worker_goes_on() {
    let private = private().await;
    let connection = &private.connection;
    let stop = CancellationToken::new();
    let (stopped, begun) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let phase = Troubled {
        stopped: stopped.clone(),
        begun: begun.clone(),
    };
    let worker = start(&private, "a", phase, &stop);
    for round in [0, 1] {
        put(connection, &task(round)).await;
    }
    let panicked = failure(answer(connection, &task(0).key).await);
    assert_eq!((&*panicked.code, panicked.retryable), ("panic", false));
    assert!(!panicked.message.contains("case_17"), "names stay at the site");
    let full = failure(answer(connection, &task(1).key).await);
    assert_eq!((&*full.code, full.retryable), ("disk-full", true));

    // Of a job of another version of the algorithm: it is not begun.
    let mut other = task(5);
    other.job.algorithm = 2;
    put(connection, &other).await;
    let differs = failure(answer(connection, &other.key).await);
    assert_eq!((&*differs.code, differs.retryable), ("version-differs", false));
    assert!(
        differs.message.contains("algorithm 2") && differs.message.contains("algorithm 0"),
        "{differs:?}"
    );

    // Closed before it starts: it is not begun.
    let close = |round| TaskResult {
        key: task(round).key,
        outcome: Outcome::Closed {
            reason: "cancelled".into(),
            resumes: 0,
        },
        made: None,
        signature: None,
    };
    let subject = subjects::result(&task(3).key);
    publish::create(connection, &subject, publish::encode(&close(3)))
        .await
        .unwrap();
    put(connection, &task(3)).await;
    all_acknowledged(connection).await;
    assert_eq!(begun.load(Ordering::SeqCst), 2);

    // Closed while it works: it is stopped at a heartbeat.
    put(connection, &task(2)).await;
    until("the work has begun", async || begun.load(Ordering::SeqCst) == 3).await;
    let subject = subjects::result(&task(2).key);
    publish::create(connection, &subject, publish::encode(&close(2)))
        .await
        .unwrap();
    until("the work is stopped", async || {
        stopped.load(Ordering::SeqCst) == 1
    })
    .await;
    all_acknowledged(connection).await;

    // Told to end while it works: the task goes back, and is no crash.
    put(connection, &task(4)).await;
    until("the work has begun", async || begun.load(Ordering::SeqCst) == 4).await;
    for round in 0..5 {
        let end = CancellationToken::new();
        let phase = Troubled {
            stopped: stopped.clone(),
            begun: begun.clone(),
        };
        match round {
            0 => {
                stop.cancel();
            }
            _ => {
                let worker = start(&private, "a", phase, &end);
                until("the task came again", async || {
                    begun.load(Ordering::SeqCst) == 4 + round
                })
                .await;
                end.cancel();
                worker.await.unwrap().unwrap();
            }
        }
    }
    worker.await.unwrap().unwrap();
    assert_eq!(
        tail::read_last(connection, streams::RESULTS, &subjects::result(&task(4).key))
            .await
            .unwrap(),
        None
    );
}

/// A phase whose worker vanishes: the future is dropped as by a crash, while the handler hangs.
struct Hangs {
    begun: Arc<AtomicUsize>,
    progress: usize,
}

impl Phase for Hangs {
    const NAME: names::Phase = names::Phase::TrainRound;

    fn run(&self, _: &Task, context: &TaskContext) -> Result<TaskOutput, Failure> {
        context.finished("epochs", self.progress);
        self.begun.fetch_add(1, Ordering::SeqCst);
        while !context.stopped() {
            std::thread::sleep(Duration::from_millis(5));
            if Arc::strong_count(&self.begun) == 1 {
                break;
            }
        }
        Err(stopped())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_task_that_kills_its_worker_without_progress_is_a_crash_loop() {
    let private = private().await;
    let connection = &private.connection;
    let begun = Arc::new(AtomicUsize::new(0));
    put(connection, &task(0)).await;
    // Two crashes with progress, then three without.
    for (crash, progress) in [1, 2, 2, 2].into_iter().enumerate() {
        let phase = Hangs {
            begun: begun.clone(),
            progress,
        };
        let worker = start(&private, "a", phase, &CancellationToken::new());
        until("the work has begun", async || {
            begun.load(Ordering::SeqCst) == crash + 1
        })
        .await;
        worker.abort();
        let _ = worker.await;
    }
    let stop = CancellationToken::new();
    let phase = Hangs {
        begun: begun.clone(),
        progress: 2,
    };
    start(&private, "a", phase, &stop);
    until("the work has begun", async || begun.load(Ordering::SeqCst) == 5).await;
    stop.cancel();
    // Without the drain, that was the third delivery without progress. With it, three more are granted.
    for crash in 6..9 {
        let phase = Hangs {
            begun: begun.clone(),
            progress: 2,
        };
        let worker = start(&private, "a", phase, &CancellationToken::new());
        until("the work has begun", async || {
            begun.load(Ordering::SeqCst) == crash
        })
        .await;
        worker.abort();
        let _ = worker.await;
    }
    let stop = CancellationToken::new();
    let phase = Hangs {
        begun: begun.clone(),
        progress: 2,
    };
    start(&private, "a", phase, &stop);
    let failure = failure(answer(connection, &task(0).key).await);
    assert_eq!((&*failure.code, failure.retryable), ("crash-loop", false));
    assert_eq!(begun.load(Ordering::SeqCst), 8, "it is not begun again");
    stop.cancel();
}
