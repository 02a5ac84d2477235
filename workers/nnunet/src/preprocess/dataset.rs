//! The cases of a data set, preprocessed in parallel into nnU-Net's folder, as a cache.

use std::{
    fs,
    io::Write,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use schemas::nnunet::{Configuration, DatasetJson, Plans};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    case::{preprocess_case, target_spacing},
    resample::resampled_shape,
    store::{stored_key, whole_file, write_case},
};
use crate::{
    Error, Result,
    dataset::{RawCase, RawDataset},
    image::Reader,
    progress::Observer,
};

/// Raised whenever preprocessing gives other bytes, so that cached cases are made again.
const ALGORITHM_VERSION: u32 = 1;

/// What became of one case.
#[derive(Debug)]
pub struct CaseOutcome {
    /// The case, as an index into [`RawDataset::cases`].
    pub ordinal: usize,
    /// What was done, or why it could not be.
    pub result: Result<Done>,
}

/// What was done for a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// It was preprocessed.
    Written {
        /// The size of its files.
        bytes: u64,
    },
    /// It was there already, made from the same files by the same rules.
    Cached,
}

/// Preprocesses `cases` (indices into [`RawDataset::cases`]) into
/// `folder`/`<data_identifier>`, where `folder` is nnUNet_preprocessed/`<Dataset>`, and copies their
/// segmentations to `folder`/gt_segmentations. Cases that are there already, made from the same raw files by
/// the same rules, are left alone.
///
/// `threads` cases are worked on at once, which bounds the memory. A case that cannot be preprocessed does not
/// keep the others from it. Outcomes are in the order of `cases`.
///
/// # Errors
/// Plans without that configuration, an index without a case, a folder that holds another program's cases,
/// [`Error::Stopped`].
pub fn preprocess_dataset(
    raw: &RawDataset,
    cases: &[usize],
    plans: &Plans,
    configuration_name: &str,
    folder: &Path,
    threads: usize,
    observer: &dyn Observer,
) -> Result<Vec<CaseOutcome>> {
    let configuration = plans
        .configuration(configuration_name)
        .map_err(|e| Error::invalid(format!("plans: {}", e.path), e.reason))?;
    if let Some(&bad) = cases.iter().find(|&&ordinal| ordinal >= raw.cases.len()) {
        return Err(Error::invalid(
            "cases",
            format!(
                "{bad} is not one of the {} cases of {}",
                raw.cases.len(),
                raw.name
            ),
        ));
    }
    let stored = folder.join(&configuration.data_identifier);
    check_folder(&stored)?;

    let work = Work {
        raw,
        plans,
        configuration: &configuration,
        folder,
        stored: &stored,
    };
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let outcomes: Mutex<Vec<(usize, CaseOutcome)>> = Mutex::new(Vec::with_capacity(cases.len()));
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, cases.len().max(1)) {
            scope.spawn(|| {
                loop {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    let Some(&ordinal) = cases.get(place) else { break };
                    if observer.stop_requested() {
                        break;
                    }
                    let case = &raw.cases[ordinal];
                    let result = work.preprocess(case).map_err(|e| name_case(e, case));
                    let mut outcomes = outcomes.lock().unwrap_or_else(|e| e.into_inner());
                    outcomes.push((place, CaseOutcome { ordinal, result }));
                    drop(outcomes);
                    observer.advanced("cases", done.fetch_add(1, Ordering::Relaxed) + 1, cases.len());
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().unwrap_or_else(|e| e.into_inner());
    if outcomes.len() < cases.len() {
        return Err(Error::Stopped);
    }
    outcomes.sort_by_key(|(place, _)| *place);
    Ok(outcomes.into_iter().map(|(_, outcome)| outcome).collect())
}

/// What is the same for all cases.
struct Work<'a> {
    raw: &'a RawDataset,
    plans: &'a Plans,
    configuration: &'a Configuration,
    folder: &'a Path,
    stored: &'a Path,
}

impl Work<'_> {
    fn preprocess(&self, case: &RawCase) -> Result<Done> {
        let Some(label) = &case.label else {
            return Err(Error::bad_case(
                &case.identifier,
                "it has no segmentation to train on",
            ));
        };
        let key = cache_key(
            &file_digests(case, self.raw)?,
            self.plans,
            self.configuration,
            &self.raw.dataset_json,
            self.raw,
        )?;
        copy_ground_truth(self.raw, case, self.folder)?;
        if stored_key(self.stored, &case.identifier).as_deref() == Some(&key) {
            return Ok(Done::Cached);
        }
        let image = self.raw.reader.read_images(&case.images)?;
        let segmentation = self.raw.reader.read_segmentation(label)?;
        let preprocessed = preprocess_case(
            &image,
            Some(&segmentation),
            self.plans,
            self.configuration,
            &self.raw.dataset_json,
        )?;
        drop((image, segmentation));
        let bytes = write_case(self.stored, &case.identifier, &preprocessed, &key)?;
        Ok(Done::Written { bytes })
    }
}

/// Errors of a case's content carry its identifier.
fn name_case(error: Error, case: &RawCase) -> Error {
    match error {
        Error::Invalid { what, reason } => Error::bad_case(&case.identifier, format!("{what}: {reason}")),
        other => other,
    }
}

/// The sha256 of each raw file of a case.
fn file_digests(case: &RawCase, raw: &RawDataset) -> Result<Vec<String>> {
    let digest = |path: &std::path::PathBuf| {
        let mut hasher = Sha256::new();
        let mut file = fs::File::open(path).map_err(Error::io(path))?;
        std::io::copy(&mut file, &mut hasher).map_err(Error::io(path))?;
        Ok(hex::encode(hasher.finalize()))
    };
    case.files_with_companions(raw.reader)
        .iter()
        .map(digest)
        .collect()
}

/// What a preprocessed case is a function of, as a sha256: the raw files, the data set's descriptors, the part
/// of the plans that preprocessing reads, and the version of the algorithm.
fn cache_key(
    files: &[String],
    plans: &Plans,
    configuration: &Configuration,
    dataset_json: &DatasetJson,
    raw: &RawDataset,
) -> Result<String> {
    let labels: Vec<Value> = dataset_json
        .labels()
        .iter()
        .map(|(name, label)| json!([name, label]))
        .collect();
    let intensities: Vec<Value> = plans
        .foreground_intensity_properties_per_channel
        .iter()
        .map(|(channel, p)| json!([channel, p]))
        .collect();
    let made_from = json!({
        "algorithm_version": ALGORITHM_VERSION,
        "files": files,
        "reader": raw.reader.name(),
        "labels": labels,
        "transpose_forward": plans.transpose_forward,
        "intensities": intensities,
        "preprocessor": configuration.preprocessor_name,
        "spacing": configuration.spacing,
        "normalization_schemes": configuration.normalization_schemes,
        "use_mask_for_norm": configuration.use_mask_for_norm,
        "resampling": [
            configuration.resampling_fn_data,
            configuration.resampling_fn_data_kwargs,
            configuration.resampling_fn_seg,
            configuration.resampling_fn_seg_kwargs,
        ],
    });
    let text = serde_json::to_vec(&made_from).map_err(|e| Error::invalid("plans", e))?;
    Ok(hex::encode(Sha256::digest(text)))
}

/// Python nnU-Net asserts one kind of case in a folder, so ours must not be mixed with its own.
fn check_folder(stored: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(stored) else {
        return Ok(());
    };
    for entry in entries {
        let path = entry.map_err(Error::io(stored))?.path();
        if !matches!(path.extension().and_then(|e| e.to_str()), Some("npz" | "pkl")) {
            return Err(Error::bad_file(
                path,
                "the folder holds another program's cases; give an empty folder or remove them",
            ));
        }
    }
    Ok(())
}

/// Copies the segmentation of a case to `folder`/gt_segmentations, where nnU-Net's validation looks for it, with
/// the file that it needs beside itself. An equal copy stays.
///
/// # Errors
/// A file that cannot be read or written.
pub fn copy_ground_truth(raw: &RawDataset, case: &RawCase, folder: &Path) -> Result<()> {
    let Some(label) = &case.label else { return Ok(()) };
    let target = folder.join("gt_segmentations");
    if let Some(companion) = raw.reader.companion_of_segmentation(label) {
        // A spacing is found by the segmentation's name, voxels by the one that the header gives.
        let name = match raw.reader {
            Reader::Tiff3D => format!("{}.json", case.identifier),
            _ => companion
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
        };
        copy(&companion, &target, &name)?;
    }
    let name = format!("{}{}", case.identifier, raw.dataset_json.file_ending());
    copy(label, &target, &name)
}

fn copy(file: &Path, target: &Path, name: &str) -> Result<()> {
    let content = fs::read(file).map_err(Error::io(file))?;
    if fs::read(target.join(name)).is_ok_and(|there| there == content) {
        return Ok(());
    }
    whole_file(target, name, |file, path| {
        file.write_all(&content).map_err(Error::io(path))
    })
}

/// About how many bytes a preprocessed case takes on disk. `shape` is the cropped (or, to be safe, the whole)
/// shape and `spacing` the spacing in mm, both (z, y, x) and not transposed.
pub fn estimated_bytes(
    shape: [usize; 3],
    spacing: [f64; 3],
    plans: &Plans,
    configuration: &Configuration,
) -> u64 {
    let current = plans.transpose_forward.map(|axis| spacing[axis]);
    let shape = plans.transpose_forward.map(|axis| shape[axis]);
    let voxels: f64 = resampled_shape(shape, current, target_spacing(configuration, current))
        .iter()
        .map(|&n| n as f64)
        .product();
    let channels = configuration.normalization_schemes.len() as f64;
    // Voxels as f32 and i16. A class keeps 10,000 voxels or 1 %, of 12 bytes in the one file and 32 in the other.
    let classes = (voxels * 0.01 + 40_000.0) * 44.0;
    (voxels * (4.0 * channels + 2.0) + classes) as u64 + 8192
}
