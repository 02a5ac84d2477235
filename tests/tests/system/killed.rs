//! A job during which everything is killed once ends with the same bytes as one that was left alone.

use std::{fs, path::Path};

use pipeline::client::Watched;
use schemas::{
    event::{Event, Finished},
    names::Phase,
    task::Outcome,
};
use serde_json::json;
use tests::{
    federation::{Federation, ORCHESTRATOR, Watching},
    scans::SMALL,
};

const SITES: [&str; 3] = ["alpha", "beta", "gamma"];

fn federation() -> Federation {
    Federation::of_sites(41, &SITES, &SMALL, |_, _| String::new()).unwrap()
}

/// What is killed, and in what of the job.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kill {
    Orchestrator,
    Site,
    Server,
    /// The server, and its disk with it.
    Disk,
}

/// What a thing that happens to the job is the moment for.
fn moment(happened: &Watched) -> Option<Kill> {
    match happened {
        Watched::Event(Event::Released(release)) if release.phase == Phase::Preprocess => {
            Some(Kill::Orchestrator)
        }
        Watched::Progress(progress)
            if progress.phase == Phase::TrainRound && progress.round == 0 && progress.site == "beta" =>
        {
            Some(Kill::Site)
        }
        Watched::Result(result)
            if result.key.phase == Phase::TrainRound
                && result.key.round == 1
                && matches!(result.outcome, Outcome::Done { .. }) =>
        {
            Some(Kill::Server)
        }
        Watched::Event(Event::Released(release)) if (release.phase, release.round) == (Phase::Average, 1) => {
            Some(Kill::Disk)
        }
        _ => None,
    }
}

/// Trains a job, with a trainer whose network has running statistics; `killing`: with everything killed once. The job's
/// end and its final checkpoint.
fn train(killing: bool) -> (Finished, Vec<u8>) {
    let mut federation = federation();
    let job = federation
        .submit(&json!({
            "job_id": "steady",
            "datasets": SITES,
            "payload": { "mode": "training", "num_rounds": 2, "dataset_id": 41,
                         "model_configuration": "3d_fullres", "device": "cpu", "trainer_name": "nnUNetTrainerBN" },
            "federation": { "iterations_per_epoch": 2, "val_iterations_per_epoch": 1, "seed": 5 },
        }))
        .unwrap();
    let mut left = vec![Kill::Orchestrator, Kill::Site, Kill::Server, Kill::Disk];
    let mut watching = federation.watch(&job).unwrap();
    let finished = loop {
        let happened = watching.next(&federation).unwrap();
        match &happened {
            Watched::Event(Event::Finished(finished)) => break (**finished).clone(),
            Watched::Event(event) if event.is_end() => panic!("{event:?}\n{}", federation.said()),
            _ => {}
        }
        let kill = moment(&happened).filter(|kill| killing && left.contains(kill));
        if let Some(kill) = kill {
            match kill {
                Kill::Orchestrator => federation.kill(ORCHESTRATOR).unwrap(),
                Kill::Site => federation.kill("beta").unwrap(),
                Kill::Server => federation.kill_server().unwrap(),
                Kill::Disk => {
                    federation.lose_disk().unwrap();
                    watching = come_back(&federation, &job);
                }
            }
            left.retain(|other| *other != kill);
        }
    };
    if killing {
        assert!(left.is_empty(), "{left:?} was not killed");
        // The site died at its work: its next process got the same task once more.
        let again = "rounds_task_redeliveries_total{phase=\"train-round\"} 1";
        federation.measured("beta", again).unwrap();
        assert_eq!(finished.resumes, 1, "the archive brought it back");
    }
    let model = federation.download(&job).unwrap();
    (finished, checkpoint(&model[0]))
}

/// Everything sets itself up anew, and the job goes on from the archive.
fn come_back(federation: &Federation, job: &str) -> Watching {
    federation
        .until("all sites are back", || {
            let sites = federation.command(&["sites"]).unwrap_or_default();
            Ok(SITES.iter().all(|site| sites.contains(site)))
        })
        .unwrap();
    let archive = federation.archive();
    let archive = archive.to_str().unwrap();
    let said = federation
        .command(&["resume", job, "--archive", archive])
        .unwrap();
    assert!(
        said.contains("is back from the archive") && said.contains("goes on"),
        "{said}"
    );
    federation.watch(job).unwrap()
}

fn checkpoint(model: &Path) -> Vec<u8> {
    fs::read(model.join("fold_all/checkpoint_final.pth")).unwrap()
}

#[test]
fn what_is_killed_in_mid_work_changes_no_byte() {
    let (calm, calm_checkpoint) = train(false);
    let (killed, killed_checkpoint) = train(true);
    let weights = |finished: &Finished| -> Vec<String> {
        let scores = finished.history.scores.iter();
        scores.map(|score| score.weights.clone()).collect()
    };
    assert_eq!(weights(&calm), weights(&killed));
    assert_eq!(calm.history, killed.history);
    assert!(calm_checkpoint == killed_checkpoint, "the checkpoints differ");
}
