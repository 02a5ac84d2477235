//! The predictions of all folds' validation cases in one folder, and their scores
//! (evaluation/accumulate_cv_results.py).

use std::{
    fs,
    path::{Path, PathBuf},
};

use schemas::nnunet::{DatasetJson, Plans};

use crate::{
    Error, Result,
    checkpoint::results::ModelFolder,
    document,
    evaluate::{Scores, Summary, evaluate_files, files_ending_in, pairs},
    image::Reader,
    postprocess::{can_be_determined_pooled, determine_pooled, write_documents},
    progress::Observer,
};

/// What sites counted of their validation cases: a list of site and scores.
const SCORES: &str = "scores.json";

/// A trained model whose folds were validated.
#[derive(Clone, Debug)]
pub struct CrossValidated {
    /// Its folder, `Trainer__Plans__Configuration`.
    pub folder: PathBuf,
    /// Its plans.
    pub plans: Plans,
    /// Its dataset.json.
    pub dataset: DatasetJson,
    /// The reader of the plans.
    pub reader: Reader,
    folds: Vec<u32>,
}

impl CrossValidated {
    /// Opens the model in `folder`.
    ///
    /// # Errors
    /// No model folder, or a fold that has no `validation`: the error names it.
    pub fn open(folder: &Path, folds: &[u32]) -> Result<Self> {
        let model = ModelFolder::open(folder)?;
        let document = folder.join("dataset.json");
        let dataset = serde_json::from_value(model.dataset_json)
            .map_err(|e| Error::bad_file(&document, e))
            .and_then(|map| DatasetJson::from_document(map).map_err(|e| Error::bad_file(&document, e)))?;
        let opened = Self {
            folder: folder.to_owned(),
            reader: Reader::by_name(&model.plans.image_reader_writer)?,
            plans: model.plans,
            dataset,
            folds: folds.to_vec(),
        };
        match opened.validations().into_iter().find(|folder| !folder.is_dir()) {
            Some(missing) => Err(Error::bad_file(
                missing,
                "missing: this fold was not trained and validated",
            )),
            None => Ok(opened),
        }
    }

    /// The folders with the predictions of each fold.
    pub fn validations(&self) -> Vec<PathBuf> {
        let folder = |fold| self.folder.join(format!("fold_{fold}")).join("validation");
        self.folds.iter().map(folder).collect()
    }

    /// `crossval_results_folds_0_1_...` of the model, where nnU-Net puts them.
    pub fn results_folder(&self) -> PathBuf {
        self.folder
            .join(format!("crossval_results_folds_{}", folds_name(&self.folds)))
    }

    /// Copies the predictions of all folds into `merged`, with plans.json and dataset.json, and scores them against
    /// the files of the same names in `references`; summary.json too goes to `merged`. With `overwrite` the folder is
    /// made anew, else what is there stays.
    ///
    /// # Errors
    /// Two folds have a case of the same name, a reference is missing, or a file cannot be read or written.
    pub fn accumulate(
        &self,
        merged: &Path,
        references: &Path,
        overwrite: bool,
        observer: &dyn Observer,
    ) -> Result<Summary> {
        let ending = self.dataset.file_ending();
        let mut files: Vec<(PathBuf, String)> = Vec::new();
        for folder in self.validations() {
            for name in files_ending_in(&folder, ending)? {
                if let Some((other, _)) = files.iter().find(|(_, there)| *there == name) {
                    let reason = format!("another fold has this case too: {}", other.display());
                    return Err(Error::bad_file(folder.join(name), reason));
                }
                files.push((folder.clone(), name));
            }
        }
        if overwrite && merged.is_dir() {
            fs::remove_dir_all(merged).map_err(Error::io(merged))?;
        }
        fs::create_dir_all(merged).map_err(Error::io(merged))?;
        for name in ["dataset.json", "plans.json"] {
            document::write(&merged.join(name), &document::read(&self.folder.join(name))?)?;
        }
        for (folder, name) in &files {
            let (from, to) = (folder.join(name), merged.join(name));
            if to.is_file() {
                continue;
            }
            if let Some(companion) = self.reader.companion_of_segmentation(&from)
                && companion.is_file()
                && let Some(name) = companion.file_name()
            {
                copy_whole(&companion, &merged.join(name))?;
            }
            copy_whole(&from, &to)?;
        }
        let pairs = pairs(references, merged, ending, true)?;
        let (labels, ignore) = (self.dataset.foreground(), self.dataset.ignore_label());
        let summary = evaluate_files(&pairs, self.reader, &labels, ignore, observer)?;
        summary.write(&merged.join("summary.json"))?;
        Ok(summary)
    }

    /// The counts of each fold's validation, where all folds were validated by counts: those of a federation are, whose
    /// segmentations stay at the sites. A site comes once for each fold.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn scores(&self) -> Result<Option<Vec<(String, Scores)>>> {
        let mut all = Vec::new();
        for folder in self.validations() {
            match read_scores(&folder)? {
                Some(sites) => all.extend(sites),
                None => return Ok(None),
            }
        }
        Ok(Some(all))
    }

    /// As [`CrossValidated::accumulate`], of what sites counted: writes summary.json and the post-processing.
    ///
    /// # Errors
    /// As of [`write_scores`].
    pub fn accumulate_scores(&self, merged: &Path, sites: &[(String, Scores)]) -> Result<Summary> {
        write_scores(merged, sites, &self.dataset)?;
        for name in ["dataset.json", "plans.json"] {
            document::write(&merged.join(name), &document::read(&self.folder.join(name))?)?;
        }
        Scores::summary(sites)
    }
}

/// What sites counted, from a folder of [`write_scores`]; none where there is none.
///
/// # Errors
/// A file that cannot be read.
pub fn read_scores(folder: &Path) -> Result<Option<Vec<(String, Scores)>>> {
    let file = folder.join(SCORES);
    if !file.is_file() {
        return Ok(None);
    }
    serde_json::from_str(&document::read(&file)?).map_err(|e| Error::bad_file(&file, e))
}

/// Writes summary.json, postprocessing.pkl and .json of several sites' cases together, as nnU-Net's commands do, and
/// scores.json, from which [`CrossValidated::scores`] takes them. Where regions are too many to decide on by counts,
/// there is no post-processing.
///
/// # Errors
/// Scores that do not fit each other or the data set, or a file that cannot be written.
pub fn write_scores(folder: &Path, sites: &[(String, Scores)], dataset: &DatasetJson) -> Result<()> {
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let path = folder.join(SCORES);
    let text = serde_json::to_string(sites).map_err(|e| Error::bad_file(&path, e))?;
    document::write(&path, &text)?;
    Scores::summary(sites)?.write(&folder.join("summary.json"))?;
    match can_be_determined_pooled(dataset) {
        true => write_documents(&determine_pooled(sites, dataset)?, folder),
        false => Ok(()),
    }
}

/// Folds as they stand in the names of folders: `0_1_2`.
pub fn folds_name(folds: &[u32]) -> String {
    let folds: Vec<String> = folds.iter().map(u32::to_string).collect();
    folds.join("_")
}

/// Copies a file so that it is whole or absent.
fn copy_whole(from: &Path, to: &Path) -> Result<()> {
    let name = to.file_name().unwrap_or_default().to_string_lossy();
    let partial = to.with_file_name(format!(".{name}.partial"));
    fs::copy(from, &partial).map_err(Error::io(&partial))?;
    fs::rename(&partial, to).map_err(Error::io(to))
}
