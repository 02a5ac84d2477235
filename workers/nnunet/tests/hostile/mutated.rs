//! Parsers under changed input: whatever a file or a document holds, the answer is Ok or Err, and comes soon.

use std::{
    fs,
    time::{Duration, Instant},
};

use ndarray::{Array3, Array4};
use nnunet::{
    image::{Geometry, Image, Reader, Segmentation},
    network::Layout,
    plan::{Options, Planner, keep_custom_configurations, plan_experiment},
    preprocess::{ClassKey, MappedCase, estimated_bytes, preprocess_case, store::write_case},
    splits::{self, Fold},
};
use proptest::prelude::*;
use schemas::nnunet::{DatasetJson, Fingerprint, Plans};
use serde_json::{Map, Value, json};

use super::scans::{Scan, gzip};

/// No answer takes longer, with a build and a test on each core.
const SOON: Duration = Duration::from_secs(20);

/// Places and values of bytes to change, and where to cut.
fn edits() -> impl Strategy<Value = (Vec<(prop::sample::Index, u8)>, Option<prop::sample::Index>)> {
    let edit = (any::<prop::sample::Index>(), any::<u8>());
    (
        prop::collection::vec(edit, 0..12),
        prop::option::weighted(0.2, any::<prop::sample::Index>()),
    )
}

fn edited(
    mut bytes: Vec<u8>,
    (changes, cut): &(Vec<(prop::sample::Index, u8)>, Option<prop::sample::Index>),
) -> Vec<u8> {
    for (place, value) in changes {
        let place = place.index(bytes.len());
        bytes[place] = *value;
    }
    if let Some(cut) = cut {
        bytes.truncate(cut.index(bytes.len()));
    }
    bytes
}

/// Values that a document should not hold, or not there.
fn odd_value() -> impl Strategy<Value = Value> {
    let deep = (0..100).fold(json!(1), |inner, _| json!([inner]));
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-3i64..40).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(vec![
            json!(u64::MAX),
            json!(1e308),
            json!(-1e308),
            json!(1e-308),
            json!(65535),
            json!(""),
            json!("../../x"),
            json!("2d"),
            json!("x".repeat(10_000)),
            json!([]),
            json!({}),
            json!([1, 1, 1]),
            json!([1e-30, 1e30, 1.0]),
            json!([0, 0]),
            deep,
        ]),
    ]
}

fn nodes(value: &Value) -> usize {
    1 + match value {
        Value::Array(list) => list.iter().map(nodes).sum(),
        Value::Object(map) => map.values().map(nodes).sum(),
        _ => 0,
    }
}

/// The node of that number, counted parents first.
fn node<'a>(value: &'a mut Value, number: &mut usize) -> Option<&'a mut Value> {
    if *number == 0 {
        return None;
    }
    let children: Vec<&mut Value> = match value {
        Value::Array(list) => list.iter_mut().collect(),
        Value::Object(map) => map.values_mut().collect(),
        _ => Vec::new(),
    };
    for child in children {
        *number -= 1;
        if *number == 0 {
            return Some(child);
        }
        if let Some(found) = node(child, number) {
            return Some(found);
        }
    }
    None
}

/// Puts odd values into a document, and leaves out what comes as `None`.
fn with_odd(mut document: Value, changes: &[(prop::sample::Index, Option<Value>)]) -> Value {
    for (place, odd) in changes {
        let mut number = place.index(nodes(&document));
        let Some(found) = node(&mut document, &mut number) else {
            continue;
        };
        match (odd, found) {
            (Some(odd), found) => *found = odd.clone(),
            (None, Value::Object(map)) => {
                if let Some(key) = map.keys().next().cloned() {
                    map.shift_remove(&key);
                }
            }
            (None, Value::Array(list)) => {
                list.pop();
            }
            (None, _) => {}
        }
    }
    document
}

fn odd_changes() -> impl Strategy<Value = Vec<(prop::sample::Index, Option<Value>)>> {
    let change = (
        any::<prop::sample::Index>(),
        prop::option::weighted(0.8, odd_value()),
    );
    prop::collection::vec(change, 1..5)
}

fn dataset_json() -> Value {
    json!({"channel_names": {"0": "CT", "1": "MRI"}, "labels": {"background": 0, "whole": [1, 2, 3], "core": [2, 3],
        "edge": 3, "ignore": 4}, "regions_class_order": [1, 2, 3], "numTraining": 2, "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "SimpleITKIO",
        "dataset": {"a": {"images": ["$X/a.nii", "${Y}/b.nii"], "label": "c.nii"}}})
}

fn fingerprint() -> Value {
    let intensities = json!({"max": 9.0, "mean": 2.0, "median": 2.0, "min": 0.0, "percentile_00_5": 0.5,
        "percentile_99_5": 8.0, "std": 1.5});
    json!({"foreground_intensity_properties_per_channel": {"0": intensities, "1": intensities},
        "median_relative_size_after_cropping": 0.7, "shapes_after_crop": [[140, 170, 130], [12, 200, 190]],
        "spacings": [[1.0, 1.0, 1.0], [5.0, 0.8, 0.9]]})
}

fn plans() -> Plans {
    let fingerprint: Fingerprint = serde_json::from_value(fingerprint()).unwrap();
    let dataset = DatasetJson::parse(&dataset_json().to_string()).unwrap();
    let options = Options {
        planner: Planner::ResEncLTorchresSepz,
        ..Options::default()
    };
    let mut plans = plan_experiment(&fingerprint, &dataset, &options, "Dataset001_A", "SimpleITKIO").unwrap();
    let custom = json!({"inherits_from": "2d", "batch_size": 3});
    let Value::Object(custom) = custom else {
        unreachable!()
    };
    plans.configurations.insert("custom".into(), custom);
    plans
}

/// A small case of two channels.
fn case() -> (Image, Segmentation) {
    let direction = vec![1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0];
    let geometry = Geometry::SimpleItk {
        spacing: vec![1.0, 1.0, 2.0],
        origin: vec![0.0; 3],
        direction,
    };
    let data = Array4::from_shape_fn((2, 3, 4, 5), |(c, z, y, x)| (c + z * 3 + y * 7 + x) as f32);
    let labels = Array3::from_shape_fn((3, 4, 5), |(z, y, x)| ((z + y + x) % 4) as i16);
    let spacing = [2.0, 1.0, 1.0];
    (
        Image {
            data,
            spacing,
            geometry: geometry.clone(),
        },
        Segmentation {
            labels,
            spacing,
            geometry,
        },
    )
}

/// Everything that a job does with plans before it trains.
fn use_plans(plans: &Plans) {
    let dataset = DatasetJson::parse(&dataset_json().to_string()).unwrap();
    let (image, segmentation) = case();
    let _ = (plans.digest(), plans.differences(&self::plans()), plans.to_json());
    keep_custom_configurations(&mut self::plans(), plans);
    for name in plans.configuration_names() {
        let Ok(configuration) = plans.configuration(name) else {
            continue;
        };
        let _ = Layout::new(&configuration.architecture, 2, 4);
        estimated_bytes([3, 4, 5], [2.0, 1.0, 1.0], plans, &configuration);
        if let Ok(case) = preprocess_case(&image, Some(&segmentation), plans, &configuration, &dataset) {
            assert!(case.data.iter().all(|v| v.is_finite()));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn scans(edits in edits(), header in edits(), compressed in any::<bool>(), seed in 0u8..3) {
        let folder = tempfile::tempdir().unwrap();
        let mut bytes = Scan::waves([3, 4, 5], f32::from(seed)).bytes();
        // Half of the edits go to the header: it is what can lie.
        let voxels = bytes.split_off(352);
        let mut bytes = edited(bytes, &(header.0, None));
        bytes.extend(voxels);
        let (path, bytes) = if compressed {
            (folder.path().join("a.nii.gz"), edited(gzip(&bytes), &edits))
        } else {
            (folder.path().join("a.nii"), edited(bytes, &edits))
        };
        fs::write(&path, bytes).unwrap();
        let start = Instant::now();
        for reader in [Reader::SimpleItk, Reader::Nibabel] {
            let _ = reader.read_images(&[path.clone(), path.clone()]);
            if let Ok(segmentation) = reader.read_segmentation(&path) {
                let labels = segmentation.labels.mapv(|label| label as u16);
                let _ = reader.write_segmentation(labels.view(), &segmentation.geometry, &folder.path().join("b.nii"));
            }
        }
        prop_assert!(start.elapsed() < SOON);
    }

    #[test]
    fn stored_cases(edits in edits()) {
        let folder = tempfile::tempdir().unwrap();
        let cases = folder.path().join("cases");
        let (image, segmentation) = case();
        let dataset = DatasetJson::parse(&dataset_json().to_string()).unwrap();
        let plans = plans();
        let configuration = plans.configuration("3d_fullres").unwrap();
        let made = preprocess_case(&image, Some(&segmentation), &plans, &configuration, &dataset).unwrap();
        write_case(&cases, "a", &made, "key").unwrap();
        let path = cases.join("a.npz");
        fs::write(&path, edited(fs::read(&path).unwrap(), &edits)).unwrap();
        let start = Instant::now();
        match MappedCase::open(&cases, "a") {
            Ok(case) => {
                // What was found inside can be read.
                let _ = case.data().iter().sum::<f32>() + case.seg().iter().map(|&v| f32::from(v)).sum::<f32>();
            }
            Err(error) => prop_assert!(error.to_string().contains("a.npz"), "{}", error),
        }
        prop_assert!(start.elapsed() < SOON);
    }

    #[test]
    fn data_set_documents(edits in edits(), changes in odd_changes()) {
        let start = Instant::now();
        let text = edited(dataset_json().to_string().into_bytes(), &edits);
        let texts = [String::from_utf8_lossy(&text).into_owned(), with_odd(dataset_json(), &changes).to_string()];
        for text in texts {
            let Ok(dataset) = DatasetJson::parse(&text) else { continue };
            let _ = (dataset.foreground(), dataset.segmentation_heads(), dataset.without_cases());
            let _ = (ClassKey::of_dataset(&dataset), dataset.channels(), dataset.ignore_label());
            let fingerprint: Fingerprint = serde_json::from_value(fingerprint()).unwrap();
            let _ = plan_experiment(&fingerprint, &dataset, &Options::default(), "Dataset001_A", "SimpleITKIO");
        }
        prop_assert!(start.elapsed() < SOON);
    }

    #[test]
    fn plans_documents(edits in edits(), changes in odd_changes()) {
        let start = Instant::now();
        let good = plans();
        if let Ok(plans) = Plans::from_json(&edited(good.to_json().into_bytes(), &edits)) {
            use_plans(&plans);
        }
        if let Ok(plans) = Plans::from_value(&with_odd(good.to_value(), &changes)) {
            use_plans(&plans);
        }
        prop_assert!(start.elapsed() < SOON);
    }

    #[test]
    fn fingerprints(edits in edits(), changes in odd_changes(), planner in prop::sample::select(Planner::ALL.to_vec())) {
        let start = Instant::now();
        let dataset = DatasetJson::parse(&dataset_json().to_string()).unwrap();
        let options = Options { planner, ..Options::default() };
        let text = edited(fingerprint().to_string().into_bytes(), &edits);
        let parsed = [serde_json::from_slice(&text), serde_json::from_value(with_odd(fingerprint(), &changes))];
        for fingerprint in parsed.into_iter().flatten() {
            let fingerprint: Fingerprint = fingerprint;
            let _ = plan_experiment(&fingerprint, &dataset, &options, "Dataset001_A", "SimpleITKIO");
        }
        prop_assert!(start.elapsed() < SOON);
    }

    #[test]
    fn splits_documents(edits in edits(), changes in odd_changes(), fold in 0u32..8) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("splits_final.json");
        let names: Vec<String> = (0..7).map(|n| format!("case_{n}")).collect();
        let good = serde_json::to_value(splits::generate(&names).unwrap()).unwrap();
        for text in [edited(good.to_string().into_bytes(), &edits), with_odd(good, &changes).to_string().into()] {
            fs::write(&path, text).unwrap();
            if let Ok(read) = splits::read(&path)
                && let Ok(split) = splits::select(&names, &read, Fold::Number(fold))
            {
                prop_assert!(!split.train.is_empty());
                prop_assert!(split.train.iter().chain(&split.val).all(|case| names.contains(case)));
            }
        }
    }
}

#[test]
fn a_long_chain_of_configurations_resolves() {
    let mut plans = plans();
    let entry = |parent: String| {
        let mut map = Map::new();
        map.insert("inherits_from".into(), parent.into());
        map
    };
    plans.configurations.insert("c0".into(), entry("2d".into()));
    for i in 1..200_000 {
        plans
            .configurations
            .insert(format!("c{i}"), entry(format!("c{}", i - 1)));
    }
    let start = Instant::now();
    assert!(plans.configuration("c199999").is_ok());
    plans.configurations.insert("c0".into(), entry("c199999".into()));
    assert!(plans.configuration("c5").unwrap_err().reason.contains("itself"));
    assert!(start.elapsed() < SOON);
}
