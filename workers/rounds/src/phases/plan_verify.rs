//! plan-verify: every site plans from the pooled documents, or reads the checkpoint that the job starts from; the
//! conductor compares what they planned and what they start from.

use nnunet::checkpoint::safetensors;
use pipeline::{exit::Kind, worker::TaskContext};
use schemas::task::{Failure, Task, TaskInput, TaskOutput};
use serde_json::Value;

use super::{initial, survey, training, unknown_input};
use crate::site::Site;

/// Runs one task.
pub fn run(site: &Site, task: &Task, context: &TaskContext) -> Result<TaskOutput, Failure> {
    let TaskInput::PlanVerify { pooled } = &task.input else {
        return Err(unknown_input(task));
    };
    let dataset = site.dataset(task)?;
    let checkpoint_digest = initial::checkpoint_digest(site, task, context)?;
    let planned = initial::planned(site, task, context, pooled, &dataset)?;
    let dry_run = task.job.message.federation.dry_run;
    if !dry_run {
        // Known now, before hours of preprocessing.
        planned.must_fit(site, task)?;
    }
    let split = site.split(&dataset, training(task)?.fold_id)?;
    let weights = initial::weights(site, task, context, &planned)?;
    let bytes = safetensors::to_bytes(&weights);
    let weights_digest = safetensors::digest(&bytes);
    let federation = &task.job.message.federation;
    // The orchestrator draws weights itself, but holds no checkpoint.
    let sent = if federation.norm_bound.is_some() && federation.initial_checkpoint.is_some() {
        Some(context.send(Kind::Weights, bytes)?)
    } else {
        None
    };

    let mut plans = planned.plans.to_value();
    if let Value::Object(fields) = &mut plans {
        // These two are each site's own.
        fields.shift_remove("dataset_name");
        fields.shift_remove("image_reader_writer");
    }
    let plans_digest = planned.digest.clone();
    let survey = match dry_run {
        true => Some(Box::new(survey::run(
            site, task, context, &dataset, planned, &weights,
        )?)),
        false => None,
    };
    Ok(TaskOutput::Plans {
        plans,
        plans_digest,
        weights_digest,
        checkpoint_digest,
        weights: sent,
        training_cases: count(split.train.len())?,
        validation_cases: count(split.val.len())?,
        survey,
    })
}

fn count(cases: usize) -> Result<u32, Failure> {
    match u32::try_from(cases) {
        Ok(cases) if cases > 0 => Ok(cases),
        _ => Err(Failure::fatal(
            "split",
            format!("{cases} cases in a part of the split: expected at least 1"),
        )),
    }
}
