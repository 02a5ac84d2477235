//! The epochs of a training (nnUNetTrainer.run_training).

use std::{path::Path, sync::Arc, time::Instant};

use anyhow::{Context, ensure};
use nnunet::{
    checkpoint::{
        Checkpoint, InitArgs, LoggedEpoch, Logging, OptimiserGroup,
        results::{CHECKPOINT_BEST, CHECKPOINT_FINAL, CHECKPOINT_LATEST},
    },
    network::StateDict,
    preprocess::store::StoredCases,
    train::{MomentumState, Trainer, TrainerSettings},
};
use schemas::nnunet::python_json;
use serde_json::Value;

use super::{experiment::Experiment, log::unix_seconds};
use crate::{
    cli::nnunet::progress::Progress,
    free_memory::{self, Need},
};

/// A checkpoint_latest is written every so many epochs.
const SAVE_EVERY: usize = 50;
/// The name of the site, which keys the random draws.
const SITE: &str = "local";

/// What an epoch starts from.
pub struct State {
    /// How many epochs are completed.
    pub epoch: usize,
    /// The weights.
    pub weights: StateDict,
    /// The optimiser's memory.
    pub momentum: MomentumState,
    /// The curves so far.
    pub logging: Logging,
    /// The best moving average of the pseudo Dice.
    pub best_ema: Option<f64>,
}

impl State {
    /// A new training.
    pub fn new(weights: StateDict) -> Self {
        Self {
            epoch: 0,
            weights,
            momentum: MomentumState::default(),
            logging: Logging::default(),
            best_ema: None,
        }
    }

    /// A training that goes on where `file` was written.
    pub fn of_checkpoint(checkpoint: Checkpoint, file: &Path) -> anyhow::Result<Self> {
        let Checkpoint {
            weights,
            momentum,
            scaler,
            mut logging,
            best_ema,
            current_epoch,
            ..
        } = checkpoint;
        ensure!(
            logging.epochs() >= current_epoch,
            "{}: current_epoch is {current_epoch}, but the curves cover {} epochs",
            file.display(),
            logging.epochs()
        );
        logging.truncate(current_epoch);
        let momentum = MomentumState {
            buffers: momentum,
            scaler,
        };
        Ok(Self {
            epoch: current_epoch,
            weights,
            momentum,
            logging,
            best_ema,
        })
    }
}

/// Trains the epochs that are left, and writes what nnU-Net writes. Returns the last weights.
pub fn train(experiment: &mut Experiment, mut state: State) -> anyhow::Result<StateDict> {
    let total = experiment.variant.epochs;
    experiment.describe()?;
    if state.epoch >= total {
        experiment
            .log
            .line(format!("All {total} epochs are done already."))?;
        return Ok(state.weights);
    }
    experiment.write_documents()?;
    let mut trainer = trainer(experiment, &state)?;
    let progress = Progress::new(false, false);
    let clock = Instant::now();
    for epoch in state.epoch..total {
        let start = unix_seconds();
        experiment.log.line("")?;
        experiment.log.line(format!("Epoch {epoch}"))?;
        let variant = &experiment.variant;
        let lr = variant
            .schedule
            .learning_rate(variant.initial_learning_rate, epoch, total);
        experiment
            .log
            .line(format!("Current learning rate: {}", rounded(lr, 5)))?;
        let trained = trainer.train_epoch(epoch, &|| clock.elapsed().as_secs_f64(), &progress)?;
        let counts = trainer.validate(epoch, &progress)?;
        let end = unix_seconds();

        let dice: Vec<f64> = counts.dice().iter().map(|&dice| dice.into()).collect();
        let shown: Vec<String> = dice.iter().map(|&dice| rounded(dice, 4)).collect();
        let ema = state.logging.record(LoggedEpoch {
            dice_per_class_or_region: dice,
            train_loss: trained.loss,
            val_loss: counts.loss(),
            lr: trained.learning_rate,
            start,
            end,
        });
        let log = &mut experiment.log;
        log.line(format!("train_loss {}", rounded(trained.loss, 4)))?;
        log.line(format!("val_loss {}", rounded(counts.loss(), 4)))?;
        log.line(format!("Pseudo dice [{}]", shown.join(", ")))?;
        let seconds = trained.seconds;
        log.line(format!(
            "Epoch time: {:.2} s (load {:.2}, forward {:.2}, backward {:.2}, optimise {:.2})",
            end - start,
            seconds.load,
            seconds.forward,
            seconds.backward,
            seconds.optimise
        ))?;
        if trained.skipped_steps > 0 {
            log.line(format!(
                "{} steps left out: gradients overflowed",
                trained.skipped_steps
            ))?;
        }

        state.epoch = epoch + 1;
        if state.epoch.is_multiple_of(SAVE_EVERY) && state.epoch != total {
            save(experiment, &mut state, &trainer, CHECKPOINT_LATEST)?;
        }
        if state.best_ema.is_none_or(|best| ema > best) {
            state.best_ema = Some(ema);
            experiment
                .log
                .line(format!("Yayy! New best EMA pseudo Dice: {}", rounded(ema, 4)))?;
            save(experiment, &mut state, &trainer, CHECKPOINT_BEST)?;
        }
        experiment.results.write_progress(&state.logging, true)?;
    }
    save(experiment, &mut state, &trainer, CHECKPOINT_FINAL)?;
    let latest = experiment.results.fold.join(CHECKPOINT_LATEST);
    if experiment.checkpoints && latest.is_file() {
        std::fs::remove_file(&latest).with_context(|| format!("{}", latest.display()))?;
    }
    experiment.log.line("Training done.")?;
    Ok(trainer.weights()?)
}

fn trainer(experiment: &Experiment, state: &State) -> anyhow::Result<Trainer> {
    let need = Need {
        variant: &experiment.variant,
        configuration: &experiment.configuration,
        layout: &experiment.layout,
        device: experiment.device,
        bfloat16: experiment.bfloat16,
        micro_batch: experiment.micro_batch,
    };
    need.check(free_memory::of_device(experiment.device))
        .map_err(anyhow::Error::msg)?;
    let settings = TrainerSettings {
        plans: experiment.plans.clone(),
        configuration: experiment.configuration_name.clone(),
        dataset_json: experiment.dataset_json.clone(),
        variant: experiment.variant,
        device: experiment.device,
        seed: experiment.seed,
        site: SITE.into(),
        iterations_per_epoch: experiment.iterations,
        val_iterations_per_epoch: experiment.val_iterations,
        total_epochs: experiment.variant.epochs,
        bfloat16: experiment.bfloat16,
        micro_batch: experiment.micro_batch,
        threads: experiment.threads,
        loader_threads: experiment.loader_threads,
    };
    let open =
        |identifiers: &[String]| StoredCases::open(&experiment.cases, identifiers.to_vec()).map(Arc::new);
    let (train, val) = (open(&experiment.split.train)?, open(&experiment.split.val)?);
    Ok(Trainer::new(
        settings,
        train,
        val,
        &state.weights,
        &state.momentum,
    )?)
}

/// Writes a checkpoint of the state, with the weights and the momentum that the trainer has now.
fn save(experiment: &mut Experiment, state: &mut State, trainer: &Trainer, name: &str) -> anyhow::Result<()> {
    if !experiment.checkpoints {
        return experiment
            .log
            .line("No checkpoint written, checkpointing is disabled");
    }
    let momentum = trainer.momentum()?;
    let checkpoint = Checkpoint {
        weights: trainer.weights()?,
        momentum: momentum.buffers,
        scaler: momentum.scaler,
        optimiser: OptimiserGroup::of(&experiment.variant, state.logging.lrs.last().copied()),
        logging: state.logging.clone(),
        best_ema: state.best_ema,
        current_epoch: state.epoch,
        init_args: InitArgs {
            plans: experiment.plans.to_value(),
            configuration: experiment.configuration_name.clone(),
            fold: experiment.fold,
            dataset_json: Value::Object(experiment.dataset_json.document().clone()),
        },
        trainer_name: experiment.variant.name.to_owned(),
        mirror_axes: experiment.variant.mirroring.axes(experiment.layout.dimensions()),
    };
    experiment
        .results
        .write_checkpoint(name, &checkpoint, &experiment.layout)?;
    Ok(())
}

/// A number as nnU-Net's log shows it.
fn rounded(value: f64, digits: i32) -> String {
    let scale = 10f64.powi(digits);
    let rounded = (value * scale).round_ties_even() / scale;
    if rounded.is_nan() {
        "nan".into()
    } else {
        python_json::repr(rounded)
    }
}
