//! What is taken, what is refused, and which field a refusal names.

use rstest::rstest;
use serde_json::{Value, json};

use super::*;

fn training() -> Value {
    json!({ "mode": "training", "num_rounds": 2, "dataset_id": 4, "model_configuration": "3d_fullres" })
}

fn inference() -> Value {
    json!({ "mode": "inference", "checkpoint_path": "models/a", "fold_id": 0 })
}

/// A message whose payload has `field` set to `value`.
fn with(mut payload: Value, field: &str, value: Value) -> Value {
    payload[field] = value;
    json!({ "datasets": ["a", "b"], "payload": payload })
}

/// Settings for differential privacy, with `field` set to `value`.
fn private(field: &str, value: Value) -> Value {
    let mut privacy = json!({ "clip": 1.5, "noise_multiplier": 1, "delta": 1e-5, "unit": "site" });
    privacy[field] = value;
    json!({ "privacy": privacy })
}

/// A message of five sites.
fn of_five(federation: Value) -> Value {
    json!({ "datasets": ["a", "b", "c", "d", "e"], "payload": training(), "federation": federation })
}

fn parse(message: &Value) -> Result<JobMessage, Invalid> {
    JobMessage::parse(message.to_string().as_bytes(), None)
}

#[test]
fn defaults_are_filled_in() {
    let message = parse(&json!({ "datasets": ["a"], "payload": training() })).unwrap();
    let Payload::Training(payload) = &message.payload else {
        panic!("expected a training payload");
    };
    assert_eq!(payload.device, Device::Cuda);
    assert_eq!(payload.fold_id, FoldId::All);
    assert_eq!(payload.trainer_name, "nnUNetTrainer");
    assert_eq!((payload.epochs_per_round, payload.starting_fed_round), (1, 0));
    assert_eq!(message.federation, Federation::default());
    let message = parse(&json!({ "datasets": ["a"], "payload": inference() })).unwrap();
    let Payload::Inference(payload) = message.payload else {
        panic!("expected an inference payload");
    };
    assert_eq!(payload.device, Some(Device::Cuda));
    assert_eq!(payload.checkpoint_name, CheckpointName::Final);
    assert!(payload.apheris_dataset_subdirs.is_empty());
}

#[rstest]
#[case(json!("2"), 2)]
#[case(json!(" 2 "), 2)]
#[case(json!("2.0"), 2)]
#[case(json!("1_000"), 1000)]
#[case(json!("+3"), 3)]
#[case(json!(2.0), 2)]
#[case(json!(true), 1)]
fn numbers_are_lax(#[case] value: Value, #[case] expected: u32) {
    let message = parse(&with(training(), "num_rounds", value)).unwrap();
    let Payload::Training(payload) = message.payload else {
        panic!("expected a training payload");
    };
    assert_eq!(payload.num_rounds, expected);
}

#[rstest]
#[case(with(training(), "num_rounds", json!("2.")), "payload.num_rounds")]
#[case(with(training(), "num_rounds", json!("two")), "payload.num_rounds")]
#[case(with(training(), "num_rounds", json!(2.5)), "payload.num_rounds")]
#[case(with(training(), "num_rounds", json!(0)), "payload.num_rounds")]
#[case(with(training(), "epochs_per_round", json!(0)), "payload.epochs_per_round")]
#[case(with(training(), "starting_fed_round", json!(-1)), "payload.starting_fed_round")]
#[case(with(training(), "fold_id", json!(-1)), "payload.fold_id")]
#[case(with(training(), "fold_id", json!("ALL")), "payload.fold_id")]
#[case(with(training(), "device", json!("gpu")), "payload.device")]
#[case(with(training(), "device", json!(null)), "payload.device")]
#[case(with(training(), "device", json!({ "cpu": null })), "payload.device")]
#[case(with(training(), "model_configuration", json!("3d_cascade_fullres")), "payload.model_configuration")]
#[case(with(training(), "mode", json!("train")), "payload.mode")]
#[case(with(training(), "learning_rate", json!(0.1)), "payload.learning_rate")]
#[case(with(inference(), "checkpoint_name", json!({ "checkpoint_best.pth": null })), "payload.checkpoint_name")]
#[case(with(inference(), "checkpoint_path", json!("")), "payload.checkpoint_path")]
#[case(with(inference(), "checkpoint_path", json!("job:a.b")), "payload.checkpoint_path")]
#[case(with(inference(), "apheris_dataset_subdirs", json!({ "c": "x" })), "payload.apheris_dataset_subdirs.c")]
#[case(with(inference(), "apheris_dataset_subdirs", json!({ "a": "/x" })), "payload.apheris_dataset_subdirs.a")]
#[case(with(inference(), "apheris_dataset_subdirs", json!({ "a": "x/../.." })), "payload.apheris_dataset_subdirs.a")]
#[case(with(inference(), "apheris_dataset_subdirs", json!({ "a": 1 })), "payload.apheris_dataset_subdirs.a")]
#[case(json!({ "datasets": ["a"], "payload": { "mode": "training" } }), "payload.num_rounds")]
#[case(json!({ "datasets": ["a"] }), "payload")]
#[case(json!({ "payload": training() }), "datasets")]
#[case(json!({ "datasets": [], "payload": training() }), "datasets")]
#[case(json!({ "datasets": ["a", "a"], "payload": training() }), "datasets[1]")]
#[case(json!({ "datasets": ["a", "b.c"], "payload": training() }), "datasets[1]")]
#[case(json!({ "datasets": ["a"], "payload": training(), "priority": 1 }), "priority")]
#[case(json!({ "datasets": ["a"], "payload": training(), "job_id": "a b" }), "job_id")]
#[case(json!({ "datasets": ["a"], "payload": training(), "resume_from": "x" }), "resume_from")]
#[case(json!({ "datasets": ["a"], "payload": training(), "federation": [] }), "federation")]
#[case(json!({ "datasets": ["a"], "payload": training(), "federation": { "sead": 1 } }), "federation.sead")]
#[case(json!({ "datasets": ["a"], "payload": training(), "federation": { "seed": -1 } }), "federation.seed")]
#[case(json!({ "datasets": ["a"], "payload": training(), "federation": { "total_rounds": 1 } }), "federation.total_rounds")]
#[case(json!({ "datasets": ["a"], "payload": training(), "federation": { "iterations_per_epoch": 0 } }), "federation.iterations_per_epoch")]
#[case(json!({ "datasets": ["a"], "payload": training(), "federation": { "overwrite_target_spacing": [1, 0, 1] } }), "federation.overwrite_target_spacing")]
#[case(json!({ "datasets": ["a"], "payload": training(), "federation": { "planner": "MyPlanner" } }), "federation.planner")]
#[case(json!({ "datasets": ["a"], "payload": training(), "federation": { "site_devices": { "x": "tpu" } } }), "federation.site_devices.x")]
#[case(json!({ "datasets": ["a"], "payload": training(), "federation": { "initial_checkpoint": { "path": "m" } } }), "federation.initial_checkpoint.plans")]
#[case(json!({ "datasets": ["a"], "payload": training(), "federation": { "initial_checkpoint": { "path": "m", "plans": "mine" } } }), "federation.initial_checkpoint.plans")]
#[case(json!({ "datasets": ["a"], "payload": training(), "federation": { "initial_checkpoint": { "path": "", "plans": "keep" } } }), "federation.initial_checkpoint.path")]
#[case(json!({ "datasets": ["a"], "payload": training(), "federation": { "initial_checkpoint": { "path": "job:a.b", "plans": "keep" } } }), "federation.initial_checkpoint.path")]
#[case(json!({ "datasets": ["a"], "payload": training(), "federation": { "initial_checkpoint": { "path": "m", "plans": "keep", "fold_id": -1 } } }), "federation.initial_checkpoint.fold_id")]
#[case(json!({ "datasets": ["a"], "payload": training(), "federation": { "initial_checkpoint": { "path": "m", "plans": "keep" }, "planner": "ResEncUNetPlanner" } }), "federation.planner")]
#[case(json!({ "datasets": ["a"], "payload": training(), "federation": { "initial_checkpoint": { "path": "m", "plans": "keep" }, "plans": "p" } }), "federation.plans")]
#[case(json!({ "datasets": ["a"], "payload": with(training(), "starting_fed_round", json!(1))["payload"], "federation": { "initial_checkpoint": { "path": "m", "plans": "keep" } } }), "federation.initial_checkpoint")]
#[case(json!({ "datasets": ["a"], "payload": inference(), "federation": { "initial_checkpoint": { "path": "m", "plans": "keep" } } }), "federation.initial_checkpoint")]
#[case(json!({ "datasets": ["a"], "payload": training(), "federation": { "algorithm": "fedprox" } }), "federation.fedprox_mu")]
#[case(json!({ "datasets": ["a"], "payload": training(), "federation": { "algorithm": "fedprox", "fedprox_mu": 0 } }), "federation.fedprox_mu")]
#[case(json!({ "datasets": ["a"], "payload": training(), "federation": { "fedprox_mu": 0.1 } }), "federation.fedprox_mu")]
#[case(json!({ "datasets": ["a"], "payload": training(), "federation": { "momentum": "mean" } }), "federation.momentum")]
#[case(json!({ "datasets": ["a"], "payload": inference(), "federation": { "dry_run": true } }), "federation.dry_run")]
#[case(of_five(json!({ "algorithm": "mean" })), "federation.algorithm")]
#[case(of_five(json!({ "algorithm": "median", "min_sites": 2 })), "federation.algorithm")]
#[case(of_five(json!({ "algorithm": "median", "momentum": "average" })), "federation.momentum")]
#[case(of_five(json!({ "algorithm": "median", "fedprox_mu": 0.1 })), "federation.fedprox_mu")]
#[case(of_five(json!({ "algorithm": "median", "norm_bound": 2 })), "federation.norm_bound")]
#[case(of_five(json!({ "algorithm": "trimmed-mean" })), "federation.trim")]
#[case(of_five(json!({ "algorithm": "trimmed-mean", "trim": 0 })), "federation.trim")]
#[case(of_five(json!({ "algorithm": "trimmed-mean", "trim": 3 })), "federation.trim")]
#[case(of_five(json!({ "algorithm": "trimmed-mean", "trim": 2, "min_sites": 4 })), "federation.trim")]
#[case(of_five(json!({ "algorithm": "trimmed-mean", "trim": 1, "momentum": "average" })), "federation.momentum")]
#[case(of_five(json!({ "trim": 1 })), "federation.trim")]
#[case(of_five(json!({ "norm_bound": 0 })), "federation.norm_bound")]
#[case(of_five(json!({ "norm_bound": 2, "min_sites": 2 })), "federation.norm_bound")]
#[case(of_five(json!({ "norm_bound": 2, "momentum": "average" })), "federation.momentum")]
#[case(of_five(json!({ "secure_aggregation": true })), "federation.secure_aggregation")]
#[case(of_five(json!({ "secure_aggregation": { "treshold": 3 } })), "federation.secure_aggregation.treshold")]
#[case(of_five(json!({ "secure_aggregation": { "threshold": 2 } })), "federation.secure_aggregation.threshold")]
#[case(of_five(json!({ "secure_aggregation": { "threshold": 6 } })), "federation.secure_aggregation.threshold")]
#[case(of_five(json!({ "secure_aggregation": { "largest_norm": 0 } })), "federation.secure_aggregation.largest_norm")]
#[case(of_five(json!({ "secure_aggregation": {}, "min_sites": 3 })), "federation.min_sites")]
#[case(of_five(json!({ "secure_aggregation": {}, "algorithm": "median" })), "federation.algorithm")]
#[case(of_five(json!({ "secure_aggregation": {}, "norm_bound": 2 })), "federation.norm_bound")]
#[case(of_five(json!({ "secure_aggregation": {}, "momentum": "average" })), "federation.momentum")]
#[case(of_five(json!({ "secure_aggregation": {}, "round_seconds": 2 })), "federation.round_seconds")]
#[case(of_five(json!({ "secure_aggregation": {}, "weighting": "iterations" })), "federation.weighting")]
#[case(json!({ "datasets": ["a", "b"], "payload": training(), "federation": { "secure_aggregation": {} } }), "federation.secure_aggregation")]
#[case(of_five(json!({ "privacy": { "clip": 1, "noise_multiplier": 1, "delta": 1e-5 } })), "federation.privacy.unit")]
#[case(of_five(private("unit", json!("case"))), "federation.privacy.unit")]
#[case(of_five(private("clip", json!(0))), "federation.privacy.clip")]
#[case(of_five(private("noise_multiplier", json!(-1))), "federation.privacy.noise_multiplier")]
#[case(of_five(private("delta", json!(1))), "federation.privacy.delta")]
#[case(of_five(private("epsilon", json!(1))), "federation.privacy.epsilon")]
#[case(json!({ "datasets": ["a"], "payload": training(), "federation": { "momentum": "average", "privacy": private("clip", json!(1))["privacy"] } }), "federation.momentum")]
#[case(json!({ "datasets": ["a"], "payload": with(training(), "starting_fed_round", json!(1))["payload"], "federation": private("clip", json!(1)) }), "payload.starting_fed_round")]
#[case(training(), "datasets")]
fn a_refusal_names_the_field(#[case] message: Value, #[case] field: &str) {
    let error = parse(&message).unwrap_err();
    assert_eq!(error.path, field, "{error}");
}

#[rstest]
#[case(json!({ "algorithm": "median" }))]
#[case(json!({ "algorithm": "trimmed-mean", "trim": "2" }))]
#[case(json!({ "algorithm": "trimmed-mean", "trim": 1, "min_sites": 3, "momentum": "reset" }))]
#[case(json!({ "norm_bound": 1.5 }))]
#[case(json!({ "algorithm": "fedprox", "fedprox_mu": 0.01, "norm_bound": 1, "min_sites": 3 }))]
#[case(json!({ "secure_aggregation": {}, "algorithm": "fedprox", "fedprox_mu": 0.01 }))]
#[case(json!({ "secure_aggregation": { "threshold": "3", "largest_norm": 10 }, "min_sites": 3, "weighting": "equal" }))]
#[case(private("delta", json!(1e-6)))]
fn averages_and_what_guards_them_are_taken(#[case] federation: Value) {
    let message = parse(&of_five(federation)).unwrap();
    let written = serde_json::to_vec(&message).unwrap();
    assert_eq!(JobMessage::parse(&written, None).unwrap(), message);
}

#[test]
fn a_bare_payload_is_taken_with_its_data_sets() {
    let bare = training().to_string();
    let message = JobMessage::parse(bare.as_bytes(), Some(&["a".to_owned(), "b".to_owned()])).unwrap();
    assert_eq!(message.datasets, ["a", "b"]);
}

#[test]
fn a_start_from_a_checkpoint_is_read() {
    let federation = json!({
        "initial_checkpoint": { "path": "job:spine", "plans": "remake", "checkpoint_name": "checkpoint_best.pth" },
        "algorithm": "fedprox", "fedprox_mu": 0.01, "momentum": "average",
        // Plans that are made anew may be of any planner.
        "planner": "nnUNetPlannerResEncM",
    });
    let payload = with(training(), "fold_id", json!(2))["payload"].clone();
    let message = json!({ "datasets": ["a"], "payload": payload, "federation": federation });
    let message = parse(&message).unwrap();
    let model = message.model().unwrap();
    assert_eq!((model.job(), model.fold_id), (Some("spine"), FoldId::Fold(2)));
    assert_eq!(model.checkpoint_name, CheckpointName::Best);
    let written = serde_json::to_vec(&message).unwrap();
    assert_eq!(JobMessage::parse(&written, None).unwrap(), message);
}

#[test]
fn a_message_survives_writing_and_reading() {
    for payload in [training(), inference()] {
        let message = parse(&json!({ "datasets": ["a"], "payload": payload, "job_id": "j" })).unwrap();
        let written = serde_json::to_vec(&message).unwrap();
        assert_eq!(JobMessage::parse(&written, None).unwrap(), message);
        assert_eq!(crate::parse::<JobMessage>(&written).unwrap(), message);
    }
}
