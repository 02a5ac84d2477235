use super::*;

fn dataset(ending: &str, reader: &str) -> DatasetJson {
    let text = format!(
        r#"{{"channel_names": {{"0": "MRI"}}, "labels": {{"background": 0}}, "numTraining": 1,
        "file_ending": "{ending}", "overwrite_image_reader_writer": "{reader}"}}"#
    );
    DatasetJson::parse(&text).unwrap()
}

fn identity() -> Geometry {
    let direction = vec![1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0];
    Geometry::SimpleItk {
        spacing: vec![1.0, 2.0, 3.0],
        origin: vec![4.0, 5.0, 6.0],
        direction,
    }
}

#[test]
fn segmentations_read_back_and_are_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    for largest in [254, 255] {
        let labels = Array3::from_shape_fn(
            (2, 3, 4),
            |(z, y, x)| if z + y + x == 6 { largest } else { x as u16 },
        );
        let paths = ["a.b.nii.gz", "c.nii.gz"].map(|name| folder.path().join(name));
        for path in &paths {
            Reader::SimpleItk
                .write_segmentation(labels.view(), &identity(), path)
                .unwrap();
        }
        assert_eq!(
            std::fs::read(&paths[0]).unwrap(),
            std::fs::read(&paths[1]).unwrap()
        );
        let read = Reader::SimpleItk.read_segmentation(&paths[0]).unwrap();
        assert_eq!(read.labels.mapv(|label| label as u16), labels);
        assert_eq!((read.spacing, read.geometry), ([3.0, 2.0, 1.0], identity()));
    }
}

#[test]
fn the_reader_is_chosen_as_nnunet_chooses_it() {
    let folder = tempfile::tempdir().unwrap();
    let labels = Array3::zeros((2, 3, 4));
    for ending in [".nii", ".nii.gz"] {
        let path = folder.path().join(format!("a{ending}"));
        Reader::SimpleItk
            .write_segmentation(labels.view(), &identity(), &path)
            .unwrap();
        let chosen = Reader::for_dataset(&dataset(ending, "None"), &path).unwrap();
        assert_eq!(
            chosen,
            if ending == ".nii" {
                Reader::Nibabel
            } else {
                Reader::SimpleItk
            }
        );
        assert_eq!(
            Reader::for_dataset(&dataset(ending, "NibabelIO"), &path).unwrap(),
            Reader::Nibabel
        );
        assert_eq!(
            Reader::for_dataset(&dataset(ending, "NoSuchIO"), &path).unwrap(),
            chosen
        );
    }
    for ending in [".jpg", ".mhd", ".nhdr", ".dcm"] {
        let error = Reader::for_dataset(&dataset(ending, "None"), Path::new("a")).unwrap_err();
        assert!(error.to_string().contains(ending), "{error}");
    }
    for reader in Reader::ALL {
        let asked = dataset(".any", reader.name());
        assert_eq!(Reader::for_dataset(&asked, Path::new("a")).unwrap(), reader);
    }
}

#[test]
fn a_value_that_is_no_label_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.mha");
    for value in [0.5f32, f32::NAN, 40000.0] {
        let header = "NDims = 3\nDimSize = 1 1 1\nElementType = MET_FLOAT\nElementDataFile = LOCAL\n";
        std::fs::write(&path, [header.as_bytes(), &value.to_le_bytes()].concat()).unwrap();
        let error = Reader::SimpleItk
            .read_segmentation(&path)
            .unwrap_err()
            .to_string();
        assert!(error.contains(&value.to_string()), "{error}");
    }
}

#[test]
fn channels_must_share_their_grid() {
    let folder = tempfile::tempdir().unwrap();
    let paths = [2, 3].map(|depth| {
        let path = folder.path().join(format!("{depth}.nii.gz"));
        let labels = Array3::from_elem((depth, 3, 4), 7);
        Reader::SimpleItk
            .write_segmentation(labels.view(), &identity(), &path)
            .unwrap();
        path
    });
    let error = Reader::SimpleItk.read_images(&paths).unwrap_err().to_string();
    assert!(
        error.contains("3.nii.gz") && error.contains("[1, 2, 3, 4]"),
        "{error}"
    );
    let twice = [paths[0].clone(), paths[0].clone()];
    assert_eq!(
        Reader::SimpleItk.read_images(&twice).unwrap().data.dim(),
        (2, 2, 3, 4)
    );
}

/// Labels, a geometry for each reader, and every name that it writes.
fn written_by_each(folder: &Path) -> Vec<(Reader, Geometry, PathBuf)> {
    let space = ([0.5, 0.75, 2.5].to_vec(), [1.0, -2.0, 3.5].to_vec());
    let turned = vec![0.0, 0.0, 1.0, -1.0, 0.0, 0.0, 0.0, 1.0, 0.0];
    let ras = vec![-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0];
    let affine = [
        [0.0, 0.5, 0.0, 1.0],
        [1.5, 0.0, 0.0, 2.0],
        [0.0, 0.0, -3.0, 3.0],
        [0.0, 0.0, 0.0, 1.0],
    ];
    let straight = [
        [0.5, 0.0, 0.0, 1.0],
        [0.0, 1.5, 0.0, 2.0],
        [0.0, 0.0, 3.0, -3.0],
        [0.0, 0.0, 0.0, 1.0],
    ];
    let itk = Geometry::SimpleItk {
        spacing: space.0.clone(),
        origin: space.1.clone(),
        direction: turned,
    };
    let mut all = Vec::new();
    let mut add = |reader: Reader, geometry: &Geometry, names: &[&str]| {
        for name in names {
            all.push((reader, geometry.clone(), folder.join(name)));
        }
    };
    let names = ["a.nii.gz", "a.nrrd", "a.nhdr", "a.mha", "a.mhd"];
    add(Reader::SimpleItk, &itk, &names);
    let reoriented = Geometry::SimpleItkReoriented {
        spacing: space.0,
        origin: space.1,
        direction: ras,
        original_orientation: "ASL".into(),
    };
    add(
        Reader::SimpleItkReoriented,
        &reoriented,
        &["b.nrrd", "b.mha", "b.nii.gz"],
    );
    let nibabel = Geometry::Nibabel {
        original_affine: affine,
    };
    add(Reader::Nibabel, &nibabel, &["c.nii", "c.nii.gz"]);
    let reoriented = Geometry::NibabelReoriented {
        original_affine: affine,
        reoriented_affine: straight,
    };
    add(Reader::NibabelReoriented, &reoriented, &["d.nii", "d.nii.gz"]);
    let spacing = [2.5, 0.5, 1.0];
    add(
        Reader::Tiff3D,
        &Geometry::SpacingOnly { spacing },
        &["e.tif", "f.tiff"],
    );
    all
}

#[test]
fn every_format_reads_back_where_it_was_written() {
    let folder = tempfile::tempdir().unwrap();
    for (reader, geometry, path) in written_by_each(folder.path()) {
        for largest in [2, 255, 300] {
            if reader == Reader::SimpleItkReoriented && largest > 255 {
                continue;
            }
            let labels = Array3::from_shape_fn((3, 4, 5), |(z, y, x)| match (z, y, x) {
                (2, 1, 4) => largest,
                _ => (x + y) as u16 % 2,
            });
            reader
                .write_segmentation(labels.view(), &geometry, &path)
                .unwrap();
            let bytes = std::fs::read(&path).unwrap();
            reader
                .write_segmentation(labels.view(), &geometry, &path)
                .unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), bytes, "{}", path.display());
            let read = reader.read_segmentation(&path).unwrap();
            assert_eq!(
                read.labels.mapv(|label| label as u16),
                labels,
                "{}",
                path.display()
            );
            assert!(
                geometry.is_close_to(&read.geometry),
                "{geometry:?}\n{:?}",
                read.geometry
            );
        }
    }
    let spacing = [999.0, 1.0, 1.0];
    let geometry = Geometry::SpacingOnly { spacing };
    for (name, largest) in [("a.png", 254), ("b.png", 300), ("a.bmp", 254), ("g.tif", 300)] {
        let path = folder.path().join(name);
        let labels = Array3::from_shape_fn((1, 4, 5), |(_, y, x)| if x == 4 { largest } else { y as u16 });
        Reader::NaturalImage2D
            .write_segmentation(labels.view(), &geometry, &path)
            .unwrap();
        let read = Reader::NaturalImage2D.read_segmentation(&path).unwrap();
        assert_eq!(read.labels.mapv(|label| label as u16), labels, "{name}");
        assert_eq!(read.spacing, spacing);
    }
    let labels = Array3::from_elem((1, 4, 5), 255);
    let error =
        Reader::NaturalImage2D.write_segmentation(labels.view(), &geometry, &folder.path().join("b.bmp"));
    assert!(error.unwrap_err().to_string().contains("255"));
    assert!(!folder.path().join("b.bmp").exists());
}

#[test]
fn what_lies_beside_an_image_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let companions: Vec<Option<String>> = written_by_each(folder.path())
        .into_iter()
        .map(|(reader, geometry, path)| {
            let labels = Array3::zeros((3, 4, 5));
            reader
                .write_segmentation(labels.view(), &geometry, &path)
                .unwrap();
            let companion = reader.companion_of_segmentation(&path)?;
            Some(companion.file_name()?.to_string_lossy().into_owned())
        })
        .collect();
    let companions: Vec<&str> = companions.iter().flatten().map(String::as_str).collect();
    assert_eq!(companions, ["a.raw.gz", "a.zraw", "e.json", "f.json"]);
    std::fs::rename(folder.path().join("e.tif"), folder.path().join("e_0000.tif")).unwrap();
    let image = folder.path().join("e_0000.tif");
    assert_eq!(
        Reader::Tiff3D.companion_of_image(&image),
        Some(folder.path().join("e.json"))
    );
    assert_eq!(
        Reader::Tiff3D.read_images(&[image]).unwrap().spacing,
        [2.5, 0.5, 1.0]
    );
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(400))]

    /// Whatever is done to a file, reading it ends in an image or in an error.
    #[test]
    fn no_damaged_file_panics(
        which in 0usize..18,
        cut in proptest::option::of(0usize..2000),
        changes in proptest::collection::vec((0usize..2000, proptest::num::u8::ANY), 0..6),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut all = written_by_each(folder.path());
        let spacing = [999.0, 1.0, 1.0];
        for name in ["a.png", "a.bmp", "g.tif", "a.gipl"] {
            let (reader, geometry) = match name {
                "a.gipl" => (Reader::SimpleItk, all[0].1.clone()),
                _ => (Reader::NaturalImage2D, Geometry::SpacingOnly { spacing }),
            };
            all.push((reader, geometry, folder.path().join(name)));
        }
        let (reader, geometry, path) = all[which % all.len()].clone();
        let depth = if reader == Reader::NaturalImage2D { 1 } else { 3 };
        let labels = Array3::from_shape_fn((depth, 4, 5), |(z, y, x)| (z + y * x) as u16);
        reader.write_segmentation(labels.view(), &geometry, &path).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        for (place, byte) in changes {
            let place = place % bytes.len();
            bytes[place] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut);
        }
        std::fs::write(&path, bytes).unwrap();
        if let Err(error) = reader.read_images(std::slice::from_ref(&path)) {
            let named = error.to_string();
            proptest::prop_assert!(named.contains(&*folder.path().to_string_lossy()), "{}", named);
        }
        let _ = reader.read_segmentation(&path);
        let _ = reader.companion_of_image(&path);
    }
}
