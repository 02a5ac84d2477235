use std::{fs, path::Path};

use rstest::rstest;

use super::*;
use crate::image::{Geometry, Reader};

const SWAPPED: &str = r#"{"background": 0, "core": 1, "shell": 2}"#;
const REGIONS: &str = r#"{"background": 0, "all": [1, 2], "kern": 2, "ignore": 3}"#;

fn write(path: &Path, values: impl Fn(usize) -> u16) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let original_affine = [
        [1.0, 0.0, 0.0, 0.0],
        [0.0, 1.0, 0.0, 0.0],
        [0.0, 0.0, 1.0, 0.0],
        [0.0, 0.0, 0.0, 1.0],
    ];
    let volume = Array3::from_shape_fn((1, 2, 4), |(_, y, x)| values(y * 4 + x));
    Reader::Nibabel
        .write_segmentation(volume.view(), &Geometry::Nibabel { original_affine }, path)
        .unwrap();
}

/// A case with the labels 0, 1, 2, 3, ... up to `highest`, and channel c full of c + 1.
fn dataset(labels: &str, more: &str, highest: u16) -> (tempfile::TempDir, RawDataset) {
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        r#"{{"channel_names": {{"0": "flair", "1": "T1"}}, "labels": {labels}, "numTraining": 1,
        "file_ending": ".nii"{more}}}"#
    );
    fs::write(folder.path().join("dataset.json"), text).unwrap();
    write(&folder.path().join("labelsTr/a.nii"), |voxel| {
        (voxel as u16).min(highest)
    });
    for channel in 0..2 {
        write(
            &folder.path().join(format!("imagesTr/a_000{channel}.nii")),
            |_| channel + 1,
        );
    }
    let opened = RawDataset::open(folder.path()).unwrap();
    (folder, opened)
}

fn label(name: &str, value: Label, here: Option<Here>) -> MappedLabel {
    MappedLabel {
        name: name.into(),
        value,
        here,
    }
}

fn labels(labels: &[(&str, u16, Option<&str>)]) -> Mapping {
    let labels = labels.iter().map(|&(name, value, here)| {
        label(
            name,
            Label::Value(value),
            here.map(|here| Here::Name(here.into())),
        )
    });
    Mapping {
        labels: labels.collect(),
        channels: Vec::new(),
    }
}

fn channels(channels: &[(&str, Option<&str>)]) -> Mapping {
    let channels = channels.iter().map(|&(name, here)| MappedChannel {
        name: name.into(),
        here: here.map(Into::into),
    });
    Mapping {
        labels: Vec::new(),
        channels: channels.collect(),
    }
}

fn read(dataset: &RawDataset) -> (Vec<f32>, Vec<i16>) {
    let (image, segmentation) = dataset.read(&dataset.cases[0]).unwrap();
    let first = image
        .data
        .outer_iter()
        .map(|channel| channel[[0, 0, 0]])
        .collect();
    (first, segmentation.unwrap().labels.into_iter().collect())
}

#[test]
fn swapped_labels_and_channels_are_put_right() {
    let (_folder, own) = dataset(SWAPPED, "", 2);
    let before = read(&own);
    assert_eq!(before, (vec![1.0, 2.0], vec![0, 1, 2, 2, 2, 2, 2, 2]));
    let mut mapping = labels(&[
        ("background", 0, None),
        ("shell", 1, None),
        ("kernel", 2, Some("core")),
    ]);
    mapping.channels = channels(&[("T1", None), ("T2", Some("flair"))]).channels;
    let mapped = own.clone().mapped(&mapping).unwrap();
    assert_eq!(read(&mapped), (vec![2.0, 1.0], vec![0, 2, 1, 1, 1, 1, 1, 1]));
    let document = serde_json::to_string(&mapped.dataset_json).unwrap();
    for part in [
        r#""labels":{"background":0,"shell":1,"kernel":2}"#,
        r#""channel_names":{"0":"T1","1":"T2"}"#,
    ] {
        assert!(document.contains(part), "{part} is not in {document}");
    }
    // Scans to predict come in the same order.
    let mut others = own.cases.clone();
    mapped.order_channels(&mut others).unwrap();
    assert_eq!(others, mapped.cases);
    others[0].images.truncate(1);
    let error = mapped.order_channels(&mut others).unwrap_err().to_string();
    assert!(error.contains("case a: one file holds all channels"), "{error}");
    // By value, and without a change.
    let by_value =
        |name: &str, value, here| label(name, Label::Value(value), Some(Here::Values(Label::Value(here))));
    let mapping = Mapping {
        labels: vec![
            by_value("background", 0, 0),
            by_value("shell", 1, 2),
            by_value("kernel", 2, 1),
        ],
        channels: mapping.channels,
    };
    assert_eq!(read(&own.clone().mapped(&mapping).unwrap()), read(&mapped));
    assert_eq!(read(&own.clone().mapped(&Mapping::default()).unwrap()), before);
}

#[test]
fn regions_and_ignore_are_mapped_value_by_value() {
    let (_folder, own) = dataset(REGIONS, r#", "regions_class_order": [1, 2]"#, 3);
    let region = |values: &[u16]| Label::Region(values.to_vec());
    let mapping = Mapping {
        labels: vec![
            label("background", Label::Value(0), None),
            label("whole", region(&[2, 1]), Some(Here::Name("all".into()))),
            label("core", Label::Value(1), Some(Here::Name("kern".into()))),
            label("ignore", Label::Value(3), None),
        ],
        channels: Vec::new(),
    };
    let mapped = own.clone().mapped(&mapping).unwrap();
    assert_eq!(read(&mapped).1, [0, 2, 1, 3, 3, 3, 3, 3]);
    assert_eq!(mapped.dataset_json.regions_class_order(), Some(&[2, 1][..]));
    assert_eq!(mapped.dataset_json.ignore_label(), Some(3));
    // Two labels that others take for one.
    let one = Mapping {
        labels: vec![
            label("background", Label::Value(0), None),
            label("any", Label::Value(1), Some(Here::Values(region(&[2, 1])))),
        ],
        channels: Vec::new(),
    };
    let (_folder, own) = dataset(SWAPPED, "", 2);
    assert_eq!(read(&own.mapped(&one).unwrap()).1, [0, 1, 1, 1, 1, 1, 1, 1]);
}

#[rstest]
#[case(&[("background", 0, None), ("shell", 1, None)], "labels: this data set's label \"core\" (1) is none")]
#[case(&[("background", 0, None), ("shell", 1, None), ("hull", 2, None)], "labels[2].name: \"hull\" is no label")]
#[case(&[("background", 0, None), ("shell", 1, None), ("hull", 2, Some("rim"))], "labels[2].here: \"rim\" is no label")]
#[case(&[("background", 0, None), ("shell", 1, None), ("core", 2, Some("shell"))], "labels[2]: this data set's 2 would be 1 and 2")]
#[case(&[("background", 1, None), ("shell", 0, None), ("core", 2, None)], "labels: background must stay 0")]
#[case(&[("background", 0, None), ("shell", 1, None), ("shell", 2, Some("core"))], "labels: two of them")]
#[case(&[("nothing", 0, Some("background")), ("shell", 1, None), ("core", 2, None)], "labels and channels: as dataset.json: ")]
fn labels_that_do_not_fit_are_named(#[case] given: &[(&str, u16, Option<&str>)], #[case] said: &str) {
    let (_folder, own) = dataset(SWAPPED, "", 2);
    let error = own.mapped(&labels(given)).unwrap_err().to_string();
    assert!(error.contains(said), "{said:?} is not in {error:?}");
}

#[rstest]
#[case(&[("T1", None)], "channels: 1 of 2 channels: this data set has flair, T1")]
#[case(&[("T1", None), ("T2", None)], "channels[1]: \"T2\" is no channel of this data set, which has flair, T1")]
#[case(&[("T1", None), ("T2", Some("T1"))], "channels[1]: \"T1\" is named twice")]
fn channels_that_do_not_fit_are_named(#[case] given: &[(&str, Option<&str>)], #[case] said: &str) {
    let (_folder, own) = dataset(SWAPPED, "", 2);
    let error = own.mapped(&channels(given)).unwrap_err().to_string();
    assert!(error.contains(said), "{said:?} is not in {error:?}");
}

#[test]
fn a_label_that_no_setting_names_is_an_error_of_the_case() {
    let (_folder, own) = dataset(SWAPPED, "", 5);
    let mapping = labels(&[("background", 0, None), ("shell", 1, None), ("core", 2, None)]);
    let mapped = own.mapped(&mapping).unwrap();
    let error = mapped.read(&mapped.cases[0]).unwrap_err().to_string();
    assert!(
        error.contains("case a: ") && error.contains("labelsTr/a.nii: its segmentation holds the label 3"),
        "{error}"
    );
}
