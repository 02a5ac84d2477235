//! Zips a site's segmentations, with what made them, what failed and how they did.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use nnunet::{
    checkpoint::results::ModelFolder,
    dataset::RawCase,
    evaluate::{CaseScores, Scores, Summary},
    predict::{Precision, Settings},
};
use pipeline::{exit::Kind, worker::TaskContext};
use schemas::{
    job::InferencePayload,
    nnunet::DatasetJson,
    task::{ArtifactRef, Failure, Picture, Task, TaskOutput},
};
use serde_json::{Value, json};

use super::{Model, Scans, Segmented, failure, model, pictures};
use crate::{
    job_folder::{SEGMENTATIONS, SEGMENTED, entries},
    phases::{average::zip_folder, device_of, document, send_json},
    site::{Site, write_whole},
};

pub fn run(
    site: &Site,
    task: &Task,
    context: &TaskContext,
    payload: &InferencePayload,
    model: &Model,
) -> Result<TaskOutput, Failure> {
    let scans = Scans::frozen(site, task)?;
    let folder = site.job(task).join(SEGMENTATIONS);
    let io = |error: std::io::Error| failure::io("the segmentations", &folder, &error);
    let segmented = of_all_shards(&site.job(task).join(SEGMENTED)).map_err(io)??;
    let failures = by_case(&segmented.failures);
    let unscored = by_case(&segmented.unscored);

    let mut listed = Vec::new();
    let (mut done, mut lost) = (0, 0);
    for (ordinal, case) in scans.cases().iter().enumerate() {
        let ordinal = ordinal as u32;
        let file = format!("{}{}", case.identifier, scans.file_ending);
        let failed = failures.get(&ordinal);
        let there = folder.join(&file).exists();
        done += u32::from(there);
        lost += u32::from(!there && failed.is_none());
        let mut entry = json!({ "case": case.identifier, "ordinal": ordinal, "file": file, "done": there });
        if let Some(failure) = failed {
            entry["failure"] = json!(failure);
        }
        if let Some(failure) = unscored.get(&ordinal) {
            entry["not_scored"] = json!(failure);
        }
        listed.push(entry);
    }
    if lost > 0 {
        let message = format!("{lost} segmentations that were made are gone from the job's folder");
        return Err(Failure::fatal("segmentations-lost", message));
    }

    let opened = ModelFolder::open(&model.folder).map_err(failure::of_error)?;
    let mut summary = json!({
        "job": task.key.job,
        "site": task.key.site,
        "dataset": task.dataset(),
        "payload": payload,
        "plan": plan(site, task, payload, model, &opened)?,
        "cases": listed,
    });
    let scores = match segmented.scores.is_empty() {
        true => None,
        false => {
            let (scores, own) = scores(&opened, &segmented, &scans)?;
            summary["metrics"] = metrics(&own);
            own.write(&folder.join("summary.json"))
                .map_err(failure::of_error)?;
            Some(scores)
        }
    };
    if let Some(id) = &scans.pseudonyms {
        summary["pseudonyms"] = json!(id);
    }
    for (name, text) in [
        ("plans.json", document(&plans_that_leave(task, &opened)?)?),
        ("dataset.json", document(&described(&opened)?.travelling())?),
        ("inference.json", document(&summary)?),
    ] {
        write_whole(&folder.join(name), text.as_bytes()).map_err(io)?;
    }

    let pictures = draw(site, task, context, model, &segmented, &scans, &folder)?;

    let archive = site.job(task).join("segmentations.zip");
    zip_folder(&folder, task.dataset().unwrap_or("segmentations"), &archive).map_err(io)?;
    let scores: Option<ArtifactRef> = scores
        .map(|scores| send_json(context, Kind::Scores, &scores))
        .transpose()?;
    Ok(TaskOutput::Collected {
        archive: context.send_file(Kind::Segmentations, &archive)?,
        cases: done,
        failures: segmented.failures,
        scores,
        pictures,
    })
}

/// Draws as many cases as the job asks for, where the site allows it, into the folder that is zipped.
fn draw(
    site: &Site,
    task: &Task,
    context: &TaskContext,
    model: &Model,
    segmented: &Segmented,
    scans: &Scans,
    folder: &Path,
) -> Result<Vec<Picture>, Failure> {
    let most = task.job.message.federation.pictures as usize;
    let (true, Some(dataset)) = (site.settings.pictures && most > 0, &model.dataset) else {
        return Ok(Vec::new());
    };
    let segmentation = |case: &RawCase| folder.join(format!("{}{}", case.identifier, scans.file_ending));
    let drawn = pictures::draw(
        &scans.cases(),
        &segmented.scores,
        most,
        dataset,
        segmentation,
        &folder.join("pictures"),
    );
    let drawn = drawn.map_err(|error| failure::io("the pictures", folder, &error))?;
    let upload = |(case, file): (u32, PathBuf)| {
        let image = context.send_file(Kind::Picture, &file)?;
        Ok(Picture { case, image })
    };
    drawn.into_iter().map(upload).collect()
}

/// What became of all cases, by ordinal.
fn of_all_shards(folder: &Path) -> std::io::Result<Result<Segmented, Failure>> {
    let mut all = Segmented::default();
    let mut files: Vec<PathBuf> = entries(folder)?;
    files.retain(|file| file.extension().is_some_and(|ending| ending == "json"));
    for file in files {
        match schemas::parse::<Segmented>(&fs::read(file)?) {
            Ok(part) => {
                all.failures.extend(part.failures);
                all.scores.extend(part.scores);
                all.unscored.extend(part.unscored);
            }
            Err(error) => return Ok(Err(Failure::fatal("bad-segmented", error.to_string()))),
        }
    }
    all.failures.sort_by_key(|failure| failure.case);
    all.scores.sort_by_key(|scored| scored.case);
    Ok(Ok(all))
}

fn by_case(failures: &[Failure]) -> BTreeMap<u32, &Failure> {
    failures
        .iter()
        .filter_map(|failure| Some((failure.case?, failure)))
        .collect()
}

/// What was run: with plans.json and dataset.json all that the segmentations depend on but the weights, which the
/// digest names.
fn plan(
    site: &Site,
    task: &Task,
    payload: &InferencePayload,
    model: &Model,
    opened: &ModelFolder,
) -> Result<Value, Failure> {
    let settings = Settings::default();
    let read = || {
        let checkpoint = opened.checkpoint(payload.fold_id, payload.checkpoint_name.as_str())?;
        Ok((
            checkpoint.configuration()?.to_owned(),
            checkpoint.trainer_name()?.to_owned(),
            checkpoint.mirror_axes()?,
        ))
    };
    let (configuration, trainer, mirror_axes) = read().map_err(failure::of_error)?;
    Ok(json!({
        "model_digest": model.digest,
        "plans": opened.plans.plans_name,
        "configuration": configuration,
        "trainer": trainer,
        "fold": payload.fold_id,
        "checkpoint": payload.checkpoint_name,
        "mirror_axes": mirror_axes,
        "step_size": settings.tile_step_size,
        "gaussian": settings.use_gaussian,
        "precision": match settings.precision {
            Precision::Half => "half",
            Precision::Single => "single",
        },
        "device": device_of(site, task)?,
        "threads": site.settings.threads,
        "version": env!("CARGO_PKG_VERSION"),
    }))
}

/// The model's dataset.json.
fn described(opened: &ModelFolder) -> Result<DatasetJson, Failure> {
    serde_json::from_value(opened.dataset_json.clone())
        .map_err(|error| Failure::fatal("bad-dataset-json", error.to_string()))
}

/// The model's plans. Those of a model of the site's own do not name the data set that it was planned for.
fn plans_that_leave(task: &Task, opened: &ModelFolder) -> Result<Value, Failure> {
    let mut plans = opened.plans.to_value();
    if let (None, Value::Object(fields)) = (model::named(task)?.job(), &mut plans) {
        fields.insert("dataset_name".to_owned(), json!(task.dataset()));
    }
    Ok(plans)
}

/// What leaves the site, and the site's own summary, which names its files.
fn scores(opened: &ModelFolder, segmented: &Segmented, scans: &Scans) -> Result<(Scores, Summary), Failure> {
    let document = described(opened)?;
    let scores = Scores {
        labels: document.foreground(),
        cases: segmented.scores.clone(),
    };
    scores.check().map_err(failure::of_error)?;
    let cases = scans.cases();
    let named = |case: u32| {
        let name = cases.get(case as usize).map(|case| case.identifier.as_str());
        format!("{}{}", name.unwrap_or_default(), scans.file_ending)
    };
    let own = Summary {
        labels: scores.labels.clone(),
        cases: segmented
            .scores
            .iter()
            .map(|scored| CaseScores {
                reference_file: named(scored.case),
                prediction_file: named(scored.case),
                counts: scored.counts.clone(),
            })
            .collect(),
    };
    Ok((scores, own))
}

/// The means of a summary, and how many cases they are of.
fn metrics(summary: &Summary) -> Value {
    let mut means = summary.means_json();
    means["cases"] = json!(summary.cases.len());
    means
}
