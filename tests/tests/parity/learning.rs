//! Losses with their gradients, and whole epochs of training from the same weights and batches.

use std::{fs, path::Path};

use ndarray::Array4;
use nnunet::{
    network::{Layout, initial_weights},
    progress::Unobserved,
    train::{
        Mirroring, MomentumState, Trainer, TrainerSettings, TrainerVariant,
        augment::Augmentation,
        loss::{Loss, deep_supervision_weights},
        network_of,
    },
};
use schemas::{
    job::Device,
    nnunet::{Architecture, DatasetJson, Plans},
};
use serde_json::{Value, json};
use tch::{Kind, Tensor};
use tests::parity_table;

use super::{
    augment::samples::{Memory, Only},
    network::{Floats, Numbers, architecture, largest_difference, read_weights, write},
};

#[test]
fn losses_and_gradients_are_pythons() {
    let labels = |trainer: &str, ignore: Option<u8>, batch_dice| {
        json!({"trainer": trainer, "regions": false, "ignore": ignore, "batch_dice": batch_dice,
            "shapes": [[[2, 3, 8, 6, 4], [2, 1, 8, 6, 4]], [[2, 3, 4, 3, 2], [2, 1, 4, 3, 2]], [[2, 3, 2, 2, 1], [2, 1, 2, 2, 1]]]})
    };
    let regions = |trainer: &str, ignore: Option<u8>, batch_dice| {
        let channels = 2 + usize::from(ignore.is_some());
        json!({"trainer": trainer, "regions": true, "ignore": ignore, "batch_dice": batch_dice,
            "shapes": [[[2, 2, 12, 8], [2, channels, 12, 8]], [[2, 2, 6, 4], [2, channels, 6, 4]], [[2, 2, 3, 2], [2, channels, 3, 2]]]})
    };
    let mut cases = vec![
        labels("nnUNetTrainer", None, false),
        labels("nnUNetTrainer", None, true),
        labels("nnUNetTrainer", Some(3), true),
        labels("nnUNetTrainer", Some(3), false),
        regions("nnUNetTrainer", None, false),
        regions("nnUNetTrainer", Some(3), true),
        regions("nnUNetTrainerDiceLoss", None, true),
        labels("nnUNetTrainerCELoss", Some(3), false),
        labels("nnUNetTrainerDiceLoss", None, false),
        labels("nnUNetTrainerDiceCELoss_noSmooth", None, true),
        labels("nnUNetTrainerTopk10Loss", None, false),
        labels("nnUNetTrainerTopk10LossLS01", None, false),
        labels("nnUNetTrainerDiceTopK10Loss", None, false),
        // Nothing annotated: only Dice is left.
        labels("nnUNetTrainer", Some(3), true),
    ];
    let all_ignored = cases.len() - 1;
    let folder = tempfile::tempdir().unwrap();
    let mut numbers = Numbers(1);
    let mut inputs = Vec::new();
    for (i, case) in cases.iter_mut().enumerate() {
        case["name"] = json!(format!("loss{i}"));
        let ignore = case["ignore"].as_u64();
        let by_region = case["regions"] == true;
        let mut tensors = [Vec::new(), Vec::new()];
        for (target, tensors) in tensors.iter_mut().enumerate() {
            for shapes in case["shapes"].as_array().unwrap() {
                let shape: Vec<i64> = serde_json::from_value(shapes[target].clone()).unwrap();
                let n = shape.iter().product::<i64>();
                let value = |_| match (target, by_region) {
                    (0, _) => numbers.float(),
                    (_, true) => numbers.next(2) as f32,
                    _ if i == all_ignored => 3.0,
                    _ => numbers.next(ignore.map_or(3, |v| v + 1)) as f32,
                };
                tensors.push((shape, (0..n).map(value).collect::<Vec<f32>>()));
            }
        }
        let all: Vec<f32> = tensors.iter().flatten().flat_map(|(_, v)| v.clone()).collect();
        write(&folder.path().join(format!("loss{i}.bin")), &all);
        inputs.push(tensors);
    }
    fs::write(folder.path().join("losses.json"), json!(cases).to_string()).unwrap();
    tests::oracle::run("learning.py", &["losses".as_ref(), folder.path()]).unwrap();

    for (i, (case, [outputs, targets])) in cases.iter().zip(inputs).enumerate() {
        let tensor = |(shape, values): &(Vec<i64>, Vec<f32>)| Tensor::from_slice(values).view(&shape[..]);
        let outputs: Vec<_> = outputs
            .iter()
            .map(|o| tensor(o).set_requires_grad(true))
            .collect();
        let targets: Vec<_> = targets.iter().map(|t| tensor(t).to_kind(Kind::Int16)).collect();
        let variant = TrainerVariant::by_name(case["trainer"].as_str().unwrap()).unwrap();
        let loss = Loss::new(
            variant.loss,
            case["batch_dice"] == true,
            case["regions"] == true,
            case["ignore"].as_i64(),
            deep_supervision_weights(outputs.len()),
        )
        .unwrap();
        assert_eq!(loss.wanted_outputs(), 2);
        let value = loss.forward(&outputs, &targets).unwrap();
        value.backward();
        let mut python = Floats::open(&folder.path().join(format!("loss{i}.out")));
        let (ours, theirs) = (value.double_value(&[]) as f32, python.take(1)[0]);
        assert!((ours - theirs).abs() < 1e-5, "{case}: {ours} for {theirs}");
        let mut furthest = 0f32;
        for output in &outputs {
            let theirs = python.take(output.numel());
            let gradient = output.grad();
            if !gradient.defined() {
                assert!(theirs.iter().all(|&g| g == 0.0), "{case}");
                continue;
            }
            let ours = Vec::<f32>::try_from(gradient.contiguous().view(-1)).unwrap();
            let worst = largest_difference(&ours, &theirs);
            let largest = theirs.iter().fold(0f32, |m, g| m.max(g.abs()));
            furthest = furthest.max(worst / largest);
            assert!(worst <= 1e-4 * largest, "{case}: {worst} of {largest}");
        }
        let (trainer, yes) = (case["trainer"].as_str().unwrap(), |key: &str| case[key] == true);
        let what = format!(
            "gradient, of its largest; {}{}{}",
            if yes("regions") { "regions" } else { "labels" },
            if yes("batch_dice") { ", batch Dice" } else { "" },
            if case["ignore"].is_null() {
                ""
            } else {
                ", ignore label"
            },
        );
        let dataset = trainer.replace("nnUNetTrainer", "loss ");
        parity_table::compared("loss", &dataset, &what, &format!("{furthest:.1e}")).unwrap();
    }
}

fn trainings() -> Vec<Value> {
    let plain = architecture(
        false,
        &[8, 16, 24],
        json!(vec![vec![3; 3]; 3]),
        json!([[1, 1, 1], [2, 2, 2], [2, 2, 2]]),
        json!([2, 2, 2]),
    );
    let residual = architecture(
        true,
        &[8, 16, 24, 32],
        json!(vec![vec![3; 2]; 4]),
        json!([[1, 1], [2, 2], [2, 2], [2, 2]]),
        json!([1, 2, 2, 2]),
    );
    let common = json!({"trainer": "nnUNetTrainer", "channels": 1, "batch_size": 2, "epochs": 2, "iterations": 3,
        "total_epochs": 4});
    let case = |special: Value| {
        let mut case = common.clone();
        case.as_object_mut()
            .unwrap()
            .extend(special.as_object().unwrap().clone());
        case
    };
    // The gradient of a bias before a norm is rounding noise, and Adam makes a step of it as of any other.
    let mut unbiased = plain.clone();
    unbiased["arch_kwargs"]["conv_bias"] = json!(false);
    let other = |trainer: &str, architecture: Value| {
        case(
            json!({"name": trainer, "trainer": trainer, "iterations": 2, "architecture": architecture, "heads": 3,
            "regions": [], "ignore": null, "batch_dice": false, "patch": [16, 16, 8],
            "labels": {"background": 0, "a": 1, "b": 2}}),
        )
    };
    vec![
        case(
            json!({"name": "labels", "architecture": plain, "heads": 3, "regions": [], "ignore": null,
            "batch_dice": false, "patch": [16, 24, 16], "labels": {"background": 0, "a": 1, "b": 2}}),
        ),
        case(
            json!({"name": "labels_ignore", "architecture": plain, "heads": 3, "regions": [], "ignore": 3,
            "batch_dice": true, "patch": [16, 16, 16],
            "labels": {"background": 0, "a": 1, "b": 2, "ignore": 3}}),
        ),
        case(
            json!({"name": "regions_ignore", "architecture": residual, "heads": 2, "regions": [[1, 2], [2]],
            "ignore": 3, "batch_dice": true, "patch": [32, 48],
            "labels": {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}}),
        ),
        other("nnUNetTrainerBN", unbiased.clone()),
        other("nnUNetTrainerAdam3en4", unbiased.clone()),
        other("nnUNetTrainerAdan3en4", unbiased),
        // Sample by sample, with the same batch Dice: a sum in another order.
        case(
            json!({"name": "labels_micro", "architecture": plain, "heads": 3, "regions": [], "ignore": null,
            "batch_dice": true, "micro_batch": 1, "iterations": 1, "patch": [16, 16, 16],
            "labels": {"background": 0, "a": 1, "b": 2}}),
        ),
    ]
}

fn trainer(training: &Value, numbers: &mut Numbers, folder: &Path) -> (Trainer, Layout) {
    let name = training["name"].as_str().unwrap();
    let number = |key: &str| training[key].as_u64().unwrap() as usize;
    let architecture: Architecture = serde_json::from_value(training["architecture"].clone()).unwrap();
    let architecture = network_of(training["trainer"].as_str().unwrap(), &architecture);
    let layout = Layout::new(&architecture, 1, number("heads")).unwrap();
    let weights = initial_weights(&layout, 3).unwrap();
    let patch: Vec<usize> = serde_json::from_value(training["patch"].clone()).unwrap();
    let n = patch.iter().product::<usize>();
    let labels = training["ignore"].as_u64().map_or(3, |v| v + 1);
    let image: Vec<f32> = (0..n).map(|_| numbers.float()).collect();
    let seg: Vec<i16> = (0..n).map(|_| numbers.next(labels) as i16).collect();
    let mut all: Vec<f32> = weights.iter().flat_map(|(_, t)| t.data.clone()).collect();
    all.extend(&image);
    all.extend(seg.iter().map(|&v| f32::from(v)));
    write(&folder.join(format!("{name}.bin")), &all);

    let shape = match patch[..] {
        [y, x] => (1, 1, y, x),
        _ => (1, patch[0], patch[1], patch[2]),
    };
    let configuration = json!({
        "data_identifier": "x", "batch_size": training["batch_size"], "patch_size": patch,
        "spacing": vec![1.0; patch.len()], "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [false], "batch_dice": training["batch_dice"],
        "resampling_fn_data": "", "resampling_fn_seg": "", "resampling_fn_probabilities": "",
        "resampling_fn_data_kwargs": {}, "resampling_fn_seg_kwargs": {}, "resampling_fn_probabilities_kwargs": {},
        "architecture": training["architecture"],
    });
    let plans = json!({
        "dataset_name": "Dataset001_x", "plans_name": "nnUNetPlans", "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2],
        "configurations": {"c": configuration}, "foreground_intensity_properties_per_channel": {},
    });
    let mut dataset = json!({"channel_names": {"0": "T1"}, "labels": training["labels"], "numTraining": 1,
        "file_ending": ".nii.gz"});
    if !training["regions"].as_array().unwrap().is_empty() {
        dataset["regions_class_order"] = json!([1, 2]);
    }
    // The patch is the whole case and nothing is augmented, so every batch is the same.
    let settings = TrainerSettings {
        plans: Plans::from_value(&plans).unwrap(),
        configuration: "c".into(),
        dataset_json: DatasetJson::parse(&dataset.to_string()).unwrap(),
        variant: TrainerVariant {
            augmentation: Augmentation::None,
            mirroring: Mirroring::None,
            ..*TrainerVariant::by_name(training["trainer"].as_str().unwrap()).unwrap()
        },
        device: Device::Cpu,
        seed: 1,
        site: "site".into(),
        iterations_per_epoch: number("iterations"),
        val_iterations_per_epoch: 1,
        total_epochs: number("total_epochs"),
        micro_batch: training["micro_batch"].as_u64().map(|n| n as usize),
        threads: 2,
        bfloat16: false,
        loader_threads: 1,
    };
    let cases = Only::new(Memory::new(
        Array4::from_shape_vec(shape, image).unwrap(),
        Array4::from_shape_vec(shape, seg).unwrap(),
    ));
    let trainer = Trainer::new(
        settings,
        cases.clone(),
        cases,
        &weights,
        &MomentumState::default(),
    )
    .unwrap();
    (trainer, layout)
}

#[test]
fn epochs_of_training_are_pythons() {
    let folder = tempfile::tempdir().unwrap();
    let mut numbers = Numbers(2);
    let trainers: Vec<_> = trainings()
        .iter()
        .map(|training| trainer(training, &mut numbers, folder.path()))
        .collect();
    fs::write(
        folder.path().join("trainings.json"),
        json!(trainings()).to_string(),
    )
    .unwrap();
    tests::oracle::run("learning.py", &["train".as_ref(), folder.path()]).unwrap();
    for (training, (mut trainer, layout)) in trainings().iter().zip(trainers) {
        let name = training["name"].as_str().unwrap();
        let mut python = Floats::open(&folder.path().join(format!("{name}.out")));
        let counts = trainer.validate(0, &Unobserved).unwrap();
        let relative = |ours: f64, theirs: f32| ((ours - f64::from(theirs)) / f64::from(theirs)).abs();
        assert!(relative(counts.loss(), python.take(1)[0]) < 1e-5, "{name}");
        for ours in [
            &counts.true_positives,
            &counts.false_positives,
            &counts.false_negatives,
        ] {
            let theirs: Vec<u64> = python.take(ours.len()).iter().map(|&v| v as u64).collect();
            assert_eq!(ours, &theirs, "{name}");
        }
        for epoch in 0..training["epochs"].as_u64().unwrap() as usize {
            let log = trainer.train_epoch(epoch, &|| 0.0, &Unobserved).unwrap();
            let theirs = python.take(1)[0];
            println!("{name}, epoch {epoch}: loss {} for {theirs}", log.loss);
            assert!(
                relative(log.loss, theirs) < 1e-4,
                "{name}: {} for {theirs}",
                log.loss
            );
        }
        let theirs = read_weights(&mut python, &layout);
        // Adam and Adan divide by the gradient's size: where that is as small as rounding, the steps of single weights
        // differ by percents of the learning rate. With them the weights are held together as one vector.
        let adaptive = training["trainer"].as_str().unwrap().contains("Ada");
        let (mut worst, mut apart, mut length) = (0f32, 0f64, 0f64);
        for ((key, ours), (_, theirs)) in trainer.weights().unwrap().iter().zip(theirs.iter()) {
            // Biases before a norm start at 0 and get only rounding noise.
            let scale = theirs.data.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
            let difference = largest_difference(&ours.data, &theirs.data) / scale;
            assert!(
                adaptive || difference < 1e-5,
                "{name} {key}: {difference} of {scale}"
            );
            worst = worst.max(difference);
            for (a, b) in ours.data.iter().zip(&theirs.data) {
                apart += f64::from(a - b).powi(2);
                length += f64::from(*b).powi(2);
            }
        }
        let apart = (apart / length).sqrt();
        let what = format!("weights after two epochs, of their tensor's largest (together {apart:.1e})");
        parity_table::compared("step", name, &what, &format!("{worst:.1e}")).unwrap();
        // With other data Adam's were seen apart by 8e-5.
        let allowed = if adaptive { 1e-3 } else { 1e-6 };
        assert!(apart < allowed, "{name}: {apart}");
        let momentum = trainer.momentum().unwrap();
        let names = fs::read(folder.path().join(format!("{name}.momenta.json"))).unwrap();
        let names: Vec<String> = serde_json::from_slice(&names).unwrap();
        assert_eq!(momentum.buffers.names().collect::<Vec<_>>(), names, "{name}");
        assert!(
            names
                .iter()
                .all(|key| layout.lowest_head().iter().all(|head| !key.starts_with(head)))
        );
        for (key, ours) in momentum.buffers.iter() {
            let theirs = python.take(ours.data.len());
            let scale = theirs.iter().fold(0f32, |m, v| m.max(v.abs()));
            let difference = largest_difference(&ours.data, &theirs);
            // The gradient of a bias before a norm is rounding noise around 0.
            assert!(
                difference < 1e-3 * scale + 1e-5,
                "{name} {key}: {difference} of {scale}"
            );
        }
        assert_eq!(python.rest(), 0);
    }
}

#[test]
fn the_same_training_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let run = |split: bool| {
        let (mut whole, _) = trainer(&trainings()[0], &mut Numbers(5), folder.path());
        whole.train_epoch(0, &|| 0.0, &Unobserved).unwrap();
        if split {
            let (weights, momentum) = (whole.weights().unwrap(), whole.momentum().unwrap());
            whole = trainer(&trainings()[0], &mut Numbers(5), folder.path())
                .0
                .resume(&weights, &momentum)
                .unwrap();
        }
        whole.train_epoch(1, &|| 0.0, &Unobserved).unwrap();
        (whole.weights().unwrap(), whole.momentum().unwrap())
    };
    assert_eq!(run(false), run(true));
}
