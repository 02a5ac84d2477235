//! Each harm gives an error that names case and file, the other cases go on, and nothing of the broken case is
//! stored.

use std::{fs, path::Path};

use nnunet::{
    dataset::{RawDataset, Severity, verify_dataset_integrity},
    fingerprint,
    preprocess::{Done, MappedCase, preprocess_dataset},
    progress::Unobserved,
};

use super::{
    data::{ENDING, dataset, plan, plans},
    scans::{Scan, gzip},
};

/// How a data set is spoilt, the file that errors name, what they say, and which steps find it.
struct Harm {
    name: &'static str,
    spoil: fn(&Path),
    file: &'static str,
    says: &'static str,
    /// nnU-Net's verification does not look for it.
    unverified: bool,
    /// The fingerprint does not need what is broken.
    fingerprinted: bool,
}

const IMAGE: &str = "imagesTr/bad_0001.nii.gz";
const LABEL: &str = "labelsTr/bad.nii.gz";

const fn harm(name: &'static str, file: &'static str, says: &'static str, spoil: fn(&Path)) -> Harm {
    Harm {
        name,
        spoil,
        file,
        says,
        unverified: false,
        fingerprinted: false,
    }
}

fn image() -> Scan {
    Scan::waves([6, 7, 11], 4.0)
}

fn label() -> Scan {
    Scan::blocks([6, 7, 11], 3)
}

fn cut(file: &Path) {
    let whole = fs::read(file).unwrap();
    fs::write(file, &whole[..whole.len() * 2 / 3]).unwrap();
}

fn harms() -> Vec<Harm> {
    let mut harms = vec![
        harm("truncated image", IMAGE, "gzip", |f| cut(&f.join(IMAGE))),
        harm("truncated label", LABEL, "gzip", |f| cut(&f.join(LABEL))),
        harm("no file at all", IMAGE, "too few", |f| {
            fs::write(f.join(IMAGE), "").unwrap()
        }),
        harm("not an image", IMAGE, "not a NIfTI", |f| {
            fs::write(f.join(IMAGE), [b'x'; 4000]).unwrap()
        }),
        harm("10 GB promised", IMAGE, "promises", |f| {
            let mut scan = image();
            scan.shape = [2000, 2000, 2500];
            scan.write(&f.join(IMAGE));
        }),
        harm("a little more promised", IMAGE, "promises", |f| {
            let mut scan = image();
            scan.shape = [6, 7, 12];
            scan.write(&f.join(IMAGE));
        }),
        harm("a wider type promised", IMAGE, "promises", |f| {
            let mut scan = image();
            scan.datatype = 64;
            scan.write(&f.join(IMAGE));
        }),
        harm("an unknown type", IMAGE, "datatype 1792", |f| {
            let mut scan = image();
            scan.datatype = 1792;
            scan.write(&f.join(IMAGE));
        }),
        harm("no axis", IMAGE, "dim", |f| {
            let mut scan = image();
            scan.shape[1] = 0;
            scan.write(&f.join(IMAGE));
        }),
        harm("a voxel that is no number", IMAGE, "not a number", |f| {
            let mut scan = image();
            scan.put(30, f32::NAN);
            scan.write(&f.join(IMAGE));
        }),
        harm("another shape of channels", IMAGE, "first channel", |f| {
            Scan::waves([6, 7, 10], 1.0).write(&f.join(IMAGE));
        }),
        harm("another spacing of channels", IMAGE, "spacing", |f| {
            let mut scan = image();
            scan.spacing[1] = 1.5;
            scan.write(&f.join(IMAGE));
        }),
        harm(
            "too many channels",
            "imagesTr/bad_0000.nii.gz",
            "3 channels",
            |f| {
                fs::remove_file(f.join(IMAGE)).unwrap();
                let mut scan = Scan::waves([18, 7, 11], 0.0);
                scan.channels = 3;
                scan.shape[0] = 6;
                scan.write(&f.join("imagesTr/bad_0000.nii.gz"));
            },
        ),
        harm("another shape of labels", LABEL, "shape", |f| {
            Scan::blocks([6, 8, 11], 3).write(&f.join(LABEL));
        }),
        harm("a label of no meaning", LABEL, "3", |f| {
            Scan::blocks([6, 7, 11], 4).write(&f.join(LABEL))
        }),
        harm("half a label", LABEL, "1.5", |f| {
            let mut scan = label();
            scan.put(9, 1.5);
            scan.write(&f.join(LABEL));
        }),
        harm("a label beyond 16 bits", LABEL, "not a label", |f| {
            let mut scan = label();
            scan.put(9, 70_000.0);
            scan.write(&f.join(LABEL));
        }),
        harm("a label that is no number", LABEL, "not a label", |f| {
            let mut scan = label();
            scan.put(9, f32::NAN);
            scan.write(&f.join(LABEL));
        }),
    ];
    // An infinite voxel, where fingerprints look and where they do not.
    harms.push(Harm {
        unverified: true,
        ..harm("infinite foreground", IMAGE, "infinite", |f| {
            spoil_with_infinity(f, 1.0)
        })
    });
    harms.push(Harm {
        unverified: true,
        fingerprinted: true,
        ..harm("infinite background", IMAGE, "infinite", |f| {
            spoil_with_infinity(f, 0.0)
        })
    });
    // A spacing of nonsense: at its own, the case would be larger than any memory, or nothing.
    for harm in [
        harm("huge spacing", "", "would become", |f| {
            spoil_with_spacing(f, 1e30)
        }),
        harm("large spacing", "", "would become", |f| {
            spoil_with_spacing(f, 900.0)
        }),
        harm("tiny spacing", "", "nothing is left", |f| {
            spoil_with_spacing(f, 1e-20)
        }),
    ] {
        harms.push(Harm {
            unverified: true,
            fingerprinted: true,
            ..harm
        });
    }
    harms
}

fn spoil_with_infinity(folder: &Path, label_there: f32) {
    let mut scan = image();
    scan.put(label().voxel_of(label_there), f32::NEG_INFINITY);
    scan.write(&folder.join(IMAGE));
}

fn spoil_with_spacing(folder: &Path, spacing: f32) {
    for (file, mut scan) in [
        ("imagesTr/bad_0000.nii.gz", image()),
        (IMAGE, image()),
        (LABEL, label()),
    ] {
        scan.spacing = [spacing; 3];
        scan.write(&folder.join(file));
    }
}

fn names_it(harm: &Harm, step: &str, error: &str) {
    let file = harm.file.rsplit('/').next().unwrap();
    assert!(
        error.contains("case bad") && error.contains(file) && error.contains(harm.says),
        "{}, {step}: {error}",
        harm.name
    );
}

#[test]
fn each_harm_is_named_and_the_others_go_on() {
    let clean = tempfile::tempdir().unwrap();
    dataset(clean.path());
    let plans = plans(clean.path());
    for harm in harms() {
        let folder = tempfile::tempdir().unwrap();
        dataset(folder.path());
        let mut raw = RawDataset::open(folder.path()).unwrap();
        (harm.spoil)(folder.path());
        raw.cases = RawDataset::open(folder.path()).unwrap().cases;

        let problems = verify_dataset_integrity(&raw, &Unobserved).unwrap();
        let errors: Vec<String> = problems
            .iter()
            .filter(|problem| problem.severity == Severity::Error)
            .map(ToString::to_string)
            .collect();
        match errors.as_slice() {
            [] if harm.unverified => {}
            [one] => {
                assert!(
                    one.contains("case bad") && one.contains(harm.says),
                    "{}: {one}",
                    harm.name
                );
            }
            other => panic!("{}: {other:?}", harm.name),
        }

        // A share of so many cases in total is soon drawn.
        match fingerprint::scan(&raw, &raw.cases, 10_000_000, 1, &Unobserved) {
            Ok(_) => assert!(harm.fingerprinted, "{}: fingerprinted", harm.name),
            Err(error) => names_it(&harm, "fingerprint", &error.to_string()),
        }

        let stored = folder.path().join("out");
        let outcomes =
            preprocess_dataset(&raw, &[0, 1, 2, 3], &plans, "3d_fullres", &stored, 2, &Unobserved).unwrap();
        for outcome in outcomes {
            let identifier = &raw.cases[outcome.ordinal].identifier;
            match (identifier.as_str(), outcome.result) {
                ("bad", Err(error)) => names_it(&harm, "preprocess", &error.to_string()),
                ("bad", Ok(done)) => panic!("{}: {done:?}", harm.name),
                (good, result) => assert!(matches!(result, Ok(Done::Written { .. })), "{good}: {result:?}"),
            }
        }
        let cases = stored.join("nnUNetPlans_3d_fullres");
        let names: Vec<String> = fs::read_dir(&cases)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(names.len(), 6, "{}: {names:?}", harm.name);
        assert!(names.iter().all(|name| !name.contains("bad")), "{names:?}");
    }
}

#[test]
fn a_gzip_bomb_behind_a_small_scan_is_read_to_its_end_and_no_further() {
    let folder = tempfile::tempdir().unwrap();
    dataset(folder.path());
    let mut bytes = image().bytes();
    bytes.resize(64 << 20, 0);
    fs::write(folder.path().join(IMAGE), gzip(&bytes)).unwrap();
    let raw = RawDataset::open(folder.path()).unwrap();
    let (read, _) = raw.read(raw.case("bad").unwrap()).unwrap();
    assert_eq!(read.data.dim(), (2, 6, 7, 11));
}

#[test]
fn one_voxel_is_a_case() {
    let folder = tempfile::tempdir().unwrap();
    dataset(folder.path());
    for (file, value) in [("imagesTr/bad_0000.nii.gz", -3.5), (IMAGE, 0.0), (LABEL, 1.0)] {
        let mut scan = Scan::waves([1, 1, 1], 0.0);
        scan.put(0, value);
        scan.write(&folder.path().join(file));
    }
    let raw = RawDataset::open(folder.path()).unwrap();
    let plans = plan(&fingerprint::extract(&raw, &Unobserved).unwrap(), &raw);
    let stored = folder.path().join("out");
    for configuration in ["2d", "3d_fullres"] {
        let outcomes = preprocess_dataset(
            &raw,
            &[0, 1, 2, 3],
            &plans,
            configuration,
            &stored,
            1,
            &Unobserved,
        )
        .unwrap();
        assert!(outcomes.iter().all(|o| o.result.is_ok()), "{outcomes:?}");
        let case = MappedCase::open(&stored.join(format!("nnUNetPlans_{configuration}")), "bad").unwrap();
        assert_eq!(case.data().dim(), (2, 1, 1, 1));
        assert!(case.data().iter().all(|v| v.is_finite()));
    }
}

#[test]
fn a_data_set_without_foreground_has_no_fingerprint() {
    let folder = tempfile::tempdir().unwrap();
    dataset(folder.path());
    for (number, case) in ["a", "b", "c", "bad"].into_iter().enumerate() {
        Scan::blocks([6, 7, 8 + number], 1).write(&folder.path().join(format!("labelsTr/{case}{ENDING}")));
    }
    let raw = RawDataset::open(folder.path()).unwrap();
    let error = fingerprint::extract(&raw, &Unobserved).unwrap_err().to_string();
    assert!(error.contains("no case has any foreground"), "{error}");
}
