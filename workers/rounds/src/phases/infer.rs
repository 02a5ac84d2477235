//! infer: digest the model, segment a shard of the scans, zip the segmentations.

use std::{
    fs,
    path::{Path, PathBuf},
};

use nnunet::{
    dataset::{RawCase, cases_to_predict},
    image::Reader,
    predict::{Outcome, Predictor, Settings},
};
use pipeline::worker::TaskContext;
use schemas::{
    job::{FoldId, InferencePayload, Payload},
    nnunet::DatasetJson,
    task::{Failure, Task, TaskInput, TaskOutput},
};
use serde_json::json;

use super::{Watch, average::zip_folder, failure, model, shard, train_round::device_of, unknown_input};
use crate::{
    settings::DatasetSettings,
    site::{Site, write_whole},
};

/// Runs one task.
pub fn run(site: &Site, task: &Task, context: &TaskContext) -> Result<TaskOutput, Failure> {
    let Payload::Inference(payload) = &task.job.message.payload else {
        return Err(failure::bug("an inference task of a training job"));
    };
    let named = model::named(task)?;
    let model = model::folder(site, task, context, &named)?;
    let digest = model::digest(&model, &named)?;
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
