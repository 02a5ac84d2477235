//! average pass 0: the updates of a round become the next global weights.

use std::path::{Path, PathBuf};

use nnunet::{
    average::{Contribution, Rule, average},
    checkpoint::safetensors,
    progress::Observer,
    secure_sum,
};
use pipeline::worker::TaskContext;
use schemas::{
    event::Accepted,
    job::{Algorithm, Federation},
    masking::Unmasking,
    task::{self, Base, Bounded, Failure, Task, TaskOutput, Weights},
};

use crate::phases::{
    Watch, failure, masking,
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
    let base = match base {
        Some(base) => Some(fetch_base(folder, task, base, context)?),
        None => None,
    };
    let rule = rule(&task.job.message.federation, base)?;
    let contributions = fetch(folder, updates, context)?;
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
        bounded: bounded.collect(),
        global: context.upload_digested(&output, averaged.digest)?,
    })
}

/// Sums masked `updates`, and takes the masks off. `folder` is for temporaries.
pub fn unmasked(
    folder: &Path,
    task: &Task,
    updates: &[task::Update],
    unmasking: &Unmasking,
    context: &TaskContext,
) -> Result<TaskOutput, Failure> {
    let contributions = fetch(folder, updates, context)?;
    let output = folder.join("average.safetensors");
    let digest = sum(
        &task.job,
        task.key.round,
        &contributions,
        unmasking,
        &output,
        &Watch(context),
    )?;
    Ok(TaskOutput::Averaged {
        global: context.upload_digested(&output, digest)?,
        bounded: Vec::new(),
    })
}

/// The mean of masked updates, without the masks, in the file `output`. Returns the digest of its bytes.
pub fn sum(
    job: &Accepted,
    round: u32,
    contributions: &[Contribution],
    unmasking: &Unmasking,
    output: &Path,
    observer: &dyn Observer,
) -> Result<String, Failure> {
    let group = masking::group(job, round, &unmasking.keys)?;
    let revealed = masking::revealed(unmasking)?;
    let sharers = &unmasking.sharers;
    secure_sum::sum(contributions, &group, sharers, &revealed, output, observer).map_err(masking::of_error)
}

/// The updates as files in `folder`.
fn fetch(
    folder: &Path,
    updates: &[task::Update],
    context: &TaskContext,
) -> Result<Vec<Contribution>, Failure> {
    let contribution = |(index, update): (usize, &task::Update)| Contribution {
        site: update.site.clone(),
        weights: folder.join(format!("{index}.safetensors")),
        weight: update.weight,
    };
    let contributions: Vec<_> = updates.iter().enumerate().map(contribution).collect();
    let pairs = updates.iter().zip(&contributions);
    let files: Vec<_> = pairs
        .map(|(update, to)| (&update.artifact, &*to.weights))
        .collect();
    context.download_updates(&files)?;
    Ok(contributions)
}

/// How a job combines updates. `base`: the weights that the round started from, where it bounds how far updates lie from
/// them.
pub fn rule(federation: &Federation, base: Option<PathBuf>) -> Result<Rule, Failure> {
    Ok(
        match (federation.algorithm, federation.norm_bound, federation.trim) {
            (Algorithm::Median, ..) => Rule::Median,
            (Algorithm::TrimmedMean, _, trim) => Rule::TrimmedMean {
                trim: trim.ok_or_else(|| failure::bug("a trimmed mean without federation.trim"))? as usize,
            },
            (Algorithm::Fedavg | Algorithm::Fedprox, Some(norm_bound), _) => Rule::BoundedMean {
                norm_bound,
                base: base
                    .ok_or_else(|| failure::bug("a bounded average without what the round started from"))?,
            },
            (Algorithm::Fedavg | Algorithm::Fedprox, None, _) => Rule::Mean,
        },
    )
}

/// The weights that the round started from, as a file in `folder`.
fn fetch_base(folder: &Path, task: &Task, base: &Base, context: &TaskContext) -> Result<PathBuf, Failure> {
    let file = folder.join("base.safetensors");
    match &base.weights {
        Weights::Average { artifact } => context.download_updates(&[(artifact, &*file)])?,
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
