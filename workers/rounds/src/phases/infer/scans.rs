//! The scans that a job segments at a site: looked for once, and frozen.

use std::{
    fs,
    path::{Path, PathBuf},
};

use nnunet::dataset::{RawCase, RawDataset, cases_to_predict};
use schemas::{
    job::{FoldId, InferencePayload},
    nnunet::DatasetJson,
    task::{Failure, Task},
};
use serde::{Deserialize, Serialize};

use super::failure;
use crate::{
    exposure::pseudonyms::{self, Pseudonyms},
    job_folder::SCANS,
    settings::DatasetSettings,
    site::{Site, write_whole},
};

/// The scans that a job segments at a site. A case's place is its ordinal in all that leaves the site.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scans {
    scans: Vec<Scan>,
    /// The ending of the scans' and the segmentations' files.
    pub file_ending: String,
    /// The id of the job's pseudonyms, where the cases have them in place of their names.
    #[serde(default)]
    pub pseudonyms: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Scan {
    /// What the case is called in all that is made of it: its name, or its pseudonym.
    case: String,
    images: Vec<PathBuf>,
    /// The reference segmentation, where there is one.
    reference: Option<PathBuf>,
}

impl Scans {
    /// Looks for the scans and freezes the list, unless an earlier attempt did.
    pub fn freeze(
        site: &Site,
        task: &Task,
        payload: &InferencePayload,
        dataset: Option<&RawDataset>,
        model: &Path,
    ) -> Result<Self, Failure> {
        let file = site.job(task).join(SCANS);
        if !file.exists() {
            let found = Self::find(site, task, payload, dataset, model)?;
            let bytes = serde_json::to_vec(&found).map_err(|error| failure::bug(error.to_string()))?;
            write_whole(&file, &bytes).map_err(|error| failure::io("the list of scans", &file, &error))?;
        }
        Self::frozen(site, task)
    }

    /// The frozen list.
    pub fn frozen(site: &Site, task: &Task) -> Result<Self, Failure> {
        let file = site.job(task).join(SCANS);
        let bytes = fs::read(&file).map_err(|error| failure::io("the list of scans", &file, &error))?;
        schemas::parse(&bytes)
            .map_err(|error| Failure::fatal("bad-scans", format!("the list of scans: {error}")))
    }

    /// The cases, with their references as labels.
    pub fn cases(&self) -> Vec<RawCase> {
        let case = |scan: &Scan| RawCase {
            identifier: scan.case.clone(),
            images: scan.images.clone(),
            label: scan.reference.clone(),
        };
        self.scans.iter().map(case).collect()
    }

    /// Looks for them.
    pub fn find(
        site: &Site,
        task: &Task,
        payload: &InferencePayload,
        dataset: Option<&RawDataset>,
        model: &Path,
    ) -> Result<Self, Failure> {
        let (id, settings) = settings(site, task)?;
        let document = match dataset {
            Some(dataset) => dataset.dataset_json.clone(),
            None => read_document(&model.join("dataset.json"))?,
        };
        let folder = input_folder(settings, id, payload)?;
        let mut cases = cases_to_predict(&folder, &document).map_err(failure::of_error)?;
        if let Some(dataset) = &dataset {
            dataset.order_channels(&mut cases).map_err(failure::of_error)?;
        }
        let of_training = folder.file_name().is_some_and(|name| name == "imagesTr");
        if let (true, FoldId::Fold(_), Some(dataset)) = (of_training, payload.fold_id, dataset) {
            let split = site.split(dataset, payload.fold_id)?;
            cases.retain(|case| split.val.contains(&case.identifier));
        }
        if cases.is_empty() {
            let message = format!("payload.apheris_dataset_subdirs.{id}: no scans to segment in the folder");
            return Err(Failure::fatal("no-scans", message));
        }
        let file_ending = document.file_ending().to_owned();
        let references = references(&folder);
        let scan = |case: RawCase| {
            let reference = references.as_ref().map(|folder| {
                let name = format!("{}{file_ending}", case.identifier);
                folder.join(name)
            });
            Scan {
                case: case.identifier,
                images: case.images,
                reference: reference.filter(|file| file.is_file()),
            }
        };
        let found = Self {
            scans: cases.into_iter().map(scan).collect(),
            file_ending,
            pseudonyms: None,
        };
        if site.settings.policy.case_names {
            return Ok(found);
        }
        let root = &site.settings.root;
        found
            .under_pseudonyms(root, task)
            .map_err(|error| failure::io("the pseudonyms", root, &error))
    }

    /// The same scans under pseudonyms, in their order. Which is which is kept first.
    fn under_pseudonyms(self, root: &Path, task: &Task) -> std::io::Result<Self> {
        let names: Vec<&str> = self.scans.iter().map(|scan| &*scan.case).collect();
        let (id, order) = pseudonyms::order(root, &task.job, &names)?;
        let mut scans: Vec<Option<Scan>> = self.scans.into_iter().map(Some).collect();
        let mut kept = Pseudonyms {
            id: id.clone(),
            cases: Default::default(),
        };
        let mut ordered = Vec::with_capacity(scans.len());
        for (number, place) in order.into_iter().enumerate() {
            if let Some(mut scan) = scans[place].take() {
                let name = std::mem::replace(&mut scan.case, pseudonyms::pseudonym(number));
                kept.cases.insert(scan.case.clone(), name);
                ordered.push(scan);
            }
        }
        pseudonyms::keep(root, &task.key.job, &kept)?;
        Ok(Self {
            scans: ordered,
            pseudonyms: Some(id),
            ..self
        })
    }
}

/// The settings of the data set that the task's job uses here, and its name.
fn settings<'a>(site: &'a Site, task: &'a Task) -> Result<(&'a str, &'a DatasetSettings), Failure> {
    let id = task.dataset().unwrap_or_default();
    let missing = || {
        Failure::fatal(
            "no-dataset",
            format!("this worker's settings have no data set {id:?}"),
        )
    };
    Ok((id, site.settings.dataset(id).ok_or_else(missing)?))
}

/// The data set, where its folder has a dataset.json; else the model's says what the scans are.
pub fn dataset(site: &Site, task: &Task) -> Result<Option<RawDataset>, Failure> {
    let (_, settings) = settings(site, task)?;
    settings.described().then(|| site.dataset(task)).transpose()
}

fn read_document(file: &Path) -> Result<DatasetJson, Failure> {
    let text = nnunet::document::read(file).map_err(failure::of_error)?;
    schemas::parse(text.as_bytes()).map_err(|error| Failure::fatal("bad-dataset-json", error.to_string()))
}

/// The references of scans in `imagesX` are in `labelsX` beside it.
fn references(folder: &Path) -> Option<PathBuf> {
    let name = folder.file_name()?.to_str()?.strip_prefix("images")?;
    Some(folder.with_file_name(format!("labels{name}")))
}

/// The folder of scans: the named one, which must stay inside the data set; else imagesTs, else imagesTr.
fn input_folder(
    settings: &DatasetSettings,
    id: &str,
    payload: &InferencePayload,
) -> Result<PathBuf, Failure> {
    let Some(named) = payload.apheris_dataset_subdirs.get(id) else {
        let test = settings.path.join("imagesTs");
        let filled = fs::read_dir(&test).is_ok_and(|mut entries| entries.next().is_some());
        return Ok(if filled {
            test
        } else {
            settings.path.join("imagesTr")
        });
    };
    let field = format!("payload.apheris_dataset_subdirs.{id}");
    let folder = settings.path.join(named);
    let inside = match (folder.canonicalize(), settings.path.canonicalize()) {
        (Ok(folder), Ok(root)) => folder.starts_with(root),
        _ => {
            let message = format!("{field}: {named:?}: no such folder in the data set");
            return Err(Failure::fatal("no-folder", message));
        }
    };
    if !inside {
        let message = format!("{field}: {named:?} leads out of the data set");
        return Err(Failure::fatal("escaping-folder", message));
    }
    if !folder.is_dir() {
        return Err(Failure::fatal(
            "no-folder",
            format!("{field}: {named:?} is not a folder"),
        ));
    }
    Ok(folder)
}
