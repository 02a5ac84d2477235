//! nnU-Net's results folder: `Dataset/Trainer__Plans__Configuration/fold_X/...`, written and opened.

use std::{
    fs,
    path::{Path, PathBuf},
};

use schemas::{job::FoldId, nnunet::Plans};
use serde_json::Value as Json;

use super::{Checkpoint, Logging, PthFile, write_pth};
use crate::{Error, Result, figures, network::Layout};

/// The checkpoint of the last epoch.
pub const CHECKPOINT_FINAL: &str = "checkpoint_final.pth";
/// The checkpoint of the best pseudo Dice.
pub const CHECKPOINT_BEST: &str = "checkpoint_best.pth";
/// The checkpoint of an unfinished training.
pub const CHECKPOINT_LATEST: &str = "checkpoint_latest.pth";

/// The name of a model's folder.
pub fn model_folder_name(trainer: &str, plans: &str, configuration: &str) -> String {
    format!("{trainer}__{plans}__{configuration}")
}

/// The name of a fold's folder.
pub fn fold_folder_name(fold: FoldId) -> String {
    format!("fold_{fold}")
}

/// A fold's folder of a results folder, being written.
#[derive(Clone, Debug)]
pub struct ResultsFolder {
    /// `Dataset/Trainer__Plans__Configuration`.
    pub model: PathBuf,
    /// `fold_X` in it.
    pub fold: PathBuf,
}

impl ResultsFolder {
    /// Makes `root/Dataset/Trainer__Plans__Configuration/fold_X`.
    pub fn create(
        root: &Path,
        dataset_name: &str,
        trainer: &str,
        plans_name: &str,
        configuration: &str,
        fold: FoldId,
    ) -> Result<ResultsFolder> {
        let model = root
            .join(dataset_name)
            .join(model_folder_name(trainer, plans_name, configuration));
        let fold = model.join(fold_folder_name(fold));
        fs::create_dir_all(&fold).map_err(Error::io(&fold))?;
        Ok(ResultsFolder { model, fold })
    }

    /// Writes plans.json, dataset.json and dataset_fingerprint.json into the model's folder, as texts.
    pub fn write_documents(&self, plans: &str, dataset: &str, fingerprint: &str) -> Result<()> {
        let documents = [
            ("plans.json", plans),
            ("dataset.json", dataset),
            ("dataset_fingerprint.json", fingerprint),
        ];
        documents
            .iter()
            .try_for_each(|(name, text)| write_text(&self.model.join(name), text))
    }

    /// Writes a checkpoint under `name`, such as [`CHECKPOINT_FINAL`].
    pub fn write_checkpoint(&self, name: &str, checkpoint: &Checkpoint, layout: &Layout) -> Result<PathBuf> {
        let path = self.fold.join(name);
        write_pth(checkpoint, layout, &path)?;
        Ok(path)
    }

    /// Writes progress.png. `seconds` tells whether the epochs' times are real; ordinals make no picture.
    pub fn write_progress(&self, logging: &Logging, seconds: bool) -> Result<()> {
        figures::write_progress(logging, seconds, &self.fold.join("progress.png"))
    }

    /// Writes the training log. `name` tells logs apart, such as a date or an ordinal.
    pub fn write_training_log(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.fold.join(format!("training_log_{name}.txt"));
        write_text(&path, text)?;
        Ok(path)
    }

    /// Writes debug.json: what the training was started with, for people.
    pub fn write_debug(&self, debug: &Json) -> Result<()> {
        let text = serde_json::to_string_pretty(debug).map_err(|e| Error::invalid("debug.json", e))?;
        write_text(&self.fold.join("debug.json"), &text)
    }
}

fn write_text(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(Error::io(path))
}

/// A trained model's folder, opened to predict with or to go on from.
#[derive(Clone, Debug)]
pub struct ModelFolder {
    /// The folder.
    pub folder: PathBuf,
    /// Its plans.json.
    pub plans: Plans,
    /// Its dataset.json, as written.
    pub dataset_json: Json,
}

impl ModelFolder {
    /// Opens `folder`: reads plans.json and dataset.json.
    ///
    /// # Errors
    /// Where it is no model folder, naming the file that is missing or wrong.
    pub fn open(folder: &Path) -> Result<ModelFolder> {
        let read = |name: &str| {
            let path = folder.join(name);
            match fs::read(&path) {
                Ok(bytes) => Ok((path, bytes)),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(Error::bad_file(
                    &path,
                    "missing; a model folder (Trainer__Plans__Configuration) holds plans.json, dataset.json and fold_X",
                )),
                Err(e) => Err(Error::io(&path)(e)),
            }
        };
        let (path, text) = read("plans.json")?;
        let plans = Plans::from_json(&text).map_err(|e| Error::bad_file(&path, e))?;
        let (path, text) = read("dataset.json")?;
        let dataset_json = serde_json::from_slice(&text).map_err(|e| Error::bad_file(&path, e))?;
        Ok(ModelFolder {
            folder: folder.to_owned(),
            plans,
            dataset_json,
        })
    }

    /// The folds that have a checkpoint of that name, in order, `all` last.
    pub fn folds(&self, checkpoint_name: &str) -> Result<Vec<FoldId>> {
        let mut folds = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(Error::io(&self.folder))? {
            let entry = entry.map_err(Error::io(&self.folder))?;
            let name = entry.file_name();
            let fold = match name.to_str().and_then(|n| n.strip_prefix("fold_")) {
                Some("all") => FoldId::All,
                Some(number) => match number.parse() {
                    Ok(number) => FoldId::Fold(number),
                    Err(_) => continue,
                },
                None => continue,
            };
            if entry.path().join(checkpoint_name).is_file() {
                folds.push(fold);
            }
        }
        folds.sort_by_key(|fold| match fold {
            FoldId::Fold(number) => (0, *number),
            FoldId::All => (1, 0),
        });
        Ok(folds)
    }

    /// Opens the checkpoint of a fold.
    ///
    /// # Errors
    /// Where there is none: the error lists the folds that have one.
    pub fn checkpoint(&self, fold: FoldId, checkpoint_name: &str) -> Result<PthFile> {
        let path = self.folder.join(fold_folder_name(fold)).join(checkpoint_name);
        if path.is_file() {
            return PthFile::open(&path);
        }
        let folds: Vec<String> = self
            .folds(checkpoint_name)?
            .iter()
            .map(FoldId::to_string)
            .collect();
        let there = if folds.is_empty() {
            "none".into()
        } else {
            folds.join(", ")
        };
        Err(Error::bad_file(
            path,
            format!("there is no fold {fold}; folds with a {checkpoint_name}: {there}"),
        ))
    }

    /// What a training can go on from, as nnU-Net chooses it: final, then latest, then best (run/run_training.py).
    pub fn resumable(&self, fold: FoldId) -> Option<PathBuf> {
        let folder = self.folder.join(fold_folder_name(fold));
        let names = [CHECKPOINT_FINAL, CHECKPOINT_LATEST, CHECKPOINT_BEST];
        names
            .iter()
            .map(|name| folder.join(name))
            .find(|path| path.is_file())
    }
}
