//! Plans files of older versions and of people's own: resolved and merged as nnU-Net does.

use std::{fs, path::Path};

use nnunet::plan::keep_custom_configurations;
use schemas::nnunet::{NetworkKind, Plans};
use serde_json::{Value, json};
use tests::oracle;

/// Plans as nnU-Net wrote them before 2.3, without `architecture`, with configurations that a person added.
fn old_plans() -> Value {
    let resampling = |is_seg: bool, order: u8| json!({"is_seg": is_seg, "order": order, "order_z": 0, "force_separate_z": null});
    let configuration = |class: &str, dimensions: usize, stages: usize| {
        let ones = vec![1; dimensions];
        let strides: Vec<_> = (0..stages)
            .map(|s| if s == 0 { ones.clone() } else { vec![2; dimensions] })
            .collect();
        json!({
            "data_identifier": format!("nnUNetPlans_{dimensions}"), "preprocessor_name": "DefaultPreprocessor",
            "batch_size": 12, "patch_size": vec![64; dimensions], "median_image_size_in_voxels": vec![50.5; dimensions],
            "spacing": vec![1.25; dimensions], "normalization_schemes": ["ZScoreNormalization"],
            "use_mask_for_norm": [true], "UNet_class_name": class, "UNet_base_num_features": 24,
            "n_conv_per_stage_encoder": vec![2; stages], "n_conv_per_stage_decoder": vec![1; stages - 1],
            "num_pool_per_axis": vec![stages - 1; dimensions], "pool_op_kernel_sizes": strides,
            "conv_kernel_sizes": vec![vec![3; dimensions]; stages], "unet_max_num_features": 100,
            "resampling_fn_data": "resample_data_or_seg_to_shape", "resampling_fn_seg": "resample_data_or_seg_to_shape",
            "resampling_fn_data_kwargs": resampling(false, 3), "resampling_fn_seg_kwargs": resampling(true, 1),
            "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
            "resampling_fn_probabilities_kwargs": resampling(false, 1), "batch_dice": true,
        })
    };
    json!({
        "dataset_name": "Dataset004_Hippocampus", "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [1.0, 1.0, 1.0], "original_median_shape_after_transp": [36, 50, 35],
        "image_reader_writer": "SimpleITKIO", "transpose_forward": [1, 0, 2], "transpose_backward": [1, 0, 2],
        "configurations": {
            "2d": configuration("PlainConvUNet", 2, 5),
            "3d_fullres": configuration("ResidualEncoderUNet", 3, 4),
            "3d_lowres": {"inherits_from": "3d_fullres", "spacing": [3.0, 3.0, 3.0], "next_stage": "3d_cascade_fullres"},
            "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
            "small_batch": {"inherits_from": "2d", "batch_size": 2},
            "small_batch_wide": {"inherits_from": "small_batch", "UNet_base_num_features": 64, "next_stage": ["a", "b"]},
            "loop_a": {"inherits_from": "loop_b"}, "loop_b": {"inherits_from": "loop_c"},
            "loop_c": {"inherits_from": "loop_a"}, "loop_of_one": {"inherits_from": "loop_of_one"},
            "orphan": {"inherits_from": "nobody"},
            "unknown_network": {"inherits_from": "2d", "UNet_class_name": "MyUNet"},
            "incomplete": {"batch_size": 3},
        },
        "experiment_planner_used": "ExperimentPlanner", "label_manager": "LabelManager",
        "foreground_intensity_properties_by_modality": {"0": {"max": 9.0, "mean": 2.0, "median": 2.0, "min": 0.0,
            "percentile_00_5": 0.5, "percentile_99_5": 8.0, "std": 1.5}},
    })
}

fn write(path: &Path, value: &Value) {
    fs::write(path, serde_json::to_string(value).unwrap()).unwrap();
}

#[test]
fn configurations_resolve_as_pythons() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("plans.json"), &old_plans());
    let theirs: Value =
        serde_json::from_str(&oracle::run("configurations.py", &[folder.path()]).unwrap()).unwrap();
    let plans = Plans::from_value(&old_plans()).unwrap();
    let (mut resolved, mut refused) = (0, 0);
    for name in plans.configuration_names() {
        let theirs = &theirs[name];
        let Ok(ours) = plans.configuration(name) else {
            assert!(theirs.is_string(), "{name}: refused, but nnU-Net finds {theirs}");
            refused += 1;
            continue;
        };
        assert!(theirs.is_object(), "{name}: nnU-Net refuses it: {theirs}");
        resolved += 1;
        assert_eq!(
            serde_json::to_value(&ours.architecture).unwrap(),
            theirs["architecture"],
            "{name}"
        );
        assert!(matches!(
            ours.architecture.kind(),
            Some(NetworkKind::PlainConvUNet | NetworkKind::ResidualEncoderUNet)
        ));
        for (key, value) in [
            ("data_identifier", json!(ours.data_identifier)),
            ("batch_size", json!(ours.batch_size)),
            ("patch_size", json!(ours.patch_size)),
            ("spacing", json!(ours.spacing)),
            ("next_stage", json!(ours.next_stage)),
            ("resampling_fn_seg_kwargs", json!(ours.resampling_fn_seg_kwargs)),
            ("batch_dice", json!(ours.batch_dice)),
            (
                "intensities",
                json!(plans.foreground_intensity_properties_per_channel),
            ),
        ] {
            assert_eq!(value, theirs[key], "{name}: {key}");
        }
        assert_eq!(
            json!(ours.previous_stage),
            theirs.get("previous_stage").cloned().unwrap_or_default(),
            "{name}"
        );
    }
    assert_eq!((resolved, refused), (6, 7));
}

#[test]
fn planning_again_keeps_what_pythons_keeps() {
    let folder = tempfile::tempdir().unwrap();
    let earlier = old_plans();
    let mut new = earlier.clone();
    new["configurations"] =
        json!({"2d": earlier["configurations"]["2d"], "3d_fullres": earlier["configurations"]["3d_fullres"]});
    new["configurations"]["2d"]["batch_size"] = 77.into();
    let intensities = new
        .as_object_mut()
        .unwrap()
        .shift_remove("foreground_intensity_properties_by_modality");
    new["foreground_intensity_properties_per_channel"] = intensities.unwrap();
    write(&folder.path().join("plans.json"), &earlier);
    let file = folder.path().join("new.json");
    write(&file, &new);
    let theirs = oracle::run("configurations.py", &[folder.path(), &file]).unwrap();

    let mut ours = Plans::from_value(&new).unwrap();
    keep_custom_configurations(&mut ours, &Plans::from_value(&earlier).unwrap());
    assert_eq!(ours.to_json(), theirs);
    assert_eq!(ours.configuration("small_batch").unwrap().batch_size, 2);
    assert_eq!(ours.configuration("2d").unwrap().batch_size, 77);
}
