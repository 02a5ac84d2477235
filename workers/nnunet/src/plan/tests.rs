use super::*;
use serde_json::json;

fn hippocampus(cases: usize) -> (Fingerprint, DatasetJson) {
    let fingerprint = json!({
        "foreground_intensity_properties_per_channel": {"0": {"max": 9.0, "mean": 2.0, "median": 2.0, "min": 0.0,
            "percentile_00_5": 0.5, "percentile_99_5": 8.0, "std": 1.5}},
        "median_relative_size_after_cropping": 1.0,
        "shapes_after_crop": vec![[36, 50, 35]; cases],
        "spacings": vec![[1.0, 1.0, 1.0]; cases],
    });
    let dataset = json!({"channel_names": {"0": "MRI"}, "labels": {"background": 0, "Anterior": 1, "Posterior": 2},
        "numTraining": cases, "file_ending": ".nii.gz"});
    (
        serde_json::from_value(fingerprint).unwrap(),
        DatasetJson::parse(&dataset.to_string()).unwrap(),
    )
}

// Batch and patch sizes of Python nnU-Net 2.8.1 on the 180 and on the 260 cases of the hippocampus.
#[test]
fn the_hippocampus_is_planned_as_nnunet_does() {
    for (cases, batch_3d, batch_2d) in [(180, 6, 253), (260, 9, 366)] {
        let (fingerprint, dataset) = hippocampus(cases);
        let plans = plan_experiment(
            &fingerprint,
            &dataset,
            &Options::default(),
            "Dataset004_H",
            "SimpleITKIO",
        )
        .unwrap();
        let full = plans.configuration("3d_fullres").unwrap();
        assert_eq!(
            (full.patch_size.as_slice(), full.batch_size),
            ([40, 56, 40].as_slice(), batch_3d)
        );
        let flat = plans.configuration("2d").unwrap();
        assert_eq!(
            (flat.patch_size.as_slice(), flat.batch_size),
            ([56, 40].as_slice(), batch_2d)
        );
        assert!(!full.batch_dice && flat.batch_dice);
        assert_eq!(
            plans.configuration_names().collect::<Vec<_>>(),
            ["2d", "3d_fullres"]
        );
    }
}

#[test]
fn configurations_that_a_person_added_stay() {
    let (fingerprint, dataset) = hippocampus(20);
    let mut plans = plan_experiment(
        &fingerprint,
        &dataset,
        &Options::default(),
        "Dataset004_H",
        "SimpleITKIO",
    )
    .unwrap();
    let mut earlier = plans.clone();
    let mut own = Map::new();
    own.insert("inherits_from".into(), "2d".into());
    own.insert("batch_size".into(), 5.into());
    earlier.configurations.insert("mine".into(), own);
    earlier.configurations["2d"]["batch_size"] = 99.into();
    keep_custom_configurations(&mut plans, &earlier);
    assert_eq!(plans.configuration("mine").unwrap().batch_size, 5);
    assert_ne!(plans.configuration("2d").unwrap().batch_size, 99);
}

#[test]
fn what_cannot_be_planned_is_refused_by_name() {
    let (fingerprint, dataset) = hippocampus(20);
    let plan = |fingerprint: &Fingerprint, options: &Options| {
        plan_experiment(fingerprint, &dataset, options, "Dataset004_H", "SimpleITKIO")
            .unwrap_err()
            .to_string()
    };
    let mut bad = fingerprint.clone();
    bad.spacings[3][1] = 0.0;
    assert!(plan(&bad, &Options::default()).contains("spacings[3]"));
    let mut bad = fingerprint.clone();
    bad.foreground_intensity_properties_per_channel.clear();
    assert!(plan(&bad, &Options::default()).contains("channels of dataset.json"));
    let options = Options {
        gpu_memory_target_gb: Some(1e-6),
        ..Options::default()
    };
    assert!(plan(&fingerprint, &options).contains("fits"));
}
