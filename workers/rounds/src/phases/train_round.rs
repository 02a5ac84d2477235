//! train-round: score the global weights, train local epochs, send the update. A scoring pass stops after the score.
//! What a delivery has finished, the next one finds: the score, and each epoch. Passes 2 to 4 are of masked updates: see
//! `masking.rs`.

use std::{sync::Arc, time::Instant};

use nnunet::{
    checkpoint::safetensors,
    device,
    network::StateDict,
    preprocess::StoredCases,
    train::{EpochLog, MomentumState, Trainer, TrainerSettings, TrainerVariant},
    update::Update,
};
use pipeline::{exit::Kind, worker::TaskContext};
use schemas::{
    job::{FoldId, Momentum, TrainingPayload, Weighting},
    task::{EpochReport, Failure, Pooled, Task, TaskInput, TaskOutput, Validation, Weights},
};

use super::{
    Watch,
    average::fetch_average,
    described, failure, initial, masking, mid_round,
    mid_round::{Reached, Trained},
    momentum,
    planned::Planned,
    preprocess::cases_of,
    protected, replica, training, unknown_input,
};
use crate::{memory::KeepFreed, site::Site};

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
        check_length(task, update_norm)?;
        let file = protected::update(site, task)?;
        let weights = protected::hide(site, task, weights, &base_weights)?;
        let digest = match task.job.message.federation.secure_aggregation {
            Some(_) => masking::mask(site, task, &weights, counts(task, cases), sharers, &file)?,
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
    let update = context.send(Kind::Weights, bytes)?;
    Ok(TaskOutput::Trained {
        update: Some(update),
        epochs: reached.epochs,
        validation: reached.validation,
        base: reached.base,
        update_norm: Some(update_norm),
    })
}

/// What a masked update counts; the orchestrator divides by the same.
fn counts(task: &Task, cases: usize) -> u64 {
    match task.job.message.federation.weighting {
        Weighting::Cases => cases as u64,
        Weighting::Iterations | Weighting::Equal => 1,
    }
}

/// Refuses an update that is longer than the job allows, where nobody else can look at it.
fn check_length(task: &Task, norm: f64) -> Result<(), Failure> {
    let secure = task.job.message.federation.secure_aggregation.as_ref();
    match secure.and_then(|secure| secure.largest_norm) {
        Some(largest) if norm > largest => Err(Failure::fatal(
            "update-too-long",
            format!(
                "the round added {norm:.4} (L2) to the weights: federation.secure_aggregation.largest_norm is {largest}"
            ),
        )),
        _ => Ok(()),
    }
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

struct Start<'a> {
    pooled: &'a Pooled,
    plans_digest: &'a str,
    base: &'a Weights,
    previous_update: Option<&'a str>,
}

/// What a round's training begins with.
struct Started {
    trainer: Trainer,
    /// The weights that the round starts from.
    base: StateDict,
    /// Training cases.
    cases: usize,
}

/// The trainer of this round, behind what is `trained` of it.
fn trainer(
    site: &Site,
    task: &Task,
    context: &TaskContext,
    start: &Start,
    trained: Option<Trained>,
    total_epochs: u32,
) -> Result<Started, Failure> {
    let payload = training(task)?;
    let federation = &task.job.message.federation;
    let dataset = site.dataset(task)?;
    let planned = initial::planned(site, task, context, start.pooled, &dataset)?;
    planned.must_be(start.plans_digest)?;
    let base = base(site, task, context, &planned, start.base)?;
    let momentum = match &trained {
        Some(_) => MomentumState::default(),
        None => momentum::load(site, task, start.previous_update, base.momentum)?,
    };
    planned.must_fit(site, task)?;
    let split = site.split(&dataset, payload.fold_id)?;
    let cases = split.train.len();
    let folder = cases_of(site, task, context, &dataset, &planned, &split)?;
    let open = |identifiers: Vec<String>| StoredCases::open(&folder, identifiers).map(Arc::new);
    let settings = settings(site, task, planned, total_epochs)?;
    let make = || {
        let (train, val) = (open(split.train)?, open(split.val)?);
        let mut trainer = Trainer::new(settings, train, val, &base.weights, &momentum)?;
        if let Some(mu) = federation.fedprox_mu {
            trainer = trainer.with_proximal_term(mu)?;
        }
        match trained {
            Some(Trained { weights, momentum }) => trainer.resume(&weights, &momentum),
            None => Ok(trainer),
        }
    };
    let trainer = make().map_err(failure::of_error)?;
    Ok(Started {
        trainer,
        base: base.weights,
        cases,
    })
}

/// How a job trains at a site.
pub fn settings(
    site: &Site,
    task: &Task,
    planned: Planned,
    total_epochs: u32,
) -> Result<TrainerSettings, Failure> {
    let federation = &task.job.message.federation;
    let payload = training(task)?;
    Ok(TrainerSettings {
        variant: *TrainerVariant::by_name(&payload.trainer_name).map_err(failure::of_error)?,
        device: device_of(site, task)?,
        seed: task.job.seed,
        site: task.key.site.clone(),
        iterations_per_epoch: federation.iterations_per_epoch as usize,
        val_iterations_per_epoch: federation.val_iterations_per_epoch as usize,
        total_epochs: total_epochs as usize,
        bfloat16: federation.bfloat16,
        micro_batch: site.settings.micro_batch,
        threads: site.settings.threads,
        loader_threads: site.settings.threads.min(8),
        configuration: payload.model_configuration.as_str().to_owned(),
        plans: planned.plans,
        dataset_json: planned.dataset_json,
    })
}

/// The global weights by their source, with the averaged momentum where there is one.
fn base(
    site: &Site,
    task: &Task,
    context: &TaskContext,
    planned: &Planned,
    weights: &Weights,
) -> Result<Update, Failure> {
    match weights {
        Weights::Average { artifact } => fetch_average(context, planned, artifact),
        Weights::Initial { digest } => {
            let weights = initial::weights(site, task, context, planned)?;
            let made = digest_of(&weights);
            if made != *digest {
                let reason = format!("the initial weights made here have digest {made}, the job's {digest}");
                return Err(Failure::fatal("weights-differ", reason));
            }
            Ok(Update {
                weights,
                momentum: StateDict::new(),
            })
        }
    }
}

fn digest_of(weights: &StateDict) -> String {
    safetensors::digest(&safetensors::to_bytes(weights))
}

/// The device that the job gives this site.
pub fn device_of(site: &Site, task: &Task) -> Result<schemas::job::Device, Failure> {
    let member = task
        .job
        .members
        .iter()
        .find(|member| member.site == task.key.site);
    match member.and_then(|member| member.device) {
        Some(device) => Ok(device),
        None => device::best(&site.settings.devices)
            .ok_or_else(|| Failure::fatal("no-device", "this site's settings list no device")),
    }
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
