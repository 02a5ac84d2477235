//! Sampling and augmentation against nnU-Net's loader and batchgeneratorsv2, given the same parameters.

mod batches;
mod heavy;
pub mod samples;
mod speed;

use heavy::heavy_samples;
use nnunet::train::{
    augment::{Augmentation, AugmentationSettings, random::SampleKey, spatial::Spatial},
    loader::{ClassVoxels, PatchSampler},
};
use samples::default_samples;
use serde_json::{Value, json};
use std::fs;
use tests::{oracle, parity_table};

/// What images may differ by: sums and powers are computed in another order.
const TOLERANCE: f32 = 1e-4;

#[test]
fn samples_are_batchgeneratorsv2s() {
    let folder = tempfile::tempdir().unwrap();
    let mut samples = default_samples();
    samples.extend(heavy_samples());
    let matrices: Vec<([f64; 3], [f64; 3])> = vec![
        ([0.3, -0.2, 0.5], [1.0; 3]),
        ([0.0, 0.0, 0.0], [0.7; 3]),
        ([-0.5, 0.1, 3.0], [1.4; 3]),
        ([-0.5, 0.1, 3.0], [0.7, 1.1, 1.43]),
    ];
    let patch_sizes: Vec<Vec<usize>> = vec![
        vec![40, 56, 40],
        vec![128, 128, 128],
        vec![96, 160, 160],
        vec![20, 320, 256],
        vec![56, 192, 160],
        vec![14, 256, 256],
        vec![48, 48, 144],
        vec![56, 40],
        vec![512, 512],
        vec![320, 192],
        vec![40, 64],
    ];
    let mut bounds = Vec::new();
    for n in 0..40usize {
        let initial = [73 + n % 3, 80, 64 + n % 2];
        let shape = [20 + n * 37 % 90, 30 + n * 53 % 110, 25 + n * 29 % 80];
        let voxel = [n % shape[0], shape[1] - 1, n * 7 % shape[2]];
        bounds.push((initial, [40, 56, 40], shape, voxel));
        bounds.push(([1, 65, 65], [1, 56, 40], shape, voxel));
    }
    let requests = json!({
        "samples": samples.iter().map(|s| s.write(folder.path())).collect::<Vec<_>>(),
        "matrices": matrices.iter().map(|(a, s)| json!({"angles": a, "scales": s})).collect::<Vec<_>>(),
        "patch_sizes": patch_sizes,
        "bounds": bounds
            .iter()
            .map(|(i, f, s, v)| json!({"initial": i, "final": f, "shape": s, "voxel": v}))
            .collect::<Vec<_>>(),
    });
    fs::write(folder.path().join("requests.json"), requests.to_string()).unwrap();
    oracle::run("augment.py", &[folder.path()]).unwrap();
    let answers: Value =
        serde_json::from_str(&fs::read_to_string(folder.path().join("answers.json")).unwrap()).unwrap();

    for (n, (angles, scales)) in matrices.iter().enumerate() {
        let ours = json!(Spatial::new(*angles, *scales).matrix);
        compare_matrix(&ours, &answers["matrices"][n], 3);
        let plane = Spatial::in_plane(angles[2], [scales[1], scales[2]]).matrix;
        let ours = json!([[plane[1][1], plane[1][2]], [plane[2][1], plane[2][2]]]);
        compare_matrix(&ours, &answers["in_plane"][n], 2);
    }
    for augmentation in [Augmentation::Default, Augmentation::Heavy] {
        for (n, patch) in patch_sizes.iter().enumerate() {
            let theirs = &answers["configurations"][format!("{augmentation:?}")][n];
            let ours = AugmentationSettings {
                augmentation,
                ..AugmentationSettings::new(patch).unwrap()
            };
            let initial = ours.initial_patch_size();
            assert_eq!(json!(initial[3 - patch.len()..]), theirs["initial"], "{patch:?}");
            assert_eq!(json!(ours.mirror_axes), theirs["mirror_axes"]);
            assert_eq!(json!(ours.dummy_2d), theirs["dummy_2d"]);
            assert_eq!(json!(ours.rotation), theirs["rotation"]);
        }
    }
    for (n, (initial, last, shape, voxel)) in bounds.iter().enumerate() {
        let sampler = PatchSampler {
            initial_patch_size: *initial,
            final_patch_size: *last,
            annotated: None,
        };
        let ours: Vec<[i64; 2]> = sampler.bounds(*shape).iter().map(|(a, b)| [*a, *b]).collect();
        assert_eq!(
            json!(ours),
            answers["bounds"][n]["ranges"],
            "{initial:?} in {shape:?}"
        );
        let key = SampleKey {
            purpose: "parity",
            seed: 1,
            site: "a",
            epoch: 0,
            iteration: 0,
            sample: n as u64,
        };
        let only = [ClassVoxels {
            labels: vec![1],
            voxels: vec![voxel.map(|v| v as u32)],
        }];
        let forced = sampler.draw(*shape, true, &only, &mut key.generator());
        assert_eq!(json!(forced), answers["bounds"][n]["forced"]);
    }

    let mut failures = Vec::new();
    for sample in &samples {
        let ours = sample.drawn.apply(&sample.settings, &sample.window());
        let read =
            |suffix: String| fs::read(folder.path().join(format!("{}.{suffix}", sample.name))).unwrap();
        let theirs: Vec<f32> = read("data".into())
            .as_chunks()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect();
        assert_eq!(ours.data.len(), theirs.len(), "{}", sample.name);
        let difference = ours
            .data
            .iter()
            .zip(&theirs)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        let pipeline = match sample.settings.augmentation {
            Augmentation::Heavy => "DA5",
            _ => "default",
        };
        let what = format!("{}: image; targets equal", sample.name);
        parity_table::compared("transform", pipeline, &what, &format!("{difference:.1e}")).unwrap();
        // `is_nan` cannot hide: the fold above skips it, so it is looked for.
        if difference > TOLERANCE || ours.data.iter().any(|v| v.is_nan()) {
            failures.push(format!("{}: images differ by {difference}", sample.name));
        }
        for (scale, target) in ours.targets.iter().enumerate() {
            let theirs: Vec<i16> = read(format!("target{scale}"))
                .as_chunks()
                .0
                .iter()
                .map(|b| i16::from_le_bytes(*b))
                .collect();
            assert_eq!(target.len(), theirs.len(), "{} target {scale}", sample.name);
            let unlike = target.iter().zip(&theirs).filter(|(a, b)| a != b).count();
            if unlike > 0 {
                failures.push(format!(
                    "{}: {unlike} of {} voxels of target {scale}",
                    sample.name,
                    target.len()
                ));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn compare_matrix(ours: &Value, theirs: &Value, size: usize) {
    for (i, j) in (0..size).flat_map(|i| (0..size).map(move |j| (i, j))) {
        let (a, b) = (ours[i][j].as_f64().unwrap(), theirs[i][j].as_f64().unwrap());
        assert!((a - b).abs() < 1e-7, "{ours} {theirs}");
    }
}
