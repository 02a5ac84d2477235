//! A small data set to spoil.

use std::{fs, path::Path};

use nnunet::{
    dataset::RawDataset,
    plan::{Options, plan_experiment},
};
use schemas::nnunet::{Fingerprint, Plans};
use serde_json::json;

use super::scans::Scan;

/// The ending of its files.
pub const ENDING: &str = ".nii.gz";

/// Three good cases of two channels, and a fourth, `bad`, that is good as well until it is spoilt.
pub fn dataset(folder: &Path) {
    fs::write(
        folder.join("dataset.json"),
        r#"{"channel_names": {"0": "CT", "1": "MRI"}, "labels": {"background": 0, "a": 1, "b": 2}, "numTraining": 4,
            "file_ending": ".nii.gz"}"#,
    )
    .unwrap();
    for (number, case) in ["a", "b", "c", "bad"].into_iter().enumerate() {
        for channel in 0..2 {
            let image = Scan::waves([6, 7, 8 + number], (number + channel) as f32);
            image.write(&folder.join(format!("imagesTr/{case}_000{channel}{ENDING}")));
        }
        Scan::blocks([6, 7, 8 + number], 3).write(&folder.join(format!("labelsTr/{case}{ENDING}")));
    }
}

/// Plans for such cases.
pub fn plans(folder: &Path) -> Plans {
    let intensities = json!({"max": 90.0, "mean": 20.0, "median": 20.0, "min": -60.0, "percentile_00_5": -50.0,
        "percentile_99_5": 80.0, "std": 30.0});
    let fingerprint = json!({"foreground_intensity_properties_per_channel": {"0": intensities, "1": intensities},
        "median_relative_size_after_cropping": 1.0, "shapes_after_crop": [[6, 7, 8], [6, 7, 9], [6, 7, 10]],
        "spacings": vec![[1.0; 3]; 3]});
    plan(
        &serde_json::from_value(fingerprint).unwrap(),
        &RawDataset::open(folder).unwrap(),
    )
}

/// Plans from a fingerprint.
pub fn plan(fingerprint: &Fingerprint, raw: &RawDataset) -> Plans {
    let options = Options::default();
    plan_experiment(
        fingerprint,
        &raw.dataset_json,
        &options,
        &raw.name,
        raw.reader.name(),
    )
    .unwrap()
}
