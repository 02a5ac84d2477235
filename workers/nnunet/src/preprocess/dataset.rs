//! The cases of a data set, preprocessed in parallel into nnU-Net's folder, each made once.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use schemas::nnunet::{Configuration, Plans};

use super::{
    cache::{CaseCache, key, recipe},
    case::{functions, preprocess_case, target_spacing},
    resample::Resampling,
    store::{stored_key, write_case},
    whole,
};
use crate::{
    Error, Result,
    dataset::{CaseDigest, Inventory, RawCase, RawDataset},
    image::{Image, Reader},
    progress::Observer,
};

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

/// The cases of a data set, and the folder that they are preprocessed into: nnUNet_preprocessed/`<Dataset>`.
#[derive(Clone, Debug)]
pub struct Preprocessing<'a> {
    raw: &'a RawDataset,
    plans: &'a Plans,
    configuration: Configuration,
    folder: &'a Path,
    stored: PathBuf,
    recipe: String,
    shared: Option<(&'a CaseCache, &'a Inventory)>,
}

impl<'a> Preprocessing<'a> {
    /// Preprocessing for one configuration of `plans`. Cases go to `folder`/`<data_identifier>`, copies of their
    /// segmentations to `folder`/gt_segmentations, where nnU-Net's validation looks for them.
    ///
    /// # Errors
    /// Plans without that configuration.
    pub fn new(
        raw: &'a RawDataset,
        plans: &'a Plans,
        configuration_name: &str,
        folder: &'a Path,
    ) -> Result<Self> {
        let configuration = plans
            .configuration(configuration_name)
            .map_err(|e| Error::invalid(format!("plans: {}", e.path), e.reason))?;
        functions(&configuration)?;
        Ok(Self {
            recipe: recipe(raw, plans, &configuration)?,
            stored: folder.join(&configuration.data_identifier),
            raw,
            plans,
            configuration,
            folder,
            shared: None,
        })
    }

    /// The same with cases that other folders share, and only of files that are as the inventory has them.
    /// Segmentations are not copied: whoever shares cases has them in the raw data set.
    pub fn shared(self, cache: &'a CaseCache, inventory: &'a Inventory) -> Self {
        Self {
            shared: Some((cache, inventory)),
            ..self
        }
    }

    /// The folder of the preprocessed cases.
    pub fn stored(&self) -> &Path {
        &self.stored
    }

    /// The keys of an inventory's cases in a [`CaseCache`], in its order. Reads no file.
    pub fn keys(&self, inventory: &Inventory) -> Vec<String> {
        let cases = inventory.cases.iter();
        cases.map(|case| key(&self.recipe, &case.digest)).collect()
    }

    /// Preprocesses `cases`, indices into [`RawDataset::cases`]. Cases that are there already, made from the
    /// same raw files by the same rules, are left alone. A raw file is read once to tell, and once more where
    /// there is work to do.
    ///
    /// `threads` cases are worked on at once, by as many threads together, which bounds the memory. A case that
    /// cannot be preprocessed does not keep the others from it. Outcomes are in the order of `cases`.
    ///
    /// # Errors
    /// An index without a case, a folder that holds another program's cases, [`Error::Stopped`].
    pub fn run(&self, cases: &[usize], threads: usize, observer: &dyn Observer) -> Result<Vec<CaseOutcome>> {
        let raw = self.raw;
        if let Some(&bad) = cases.iter().find(|&&ordinal| ordinal >= raw.cases.len()) {
            let (found, name) = (raw.cases.len(), &raw.name);
            return Err(Error::invalid(
                "cases",
                format!("{bad} is not one of the {found} cases of {name}"),
            ));
        }
        check_folder(&self.stored)?;
        // Within a case the work is rayon's: in a pool of its own it takes no more threads than it was given.
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.max(1))
            .build()
            .map_err(|e| Error::invalid("threads", e))?;
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
                        let result = pool
                            .install(|| self.preprocess(ordinal))
                            .map_err(|e| e.in_case(&raw.cases[ordinal].identifier));
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
        if outcomes.iter().any(|(_, outcome)| outcome.result.is_ok()) {
            whole::sync_folder(&self.stored)?;
        }
        outcomes.sort_by_key(|(place, _)| *place);
        Ok(outcomes.into_iter().map(|(_, outcome)| outcome).collect())
    }

    fn preprocess(&self, ordinal: usize) -> Result<Done> {
        let case = &self.raw.cases[ordinal];
        if case.label.is_none() {
            return Err(Error::bad_case(
                &case.identifier,
                "it has no segmentation to train on",
            ));
        }
        let (name, stored) = (&case.identifier, &self.stored);
        let key = match self.shared {
            Some((_, inventory)) => key(&self.recipe, &inventory.check_case(self.raw, ordinal)?.digest),
            None => {
                copy_ground_truth(self.raw, case, self.folder)?;
                key(&self.recipe, &CaseDigest::of(case, self.raw.reader)?.digest)
            }
        };
        let cache = self.shared.map(|(cache, _)| cache);
        if stored_key(stored, name).as_deref() == Some(&key) {
            // Whoever made it may have died before the cache had it.
            if let Some(cache) = cache.filter(|cache| !cache.holds(&key)) {
                cache.keep(&key, stored, name)?;
            }
            return Ok(Done::Cached);
        }
        if let Some(cache) = cache
            && cache.lend(&key, stored, name)?
        {
            return Ok(Done::Cached);
        }
        let (image, segmentation) = self.raw.read(case)?;
        let preprocessed = preprocess_case(
            &image,
            segmentation.as_ref(),
            self.plans,
            &self.configuration,
            &self.raw.dataset_json,
        )
        .map_err(|error| name_file(error, &image, case))?;
        drop((image, segmentation));
        let bytes = write_case(stored, name, &preprocessed, &key)?;
        if let Some(cache) = cache {
            cache.keep(&key, stored, name)?;
        }
        Ok(Done::Written { bytes })
    }
}

/// Preprocesses `cases` of a data set into a folder that shares nothing: see [`Preprocessing`].
///
/// # Errors
/// As of [`Preprocessing::new`] and [`Preprocessing::run`].
pub fn preprocess_dataset(
    raw: &RawDataset,
    cases: &[usize],
    plans: &Plans,
    configuration_name: &str,
    folder: &Path,
    threads: usize,
    observer: &dyn Observer,
) -> Result<Vec<CaseOutcome>> {
    Preprocessing::new(raw, plans, configuration_name, folder)?.run(cases, threads, observer)
}

/// Infinite voxels are named with their file, where they are why a case cannot be preprocessed.
fn name_file(error: Error, image: &Image, case: &RawCase) -> Error {
    let channel = image
        .data
        .outer_iter()
        .position(|channel| channel.iter().any(|value| value.is_infinite()));
    match (
        error,
        channel.and_then(|c| case.images.get(c).or(case.images.first())),
    ) {
        (Error::Invalid { what, reason }, Some(file)) => {
            Error::bad_file(file, format!("it holds infinite voxels ({what}: {reason})"))
        }
        (error, _) => error,
    }
}

/// Python nnU-Net asserts one kind of case in a folder, so ours must not be mixed with its own.
fn check_folder(stored: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(stored) else {
        return Ok(());
    };
    for entry in entries {
        let path = entry.map_err(Error::io(stored))?.path();
        let reason = match path.extension().and_then(|e| e.to_str()) {
            Some("npz" | "pkl") => continue,
            Some("b2nd") => {
                "Python nnU-Net preprocessed this folder, and its cases are not mixed with Rounds' own"
            }
            _ => "this folder holds what no preprocessing writes",
        };
        let folder = stored.display();
        return Err(Error::bad_file(
            path,
            format!("{reason}: {REMEDY} (or remove {folder} first)"),
        ));
    }
    Ok(())
}

/// What helps where a folder holds another program's cases.
pub const REMEDY: &str = "run `rounds nnunet preprocess` into another folder nnUNet_preprocessed";

/// Copies the segmentation of a case to `folder`/gt_segmentations, with the file that it needs beside itself. An
/// equal copy stays.
fn copy_ground_truth(raw: &RawDataset, case: &RawCase, folder: &Path) -> Result<()> {
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
    whole::write(target, name, |file, path| {
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
    // Plans that do not say how to resample fail at the first case.
    let shape = Resampling::of_data(configuration).map_or(shape, |data| {
        data.shape(shape, current, target_spacing(configuration, current))
    });
    let voxels: f64 = shape.iter().map(|&n| n as f64).product();
    let channels = configuration.normalization_schemes.len() as f64;
    // Voxels as f32 and i16. A class keeps 10,000 voxels or 1 %, of 12 bytes in the one file and 32 in the other.
    let classes = (voxels * 0.01 + 40_000.0).min(voxels) * 44.0;
    (voxels * (4.0 * channels + 2.0) + classes + 8192.0) as u64
}
