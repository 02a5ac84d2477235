//! Whole jobs through conductors and workers, on a real server that is killed meanwhile.

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::StreamExt;
use pipeline::{
    client::{Client, State, Verdict, Watched},
    conductor::Conductor,
    connection::Connection,
    gate::Gate,
    metrics::Metrics,
    streams::{self, Pace},
    tail,
    worker::{Phase, Worker, WorkerSettings, announce},
};
use schemas::{
    PROTOCOL_VERSION,
    event::Event,
    job::JobMessage,
    names::{self, ORCHESTRATOR},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    canned, model,
    server::{PATIENCE, Private, connect, crash, private, until},
};

pub const SITES: [&str; 3] = ["a", "b", "c"];

/// Short, so that a task of a vanished worker comes again soon.
pub const PACE: Pace = Pace {
    ack_wait: Duration::from_secs(2),
    heartbeat: Duration::from_millis(300),
};

pub fn settings(site: &str, folder: &Path) -> WorkerSettings {
    WorkerSettings {
        pace: PACE,
        gate: Some(Gate::new([folder.join("slot")])),
        ..WorkerSettings::new(site, canned::VERSION, folder.join(site))
    }
}

pub fn start<P: Phase>(
    private: &Private,
    site: &str,
    phase: P,
    stop: &CancellationToken,
) -> JoinHandle<Result<(), pipeline::Error>> {
    let settings = settings(site, private.folder.path());
    let worker = Worker::new(private.connection.clone(), phase, settings, Metrics::new());
    tokio::spawn(worker.run(stop.clone()))
}

/// One conductor on the test's own connection.
pub fn conduct(private: &Private, stop: &CancellationToken) {
    conduct_on(private.connection.clone(), &Metrics::new(), stop);
}

fn conduct_on(connection: Connection, metrics: &Metrics, stop: &CancellationToken) {
    let check = Arc::new(|message: &JobMessage| match message.federation.seed {
        13 => Err(schemas::Invalid::new("federation.seed", "13: unlucky")),
        _ => Ok(vec!["a warning".to_owned()]),
    });
    let conductor = Conductor::new(connection, canned::VERSION, check, metrics.clone());
    tokio::spawn(conductor.run(stop.clone()));
}

/// The consumers of all sites, which have announced themselves, and of the orchestrator.
pub async fn set_up(private: &Private) {
    for site in SITES {
        streams::set_up_site(&private.connection, site, PACE)
            .await
            .unwrap();
        announce(&private.connection, &canned::announce(site))
            .await
            .unwrap();
    }
    streams::set_up_site(&private.connection, ORCHESTRATOR, PACE)
        .await
        .unwrap();
}

async fn federation(private: &Private, stop: &CancellationToken) {
    set_up(private).await;
    for site in SITES {
        start(private, site, canned::Fingerprint, stop);
        start(private, site, canned::PlanVerify, stop);
        start(private, site, canned::Preprocess, stop);
        start(private, site, canned::TrainRound, stop);
        start(private, site, canned::Infer, stop);
    }
    orchestrate(private, stop);
}

/// The orchestrator's workers.
pub fn orchestrate(private: &Private, stop: &CancellationToken) {
    start(private, ORCHESTRATOR, canned::Aggregate, stop);
    start(private, ORCHESTRATOR, canned::Average, stop);
}

pub async fn accept(client: &Client, message: &JobMessage) -> String {
    let submit = client.submit(message).await.unwrap();
    match client.verdict(submit).await.unwrap() {
        Verdict::Accepted(accepted) => accepted.job,
        Verdict::Rejected(rejected) => panic!("{rejected:?}"),
    }
}

async fn reject(client: &Client, message: &[u8]) -> (String, String) {
    let submit = client
        .submit_bytes(Bytes::copy_from_slice(message))
        .await
        .unwrap();
    match client.verdict(submit).await.unwrap() {
        Verdict::Accepted(accepted) => panic!("{accepted:?}"),
        Verdict::Rejected(rejected) => (rejected.path, rejected.reason),
    }
}

/// Watches a job to its end.
pub async fn ended(client: &Client, job: &str) -> Event {
    let mut events = client.watch(job).await.unwrap();
    let mut end = None;
    let watching = async {
        while let Some(watched) = events.next().await {
            if let Watched::Event(event) = watched {
                end = Some(event);
            }
        }
    };
    tokio::time::timeout(3 * PATIENCE, watching)
        .await
        .expect("the job ends");
    end.expect("a job has events")
}

/// The subjects of all messages of a stream.
pub async fn stored(connection: &Connection, stream: &str) -> Vec<String> {
    let all = tail::read_all(connection, stream, ">").await.unwrap();
    all.into_iter().map(|message| message.subject).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn jobs_go_through_while_the_server_crashes_and_conductors_race() {
    let private = private().await;
    let stop = CancellationToken::new();
    let metrics = Metrics::new();
    federation(&private, &stop).await;
    for _ in 0..2 {
        conduct_on(connect(&private.server.access()).await, &metrics, &stop);
    }
    let client = Client::new(private.connection.clone());
    let job = accept(&client, &canned::training(None, &SITES, 6)).await;
    assert_eq!(job, "job-1");
    let reached = async |phase: names::Phase, round: u32| {
        let what = format!("{phase} {round}");
        until(&what, async || {
            let Ok(listed) = client.list().await else {
                return false;
            };
            listed[0]
                .phase
                .is_some_and(|(at, in_round)| (at, in_round) >= (phase, round))
        })
        .await;
    };
    reached(names::Phase::Aggregate, 0).await;
    crash(&private.server).await;
    reached(names::Phase::TrainRound, 1).await;
    crash(&private.server).await;
    // A third conductor, which knows nothing, joins in the middle.
    conduct_on(connect(&private.server.access()).await, &metrics, &stop);
    let Event::Finished(finished) = ended(&client, &job).await else {
        panic!("{:?}", client.snapshot(&job).await.unwrap().record.end);
    };
    assert_eq!(finished.history.scores.len(), 7);
    let file = private.folder.path().join("results");
    client
        .download(finished.results.as_ref().unwrap(), &file)
        .await
        .unwrap();
    assert!(file.is_file());
    let snapshot = client.snapshot(&job).await.unwrap();
    assert_eq!(snapshot.state, State::Finished);
    assert_eq!(snapshot.record.accepted.as_ref().unwrap().warnings, ["a warning"]);
    assert_eq!(snapshot.record.releases.len(), 8 + 12 + 2);
    // The undisturbed job, in memory, ends in the same bytes.
    let undisturbed = model::undisturbed(snapshot.record.accepted.as_ref().unwrap());
    assert_eq!(undisturbed.end(), snapshot.record.end.as_ref());
    for stream in [streams::JOBS, streams::TASKS, streams::RESULTS] {
        let subjects = stored(&private.connection, stream).await;
        let distinct: BTreeSet<&String> = subjects.iter().collect();
        assert_eq!(distinct.len(), subjects.len(), "{stream}: once each");
    }
    // The updates are gone; what can be continued from is there.
    until("the sites' artifacts are purged", async || {
        let left = stored(&private.connection, streams::ARTIFACTS).await;
        !left
            .iter()
            .any(|subject| !subject.starts_with("rounds.artifact.global.job-1."))
            && left.len() == 2 + 4 + 1
    })
    .await;
    let text = metrics.text();
    assert!(
        text.contains("rounds_job_rounds_completed{job=\"job-1\"} 6"),
        "{text}"
    );
    assert!(
        text.contains("rounds_job_state{job=\"job-1\",state=\"finished\"} 1"),
        "{text}"
    );

    // The model of the finished job, and its continuation.
    let inference = accept(&client, &canned::inference(Some("segment"), &SITES, "job:job-1")).await;
    let accepted = client
        .snapshot(&inference)
        .await
        .unwrap()
        .record
        .accepted
        .unwrap();
    assert_eq!(accepted.model, finished.results);
    let Event::Finished(segmented) = ended(&client, &inference).await else {
        panic!();
    };
    assert_eq!(segmented.segmentations.len(), 3);
    let mut message = canned::training(Some("longer"), &SITES, 1);
    let schemas::job::Payload::Training(training) = &mut message.payload else {
        panic!();
    };
    training.starting_fed_round = 6;
    let longer = accept(&client, &message).await;
    let accepted = client.snapshot(&longer).await.unwrap().record.accepted.unwrap();
    let continues = accepted.continues.unwrap();
    assert_eq!(
        (&*continues.job, continues.epochs, continues.updates.len()),
        ("job-1", 12, 3)
    );
    assert_eq!(continues.history.scores.len(), 6);
    let Event::Finished(longer) = ended(&client, &longer).await else {
        panic!();
    };
    assert_eq!(longer.history.scores.len(), 8);
    assert_eq!(longer.history.scores[6], finished.history.scores[6]);
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_are_no_job_are_rejected_with_their_field() {
    let private = private().await;
    let stop = CancellationToken::new();
    conduct(&private, &stop);
    let client = Client::new(private.connection.clone());
    let good = canned::training(Some("used"), &["a", "b"], 1);
    let text = |message: &JobMessage| serde_json::to_value(message).unwrap();
    let (path, reason) = reject(&client, text(&good).to_string().as_bytes()).await;
    assert_eq!(path, "datasets[0]");
    assert!(
        reason.contains("set-a") && reason.contains("no site has announced any"),
        "{reason}"
    );
    for site in ["a", "b"] {
        announce(&private.connection, &canned::announce(site))
            .await
            .unwrap();
    }
    let mut both = canned::announce("both");
    both.datasets[0].id = "one".into();
    both.datasets.push(both.datasets[0].clone());
    both.datasets[1].id = "two".into();
    announce(&private.connection, &both).await.unwrap();
    let mut old = canned::announce("old");
    old.version = "0.0.0-older".into();
    old.algorithm = 7;
    announce(&private.connection, &old).await.unwrap();
    assert_eq!(client.sites().await.unwrap().len(), 4);

    // No worker runs: it is accepted all the same, and waits.
    assert_eq!(accept(&client, &good).await, "used");
    let before = client.snapshot("used").await.unwrap();
    let changed = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut value = text(&good);
        value["job_id"] = serde_json::Value::Null;
        change(&mut value);
        value.to_string()
    };
    type Change = Box<dyn Fn(&mut serde_json::Value)>;
    let set = |pointer: &'static str, to: serde_json::Value| -> Change {
        Box::new(move |value| {
            let (parent, field) = pointer.rsplit_once('/').unwrap();
            value.pointer_mut(parent).unwrap()[field] = to.clone();
        })
    };
    let unlike = format!(
        "site old runs version 0.0.0-older (protocol {PROTOCOL_VERSION}, algorithm 7); the orchestrator runs 0.0.0-test \
         (protocol {PROTOCOL_VERSION}, algorithm 0)"
    );
    let cases: Vec<(Change, &str, &str)> = vec![
        (
            set("/job_id", "used".into()),
            "job_id",
            "is used by an earlier job",
        ),
        (
            set("/job_id", "job-99".into()),
            "job_id",
            "are for jobs that give none",
        ),
        (set("/job_id", "a.b".into()), "job_id", "is not a name"),
        (
            set("/payload/epochs", 3.into()),
            "payload.epochs",
            "unknown field",
        ),
        (
            set("/payload/dataset_id", 5.into()),
            "payload.dataset_id",
            "has the id 4",
        ),
        (
            set("/payload/device", "cuda".into()),
            "payload.device",
            "it has cpu",
        ),
        (
            set("/datasets", ["set-a", "set-z"].into()),
            "datasets[1]",
            "announced are one, set-a, set-b, set-old, two",
        ),
        (
            set("/datasets", ["one", "two"].into()),
            "datasets[1]",
            "both at site both",
        ),
        (set("/datasets", ["set-old"].into()), "datasets[0]", &unlike),
        (set("/federation/seed", 13.into()), "federation.seed", "unlucky"),
        (
            set("/federation/site_devices", serde_json::json!({"a": "mps"})),
            "federation.site_devices.a",
            "has no device mps",
        ),
        (
            set("/federation/site_devices", serde_json::json!({"z": "cpu"})),
            "federation.site_devices.z",
            "not a site",
        ),
        (
            set("/payload/starting_fed_round", 1.into()),
            "resume_from",
            "has not ended yet",
        ),
    ];
    for (change, path, reason) in cases {
        let (found_path, found_reason) = reject(&client, changed(&change).as_bytes()).await;
        assert_eq!(found_path, path, "{found_reason}");
        assert!(found_reason.contains(reason), "{found_path}: {found_reason}");
    }
    let (path, _) = reject(&client, b"{ not json").await;
    assert_eq!(path, ".");
    let model = serde_json::to_vec(&canned::inference(None, &["a"], "job:used")).unwrap();
    let (path, reason) = reject(&client, &model).await;
    assert_eq!(path, "payload.checkpoint_path");
    assert!(reason.contains("no results"), "{reason}");
    // The job whose id was tried again is as it was.
    let after = client.snapshot("used").await.unwrap();
    assert_eq!(
        (after.state, after.record.accepted),
        (State::Running, before.record.accepted)
    );
    stop.cancel();
}
