//! Any NATS client submits a job: here nats-py, publishing on rounds.submit.

use std::{fs, path::Path, time::Duration};

use serde_json::{Value, json};
use tests::{oracle, process::RoundsProcess, scans::SMALL};

/// Publishes `message` as it is, and returns the event it led to.
fn publish(home: &Path, message: &str) -> Value {
    let address: Value = serde_json::from_slice(&fs::read(home.join("nats/address.json")).unwrap()).unwrap();
    let file = home.join("message.json");
    fs::write(&file, message).unwrap();
    let arguments = [
        address["url"].as_str().unwrap(),
        address["token"].as_str().unwrap(),
        file.to_str().unwrap(),
    ];
    serde_json::from_str(&oracle::run("publish.py", &arguments).unwrap()).unwrap()
}

#[test]
fn a_raw_publisher_gets_a_verdict_that_names_the_field() {
    let scratch = tempfile::tempdir().unwrap();
    let home = scratch.path().join("home");
    let folder = scratch.path().join("Dataset007_Tiny");
    SMALL.write(&folder).unwrap();
    let site = format!("a={}", folder.display());
    let arguments = ["up", "--home", home.to_str().unwrap(), "--site", &site];
    let mut up = RoundsProcess::start(&arguments, &scratch.path().join("up.log")).unwrap();
    up.wait_for("rounds is up", Duration::from_secs(60)).unwrap();

    let payload = json!({ "mode": "training", "num_rounds": 1, "dataset_id": 7,
                          "model_configuration": "3d_fullres", "device": "cpu" });
    let refused = |field: &str, value: Value| {
        let mut payload = payload.clone();
        payload[field] = value;
        json!({ "datasets": ["a"], "payload": payload }).to_string()
    };
    for (message, path) in [
        ("no json".to_owned(), "."),
        (refused("num_rounds", json!(0)), "payload.num_rounds"),
        (
            refused("trainer_name", json!("nnUNetTrainerOfMine")),
            "payload.trainer_name",
        ),
        (refused("learning_rate", json!(1)), "payload.learning_rate"),
        (
            json!({ "datasets": ["nowhere"], "payload": payload }).to_string(),
            "datasets[0]",
        ),
    ] {
        let event = publish(&home, &message);
        assert_eq!(event["event"], "rejected", "{message}: {event}");
        assert_eq!(event["path"], path, "{message}: {event}");
    }
    let event = publish(
        &home,
        &json!({ "datasets": ["a"], "payload": payload, "job_id": "plain" }).to_string(),
    );
    assert_eq!(event["event"], "accepted", "{event}\n{}", up.said());
    assert_eq!(event["job"], "plain");
}
