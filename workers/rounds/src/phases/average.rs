//! average: the average of a round, and at the end the results folder that plain nnU-Net loads.

pub mod combine;

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
};

use nnunet::{
    checkpoint::{Checkpoint, InitArgs, LoggedEpoch, Logging, OptimiserGroup, results::ResultsFolder},
    cross_validation::write_scores,
    evaluate::Scores,
    train::TrainerVariant,
    update::Update,
};
use pipeline::worker::TaskContext;
use schemas::{
    event::History,
    task::{ArtifactRef, Failure, Pooled, SiteScores, Task, TaskInput, TaskOutput, Weights},
};
use serde_json::Value;

use super::{
    document, failure, fetch_json,
    planned::{Planned, dataset_name},
    training, unknown_input,
};

/// Runs one task. `scratch` is a folder for temporaries.
pub fn run(scratch: &Path, task: &Task, context: &TaskContext) -> Result<TaskOutput, Failure> {
    let folder =
        tempfile::tempdir_in(scratch).map_err(|error| failure::io("a temporary", scratch, &error))?;
    match &task.input {
        TaskInput::Average {
            updates,
            base,
            unmasking,
        } => match unmasking {
            Some(unmasking) => combine::unmasked(folder.path(), task, updates, unmasking, context),
            None => combine::run(folder.path(), task, updates, base.as_ref(), context),
        },
        TaskInput::Results {
            pooled,
            kept_plans,
            plans_digest,
            last,
            best,
            history,
            validations,
        } => {
            let wanted = Wanted {
                pooled,
                kept_plans: kept_plans.as_ref(),
                plans_digest,
                last,
                best,
                history,
                validations,
            };
            results(folder.path(), task, context, &wanted)
        }
        _ => Err(unknown_input(task)),
    }
}

struct Wanted<'a> {
    pooled: &'a Pooled,
    kept_plans: Option<&'a Value>,
    plans_digest: &'a str,
    last: &'a Weights,
    best: &'a Weights,
    history: &'a History,
    validations: &'a [SiteScores],
}

fn results(
    folder: &Path,
    task: &Task,
    context: &TaskContext,
    wanted: &Wanted,
) -> Result<TaskOutput, Failure> {
    let payload = training(task)?;
    let name = dataset_name(task, payload);
    // Cases travel as this reader's files; each site's own reader stays at the site.
    let kept = wanted.kept_plans;
    let planned = Planned::make(context, task, wanted.pooled, kept, &name, "SimpleITKIO")?;
    planned.must_be(wanted.plans_digest)?;
    let layout = planned.layout()?;
    let plans = planned.plans.to_value();
    let dataset_json =
        serde_json::to_value(&planned.dataset_json).map_err(|error| failure::bug(error.to_string()))?;
    let configuration = payload.model_configuration.as_str();
    let logging = logging(wanted.history);
    let trainer = TrainerVariant::by_name(&payload.trainer_name).map_err(failure::of_error)?;
    let mirror_axes = trainer.mirroring.axes(layout.dimensions());

    let out = ResultsFolder::create(
        folder,
        &name,
        &payload.trainer_name,
        &planned.plans.plans_name,
        configuration,
        payload.fold_id,
    )
    .map_err(failure::of_error)?;
    let documents = out.write_documents(
        &planned.plans.to_json(),
        &document(&planned.dataset_json)?,
        &document(&planned.fingerprint)?,
    );
    documents.map_err(failure::of_error)?;

    for (file, weights) in [
        ("checkpoint_final.pth", wanted.last),
        ("checkpoint_best.pth", wanted.best),
    ] {
        let mut logging = logging.clone();
        let mut epochs = logging.epochs();
        if file == "checkpoint_best.pth"
            && let Some(score) = wanted
                .history
                .scores
                .iter()
                .find(|score| score.weights == weights.digest())
        {
            // The best weights were there before the epochs of the round that scored them.
            epochs = wanted
                .history
                .epochs
                .iter()
                .filter(|epoch| epoch.round < score.round)
                .count();
            logging.truncate(epochs);
        }
        let Weights::Average { artifact } = weights else {
            return Err(failure::bug("a results folder of weights that are no average"));
        };
        let Update { weights, momentum } = fetch_average(context, &planned, artifact)?;
        let checkpoint = Checkpoint {
            weights,
            momentum,
            scaler: None,
            optimiser: OptimiserGroup::of(trainer, logging.lrs.last().copied()),
            best_ema: wanted
                .history
                .scores
                .iter()
                .filter_map(|score| score.ema_dice)
                .reduce(f64::max),
            current_epoch: epochs,
            logging,
            init_args: InitArgs {
                plans: plans.clone(),
                configuration: configuration.to_owned(),
                fold: payload.fold_id,
                dataset_json: dataset_json.clone(),
            },
            trainer_name: payload.trainer_name.clone(),
            mirror_axes: mirror_axes.clone(),
        };
        out.write_checkpoint(file, &checkpoint, &layout)
            .map_err(failure::of_error)?;
    }
    out.write_progress(&logging, false).map_err(failure::of_error)?;
    out.write_training_log("federated", &training_log(task, wanted.history))
        .map_err(failure::of_error)?;
    let debug = serde_json::to_value(&task.job).map_err(|error| failure::bug(error.to_string()))?;
    out.write_debug(&debug).map_err(failure::of_error)?;

    if !wanted.validations.is_empty() {
        write_validation(
            &out.fold.join("validation"),
            context,
            &planned,
            wanted.validations,
        )?;
    }

    let archive = folder.join("results.zip");
    zip_folder(&folder.join(&name), &name, &archive)
        .map_err(|error| failure::io("the results archive", &archive, &error))?;
    Ok(TaskOutput::Results {
        archive: context.upload_file(&archive)?,
    })
}

/// summary.json and the post-processing of all sites' validation cases, where nnU-Net leaves them, and the counts that
/// they are of, for a cross-validation.
fn write_validation(
    folder: &Path,
    context: &TaskContext,
    planned: &Planned,
    parts: &[SiteScores],
) -> Result<(), Failure> {
    let mut sites: Vec<(String, Scores)> = Vec::new();
    for part in parts {
        let scores: Scores = fetch_json(context, &part.scores, "a site's scores")?;
        match sites.last_mut() {
            Some((site, before)) if *site == part.site && before.labels == scores.labels => {
                before.cases.extend(scores.cases);
            }
            _ => sites.push((part.site.clone(), scores)),
        }
    }
    write_scores(folder, &sites, &planned.dataset_json).map_err(failure::of_error)
}

/// An average, with its momentum where that is averaged.
pub fn fetch_average(
    context: &TaskContext,
    planned: &Planned,
    artifact: &ArtifactRef,
) -> Result<Update, Failure> {
    let bytes = context.download(artifact)?;
    Update::from_bytes(&bytes, "the global weights", &planned.layout()?).map_err(failure::of_error)
}

/// nnU-Net's log. Entry e is epoch e; its Dice is that of the weights after the round it belongs to.
/// Times are ordinals: the real ones are in the job's record.
fn logging(history: &History) -> Logging {
    let mut logging = Logging::default();
    for epoch in &history.epochs {
        let score = history.scores.iter().find(|score| score.round == epoch.round + 1);
        let dice = score.map_or_else(Vec::new, |score| {
            score.dice.iter().map(|dice| dice.unwrap_or(f64::NAN)).collect()
        });
        logging.record(LoggedEpoch {
            dice_per_class_or_region: dice,
            train_loss: epoch.train_loss,
            val_loss: score.map_or(f64::NAN, |score| score.loss),
            lr: epoch.learning_rate,
            start: f64::from(epoch.epoch),
            end: f64::from(epoch.epoch) + 1.0,
        });
    }
    logging
}

fn training_log(task: &Task, history: &History) -> String {
    use std::fmt::Write;
    let federation = &task.job.message.federation;
    let mut text = String::new();
    let sites: Vec<String> = task
        .job
        .members
        .iter()
        .map(|member| format!("{} ({}, {} cases)", member.site, member.dataset, member.cases))
        .collect();
    let _ = writeln!(
        text,
        "Federated training, job {}\nSites: {}",
        task.job.job,
        sites.join(", ")
    );
    let _ = writeln!(
        text,
        "Iterations of an epoch: {} training, {} validation; seed {}",
        federation.iterations_per_epoch, federation.val_iterations_per_epoch, task.job.seed
    );
    for warning in &task.job.warnings {
        let _ = writeln!(text, "Warning: {warning}");
    }
    for epoch in &history.epochs {
        let _ = writeln!(text, "\nEpoch {} (round {})", epoch.epoch, epoch.round);
        let _ = writeln!(text, "Current learning rate: {}", epoch.learning_rate);
        let _ = writeln!(text, "train_loss {:.4}", epoch.train_loss);
        for (site, loss) in &epoch.sites {
            let _ = writeln!(text, "train_loss at {site} {loss:.4}");
        }
        let last_of_round = history.epochs.iter().rfind(|other| other.round == epoch.round);
        if last_of_round == Some(epoch)
            && let Some(score) = history.scores.iter().find(|score| score.round == epoch.round + 1)
        {
            let label = if score.on_training_cases {
                "Pseudo dice on training cases"
            } else {
                "Pseudo dice"
            };
            if !score.without.is_empty() {
                let _ = writeln!(text, "scored without {}", score.without.join(", "));
            }
            let dice: Vec<String> = score
                .dice
                .iter()
                .map(|dice| dice.map_or("nan".into(), |dice| format!("{dice:.4}")))
                .collect();
            let _ = writeln!(text, "val_loss {:.4}\n{label} [{}]", score.loss, dice.join(", "));
        }
    }
    text
}

/// Zips a folder, stored members in name order without times: the same bytes each time. What starts with a dot was
/// left by a program that died, and stays out.
pub fn zip_folder(folder: &Path, prefix: &str, archive: &Path) -> std::io::Result<()> {
    let mut files: Vec<PathBuf> = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next)? {
            let entry = entry?;
            let path = entry.path();
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            if path.is_dir() {
                folders.push(path)
            } else {
                files.push(path)
            }
        }
    }
    files.sort();
    let mut zip = zip::ZipWriter::new(File::create(archive)?);
    let options = zip::write::SimpleFileOptions::default()
        .compression_method(zip::CompressionMethod::Stored)
        .large_file(true);
    for file in files {
        let inside = file.strip_prefix(folder).unwrap_or(&file);
        zip.start_file(format!("{prefix}/{}", inside.display()), options)?;
        std::io::copy(&mut File::open(&file)?, &mut zip)?;
    }
    zip.finish()?.flush()
}
