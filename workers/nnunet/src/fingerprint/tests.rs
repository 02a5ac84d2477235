//! The federated path against a plain computation over all samples.

use ndarray::Array3;
use schemas::nnunet::DatasetJson;

use super::*;
use crate::{
    dataset::{RawCase, RawDataset},
    image::{Geometry, Reader},
    numpy_random::RandomState,
    progress::Unobserved,
};

/// Six small cases of two channels; the fourth has no foreground. Values vary with the case's number.
fn dataset(folder: &std::path::Path) -> RawDataset {
    let direction = vec![1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0];
    let mut random = RandomState::new(7);
    let cases = (0..6usize).map(|number| {
        let spacing = vec![1.0, 1.0 + number as f64, 2.0];
        let geometry = Geometry::SimpleItk {
            spacing,
            origin: vec![0.0; 3],
            direction: direction.clone(),
        };
        let mut write = |name: &str, voxel: &mut dyn FnMut(&mut RandomState, usize) -> u16| {
            let path = folder.join(format!("{number}{name}.nii.gz"));
            let volume = Array3::from_shape_fn((4, 5, 6 + number), |(z, _, _)| voxel(&mut random, z));
            Reader::SimpleItk
                .write_segmentation(volume.view(), &geometry, &path)
                .unwrap();
            path
        };
        let mut image = |name: &str, largest: u32| {
            // The first slice is empty, so that there is something to crop.
            write(name, &mut |random, z| {
                if z == 0 { 0 } else { random.up_to(largest) as u16 }
            })
        };
        let images = vec![image("a", 90 + number as u32), image("b", 60000)];
        let label = write("l", &mut |random, _| {
            if number == 3 { 0 } else { random.up_to(2) as u16 }
        });
        RawCase {
            identifier: number.to_string(),
            images,
            label: Some(label),
        }
    });
    let text = r#"{"channel_names": {"0": "a", "1": "b"}, "labels": {"background": 0, "x": 1, "y": 2},
        "numTraining": 6, "file_ending": ".nii.gz"}"#;
    RawDataset {
        cases: cases.collect(),
        folder: folder.to_owned(),
        name: "Dataset001_X".into(),
        dataset_json: DatasetJson::parse(text).unwrap(),
        reader: Reader::SimpleItk,
        mapped: Default::default(),
    }
}

fn over_the_wire<T: serde::Serialize + serde::de::DeserializeOwned>(part: &T) -> T {
    serde_json::from_str(&serde_json::to_string(part).unwrap()).unwrap()
}

#[test]
fn sites_and_shards_do_not_matter() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = dataset(folder.path());
    let pooled = extract(&dataset, &Unobserved).unwrap();
    let partitions: [&[&[usize]]; 2] = [&[&[5], &[0, 3, 1], &[4, 2]], &[&[3], &[2, 1, 0, 4, 5]]];
    for partition in partitions {
        let shards: Vec<Vec<RawCase>> = partition
            .iter()
            .map(|shard| shard.iter().map(|&i| dataset.cases[i].clone()).collect())
            .collect();
        let mut whole = Scan::empty(2, 6);
        for shard in &shards {
            assert!(Wanted::of(&whole).is_err(), "a case is still missing");
            whole
                .merge(&over_the_wire(&scan(&dataset, shard, 6, &Unobserved).unwrap()))
                .unwrap();
        }
        let wanted = over_the_wire(&Wanted::of(&whole).unwrap());
        let mut selection = Selection::empty(&wanted);
        for shard in shards.iter().rev() {
            selection
                .merge(&over_the_wire(
                    &select(&dataset, shard, &wanted, &Unobserved).unwrap(),
                ))
                .unwrap();
        }
        assert_eq!(finish(&whole, &selection).unwrap(), pooled);
    }
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = dataset(folder.path());
    let part = scan(&dataset, &dataset.cases[..2], 6, &Unobserved).unwrap();
    let message = |result: crate::Result<()>| result.unwrap_err().to_string();
    assert!(message(Scan::empty(2, 7).merge(&part)).contains("7 cases"));
    assert!(message(Scan::empty(1, 6).merge(&part)).contains("1 channels"));
    let mut forged = part.clone();
    forged.channels[1].count += 1;
    assert!(message(Scan::empty(2, 6).merge(&forged)).contains("channel 1"));
    let mut forged = part;
    forged.cases[0].spacing_bits[0] = f64::NAN.to_bits();
    assert!(message(Scan::empty(2, 6).merge(&forged)).contains("spacing"));
    // Without foreground there is nothing to take percentiles of.
    let empty = scan(&dataset, &dataset.cases[3..4], 1, &Unobserved).unwrap();
    assert!(Wanted::of(&empty).unwrap_err().to_string().contains("foreground"));
}
