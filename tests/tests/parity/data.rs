//! Readers, writers and the fingerprint against Python nnU-Net's.

use std::path::{Path, PathBuf};

use ndarray::Array3;
use nnunet::{
    dataset::{Inventory, RawDataset},
    fingerprint::{Scan, Selection, Wanted, finish, scan, select},
    image::{Geometry, Reader},
    numpy_random::RandomState,
    progress::Unobserved,
};
use schemas::nnunet::{Fingerprint, IntensityProperties};
use serde_json::Value;
use tests::{hippocampus, oracle};

/// A NIfTI-1 file, written without the crate under test.
struct Nifti {
    dims: Vec<i16>,
    pixdim: [f32; 5],
    datatype: i16,
    slope: [f32; 2],
    codes: [i16; 2],
    quaternion: [f32; 6],
    rows: [f32; 12],
    units: u8,
    big_endian: bool,
}

impl Default for Nifti {
    fn default() -> Self {
        Nifti {
            dims: vec![3, 4, 5],
            pixdim: [1.0, 0.7, 0.8, 2.5, 1.5],
            datatype: 16,
            slope: [0.0, 0.0],
            codes: [0, 1],
            quaternion: [0.1, 0.2, 0.3, -5.0, -6.5, 7.25],
            rows: [0.7, 0.0, 0.0, 10.0, 0.0, 0.8, 0.0, 20.0, 0.0, 0.0, 2.5, 30.0],
            units: 10,
            big_endian: false,
        }
    }
}

impl Nifti {
    fn write(&self, path: &Path, values: &[f64]) {
        let ordered = |mut bytes: Vec<u8>| {
            if self.big_endian {
                bytes.reverse();
            }
            bytes
        };
        let mut file = vec![0u8; 352];
        let mut put = |offset: usize, bytes: Vec<u8>| {
            let bytes = ordered(bytes);
            file[offset..offset + bytes.len()].copy_from_slice(&bytes);
        };
        put(0, 348i32.to_le_bytes().into());
        put(40, (self.dims.len() as i16).to_le_bytes().into());
        for axis in 0..7 {
            put(
                42 + 2 * axis,
                self.dims.get(axis).unwrap_or(&1).to_le_bytes().into(),
            );
        }
        put(70, self.datatype.to_le_bytes().into());
        let voxels: Vec<Vec<u8>> = values
            .iter()
            .map(|&value| match self.datatype {
                2 => (value as u8).to_le_bytes().into(),
                4 => (value as i16).to_le_bytes().into(),
                8 => (value as i32).to_le_bytes().into(),
                16 => (value as f32).to_le_bytes().into(),
                64 => value.to_le_bytes().into(),
                256 => (value as i8).to_le_bytes().into(),
                512 => (value as u16).to_le_bytes().into(),
                768 => (value as u32).to_le_bytes().into(),
                1024 => (value as i64).to_le_bytes().into(),
                _ => (value as u64).to_le_bytes().into(),
            })
            .collect();
        put(72, (8 * voxels[0].len() as i16).to_le_bytes().into());
        for (i, value) in self.pixdim.iter().enumerate() {
            put(76 + 4 * i, value.to_le_bytes().into());
        }
        put(108, 352f32.to_le_bytes().into());
        put(112, self.slope[0].to_le_bytes().into());
        put(116, self.slope[1].to_le_bytes().into());
        put(123, vec![self.units]);
        put(252, self.codes[0].to_le_bytes().into());
        put(254, self.codes[1].to_le_bytes().into());
        for (i, value) in self.quaternion.iter().chain(&self.rows).enumerate() {
            put(256 + 4 * i, value.to_le_bytes().into());
        }
        file[344..348].copy_from_slice(b"n+1\0");
        file.extend(voxels.into_iter().flat_map(ordered));
        std::fs::write(path, file).unwrap();
    }
}

/// Files of every type, scaling, transform and shape that a hospital might send.
fn variants() -> Vec<(String, Nifti)> {
    let mut files = Vec::new();
    let mut add = |name: String, file: Nifti| files.push((format!("{name}.nii"), file));
    for datatype in [2, 4, 8, 16, 64, 256, 512, 768, 1024, 1280] {
        for (name, slope) in [
            ("plain", [0.0, 0.0]),
            ("scaled", [0.1, -1.0]),
            ("shifted", [1.0, 3.0]),
        ] {
            add(
                format!("type{datatype}_{name}"),
                Nifti {
                    datatype,
                    slope,
                    ..Nifti::default()
                },
            );
        }
        add(
            format!("type{datatype}_big"),
            Nifti {
                datatype,
                big_endian: true,
                ..Nifti::default()
            },
        );
    }
    for (name, slope) in [
        ("nan", [f32::NAN, f32::NAN]),
        ("zero_shift", [0.0, 3.0]),
        ("inf", [f32::INFINITY, 0.0]),
    ] {
        add(
            format!("slope_{name}"),
            Nifti {
                slope,
                ..Nifti::default()
            },
        );
    }
    let permuted = [0.0, 0.9, 0.0, 1.0, 1.1, 0.0, 0.0, 2.0, 0.0, 0.0, 3.0, 3.0];
    for qform in 0..5 {
        for sform in 0..5 {
            let file = Nifti {
                codes: [qform, sform],
                rows: permuted,
                ..Nifti::default()
            };
            add(format!("codes_{qform}_{sform}"), file);
        }
    }
    let sheared = [0.7, 0.2, 0.0, 10.0, 0.0, 0.8, 0.0, 20.0, 0.0, 0.0, 2.5, 30.0];
    for codes in [[0, 1], [1, 1], [1, 2], [0, 2]] {
        let file = Nifti {
            codes,
            rows: sheared,
            ..Nifti::default()
        };
        add(format!("sheared_{}_{}", codes[0], codes[1]), file);
    }
    for (name, codes) in [("s", [0, 1]), ("q", [1, 0])] {
        add(
            format!("qfac_{name}"),
            Nifti {
                codes,
                pixdim: [-1.0, 0.7, 0.8, 2.5, 1.0],
                ..Nifti::default()
            },
        );
        add(
            format!("negative_{name}"),
            Nifti {
                codes,
                pixdim: [1.0, -0.7, 0.8, 2.5, 1.0],
                ..Nifti::default()
            },
        );
        add(
            format!("zero_{name}"),
            Nifti {
                codes,
                pixdim: [1.0, 0.0, 0.8, 2.5, 1.0],
                ..Nifti::default()
            },
        );
        for units in [0, 1, 2, 3] {
            add(
                format!("units_{name}{units}"),
                Nifti {
                    codes,
                    units,
                    ..Nifti::default()
                },
            );
        }
    }
    let long = [0.9, 0.9, 0.9, 0.0, 0.0, 0.0];
    add(
        "long_quaternion".into(),
        Nifti {
            codes: [1, 0],
            quaternion: long,
            ..Nifti::default()
        },
    );
    for dims in [
        vec![3, 4],
        vec![3, 4, 1],
        vec![3, 4, 5, 1],
        vec![3, 4, 5, 2],
        vec![3, 4, 1, 2],
        vec![3, 4, 5, 1, 2],
    ] {
        for codes in [[0, 0], [0, 1], [1, 0]] {
            let name = format!("dims_{dims:?}_{}{}", codes[0], codes[1]).replace([',', ' ', '[', ']'], "_");
            add(
                name,
                Nifti {
                    dims: dims.clone(),
                    codes,
                    ..Nifti::default()
                },
            );
        }
    }
    files
}

fn floats(value: &Value) -> Vec<f64> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|x| x.as_f64().unwrap())
        .collect()
}

/// Compares what Rounds reads of a file with what the oracle printed of it.
fn compare(reader: Reader, path: &Path, expected: &Value) -> Result<(), String> {
    let read = reader.read_images(&[path.to_owned()]);
    let image = match (read, expected.get("error")) {
        (Err(_), Some(_)) => return Ok(()),
        (Err(error), None) => return Err(format!("refused: {error}")),
        (Ok(_), Some(error)) => return Err(format!("read, but Python raises {error}")),
        (Ok(image), None) => image,
    };
    let shape: Vec<f64> = image.data.shape().iter().map(|&n| n as f64).collect();
    let values: Vec<f64> = image.data.iter().map(|&x| f64::from(x)).collect();
    let mut exact = vec![
        ("shape", shape),
        ("values", values),
        ("spacing", image.spacing.to_vec()),
    ];
    let close = match image.geometry {
        Geometry::SimpleItk {
            origin, direction, ..
        } => {
            exact.push(("origin", origin));
            vec![("direction", direction)]
        }
        Geometry::Nibabel { original_affine } => vec![("affine", original_affine.as_flattened().to_vec())],
        other => return Err(format!("{other:?} of a reader that was not asked")),
    };
    for (key, found) in exact {
        let expected = floats(&expected[key]);
        if found != expected {
            return Err(format!("{key} {found:?}\n  expected {expected:?}"));
        }
    }
    for (key, found) in close {
        let expected = floats(&expected[key]);
        let equal = found.len() == expected.len()
            && found
                .iter()
                .zip(&expected)
                .all(|(a, b)| (a - b).abs() <= 1e-6 * b.abs().max(1.0));
        if !equal {
            return Err(format!("{key} {found:?}\n  expected {expected:?}"));
        }
    }
    Ok(())
}

/// Reads every file of the folder with both readers and lists what differs from Python's.
fn differences(folder: &Path) -> Vec<String> {
    let printed = oracle::run("data.py", &["read".as_ref(), folder.as_os_str()]).unwrap();
    let expected: serde_json::Map<String, Value> =
        serde_json::from_str(printed.lines().last().unwrap()).unwrap();
    assert_eq!(expected.len(), std::fs::read_dir(folder).unwrap().count());
    let refused = expected
        .values()
        .filter(|file| file[Reader::SimpleItk.name()].get("error").is_some())
        .count();
    println!("{} files, of which SimpleITK refuses {refused}", expected.len());
    let mut differences = Vec::new();
    for (name, expected) in &expected {
        for reader in [Reader::SimpleItk, Reader::Nibabel] {
            if let Err(difference) = compare(reader, &folder.join(name), &expected[reader.name()]) {
                differences.push(format!("{name} {}: {difference}", reader.name()));
            }
        }
    }
    differences
}

#[test]
fn readers_see_what_pythons_see() {
    let folder = tempfile::tempdir().unwrap();
    for (name, file) in variants() {
        let count: i16 = file.dims.iter().product();
        // Exact in every type up to a byte; the wide types get values that need rounding.
        let wide = matches!(file.datatype, 8 | 64 | 768 | 1024 | 1280);
        let values: Vec<f64> = (0..count)
            .map(|i| {
                if wide {
                    16777217.0 + 3.0 * f64::from(i)
                } else {
                    f64::from(i)
                }
            })
            .collect();
        file.write(&folder.path().join(name), &values);
    }
    // What Rounds writes is read back by both as well.
    let diagonal = |axes: usize| {
        (0..axes * axes)
            .map(|i| f64::from(u8::from(i % (axes + 1) == 0)))
            .collect()
    };
    let geometries = [
        Geometry::SimpleItk {
            spacing: vec![0.7, 0.8, 2.5],
            origin: vec![1.0, -2.0, 3.5],
            direction: diagonal(3),
        },
        Geometry::SimpleItk {
            spacing: vec![0.7, 0.8, 2.5],
            origin: vec![1.0, -2.0, 3.5],
            direction: vec![0.0, 0.0, 1.0, -0.6, 0.8, 0.0, 0.8, 0.6, 0.0],
        },
        Geometry::SimpleItk {
            spacing: vec![0.7, 0.8],
            origin: vec![1.0, -2.0],
            direction: diagonal(2),
        },
        Geometry::Nibabel {
            original_affine: [
                [0.0, 0.9, 0.0, 1.0],
                [1.1, 0.0, 0.0, 2.0],
                [0.0, 0.0, -3.0, 3.0],
                [0.0, 0.0, 0.0, 1.0],
            ],
        },
    ];
    for (number, geometry) in geometries.iter().enumerate() {
        let (reader, depth) = match geometry {
            Geometry::Nibabel { .. } => (Reader::Nibabel, 5),
            Geometry::SimpleItk { spacing, .. } => {
                (Reader::SimpleItk, if spacing.len() == 2 { 1 } else { 5 })
            }
            other => panic!("{other:?} is not in the list above"),
        };
        for largest in [2, 254, 255, 60000] {
            let labels =
                Array3::from_shape_fn((depth, 4, 3), |(_, y, x)| if x == 2 { largest } else { y as u16 });
            let path = folder.path().join(format!("written_{number}_{largest}.nii.gz"));
            reader.write_segmentation(labels.view(), geometry, &path).unwrap();
            if largest < 30000 {
                let read = reader.read_segmentation(&path).unwrap();
                assert_eq!(read.labels.mapv(|label| label as u16), labels);
            }
            let read = reader.read_images(&[path]).unwrap();
            let (
                Geometry::SimpleItk {
                    origin: a,
                    direction: b,
                    ..
                },
                Geometry::SimpleItk {
                    origin, direction, ..
                },
            ) = (geometry, &read.geometry)
            else {
                assert!(
                    geometry.is_close_to(&read.geometry),
                    "{geometry:?}\n{:?}",
                    read.geometry
                );
                continue;
            };
            let close = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5);
            assert!(
                close(a, origin) && close(b, direction),
                "{geometry:?}\n{:?}",
                read.geometry
            );
        }
    }
    let differences = differences(folder.path());
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// The fingerprint over sites that each hold some of the cases, in shards.
fn federated(sites: &[RawDataset]) -> Fingerprint {
    let total: usize = sites
        .iter()
        .map(|site| Inventory::take(site, &Unobserved).unwrap().cases.len())
        .sum();
    let mut whole = Scan::empty(sites[0].dataset_json.channels(), total as u64);
    for site in sites {
        for shard in site.cases.chunks(31) {
            whole
                .merge(&scan(site, shard, total as u64, 1, &Unobserved).unwrap())
                .unwrap();
        }
    }
    let wanted = Wanted::of(&whole).unwrap();
    let mut selection = Selection::empty(&wanted);
    for site in sites.iter().rev() {
        selection
            .merge(&select(site, &site.cases, &wanted, 1, &Unobserved).unwrap())
            .unwrap();
    }
    finish(&whole, &selection).unwrap()
}

/// Python's fingerprint of a raw data set, and the seconds it took.
fn pythons(raw: &Path, name: &str) -> (Fingerprint, String) {
    let preprocessed = tempfile::tempdir().unwrap();
    let arguments = [
        "fingerprint".as_ref(),
        raw.as_os_str(),
        preprocessed.path().as_os_str(),
        name.as_ref(),
    ];
    let printed = oracle::run("data.py", &arguments).unwrap();
    let path = preprocessed.path().join(name).join("dataset_fingerprint.json");
    let text = std::fs::read_to_string(path).unwrap();
    // What Python wrote is what Rounds writes of it.
    let fingerprint: Fingerprint = serde_json::from_str(&text).unwrap();
    assert_eq!(
        schemas::nnunet::python_json::to_string(&fingerprint).unwrap(),
        text
    );
    (fingerprint, printed.lines().last().unwrap().to_owned())
}

fn assert_same(found: &Fingerprint, expected: &Fingerprint) {
    let sorted = |fingerprint: &Fingerprint| {
        let spacings = fingerprint.spacings.iter().map(|s| s.map(f64::to_bits));
        let mut cases: Vec<_> = fingerprint.shapes_after_crop.iter().zip(spacings).collect();
        cases.sort();
        cases
            .into_iter()
            .map(|(shape, spacing)| (*shape, spacing))
            .collect::<Vec<_>>()
    };
    assert_eq!(sorted(found), sorted(expected));
    assert_eq!(
        found.median_relative_size_after_cropping,
        expected.median_relative_size_after_cropping
    );
    let (found, expected) = (
        &found.foreground_intensity_properties_per_channel,
        &expected.foreground_intensity_properties_per_channel,
    );
    assert!(found.keys().eq(expected.keys()));
    for ((channel, found), expected) in found.iter().zip(expected.values()) {
        let ranks = |p: &IntensityProperties| [p.min, p.percentile_00_5, p.median, p.percentile_99_5, p.max];
        assert_eq!(ranks(found), ranks(expected), "channel {channel}");
        for (name, a, b) in [
            ("mean", found.mean, expected.mean),
            ("std", found.std, expected.std),
        ] {
            let relative = ((a - b) / b).abs();
            println!("channel {channel} {name}: {a} against {b}, {relative:.2e} relative");
            assert!(relative < 1e-5, "channel {channel} {name}: {a} against {b}");
        }
    }
}

/// Two channels with a zero background, holes in it, and labels there; case 2 has no foreground.
fn write_small(folder: &Path, numbers: std::ops::Range<usize>) {
    let mut random = RandomState::new(11);
    for number in numbers {
        let (x, y, z) = (14 + number, 12, 9);
        let head = |i: usize, j: usize, k: usize| {
            (2..10).contains(&i) && (2..10).contains(&j) && (1..8).contains(&k)
        };
        let mut volume = |name: String, voxel: &mut dyn FnMut(&mut RandomState, bool) -> f64| {
            let file = Nifti {
                dims: vec![x as i16, y as i16, z as i16],
                pixdim: [1.0, 0.5 + number as f32 / 3.0, 1.0, 1.5, 1.0],
                ..Nifti::default()
            };
            let grid = (0..z).flat_map(|k| (0..y).flat_map(move |j| (0..x).map(move |i| (i, j, k))));
            let values: Vec<f64> = grid.map(|(i, j, k)| voxel(&mut random, head(i, j, k))).collect();
            file.write(&folder.join(name), &values);
        };
        for channel in 0..2 {
            let scale = [0.37, 1e4][channel];
            volume(
                format!("imagesTr/c{number}_000{channel}.nii"),
                &mut |random, inside| {
                    let drawn = f64::from(random.up_to(1 << 20)) / f64::from(1 << 20);
                    if inside && random.up_to(20) > 0 {
                        (drawn - 0.3) * scale
                    } else {
                        0.0
                    }
                },
            );
        }
        volume(format!("labelsTr/c{number}.nii"), &mut |random, _| {
            if number == 2 {
                0.0
            } else {
                f64::from(random.up_to(40).saturating_sub(38))
            }
        });
    }
    let count = std::fs::read_dir(folder.join("labelsTr")).unwrap().count();
    let text = format!(
        r#"{{"channel_names": {{"0": "T1", "1": "CT"}}, "labels": {{"background": 0, "a": 1, "b": 2}},
        "numTraining": {count}, "file_ending": ".nii", "overwrite_image_reader_writer": "SimpleITKIO"}}"#
    );
    std::fs::write(folder.join("dataset.json"), text).unwrap();
}

fn dataset_folder(parent: &Path, name: &str) -> PathBuf {
    let folder = parent.join(name);
    for part in ["imagesTr", "labelsTr"] {
        std::fs::create_dir_all(folder.join(part)).unwrap();
    }
    folder
}

#[test]
fn a_small_fingerprint_is_pythons() {
    let folder = tempfile::tempdir().unwrap();
    let name = "Dataset998_Small";
    let sites: Vec<PathBuf> = [0..2, 2..5]
        .into_iter()
        .enumerate()
        .map(|(number, cases)| {
            let site = dataset_folder(folder.path(), &format!("site{number}"));
            write_small(&site, cases);
            site
        })
        .collect();
    hippocampus::pool(&sites, &folder.path().join(name)).unwrap();
    assert_same(&federated(&open(&sites)), &pythons(folder.path(), name).0);
}

#[test]
fn the_pooled_hippocampus_fingerprint_is_pythons() {
    let Some(data) = hippocampus::folder() else {
        tests::skip("the_pooled_hippocampus_fingerprint_is_pythons", "no shared data");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let name = "Dataset997_Pooled";
    let pooled = folder.path().join(name);
    let sites = hippocampus::sites(&data).unwrap();
    hippocampus::pool(&sites, &pooled).unwrap();
    let sites = open(&sites);
    let start = std::time::Instant::now();
    let found = federated(&sites);
    println!(
        "Rounds, three sites and three passes: {:.2} s",
        start.elapsed().as_secs_f64()
    );
    let alone = RawDataset::open(&pooled).unwrap();
    let start = std::time::Instant::now();
    assert_eq!(nnunet::fingerprint::extract(&alone, &Unobserved).unwrap(), found);
    println!(
        "Rounds, all cases at one site: {:.2} s",
        start.elapsed().as_secs_f64()
    );
    let (expected, seconds) = pythons(folder.path(), name);
    println!("Python: {seconds}");
    assert_same(&found, &expected);
}

fn open(sites: &[PathBuf]) -> Vec<RawDataset> {
    sites.iter().map(|site| RawDataset::open(site).unwrap()).collect()
}
