//! Jobs whose updates are masked, on real processes: the same average as without masks, to the same bytes whatever is
//! killed, with a site that vanishes behind sharing its secrets.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use nnunet::{
    checkpoint::results::{CHECKPOINT_FINAL, ModelFolder},
    network::{Layout, StateDict},
};
use pipeline::client::Watched;
use schemas::{
    event::{Event, Finished},
    job::FoldId,
    names::Phase,
    task::TaskInput,
};
use serde_json::{Value, json};
use tests::{
    federation::Federation,
    scans::{SMALL, Scans},
};

const SITES: [&str; 4] = ["alpha", "beta", "delta", "gamma"];

fn message(job: &str, rounds: u32, federation: Value) -> Value {
    let mut message = json!({
        "job_id": job,
        "datasets": SITES,
        "payload": { "mode": "training", "num_rounds": rounds, "dataset_id": 47, "model_configuration": "2d",
                     "device": "cpu" },
        "federation": { "iterations_per_epoch": 1, "val_iterations_per_epoch": 1, "seed": 5, "min_sites": 3,
                        "round_deadline_seconds": 15 },
    });
    let fields = message["federation"].as_object_mut().unwrap();
    fields.extend(federation.as_object().unwrap().clone());
    message
}

/// Runs a job; `at` is called with each release of train-round.
fn run(
    federation: &mut Federation,
    message: &Value,
    mut at: impl FnMut(&mut Federation, u32, u32),
) -> Finished {
    let job = federation.submit(message).unwrap();
    let mut watching = federation.watch(&job).unwrap();
    loop {
        match watching.next(federation).unwrap() {
            Watched::Event(Event::Released(release)) if release.phase == Phase::TrainRound => {
                at(federation, release.round, release.pass);
            }
            Watched::Event(Event::Released(release)) => {
                if let TaskInput::Average {
                    unmasking: Some(unmasking),
                    updates,
                    ..
                } = &release.work[0].input
                {
                    assert_eq!(unmasking.sharers, SITES);
                    let told = unmasking.shares.iter();
                    assert!(told.clone().all(|told| told.seeds.len() == updates.len()));
                    assert!(
                        told.clone()
                            .all(|told| told.keys.len() == SITES.len() - updates.len())
                    );
                }
            }
            Watched::Event(Event::Finished(finished)) => return *finished,
            Watched::Event(event) if event.is_end() => panic!("{event:?}\n{}", federation.said()),
            _ => {}
        }
    }
}

fn last(finished: &Finished) -> &str {
    &finished.history.scores.last().unwrap().weights
}

fn model(federation: &Federation, job: &str) -> PathBuf {
    federation.download(job).unwrap().remove(0)
}

fn weights(model: &Path) -> StateDict {
    let model = ModelFolder::open(model).unwrap();
    let configuration = model.plans.configuration("2d").unwrap();
    let layout = Layout::new(&configuration.architecture, 1, 3).unwrap();
    let checkpoint = model.checkpoint(FoldId::All, CHECKPOINT_FINAL).unwrap();
    checkpoint.weights(&layout).unwrap()
}

#[test]
fn masked_updates_average_as_plain_ones_do() {
    let scans = Scans { cases: 2, ..SMALL };
    let mut federation = Federation::of_sites(47, &SITES, &scans, |_, _| String::new()).unwrap();
    let masked = json!({ "secure_aggregation": {} });

    // One round with a site that vanishes behind sharing, plain and masked: the same but for rounding.
    let vanishes = |federation: &mut Federation, round: u32, pass: u32| match (round, pass) {
        (0, 0) => federation.signal("gamma", libc::SIGSTOP).unwrap(),
        (0, 1) => federation.signal("gamma", libc::SIGCONT).unwrap(),
        _ => {}
    };
    run(&mut federation, &message("plain", 1, json!({})), vanishes);
    run(&mut federation, &message("hidden", 1, masked.clone()), vanishes);
    // The fingerprint is the same to the last bit, though no site told its own.
    let models = ["plain", "hidden"].map(|job| model(&federation, job));
    let [plain, hidden] = models
        .each_ref()
        .map(|model| fs::read(model.join("dataset_fingerprint.json")).unwrap());
    assert_eq!(hidden, plain);
    let [plain, hidden] = models.each_ref().map(|model| weights(model));
    for (name, tensor) in plain.iter() {
        let other = &hidden.get(name).unwrap().data;
        let far = tensor
            .data
            .iter()
            .zip(other)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(far < 1e-6, "{name}: {far}");
    }
    assert!(plain != hidden, "integers round otherwise");

    // Two rounds, and again with a process that is killed in each pass of the first: the same bytes.
    let calm = run(
        &mut federation,
        &message("calm", 2, masked),
        |federation, round, pass| {
            // Only the site's own user reads its secrets.
            let secret = format!("jobs/calm/protected/{round}/secret.json");
            if pass == 0 {
                let mode = fs::metadata(federation.root("alpha").join(secret))
                    .unwrap()
                    .permissions()
                    .mode();
                assert_eq!(mode & 0o777, 0o600);
            }
        },
    );
    // Nobody is gone on without while its task waits for the next worker.
    let patient = json!({ "secure_aggregation": {}, "round_deadline_seconds": null });
    let killed = run(
        &mut federation,
        &message("killed", 2, patient),
        |federation, round, pass| {
            let victim = match (round, pass) {
                (0, 2) => "alpha",
                (0, 3) => "beta",
                (0, 0) => "gamma",
                (0, 4) => "delta",
                _ => return,
            };
            federation.kill(victim).unwrap();
        },
    );
    assert_eq!(last(&killed), last(&calm));

    noise_is_added_and_told_of(&mut federation, &plain);

    // Once the last average is scored, no secret is left.
    let left = fs::read_dir(federation.root("alpha").join("jobs/killed/protected")).unwrap();
    assert_eq!(left.count(), 0);
}

/// Each site's update is at most as long as the job allows, but for the noise, which is another at each.
fn noise_is_added_and_told_of(federation: &mut Federation, plain: &StateDict) {
    let privacy = |clip: f64| json!({ "privacy": { "clip": clip, "noise_multiplier": 0.001, "delta": 1e-5, "unit": "site" } });
    let base = run(federation, &message("noisy", 1, privacy(1e-3)), |_, _, _| {});
    let again = run(
        federation,
        &message("noisy-again", 1, privacy(1e-3)),
        |_, _, _| {},
    );
    assert_ne!(
        last(&base),
        last(&again),
        "the noise comes from no seed of the job's"
    );
    let [one, other] = ["noisy", "noisy-again"].map(|job| weights(&model(federation, job)));
    // Updates of length 0.001 at most, with noise of a millionth in each value: the averages are as near.
    let values = one.value_count() as f64;
    assert!(one.distance(&other) < 1e-6 * (2.0 * values).sqrt());
    assert!(one.distance(&other) > 0.0 && one.distance(plain) > 1e-3);
    let shown = federation.command(&["show", "noisy"]).unwrap();
    assert!(
        shown.contains("after 1 rounds, the unit being a site") && shown.contains("no meaningful protection"),
        "{shown}"
    );
}
