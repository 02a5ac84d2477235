//! `rounds nnunet`, run as a user runs it: on a small raw data set of spheres, from fingerprint to scores.

use std::{
    fs,
    path::{Path, PathBuf},
};

use assert_cmd::Command;
use ndarray::Array3;
use nnunet::{
    checkpoint::{PthFile, results::ModelFolder},
    image::{Geometry, Reader},
    network::{Layout, StateDict},
};

const DATASET: &str = "Dataset017_Spheres";
const MODEL: &str = "Dataset017_Spheres/nnUNetTrainer_1epoch__nnUNetPlans__3d_fullres";

/// nnU-Net's three folders.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Home(tempfile::tempdir().unwrap())
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs `rounds nnunet ARGS`.
    fn run(&self, args: &str) -> assert_cmd::assert::Assert {
        let mut command = Command::cargo_bin("rounds").unwrap();
        command
            .arg("nnunet")
            .args(args.split(' '))
            .current_dir(self.0.path());
        for name in ["nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"] {
            command.env(name, self.folder(name));
        }
        command.assert()
    }

    fn fails(&self, args: &str) -> String {
        String::from_utf8(self.run(args).failure().get_output().stderr.clone()).unwrap()
    }

    fn succeeds(&self, args: &str) -> String {
        String::from_utf8(self.run(args).success().get_output().stdout.clone()).unwrap()
    }

    /// Seven cases of unlike sizes: a bright ball in a dark volume.
    fn write_dataset(&self) {
        let folder = self.folder("nnUNet_raw").join(DATASET);
        for name in ["imagesTr", "labelsTr"] {
            fs::create_dir_all(folder.join(name)).unwrap();
        }
        let document = r#"{"channel_names": {"0": "MRI"}, "labels": {"background": 0, "ball": 1},
            "numTraining": 7, "file_ending": ".nii.gz"}"#;
        fs::write(folder.join("dataset.json"), document).unwrap();
        for case in 0..7 {
            let shape = (16 + case % 3, 18 + case % 2, 20);
            let centre = [8.0, 9.0 + (case % 2) as f64, 7.0 + case as f64];
            let ball = |(z, y, x): (usize, usize, usize)| {
                let offsets = [z as f64 - centre[0], y as f64 - centre[1], x as f64 - centre[2]];
                offsets.iter().map(|o| o * o).sum::<f64>() < 25.0
            };
            let noise = |(z, y, x): (usize, usize, usize)| ((z * 7 + y * 13 + x * 29 + case * 5) % 17) as u16;
            let label = Array3::from_shape_fn(shape, |at| u16::from(ball(at)));
            let image = Array3::from_shape_fn(shape, |at| 20 + noise(at) + 200 * u16::from(ball(at)));
            write(&folder.join(format!("labelsTr/case_{case}.nii.gz")), &label);
            write(&folder.join(format!("imagesTr/case_{case}_0000.nii.gz")), &image);
        }
    }
}

fn write(file: &Path, voxels: &Array3<u16>) {
    let direction = vec![1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0];
    let geometry = Geometry::SimpleItk {
        spacing: vec![1.0, 1.0, 1.5],
        origin: vec![1.0, 2.0, 3.0],
        direction,
    };
    Reader::SimpleItk
        .write_segmentation(voxels.view(), &geometry, file)
        .unwrap();
}

fn contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

#[test]
fn from_raw_data_to_scores() {
    let home = Home::new();
    home.write_dataset();
    home.succeeds(
        "plan-and-preprocess -d 17 --verify_dataset_integrity -c 3d_fullres -np 2 -npfp 2 --no_pbar",
    );
    let preprocessed = home.folder("nnUNet_preprocessed").join(DATASET);
    for name in [
        "dataset.json",
        "dataset_fingerprint.json",
        "nnUNetPlans.json",
        "gt_segmentations/case_6.nii.gz",
    ] {
        assert!(preprocessed.join(name).is_file(), "{name}");
    }

    // What does not fit on the disk is known before any case is made.
    let plans = preprocessed.join("nnUNetPlans.json");
    let text = fs::read_to_string(&plans).unwrap();
    let mut document: serde_json::Value = serde_json::from_str(&text).unwrap();
    document["configurations"]["huge"] = serde_json::json!({
        "inherits_from": "3d_fullres", "data_identifier": "huge", "spacing": [1e-4, 1e-4, 1e-4],
    });
    fs::write(&plans, document.to_string()).unwrap();
    let error = home.fails("preprocess -d 17 -c huge --no_pbar");
    contains(&error, &["nnUNet_preprocessed", "TB more", "free"]);
    assert!(!preprocessed.join("huge").exists());
    fs::write(&plans, text).unwrap();

    // Without --clean the fingerprint stays.
    contains(&home.succeeds("extract-fingerprint -d 17"), &["--clean"]);

    let train = "train 17 3d_fullres 0 -tr nnUNetTrainer_1epoch --npz -device cpu --iterations-per-epoch 2 \
                 --val-iterations-per-epoch 1 --seed 3";
    let log = home.succeeds(train);
    contains(
        &log,
        &[
            "Epoch 0",
            "Current learning rate: 0.01",
            "train_loss",
            "Pseudo dice",
            "Mean Validation Dice",
        ],
    );
    contains(
        &log,
        &["1 epochs of 2 training and 1 validation iterations", "seed 3"],
    );
    let model = home.folder("nnUNet_results").join(MODEL);
    for name in [
        "plans.json",
        "dataset.json",
        "dataset_fingerprint.json",
        "fold_0/checkpoint_final.pth",
        "fold_0/checkpoint_best.pth",
        "fold_0/progress.png",
        "fold_0/debug.json",
        "fold_0/validation/summary.json",
        "fold_0/validation/case_3.npz",
    ] {
        assert!(model.join(name).is_file(), "{name}");
    }
    assert!(preprocessed.join("splits_final.json").is_file());

    // Same seed, same bytes; and a finished training only validates again.
    let weights = fs::read(model.join("fold_0/checkpoint_final.pth")).unwrap();
    contains(
        &home.succeeds(&format!("{train} --c")),
        &["All 1 epochs are done", "Mean Validation Dice"],
    );
    contains(
        &home.succeeds(&format!("{train} --val --val_best")),
        &["Mean Validation Dice"],
    );
    assert_eq!(
        fs::read(model.join("fold_0/checkpoint_final.pth")).unwrap(),
        weights
    );

    let input = home.folder("nnUNet_raw").join(DATASET).join("imagesTr");
    let predict = format!(
        "predict -i {} -o out -d 17 -c 3d_fullres -tr nnUNetTrainer_1epoch -f 0",
        input.display()
    );
    let out = home.succeeds(&format!(
        "{predict} -device cpu --disable_tta -num_parts 3 -part_id 1"
    ));
    contains(&out, &["7 cases in the source folder", "2 cases predicted"]);
    let out = home.succeeds(&format!(
        "{predict} -device cpu --disable_tta --continue_prediction"
    ));
    contains(&out, &["5 cases predicted, 2 were there already"]);
    let again = format!(
        "predict-from-modelfolder -i {} -o again -m {}",
        input.display(),
        model.display()
    );
    home.succeeds(&format!("{again} -f 0 -device cpu --disable_tta"));
    for case in 0..7 {
        let name = format!("case_{case}.nii.gz");
        let [one, other] = ["out", "again"].map(|folder| fs::read(home.folder(folder).join(&name)).unwrap());
        assert_eq!(one, other, "{name}");
    }

    let references = input.with_file_name("labelsTr");
    let out = home.succeeds(&format!(
        "evaluate {} out -djfile out/dataset.json -pfile out/plans.json -o scores.json",
        references.display()
    ));
    contains(&out, &["7 cases, mean foreground Dice"]);
    contains(
        &fs::read_to_string(home.folder("scores.json")).unwrap(),
        &["foreground_mean", "metric_per_case"],
    );
}

/// The epoch, curves, weights and momentum of a checkpoint: all but the wall-clock times.
fn state(model: &Path, checkpoint: &str) -> (usize, [Vec<f64>; 3], StateDict, StateDict) {
    let folder = ModelFolder::open(model).unwrap();
    let configuration = folder.plans.configuration("3d_fullres").unwrap();
    let layout = Layout::new(&configuration.architecture, 1, 2).unwrap();
    let read = PthFile::open(&model.join("fold_0").join(checkpoint))
        .unwrap()
        .checkpoint(&layout)
        .unwrap();
    let curves = [
        read.logging.train_losses,
        read.logging.val_losses,
        read.logging.ema_fg_dice,
    ];
    (read.current_epoch, curves, read.weights, read.momentum)
}

#[test]
fn a_continued_training_ends_as_one_that_never_stopped() {
    let home = Home::new();
    home.write_dataset();
    home.succeeds("plan-and-preprocess -d 17 -c 3d_fullres --no_pbar");
    let train = |trainer: &str, more: &str| {
        let settings = "-device cpu --iterations-per-epoch 2 --val-iterations-per-epoch 1";
        home.succeeds(&format!("train 17 3d_fullres 0 -tr {trainer} {settings}{more}"))
    };
    train("nnUNetTrainer_5epochs", "");
    let model = |trainer: &str| {
        home.folder("nnUNet_results")
            .join(MODEL.replace("nnUNetTrainer_1epoch", trainer))
    };
    let whole = model("nnUNetTrainer_5epochs");
    let expected = state(&whole, "checkpoint_final.pth");
    assert_eq!(expected.0, 5);

    // Both trainers have the same first epoch: its end is where the training was cut.
    train("nnUNetTrainer_1epoch", "");
    let fold = whole.join("fold_0");
    fs::remove_file(fold.join("checkpoint_final.pth")).unwrap();
    let cut = model("nnUNetTrainer_1epoch").join("fold_0/checkpoint_final.pth");
    fs::copy(cut, fold.join("checkpoint_latest.pth")).unwrap();
    let log = train("nnUNetTrainer_5epochs", " --c");
    contains(&log, &["checkpoint_latest.pth at epoch 1", "Epoch 4"]);
    assert!(!log.contains("Epoch 0\n"), "{log}");
    assert!(state(&whole, "checkpoint_final.pth") == expected);
    assert!(!fold.join("checkpoint_latest.pth").exists());
}

#[test]
fn what_cannot_be_honoured_is_refused() {
    let home = Home::new();
    let train = "train 17 3d_fullres 0 -device cpu";
    for (line, reasons) in [
        ("plan -d 17", &["no data set has the id 17", "nnUNet_raw="][..]),
        ("plan -d Spheres", &["Spheres", "expected an id"]),
        ("train 17 3d_cascade_fullres 0", &["cascades"]),
        (
            "extract-fingerprint -d 17 -fpe Mine",
            &["Mine", "DatasetFingerprintExtractor"],
        ),
        (
            "plan -d 17 -preprocessor_name Mine",
            &["Mine", "DefaultPreprocessor"],
        ),
        ("plan -d 17 -pl Mine", &["Mine", "nnUNetPlannerResEncL"]),
        (
            "plan -d 17 -overwrite_target_spacing 1 1",
            &["expected 3 numbers"],
        ),
        ("preprocess -d 17 -c 2d 3d_fullres -np 1 2 3", &["-np", "3"]),
        (
            "predict -i a -o b -d Dataset017_Spheres -c 2d -num_parts 2 -part_id 2",
            &["-part_id 2"],
        ),
        (&format!("{train} -num_gpus 2"), &["-num_gpus 2"]),
        (&format!("{train} --c --val"), &["--c and --val"]),
        (
            &format!("{train} -tr nnUnetTrainer_5epochs"),
            &["nearest", "nnUNetTrainer_5epochs"],
        ),
        (
            &format!("{train} -tr nnUNet_Primus_M_Trainer"),
            &["nnUNet_Primus_M_Trainer", "not supported"],
        ),
    ] {
        contains(&home.fails(line), reasons);
    }
}

#[test]
fn cases_that_python_preprocessed_are_refused_with_the_command_that_helps() {
    let home = Home::new();
    home.write_dataset();
    home.succeeds("extract-fingerprint -d 17 -np 2");
    home.succeeds("plan -d 17");
    let cases = home
        .folder("nnUNet_preprocessed")
        .join(DATASET)
        .join("nnUNetPlans_3d_fullres");
    fs::create_dir_all(&cases).unwrap();
    for name in ["case_0.b2nd", "case_0_seg.b2nd", "case_0.pkl"] {
        fs::write(cases.join(name), "Python's").unwrap();
    }
    let help = [
        "rounds nnunet preprocess",
        "nnUNet_preprocessed",
        "Python nnU-Net",
    ];
    contains(&home.fails("preprocess -d 17 -c 3d_fullres -np 1"), &help);
    contains(&home.fails("train 17 3d_fullres 0 -device cpu"), &help);
    // Nor are they read where ours stand beside them.
    fs::write(cases.join("case_1.npz"), "ours").unwrap();
    contains(&home.fails("train 17 3d_fullres 0 -device cpu"), &help);
    assert_eq!(fs::read_dir(&cases).unwrap().count(), 4);
}

#[test]
fn a_missing_variable_is_named() {
    for (args, name) in [
        (&["plan", "-d", "Dataset017_Spheres"][..], "nnUNet_raw"),
        (
            &["train", "Dataset017_Spheres", "2d", "0", "-device", "cpu"],
            "nnUNet_preprocessed",
        ),
        (
            &[
                "predict",
                "-i",
                "a",
                "-o",
                "b",
                "-d",
                "Dataset017_Spheres",
                "-c",
                "2d",
            ],
            "nnUNet_results",
        ),
    ] {
        let mut command = Command::cargo_bin("rounds").unwrap();
        for name in ["nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"] {
            command.env_remove(name);
        }
        let failed = command.arg("nnunet").args(args).assert().failure();
        contains(
            &String::from_utf8_lossy(&failed.get_output().stderr),
            &[name, "is not set"],
        );
    }
}
