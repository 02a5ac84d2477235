//! What is half-written, or another program's, is never picked up.

use std::fs;

use nnunet::{
    dataset::RawDataset,
    preprocess::{Done, MappedCase, StoredCases, preprocess_dataset},
    progress::Unobserved,
};

use super::data::{dataset, plans};

#[test]
fn half_written_cases_are_made_again() {
    let folder = tempfile::tempdir().unwrap();
    dataset(folder.path());
    let (raw, plans) = (RawDataset::open(folder.path()).unwrap(), plans(folder.path()));
    let stored = folder.path().join("out");
    let run = || -> Vec<Done> {
        preprocess_dataset(&raw, &[0, 1, 2, 3], &plans, "2d", &stored, 2, &Unobserved)
            .unwrap()
            .into_iter()
            .map(|outcome| outcome.result.unwrap())
            .collect()
    };
    run();
    assert_eq!(run(), [Done::Cached; 4]);
    let cases = stored.join("nnUNetPlans_2d");
    // As a crash between the two files, while writing, and a copy that was cut short leave them.
    fs::remove_file(cases.join("a.npz")).unwrap();
    fs::remove_file(cases.join("b.pkl")).unwrap();
    fs::write(stored.join(".nnUNetPlans_2d.partial/c.npz"), "half").unwrap();
    let path = cases.join("bad.npz");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let opened = StoredCases::open(&cases, raw.identifiers()).unwrap_err();
    assert!(
        opened
            .to_string()
            .contains("a.npz: missing: the case is not preprocessed"),
        "{opened}"
    );
    let error = MappedCase::open(&cases, "bad").unwrap_err().to_string();
    assert!(error.contains("bad.npz"), "{error}");
    let again = run();
    assert!(matches!(
        again.as_slice(),
        [
            Done::Written { .. },
            Done::Written { .. },
            Done::Written { .. },
            Done::Cached
        ]
    ));
    assert_eq!(run(), [Done::Cached; 4]);
}

#[test]
fn pythons_cases_are_not_mixed_with_ours() {
    let folder = tempfile::tempdir().unwrap();
    dataset(folder.path());
    let (raw, plans) = (RawDataset::open(folder.path()).unwrap(), plans(folder.path()));
    let stored = folder.path().join("out");
    let cases = stored.join("nnUNetPlans_2d");
    fs::create_dir_all(&cases).unwrap();
    fs::write(cases.join("a.b2nd"), "Python's").unwrap();
    let error = preprocess_dataset(&raw, &[0], &plans, "2d", &stored, 1, &Unobserved).unwrap_err();
    for part in [
        "a.b2nd",
        "rounds nnunet preprocess",
        "nnUNet_preprocessed",
        "remove",
    ] {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert_eq!(fs::read_dir(&cases).unwrap().count(), 1);
}
