//! plan-verify: every site plans, and all must have planned the same.

use std::collections::BTreeMap;

use schemas::{
    event::{Event, Release},
    names::Phase,
    task::{ArtifactRef, Failure, Pooled, TaskInput, TaskOutput},
};
use serde_json::Value;

use super::{
    differ,
    next::{Job, Outputs},
    preprocess,
    record::{Record, ShardState, Step},
    results,
};

/// One site's plans.
pub(super) struct SitePlans {
    /// The site.
    pub site: String,
    /// Digest of its plans.
    pub plans_digest: String,
    /// Digest of its initial weights.
    pub weights_digest: String,
    /// Training cases of the job's fold.
    pub training_cases: u32,
    /// Validation cases of the job's fold.
    pub validation_cases: u32,
    /// Its plans, without dataset_name and image_reader_writer.
    pub plans: Value,
    /// Its initial weights, where the job asks for them.
    pub weights: Option<ArtifactRef>,
    checkpoint_digest: Option<String>,
}

/// The release, from the pooled documents.
pub(super) fn release(job: &Job<'_>, pooled: Pooled) -> Event {
    job.at_sites(Step::once(Phase::PlanVerify, 0), |_| {
        (
            1,
            TaskInput::PlanVerify {
                pooled: pooled.clone(),
            },
        )
    })
}

/// Then the cases are preprocessed, if all sites planned the same. A dry run is finished.
pub(super) fn after(job: &Job<'_>, outputs: &Outputs) -> Result<Event, Failure> {
    let sites = read(outputs);
    let Some((first, others)) = sites.split_first().filter(|_| sites.len() == outputs.len()) else {
        return Err(job.unknown_step());
    };
    same_checkpoint(&sites)?;
    for other in others {
        agree(first, other)?;
    }
    if job.accepted.message.federation.dry_run {
        return Ok(results::without(job));
    }
    preprocess::release(job, first.plans_digest.clone())
}

/// What every site planned, in site order; empty before that is known.
pub(super) fn sites(record: &Record) -> Vec<SitePlans> {
    read(&record.outputs_of(Step::once(Phase::PlanVerify, 0)))
}

/// Training cases of the job's fold, by site; empty before they are known.
pub(super) fn training_cases(record: &Record) -> BTreeMap<String, u32> {
    let cases = |plans: SitePlans| (plans.site, plans.training_cases);
    sites(record).into_iter().map(cases).collect()
}

/// What the sites planned that have answered, in site order, whether it counts or not.
pub(super) fn planned(record: &Record, release: &Release) -> Vec<SitePlans> {
    let done = release
        .work
        .iter()
        .filter_map(|work| match record.shard(release, &work.site, 0) {
            ShardState::Done(output) => Some((work.site.clone(), vec![output.clone()])),
            _ => None,
        });
    read(&done.collect::<Vec<_>>())
}

fn read(outputs: &Outputs) -> Vec<SitePlans> {
    let read = |(site, outputs): &(String, Vec<TaskOutput>)| match &outputs[..] {
        [
            TaskOutput::Plans {
                plans,
                plans_digest,
                weights_digest,
                checkpoint_digest,
                weights,
                training_cases,
                validation_cases,
                ..
            },
        ] => Some(SitePlans {
            site: site.clone(),
            plans_digest: plans_digest.clone(),
            weights_digest: weights_digest.clone(),
            training_cases: *training_cases,
            validation_cases: *validation_cases,
            plans: plans.clone(),
            weights: weights.clone(),
            checkpoint_digest: checkpoint_digest.clone(),
        }),
        _ => None,
    };
    outputs.iter().filter_map(read).collect()
}

/// The plans that a job keeps from a checkpoint, once they are known to be the same; none where it makes its own.
pub(super) fn kept_plans(job: &Job<'_>) -> Option<Value> {
    let first = sites(job.record).into_iter().next();
    first
        .filter(|_| job.accepted.keeps_plans())
        .map(|site| site.plans)
}

/// All sites must hold the same bytes of the checkpoint that the job starts from.
fn same_checkpoint(sites: &[SitePlans]) -> Result<(), Failure> {
    let held: Vec<(&str, &str)> = sites
        .iter()
        .map(|site| (&*site.site, site.checkpoint_digest.as_deref().unwrap_or("none")))
        .collect();
    if held.windows(2).all(|pair| pair[0].1 == pair[1].1) {
        return Ok(());
    }
    let named: Vec<String> = held
        .iter()
        .map(|(site, digest)| format!("{digest} at site {site}"))
        .collect();
    let message = format!(
        "federation.initial_checkpoint: the digest of checkpoint, plans and dataset.json is {}: \
         expected the same at all sites",
        named.join(", ")
    );
    Err(Failure::fatal("checkpoint-differs", message))
}

fn agree(first: &SitePlans, other: &SitePlans) -> Result<(), Failure> {
    let (a, b) = (&first.site, &other.site);
    if first.plans_digest != other.plans_digest {
        let message = match differ::first("plans", &first.plans, &other.plans) {
            Some(found) => format!(
                "{} is {} at site {a} and {} at site {b}",
                found.path, found.left, found.right
            ),
            None => format!(
                "plans_digest is {} at site {a} and {} at site {b}, though the plans read the same",
                first.plans_digest, other.plans_digest
            ),
        };
        return Err(Failure::fatal("plan-differs", message));
    }
    if first.weights_digest != other.weights_digest {
        let message = format!(
            "weights_digest of the initial weights is {} at site {a} and {} at site {b}, from equal plans",
            first.weights_digest, other.weights_digest
        );
        return Err(Failure::fatal("weights-differ", message));
    }
    Ok(())
}
