//! What a file promises is not what is allocated: the peak of memory, measured.

#[path = "hostile/scans.rs"]
mod scans;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    fs::{self, File},
    path::Path,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use half::f16;
use ndarray::Array4;
use nnunet::{
    dataset::RawDataset,
    image::{Geometry, Reader},
    plan::{Options, plan_experiment},
    predict::{Export, Logits},
    preprocess::{CaseProperties, MappedCase, preprocess_dataset},
    progress::Unobserved,
    splits,
};
use scans::{Scan, gzip};
use schemas::nnunet::{DatasetJson, Plans};
use serde_json::json;

/// Counts what is allocated.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(NOW.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const MIB: usize = 1 << 20;

/// The most that `work` held at once, in bytes.
fn peak<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = NOW.load(Relaxed);
    PEAK.store(before, Relaxed);
    let result = work();
    (result, PEAK.load(Relaxed) - before)
}

fn images_stay_small(folder: &Path) {
    let mut promise = Scan::waves([2, 8, 8], 0.0);
    promise.shape = [2000, 2000, 2500];
    let mut bomb = Scan::waves([2, 8, 8], 0.0).bytes();
    bomb.resize(200 * MIB, 0);
    let (plain, compressed, exploding) = (
        folder.join("promise.nii"),
        folder.join("promise.nii.gz"),
        folder.join("bomb.nii.gz"),
    );
    promise.write(&plain);
    promise.write(&compressed);
    fs::write(&exploding, gzip(&bomb)).unwrap();
    drop(bomb);
    assert!(exploding.metadata().unwrap().len() < 4 * MIB as u64);
    for (file, refused) in [(plain, true), (compressed, true), (exploding, false)] {
        let (read, most) = peak(|| Reader::SimpleItk.read_images(std::slice::from_ref(&file)));
        assert_eq!(read.is_err(), refused, "{}", file.display());
        assert!(most < 8 * MIB, "{}: {most} bytes", file.display());
    }
}

fn documents_stay_small(folder: &Path) {
    for name in ["dataset.json", "splits_final.json"] {
        // Sparse: ten gigabytes that take no room.
        let file = File::create(folder.join(name)).unwrap();
        file.set_len(10 << 30).unwrap();
    }
    let (opened, most) = peak(|| RawDataset::open(folder));
    let error = opened.unwrap_err().to_string();
    assert!(
        error.contains("dataset.json") && error.contains("MiB") && most < MIB,
        "{error}, {most} bytes"
    );
    let (read, most) = peak(|| splits::read(&folder.join("splits_final.json")));
    assert!(read.is_err() && most < MIB, "{most} bytes");
}

fn stored_cases_stay_small(folder: &Path) {
    // A header of an .npy that promises far more than the archive holds, and an archive that promises entries.
    fs::write(folder.join("a.npz"), lying_archive()).unwrap();
    let (opened, most) = peak(|| MappedCase::open(folder, "a"));
    assert!(opened.is_err() && most < MIB, "{most} bytes");
}

/// An end record of a zip that promises 65534 entries in a directory that is not there.
fn lying_archive() -> Vec<u8> {
    let mut bytes = vec![0u8; 100];
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    bytes.extend(0xfffeu16.to_le_bytes());
    bytes.extend(0xfffeu16.to_le_bytes());
    bytes.extend(90u32.to_le_bytes());
    bytes.extend(10u32.to_le_bytes());
    bytes.extend(0u16.to_le_bytes());
    bytes
}

fn a_spacing_of_nonsense_stays_small(folder: &Path) {
    fs::write(
        folder.join("dataset.json"),
        r#"{"channel_names": {"0": "MRI"}, "labels": {"background": 0, "a": 1}, "numTraining": 1, "file_ending": ".nii.gz"}"#,
    )
    .unwrap();
    for (name, mut scan) in [
        ("imagesTr/a_0000.nii.gz", Scan::waves([2, 8, 8], 0.0)),
        ("labelsTr/a.nii.gz", Scan::blocks([2, 8, 8], 2)),
    ] {
        scan.spacing = [300.0; 3];
        scan.write(&folder.join(name));
    }
    let raw = RawDataset::open(folder).unwrap();
    let fingerprint = serde_json::from_value(json!({
        "foreground_intensity_properties_per_channel": {"0": {"max": 9.0, "mean": 2.0, "median": 2.0, "min": 0.0,
            "percentile_00_5": 0.5, "percentile_99_5": 8.0, "std": 1.5}},
        "median_relative_size_after_cropping": 1.0, "shapes_after_crop": [[64, 64, 64]], "spacings": [[1.0, 1.0, 1.0]],
    }))
    .unwrap();
    let plans = plan_experiment(
        &fingerprint,
        &raw.dataset_json,
        &Options::default(),
        &raw.name,
        "SimpleITKIO",
    )
    .unwrap();
    let (outcomes, most) = peak(|| {
        preprocess_dataset(
            &raw,
            &[0],
            &plans,
            "3d_fullres",
            &folder.join("out"),
            1,
            &Unobserved,
        )
        .unwrap()
    });
    let error = outcomes[0].result.as_ref().unwrap_err().to_string();
    assert!(
        error.contains("case a") && error.contains("would become"),
        "{error}"
    );
    assert!(most < 8 * MIB, "{most} bytes");
}

/// Logits become labels class by class: the peak follows the scan's volume and not the number of classes.
fn export_holds_one_class(_: &Path) {
    const CLASSES: usize = 60;
    const SHAPE: [usize; 3] = [48, 80, 96];
    let labels: serde_json::Map<_, _> = (0..CLASSES)
        .map(|class| match class {
            0 => ("background".to_owned(), json!(0)),
            class => (class.to_string(), json!(class)),
        })
        .collect();
    let dataset = DatasetJson::parse(
        &json!({"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 9, "file_ending": ".nii.gz"})
            .to_string(),
    )
    .unwrap();
    let fingerprint = serde_json::from_value(json!({
        "foreground_intensity_properties_per_channel": {"0": {"max": 9.0, "mean": 2.0, "median": 2.0, "min": 0.0,
            "percentile_00_5": 0.5, "percentile_99_5": 8.0, "std": 1.5}},
        "median_relative_size_after_cropping": 1.0, "shapes_after_crop": [[24, 40, 48]], "spacings": [[2.0, 2.0, 2.0]],
    }))
    .unwrap();
    let plans: Plans = plan_experiment(
        &fingerprint,
        &dataset,
        &Options::default(),
        "Dataset001_A",
        "SimpleITKIO",
    )
    .unwrap();
    let configuration = plans.configuration("3d_fullres").unwrap();
    let export = Export {
        plans: &plans,
        configuration: &configuration,
        dataset: &dataset,
    };
    let properties = CaseProperties {
        geometry: Geometry::SpacingOnly { spacing: [1.0; 3] },
        spacing: [1.0; 3],
        shape_before_cropping: SHAPE,
        bbox_used_for_cropping: SHAPE.map(|n| [0, n]),
        shape_after_cropping_and_before_resampling: SHAPE,
        class_locations: Vec::new(),
    };
    let logits = Array4::from_shape_fn((CLASSES, 24, 40, 48), |(class, z, y, x)| {
        f16::from_f32(((class * 31 + z * 7 + y * 5 + x * 3) % 113) as f32 / 10.0)
    });
    let logits = Logits::Half(logits);
    let (labels, most) = peak(|| export.segmentation(&logits, &properties).unwrap());
    assert!(labels.iter().any(|&label| usize::from(label) == CLASSES - 1));
    let voxels: usize = SHAPE.iter().product();
    println!(
        "export of {CLASSES} classes: {:.1} bytes a voxel at most",
        most as f64 / voxels as f64
    );
    assert!(
        most < 32 * voxels,
        "{most} bytes for {voxels} voxels; all classes take {}",
        2 * CLASSES * voxels
    );
}

// One test, because all share the allocator.
#[test]
fn memory_follows_what_files_hold() {
    for check in [
        images_stay_small as fn(&Path),
        documents_stay_small,
        stored_cases_stay_small,
        a_spacing_of_nonsense_stays_small,
        export_holds_one_class,
    ] {
        let folder = tempfile::tempdir().unwrap();
        check(folder.path());
    }
}
