//! train-round: score the global weights, train local epochs, send the update. A scoring pass stops after the score.
//! What a delivery has finished, the next one finds: the score, and each epoch. Passes 2 to 4 are of masked updates: see
//! `masking.rs`.

mod start;

use std::time::Instant;

use nnunet::{
    checkpoint::safetensors,
    network::StateDict,
    train::{EpochLog, Trainer},
    update::Update,
};
use pipeline::{exit::Kind, worker::TaskContext};
use schemas::{
    job::{FoldId, Momentum, TrainingPayload},
    task::{EpochReport, Failure, Task, TaskInput, TaskOutput, Validation},
};

use self::start::{Start, Started, trainer};
use super::{
    Watch, described, failure, masking, mid_round, mid_round::Reached, momentum, protected, replica,
    training, unknown_input,
};
use crate::{memory::KeepFreed, site::Site};

pub use self::start::settings;

/// Runs one task.
pub fn run(site: &Site, task: &Task, context: &TaskContext) -> Result<TaskOutput, Failure> {
    // Of the last round nothing is needed once its average is scored.
    let needed_from = task.key.round + u32::from(task.key.pass == 1);
    mid_round::forget_before(site, task, needed_from);
    protected::forget_before(site, task, needed_from);
    match &task.input {
        TaskInput::TrainRound { .. } => train(site, task, context),
        TaskInput::MakeKeys {} => masking::make_keys(site, task),
        TaskInput::ShareSecrets { keys } => masking::share(site, task, keys),
        TaskInput::Unmask {
            sharers,
            counted,
            shares,
        } => masking::unmask(site, task, sharers, counted, shares),
        _ => Err(unknown_input(task)),
    }
}

fn train(site: &Site, task: &Task, context: &TaskContext) -> Result<TaskOutput, Failure> {
    let TaskInput::TrainRound {
        pooled,
        plans_digest,
        base,
        previous_update,
        epochs_before,
        total_epochs,
        sharers,
    } = &task.input
    else {
        return Err(unknown_input(task));
    };
    if task.key.pass == 0
        && let Some(sent) = protected::send_again(site, task, context)?
    {
        return Ok(sent);
    }
    replica::check(site, task, &described(site, task))?;
    let _kept = KeepFreed::start();
    let start = Start {
        pooled,
        plans_digest,
        base,
        previous_update: previous_update.as_deref(),
    };
    let (reached, trained) = match task.key.pass {
        0 => mid_round::load(site, task, base.digest(), start.previous_update),
        _ => None,
    }
    .unzip();
    let Started {
        mut trainer,
        base: base_weights,
        cases,
    } = trainer(site, task, context, &start, trained.flatten(), *total_epochs)?;
    let payload = training(task)?;
    let watch = Watch(context);
    let mut reached = match reached {
        Some(reached) => {
            tracing::info!("goes on behind {} finished epochs", reached.epochs.len());
            reached
        }
        None => {
            let reached = Reached {
                base: base.digest().to_owned(),
                previous_update: previous_update.clone(),
                validation: score(&trainer, task, payload, &watch)?,
                epochs: Vec::new(),
            };
            if task.key.pass > 0 {
                return Ok(TaskOutput::Trained {
                    update: None,
                    epochs: Vec::new(),
                    validation: reached.validation,
                    base: reached.base,
                    update_norm: None,
                });
            }
            mid_round::store(site, task, &reached, &trainer)?;
            reached
        }
    };

    let clock = Instant::now();
    let done = reached.epochs.len() as u32;
    let budget = task.job.message.federation.round_seconds.map(f64::from);
    for epoch in epochs_before + done..epochs_before + payload.epochs_per_round {
        // What earlier deliveries finished counts as they recorded it.
        let spent: f64 = reached.epochs.iter().map(|epoch| epoch.seconds).sum();
        let left = budget.map(|budget| budget - spent);
        if !reached.epochs.is_empty() && left.is_some_and(|left| left <= 0.0) {
            break;
        }
        let begun = Instant::now();
        let enough = || left.is_some_and(|left| begun.elapsed().as_secs_f64() >= left);
        let log = trainer
            .train_until(epoch as usize, &enough, &|| clock.elapsed().as_secs_f64(), &watch)
            .map_err(failure::of_error)?;
        measure(task, context, &log);
        tracing::info!(
            epoch,
            "train_loss {:.4}, learning rate {:.6}, {} iterations in {:.1} s (load {:.1}, forward {:.1}, \
             backward {:.1}, optimise {:.1})",
            log.loss,
            log.learning_rate,
            log.iterations,
            begun.elapsed().as_secs_f64(),
            log.seconds.load,
            log.seconds.forward,
            log.seconds.backward,
            log.seconds.optimise,
        );
        reached.epochs.push(EpochReport {
            epoch,
            learning_rate: log.learning_rate,
            train_loss: log.loss,
            iterations: log.iterations as u32,
            seconds: begun.elapsed().as_secs_f64(),
        });
        mid_round::store(site, task, &reached, &trainer)?;
        context.finished("epochs", reached.epochs.len());
    }

    let weights = trainer.weights().map_err(failure::of_error)?;
    if let Err(useless) = check_trained(&weights, &base_weights) {
        // Another attempt must not go on from what is no training.
        mid_round::forget_before(site, task, task.key.round + 1);
        return Err(useless);
    }
    let update_norm = weights.distance(&base_weights);
    let mut kept = trainer.momentum().map_err(failure::of_error)?;
    let momentum = match task.job.message.federation.momentum {
        Momentum::Average => std::mem::take(&mut kept.buffers),
        Momentum::Keep | Momentum::Reset => StateDict::new(),
    };
    if protected::protects(task) {
        protected::check_length(task, update_norm)?;
        let file = protected::update(site, task)?;
        let weights = protected::hide(site, task, weights, &base_weights)?;
        let digest = match task.job.message.federation.secure_aggregation {
            Some(_) => masking::mask(site, task, &weights, masking::counts(task, cases), sharers, &file)?,
            None => safetensors::write(&weights, &file).map_err(failure::of_error)?,
        };
        momentum::store(site, task, &kept, &digest, start.previous_update)?;
        let output = TaskOutput::Trained {
            update: None,
            epochs: reached.epochs,
            validation: reached.validation,
            base: reached.base,
            update_norm: None,
        };
        return protected::keep_and_send(site, task, context, output);
    }
    let bytes = Update { weights, momentum }
        .into_bytes()
        .map_err(failure::of_error)?;
    let digest = safetensors::digest(&bytes);
    // The momentum is there before the update is: a round can never start from an update without it.
    momentum::store(site, task, &kept, &digest, start.previous_update)?;
    let update = context.send_digested(Kind::Weights, bytes, digest)?;
    Ok(TaskOutput::Trained {
        update: Some(update),
        epochs: reached.epochs,
        validation: reached.validation,
        base: reached.base,
        update_norm: Some(update_norm),
    })
}

/// Counts an epoch's iterations, and where its time went.
fn measure(task: &Task, context: &TaskContext, log: &EpochLog) {
    let (metrics, site) = (context.metrics(), &*task.key.site);
    metrics
        .train_iterations
        .with_label_values(&[site])
        .inc_by(log.iterations as f64);
    for (stage, seconds) in [
        ("load", log.seconds.load),
        ("forward", log.seconds.forward),
        ("backward", log.seconds.backward),
        ("optimise", log.seconds.optimise),
    ] {
        metrics
            .train_stage_seconds
            .with_label_values(&[site, stage])
            .inc_by(seconds.max(0.0));
    }
}

/// Refuses weights that no average may count.
fn check_trained(weights: &StateDict, base: &StateDict) -> Result<(), Failure> {
    weights
        .check_finite()
        .map_err(|error| Failure::fatal("nan-weights", failure::of_error(error).message))?;
    if weights == base {
        return Err(Failure::fatal(
            "unchanged-weights",
            "training left the weights as they were",
        ));
    }
    Ok(())
}

/// How the global weights do on the site's validation cases.
fn score(
    trainer: &Trainer,
    task: &Task,
    payload: &TrainingPayload,
    watch: &Watch,
) -> Result<Validation, Failure> {
    let counts = trainer
        .validate(task.key.round as usize, watch)
        .map_err(failure::of_error)?;
    Ok(Validation {
        loss: counts.loss(),
        true_positives: counts.true_positives,
        false_positives: counts.false_positives,
        false_negatives: counts.false_negatives,
        on_training_cases: payload.fold_id == FoldId::All,
    })
}

#[cfg(test)]
mod tests {
    use nnunet::network::Tensor32;

    use super::*;

    #[test]
    fn what_is_no_training_is_refused_by_name() {
        let weights = |values: [f32; 2]| {
            let mut weights = StateDict::new();
            let tensor = Tensor32::new(vec![2], values.to_vec()).unwrap();
            weights.insert("encoder.weight", tensor).unwrap();
            weights
        };
        let code = |values| {
            check_trained(&weights(values), &weights([0.5, 1.0])).map_err(|failure| {
                assert!(!failure.retryable);
                failure.code
            })
        };
        assert_eq!(code([0.5, 1.25]), Ok(()));
        assert_eq!(code([0.5, f32::NAN]), Err("nan-weights".to_owned()));
        assert_eq!(code([f32::INFINITY, 1.0]), Err("nan-weights".to_owned()));
        assert_eq!(code([0.5, 1.0]), Err("unchanged-weights".to_owned()));
    }
}
