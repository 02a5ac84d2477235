use super::*;

fn sample() -> Value {
    serde_json::json!({
        "dataset_name": "Dataset004_Hippocampus", "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
        "original_median_shape_after_transp": [36, 50, 35],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2],
        "configurations": {
            "2d": {
                "data_identifier": "nnUNetPlans_2d", "preprocessor_name": "DefaultPreprocessor",
                "batch_size": 12, "patch_size": [56, 40], "median_image_size_in_voxels": [50.0, 35.5],
                "spacing": [1.0, 1.0], "normalization_schemes": ["ZScoreNormalization"],
                "use_mask_for_norm": [false],
                "resampling_fn_data": "resample_data_or_seg_to_shape",
                "resampling_fn_seg": "resample_data_or_seg_to_shape",
                "resampling_fn_data_kwargs": {"is_seg": false, "order": 3, "order_z": 0, "force_separate_z": null},
                "resampling_fn_seg_kwargs": {"is_seg": true, "order": 1, "order_z": 0, "force_separate_z": null},
                "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
                "resampling_fn_probabilities_kwargs": {"is_seg": false, "order": 1, "order_z": 0, "force_separate_z": null},
                "UNet_class_name": "PlainConvUNet", "UNet_base_num_features": 32, "unet_max_num_features": 50,
                "n_conv_per_stage_encoder": [2, 2], "n_conv_per_stage_decoder": [2], "num_pool_per_axis": [1, 1],
                "pool_op_kernel_sizes": [[1, 1], [2, 2]], "conv_kernel_sizes": [[3, 3], [3, 3]],
                "batch_dice": true, "my_key": 7,
            },
            "child": {"inherits_from": "2d", "batch_size": 3, "next_stage": "2d"},
            "loop_a": {"inherits_from": "loop_b"}, "loop_b": {"inherits_from": "loop_a"},
        },
        "experiment_planner_used": "ExperimentPlanner", "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": {"max": 9.0, "mean": 2.0, "median": 2.0, "min": 0.0,
            "percentile_00_5": 0.5, "percentile_99_5": 8.0, "std": 1.5}},
        "note": "kept",
    })
}

#[test]
fn a_document_comes_back_as_it_was() {
    let text = serde_json::to_string(&sample()).unwrap();
    let plans = Plans::from_json(text.as_bytes()).unwrap();
    let keys: Vec<_> = plans.to_value().as_object().unwrap().keys().cloned().collect();
    let expected: Vec<_> = sample().as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, expected);
    assert_eq!(plans.configurations["2d"]["my_key"], 7);
    assert!(
        plans
            .differences(&Plans::from_json(plans.to_json().as_bytes()).unwrap())
            .is_empty()
    );
}

#[test]
fn inheritance_and_old_plans_resolve() {
    let plans = Plans::from_value(&sample()).unwrap();
    let child = plans.configuration("child").unwrap();
    assert_eq!((child.batch_size, child.patch_size.clone()), (3, vec![56, 40]));
    assert_eq!(child.next_stage, ["2d"]);
    assert_eq!(child.architecture.kind(), Some(NetworkKind::PlainConvUNet));
    assert_eq!(child.architecture.dimensions(), Some(2));
    assert_eq!(child.architecture.arch_kwargs.features_per_stage, [32, 50]);
    assert!(
        plans
            .configuration("loop_a")
            .unwrap_err()
            .reason
            .contains("itself")
    );
    assert!(
        plans
            .configuration("3d")
            .unwrap_err()
            .reason
            .contains("2d, child")
    );
}

#[test]
fn errors_name_the_path() {
    let mut bad = sample();
    bad["configurations"]["2d"]["spacing"] = serde_json::json!([1.0, "x"]);
    let error = Plans::from_value(&bad).unwrap().configuration("2d").unwrap_err();
    assert_eq!(error.path, "configurations.2d.spacing[1]");
    bad["transpose_forward"] = serde_json::json!([0, 0, 1]);
    assert_eq!(Plans::from_value(&bad).unwrap_err().path, "transpose_forward");
    bad["transpose_forward"] = serde_json::json!([1, 2, 0]);
    assert_eq!(Plans::from_value(&bad).unwrap_err().path, "transpose_backward");
    assert!(Plans::from_json(b"[1]").is_err());
}

#[test]
fn the_digest_leaves_out_what_a_site_chooses() {
    let plans = Plans::from_value(&sample()).unwrap();
    let mut other = sample();
    other["dataset_name"] = "Dataset007_Other".into();
    other["image_reader_writer"] = "NibabelIO".into();
    let mut other = Plans::from_value(&other).unwrap();
    assert_eq!(plans.digest().unwrap(), other.digest().unwrap());
    assert!(plans.differences(&other).is_empty());
    other.configurations["2d"]["batch_size"] = 13.into();
    assert_ne!(plans.digest().unwrap(), other.digest().unwrap());
    let found: Vec<_> = plans
        .differences(&other)
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(found, ["configurations.2d.batch_size: 12 against 13"]);
    other.foreground_intensity_properties_per_channel["0"].std = f64::NAN;
    assert!(other.digest().unwrap_err().path.ends_with(".0"));
}
