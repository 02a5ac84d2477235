//! What a site's output must be before it counts.

use schemas::{
    event::{Release, SiteWork},
    job::Payload,
    names::{GLOBAL, ORCHESTRATOR},
    task::{ArtifactRef, Failure, TaskInput, TaskOutput, Validation},
};

use super::{masking, record::Record};
use crate::subjects;

/// Checks a done task's output against what was asked for.
///
/// # Errors
/// What is wrong with it, for the submitter: the site counts as failed.
pub(super) fn output(
    record: &Record,
    release: &Release,
    work: &SiteWork,
    output: &TaskOutput,
) -> Result<(), Failure> {
    if let (TaskInput::TrainRound { base, .. }, TaskOutput::Trained { base: found, .. }) =
        (&work.input, output)
        && found != base.digest()
    {
        let message = format!(
            "it trained from the weights {found:?}: expected {}",
            base.digest()
        );
        return Err(Failure::fatal("stale-base", message));
    }
    content(record, release, work, output).map_err(|reason| Failure::fatal("bad-output", reason))
}

fn content(record: &Record, release: &Release, work: &SiteWork, output: &TaskOutput) -> Result<(), String> {
    use {TaskInput as I, TaskOutput as O};
    let artifact = |name: &str, artifact: &ArtifactRef| check_artifact(name, artifact, release, work);
    match (&work.input, output) {
        (I::Inventory {}, O::Inventory { dataset_json, .. }) if dataset_json.is_object() => Ok(()),
        (I::Scan { .. } | I::Select { .. }, O::FingerprintPart { part }) => artifact("part", part),
        (I::AggregateInventory { .. }, O::PooledDescriptors { dataset_json, .. }) => {
            artifact("dataset_json", dataset_json)
        }
        (I::AggregateScan { .. }, O::PooledScan { scan, request }) => {
            artifact("scan", scan)?;
            artifact("request", request)
        }
        (I::AggregateSelect { .. }, O::PooledFingerprint { fingerprint }) => {
            artifact("fingerprint", fingerprint)
        }
        (
            I::PlanVerify { .. },
            O::Plans {
                checkpoint_digest,
                weights,
                weights_digest,
                ..
            },
        ) => {
            match (starts_from_checkpoint(record), checkpoint_digest) {
                (true, None) => return Err("checkpoint_digest is missing".to_owned()),
                (false, Some(_)) => {
                    let reason = "checkpoint_digest is given, but the job starts from no checkpoint";
                    return Err(reason.to_owned());
                }
                _ => {}
            }
            match (wants_checkpoint_weights(record), weights) {
                (true, Some(weights)) if weights.digest != *weights_digest => Err(format!(
                    "weights.digest is {}: expected weights_digest, {weights_digest}",
                    weights.digest
                )),
                (true, Some(weights)) => artifact("weights", weights),
                (true, None) => Err("weights are missing".to_owned()),
                (false, Some(_)) => Err("weights are given, but the job asks for none".to_owned()),
                (false, None) => Ok(()),
            }
        }
        (I::Preprocess { .. }, O::Preprocessed { .. }) => Ok(()),
        (
            I::TrainRound { .. },
            O::Trained {
                update,
                epochs,
                validation,
                ..
            },
        ) => {
            check_validation(validation)?;
            let expected = if release.pass == 0 {
                epochs_per_round(record)
            } else {
                0
            };
            // A round of limited time may end before its last epoch.
            let least = if limited(record) {
                expected.min(1)
            } else {
                expected
            };
            let found = epochs.len();
            if !(least as usize..=expected as usize).contains(&found) {
                return Err(format!("{found} epochs were reported: expected {expected}"));
            }
            if epochs.iter().any(|epoch| epoch.iterations == 0) {
                return Err("an epoch without iterations was reported".to_owned());
            }
            match update {
                Some(update) if release.pass == 0 => artifact("update", update),
                None if release.pass == 0 => Err("update is missing".to_owned()),
                _ => Ok(()),
            }
        }
        (I::MakeKeys {}, O::Keys { keys }) => masking::check_keys(keys, release, &work.site),
        (I::ShareSecrets { keys }, O::Shared { shares }) => masking::check_sealed(shares, keys, &work.site),
        (I::Unmask { sharers, counted, .. }, O::Unmasked { shares }) => {
            masking::check_told(shares, sharers, counted, &work.site)
        }
        (I::Average { .. }, O::Averaged { global, .. }) => artifact("global", global),
        (I::Results { .. }, O::Results { archive }) => artifact("archive", archive),
        (I::Validate { .. }, O::Validated { scores }) => artifact("scores", scores),
        (I::InspectModel {}, O::Model { .. }) => Ok(()),
        (I::Predict { .. }, O::Predicted { .. }) => Ok(()),
        (
            I::Collect { .. },
            O::Collected {
                archive,
                scores,
                pictures,
                ..
            },
        ) => {
            artifact("archive", archive)?;
            for picture in pictures {
                artifact("picture", &picture.image)?;
            }
            match scores {
                Some(scores) if evaluates(record) => artifact("scores", scores),
                Some(_) => Err("scores are given, but the job asks for none".to_owned()),
                None => Ok(()),
            }
        }
        (input, output) => Err(format!(
            "the output is {}, which answers no task of kind {}",
            kind(output),
            kind(input)
        )),
    }
}

fn check_artifact(
    name: &str,
    artifact: &ArtifactRef,
    release: &Release,
    work: &SiteWork,
) -> Result<(), String> {
    subjects::check_artifact(name, artifact).map_err(|error| error.to_string())?;
    let owner = if work.site == ORCHESTRATOR {
        GLOBAL
    } else {
        &*work.site
    };
    if artifact.owner != owner {
        return Err(format!("{name}.owner is {}: expected {owner}", artifact.owner));
    }
    if artifact.job != release.job {
        return Err(format!(
            "{name}.job is {}: expected {}",
            artifact.job, release.job
        ));
    }
    Ok(())
}

fn check_validation(validation: &Validation) -> Result<(), String> {
    let classes = validation.true_positives.len();
    if validation.false_positives.len() != classes || validation.false_negatives.len() != classes {
        return Err("validation: the counts are of unlike numbers of classes".to_owned());
    }
    Ok(())
}

fn starts_from_checkpoint(record: &Record) -> bool {
    let accepted = record.accepted.as_ref();
    accepted.is_some_and(|accepted| accepted.message.federation.initial_checkpoint.is_some())
}

/// Whether an average has to know the weights of the checkpoint that the job starts from.
fn wants_checkpoint_weights(record: &Record) -> bool {
    let accepted = record.accepted.as_ref();
    starts_from_checkpoint(record)
        && accepted.is_some_and(|accepted| accepted.message.federation.norm_bound.is_some())
}

fn evaluates(record: &Record) -> bool {
    let accepted = record.accepted.as_ref();
    accepted.is_some_and(|accepted| accepted.message.federation.evaluate)
}

fn epochs_per_round(record: &Record) -> u32 {
    match record.accepted.as_ref().map(|accepted| &accepted.message.payload) {
        Some(Payload::Training(training)) => training.epochs_per_round,
        _ => 0,
    }
}

/// Whether a round ends after some time.
fn limited(record: &Record) -> bool {
    let accepted = record.accepted.as_ref();
    accepted.is_some_and(|accepted| accepted.message.federation.round_seconds.is_some())
}

/// The `kind` that an input or output carries in JSON.
fn kind(message: &impl serde::Serialize) -> String {
    let value = serde_json::to_value(message).unwrap_or_default();
    value["kind"].as_str().unwrap_or("unknown").to_owned()
}
