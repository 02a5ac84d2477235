//! The federated path against a plain computation over all samples.

use ndarray::Array3;
use schemas::nnunet::DatasetJson;

use super::*;
use crate::{
    dataset::{RawCase, RawDataset},
    image::{Geometry, Reader},
    numpy_random::RandomState,
    progress::Unobserved,
    secure_sum::{self, Group, Member, Secret},
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
                .merge(&over_the_wire(&scan(&dataset, shard, 6, 1, &Unobserved).unwrap()))
                .unwrap();
        }
        let wanted = over_the_wire(&Wanted::of(&whole).unwrap());
        let mut selection = Selection::empty(&wanted);
        for shard in shards.iter().rev() {
            selection
                .merge(&over_the_wire(
                    &select(&dataset, shard, &wanted, 1, &Unobserved).unwrap(),
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
    let part = scan(&dataset, &dataset.cases[..2], 6, 1, &Unobserved).unwrap();
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
    let empty = scan(&dataset, &dataset.cases[3..4], 1, 1, &Unobserved).unwrap();
    assert!(Wanted::of(&empty).unwrap_err().to_string().contains("foreground"));
}

#[test]
fn bins_of_few_samples_join_their_neighbours() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = dataset(folder.path());
    let exact = extract(&dataset, &Unobserved).unwrap();
    // Of 1e8 draws of six cases, of which one is without foreground, a value of the first channel has about a million.
    for least in [1, 100, 3_000_000, 30_000_000] {
        let mut whole = Scan::empty(2, 6);
        let mut parts = Vec::new();
        for shard in [&dataset.cases[..2], &dataset.cases[2..]] {
            let part = scan(&dataset, shard, 6, least, &Unobserved).unwrap();
            let all = part.channels.iter().flat_map(|channel| channel.high.values());
            assert!(all.clone().all(|count| *count >= least), "{least}: {part:?}");
            whole.merge(&over_the_wire(&part)).unwrap();
            parts.push(shard);
        }
        let wanted = Wanted::of(&whole).unwrap();
        let mut selection = Selection::empty(&wanted);
        for shard in parts {
            let part = select(&dataset, shard, &wanted, least, &Unobserved).unwrap();
            let lows = part.channels.iter().flat_map(|bins| bins.values());
            assert!(
                lows.flat_map(|lows| lows.values()).all(|count| *count >= least),
                "{least}"
            );
            selection.merge(&part).unwrap();
        }
        let found = finish(&whole, &selection).unwrap();
        assert_eq!(found.approximate, least > 1);
        let text = schemas::nnunet::python_json::to_string(&found).unwrap();
        assert_eq!(text.contains("approximate"), least > 1);
        for (index, exact) in &exact.foreground_intensity_properties_per_channel {
            let found = &found.foreground_intensity_properties_per_channel[index];
            // Sums are added up exactly whatever the bins.
            assert_eq!((found.mean, found.std), (exact.mean, exact.std));
            assert!(found.min >= exact.min && found.max <= exact.max);
            if least <= 100 {
                assert!(
                    (found.median - exact.median).abs() <= exact.median / 128.0,
                    "{found:?}"
                );
            } else if index == "0" {
                assert!(
                    found.max < exact.max,
                    "the largest value is of too few samples to be told"
                );
            }
        }
    }
    let error = scan(&dataset, &dataset.cases[..1], 6, 100_000_000, &Unobserved).unwrap_err();
    assert!(error.to_string().contains("100000000"), "{error}");
}

#[test]
fn numbers_add_up_to_the_fingerprint_and_tell_nothing_alone() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = dataset(folder.path());
    let pooled = extract(&dataset, &Unobserved).unwrap();
    // Three sites, one of two shards.
    let sites: [(&str, &[&[usize]]); 3] = [("a", &[&[5], &[0]]), ("b", &[&[3, 1]]), ("c", &[&[4, 2]])];
    let secrets = [1, 2, 3].map(|byte| Secret::new([byte; 32]));
    let members = || {
        let keys = secrets.iter().map(Secret::public_keys);
        let named = sites.iter().zip(keys);
        named
            .map(|((site, _), keys)| Member {
                site: (*site).to_owned(),
                keys,
            })
            .collect()
    };
    let group = |label: &str| Group::new(label, 3, members()).unwrap();
    let shards = || {
        sites.iter().zip(&secrets).flat_map(|((site, shards), secret)| {
            let count = shards.len() as u32;
            let numbered = (0..).zip(shards.iter());
            numbered.map(move |(shard, cases)| (*site, secret, shard, count, *cases))
        })
    };
    let of = |ordinals: &[usize]| {
        ordinals
            .iter()
            .map(|&i| dataset.cases[i].clone())
            .collect::<Vec<_>>()
    };

    let scan_group = group("scan");
    let mut sum: Option<ScanNumbers> = None;
    for (site, secret, shard, count, ordinals) in shards() {
        let part = scan(&dataset, &of(ordinals), 6, 1, &Unobserved).unwrap();
        let mut numbers = ScanNumbers::from(part);
        let plain = numbers.numbers.clone();
        secure_sum::hide(&mut numbers.numbers, site, secret, &scan_group, shard, count).unwrap();
        looks_random(&numbers.numbers, &plain);
        let numbers: ScanNumbers = over_the_wire(&numbers);
        match &mut sum {
            None => {
                assert!(numbers.clone().scan().is_err(), "one list alone is of no scan");
                sum = Some(numbers);
            }
            Some(sum) => sum.add(numbers).unwrap(),
        }
    }
    let whole = sum.unwrap().scan().unwrap();
    let mut expected = Scan::empty(2, 6);
    expected
        .merge(&scan(&dataset, &dataset.cases, 6, 1, &Unobserved).unwrap())
        .unwrap();
    assert_eq!(whole, expected);

    let wanted = Wanted::of(&whole).unwrap();
    let select_group = group("select");
    let mut sum: Option<SelectionNumbers> = None;
    for (site, secret, shard, count, ordinals) in shards() {
        let part = select(&dataset, &of(ordinals), &wanted, 1, &Unobserved).unwrap();
        let mut numbers = SelectionNumbers::from(&part);
        let plain = numbers.numbers.clone();
        secure_sum::hide(&mut numbers.numbers, site, secret, &select_group, shard, count).unwrap();
        looks_random(&numbers.numbers, &plain);
        match &mut sum {
            None => sum = Some(numbers),
            Some(sum) => sum.add(&over_the_wire(&numbers)).unwrap(),
        }
    }
    let selection = sum.unwrap().selection(&wanted).unwrap();
    assert_eq!(finish(&whole, &selection).unwrap(), pooled);

    // Lists that do not fit each other.
    let part = || scan(&dataset, &dataset.cases[..1], 6, 1, &Unobserved).unwrap();
    let mut numbers = ScanNumbers::from(part());
    let mut other = ScanNumbers::from(part());
    other.numbers.pop();
    assert!(numbers.add(other.clone()).is_err());
    assert!(
        other
            .scan()
            .unwrap_err()
            .to_string()
            .contains("no scan has so many")
    );
    assert!(
        SelectionNumbers { numbers: vec![0; 3] }
            .selection(&wanted)
            .is_err()
    );
}

/// Half of the bits are set, and hardly a number is what it was.
fn looks_random(hidden: &[u64], plain: &[u64]) {
    let set: u64 = hidden.iter().map(|number| u64::from(number.count_ones())).sum();
    let bits = 64.0 * hidden.len() as f64;
    // Six standard deviations of so many coins.
    assert!(
        (set as f64 - bits / 2.0).abs() < 3.0 * bits.sqrt(),
        "{set} of {bits}"
    );
    assert!(hidden.iter().zip(plain).all(|(hidden, plain)| hidden != plain));
}
