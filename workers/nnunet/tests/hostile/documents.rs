//! Documents that ask for what is not there, or are nonsense.

use std::fs;

use nnunet::{
    Error,
    dataset::RawDataset,
    preprocess::preprocess_dataset,
    progress::Unobserved,
    splits::{self, Fold, Split},
};
use schemas::nnunet::DatasetJson;

use super::data::{dataset, plans};

#[test]
fn plans_of_another_preprocessor_are_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    dataset(folder.path());
    let raw = RawDataset::open(folder.path()).unwrap();
    for (key, value) in [
        ("preprocessor_name", "MyPreprocessor"),
        ("resampling_fn_data", "my_resampling"),
        ("resampling_fn_seg", "no_resampling_hack"),
    ] {
        let mut plans = plans(folder.path());
        plans.configurations["2d"][key] = value.into();
        plans.configurations["2d"]["resampling_fn_seg_kwargs"] =
            serde_json::json!({"is_seg": true, "order": 1});
        if value == "no_resampling_hack" {
            plans.configurations["2d"]["resampling_fn_seg_kwargs"] = serde_json::json!({});
        }
        let stored = folder.path().join("out");
        let error = preprocess_dataset(&raw, &[0], &plans, "2d", &stored, 1, &Unobserved).unwrap_err();
        assert!(
            error.to_string().contains(key) && error.to_string().contains(value),
            "{error}"
        );
        assert!(!stored.exists());
    }
}

#[test]
fn documents_of_nonsense_are_refused_by_file_and_path() {
    let folder = tempfile::tempdir().unwrap();
    dataset(folder.path());
    let file = folder.path().join("dataset.json");
    let good = fs::read_to_string(&file).unwrap();
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for (text, says) in [
        (
            good.replace("\"numTraining\": 4", "\"numTraining\": -4"),
            "numTraining",
        ),
        (good.replace("\"a\": 1", "\"a\": 1e300"), "labels"),
        (good.replace("\"a\": 1", "\"a\": [[1]]"), "labels"),
        (
            good.replace("\"a\": 1", &format!("\"a\": {deep}")),
            "recursion limit",
        ),
        (
            good.replace("{\"0\"", "[{\"0\"").replace("\"MRI\"}", "\"MRI\"}]"),
            "channel_names",
        ),
        ("null".into(), "dataset.json"),
        (String::new(), "EOF"),
    ] {
        fs::write(&file, text).unwrap();
        let error = RawDataset::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("dataset.json") && error.contains(says), "{error}");
    }
    fs::write(&file, [0xff, 0xfe, 0]).unwrap();
    let error = RawDataset::open(folder.path()).unwrap_err();
    assert!(matches!(error, Error::BadFile { .. }), "{error}");
    DatasetJson::parse(&good).unwrap();
}

#[test]
fn splits_of_unknown_cases_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("splits_final.json");
    let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    let known = names(&["a", "b"]);
    let write = |split: Split| splits::write(&[split], &file).unwrap();
    let select = || splits::select(&known, &splits::read(&file).unwrap(), Fold::Number(0));
    for (train, val, says) in [
        (vec!["a", "z"], vec!["b"], "z"),
        (vec!["a"], vec!["../../b"], "../../b"),
        (vec![], vec!["b"], "no case to train on"),
    ] {
        write(Split {
            train: names(&train),
            val: names(&val),
        });
        let error = select().unwrap_err().to_string();
        assert!(
            error.contains("splits_final.json") && error.contains(says),
            "{error}"
        );
    }
    for text in [
        "{}",
        "[{\"train\": [1], \"val\": []}]",
        "[{\"train\": [\"a\"]}]",
        "[",
        "[[]]",
    ] {
        fs::write(&file, text).unwrap();
        let error = splits::read(&file).unwrap_err().to_string();
        assert!(error.contains("splits_final.json"), "{error}");
    }
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().count(),
        1,
        "no temporary stays"
    );
}
