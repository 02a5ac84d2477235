//! The nats-server's disk is lost in the middle of a job, and its power is cut.

use std::{fs, path::Path, sync::Arc};

use futures::StreamExt;
use pipeline::{
    archive::Archive,
    client::{Client, State, Watched},
    conductor::{Conductor, Record, Step},
    connection::Connection,
    metrics::Metrics,
    publish,
    server::{Server, ServerSettings},
    streams::{self, StreamSettings},
    subjects, tail,
    worker::{Phase, Worker, WorkerSettings},
};
use schemas::{
    event::{Event, Finished},
    names::{ORCHESTRATOR, Phase as Name},
    task::{Failure, Outcome, TaskKey, TaskResult},
};
use tokio_util::sync::CancellationToken;

use crate::{
    canned,
    jobs::{PACE, SITES, accept, ended, set_up, start},
    server::{Private, connect, private, program, until},
};

/// An orchestrator with an archive, and workers at all sites. `averages`: whether rounds are averaged.
async fn federation(private: &Private, archive: &Archive, averages: bool) -> CancellationToken {
    let settings = StreamSettings {
        first_submit: archive.next_submit().unwrap(),
        ..StreamSettings::default()
    };
    streams::set_up(&private.connection, &settings).await.unwrap();
    set_up(private).await;
    let stop = CancellationToken::new();
    for site in SITES {
        start(private, site, canned::Fingerprint, &stop);
        start(private, site, canned::PlanVerify, &stop);
        start(private, site, canned::Preprocess, &stop);
        start(private, site, canned::TrainRound, &stop);
        start(private, site, canned::Infer, &stop);
    }
    orchestrate(private, archive, canned::Aggregate, &stop);
    if averages {
        orchestrate(private, archive, canned::Average, &stop);
    }
    let check = Arc::new(|_: &_| Ok(Vec::new()));
    let conductor = Conductor::new(private.connection.clone(), canned::VERSION, check, Metrics::new());
    tokio::spawn(conductor.with_archive(archive.clone()).run(stop.clone()));
    stop
}

fn orchestrate<P: Phase>(private: &Private, archive: &Archive, phase: P, stop: &CancellationToken) {
    let folder = private.folder.path().join("orchestrator");
    let settings = WorkerSettings {
        pace: PACE,
        archive: Some(archive.clone()),
        ..WorkerSettings::new(ORCHESTRATOR, canned::VERSION, folder)
    };
    let worker = Worker::new(private.connection.clone(), phase, settings, Metrics::new());
    tokio::spawn(worker.run(stop.clone()));
}

/// A server whose disk is lost: another one, with nothing in it.
async fn lost(before: Private, stop: &CancellationToken) -> Private {
    stop.cancel();
    drop(before);
    private_without_streams().await
}

async fn private_without_streams() -> Private {
    let folder = tempfile::tempdir().unwrap();
    let server = serve(&folder.path().join("nats")).await;
    Private {
        connection: connect(&server.access()).await,
        server,
        folder,
    }
}

async fn serve(store: &Path) -> Server {
    let settings = ServerSettings {
        program: program(),
        ..ServerSettings::new(store)
    };
    tokio::task::spawn_blocking(move || Server::start(&settings).unwrap())
        .await
        .unwrap()
}

/// Waits until a job has this release and, of it, so many results.
async fn reached(connection: &Connection, job: &str, step: Step, results: usize) {
    until(&step.to_string(), async || {
        let Ok(record) = Record::load(connection, job, None).await else {
            return false;
        };
        let done = record
            .results
            .keys()
            .filter(|key| (key.phase, key.round, key.pass) == (step.phase, step.round, step.pass));
        record.release(step).is_some() && done.count() >= results
    })
    .await;
}

async fn finished(client: &Client, job: &str) -> Finished {
    match ended(client, job).await {
        Event::Finished(finished) => *finished,
        other => panic!("{other:?}"),
    }
}

/// The end of the same job when nothing is lost, but for how often it was resumed.
fn undisturbed(record: &Record) -> Finished {
    let world = crate::model::undisturbed(record.accepted.as_ref().unwrap());
    match world.end() {
        Some(Event::Finished(finished)) => Finished {
            resumes: record.resumes(),
            ..(**finished).clone()
        },
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_job_whose_server_lost_its_disk_comes_back_and_ends_in_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let archive = Archive::open(folder.path()).unwrap();
    let before = private_without_streams().await;
    let stop = federation(&before, &archive, true).await;
    let client = Client::new(before.connection.clone());
    let first = accept(&client, &canned::training(None, &SITES, 3)).await;
    let earlier = finished(&client, &first).await;
    // The next one's first round is trained, and never averaged: the updates are lost with the disk.
    stop.cancel();
    let stop = federation(&before, &archive, false).await;
    let mut message = canned::training(Some("second"), &SITES, 2);
    let schemas::job::Payload::Training(training) = &mut message.payload else {
        panic!();
    };
    training.starting_fed_round = 3;
    let second = accept(&client, &message).await;
    let averaging = Step {
        phase: Name::Average,
        round: 3,
        pass: 0,
    };
    reached(&before.connection, &second, averaging, 0).await;

    let after = lost(before, &stop).await;
    let stop = federation(&after, &archive, true).await;
    let client = Client::new(after.connection.clone());
    assert!(
        client.snapshot(&second).await.is_err(),
        "the server knows nothing"
    );
    // Their ids are not given again.
    let next = accept(&client, &canned::training(None, &["a"], 1)).await;
    assert_eq!(next, "job-2");
    let restored = client.restore(&archive, &second).await.unwrap();
    let jobs: Vec<&str> = restored.iter().map(|restored| &*restored.job).collect();
    assert_eq!(
        jobs,
        [&*first, "second"],
        "the job that it goes on from comes first"
    );
    assert!(restored[0].again.is_empty(), "a finished job is whole");
    let again: Vec<String> = restored[1].again.iter().map(Step::to_string).collect();
    assert_eq!(again, ["train-round.3.0", "average.3.0"]);

    let end = finished(&client, &second).await;
    let snapshot = client.snapshot(&second).await.unwrap();
    assert_eq!(end, undisturbed(&snapshot.record));
    assert_eq!(end.resumes, 1);
    let snapshot = client.snapshot(&first).await.unwrap();
    assert_eq!(
        (snapshot.state, &snapshot.record.end),
        (State::Finished, &Some(Event::Finished(Box::new(earlier.clone()))))
    );
    let file = after.folder.path().join("results");
    client.download(&earlier.results.unwrap(), &file).await.unwrap();

    // The disk is lost once more, behind the end.
    let again = lost(after, &stop).await;
    let stop = federation(&again, &archive, true).await;
    let client = Client::new(again.connection.clone());
    client.restore(&archive, &second).await.unwrap();
    let snapshot = client.snapshot(&second).await.unwrap();
    assert_eq!(snapshot.record.end, Some(Event::Finished(Box::new(end))));
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn zips_that_are_lost_are_made_again_and_a_live_jobs_id_is_not_given_twice() {
    let folder = tempfile::tempdir().unwrap();
    let archive = Archive::open(folder.path()).unwrap();
    let before = private_without_streams().await;
    let stop = federation(&before, &archive, true).await;
    let client = Client::new(before.connection.clone());
    let job = accept(&client, &canned::inference(Some("segment"), &SITES, "model")).await;
    let end = finished(&client, &job).await;

    let after = lost(before, &stop).await;
    let stop = federation(&after, &archive, true).await;
    let client = Client::new(after.connection.clone());
    let submit = client
        .submit(&canned::inference(Some("segment"), &SITES, "model"))
        .await
        .unwrap();
    let verdict = format!("{:?}", client.verdict(submit).await.unwrap());
    assert!(
        verdict.contains("job_id") && verdict.contains("rounds resume segment"),
        "{verdict}"
    );
    let restored = client.restore(&archive, &job).await.unwrap();
    let again: Vec<String> = restored[0].again.iter().map(Step::to_string).collect();
    assert_eq!(again, ["infer.0.2"]);
    let restored = finished(&client, &job).await;
    assert_eq!(restored.segmentations, end.segmentations);
    let unknown = client.restore(&archive, "other").await.unwrap_err().to_string();
    assert!(unknown.contains("other"), "{unknown}");
    stop.cancel();
}

/// A copy of the store of a running server shows what it has handed to the system: nothing acknowledged waits in the
/// server itself. That the system puts it on the disk before the acknowledgement is `sync_interval: always`.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_power_cut_loses_no_acknowledged_result() {
    let private = private().await;
    let result = |round| TaskResult {
        key: TaskKey {
            site: "a".into(),
            phase: Name::TrainRound,
            job: "j".into(),
            round,
            pass: 0,
            shard: 0,
            attempt: 1,
        },
        outcome: Outcome::Failed {
            failure: Failure::fatal("none", "none"),
        },
        made: None,
        signature: None,
    };
    let store = private.folder.path().join("nats");
    let settings = fs::read_to_string(store.join("nats.conf")).unwrap();
    assert!(settings.contains("sync_interval: always"), "{settings}");
    let mut acknowledged = 0;
    for cut in 0..5 {
        for _ in 0..40 {
            let result = result(acknowledged);
            let subject = subjects::result(&result.key);
            publish::create(&private.connection, &subject, publish::encode(&result))
                .await
                .unwrap();
            acknowledged += 1;
        }
        // The server runs on: nothing of it is closed or flushed for the copy.
        let copy = private.folder.path().join(format!("cut-{cut}"));
        copy_of(&store.join("streams"), &copy.join("streams"));
        let server = serve(&copy).await;
        let connection = connect(&server.access()).await;
        let kept = tail::read_all(&connection, streams::RESULTS, ">").await.unwrap();
        assert_eq!(kept.len(), acknowledged as usize);
    }
}

fn copy_of(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_of(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// What a job may hold at a time, in artifacts of one chunk: the two pooled documents; the last three averages, the
/// best, and one that is just made; the updates of three rounds, the last of which are on their way.
const WORKING_SET: usize = 2 + 5 + 3 * SITES.len();

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_job_of_many_rounds_never_grows_past_its_working_set() {
    let folder = tempfile::tempdir().unwrap();
    let archive = Archive::open(folder.path()).unwrap();
    let private = private_without_streams().await;
    let stop = federation(&private, &archive, true).await;
    let client = Client::new(private.connection.clone());
    let job = accept(&client, &canned::training(Some("long"), &SITES, 40)).await;
    let mut events = client.watch(&job).await.unwrap();
    let mut sizes = Vec::new();
    while let Some(watched) = events.next().await {
        if let Watched::Event(Event::Released(release)) = watched
            && (release.phase, release.pass) == (Name::TrainRound, 0)
            && release.round >= 3
        {
            let mut stream = private
                .connection
                .jetstream()
                .get_stream(streams::ARTIFACTS)
                .await
                .unwrap();
            let state = &stream.info().await.unwrap().state;
            let kept = fs::read_dir(folder.path().join("long/artifacts"))
                .unwrap()
                .count();
            sizes.push((release.round, state.messages as usize, state.bytes, kept));
        }
    }
    assert_eq!(sizes.len(), 37);
    for (round, messages, _, kept) in &sizes {
        assert!(
            *messages <= WORKING_SET && *kept <= WORKING_SET,
            "round {round}: {messages} artifacts in the stream, {kept} in the archive\n{sizes:?}"
        );
    }
    println!(
        "bytes after round 3: {}, after round 39: {}",
        sizes[0].2,
        sizes[sizes.len() - 1].2
    );
    stop.cancel();
}
