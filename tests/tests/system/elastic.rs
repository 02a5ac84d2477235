//! Jobs whose sites are told to end, fall asleep and come back, and jobs that are cancelled and resumed.

use std::{collections::BTreeMap, fs};

use pipeline::client::Watched;
use schemas::{
    event::{Event, Finished},
    names::Phase,
    task::{Outcome, TaskInput, TaskOutput},
};
use serde_json::{Value, json};
use tests::{
    federation::Federation,
    process,
    scans::{SMALL, Scans},
};

const SITES: [&str; 3] = ["alpha", "beta", "gamma"];

fn federation() -> Federation {
    let scans = Scans { cases: 2, ..SMALL };
    Federation::of_sites(43, &SITES, &scans, |_, _| String::new()).unwrap()
}

fn message(job: &str, rounds: u32, federation: Value) -> Value {
    let mut message = json!({
        "job_id": job,
        "datasets": SITES,
        "payload": { "mode": "training", "num_rounds": rounds, "dataset_id": 43, "epochs_per_round": 3,
                     "model_configuration": "3d_fullres", "device": "cpu" },
        "federation": { "iterations_per_epoch": 2, "val_iterations_per_epoch": 1, "seed": 5 },
    });
    let fields = message["federation"].as_object_mut().unwrap();
    fields.extend(federation.as_object().unwrap().clone());
    message
}

fn weights(finished: &Finished) -> Vec<String> {
    let scores = finished.history.scores.iter();
    scores.map(|score| score.weights.clone()).collect()
}

#[test]
fn sites_come_and_go_and_jobs_are_resumed() {
    let mut federation = federation();
    a_worker_with_another_folder_is_refused(&federation);
    let calm = federation.submit(&message("calm", 1, json!({}))).unwrap();
    let calm = federation.finished(&calm).unwrap();
    what_is_drained_cancelled_and_resumed_ends_in_the_same_bytes(&mut federation, &calm);
    a_round_goes_on_without_a_site_that_sleeps(&federation);
    a_round_of_limited_time_counts_iterations(&federation);
}

fn a_worker_with_another_folder_is_refused(federation: &Federation) {
    let own = fs::read_to_string(federation.settings_file("beta")).unwrap();
    let file = federation.folder().join("stranger.toml");
    let root = federation.root("beta");
    let other = federation.root("elsewhere");
    fs::write(
        &file,
        own.replace(root.to_str().unwrap(), other.to_str().unwrap()),
    )
    .unwrap();
    let refused = process::run(&["worker".as_ref(), file.as_os_str(), "preprocess".as_ref()]);
    let refused = refused.unwrap_err().to_string();
    assert!(
        refused.contains("site beta: its workers share another folder"),
        "{refused}"
    );
}

/// Site beta is told to end in the middle of its round, and goes on behind its last finished epoch; then the job is
/// cancelled, and resumed.
fn what_is_drained_cancelled_and_resumed_ends_in_the_same_bytes(
    federation: &mut Federation,
    calm: &Finished,
) {
    let job = federation.submit(&message("moved", 1, json!({}))).unwrap();
    let reached = federation.root("beta").join("jobs/moved/round/0/1/reached.json");
    federation
        .until("beta's first epoch", || Ok(reached.is_file()))
        .unwrap();
    federation.drain("beta").unwrap();
    let goes_on = |federation: &Federation| {
        let said = federation.said_by("beta")?;
        Ok(["1", "2", "3"]
            .iter()
            .any(|n| said.contains(&format!("goes on behind {n} finished epochs"))))
    };
    federation.until("beta goes on", || goes_on(federation)).unwrap();
    federation.command(&["cancel", &job]).unwrap();
    assert!(
        federation
            .command(&["show", &job])
            .unwrap()
            .contains("moved cancelled")
    );
    // Nobody works on it any more.
    for site in SITES {
        federation
            .measured(
                site,
                &format!("rounds_tasks_in_flight{{phase=\"train-round\",site=\"{site}\"}} 0"),
            )
            .unwrap();
    }
    let refused = federation
        .command(&["resume", &job, "--rounds", "2"])
        .unwrap_err();
    assert!(
        refused.to_string().contains("--rounds is for a finished job"),
        "{refused}"
    );
    federation.command(&["resume", &job, "--wait"]).unwrap();
    let moved = federation.finished(&job).unwrap();
    assert_eq!(weights(&moved), weights(calm));
    assert_eq!(moved.resumes, 1);
    assert!(federation.command(&["show", &job]).unwrap().contains("resumed 2"));
    assert_eq!(federation.command(&["dead", &job]).unwrap(), "");
}

/// Site gamma is stopped when the round is released, as a machine that hangs.
fn a_round_goes_on_without_a_site_that_sleeps(federation: &Federation) {
    let elastic = json!({ "min_sites": 2, "round_deadline_seconds": 1 });
    let job = federation.submit(&message("elastic", 1, elastic)).unwrap();
    let mut watching = federation.watch(&job).unwrap();
    let finished = loop {
        match watching.next(federation).unwrap() {
            Watched::Event(Event::Released(release)) => match (release.phase, release.pass) {
                (Phase::TrainRound, 0) => federation.signal("gamma", libc::SIGSTOP).unwrap(),
                (Phase::Average, 0) => {
                    assert_eq!(release.without, ["gamma"]);
                    let TaskInput::Average { updates, .. } = &release.work[0].input else {
                        panic!("{release:?}");
                    };
                    let averaged: Vec<&str> = updates.iter().map(|update| &*update.site).collect();
                    assert_eq!(averaged, ["alpha", "beta"]);
                    federation.signal("gamma", libc::SIGCONT).unwrap();
                }
                _ => {}
            },
            Watched::Event(Event::Finished(finished)) => break *finished,
            Watched::Event(event) if event.is_end() => panic!("{event:?}\n{}", federation.said()),
            _ => {}
        }
    };
    assert_eq!(finished.history.scores[0].without, ["gamma"]);
    let epochs = &finished.history.epochs;
    assert!(epochs.iter().all(|epoch| epoch.sites.len() == 2), "{epochs:?}");
    let shown = federation.command(&["show", &job]).unwrap();
    assert!(
        shown.contains("gamma: late or failed, and counts nowhere"),
        "{shown}"
    );
}

/// An epoch that would take hours ends after a second, or behind its first iteration.
fn a_round_of_limited_time_counts_iterations(federation: &Federation) {
    let limited = json!({ "round_seconds": 1, "iterations_per_epoch": 1_000_000 });
    let job = federation.submit(&message("limited", 1, limited)).unwrap();
    let mut watching = federation.watch(&job).unwrap();
    let (mut done, mut weights) = (BTreeMap::new(), BTreeMap::new());
    let finished = loop {
        match watching.next(federation).unwrap() {
            Watched::Result(result) => {
                if let Outcome::Done {
                    output: TaskOutput::Trained { epochs, update, .. },
                } = result.outcome
                    && update.is_some()
                {
                    let iterations: u64 = epochs.iter().map(|epoch| u64::from(epoch.iterations)).sum();
                    done.insert(result.key.site, iterations);
                }
            }
            Watched::Event(Event::Released(release)) => {
                if let TaskInput::Average { updates, .. } = &release.work[0].input {
                    weights.extend(updates.iter().map(|update| (update.site.clone(), update.weight)));
                }
            }
            Watched::Event(Event::Finished(finished)) => break *finished,
            Watched::Event(event) if event.is_end() => panic!("{event:?}\n{}", federation.said()),
            _ => {}
        }
    };
    assert_eq!((done.len(), weights.len()), (3, 3));
    for (site, iterations) in done {
        assert!((1..1_000_000).contains(&iterations));
        assert_eq!(weights[&site], 2 * iterations, "cases times iterations at {site}");
    }
    assert_eq!(finished.history.epochs.len(), 1);
}
