//! schemas/v1 is what the types say, and the frozen samples in schemas/v1/examples are still read.
//!
//! `just schemas` writes schemas/v1 anew (ROUNDS_WRITE_SCHEMAS=1). A sample is never changed: a message that
//! can no longer be read needs a new version.

use std::path::PathBuf;

use schemars::{JsonSchema, generate::SchemaSettings};
use schemas::{
    event::Event,
    job::JobMessage,
    site::{Announce, Heartbeat, Progress, SiteFolder},
    task::{Task, TaskResult},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

fn v1() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("v1")
}

/// Checks one message's published schema and its samples, `<name>.json` and `<name>--<variant>.json`.
fn check<T: JsonSchema + Serialize + DeserializeOwned>(name: &str) {
    let schema = SchemaSettings::draft2020_12()
        .into_generator()
        .into_root_schema_for::<T>();
    let text = format!("{:#}\n", schema.as_value());
    let file = v1().join(format!("{name}.json"));
    if std::env::var_os("ROUNDS_WRITE_SCHEMAS").is_some() {
        std::fs::write(&file, &text).unwrap();
    }
    let published = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        published == text,
        "{} is not what the types say: run `just schemas`",
        file.display()
    );

    let validator = jsonschema::validator_for(schema.as_value()).unwrap();
    let mut samples = 0;
    for entry in std::fs::read_dir(v1().join("examples")).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if stem.split("--").next() != Some(name) {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        let message: T = schemas::parse(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let sample: Value = serde_json::from_slice(&bytes).unwrap();
        let errors: Vec<String> = validator
            .iter_errors(&sample)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        assert!(errors.is_empty(), "{}: {errors:#?}", path.display());
        let again: T = schemas::parse(&serde_json::to_vec(&message).unwrap()).unwrap();
        assert_eq!(
            serde_json::to_value(&again).unwrap(),
            serde_json::to_value(&message).unwrap(),
            "{}",
            path.display()
        );
        samples += 1;
    }
    assert!(samples > 0, "schemas/v1/examples has no sample of {name}");
}

#[test]
fn job_message() {
    check::<JobMessage>("job");
}

#[test]
fn events() {
    check::<Event>("event");
}

#[test]
fn tasks() {
    check::<Task>("task");
    check::<TaskResult>("task-result");
}

#[test]
fn sites() {
    check::<Announce>("announce");
    check::<Heartbeat>("heartbeat");
    check::<Progress>("progress");
    check::<SiteFolder>("site-folder");
}
