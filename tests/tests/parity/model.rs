//! Checkpoints in both directions, segmentations, summary.json and the average, held against Python nnU-Net.

use std::{
    fs,
    path::{Path, PathBuf},
};

use nnunet::{
    average::{Contribution, Rule, average},
    checkpoint::{
        Checkpoint, InitArgs, LoggedEpoch, Logging, OptimiserGroup, PthFile,
        results::{CHECKPOINT_FINAL, ResultsFolder},
        safetensors,
    },
    dataset::cases_to_predict,
    evaluate::evaluate_folder,
    image::Reader,
    network::{Layout, StateDict, Tensor32, initial_weights},
    predict::{Outcome, Predictor, Settings},
    progress::Unobserved,
    train::{TrainerVariant, optimiser::memory_name},
};
use schemas::{
    job::{Device, FoldId},
    nnunet::{DatasetJson, Plans},
};
use serde_json::{Value, json};
use tests::parity_table;

/// Plans with a tiny network in 2D and 3D, a transposition, and a target spacing unlike the images'.
pub fn plans() -> Value {
    let configuration = |dimensions: usize, patch: Value, spacing: Value, strides: Value, kernels: Value| {
        let resampling = |seg: bool, order: u8| json!({"is_seg": seg, "order": order, "order_z": 0, "force_separate_z": null});
        json!({
            "data_identifier": format!("nnUNetPlans_{}", if dimensions == 2 { "2d" } else { "3d_fullres" }),
            "preprocessor_name": "DefaultPreprocessor", "batch_size": 2, "patch_size": patch,
            "median_image_size_in_voxels": patch, "spacing": spacing,
            "normalization_schemes": ["ZScoreNormalization"], "use_mask_for_norm": [false],
            "resampling_fn_data": "resample_data_or_seg_to_shape", "resampling_fn_seg": "resample_data_or_seg_to_shape",
            "resampling_fn_data_kwargs": resampling(false, 3), "resampling_fn_seg_kwargs": resampling(true, 1),
            "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
            "resampling_fn_probabilities_kwargs": resampling(false, 1),
            "architecture": {
                "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
                "arch_kwargs": {
                    "n_stages": 3, "features_per_stage": [4, 8, 8],
                    "conv_op": format!("torch.nn.modules.conv.Conv{dimensions}d"),
                    "kernel_sizes": kernels, "strides": strides,
                    "n_conv_per_stage": [2, 1, 1], "n_conv_per_stage_decoder": [1, 2], "conv_bias": true,
                    "norm_op": format!("torch.nn.modules.instancenorm.InstanceNorm{dimensions}d"),
                    "norm_op_kwargs": {"eps": 1e-5, "affine": true}, "dropout_op": null, "dropout_op_kwargs": null,
                    "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": true}
                },
                "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"]
            },
            "batch_dice": true
        })
    };
    let intensities = json!({"0": {"max": 9.0, "mean": 5.0, "median": 5.0, "min": 0.0, "percentile_00_5": 0.5,
        "percentile_99_5": 8.5, "std": 2.0}});
    json!({
        "dataset_name": "Dataset001_Tiny", "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [1.0, 2.0, 1.3], "original_median_shape_after_transp": [30, 18, 26],
        "image_reader_writer": "SimpleITKIO", "transpose_forward": [1, 0, 2], "transpose_backward": [1, 0, 2],
        "configurations": {
            "2d": configuration(2, json!([16, 20]), json!([1.7, 1.2]), json!([[1, 1], [2, 2], [2, 2]]),
                json!([[3, 3], [3, 3], [3, 3]])),
            "3d_fullres": configuration(3, json!([16, 12, 20]), json!([1.1, 1.7, 1.2]),
                json!([[1, 1, 1], [2, 1, 2], [2, 2, 2]]), json!([[3, 1, 3], [3, 3, 3], [3, 3, 3]]))
        },
        "experiment_planner_used": "ExperimentPlanner", "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": intensities
    })
}

pub fn dataset(configuration: &str) -> Value {
    let labels = match configuration {
        "2d" => json!({"background": 0, "whole": [1, 2], "core": 2}),
        _ => json!({"background": 0, "a": 1, "b": 2}),
    };
    let mut dataset =
        json!({"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": 2, "file_ending": ".nii"});
    if configuration == "2d" {
        dataset["regions_class_order"] = json!([1, 2]);
    }
    dataset
}

/// A scan (z, y, x) of blobs inside zeros, as an uncompressed NIfTI file.
fn write_scan(path: &Path, shape: [usize; 3], spacing: [f32; 3], seed: usize) {
    let mut header = vec![0u8; 352];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
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
        put(76 + 4 * i, &f32::to_le_bytes(s));
    }
    put(108, &352f32.to_le_bytes());
    put(112, &1f32.to_le_bytes());
    put(252, &1i16.to_le_bytes());
    put(268, &(-7.5f32).to_le_bytes());
    put(344, b"n+1\0");
    let mut bytes = header;
    for z in 0..shape[0] {
        for y in 0..shape[1] {
            for x in 0..shape[2] {
                let inside = z > 1 && y > 2 && y + 2 < shape[1] && x > 0 && x + 4 < shape[2];
                let wave = |v: usize, n: usize| (v as f32 * (0.3 + 0.1 * ((seed + n) % 5) as f32)).sin();
                let grain = ((x * 73 + y * 179 + z * 283 + seed * 97) % 61) as f32 / 61.0;
                let value = 5.0 + 2.0 * wave(z, 0) + 2.0 * wave(y, 1) * wave(x, 2) + grain;
                bytes.extend(if inside { value } else { 0.0 }.to_le_bytes());
            }
        }
    }
    fs::write(path, bytes).unwrap();
}

pub fn checkpoint(layout: &Layout, configuration: &str, fold: u32) -> Checkpoint {
    let weights = initial_weights(layout, 11 + u64::from(fold)).unwrap();
    let mut momentum = StateDict::new();
    let lowest = layout.lowest_head();
    for (name, tensor) in weights.iter().filter(|(name, _)| !lowest.contains(name)) {
        let data = tensor.data.iter().map(|v| 0.1 * v + 0.01).collect();
        momentum
            .insert(
                memory_name(name, "momentum_buffer"),
                Tensor32::new(tensor.shape.clone(), data).unwrap(),
            )
            .unwrap();
    }
    let mut logging = Logging::default();
    for epoch in 0..2 {
        logging.record(LoggedEpoch {
            dice_per_class_or_region: vec![0.4, 0.2 * f64::from(epoch)],
            train_loss: 0.5,
            val_loss: 0.4,
            lr: 0.01,
            start: epoch.into(),
            end: f64::from(epoch) + 0.5,
        });
    }
    Checkpoint {
        weights,
        momentum,
        optimiser: OptimiserGroup::of(&TrainerVariant::default(), None),
        scaler: None,
        best_ema: logging.ema_fg_dice.last().copied(),
        current_epoch: 2,
        logging,
        init_args: InitArgs {
            plans: plans(),
            configuration: configuration.into(),
            fold: FoldId::Fold(fold),
            dataset_json: dataset(configuration),
        },
        trainer_name: "nnUNetTrainer".into(),
        mirror_axes: Some(if configuration == "2d" {
            vec![0, 1]
        } else {
            vec![0, 1, 2]
        }),
    }
}

pub fn layout(configuration: &str) -> Layout {
    let plans = Plans::from_value(&plans()).unwrap();
    Layout::new(
        &plans.configuration(configuration).unwrap().architecture,
        1,
        if configuration == "2d" { 2 } else { 3 },
    )
    .unwrap()
}

/// A results folder of two folds; returns the model's folder.
fn write_model(root: &Path, configuration: &str) -> PathBuf {
    let layout = layout(configuration);
    let mut model = PathBuf::new();
    for fold in 0..2 {
        let results = ResultsFolder::create(
            root,
            "Dataset001_Tiny",
            "nnUNetTrainer",
            "nnUNetPlans",
            configuration,
            FoldId::Fold(fold),
        )
        .unwrap();
        results
            .write_documents(&plans().to_string(), &dataset(configuration).to_string(), "{}")
            .unwrap();
        let checkpoint = checkpoint(&layout, configuration, fold);
        results
            .write_checkpoint(CHECKPOINT_FINAL, &checkpoint, &layout)
            .unwrap();
        results.write_progress(&checkpoint.logging, true).unwrap();
        model = results.model;
    }
    model
}

fn agreement(a: &Path, b: &Path) -> (f64, usize) {
    let read = |path: &Path| Reader::SimpleItk.read_segmentation(path).unwrap();
    let (a, b) = (read(a), read(b));
    assert_eq!(a.labels.shape(), b.labels.shape());
    assert!(
        a.geometry.is_close_to(&b.geometry),
        "{:?} {:?}",
        a.geometry,
        b.geometry
    );
    let equal = a.labels.iter().zip(&b.labels).filter(|(a, b)| a == b).count();
    let labels = (0..3).filter(|label| b.labels.iter().any(|v| v == label)).count();
    (equal as f64 / a.labels.len() as f64, labels)
}

fn digests(state: &StateDict) -> Value {
    let digest = |t: &Tensor32| {
        json!([
            t.shape,
            t.data.iter().map(|&v| f64::from(v)).sum::<f64>(),
            t.data.last()
        ])
    };
    Value::Object(
        state
            .iter()
            .map(|(name, tensor)| (name.to_owned(), digest(tensor)))
            .collect(),
    )
}

fn assert_digests_are_close(ours: &Value, theirs: &Value) {
    let (ours, theirs) = (ours.as_object().unwrap(), theirs.as_object().unwrap());
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
    for (name, a) in ours {
        let b = &theirs[name];
        assert_eq!(a[0], b[0], "shape of {name}");
        for i in 1..3 {
            let (a, b) = (a[i].as_f64().unwrap(), b[i].as_f64().unwrap());
            assert!((a - b).abs() <= 1e-9 * (1.0 + a.abs()), "{name}: {a} {b}");
        }
    }
}

#[test]
fn checkpoints_predictions_scores_and_averages_are_pythons() {
    let folder = tempfile::tempdir().unwrap();
    let work = folder.path();
    let images = work.join("images");
    fs::create_dir_all(&images).unwrap();
    write_scan(&images.join("one_0000.nii"), [18, 30, 26], [2.0, 1.0, 1.3], 1);
    write_scan(&images.join("two_0000.nii"), [14, 24, 33], [1.7, 1.1, 1.2], 2);
    let models = ["2d", "3d_fullres"].map(|c| (c, write_model(&work.join("nnUNet_results"), c)));
    let contributions: Vec<Contribution> = (1..=3)
        .map(|k| {
            let weights = work.join(format!("site_{k}.safetensors"));
            safetensors::write(&initial_weights(&layout("3d_fullres"), k).unwrap(), &weights).unwrap();
            Contribution {
                site: format!("site-{k}"),
                weights,
                weight: k,
            }
        })
        .collect();
    average(
        &contributions,
        &Rule::Mean,
        &work.join("average.safetensors"),
        &Unobserved,
    )
    .unwrap();

    let output = tests::oracle::run("model.py", &[work]).unwrap();
    let result: Value = output
        .lines()
        .find_map(|l| l.strip_prefix("RESULT "))
        .map(|l| serde_json::from_str(l).unwrap())
        .unwrap();

    for (configuration, model) in &models {
        let dataset = DatasetJson::parse(&dataset(configuration).to_string()).unwrap();
        let cases = cases_to_predict(&images, &dataset).unwrap();
        for (kind, mirroring, folds) in [("mirrored", true, 1), ("plain", false, 1), ("folds", false, 2)] {
            let settings = Settings {
                use_mirroring: mirroring,
                ..Settings::default()
            };
            let folds: Vec<FoldId> = (0..folds).map(FoldId::Fold).collect();
            let predictor = Predictor::open(model, &folds, CHECKPOINT_FINAL, Device::Cpu, settings).unwrap();
            let ours = work.join("rust").join(configuration).join(kind);
            let outcomes = predictor
                .predict_cases(&cases, &ours, None, true, &Unobserved)
                .unwrap();
            for outcome in &outcomes {
                assert!(matches!(outcome.outcome, Outcome::Written), "{outcome:?}");
                let theirs = work
                    .join("python")
                    .join(configuration)
                    .join(kind)
                    .join(outcome.output.file_name().unwrap());
                let (equal, labels) = agreement(&outcome.output, &theirs);
                let what = format!(
                    "{kind} {}: part of unlike voxels ({labels} labels)",
                    outcome.identifier
                );
                parity_table::compared("predict", configuration, &what, &format!("{:.1e}", 1.0 - equal))
                    .unwrap();
                assert!(
                    equal >= 0.9999,
                    "{configuration} {kind} {}: {equal}",
                    outcome.identifier
                );
                assert!(labels > 1, "a prediction of one label shows nothing");
            }
            let again = predictor
                .predict_cases(&cases, &ours, None, false, &Unobserved)
                .unwrap();
            assert!(again.iter().all(|o| matches!(o.outcome, Outcome::Skipped)));
        }

        let folder = |kind: &str| work.join("python").join(configuration).join(kind);
        let summary = evaluate_folder(
            &folder("plain"),
            &folder("mirrored"),
            &dataset,
            false,
            &Unobserved,
        )
        .unwrap();
        assert_eq!(
            summary.to_json(),
            fs::read_to_string(work.join(format!("summary_{configuration}.json"))).unwrap()
        );

        let python = PthFile::open(&work.join(format!("python_{configuration}.pth"))).unwrap();
        let read = python.checkpoint(&layout(configuration)).unwrap();
        assert_digests_are_close(&digests(&read.weights), &result[configuration]["weights"]);
        assert_digests_are_close(&digests(&read.momentum), &result[configuration]["momentum"]);
        assert_eq!((read.current_epoch, read.best_ema), (3, Some(0.5)));
        assert_eq!(read.init_args.plans["plans_name"], "nnUNetPlans");
        let mut logging = checkpoint(&layout(configuration), configuration, 0).logging;
        let ema = logging.record(LoggedEpoch {
            dice_per_class_or_region: vec![f64::from(0.6f32), f64::NAN],
            train_loss: f64::from(0.3f32),
            val_loss: 0.1,
            lr: 0.005,
            start: 3.0,
            end: 4.0,
        });
        assert_eq!(format!("{logging:?}"), format!("{:?}", read.logging));
        assert_eq!(Some(ema), result[configuration]["ema"].as_f64());
    }

    // bfloat16 views of one storage, one of them transposed, under the names of a wrapped network.
    let layout = layout("3d_fullres");
    let awkward = PthFile::open(&work.join("awkward.pth")).unwrap();
    assert_eq!(awkward.mirror_axes().unwrap(), None);
    let (rounded, exact) = (
        awkward.weights(&layout).unwrap(),
        checkpoint(&layout, "3d_fullres", 0).weights,
    );
    for ((name, a), (_, b)) in rounded.iter().zip(exact.iter()) {
        let close = a
            .data
            .iter()
            .zip(&b.data)
            .all(|(a, b)| (a - b).abs() <= b.abs() / 256.0);
        assert!(close, "{name} differs by more than its rounding");
    }
}
