//! average pass 0: the updates of a round become the next global weights.

use std::path::{Path, PathBuf};

use nnunet::{
    average::{Contribution, Rule, average},
    checkpoint::safetensors,
};
use pipeline::worker::TaskContext;
use schemas::{
    job::{Algorithm, Federation},
    task::{self, Base, Bounded, Failure, Task, TaskOutput, Weights},
};

use crate::phases::{
    Watch, failure,
    planned::{Planned, dataset_name},
    training,
};

/// Averages `updates` by the job's algorithm. `folder` is for temporaries.
pub fn run(
    folder: &Path,
    task: &Task,
    updates: &[task::Update],
    base: Option<&Base>,
    context: &TaskContext,
) -> Result<TaskOutput, Failure> {
    let rule = rule(&task.job.message.federation, || {
        fetch_base(folder, task, base, context)
    })?;
    let mut contributions = Vec::with_capacity(updates.len());
    for (index, update) in updates.iter().enumerate() {
        let weights = folder.join(format!("{index}.safetensors"));
        context.download_update(&update.artifact, &weights)?;
        contributions.push(Contribution {
            site: update.site.clone(),
            weights,
            weight: update.weight,
        });
    }
    let output = folder.join("average.safetensors");
    let averaged = average(&contributions, &rule, &output, &Watch(context)).map_err(|error| match error {
        nnunet::Error::Invalid { what, reason } => Failure::fatal("bad-update", format!("{what}: {reason}")),
        other => failure::of_error(other),
    })?;
    for far in &averaged.bounded {
        tracing::warn!(
            job = task.key.job,
            round = task.key.round,
            "site {}: its update of length {:.4} counts with {:.4}",
            far.site,
            far.norm,
            far.bound
        );
    }
    let bounded = averaged.bounded.into_iter().map(|far| Bounded {
        site: far.site,
        norm: far.norm,
        bound: far.bound,
    });
    Ok(TaskOutput::Averaged {
        global: context.upload_file(&output)?,
        bounded: bounded.collect(),
    })
}

/// How a job combines updates. `base` makes a file of the weights that the round started from, for the rule that needs
/// them.
pub fn rule(
    federation: &Federation,
    base: impl FnOnce() -> Result<PathBuf, Failure>,
) -> Result<Rule, Failure> {
    Ok(
        match (federation.algorithm, federation.norm_bound, federation.trim) {
            (Algorithm::Median, ..) => Rule::Median,
            (Algorithm::TrimmedMean, _, trim) => Rule::TrimmedMean {
                trim: trim.ok_or_else(|| failure::bug("a trimmed mean without federation.trim"))? as usize,
            },
            (Algorithm::Fedavg | Algorithm::Fedprox, Some(norm_bound), _) => Rule::BoundedMean {
                norm_bound,
                base: base()?,
            },
            (Algorithm::Fedavg | Algorithm::Fedprox, None, _) => Rule::Mean,
        },
    )
}

/// The weights that the round started from, as a file in `folder`.
fn fetch_base(
    folder: &Path,
    task: &Task,
    base: Option<&Base>,
    context: &TaskContext,
) -> Result<PathBuf, Failure> {
    let base = base.ok_or_else(|| failure::bug("a bounded average without what the round started from"))?;
    let file = folder.join("base.safetensors");
    match &base.weights {
        Weights::Average { artifact } => context.download_update(artifact, &file)?,
        Weights::Initial { digest } => {
            let name = dataset_name(task, training(task)?);
            let planned = Planned::make(context, task, &base.pooled, None, &name, "SimpleITKIO")?;
            planned.must_be(&base.plans_digest)?;
            let made = safetensors::write(&planned.drawn_weights(task)?, &file).map_err(failure::of_error)?;
            if made != *digest {
                let reason = format!("the initial weights made here have digest {made}, the job's {digest}");
                return Err(Failure::fatal("weights-differ", reason));
            }
            context.keep_weights(digest, &file)?;
        }
    }
    Ok(file)
}
