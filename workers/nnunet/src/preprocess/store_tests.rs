use std::fs;

use super::*;
use ndarray::Array4;

fn sample() -> PreprocessedCase {
    PreprocessedCase {
        data: Array4::from_shape_fn((2, 3, 4, 5), |(c, z, y, x)| {
            (c * 60 + z * 20 + y * 5 + x) as f32 / 3.0
        }),
        seg: Array4::from_shape_fn((1, 3, 4, 5), |(_, z, y, x)| (z * 20 + y * 5 + x) as i16 % 4 - 1),
        properties: CaseProperties {
            geometry: Geometry::SimpleItk {
                spacing: vec![1.0, 1.5, 2.0],
                origin: vec![-1.0, 0.0, 7.25],
                direction: vec![1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
            },
            spacing: [2.0, 1.5, 1.0],
            shape_before_cropping: [5, 6, 7],
            bbox_used_for_cropping: [[1, 4], [0, 4], [2, 7]],
            shape_after_cropping_and_before_resampling: [3, 4, 5],
            class_locations: vec![
                ClassLocations {
                    key: ClassKey::Label(1),
                    voxels: vec![[0, 1, 2], [2, 3, 4]],
                },
                ClassLocations {
                    key: ClassKey::Label(2),
                    voxels: vec![],
                },
                ClassLocations {
                    key: ClassKey::Region(vec![-1, 0, 1]),
                    voxels: vec![[1, 1, 1]],
                },
            ],
        },
    }
}

#[test]
fn a_case_comes_back_from_the_map() {
    let folder = tempfile::tempdir().unwrap();
    let cases = folder.path().join("nnUNetPlans_2d");
    let case = sample();
    let bytes = write_case(&cases, "case 1", &case, "key").unwrap();
    assert_eq!(stored_key(&cases, "case 1").as_deref(), Some("key"));
    assert_eq!(stored_key(&cases, "case 2"), None);
    let on_disk: u64 = fs::read_dir(&cases)
        .unwrap()
        .map(|e| e.unwrap().metadata().unwrap().len())
        .sum();
    assert_eq!(bytes, on_disk);

    let mapped = MappedCase::open(&cases, "case 1").unwrap();
    assert_eq!((mapped.data(), mapped.seg()), (case.data.view(), case.seg.view()));
    assert_eq!(
        (mapped.data.bytes.start % 64, mapped.seg.bytes.start % 64),
        (0, 0)
    );
    assert_eq!(mapped.properties().shape_before_cropping, [5, 6, 7]);
    assert_eq!(mapped.properties().geometry, case.properties.geometry);
    for (found, class) in mapped.class_voxels().iter().zip(&case.properties.class_locations) {
        assert_eq!(
            (found.labels.as_slice(), &found.voxels),
            (class.key.labels(), &class.voxels)
        );
    }
    // The same case gives the same bytes.
    let before = fs::read(cases.join("case 1.npz")).unwrap();
    write_case(&cases, "case 1", &case, "key").unwrap();
    assert_eq!(before, fs::read(cases.join("case 1.npz")).unwrap());
}

#[test]
fn a_file_that_is_cut_short_or_changed_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let cases = folder.path().join("cases");
    write_case(&cases, "a", &sample(), "key").unwrap();
    let path = cases.join("a.npz");
    let whole = fs::read(&path).unwrap();
    for length in (0..whole.len()).step_by(7) {
        fs::write(&path, &whole[..length]).unwrap();
        let error = MappedCase::open(&cases, "a").unwrap_err().to_string();
        assert!(error.contains("a.npz"), "{error}");
    }
    // No single changed byte may make the reader panic.
    for place in 0..whole.len() {
        let mut changed = whole.clone();
        changed[place] ^= 0x5a;
        fs::write(&path, &changed).unwrap();
        let _ = MappedCase::open(&cases, "a");
    }
}

#[test]
fn stored_cases_must_be_there() {
    let folder = tempfile::tempdir().unwrap();
    let cases = folder.path().join("cases");
    write_case(&cases, "a", &sample(), "key").unwrap();
    assert!(
        StoredCases::open(&cases, vec!["a".into(), "b".into()])
            .unwrap_err()
            .to_string()
            .contains('b')
    );
    let stored = StoredCases::open(&cases, vec!["a".into()]).unwrap();
    assert_eq!(Cases::open(&stored, 0).unwrap().data().dim(), (2, 3, 4, 5));
    assert!(Cases::open(&stored, 1).is_err());
}
