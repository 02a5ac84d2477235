//! What is no job is refused with the field's name: to a raw publisher, and on the command line.

use pipeline::client::Verdict;
use serde_json::{Value, json};
use tests::{
    federation::{Dataset, Federation},
    scans::SMALL,
};

/// A value at a dotted path.
fn set(message: &mut Value, path: &str, value: Value) {
    let place = path.split('.').fold(message, |place, key| &mut place[key]);
    *place = value;
}

#[test]
fn what_is_no_job_is_refused_by_the_name_of_its_field() {
    let mut federation = Federation::start().unwrap();
    SMALL.write(&federation.folder().join("Dataset031_One")).unwrap();
    let dataset = |id| Dataset {
        id,
        folder: "Dataset031_One",
        dataset_id: None,
    };
    federation
        .site("alpha", &[dataset("alpha-1"), dataset("alpha-2")])
        .unwrap();
    federation.site("beta", &[dataset("beta-1")]).unwrap();

    let training = json!({
        "datasets": ["alpha-1", "beta-1"],
        "payload": { "mode": "training", "num_rounds": 1, "dataset_id": 31,
                     "model_configuration": "3d_fullres", "device": "cpu" },
    });
    let inference = json!({
        "datasets": ["alpha-1"],
        "payload": { "mode": "inference", "checkpoint_path": "job:none", "fold_id": 0, "device": "cpu" },
    });
    let mut checked = 0;
    for (valid, path, value, named, said) in [
        (
            &training,
            "payload.trainer_name",
            json!("nnUNetTrainerOfMine"),
            "payload.trainer_name",
            "nnUNetTrainerOfMine",
        ),
        (
            &training,
            "payload.learning_rate",
            json!(1),
            "payload.learning_rate",
            "",
        ),
        (&training, "federation.rounds", json!(1), "federation.rounds", ""),
        (
            &training,
            "federation.min_sites",
            json!(3),
            "federation.min_sites",
            "at most the number of data sets, 2",
        ),
        (
            &training,
            "federation.round_deadline_seconds",
            json!(0),
            "federation.round_deadline_seconds",
            "expected at least 1",
        ),
        (&training, "priority", json!(1), "priority", ""),
        (
            &training,
            "payload.num_rounds",
            json!("many"),
            "payload.num_rounds",
            "",
        ),
        (
            &training,
            "payload.model_configuration",
            json!("3d_cascade_fullres"),
            "payload.model_configuration",
            "cascade",
        ),
        (
            &training,
            "datasets",
            json!(["alpha-1", "alpha-2"]),
            "datasets[1]",
            "alpha",
        ),
        (
            &training,
            "datasets",
            json!(["alpha-1", "gamma-1"]),
            "datasets[1]",
            "gamma-1",
        ),
        (
            &training,
            "payload.dataset_id",
            json!(4),
            "payload.dataset_id",
            "31",
        ),
        (
            &training,
            "payload.device",
            json!("cuda"),
            "payload.device",
            "alpha has no device cuda",
        ),
        (
            &training,
            "federation.site_devices",
            json!({ "beta": "mps" }),
            "federation.site_devices.beta",
            "beta has no device mps",
        ),
        (
            &training,
            "payload.starting_fed_round",
            json!(1),
            "resume_from",
            "none",
        ),
        (
            &inference,
            "payload.apheris_dataset_subdirs",
            json!({ "alpha-1": "../other" }),
            "payload.apheris_dataset_subdirs.alpha-1",
            "../other",
        ),
        (
            &inference,
            "payload.apheris_dataset_subdirs",
            json!({ "alpha-1": "/etc" }),
            "payload.apheris_dataset_subdirs.alpha-1",
            "/etc",
        ),
        (
            &inference,
            "payload.apheris_dataset_subdirs",
            json!({ "beta-1": "x" }),
            "payload.apheris_dataset_subdirs.beta-1",
            "alpha-1",
        ),
        (
            &inference,
            "payload.checkpoint_path",
            json!("job:none"),
            "payload.checkpoint_path",
            "none",
        ),
        (
            &inference,
            "payload.checkpoint_name",
            json!("model_final.pth"),
            "payload.checkpoint_name",
            "checkpoint_final.pth",
        ),
    ] {
        let mut message = valid.clone();
        set(&mut message, path, value);
        match federation.publish(&message.to_string()).unwrap() {
            Verdict::Rejected(rejected) => {
                assert_eq!(rejected.path, named, "{rejected:?}");
                assert!(rejected.reason.contains(said), "{said:?} is not in {rejected:?}");
            }
            Verdict::Accepted(accepted) => panic!("{path}: {accepted:?}"),
        }
        let error = federation.submit(&message).unwrap_err().to_string();
        assert!(error.contains(named) && error.contains(said), "{path}: {error}");
        checked += 1;
    }
    // Every refusal of the raw publisher and of the command line's that passed its own checks is in the list.
    let list = federation.command(&["list"]).unwrap();
    assert!(list.matches("rejected").count() >= checked, "{list}");
}
