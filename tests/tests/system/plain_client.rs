//! Any NATS client submits a job: here nats-py, publishing on rounds.submit.

use std::{fs, path::Path, time::Duration};

use serde_json::{Value, json};
use tests::{oracle, process::RoundsProcess};

/// A raw data set of five small cases, enough to be announced.
fn raw_dataset(folder: &Path) {
    fs::create_dir_all(folder.join("imagesTr")).unwrap();
    fs::create_dir_all(folder.join("labelsTr")).unwrap();
    let cases = 5;
    let descriptor = json!({
        "channel_names": { "0": "T1" },
        "labels": { "background": 0, "lesion": 1 },
        "numTraining": cases,
        "file_ending": ".nii",
    });
    fs::write(folder.join("dataset.json"), descriptor.to_string()).unwrap();
    for case in 0..cases {
        fs::write(
            folder.join(format!("imagesTr/case_{case}_0000.nii")),
            nifti([8, 8, 8]),
        )
        .unwrap();
        fs::write(folder.join(format!("labelsTr/case_{case}.nii")), nifti([8, 8, 8])).unwrap();
    }
}

/// A NIfTI-1 file of bytes that count up.
fn nifti([x, y, z]: [i16; 3]) -> Vec<u8> {
    let mut file = vec![0u8; 352];
    file[..4].copy_from_slice(&348i32.to_le_bytes());
    for (index, value) in [3, x, y, z, 1, 1, 1, 1].into_iter().enumerate() {
        file[40 + 2 * index..42 + 2 * index].copy_from_slice(&value.to_le_bytes());
    }
    file[70..72].copy_from_slice(&2i16.to_le_bytes());
    file[72..74].copy_from_slice(&8i16.to_le_bytes());
    for index in 0..8 {
        file[76 + 4 * index..80 + 4 * index].copy_from_slice(&1f32.to_le_bytes());
    }
    file[108..112].copy_from_slice(&352f32.to_le_bytes());
    file[112..116].copy_from_slice(&1f32.to_le_bytes());
    file[344..348].copy_from_slice(b"n+1\0");
    let voxels = i32::from(x) * i32::from(y) * i32::from(z);
    file.extend((0..voxels).map(|voxel| (voxel % 2) as u8));
    file
}

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
    raw_dataset(&folder);
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
