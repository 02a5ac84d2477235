//! Jobs that start from a checkpoint, and momentum that is averaged.

use std::{fs, path::Path};

use nnunet::{
    checkpoint::{PthFile, results::ModelFolder, safetensors},
    network::{Layout, StateDict, initial_weights},
    train::optimiser::memory_name,
};
use schemas::{
    event::{Event, Finished},
    job::FoldId,
    names::Phase,
};
use serde_json::{Value, json};
use tests::{federation::Federation, scans::SMALL};

const SITES: [&str; 2] = ["alpha", "beta"];
const MODEL: &str = "Dataset031_source/nnUNetTrainer__nnUNetPlans__2d";

/// Two sites, each with a models root of its own.
fn federation() -> Federation {
    let models = |federation: &Federation, site: &str| {
        let models = federation.folder().join("models").join(site);
        fs::create_dir_all(&models).unwrap();
        format!("models = [{models:?}]")
    };
    Federation::of_sites(31, &SITES, &SMALL, models).unwrap()
}

fn message(job: &str, rounds: u32, federation: Value) -> Value {
    let mut message = json!({
        "job_id": job,
        "datasets": SITES,
        "payload": { "mode": "training", "num_rounds": rounds, "dataset_id": 31, "model_configuration": "2d",
                     "device": "cpu" },
        "federation": { "iterations_per_epoch": 1, "val_iterations_per_epoch": 1, "seed": 5, "name": "source" },
    });
    for (key, value) in federation.as_object().unwrap() {
        message["federation"][key] = value.clone();
    }
    message
}

fn train(federation: &Federation, message: &Value) -> Finished {
    let job = federation.submit(message).unwrap();
    federation.finished(&job).unwrap()
}

/// A message that goes on with round 1 of another job.
fn going_on(message: &Value, job: &str) -> Value {
    let mut further = message.clone();
    further["resume_from"] = further["job_id"].take();
    further["job_id"] = job.into();
    further["payload"]["num_rounds"] = 1.into();
    further["payload"]["starting_fed_round"] = 1.into();
    further["federation"]["total_rounds"] = 2.into();
    further
}

fn last_weights(finished: &Finished) -> &str {
    &finished.history.scores.last().unwrap().weights
}

fn opened(model: &Path) -> (PthFile, Layout) {
    tests::opened(model, "2d", FoldId::All).unwrap()
}

fn digest(weights: &StateDict) -> String {
    safetensors::digest(&safetensors::to_bytes(weights))
}

#[test]
fn jobs_start_from_checkpoints_and_average_momentum() {
    let federation = federation();
    let source = message("source", 2, json!({ "momentum": "average" }));
    let trained = train(&federation, &source);
    let model = federation.download("source").unwrap().remove(0);
    assert!(model.ends_with(MODEL), "{}", model.display());

    // The momentum of all parameters but those of the head without loss is averaged, and goes on: round 1 once more
    // gives the same bytes, and without it others.
    let (checkpoint, layout) = opened(&model);
    let momentum = checkpoint.momentum(&layout).unwrap();
    let missing: Vec<&str> = layout
        .parameters()
        .iter()
        .map(|parameter| &*parameter.name)
        .filter(|name| momentum.get(&memory_name(name, "momentum_buffer")).is_none())
        .collect();
    assert_eq!(missing, layout.lowest_head());
    let again = train(&federation, &going_on(&source, "again"));
    assert_eq!(last_weights(&again), last_weights(&trained));
    let mut reset = going_on(&source, "reset");
    reset["federation"]["momentum"] = "reset".into();
    train(&federation, &reset);
    let reset = federation.download("reset").unwrap().remove(0);
    let (other, _) = opened(&reset);
    assert!(other.weights(&layout).unwrap() != checkpoint.weights(&layout).unwrap());

    plans_are_kept(&federation, &model);
    plans_are_made_anew(&federation, &checkpoint, &layout);
    other_bytes_at_one_site_are_refused(&federation);
}

/// The model stands in each site's models root, with plans that no planner would make of these cases.
fn plans_are_kept(federation: &Federation, source: &Path) {
    let plans = fs::read_to_string(source.join("plans.json")).unwrap();
    let mut plans: Value = serde_json::from_str(&plans).unwrap();
    plans["configurations"]["2d"]["batch_size"] = 3.into();
    for site in SITES {
        let model = federation.folder().join("models").join(site).join(MODEL);
        fs::create_dir_all(model.join("fold_all")).unwrap();
        fs::write(model.join("plans.json"), plans.to_string()).unwrap();
        for file in ["dataset.json", "fold_all/checkpoint_final.pth"] {
            fs::copy(source.join(file), model.join(file)).unwrap();
        }
    }
    let checkpoint = json!({ "initial_checkpoint": { "path": MODEL, "plans": "keep" } });
    let message = message("kept", 1, checkpoint);
    let kept = train(federation, &message);
    let (checkpoint, layout) = opened(source);
    let expected = digest(&checkpoint.weights(&layout).unwrap());
    assert_eq!(kept.history.scores[0].weights, expected);
    assert_ne!(last_weights(&kept), expected);

    // A job that goes on with it keeps them too.
    let mut further = going_on(&message, "further");
    further["federation"]
        .as_object_mut()
        .unwrap()
        .remove("initial_checkpoint");
    train(federation, &further);
    for job in ["kept", "further"] {
        let model = federation.download(job).unwrap().remove(0);
        let plans = ModelFolder::open(&model).unwrap().plans;
        assert_eq!(plans.configuration("2d").unwrap().batch_size, 3, "{job}");
    }
}

/// The result of an earlier job, as nnU-Net's -pretrained_weights takes it; and FedProx.
fn plans_are_made_anew(federation: &Federation, source: &PthFile, layout: &Layout) {
    let message = message(
        "remade",
        1,
        json!({
            "initial_checkpoint": { "path": "job:source", "plans": "remake" },
            "algorithm": "fedprox", "fedprox_mu": 0.1, "seed": 6,
        }),
    );
    let remade = train(federation, &message);
    let expected = source.pretrained(&initial_weights(layout, 6).unwrap()).unwrap();
    assert_eq!(remade.history.scores[0].weights, digest(&expected));
    assert!(expected != source.weights(layout).unwrap(), "the heads are drawn");
}

fn other_bytes_at_one_site_are_refused(federation: &Federation) {
    let plans = federation
        .folder()
        .join("models/beta")
        .join(MODEL)
        .join("plans.json");
    let text = fs::read_to_string(&plans).unwrap();
    // The same plans, in other bytes.
    fs::write(&plans, text + "\n").unwrap();
    let checkpoint = json!({ "initial_checkpoint": { "path": MODEL, "plans": "keep" } });
    let job = federation.submit(&message("unlike", 1, checkpoint)).unwrap();
    let Event::Failed(failed) = federation.end(&job).unwrap() else {
        panic!("{}", federation.said());
    };
    assert_eq!(
        (failed.phase, &*failed.failure.code),
        (Phase::PlanVerify, "checkpoint-differs")
    );
    for site in SITES {
        let named = format!("at site {site}");
        assert!(failed.failure.message.contains(&named), "{failed:?}");
    }
}
