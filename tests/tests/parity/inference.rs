//! Inference at one site against Python nnU-Net: a cascade, ensembling, post-processing, the best configuration, and
//! model zips in both directions.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use nnunet::image::Reader;
use serde_json::{Value, json};
use tests::{oracle, parity_table, process};

const DATASET: &str = "Dataset001_Tiny";

/// Plans of a low resolution and a cascade on it, with tiny networks.
fn plans() -> Value {
    let resampling =
        |seg: bool, order: u8| json!({"is_seg": seg, "order": order, "order_z": 0, "force_separate_z": null});
    let lowres = json!({
        "data_identifier": "nnUNetPlans_3d_lowres", "preprocessor_name": "DefaultPreprocessor", "batch_size": 2,
        "patch_size": [8, 12, 16], "median_image_size_in_voxels": [10, 16, 20], "spacing": [2.9, 2.5, 2.0],
        "normalization_schemes": ["ZScoreNormalization"], "use_mask_for_norm": [false],
        "resampling_fn_data": "resample_data_or_seg_to_shape", "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling(false, 3), "resampling_fn_seg_kwargs": resampling(true, 1),
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": resampling(false, 1), "batch_dice": false, "next_stage": "3d_cascade_fullres",
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {
                "n_stages": 3, "features_per_stage": [4, 8, 8], "conv_op": "torch.nn.modules.conv.Conv3d",
                "kernel_sizes": [[3, 3, 3], [3, 3, 3], [3, 3, 3]], "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
                "n_conv_per_stage": [1, 1, 1], "n_conv_per_stage_decoder": [1, 1], "conv_bias": true,
                "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                "norm_op_kwargs": {"eps": 1e-5, "affine": true}, "dropout_op": null, "dropout_op_kwargs": null,
                "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": true}
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"]
        }
    });
    json!({
        "dataset_name": DATASET, "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [1.7, 2.1, 1.2], "original_median_shape_after_transp": [24, 14, 33],
        "image_reader_writer": "SimpleITKIO", "transpose_forward": [1, 0, 2], "transpose_backward": [1, 0, 2],
        "configurations": {
            "3d_lowres": lowres,
            "3d_cascade_fullres": {
                "inherits_from": "3d_lowres", "data_identifier": "nnUNetPlans_3d_fullres", "spacing": [1.7, 1.9, 1.2],
                "patch_size": [16, 12, 20], "previous_stage": "3d_lowres", "next_stage": null
            }
        },
        "experiment_planner_used": "ExperimentPlanner", "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": {"max": 9.0, "mean": 5.0, "median": 5.0, "min": 0.0,
            "percentile_00_5": 0.5, "percentile_99_5": 8.5, "std": 2.0}}
    })
}

fn dataset(labels: Value) -> Value {
    json!({"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": 2, "file_ending": ".nii.gz"})
}

struct Work(tempfile::TempDir);

impl Work {
    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    /// Runs `rounds nnunet ARGS` in the folder, on nnU-Net's folders in `home`.
    fn rounds(&self, home: &str, args: &str) -> String {
        let mut command = process::nnunet(&self.at(home), args).unwrap();
        command.env("nnUNet_def_n_proc", "2").current_dir(self.0.path());
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{args}: {said}\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        said
    }

    /// The part of voxels that are equal in the segmentations of both folders, and how many files were looked at.
    fn agreement(&self, ours: &str, theirs: &str) -> (f64, usize) {
        let (mut equal, mut all, mut files) = (0, 0, 0);
        for entry in fs::read_dir(self.at(theirs)).unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            if !name.ends_with(".nii.gz") {
                continue;
            }
            let read = |folder: &str| {
                Reader::SimpleItk
                    .read_segmentation(&self.at(folder).join(&name))
                    .unwrap()
            };
            let (a, b) = (read(ours), read(theirs));
            assert!(a.geometry.is_close_to(&b.geometry), "{ours}/{name}");
            assert!(
                b.labels.iter().any(|&l| l != b.labels[[0, 0, 0]]),
                "one label shows nothing"
            );
            equal += a.labels.iter().zip(&b.labels).filter(|(a, b)| a == b).count();
            all += b.labels.len();
            files += 1;
        }
        (equal as f64 / all as f64, files)
    }

    fn same_segmentations(&self, ours: &str, theirs: &str, expected: usize) {
        assert_eq!(
            self.agreement(ours, theirs),
            (1.0, expected),
            "{ours} and {theirs}"
        );
    }

    /// The text of a file with the folder `home` as `HOME`.
    fn anywhere(&self, home: &str, file: &str) -> String {
        let root = self.at(home);
        self.text(&format!("{home}/{file}"))
            .replace(root.to_str().unwrap(), "HOME")
    }
}

fn members(zip: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut archive = zip::ZipArchive::new(fs::File::open(zip).unwrap()).unwrap();
    (0..archive.len())
        .map(|index| {
            let mut member = archive.by_index(index).unwrap();
            let mut content = Vec::new();
            std::io::copy(&mut member, &mut content).unwrap();
            (member.name().to_owned(), content)
        })
        .collect()
}

#[test]
fn inference_at_one_site_is_pythons() {
    let work = Work(tempfile::tempdir().unwrap());
    let labels = json!({"background": 0, "a": 1, "b": 2});
    let three = json!({"background": 0, "a": 1, "b": 2, "c": 3});
    let mut regions = dataset(json!({"background": 0, "all": [1, 2, 3], "core": [2, 3], "c": 3}));
    regions["regions_class_order"] = json!([1, 2, 3]);
    for (name, document) in [
        ("plans.json", plans()),
        ("dataset.json", dataset(labels)),
        ("scores_labels.json", dataset(three)),
        ("scores_regions.json", regions),
    ] {
        fs::write(work.at(name), document.to_string()).unwrap();
    }
    let script = |step: &str| oracle::run("inference.py", &[work.0.path().to_str().unwrap(), step]).unwrap();
    script("make");

    cascade(&work);
    ensemble(&work);
    best_configuration(&work);
    postprocessing(&work);
    zips(&work);
    script("check");
    work.same_segmentations("predicted_with_installed", "predictions/3d_lowres", 2);
}

/// With the previous stage's segmentations given, and with those that are made on the way.
fn cascade(work: &Work) {
    let predict =
        "predict -i images -d Dataset001_Tiny -f 0 1 -device cpu --disable_tta -c 3d_cascade_fullres";
    work.rounds(
        "rust",
        &format!("{predict} -o given -prev_stage_predictions predictions/3d_lowres --save_probabilities"),
    );
    work.rounds("rust", &format!("{predict} -o made"));
    for (ours, theirs) in [
        ("given", "predictions/3d_cascade_fullres"),
        ("made", "predictions/3d_cascade_fullres"),
        ("made/predictions_3d_lowres", "predictions/3d_lowres"),
    ] {
        let (equal, files) = work.agreement(ours, theirs);
        let what = format!("{ours}: part of unlike voxels");
        parity_table::compared("predict", "cascade", &what, &format!("{:.1e}", 1.0 - equal)).unwrap();
        assert!(equal >= 0.9999 && files == 2, "{ours}: {equal} of {files} files");
    }
}

/// Of Python's members and of ours.
fn ensemble(work: &Work) {
    work.rounds(
        "rust",
        "ensemble -i predictions/3d_lowres predictions/3d_cascade_fullres -o merged --save_npz",
    );
    work.same_segmentations("merged", "ensemble", 2);
    // What we wrote is a member as good: the mean of it and Python's same ensemble is that ensemble.
    fs::copy(
        work.at("predictions/3d_lowres/plans.json"),
        work.at("merged/plans.json"),
    )
    .unwrap();
    work.rounds("rust", "ensemble -i merged ensemble -o merged_again");
    work.same_segmentations("merged_again", "ensemble", 2);
    work.rounds(
        "rust",
        "ensemble -i predictions/3d_lowres given -o merged_with_ours",
    );
    let (equal, files) = work.agreement("merged_with_ours", "ensemble");
    assert!(equal >= 0.9999 && files == 2, "{equal} of {files} files");
}

fn best_configuration(work: &Work) {
    work.rounds(
        "rust",
        "find-best-configuration 1 -c 3d_lowres 3d_cascade_fullres -f 0 1",
    );
    let results = format!("nnUNet_results/{DATASET}");
    for file in ["inference_information.json", "inference_instructions.txt"] {
        let file = format!("{results}/{file}");
        assert_eq!(work.anywhere("rust", &file), work.anywhere("python", &file));
    }
    let model = |configuration: &str| {
        format!("{results}/nnUNetTrainer__nnUNetPlans__{configuration}/crossval_results_folds_0_1")
    };
    let pair = "ensemble___nnUNetTrainer__nnUNetPlans__3d_lowres___nnUNetTrainer__nnUNetPlans__3d_cascade_fullres___0_1";
    for folder in [
        model("3d_lowres"),
        model("3d_cascade_fullres"),
        format!("{results}/ensembles/{pair}"),
    ] {
        work.same_segmentations(&format!("rust/{folder}"), &format!("python/{folder}"), 2);
        let summary = format!("{folder}/summary.json");
        assert_eq!(work.anywhere("rust", &summary), work.anywhere("python", &summary));
    }
}

fn postprocessing(work: &Work) {
    for name in ["labels", "regions"] {
        let folder = format!("scores/{name}");
        work.rounds(
            "rust",
            &format!(
                "determine-postprocessing -i {folder}/rust -ref {folder}/references -plans_json plans.json \
                 -dataset_json scores_{name}.json"
            ),
        );
        assert_eq!(
            work.text(&format!("{folder}/rust/postprocessing.json")),
            work.text(&format!("{folder}/predictions/postprocessing.json"))
        );
        // Python's pickle, followed by us.
        work.rounds(
            "rust",
            &format!(
                "apply-postprocessing -i {folder}/rust -o {folder}/applied_by_rust -pp_pkl_file \
                 {folder}/predictions/postprocessing.pkl -plans_json plans.json -dataset_json scores_{name}.json"
            ),
        );
        work.same_segmentations(
            &format!("{folder}/applied_by_rust"),
            &format!("{folder}/predictions/postprocessed"),
            4,
        );
        work.same_segmentations(
            &format!("{folder}/rust/postprocessed"),
            &format!("{folder}/predictions/postprocessed"),
            4,
        );
    }
    let said = work.rounds(
        "rust",
        &format!(
            "evaluate-simple {0}/scores/labels/references {0}/scores/labels/rust -l 1 3 -il 2 -o ours.json",
            work.0.path().display()
        ),
    );
    assert!(said.contains("4 cases"), "{said}");
    assert_eq!(work.text("ours.json"), work.text("simple.json"));
}

fn zips(work: &Work) {
    work.rounds(
        "python",
        "export-model-to-zip -d 1 -o rust.zip -c 3d_lowres 3d_cascade_fullres -f 0 1",
    );
    let (ours, theirs) = (members(&work.at("rust.zip")), members(&work.at("python.zip")));
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
    assert!(ours == theirs, "the zips hold other bytes");
    let said = work.rounds("installed", "install-pretrained-model-from-zip python.zip");
    assert_eq!(
        said.lines()
            .filter(|line| line.contains("nnUNetTrainer__nnUNetPlans__3d"))
            .count(),
        2,
        "{said}"
    );
    for (name, content) in theirs {
        let file = work.at("installed/nnUNet_results").join(&name);
        assert!(fs::read(file).unwrap() == content, "{name}");
    }
}
