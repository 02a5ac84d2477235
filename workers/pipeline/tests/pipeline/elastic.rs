//! Slow and dead sites, and jobs that are resumed, on a real server: the deadlines are its own.

use pipeline::{
    client::{Client, Resumption, State, dead},
    streams,
    worker::{Phase, TaskContext, announce},
};
use schemas::{
    event::{Event, Release},
    names,
    task::{Failure, Outcome, Task, TaskInput, TaskOutput},
};
use tokio_util::sync::CancellationToken;

use crate::{
    canned,
    jobs::{SITES, accept, conduct, ended, orchestrate, set_up, start, stored},
    model,
    server::{Private, private, until},
};

/// Workers of a site for all phases but train-round.
fn prepare(private: &Private, site: &str, stop: &CancellationToken) {
    start(private, site, canned::Fingerprint, stop);
    start(private, site, canned::PlanVerify, stop);
    start(private, site, canned::Preprocess, stop);
}

async fn trained(client: &Client, job: &str, site: &str, round: u32) {
    until(&format!("{site} has trained round {round}"), async || {
        let Ok(snapshot) = client.snapshot(job).await else {
            return false;
        };
        snapshot.record.results.values().any(|result| {
            let key = &result.key;
            (key.phase, &*key.site, key.round) == (names::Phase::TrainRound, site, round)
                && matches!(result.outcome, Outcome::Done { .. })
        })
    })
    .await;
}

async fn closed(client: &Client, job: &str, site: &str) {
    until(&format!("the open task of {site} is closed"), async || {
        let Ok(snapshot) = client.snapshot(job).await else {
            return false;
        };
        let mut results = snapshot.record.results.values();
        results.any(|result| result.key.site == site && matches!(result.outcome, Outcome::Closed { .. }))
    })
    .await;
}

fn averaged(releases: &[Release], round: u32) -> Vec<&str> {
    let average = releases
        .iter()
        .find(|release| (release.phase, release.round, release.pass) == (names::Phase::Average, round, 0));
    match &average.unwrap().work[0].input {
        TaskInput::Average { updates, .. } => updates.iter().map(|update| &*update.site).collect(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_round_waits_for_its_quorum_and_goes_on_without_who_is_late() {
    let private = private().await;
    let stop = CancellationToken::new();
    set_up(&private).await;
    conduct(&private, &stop);
    start(&private, names::ORCHESTRATOR, canned::Aggregate, &stop);
    SITES.iter().for_each(|site| prepare(&private, site, &stop));
    let first = stop.child_token();
    start(&private, "a", canned::TrainRound, &first);
    let client = Client::new(private.connection.clone());
    let mut message = canned::training(Some("elastic"), &SITES, 2);
    message.federation.min_sites = Some(2);
    message.federation.round_deadline_seconds = Some(1);
    let job = accept(&client, &message).await;

    // One of three is too few: it says so, and waits.
    trained(&client, &job, "a", 0).await;
    until("the job is paused", async || {
        client
            .list()
            .await
            .is_ok_and(|listed| listed[0].state == State::Paused)
    })
    .await;
    let waiting = client.snapshot(&job).await.unwrap().record.waiting().unwrap();
    assert_eq!(waiting.silent, ["b", "c"]);
    assert_eq!((waiting.done, waiting.needed), (1, 2));
    let nothing = client.resume(&job, &[]).await.unwrap();
    assert_eq!(nothing, Resumption::Waits(vec!["b".into(), "c".into()]));
    start(&private, "b", canned::TrainRound, &first);
    trained(&client, &job, "b", 0).await;
    first.cancel();
    closed(&client, &job, "c").await;

    // The one that was late finds its task closed, and joins the next round; the others come behind it.
    start(&private, "c", canned::TrainRound, &stop);
    start(&private, names::ORCHESTRATOR, canned::Average, &stop);
    trained(&client, &job, "c", 1).await;
    start(&private, "a", canned::TrainRound, &stop);
    start(&private, "b", canned::TrainRound, &stop);
    let Event::Finished(finished) = ended(&client, &job).await else {
        panic!("{:?}", client.snapshot(&job).await.unwrap().record.end);
    };
    let record = client.snapshot(&job).await.unwrap().record;
    assert_eq!(averaged(&record.releases, 0), ["a", "b"]);
    assert!(averaged(&record.releases, 1).contains(&"c"));
    let late = record.results.values().find(|result| {
        (result.key.phase, &*result.key.site, result.key.round) == (names::Phase::TrainRound, "c", 0)
    });
    let Outcome::Closed { reason, .. } = &late.unwrap().outcome else {
        panic!("{late:?}");
    };
    assert_eq!(
        reason,
        "late: the job went on from train-round.0.0 without this site"
    );
    assert_eq!(finished.history.scores[0].without, ["c"]);
    stop.cancel();
}

/// Site b has no room until somebody makes some.
struct NoRoom(CancellationToken);

impl Phase for NoRoom {
    const NAME: names::Phase = names::Phase::TrainRound;

    fn run(&self, task: &Task, context: &TaskContext) -> Result<TaskOutput, Failure> {
        if self.0.is_cancelled() {
            canned::TrainRound.run(task, context)
        } else {
            Err(Failure::fatal("disk-full", "the disk is full"))
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_job_that_failed_or_was_cancelled_is_resumed_to_the_same_bytes() {
    let private = private().await;
    let stop = CancellationToken::new();
    set_up(&private).await;
    conduct(&private, &stop);
    orchestrate(&private, &stop);
    SITES.iter().for_each(|site| prepare(&private, site, &stop));
    let room = CancellationToken::new();
    start(&private, "a", canned::TrainRound, &stop);
    start(&private, "b", NoRoom(room.clone()), &stop);
    let client = Client::new(private.connection.clone());
    let job = accept(&client, &canned::training(Some("mended"), &SITES, 2)).await;
    let Event::Failed(failed) = ended(&client, &job).await else {
        panic!();
    };
    assert_eq!((&*failed.site, &*failed.failure.code), ("b", "disk-full"));
    // What c was to do is closed; what failed is listed with its reason.
    closed(&client, &job, "c").await;
    let listed = dead(&client.snapshot(&job).await.unwrap().record);
    let [task] = &listed[..] else { panic!("{listed:?}") };
    assert_eq!(
        (&*task.key.site, &*task.failure.code, task.counts),
        ("b", "disk-full", true)
    );
    let none = client
        .resume(&job, &["a".to_owned()])
        .await
        .unwrap_err()
        .to_string();
    assert!(none.contains("no task of a"), "{none}");

    // Cancelled once more, and resumed: c comes to work only then.
    room.cancel();
    assert_eq!(
        client.resume(&job, &["b".to_owned()]).await.unwrap(),
        Resumption::GoesOn(1)
    );
    trained(&client, &job, "b", 0).await;
    client.cancel(&job, "not now").await.unwrap();
    assert!(matches!(ended(&client, &job).await, Event::Cancelled(_)));
    assert_eq!(client.resume(&job, &[]).await.unwrap(), Resumption::GoesOn(0));
    start(&private, "c", canned::TrainRound, &stop);
    let Event::Finished(mut finished) = ended(&client, &job).await else {
        panic!("{:?}", client.snapshot(&job).await.unwrap().record.end);
    };
    assert_eq!(finished.resumes, 2);
    finished.resumes = 0;
    let record = client.snapshot(&job).await.unwrap().record;
    let undisturbed = model::undisturbed(record.accepted.as_ref().unwrap());
    assert_eq!(undisturbed.end(), Some(&Event::Finished(finished)));
    let over = client.resume(&job, &[]).await.unwrap_err().to_string();
    assert_eq!(over, "job mended has ended already: finished");
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_closes_its_tasks() {
    let private = private().await;
    let stop = CancellationToken::new();
    for site in SITES {
        announce(&private.connection, &canned::announce(site))
            .await
            .unwrap();
    }
    conduct(&private, &stop);
    let client = Client::new(private.connection.clone());
    let job = accept(&client, &canned::training(Some("doomed"), &SITES, 1)).await;
    until("the first tasks are there", async || {
        stored(&private.connection, streams::TASKS).await.len() == 3
    })
    .await;
    client.cancel(&job, "a mistake").await.unwrap();
    let again = client.cancel(&job, "a mistake").await.unwrap_err();
    assert_eq!(again.to_string(), "job doomed has ended already: cancelled");
    assert!(matches!(ended(&client, &job).await, Event::Cancelled(_)));
    until("the tasks are closed", async || {
        stored(&private.connection, streams::RESULTS).await.len() == 3
    })
    .await;
    let record = client.snapshot(&job).await.unwrap().record;
    for result in record.results.values() {
        let Outcome::Closed { reason, .. } = &result.outcome else {
            panic!("{result:?}");
        };
        assert_eq!(reason, "the job was cancelled: a mistake");
    }
    let none = client.cancel("no-such", "").await.unwrap_err();
    assert_eq!(none.to_string(), "there is no job \"no-such\"");
    stop.cancel();
}
