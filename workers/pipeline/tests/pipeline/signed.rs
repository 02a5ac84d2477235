//! A federation with a roster, on a real server: unsigned jobs and results count for nothing.

use std::{path::Path, sync::Arc};

use nkeys::KeyPair;
use pipeline::{
    archive::Archive,
    client::{Client, State, Verdict},
    conductor::Conductor,
    metrics::Metrics,
    signing::{self, Identity, RosterFile, Signer},
    streams, tail,
    worker::{self, Worker},
};
use schemas::{
    event::Event,
    job::JobMessage,
    names::{ORCHESTRATOR, Phase},
    roster::{Keys, Roster},
    task::{Outcome, TaskResult},
};
use tokio_util::sync::CancellationToken;

use crate::{
    canned, jobs,
    server::{Private, private},
};

struct Federation {
    private: Private,
    archive: Archive,
    roster: Roster,
    stop: CancellationToken,
    metrics: Metrics,
    orchestrator: Identity,
}

fn signer() -> Signer {
    Signer::of_seed(&KeyPair::new_user().seed().unwrap()).unwrap()
}

fn keys(signer: &Signer) -> Keys {
    Keys {
        current: vec![signer.public().to_owned()],
        former: Vec::new(),
    }
}

fn of(signer: &Signer) -> Identity {
    Identity {
        signer: Some(signer.clone()),
        roster: None,
    }
}

impl Federation {
    async fn start(sites: &[(&str, &Signer)], submitter: &Signer) -> Self {
        let private = private().await;
        jobs::set_up(&private).await;
        let orchestrator = signer();
        let roster = Roster {
            sites: sites
                .iter()
                .map(|(site, signer)| ((*site).to_owned(), keys(signer)))
                .collect(),
            submitters: [("lead".to_owned(), keys(submitter))].into(),
            orchestrators: keys(&orchestrator),
        };
        let file = private.folder.path().join("roster.json");
        write(&file, &roster);
        let archive = Archive::open(private.folder.path().join("archive")).unwrap();
        let federation = Self {
            archive,
            orchestrator: Identity {
                signer: Some(orchestrator),
                roster: Some(RosterFile::open(&file).unwrap()),
            },
            private,
            roster,
            stop: CancellationToken::new(),
            metrics: Metrics::new(),
        };
        let check = Arc::new(|_: &JobMessage| Ok(Vec::new()));
        let connection = federation.private.connection.clone();
        let conductor = Conductor::new(connection, canned::VERSION, check, federation.metrics.clone())
            .with_archive(federation.archive.clone())
            .with_identity(federation.orchestrator.clone());
        tokio::spawn(conductor.run(federation.stop.clone()));
        let identity = &federation.orchestrator;
        federation.work(ORCHESTRATOR, canned::Aggregate, identity, &federation.stop);
        federation.work(ORCHESTRATOR, canned::Average, identity, &federation.stop);
        federation
    }

    fn work<P: worker::Phase>(&self, site: &str, phase: P, identity: &Identity, stop: &CancellationToken) {
        let mut settings = jobs::settings(site, self.private.folder.path());
        settings.identity = identity.clone();
        let connection = self.private.connection.clone();
        let worker = Worker::new(connection, phase, settings, Metrics::new());
        tokio::spawn(worker.run(stop.clone()));
    }

    fn site(&self, site: &str, identity: &Identity, stop: &CancellationToken) {
        self.work(site, canned::Fingerprint, identity, stop);
        self.work(site, canned::PlanVerify, identity, stop);
        self.work(site, canned::Preprocess, identity, stop);
        self.work(site, canned::TrainRound, identity, stop);
    }
}

fn write(file: &Path, roster: &Roster) {
    std::fs::write(file, serde_json::to_vec(roster).unwrap()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn only_what_is_signed_counts() {
    let (a, b, lead) = (signer(), signer(), signer());
    let federation = Federation::start(&[("a", &a), ("b", &b)], &lead).await;
    let plain = Client::new(federation.private.connection.clone());
    let submitter = plain.clone().with_identity(of(&lead));

    // Nobody, and a site: both are no submitters.
    let message = |job: &str| canned::training(Some(job), &["a", "b"], 2);
    for client in [plain.clone(), plain.clone().with_identity(of(&a))] {
        let submit = client.submit(&message("unsigned")).await.unwrap();
        let Verdict::Rejected(rejected) = client.verdict(submit).await.unwrap() else {
            panic!("an unsigned job was accepted");
        };
        assert_eq!(rejected.path, "signature", "{}", rejected.reason);
    }

    // b's workers hold another key: three attempts, and the job says whose signature was wrong.
    let (all, wrong) = (federation.stop.child_token(), federation.stop.child_token());
    federation.site("a", &of(&a), &all);
    federation.site("b", &of(&a), &wrong);
    let job = jobs::accept(&submitter, &message("forged")).await;
    let Event::Failed(failed) = jobs::ended(&submitter, &job).await else {
        panic!("a forged result counted");
    };
    assert_eq!((&*failed.failure.code, &*failed.site), ("bad-signature", "b"));
    let counted = federation.metrics.text();
    assert!(
        counted.contains("rounds_results_refused_total{site=\"b\"} 3"),
        "{counted}"
    );
    wrong.cancel();

    // With its own key the same job goes through; the submit is in the record as it was signed.
    federation.site("b", &of(&b), &all);
    let job = jobs::accept(&submitter, &message("signed")).await;
    jobs::ended(&submitter, &job).await;
    let believing = plain.with_identity(Identity {
        signer: None,
        ..federation.orchestrator.clone()
    });
    let snapshot = believing.snapshot(&job).await.unwrap();
    assert_eq!(snapshot.state, State::Finished);
    let accepted = snapshot.record.accepted.unwrap();
    let signed = accepted.signed.unwrap();
    assert_eq!(signed.submitter, "lead");
    assert_eq!(signing::check_body(&signed).unwrap(), accepted.message);
    let refused = snapshot.record.results.values().find(
        |result| matches!(&result.outcome, Outcome::Failed { failure } if failure.code == "bad-signature"),
    );
    assert_eq!(refused, None);
    let results = tail::read_all(
        &federation.private.connection,
        streams::RESULTS,
        "rounds.result.*.*.signed.>",
    );
    let results = results.await.unwrap();
    assert!(results.len() > 10);
    for message in results {
        let result: TaskResult = schemas::parse(&message.payload).unwrap();
        signing::check_result(&federation.roster, &result).unwrap();
    }
    federation.stop.cancel();

    // Whoever has the archive and the roster finds the same, and what somebody changes in it.
    let evidence = |job: &str| federation.archive.evidence(job, &federation.roster).unwrap();
    assert_eq!(evidence("forged").refused.len(), 3);
    let honest = evidence("signed");
    assert!(honest.refused.is_empty() && honest.signed > 10);
    assert_eq!(honest.check_releases(), Ok(snapshot.record.releases.len()));
    let file = federation
        .private
        .folder
        .path()
        .join("archive/signed/messages.jsonl");
    let text = std::fs::read_to_string(&file).unwrap();
    // A conductor that counts a site otherwise than its cases say, and one that leaves a site out.
    let weight = format!("\\\"weight\\\":{}", canned::cases("a"));
    for (from, to) in [
        (&*weight, "\\\"weight\\\":99"),
        (
            "{\\\"site\\\":\\\"b\\\",\\\"artifact\\\"",
            "{\\\"site\\\":\\\"c\\\",\\\"artifact\\\"",
        ),
    ] {
        assert!(text.contains(from), "{from} in {text}");
        std::fs::write(&file, text.replace(from, to)).unwrap();
        let step = evidence("signed").check_releases().unwrap_err();
        assert_eq!((step.phase, step.round, step.pass), (Phase::Average, 0, 0));
    }
    // A result that is not what its site signed.
    let (from, to) = ("\\\"training_cases\\\":", "\\\"training_cases\\\":1");
    assert!(text.contains(from), "{text}");
    std::fs::write(&file, text.replace(from, to)).unwrap();
    assert_eq!(evidence("signed").refused.len(), 2);
}
