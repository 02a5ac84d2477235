use std::{fs, os::unix::fs::MetadataExt};

use ndarray::Array3;
use serde_json::json;

use super::*;
use crate::{
    dataset::Inventory,
    image::{Geometry, Reader},
    plan::{Options, plan_experiment},
    preprocess::{Done, MappedCase, Preprocessing, whole::partial_folder},
    progress::Unobserved,
};

/// Three cases of noise with a box in it; the site's inventory and plans.
struct Made {
    root: tempfile::TempDir,
    raw: RawDataset,
    plans: Plans,
    inventory: Inventory,
    cache: CaseCache,
}

fn write(raw: &Path, file: &str, values: &Array3<u16>) {
    let geometry = Geometry::SimpleItk {
        spacing: vec![1.0, 1.0, 1.25],
        origin: vec![0.0; 3],
        direction: vec![1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
    };
    let path = raw.join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    Reader::SimpleItk
        .write_segmentation(values.view(), &geometry, &path)
        .unwrap();
}

impl Made {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("Dataset001_Boxes");
        for case in 0..3 {
            let label = Array3::from_shape_fn((12, 14, 16), |(z, y, x)| {
                u16::from((3..9).contains(&z) && (4 + case..11).contains(&y) && x > 5)
            });
            let mut state = case as u32 + 1;
            let image = label.mapv(|label| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                50 + 90 * label + (state >> 27) as u16
            });
            write(&folder, &format!("labelsTr/case_{case}.nii.gz"), &label);
            write(&folder, &format!("imagesTr/case_{case}_0000.nii.gz"), &image);
        }
        let document = r#"{"channel_names": {"0": "MRI"}, "labels": {"background": 0, "box": 1},
            "numTraining": 3, "file_ending": ".nii.gz"}"#;
        fs::write(folder.join("dataset.json"), document).unwrap();
        let raw = RawDataset::open(&folder).unwrap();
        let fingerprint = serde_json::from_value(json!({
            "foreground_intensity_properties_per_channel": { "0": {
                "max": 171.0, "mean": 155.5, "median": 155.0, "min": 140.0,
                "percentile_00_5": 140.0, "percentile_99_5": 171.0, "std": 9.2 } },
            "median_relative_size_after_cropping": 1.0,
            "shapes_after_crop": [[12, 14, 16], [12, 14, 16], [12, 14, 16]],
            "spacings": [[1.25, 1.0, 1.0], [1.25, 1.0, 1.0], [1.25, 1.0, 1.0]],
        }))
        .unwrap();
        let (name, reader) = (&raw.name, raw.reader.name());
        let plans =
            plan_experiment(&fingerprint, &raw.dataset_json, &Options::default(), name, reader).unwrap();
        Self {
            inventory: Inventory::take(&raw, &Unobserved).unwrap(),
            cache: CaseCache::new(root.path().join("cases")),
            root,
            raw,
            plans,
        }
    }

    fn folder(&self, job: &str) -> PathBuf {
        self.root.path().join("jobs").join(job).join("preprocessed")
    }

    /// Preprocesses all cases for a job: how many were made.
    fn make(&self, job: &str, plans: &Plans) -> usize {
        let folder = self.folder(job);
        let work = Preprocessing::new(&self.raw, plans, "3d_fullres", &folder).unwrap();
        let outcomes = work
            .shared(&self.cache, &self.inventory)
            .run(&[0, 1, 2], 2, &Unobserved)
            .unwrap();
        let done = outcomes.into_iter().map(|outcome| outcome.result.unwrap());
        done.filter(|done| *done != Done::Cached).count()
    }

    fn file(&self, job: &str) -> PathBuf {
        self.folder(job).join("nnUNetPlans_3d_fullres/case_1.npz")
    }

    fn cached(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.cache.folder()).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// The plans with a change to the configuration.
    fn changed(&self, key: &str, value: Value) -> Plans {
        let mut plans = self.plans.clone();
        let configuration = plans.configurations.get_mut("3d_fullres").unwrap();
        assert!(configuration.insert(key.into(), value).is_some(), "{key}");
        plans
    }
}

#[test]
fn jobs_whose_plans_differ_elsewhere_share_cases() {
    let made = Made::new();
    assert_eq!(made.make("first", &made.plans), 3);
    assert_eq!(made.make("first", &made.plans), 0);
    let mut others = made.changed("batch_size", json!(7));
    others.plans_name = "otherPlans".into();
    others.dataset_name = "Dataset099_Other".into();
    others.original_median_spacing_after_transp = vec![9.0; 3];
    // Nothing but CT normalisation looks at the intensities of all cases.
    for (_, properties) in &mut others.foreground_intensity_properties_per_channel {
        properties.mean += 1.0;
    }
    assert_eq!(made.make("second", &others), 0);
    let inode = |job| fs::metadata(made.file(job)).unwrap().ino();
    assert_eq!(inode("first"), inode("second"));
    assert_eq!(fs::metadata(made.file("first")).unwrap().nlink(), 3);
    assert_eq!(made.cached().len(), 6);
    // The segmentations stay where they are.
    assert!(!made.folder("first").join("gt_segmentations").exists());
}

#[test]
fn what_preprocessing_reads_makes_other_cases() {
    let made = Made::new();
    assert_eq!(made.make("first", &made.plans), 3);
    let ct = made.changed("normalization_schemes", json!(["CTNormalization"]));
    let mut other_ct = ct.clone();
    for (_, properties) in &mut other_ct.foreground_intensity_properties_per_channel {
        properties.mean += 1.0;
    }
    for (job, plans) in [
        ("spacing", made.changed("spacing", json!([1.5, 1.0, 1.0]))),
        ("mask", made.changed("use_mask_for_norm", json!([true]))),
        ("ct", ct),
        ("other ct", other_ct),
    ] {
        assert_eq!(made.make(job, &plans), 3, "{job}");
        assert_eq!(made.make(job, &plans), 0, "{job}");
    }
    let mean = |job: &str| {
        let folder = made.file(job);
        let case = MappedCase::open(folder.parent().unwrap(), "case_1").unwrap();
        case.data().mean().unwrap()
    };
    assert_ne!(mean("ct"), mean("other ct"));
}

#[test]
fn a_changed_file_is_refused_and_does_not_reach_other_jobs() {
    let mut made = Made::new();
    made.make("first", &made.plans);
    let before = fs::read(made.file("first")).unwrap();
    let folder = made.raw.folder.clone();
    write(&folder, "labelsTr/case_1.nii.gz", &Array3::ones((12, 14, 16)));
    let folder = made.folder("second");
    let work = Preprocessing::new(&made.raw, &made.plans, "3d_fullres", &folder).unwrap();
    let outcomes = work
        .shared(&made.cache, &made.inventory)
        .run(&[0, 1], 1, &Unobserved)
        .unwrap();
    assert_eq!(outcomes[0].result.as_ref().unwrap(), &Done::Cached);
    let error = outcomes[1].result.as_ref().unwrap_err().to_string();
    assert!(error.contains("case case_1: its files changed"), "{error}");

    // A job that takes the data as they are now gets other cases; the first keeps its own.
    made.inventory = Inventory::take(&made.raw, &Unobserved).unwrap();
    assert_eq!(made.make("second", &made.plans), 1);
    assert!(fs::read(made.file("first")).unwrap() == before);
    assert!(fs::read(made.file("second")).unwrap() != before);
}

#[test]
fn what_is_left_of_a_case_is_made_whole() {
    let made = Made::new();
    made.make("first", &made.plans);
    let keys: Vec<String> = {
        let folder = made.folder("first");
        let work = Preprocessing::new(&made.raw, &made.plans, "3d_fullres", &folder).unwrap();
        work.keys(&made.inventory)
    };
    assert!(keys.iter().all(|key| made.cache.holds(key)));
    // One lost its pickle, one is cut short, one is gone; the first job's own are whole.
    let file = |case: usize, ending: &str| made.cache.folder().join(format!("{}.{ending}", keys[case]));
    fs::remove_file(file(0, "pkl")).unwrap();
    fs::remove_file(file(1, "npz")).unwrap();
    fs::write(file(1, "npz"), "PK").unwrap();
    fs::remove_file(file(2, "npz")).unwrap();
    assert_eq!(made.make("second", &made.plans), 3);
    assert_eq!(made.make("third", &made.plans), 0);
    // A job whose worker died before the cache had its cases gives them on later.
    fs::remove_dir_all(made.cache.folder()).unwrap();
    assert_eq!(made.make("first", &made.plans), 0);
    assert_eq!(made.make("fourth", &made.plans), 0);
    assert_eq!(
        fs::metadata(made.file("fourth")).unwrap().ino(),
        fs::metadata(made.file("first")).unwrap().ino()
    );
}

#[test]
fn jobs_at_the_same_cases_at_once_do_not_hurt_each_other() {
    let made = Made::new();
    for _ in 0..5 {
        // Of one job, too: a task that was given out twice.
        std::thread::scope(|scope| {
            for job in ["first", "first", "second", "second"] {
                scope.spawn(|| made.make(job, &made.plans));
            }
        });
        for job in ["first", "second"] {
            let cases = made.file(job).parent().unwrap().to_owned();
            for case in 0..3 {
                MappedCase::open(&cases, &format!("case_{case}")).unwrap();
            }
            assert_eq!(fs::read_dir(&cases).unwrap().count(), 6);
            assert_eq!(fs::read_dir(partial_folder(&cases).unwrap()).unwrap().count(), 0);
        }
        assert_eq!(made.cached().len(), 6);
        assert_eq!(made.make("third", &made.plans), 0);
        for folder in [made.root.path().join("jobs"), made.cache.folder().to_owned()] {
            fs::remove_dir_all(folder).unwrap();
        }
    }
}
