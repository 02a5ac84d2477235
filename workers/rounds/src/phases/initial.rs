//! What a training starts from at a site: drawn weights, or those of the checkpoint that the job names.

use nnunet::{
    checkpoint::results::ModelFolder,
    dataset::{Descriptors, RawDataset},
    network::StateDict,
};
use pipeline::worker::TaskContext;
use schemas::{
    job::InitialPlans,
    nnunet::DatasetJson,
    task::{Failure, Pooled, Task},
};
use serde_json::Value;

use super::{failure, model, planned::Planned};
use crate::site::Site;

/// The plans at a site: the checkpoint's where the job keeps them, else made from the pooled documents.
pub fn planned(
    site: &Site,
    task: &Task,
    context: &TaskContext,
    pooled: &Pooled,
    dataset: &RawDataset,
) -> Result<Planned, Failure> {
    let (name, reader) = (&dataset.name, dataset.reader.name());
    let kept = kept_plans(site, task, context)?;
    Planned::make(context, task, pooled, kept.as_ref(), name, reader)
}

fn kept_plans(site: &Site, task: &Task, context: &TaskContext) -> Result<Option<Value>, Failure> {
    if !task.job.keeps_plans() {
        return Ok(None);
    }
    if let Some(earlier) = &task.job.continues {
        return Ok(earlier.kept_plans.clone());
    }
    let model = opened(site, task, context)?;
    Ok(Some(model.plans.to_value()))
}

/// The weights before the first round.
///
/// # Errors
/// A checkpoint that does not fit the network: the key and both shapes are named.
pub fn weights(
    site: &Site,
    task: &Task,
    context: &TaskContext,
    planned: &Planned,
) -> Result<StateDict, Failure> {
    let Some(checkpoint) = &task.job.message.federation.initial_checkpoint else {
        return planned.drawn_weights(task);
    };
    let named = model::named(task)?;
    let model = opened(site, task, context)?;
    let file = model
        .checkpoint(named.fold_id, named.checkpoint_name.as_str())
        .map_err(of_checkpoint)?;
    match checkpoint.plans {
        InitialPlans::Remake => file
            .pretrained(&planned.drawn_weights(task)?)
            .map_err(of_checkpoint),
        InitialPlans::Keep => {
            same_labels(&model, &planned.dataset_json)?;
            file.weights(&planned.layout()?).map_err(of_checkpoint)
        }
    }
}

/// Digest of the checkpoint that the job starts from; none where it draws its weights.
pub fn checkpoint_digest(site: &Site, task: &Task, context: &TaskContext) -> Result<Option<String>, Failure> {
    if task.job.message.federation.initial_checkpoint.is_none() {
        return Ok(None);
    }
    let named = model::named(task)?;
    let folder = model::folder(site, task, context, &named)?;
    model::digest(&folder, &named).map(Some)
}

fn opened(site: &Site, task: &Task, context: &TaskContext) -> Result<ModelFolder, Failure> {
    let folder = model::folder(site, task, context, &model::named(task)?)?;
    ModelFolder::open(&folder).map_err(of_checkpoint)
}

/// Weights that are taken whole, heads included, mean what they meant.
fn same_labels(model: &ModelFolder, pooled: &DatasetJson) -> Result<(), Failure> {
    let text = model.dataset_json.to_string();
    let own = schemas::parse::<DatasetJson>(text.as_bytes()).map_err(|error| {
        let message = format!("federation.initial_checkpoint: the model's dataset.json: {error}");
        Failure::fatal("bad-dataset-json", message)
    })?;
    let descriptors = |site, dataset_json| Descriptors { site, dataset_json };
    descriptors("the model", &own)
        .must_equal(&descriptors("the federation", pooled))
        .map_err(of_checkpoint)
}

fn of_checkpoint(error: nnunet::Error) -> Failure {
    let failure = failure::of_error(error);
    Failure {
        message: format!("federation.initial_checkpoint: {}", failure.message),
        ..failure
    }
}
