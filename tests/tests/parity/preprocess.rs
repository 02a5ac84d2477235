//! Preprocessed cases equal Python's, and Python loads them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use nnunet::{
    dataset::RawDataset,
    plan::{Options, plan_experiment},
    preprocess::{Done, MappedCase, preprocess_dataset},
    progress::Unobserved,
};
use schemas::nnunet::{Fingerprint, Plans};
use serde_json::{Value, json};
use tests::oracle;

/// Writes a float NIfTI that ITK reads: `values` (z, y, x), `spacing` in mm in that order.
fn write_nifti(
    path: &Path,
    shape: [usize; 3],
    spacing: [f64; 3],
    values: impl Fn(usize, usize, usize) -> f32,
) {
    let mut file = vec![0u8; 352];
    let mut put = |offset: usize, bytes: &[u8]| file[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(0, &348i32.to_le_bytes());
    for (i, n) in [3, shape[2], shape[1], shape[0], 1, 1, 1, 1]
        .into_iter()
        .enumerate()
    {
        put(40 + 2 * i, &(n as i16).to_le_bytes());
    }
    put(70, &16i16.to_le_bytes());
    put(72, &32i16.to_le_bytes());
    for (i, s) in [1.0, spacing[2], spacing[1], spacing[0]].into_iter().enumerate() {
        put(76 + 4 * i, &(s as f32).to_le_bytes());
    }
    put(108, &352f32.to_le_bytes());
    put(123, &[2]);
    put(252, &1i16.to_le_bytes());
    put(344, b"n+1\0");
    for z in 0..shape[0] {
        for y in 0..shape[1] {
            for x in 0..shape[2] {
                file.extend(values(z, y, x).to_le_bytes());
            }
        }
    }
    fs::write(path, file).unwrap();
}

/// Noise in 0..1 without a generator.
fn noise(a: usize, b: usize, c: usize) -> f32 {
    let mut h = (a as u32).wrapping_mul(0x9e37_79b1)
        ^ (b as u32).wrapping_mul(0x85eb_ca6b)
        ^ (c as u32).wrapping_mul(0xc2b2_ae35);
    h = (h ^ (h >> 15)).wrapping_mul(0x2c1b_3c6d);
    ((h ^ (h >> 13)) >> 8) as f32 / (1 << 24) as f32
}

/// How far a voxel is from the middle, 1 at the middle of each face.
fn radius(at: [usize; 3], shape: [usize; 3]) -> f32 {
    let part = |i: usize| ((at[i] as f32 + 0.5) / shape[i] as f32 - 0.5) * 2.0;
    (0..3).map(|i| part(i).powi(2)).sum::<f32>().sqrt()
}

/// A raw data set of two cases per shape and spacing, with its plans and further configurations.
struct Made {
    raw: RawDataset,
    plans: Plans,
    configurations: Vec<String>,
}

fn make(
    parent: &Path,
    dataset_json: Value,
    cases: &[([usize; 3], [f64; 3])],
    relative_size: f64,
    masked: bool,
    spacings: &[(&str, Value)],
) -> Made {
    let folder = parent.join("Dataset001_Made");
    let channels = dataset_json["channel_names"].as_object().unwrap().len();
    for sub in ["imagesTr", "labelsTr"] {
        fs::create_dir_all(folder.join(sub)).unwrap();
    }
    fs::write(folder.join("dataset.json"), dataset_json.to_string()).unwrap();
    let highest = dataset_json["highest"].as_u64().unwrap();
    for (number, &(shape, spacing)) in cases.iter().enumerate() {
        for channel in 0..channels {
            write_nifti(
                &folder.join(format!("imagesTr/case_{number}_{channel:04}.nii")),
                shape,
                spacing,
                |z, y, x| {
                    let r = radius([z, y, x], shape);
                    if masked && (r > 0.8 || (0.3..0.35).contains(&r)) {
                        return 0.0;
                    }
                    (1.0 - r) * 400.0 * (channel + 1) as f32 + noise(z * 31 + channel, y, x) * 150.0
                        - if masked { 0.0 } else { 300.0 }
                },
            );
        }
        write_nifti(
            &folder.join(format!("labelsTr/case_{number}.nii")),
            shape,
            spacing,
            |z, y, x| {
                let r = radius([z, y, x], shape);
                // Shells, with ragged edges, that reach out of the mask here and there.
                let shell = ((0.9 - r) * (highest + 1) as f32 + noise(z, y, x + 7) * 0.6)
                    .floor()
                    .clamp(0.0, highest as f32);
                if r > 0.85 && noise(x, y, z) > 0.97 {
                    1.0
                } else {
                    shell
                }
            },
        );
    }
    let properties: serde_json::Map<String, Value> = (0..channels)
        .map(|c| {
            (
                c.to_string(),
                json!({"max": 400.0, "mean": 81.3, "median": 70.0, "min": -300.0,
            "percentile_00_5": -211.7, "percentile_99_5": 255.1, "std": 93.4}),
            )
        })
        .collect();
    let fingerprint: Fingerprint = serde_json::from_value(json!({
        "foreground_intensity_properties_per_channel": properties,
        "median_relative_size_after_cropping": relative_size,
        "shapes_after_crop": cases.iter().map(|c| c.0).collect::<Vec<_>>(),
        "spacings": cases.iter().map(|c| c.1).collect::<Vec<_>>(),
    }))
    .unwrap();
    let raw = RawDataset::open(&folder).unwrap();
    let mut plans = plan_experiment(
        &fingerprint,
        &raw.dataset_json,
        &Options::default(),
        &raw.name,
        raw.reader.name(),
    )
    .unwrap();
    for (name, spacing) in spacings {
        let parent = if spacing.as_array().unwrap().len() == 2 {
            "2d"
        } else {
            "3d_fullres"
        };
        let mut own = serde_json::Map::new();
        own.insert("inherits_from".into(), parent.into());
        own.insert("data_identifier".into(), format!("nnUNetPlans_{name}").into());
        own.insert("spacing".into(), spacing.clone());
        plans.configurations.insert((*name).into(), own);
    }
    let configurations = plans
        .configuration_names()
        .filter(|n| !n.contains("lowres") && !n.contains("cascade"))
        .map(str::to_owned)
        .collect();
    Made {
        raw,
        plans,
        configurations,
    }
}

/// Writes what the oracle reads.
fn ask(folder: &Path, made: &Made, cases: &[usize]) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("plans.json"), made.plans.to_json()).unwrap();
    fs::write(
        folder.join("dataset.json"),
        serde_json::to_string(&made.raw.dataset_json).unwrap(),
    )
    .unwrap();
    let jobs: Vec<Value> = made
        .configurations
        .iter()
        .flat_map(|configuration| {
            cases.iter().map(move |&c| {
                let case = &made.raw.cases[c];
                json!({"case": case.identifier, "configuration": configuration, "images": case.images, "label": case.label})
            })
        })
        .collect();
    fs::write(folder.join("jobs.json"), Value::from(jobs).to_string()).unwrap();
}

/// Preprocesses with Rounds and compares with what the oracle left; returns the largest difference of data.
fn compare(folder: &Path, made: &Made, cases: &[usize]) -> f32 {
    let mut worst = 0.0f32;
    let preprocessed = folder.join("ours");
    for configuration in &made.configurations {
        let outcomes = preprocess_dataset(
            &made.raw,
            cases,
            &made.plans,
            configuration,
            &preprocessed,
            2,
            &Unobserved,
        )
        .unwrap();
        let stored = preprocessed.join(made.plans.configuration(configuration).unwrap().data_identifier);
        for outcome in outcomes {
            let identifier = &made.raw.cases[outcome.ordinal].identifier;
            let context = format!("{} {identifier} {configuration}", folder.display());
            assert!(
                matches!(outcome.result, Ok(Done::Written { .. })),
                "{context}: {:?}",
                outcome.result
            );
            let ours = MappedCase::open(&stored, identifier).unwrap();
            let read = |ending: &str| {
                fs::read(folder.join(format!("{identifier}_{configuration}.{ending}"))).unwrap()
            };
            let properties: Value = serde_json::from_slice(&read("json")).unwrap();
            assert_eq!(json!(ours.data().shape()), properties["shape"], "{context}");
            let theirs: Vec<f32> = read("data")
                .as_chunks::<4>()
                .0
                .iter()
                .map(|b| f32::from_le_bytes(*b))
                .collect();
            assert_eq!(theirs.len(), ours.data().len(), "{context}: data");
            let data = theirs
                .iter()
                .zip(ours.data())
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f32::max);
            assert!(data <= 1e-4, "{context}: data differ by {data}");
            worst = worst.max(data);
            let seg: Vec<i16> = read("seg")
                .as_chunks::<2>()
                .0
                .iter()
                .map(|b| i16::from_le_bytes(*b))
                .collect();
            let differing = seg.iter().zip(ours.seg()).filter(|(a, b)| a != b).count();
            assert_eq!((seg.len(), differing), (ours.seg().len(), 0), "{context}: seg");
            let p = ours.properties();
            for (key, value) in [
                ("shape_before_cropping", json!(p.shape_before_cropping)),
                ("bbox_used_for_cropping", json!(p.bbox_used_for_cropping)),
                (
                    "shape_after_cropping_and_before_resampling",
                    json!(p.shape_after_cropping_and_before_resampling),
                ),
            ] {
                assert_eq!(value, properties[key], "{context}: {key}");
            }
            let locations: Vec<Value> = ours
                .class_voxels()
                .iter()
                .map(|c| {
                    json!([
                        c.labels,
                        c.voxels.iter().map(|v| [0, v[0], v[1], v[2]]).collect::<Vec<_>>()
                    ])
                })
                .collect();
            assert!(
                properties["class_locations"] == Value::from(locations),
                "{context}: class_locations"
            );
        }
    }
    worst
}

fn all(made: &Made) -> Vec<usize> {
    (0..made.raw.cases.len()).collect()
}

/// Site A of the hippocampus with plans from a fingerprint that is about its own.
fn hippocampus_plans(data: &Path) -> (RawDataset, Plans) {
    let raw = RawDataset::open(&data.join("site-a/Dataset004_HippocampusSiteA")).unwrap();
    let shapes: Vec<[usize; 3]> = (0..20).map(|i| [33 + i % 5, 50 + i % 3, 34 + i % 4]).collect();
    let fingerprint: Fingerprint = serde_json::from_value(json!({
        "foreground_intensity_properties_per_channel": {"0": {"max": 400.0, "mean": 81.3, "median": 70.0,
            "min": -300.0, "percentile_00_5": -211.7, "percentile_99_5": 255.1, "std": 93.4}},
        "median_relative_size_after_cropping": 1.0, "shapes_after_crop": shapes, "spacings": vec![[1.0; 3]; 20],
    }))
    .unwrap();
    let plans = plan_experiment(
        &fingerprint,
        &raw.dataset_json,
        &Options::default(),
        &raw.name,
        raw.reader.name(),
    )
    .unwrap();
    (raw, plans)
}

#[test]
fn preprocessed_cases_are_pythons() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| -> PathBuf { root.path().join(name) };

    let ct = make(
        &at("ct"),
        json!({"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1, "b": 2, "c": 3}, "numTraining": 3,
            "file_ending": ".nii", "overwrite_image_reader_writer": "SimpleITKIO", "highest": 3}),
        &[
            ([14, 60, 57], [5.0, 0.8, 0.8]),
            ([25, 51, 63], [3.0, 0.9, 0.9]),
            ([40, 44, 41], [1.5, 1.1, 1.1]),
        ],
        1.0,
        false,
        &[
            ("finer", json!([2.5, 0.55, 0.5])),
            ("coarser", json!([7.0, 1.6, 1.7])),
            ("half", json!([10.0, 1.6, 1.6])),
            ("iso", json!([1.2, 1.2, 1.2])),
            ("flat", json!([0.7, 1.3])),
        ],
    );
    let masked = make(
        &at("masked"),
        json!({"channel_names": {"0": "T1", "1": "rescale_to_0_1", "2": "noNorm"},
            "labels": {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "one": [3], "ignore": 4},
            "regions_class_order": [1, 2, 3], "numTraining": 2, "file_ending": ".nii",
            "overwrite_image_reader_writer": "SimpleITKIO", "highest": 4}),
        &[([40, 36, 44], [1.0, 1.3, 0.9]), ([31, 45, 33], [1.4, 1.0, 1.1])],
        0.5,
        true,
        &[
            ("double", json!([0.5, 0.65, 0.45])),
            ("coarse", json!([2.0, 2.6, 1.8])),
        ],
    );
    let mut sets = vec![("ct", ct), ("masked", masked)];
    let mut hippocampus = None;
    if let Some(data) = tests::hippocampus::folder() {
        let (raw, plans) = hippocampus_plans(&data);
        hippocampus = Some(Made {
            raw,
            plans,
            configurations: vec!["2d".into(), "3d_fullres".into()],
        });
    } else {
        tests::skip("preprocessed_cases_are_pythons", "hippocampus: no shared data");
    }
    for (name, made) in &sets {
        ask(&at(name), made, &all(made));
    }
    let few = [0, 7, 31, 60];
    if let Some(made) = &hippocampus {
        ask(&at("hippocampus"), made, &few);
    }
    oracle::run("preprocess.py", &[root.path()]).unwrap();
    for (name, made) in &sets {
        println!(
            "{name}: data differ by at most {}",
            compare(&at(name), made, &all(made))
        );
    }
    if let Some(made) = &hippocampus {
        println!(
            "hippocampus: data differ by at most {}",
            compare(&at("hippocampus"), made, &few)
        );
    }

    // Python's own data set class reads what Rounds wrote.
    let (name, made) = sets.remove(1);
    let stored = at(name).join("ours/nnUNetPlans_3d_fullres");
    let found: Value =
        serde_json::from_str(&oracle::run("load_preprocessed.py", &[&stored]).unwrap()).unwrap();
    for case in &made.raw.cases {
        let ours = MappedCase::open(&stored, &case.identifier).unwrap();
        let theirs = &found[&case.identifier];
        assert_eq!(theirs["shapes"], json!([ours.data().shape(), ours.seg().shape()]));
        assert_eq!(theirs["types"], json!(["float32", "int16"]));
        let sum: f64 = ours.data().iter().map(|&v| f64::from(v)).sum();
        assert!((theirs["sums"][0].as_f64().unwrap() - sum).abs() < 1e-3 * sum.abs().max(1.0));
        assert_eq!(
            theirs["sums"][1],
            json!(ours.seg().iter().map(|&v| i64::from(v)).sum::<i64>())
        );
        assert_eq!(theirs["spacing"], json!(ours.properties().spacing));
        assert_eq!(theirs["bbox"], json!(ours.properties().bbox_used_for_cropping));
        assert_eq!(theirs["geometry"]["spacing"].as_array().unwrap().len(), 3);
        let keys: Vec<&Value> = theirs["classes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| &c[0])
            .collect();
        assert_eq!(
            keys,
            [
                &json!([1, 2, 3]),
                &json!([2, 3]),
                &json!([3]),
                &json!([-1, 0, 1, 2, 3])
            ]
        );
        for (found, ours) in theirs["classes"]
            .as_array()
            .unwrap()
            .iter()
            .zip(ours.class_voxels())
        {
            let last = ours.voxels.last().unwrap();
            assert_eq!(found[1], ours.voxels.len());
            assert_eq!(found[2], json!([0, last[0], last[1], last[2]]));
        }
    }

    // What is there is left alone; what changed is made again; what is broken is named, and the others finish.
    let again = |cases: &[usize]| {
        preprocess_dataset(
            &made.raw,
            cases,
            &made.plans,
            "3d_fullres",
            &at(name).join("ours"),
            2,
            &Unobserved,
        )
        .unwrap()
    };
    assert!(
        again(&[0, 1])
            .iter()
            .all(|o| matches!(o.result, Ok(Done::Cached)))
    );
    let image = &made.raw.cases[0].images[0];
    let content = fs::read(image).unwrap();
    fs::write(image, &content[..content.len() / 2]).unwrap();
    let outcomes = again(&[1, 0]);
    assert!(matches!(outcomes[0].result, Ok(Done::Cached)) && outcomes[0].ordinal == 1);
    assert!(
        outcomes[1]
            .result
            .as_ref()
            .unwrap_err()
            .to_string()
            .contains("case_0")
    );
}

/// Processor seconds of this process so far.
fn processor_seconds() -> f64 {
    // SAFETY: getrusage only fills the struct it is given.
    let usage = unsafe {
        let mut usage = std::mem::zeroed::<libc::rusage>();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    [usage.ru_utime, usage.ru_stime]
        .iter()
        .map(|t| t.tv_sec as f64 + t.tv_usec as f64 / 1e6)
        .sum()
}

#[test]
#[ignore = "a measurement: 90 cases, as they are and resampled, Rounds against Python, reading included"]
fn speed_on_site_a() {
    let Some(data) = tests::hippocampus::folder() else {
        println!("skipped: speed_on_site_a: no shared data");
        return;
    };
    let root = tempfile::tempdir().unwrap();
    let (raw, mut plans) = hippocampus_plans(&data);
    let mut own = serde_json::Map::new();
    own.insert("inherits_from".into(), "3d_fullres".into());
    own.insert("data_identifier".into(), "resampled".into());
    own.insert("spacing".into(), json!([0.8, 0.8, 0.8]));
    plans.configurations.insert("resampled".into(), own);
    for configuration in ["3d_fullres", "resampled"] {
        let made = Made {
            raw: raw.clone(),
            plans: plans.clone(),
            configurations: vec![configuration.into()],
        };
        let folder = root.path().join(configuration);
        ask(&folder, &made, &all(&made));
        let (start, before) = (std::time::Instant::now(), processor_seconds());
        preprocess_dataset(
            &raw,
            &all(&made),
            &plans,
            configuration,
            &root.path().join("out"),
            2,
            &Unobserved,
        )
        .unwrap();
        let (wall, processor) = (start.elapsed().as_secs_f64(), processor_seconds() - before);
        println!("rounds {configuration}: {wall:.2} s, {processor:.2} s of processor, written to disk");
    }
    let python = oracle::run("preprocess.py", &[root.path()]).unwrap();
    println!("python, one process, not written to disk: {}", python.trim());
}
