//! Plans equal Python's, key for key and in order.

use std::{fs, path::Path};

use nnunet::plan::{Options, Planner, plan_experiment};
use schemas::nnunet::{DatasetJson, Fingerprint};
use serde_json::{Value, json};

/// A data set to plan: spacings around `spacing`, shapes around `shape`.
struct Sample {
    name: &'static str,
    spacing: [f64; 3],
    shape: [usize; 3],
    cases: usize,
    channels: &'static [&'static str],
    labels: usize,
    relative_size: f64,
}

const SAMPLES: [Sample; 9] = [
    Sample {
        name: "hippocampus",
        spacing: [1.0, 1.0, 1.0],
        shape: [36, 50, 35],
        cases: 180,
        channels: &["MRI"],
        labels: 3,
        relative_size: 1.0,
    },
    Sample {
        name: "anisotropic_ct",
        spacing: [5.0, 0.78, 0.78],
        shape: [60, 512, 512],
        cases: 41,
        channels: &["CT"],
        labels: 2,
        relative_size: 1.0,
    },
    Sample {
        name: "thick_middle",
        spacing: [0.6, 6.0, 0.6],
        shape: [256, 14, 250],
        cases: 30,
        channels: &["T2"],
        labels: 4,
        relative_size: 0.9,
    },
    Sample {
        name: "liver",
        spacing: [1.0, 0.77, 0.77],
        shape: [432, 512, 512],
        cases: 131,
        channels: &["ct"],
        labels: 3,
        relative_size: 1.0,
    },
    Sample {
        name: "huge",
        spacing: [0.4, 0.3, 0.35],
        shape: [900, 700, 800],
        cases: 12,
        channels: &["CT", "noNorm"],
        labels: 30,
        relative_size: 1.0,
    },
    Sample {
        name: "brats",
        spacing: [1.0, 1.0, 1.0],
        shape: [140, 172, 139],
        cases: 484,
        channels: &["FLAIR", "T1", "zscore", "rescale_to_0_1"],
        labels: 4,
        relative_size: 0.45,
    },
    Sample {
        name: "flat",
        spacing: [999.0, 1.0, 1.0],
        shape: [1, 512, 640],
        cases: 700,
        channels: &["rgb_to_0_1", "rgb_to_0_1", "rgb_to_0_1"],
        labels: 5,
        relative_size: 1.0,
    },
    Sample {
        name: "few",
        spacing: [3.1, 1.0, 0.9],
        shape: [9, 90, 100],
        cases: 3,
        channels: &["MRI"],
        labels: 2,
        relative_size: 0.7,
    },
    Sample {
        name: "thin",
        spacing: [0.5, 0.5, 2.0],
        shape: [320, 300, 18],
        cases: 25,
        channels: &["MRI"],
        labels: 2,
        relative_size: 0.99,
    },
];

/// Whole-number noise without a random generator: small, and not alike in any two cases.
fn wobble(case: usize, axis: usize) -> i64 {
    ((case * 7919 + axis * 104_729 + case * case * 31) % 23) as i64 - 11
}

impl Sample {
    fn fingerprint(&self) -> Value {
        let shapes: Vec<[usize; 3]> = (0..self.cases)
            .map(|case| {
                std::array::from_fn(|axis| match self.shape[axis] {
                    1 => 1,
                    n => (n as i64 + wobble(case, axis) * (n as i64 / 60 + 1) / 2).max(4) as usize,
                })
            })
            .collect();
        let spacings: Vec<[f64; 3]> = (0..self.cases)
            .map(|case| {
                std::array::from_fn(|axis| match self.spacing[axis] {
                    s if s == 1.0 || s > 100.0 => s,
                    s => s * (1.0 + wobble(case + 5, axis) as f64 / 57.0),
                })
            })
            .collect();
        let intensities: serde_json::Map<String, Value> = (0..self.channels.len())
            .map(|c| {
                let base = 100.0 * (c as f64 + 1.0) + 1e-5;
                (
                    c.to_string(),
                    json!({"max": base * 9.0, "mean": base, "median": base - 0.1, "min": 0.0,
                    "percentile_00_5": 1e-7, "percentile_99_5": base * 8.5, "std": base / 3.0}),
                )
            })
            .collect();
        json!({
            "foreground_intensity_properties_per_channel": intensities,
            "median_relative_size_after_cropping": self.relative_size,
            "shapes_after_crop": shapes,
            "spacings": spacings,
        })
    }

    fn dataset_json(&self) -> Value {
        let channels: serde_json::Map<String, Value> = self
            .channels
            .iter()
            .enumerate()
            .map(|(i, name)| (i.to_string(), (*name).into()))
            .collect();
        let mut labels = serde_json::Map::new();
        labels.insert("background".into(), 0.into());
        for label in 1..self.labels {
            labels.insert(format!("label {label}"), label.into());
        }
        json!({"channel_names": channels, "labels": labels, "numTraining": self.cases, "file_ending": ".nii.gz"})
    }

    fn options(&self) -> Vec<Options> {
        let planner = |planner| Options {
            planner,
            ..Options::default()
        };
        let mut options: Vec<Options> = Planner::ALL.into_iter().map(planner).collect();
        options.push(Options {
            gpu_memory_target_gb: Some(20.0),
            plans_name: Some("nnUNetPlans_20G".into()),
            overwrite_target_spacing: Some([1.7, 0.9, 1.1]),
            ..planner(Planner::Default)
        });
        options.push(Options {
            gpu_memory_target_gb: Some(4.0),
            plans_name: Some("small".into()),
            suppress_transpose: true,
            ..planner(Planner::ResEncL)
        });
        options
    }
}

fn for_python(options: &Options) -> Value {
    let mut kwargs = json!({"suppress_transpose": options.suppress_transpose});
    if let Some(target) = options.gpu_memory_target_gb {
        kwargs["gpu_memory_target_in_gb"] = target.into();
    }
    if let Some(name) = &options.plans_name {
        kwargs["plans_name"] = name.as_str().into();
    }
    if let Some(spacing) = options.overwrite_target_spacing {
        kwargs["overwrite_target_spacing"] = spacing.to_vec().into();
    }
    json!({"planner": options.planner.class_name(), "kwargs": kwargs})
}

fn write(path: &Path, value: &Value) {
    fs::write(path, serde_json::to_string(value).unwrap()).unwrap();
}

#[test]
fn plans_equal_pythons() {
    let folder = tempfile::tempdir().unwrap();
    for sample in &SAMPLES {
        let case = folder.path().join(sample.name);
        fs::create_dir(&case).unwrap();
        write(&case.join("fingerprint.json"), &sample.fingerprint());
        write(&case.join("dataset.json"), &sample.dataset_json());
        write(
            &case.join("options.json"),
            &sample.options().iter().map(for_python).collect(),
        );
    }
    tests::oracle::run("plan.py", &[folder.path()]).unwrap();

    let mut names: Vec<&str> = SAMPLES.iter().map(|s| s.name).collect();
    names.sort_unstable();
    let mut lowres = 0;
    for sample in &SAMPLES {
        let number = names.iter().position(|&n| n == sample.name).unwrap() + 100;
        let fingerprint: Fingerprint = serde_json::from_value(sample.fingerprint()).unwrap();
        let dataset_json = DatasetJson::parse(&sample.dataset_json().to_string()).unwrap();
        for (i, options) in sample.options().iter().enumerate() {
            let dataset = format!("Dataset{number:03}_{}", sample.name);
            let ours =
                plan_experiment(&fingerprint, &dataset_json, options, &dataset, "SimpleITKIO").unwrap();
            let theirs =
                fs::read_to_string(folder.path().join(sample.name).join(format!("plans_{i}.json"))).unwrap();
            lowres += usize::from(ours.configurations.contains_key("3d_lowres"));
            let context = format!("{} by {}", sample.name, options.planner.class_name());
            assert_eq!(ours.to_json(), theirs, "{context}");
            for configuration in ours.configuration_names() {
                ours.configuration(configuration).unwrap();
            }
        }
    }
    assert!(
        lowres > 10,
        "the samples should force a low resolution often, not {lowres} times"
    );
}
