//! A job during which everything is killed once ends with the same bytes as one that was left alone.

use std::{
    fs,
    path::{Path, PathBuf},
};

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

use crate::scored;

const SITES: [&str; 3] = ["alpha", "beta", "gamma"];

fn federation() -> Federation {
    // Only this one lets pictures of its scans go.
    let pictures = |site: &str| format!("pictures = {}", site == "alpha");
    Federation::of_sites(41, &SITES, &SMALL, |_, site| pictures(site)).unwrap()
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

/// What a federation made.
struct Made {
    finished: Finished,
    checkpoint: Vec<u8>,
    /// The sites' zips of segmentations.
    zips: Vec<Vec<u8>>,
}

/// Trains a job, with a trainer whose network has running statistics, and segments with the result; `killing`: with
/// everything killed once.
fn train_and_segment(killing: bool) -> Made {
    let mut federation = federation();
    let job = federation
        .submit(&json!({
            "job_id": "steady",
            "datasets": SITES,
            "payload": { "mode": "training", "num_rounds": 2, "dataset_id": 41,
                         "model_configuration": "3d_fullres", "device": "cpu", "trainer_name": "nnUNetTrainerBN" },
            "federation": { "iterations_per_epoch": 2, "val_iterations_per_epoch": 1, "seed": 5,
                            "shard_cases": 3, "evaluate": true },
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
        redelivered(&federation, "beta", Phase::TrainRound);
        assert_eq!(finished.resumes, 1, "the archive brought it back");
    }
    let model = federation.download(&job).unwrap();
    let zips = segment(&mut federation, killing);
    scored::summary_is_of_all_sites(&federation, &zips);
    scored::validation_is_as_of_one_folder(&federation, &model[0].join("fold_all/validation"), &zips);
    scored::reports_show_it(&federation, &model[0]);
    Made {
        finished,
        checkpoint: checkpoint(&model[0]),
        zips: zips.iter().map(|zip| fs::read(zip).unwrap()).collect(),
    }
}

/// Segments the training cases of all sites, in three shards a site; `killing`: with one site killed in its second.
/// The zips, and the summary.
fn segment(federation: &mut Federation, killing: bool) -> Vec<PathBuf> {
    let job = federation
        .submit(&json!({
            "job_id": "segment",
            "datasets": SITES,
            "payload": { "mode": "inference", "checkpoint_path": "job:steady", "fold_id": "all", "device": "cpu" },
            "federation": { "shard_cases": 2, "evaluate": true, "pictures": 2 },
        }))
        .unwrap();
    let mut left = killing;
    let mut watching = federation.watch(&job).unwrap();
    loop {
        match watching.next(federation).unwrap() {
            Watched::Event(Event::Finished(_)) => break,
            Watched::Event(event) if event.is_end() => panic!("{event:?}\n{}", federation.said()),
            Watched::Progress(progress) if left && progress.site == "gamma" && progress.shard == 1 => {
                federation.kill("gamma").unwrap();
                left = false;
            }
            _ => {}
        }
    }
    assert!(!left, "gamma was not killed");
    if killing {
        redelivered(federation, "gamma", Phase::Infer);
    }
    federation.download(&job).unwrap()
}

/// The site's process got a task of the phase that an earlier one had left. The server's death may bring others again.
fn redelivered(federation: &Federation, site: &str, phase: Phase) {
    let series = format!("rounds_task_redeliveries_total{{phase=\"{phase}\",site=\"{site}\"}} ");
    let what = format!("{site} is given its task again");
    federation
        .until(&what, || {
            let page = federation.metrics(site)?;
            let counted = page.lines().find_map(|line| line.strip_prefix(&series));
            Ok(counted.is_some_and(|count| count.trim() != "0"))
        })
        .unwrap();
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
    let calm = train_and_segment(false);
    let killed = train_and_segment(true);
    let weights = |made: &Made| -> Vec<String> {
        let scores = made.finished.history.scores.iter();
        scores.map(|score| score.weights.clone()).collect()
    };
    assert_eq!(weights(&calm), weights(&killed));
    assert_eq!(calm.finished.history, killed.finished.history);
    assert!(calm.checkpoint == killed.checkpoint, "the checkpoints differ");
    // A zip a site, and the summary.
    assert_eq!(calm.zips.len(), 4);
    for (place, (calm, killed)) in calm.zips.iter().zip(&killed.zips).enumerate() {
        assert!(calm == killed, "the zip of {:?} differs", SITES.get(place));
    }
}
