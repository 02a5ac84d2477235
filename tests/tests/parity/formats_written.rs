//! Segmentations that Rounds writes in every format, read by Python's readers, and properties of cases that Python's
//! writers go on with.

use std::path::PathBuf;

use ndarray::{Array3, Array4, Axis};
use nnunet::{
    image::{Geometry, Reader},
    predict::write_probabilities,
    preprocess::CaseProperties,
};
use serde_json::json;
use tests::oracle;

use super::formats::{difference, printed};

/// A geometry for each reader and an ending that it writes.
fn geometries() -> Vec<(Reader, Geometry, &'static str)> {
    let turned = vec![0.0, 0.0, 1.0, -0.6, 0.8, 0.0, 0.8, 0.6, 0.0];
    let diagonal = |signs: &[f64]| -> Vec<f64> {
        let axes = signs.len();
        (0..axes * axes)
            .map(|i| if i % (axes + 1) == 0 { signs[i / axes] } else { 0.0 })
            .collect()
    };
    let itk = |direction: Vec<f64>| Geometry::SimpleItk {
        spacing: vec![0.7, 1.0 / 3.0, 2.5],
        origin: vec![1.0, -2.5e-7, 3.5e5],
        direction,
    };
    let flat = Geometry::SimpleItk {
        spacing: vec![0.7, 0.8],
        origin: vec![1.0, -2.0],
        direction: vec![0.0, 1.0, -1.0, 0.0],
    };
    let reoriented = |original: &str| Geometry::SimpleItkReoriented {
        spacing: vec![0.7, 0.8, 2.5],
        origin: vec![1.0, -2.0, 3.5],
        direction: diagonal(&[-1.0, -1.0, 1.0]),
        original_orientation: original.into(),
    };
    let affine = |x: [f64; 4], y: [f64; 4], z: [f64; 4]| [x, y, z, [0.0, 0.0, 0.0, 1.0]];
    let original = affine([0.0, 0.9, 0.0, 1.0], [1.1, 0.0, 0.0, 2.0], [0.0, 0.0, -3.0, 3.0]);
    let straight = affine([0.9, 0.0, 0.0, 1.0], [0.0, 1.1, 0.0, 2.0], [0.0, 0.0, 3.0, -9.0]);
    let spacing = Geometry::SpacingOnly {
        spacing: [2.5, 0.7, 1.0 / 3.0],
    };
    let natural = Geometry::SpacingOnly {
        spacing: [999.0, 1.0, 1.0],
    };
    let mut all = Vec::new();
    for ending in ["nrrd", "nhdr", "mha", "mhd"] {
        all.push((Reader::SimpleItk, itk(turned.clone()), ending));
        all.push((Reader::SimpleItk, flat.clone(), ending));
        all.push((Reader::SimpleItkReoriented, reoriented("RAS"), ending));
    }
    all.push((Reader::SimpleItk, itk(diagonal(&[1.0, 1.0, 1.0])), "gipl"));
    for ending in ["nii.gz", "nii"] {
        let original_affine = original;
        all.push((Reader::Nibabel, Geometry::Nibabel { original_affine }, ending));
        let reoriented = Geometry::NibabelReoriented {
            original_affine: straight,
            reoriented_affine: straight,
        };
        all.push((Reader::NibabelReoriented, reoriented, ending));
    }
    for ending in ["png", "bmp", "tif"] {
        all.push((Reader::NaturalImage2D, natural.clone(), ending));
    }
    for ending in ["tif", "tiff"] {
        all.push((Reader::Tiff3D, spacing.clone(), ending));
    }
    all
}

fn depth(reader: Reader, geometry: &Geometry) -> usize {
    match geometry {
        Geometry::SimpleItk { spacing, .. } if spacing.len() == 2 => 1,
        _ if reader == Reader::NaturalImage2D => 1,
        _ => 4,
    }
}

/// Spacing (z, y, x) as the reader of a geometry gives it.
fn spacing(geometry: &Geometry) -> [f64; 3] {
    match geometry {
        Geometry::SimpleItk { spacing, .. } | Geometry::SimpleItkReoriented { spacing, .. } => {
            match spacing[..] {
                [x, y] => [999.0 * x.max(y), y, x],
                _ => [spacing[2], spacing[1], spacing[0]],
            }
        }
        Geometry::Nibabel { original_affine: a }
        | Geometry::NibabelReoriented {
            reoriented_affine: a, ..
        } => [2, 1, 0].map(|axis| (0..3).map(|row| a[row][axis].powi(2)).sum::<f64>().sqrt()),
        Geometry::SpacingOnly { spacing } => *spacing,
    }
}

#[test]
fn segmentations_of_every_format_are_read_by_python() {
    let folder = tempfile::tempdir().unwrap();
    let (mut written, mut expected) = (Vec::new(), Vec::new());
    for (number, (reader, geometry, ending)) in geometries().into_iter().enumerate() {
        for largest in [2, 254, 255, 60000] {
            let too_large = match reader {
                Reader::SimpleItkReoriented => largest > 255,
                _ => ending == "bmp" && largest > 254,
            };
            let labels = Array3::from_shape_fn((depth(reader, &geometry), 6, 5), |(z, y, x)| {
                if x == 4 { largest } else { (z * y + x) as u16 % 3 }
            });
            let file = format!("{number}_{largest}.{ending}");
            let done = reader.write_segmentation(labels.view(), &geometry, &folder.path().join(&file));
            assert_eq!(done.is_err(), too_large, "{file} {done:?}");
            if !too_large {
                let data = labels.map(|&label| f32::from(label)).insert_axis(Axis(0));
                expected.push((file.clone(), data, geometry.clone()));
                written.push(json!({"reader": reader.name(), "file": file}));
            }
        }
    }
    let path = folder.path().join("written.json");
    std::fs::write(path, serde_json::to_string(&written).unwrap()).unwrap();
    let found = printed("back", folder.path());
    for ((file, data, geometry), found) in expected.iter().zip(found.as_array().unwrap()) {
        let difference = difference(data, spacing(geometry), geometry, found);
        assert!(difference.is_none(), "{file}: {}", difference.unwrap());
    }
    println!("{} segmentations read alike", expected.len());
}

#[test]
fn python_goes_on_with_the_properties_of_every_reader() {
    let folder = tempfile::tempdir().unwrap();
    let mut written = Vec::new();
    let cases: Vec<(Reader, Geometry, PathBuf, [usize; 3])> = geometries()
        .into_iter()
        .enumerate()
        .map(|(number, (reader, geometry, ending))| {
            let shape = [depth(reader, &geometry), 6, 5];
            let properties = CaseProperties {
                geometry: geometry.clone(),
                spacing: spacing(&geometry),
                shape_before_cropping: shape,
                bbox_used_for_cropping: shape.map(|size| [0, size]),
                shape_after_cropping_and_before_resampling: shape,
                class_locations: Vec::new(),
            };
            let stem = format!("case{number}");
            let none = Array4::zeros((1, 1, 1, 1));
            write_probabilities(none.view(), &properties, &folder.path().join(&stem)).unwrap();
            let file = format!("{stem}.{ending}");
            written.push(json!({
                "reader": reader.name(), "file": file, "properties": format!("{stem}.pkl"), "shape": shape
            }));
            (reader, geometry, folder.path().join(file), shape)
        })
        .collect();
    let path = folder.path().join("written.json");
    std::fs::write(path, serde_json::to_string(&written).unwrap()).unwrap();
    oracle::run("formats.py", &["goes_on".as_ref(), folder.path().as_os_str()]).unwrap();
    for (reader, geometry, path, shape) in cases {
        let read = reader.read_segmentation(&path).unwrap();
        let mut number = -1;
        let labels = Array3::from_shape_simple_fn(shape, || {
            number += 1;
            number
        });
        assert_eq!(read.labels, labels, "{}", path.display());
        assert!(
            geometry.is_close_to(&read.geometry),
            "{}: {geometry:?}\n{:?}",
            path.display(),
            read.geometry
        );
    }
}
