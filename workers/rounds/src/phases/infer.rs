//! infer: digest the model, segment a shard of the scans, zip the segmentations.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use nnunet::{
    checkpoint::results::{ModelFolder, fold_folder_name},
    dataset::{RawCase, cases_to_predict},
    image::Reader,
    predict::{Outcome, Predictor, Settings},
};
use pipeline::worker::TaskContext;
use schemas::{
    job::{FoldId, InferencePayload, Payload},
    nnunet::DatasetJson,
    task::{ArtifactRef, Failure, Task, TaskInput, TaskOutput},
};
use serde_json::json;

use super::{Watch, average::zip_folder, failure, shard, train_round::device_of, unknown_input};
use crate::{
    settings::DatasetSettings,
    site::{Site, write_whole},
};

/// Runs one task.
pub fn run(site: &Site, task: &Task, context: &TaskContext) -> Result<TaskOutput, Failure> {
    let Payload::Inference(payload) = &task.job.message.payload else {
        return Err(failure::bug("an inference task of a training job"));
    };
    let model = model_folder(site, task, context, payload)?;
    let digest = model_digest(&model, payload)?;
    let scans = Scans::find(site, task, payload, &model)?;
    match &task.input {
        TaskInput::InspectModel {} => Ok(TaskOutput::Model {
            digest,
            cases: scans.cases.len() as u32,
        }),
        TaskInput::Predict { model_digest } => {
            must_be(&digest, model_digest)?;
            predict(site, task, context, payload, &model, &scans)
        }
        TaskInput::Collect { model_digest } => {
            must_be(&digest, model_digest)?;
            collect(site, task, context, &digest, &scans)
        }
        _ => Err(unknown_input(task)),
    }
}

fn must_be(digest: &str, expected: &str) -> Result<(), Failure> {
    if digest == expected {
        return Ok(());
    }
    Err(Failure::fatal(
        "model-differs",
        format!("the model here has digest {digest}, the job's {expected}"),
    ))
}

/// The scans that the job segments at this site.
struct Scans {
    cases: Vec<RawCase>,
    reader: Option<Reader>,
    file_ending: String,
}

impl Scans {
    fn find(site: &Site, task: &Task, payload: &InferencePayload, model: &Path) -> Result<Self, Failure> {
        let id = task.dataset().unwrap_or_default();
        let settings = site.settings.dataset(id).ok_or_else(|| {
            Failure::fatal(
                "no-dataset",
                format!("this worker's settings have no data set {id:?}"),
            )
        })?;
        let own = settings.path.join("dataset.json");
        let dataset = own.exists().then(|| site.dataset(task)).transpose()?;
        let document = match &dataset {
            Some(dataset) => dataset.dataset_json.clone(),
            None => read_document(&model.join("dataset.json"))?,
        };
        let folder = input_folder(settings, id, payload)?;
        let mut cases = cases_to_predict(&folder, &document).map_err(failure::of_error)?;
        if let Some(dataset) = &dataset {
            dataset.order_channels(&mut cases).map_err(failure::of_error)?;
        }
        let of_training = folder.file_name().is_some_and(|name| name == "imagesTr");
        if let (true, FoldId::Fold(_)) = (of_training, payload.fold_id) {
            let split = site.split(&site.dataset(task)?, payload.fold_id)?;
            cases.retain(|case| split.val.contains(&case.identifier));
        }
        if cases.is_empty() {
            let message = format!("payload.apheris_dataset_subdirs.{id}: no scans to segment in the folder");
            return Err(Failure::fatal("no-scans", message));
        }
        let file_ending = document.file_ending().to_owned();
        Ok(Self {
            cases,
            reader: dataset.map(|dataset| dataset.reader),
            file_ending,
        })
    }
}

fn read_document(file: &Path) -> Result<DatasetJson, Failure> {
    let text = nnunet::document::read(file).map_err(failure::of_error)?;
    schemas::parse(text.as_bytes()).map_err(|error| Failure::fatal("bad-dataset-json", error.to_string()))
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

/// The folder Trainer__Plans__Configuration: fetched from an earlier job, or inside a models root.
fn model_folder(
    site: &Site,
    task: &Task,
    context: &TaskContext,
    payload: &InferencePayload,
) -> Result<PathBuf, Failure> {
    if payload.model_job().is_some() {
        let archive = task
            .job
            .model
            .as_ref()
            .ok_or_else(|| failure::bug("payload.checkpoint_path: the job names no model archive"))?;
        return fetched_model(site, task, context, archive);
    }
    let given = Path::new(&payload.checkpoint_path);
    for root in &site.settings.models {
        let Ok(root) = root.canonicalize() else { continue };
        if let Ok(folder) = root.join(given).canonicalize()
            && folder.starts_with(&root)
            && folder.is_dir()
        {
            return Ok(folder);
        }
    }
    let message = "payload.checkpoint_path: no such folder inside a models root that this site allows";
    Err(Failure::fatal("no-model", message))
}

fn fetched_model(
    site: &Site,
    task: &Task,
    context: &TaskContext,
    archive: &ArtifactRef,
) -> Result<PathBuf, Failure> {
    let folder = site.job(task).join("model");
    if !folder.exists() {
        let root = site.job(task);
        let io = |error: std::io::Error| failure::io("the model", &root, &error);
        fs::create_dir_all(&root).map_err(io)?;
        let temporary = tempfile::tempdir_in(&root).map_err(io)?;
        let zip = temporary.path().join("results.zip");
        context.download_file(archive, &zip)?;
        let unpacked = temporary.path().join("model");
        unpack(&zip, &unpacked)?;
        // Another shard may have been faster; its model is the same.
        if let Err(error) = fs::rename(&unpacked, &folder)
            && !folder.exists()
        {
            return Err(io(error));
        }
    }
    let inner = |folder: &Path| {
        let mut entries = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
        entries.find(|path| path.is_dir())
    };
    inner(&folder).and_then(|dataset| inner(&dataset)).ok_or_else(|| {
        Failure::fatal(
            "bad-model",
            "the model archive holds no DatasetXYZ_name/Trainer__Plans__Configuration",
        )
    })
}

/// Unpacks a zip; a member that would leave the folder is an error.
pub fn unpack(archive: &Path, folder: &Path) -> Result<(), Failure> {
    let io = |error: std::io::Error| failure::io("an archive", archive, &error);
    let bad = |reason: String| Failure::fatal("bad-archive", reason);
    let mut zip =
        zip::ZipArchive::new(File::open(archive).map_err(io)?).map_err(|error| bad(error.to_string()))?;
    for index in 0..zip.len() {
        let mut member = zip.by_index(index).map_err(|error| bad(error.to_string()))?;
        let Some(inside) = member.enclosed_name() else {
            return Err(bad(format!("member {:?} leads out of the folder", member.name())));
        };
        let path = folder.join(inside);
        if member.is_dir() {
            continue;
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(io)?;
        }
        std::io::copy(&mut member, &mut File::create(&path).map_err(io)?).map_err(io)?;
    }
    Ok(())
}

/// Digest of checkpoint, plans and dataset.json.
fn model_digest(model: &Path, payload: &InferencePayload) -> Result<String, Failure> {
    let folder = ModelFolder::open(model).map_err(failure::of_error)?;
    let name = payload.checkpoint_name.as_str();
    let folds = folder.folds(name).map_err(failure::of_error)?;
    if !folds.contains(&payload.fold_id) {
        let there: Vec<String> = folds.iter().map(FoldId::to_string).collect();
        let message = format!(
            "payload.fold_id: the model has no {}/{name}; folds that have it: [{}]",
            fold_folder_name(payload.fold_id),
            there.join(", ")
        );
        return Err(Failure::fatal("no-fold", message));
    }
    let mut digests = String::new();
    let checkpoint = PathBuf::from(fold_folder_name(payload.fold_id)).join(name);
    for file in [
        checkpoint.as_path(),
        Path::new("plans.json"),
        Path::new("dataset.json"),
    ] {
        let path = model.join(file);
        let bytes = fs::read(&path).map_err(|error| failure::io("the model", &path, &error))?;
        digests.push_str(&schemas::sha256(&bytes));
    }
    Ok(schemas::sha256(digests.as_bytes()))
}

fn predict(
    site: &Site,
    task: &Task,
    context: &TaskContext,
    payload: &InferencePayload,
    model: &Path,
    scans: &Scans,
) -> Result<TaskOutput, Failure> {
    let device = device_of(site, task)?;
    nnunet::device::set_threads(site.settings.threads);
    let mut predictor = Predictor::open(
        model,
        &[payload.fold_id],
        payload.checkpoint_name.as_str(),
        device,
        Settings::default(),
    )
    .map_err(failure::of_error)?;
    if let Some(reader) = scans.reader {
        predictor = predictor.with_reader(reader);
    }
    let ordinals = shard(task, scans.cases.len());
    let first = ordinals.start;
    let folder = site.job(task).join("segmentations");
    let outcomes = predictor
        .predict_cases(
            &scans.cases[ordinals],
            &folder,
            Some(&scans.file_ending),
            false,
            &Watch(context),
        )
        .map_err(failure::of_error)?;
    let mut done = 0;
    let mut failures = Vec::new();
    for (index, outcome) in outcomes.into_iter().enumerate() {
        match outcome.outcome {
            Outcome::Written | Outcome::Skipped => done += 1,
            Outcome::Failed(error) => {
                let case = Some((first + index) as u32);
                failures.push(Failure {
                    case,
                    ..failure::of_error(error)
                });
            }
        }
    }
    let file = failures_file(site, task, task.key.shard);
    let bytes = serde_json::to_vec(&failures).map_err(|error| failure::bug(error.to_string()))?;
    write_whole(&file, &bytes).map_err(|error| failure::io("the failures", &file, &error))?;
    Ok(TaskOutput::Predicted { done, failures })
}

fn failures_file(site: &Site, task: &Task, shard: u32) -> PathBuf {
    site.job(task).join("failures").join(format!("{shard}.json"))
}

fn collect(
    site: &Site,
    task: &Task,
    context: &TaskContext,
    model_digest: &str,
    scans: &Scans,
) -> Result<TaskOutput, Failure> {
    let folder = site.job(task).join("segmentations");
    let io = |error: std::io::Error| failure::io("the segmentations", &folder, &error);
    fs::create_dir_all(&folder).map_err(io)?;
    let mut failures: Vec<Failure> = Vec::new();
    for entry in fs::read_dir(site.job(task).join("failures"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let bytes = fs::read(entry.path()).map_err(io)?;
        failures.extend(
            schemas::parse::<Vec<Failure>>(&bytes)
                .map_err(|error| Failure::fatal("bad-failures", error.to_string()))?,
        );
    }
    failures.sort_by_key(|failure| failure.case);
    let listed: Vec<_> = scans
        .cases
        .iter()
        .enumerate()
        .map(|(ordinal, case)| {
            let file = format!("{}{}", case.identifier, scans.file_ending);
            let failure = failures.iter().find(|failure| failure.case == Some(ordinal as u32));
            json!({ "case": case.identifier, "file": file, "done": folder.join(&file).exists(), "failure": failure })
        })
        .collect();
    let done = listed.iter().filter(|entry| entry["done"] == true).count();
    let lost = |entry: &&serde_json::Value| entry["done"] != true && entry["failure"].is_null();
    let lost = listed.iter().filter(lost).count();
    if lost > 0 {
        let message = format!("{lost} segmentations that were made are gone from the job's folder");
        return Err(Failure::fatal("segmentations-lost", message));
    }
    let summary = json!({
        "job": task.key.job,
        "site": task.key.site,
        "dataset": task.dataset(),
        "payload": task.job.message.payload,
        "model_digest": model_digest,
        "cases": listed,
    });
    let text = serde_json::to_string_pretty(&summary).map_err(|error| failure::bug(error.to_string()))?;
    write_whole(&folder.join("inference.json"), text.as_bytes()).map_err(io)?;
    let archive = site.job(task).join("segmentations.zip");
    zip_folder(&folder, task.dataset().unwrap_or("segmentations"), &archive).map_err(io)?;
    let archive = context.upload_file(&archive)?;
    Ok(TaskOutput::Collected {
        archive,
        cases: done as u32,
        failures,
    })
}
